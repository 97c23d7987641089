"""The playground without a browser: memory, kept edits, cancellation, what controls mean, and the page."""

import io
import json

import numpy as np
import pytest
import tiny_pipelines
import torch
from bs4 import BeautifulSoup
from judge_standins import judge_folder
from PIL import Image
from playground_standins import EMOTIONS, STRENGTHS, blobs, frames, still_html, still_page

from emolib import images
from emolib.course import pages
from emolib.editors.person import Person
from emolib.editors.recipe import Recipe, apply_recipe
from emolib.judges import emotion as judges
from emolib.playground import controls, pictures, session, still
from emolib.playground.controls import METHODS
from emolib.playground.session import Recent, Remembered, Session, Superseded, digest
from emolib.runtime import InputError

SECONDS = 60


@pytest.fixture(scope="module")
def model():
    return tiny_pipelines.tiny("sd")


@pytest.fixture
def play(model):
    return Session(lambda name: model)


@pytest.fixture(scope="module")
def picture():
    (image,) = images.to_pil(tiny_pipelines.pictures(1, side=64))
    people = (Person((0, 0, 30, 30)), Person((34, 34, 64, 64)))
    return pictures.Picture("noise", image, people)


def wish(picture, k=0, emotion="awe", strength=0.6, **options):
    rest = Recipe(
        picture.people, **({"method": "img2img", "model": "sd", "num_inference_steps": 5} | options)
    )
    return rest.with_wish(k, emotion, strength)


# -- memory


def test_recent_keeps_the_most_recently_used():
    made, kept = [], Recent(2)
    for key in "abacab":
        kept.get(key, lambda key=key: made.append(key))
    assert made == ["a", "b", "c", "b"] and len(kept) == 2


def test_digest_tells_shape_type_and_contents_apart():
    x = torch.arange(6.0)
    assert digest(x) == digest(x.clone())
    assert len({digest(y) for y in (x, x + 1, x.view(2, 3), x.double(), x[:5])}) == 5
    assert digest(x.view(2, 3).T) == digest(x.view(2, 3).T.contiguous())


@pytest.mark.parametrize("method", METHODS)
def test_edits_from_memory_are_those_without_bit_for_bit(play, picture, model, method):
    for strength in (0.4, 0.8):
        done = wish(picture, strength=strength, method=method)
        edited, _ = play.edit(picture, done)
        assert torch.equal(edited, apply_recipe(done, model, picture.pixels))


@pytest.mark.parametrize("method", ["ddim", "negative-prompt", "edit-friendly", "direct"])
def test_the_inversion_is_asked_once_whatever_strength_and_emotion(play, picture, method):
    _, strong = play.edit(picture, wish(picture, strength=0.8, method=method))
    assert (strong.asked, strong.remembered) == (8, 0)  # four steps up, four down
    _, weak = play.edit(picture, wish(picture, strength=0.4, method=method))
    assert (weak.asked, weak.remembered) == (4, 2)  # the way up is known
    _, other = play.edit(picture, wish(picture, strength=0.8, emotion="anger", method=method))
    assert (other.asked, other.remembered) == (8, 4)


def test_methods_share_an_inversion(play, picture):
    play.edit(picture, wish(picture, method="ddim"))
    _, cost = play.edit(picture, wish(picture, method="negative-prompt", emotion="fear"))
    assert cost.remembered == 3


def test_attention_control_is_never_answered_from_memory(play, picture):
    play.edit(picture, wish(picture, method="prompt-to-prompt", strength=0.8))
    _, cost = play.edit(picture, wish(picture, method="prompt-to-prompt", strength=0.4))
    assert cost.remembered == 0


