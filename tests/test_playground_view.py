"""The widget without a browser: what it answers to controls, uploads and mistakes."""

import threading

import pytest
import tiny_pipelines
from judge_standins import judge_folder
from jupyter_client.manager import start_new_kernel
from PIL import Image

pytest.importorskip("anywidget", reason="needs anywidget: pip install -e '.[notebooks]'")


from emolib import images
from emolib.editors.recipe import load_recipe
from emolib.judges import emotion as judges
from emolib.playground import controls, pictures
from emolib.playground.session import Steps
from emolib.playground.widget import STRIP, Playground
from emolib.runtime import InputError

SECONDS = 120


def load(name):
    if name != "minisd":
        raise InputError(f"{name}: the Hub cannot be reached; take minisd")
    return tiny_pipelines.tiny("sd")


@pytest.fixture
def play(monkeypatch, tmp_path):
    judge_folder(tmp_path / "judge")
    judge = judges.load_judge(tmp_path / "judge", device="cpu")
    monkeypatch.setattr(pictures, "judge", lambda role, device: judge)
    # The tiny model hears too badly for a method that keeps what it can of the picture.
    play = Playground("scene 0", method="img2img", steps=Steps(1, 2), load=load, folder=tmp_path / "out")
    assert play.worker.idle(SECONDS)
    yield play
    play.close()


def ask(play, *wishes, **changes):
    """What the page does when a control is moved; returns what is shown then."""
    wanted = [{"emotion": emotion, "strength": strength} for emotion, strength in wishes]
    play.ask = play.ask | {"wishes": wanted} | changes
    assert play.worker.idle(SECONDS)
    return play.shown


def test_it_starts_with_the_picture_and_waits_for_wishes(play):
    assert play.scene["name"] == "scene 0" and len(play.scene["people"]) == 2
    assert images.open_image(play.scene["before"]).size == (play.scene["width"], play.scene["height"])
    assert play.shown == {} and play.status["error"] == ""


def test_a_wish_is_answered_in_full_quality_with_bars_and_a_strip(play):
    qualities = []
    play.observe(lambda change: qualities.append(change["new"].get("quality")), "shown")
    shown = ask(play, ("awe", 0.5), (None, 0.5))
    assert qualities == ["preview", "full"]
    assert shown["ask"] == play.ask
    assert len(shown["bars"]["before"]) == len(shown["bars"]["after"]) == 9
    assert shown["after"] != play.scene["before"]
    assert [item["strength"] for item in play.strip["items"]] == list(STRIP)
    assert play.status == {"share": 1.0, "text": "", "error": ""}


def test_what_was_asked_before_is_shown_at_once(play):
    first = ask(play, ("awe", 0.5), (None, 0.5))
    ask(play, ("anger", 0.5), (None, 0.5))
    again = ask(play, ("awe", 0.5), (None, 0.5))
    assert again["after"] == first["after"] and "nothing to compute" in again["cost"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model": "sd15"}, "sd15: the Hub cannot be reached"),
        ({"method": "magic"}, "unknown method"),
        ({"picture": "scene 99999"}, "99999"),
        ({"seed": -1}, "seed must"),
    ],
)
def test_mistakes_are_one_line_and_the_next_request_is_answered(play, change, says):
    ask(play, ("awe", 0.5), (None, 0.5), **change)
    assert says in play.status["error"] and "\n" not in play.status["error"]
    kept = {"model": "minisd", "method": "img2img", "picture": "scene 0", "seed": 0}
    assert ask(play, ("anger", 0.5), (None, 0.5), **kept)["ask"] == play.ask
    assert play.status["error"] == ""


def test_out_of_memory_says_what_to_lower(play, monkeypatch):
    def full(*_, **__):
        raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB\nmore")

    monkeypatch.setattr(play.session, "edit", full)
    ask(play, ("awe", 0.5), (None, 0.5))
    assert play.status["error"].startswith("out of memory: take fewer steps")


def test_uploads(play, tmp_path):
    play._handle_custom_msg({"kind": "upload", "name": "bad.png"}, [memoryview(b"nothing")])
    assert play.worker.idle(SECONDS)
    assert play.status["error"].startswith("bad.png: not a picture")
    assert play.scene["name"] == "scene 0"
    Image.new("RGB", (60, 40), "teal").save(tmp_path / "wall.png")
    data = memoryview((tmp_path / "wall.png").read_bytes())
    play._handle_custom_msg({"kind": "upload", "name": "wall.png"}, [data])
    assert play.worker.idle(SECONDS)
    assert play.scene["name"] == "wall.png" and len(play.scene["people"]) == 1
    ask(play, ("awe", 0.5), picture="wall.png")
    assert play.status["error"] == "wall.png: no face found; the middle square is person 1"
    assert play.shown["ask"] == play.ask


def test_save_writes_the_picture_and_its_recipe(play):
    shown = ask(play, ("awe", 0.5), ("anger", 0.4), method="direct", via=True)
    play._handle_custom_msg({"kind": "save"}, [])
    assert play.worker.idle(SECONDS)
    (path,) = play.folder.glob("*.json")
    assert f"emolib edit --from {path}" in play.status["text"]
    saved = load_recipe(path)
    assert saved.recipe.via == "neutral" and saved.recipe.people[1].emotion == "anger"
    assert (
        images.open_image(path.with_suffix(".png")).tobytes() == images.open_image(shown["after"]).tobytes()
    )


def test_a_save_is_written_whatever_is_asked_next(play, monkeypatch):
    edit, busy, go = play.session.edit, threading.Event(), threading.Event()

    def slowly(*given, watch=lambda: None, **options):
        busy.set()
        assert go.wait(SECONDS)
        watch()
        return edit(*given, watch=watch, **options)

    monkeypatch.setattr(play.session, "edit", slowly)
    wanted = [{"emotion": emotion, "strength": 0.4} for emotion in ("awe", "anger")]
    play.ask = play.ask | {"wishes": wanted}
    assert busy.wait(SECONDS)
    play._handle_custom_msg({"kind": "save"}, [])
    play.ask = play.ask | {"wishes": [{"emotion": "fear", "strength": 0.8}, wanted[1]]}
    go.set()
    assert play.worker.idle(SECONDS)
    (path,) = play.folder.glob("*.json")
    assert [person.emotion for person in load_recipe(path).recipe.people] == ["awe", "anger"]
    assert play.shown["ask"] == play.ask and path.with_suffix(".png").exists()


def test_live_where_a_front_end_can_ask_its_person():
    assert not controls.is_live()  # no notebook at all
    manager, client = start_new_kernel(kernel_name="python3")
    said = []
    try:
        for stdin in (True, False):  # JupyterLab says True; papermill, nbclient and nbconvert False
            client.execute_interactive(
                "from emolib.playground import controls; print(controls.is_live())",
                allow_stdin=stdin,
                output_hook=lambda message: said.append(message["content"].get("text", "").strip()),
                timeout=SECONDS,
            )
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert [text for text in said if text] == ["True", "False"]