def test_questions_under_autograd_are_not_remembered(model):
    remembered = Remembered(model)
    text, z = remembered.embed("a"), torch.zeros(1, 4, 16, 16)
    for _ in range(2):
        remembered.predict(z, 3, text)
    assert (remembered.asked, remembered.remembered) == (2, 0)
    with torch.no_grad():
        first, second = (remembered.predict(z, 3, text) for _ in range(2))
    assert remembered.remembered == 1 and torch.equal(first.eps, second.eps)


# -- kept edits, cancellation, progress


def test_what_was_made_costs_nothing(play, picture):
    both = wish(picture).with_wish(1, "anger", 0.6)
    play.edit(picture, both)
    _, again = play.edit(picture, both)
    assert again.asked == 0 and play.made(picture, both)
    _, cost = play.edit(picture, both.with_wish(1, "fear", 0.6))
    assert cost.asked == 3  # person 1 is kept
    assert not play.made(picture, both.with_wish(0, "fear", 0.6))


def test_cancelled_between_two_questions_and_what_was_answered_is_kept(play, picture):
    done, steps = wish(picture, method="ddim", strength=0.8), []

    def watch():
        if len(steps) == 3:
            raise Superseded
        steps.append(1)

    with pytest.raises(Superseded):
        play.edit(picture, done, watch=watch)
    assert len(steps) == 3 and not play.made(picture, done)
    edited, cost = play.edit(picture, done)
    assert cost.remembered == 3
    assert torch.equal(edited, apply_recipe(done, tiny_pipelines.tiny("sd"), picture.pixels))


@pytest.mark.parametrize("method", METHODS)
def test_progress_rises_and_ends_near_the_end(play, picture, method):
    shares = []
    play.edit(picture, wish(picture, strength=1.0, method=method), progress=shares.append)
    assert shares == sorted(shares) and shares[0] == 0 and 0.75 <= shares[-1] <= 1


def test_models_are_loaded_once(picture, model):
    loads = []
    play = Session(lambda name: loads.append(name) or model)
    for method in ("img2img", "prompt-to-prompt", "img2img"):
        play.model("sd", method)
    assert loads == ["sd"] and play.loaded == {"sd"}


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (InputError("no such thing; mend it"), "no such thing; mend it"),
        (RuntimeError("CUDA out of memory. Tried\nmore"), "out of memory: take fewer steps"),
        (MemoryError(), "out of memory: take fewer steps"),
        (KeyError("x"), "KeyError: 'x'"),
        (ValueError(), "ValueError: "),
    ],
)
def test_errors_are_one_line(error, line):
    said = session.one_line(error)
    assert said.startswith(line) and "\n" not in said


# -- controls and pictures


def test_controls_become_a_recipe():
    people = (Person((0, 0, 8, 8), description="man", source_emotion="fear"), Person((8, 0, 16, 8)))
    ask = controls.first_ask("scene 0", "exact", "sd15", 3) | {"via": True}
    ask["wishes"] = [
        {"emotion": "awe", "strength": 0.4},
        {"emotion": "", "strength": 1, "description": " old man "},
    ]
    assert controls.recipe_of(json.loads(json.dumps(ask)), people, 9) == Recipe(
        (
            Person((0, 0, 8, 8), "awe", "fear", "man", 0.4),
            Person((8, 0, 16, 8), None, None, "old man", 1.0),
        ),
        method="exact",
        model="sd15",
        num_inference_steps=9,
        seed=3,
        via="neutral",
    )
    for change in ({"method": "magic"}, {"seed": -1}, {"wishes": []}):
        with pytest.raises(InputError):
            controls.recipe_of(ask | change, people, 9)


def test_minisd_is_asked_for_what_it_knows():
    means = {petal["label"]: petal["means"] for petal in controls.petals_of("plutchik", "minisd")}
    assert means["joy"] == "amusement" and means["fear"] == "fear"
    assert means["surprise"] is None  # no single emotion of MiniSD's
    assert all(p["means"] == p["label"] for p in controls.petals_of("plutchik", "sd15"))
    angles = [petal["angle"] for petal in controls.petals_of("mikels", "minisd")]
    assert sorted(angles) == [22.5 + 45 * i for i in range(8)]


def test_emofaces_by_name():
    names = pictures.names(scenes=2, portraits=2)
    assert len(names) == 4
    for name in names:
        opened = pictures.open_named(name)
        width, height = opened.image.size
        assert opened.name == name and opened.truths
        for person in opened.people:
            images.square_box(person.box, height, width)
        for (k, _), truth in opened.truths.items():
            assert k < len(opened.people) and truth.shape == opened.pixels.shape
    for name in ("scene x", "scene 100000", "nobody"):
        with pytest.raises(InputError):
            pictures.open_named(name)


def test_uploads_are_opened_scaled_and_searched_for_faces(tmp_path):
    stream = io.BytesIO()
    Image.new("RGB", (1600, 800), "teal").save(stream, "PNG")
    (tmp_path / "wall.png").write_bytes(stream.getvalue())
    assert pictures.open_named(str(tmp_path / "wall.png")).name == "wall.png"
    opened = pictures.open_upload("wall.png", stream.getvalue())
    assert opened.image.size == (768, 384)
    assert [person.box for person in opened.people] == [(192, 0, 576, 384)]
    assert opened.note == "wall.png: no face found; the middle square is person 1"
    with pytest.raises(InputError, match=r"^bad\.png: not a picture"):
        pictures.open_upload("bad.png", b"nothing")


# -- the page without a kernel


def test_the_page_holds_every_edit_and_loads_nothing():
    soup = BeautifulSoup(still_page(), "html.parser")
    assert pages.cut_loads(soup) == []
    script = soup.find("script").string
    data = json.JSONDecoder().raw_decode(script, script.index('{"setup"'))[0]
    assert {k: list(v) for k, v in data["frames"].items()} == {k: list(EMOTIONS) for k in "01"}
    assert data["setup"]["strengths"] == [0.0, *STRENGTHS] and not data["setup"]["live"]
    (image,) = soup.select(".emolib-still img")
    assert image["src"].startswith("data:image/webp")  # for those who run no scripts
    assert "</script" not in script


def test_a_patch_shows_only_what_differs():
    picture = blobs()
    source = images.crop(picture.pixels, picture.people[0].box)
    patch = source.clone()
    patch[..., :5, :] = -1
    where = still.differs(patch, source)
    assert where[:5].all() and not where[5:].any()
    opacity = np.asarray(still.cut_out(patch, where).getchannel("A"))
    assert (opacity[:5] == 255).all() and not opacity[5:].any()


def test_an_edit_without_a_true_picture_says_so():
    frame = frames(blobs())[0]
    assert "20.0 dB" in pictures.describe_distance(frame.truth)
    assert "no true picture" in pictures.describe_distance(None)


def test_a_page_that_grows_too_large_is_refused(monkeypatch):
    monkeypatch.setattr(still, "LIMIT", 1000)
    with pytest.raises(InputError, match="fewer emotions or strengths"):
        still_html()


def test_frames_are_the_live_edits(play, picture, monkeypatch, tmp_path):
    judge_folder(tmp_path)
    judge = judges.load_judge(tmp_path, device="cpu")
    monkeypatch.setattr(pictures, "judge", lambda role, device: judge)
    rest = Recipe(picture.people, "img2img", "sd", num_inference_steps=3, seed=2, margin=0.0)
    made = still.frames(play, picture, rest, (0.5, 1.0), ("awe", "anger"))
    assert len(made) == 2 * 2 * 2 and len(frames(picture)) == 12
    for frame in made:
        live, _ = play.edit(picture, rest.with_wish(frame.person, frame.emotion, frame.strength))
        patch = images.crop(live, picture.people[frame.person].box)
        torch.testing.assert_close(frame.patch, patch, atol=1e-3, rtol=0)
        assert len(frame.seen) == 9 and frame.truth is None
