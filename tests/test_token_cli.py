"""`emolib token` on real files with a tiny model: what it writes and says, and what it refuses."""

import sys
from types import SimpleNamespace

import pytest
import tiny_pipelines
import torch
from safetensors import SafetensorError, safe_open

from emolib import images, interventions
from emolib.cli import main
from emolib.cli import token as token_cli
from emolib.diffusion import backbone
from emolib.emotions import words
from emolib.interventions import splice, token_files
from emolib.interventions.tokens import Token
from emolib.runtime import InputError, hold_lock
from emolib.training import objective, report

FOLDER = tiny_pipelines.folder("sd")


@pytest.fixture(autouse=True)
def tiny_model(monkeypatch):
    """The tiny model under its folder's name, loaded once for all commands."""
    model = tiny_pipelines.tiny("sd")
    monkeypatch.setattr(backbone, "load_backbone", lambda name, **options: model)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def write(folder, n, seed=0, side=40):
    folder.mkdir(parents=True, exist_ok=True)
    for i, one in enumerate(tiny_pipelines.pictures(n, side=side, seed=seed)):
        images.save_image(one, folder / f"{i}.png")
    return folder


def train(folder, out, *options, token="<glee>", init="ab", check=False):
    """Train as the command does; `check` what the token draws, which is slow, where a test is about that."""
    start = (["--init", init] if init else []) + ([] if check else ["--no-check"])
    steps = ["--steps", "4", "--batch", "2", "--model", str(FOLDER)]
    what = ["token", "train", str(folder), "--token", token, "--out", str(out)]
    return main.main([*what, *start, *steps, *options])


def test_a_token_is_trained_reported_and_used(tmp_path, capsys):
    out = tmp_path / "glee.safetensors"
    assert train(write(tmp_path / "in", 5), out, "--vectors", "2", "--licence", "CC0-1.0", check=True) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[-1] == str(out)
    assert sum(line.startswith("<glee>  ") for line in said.out.splitlines()) == 6
    assert "<glee>: 5 pictures, sd on cpu, starts as ab" in said.err and "step 4/4" in said.err
    with safe_open(out, "pt") as file:
        assert list(file.keys()) == ["<glee>"] and file.metadata()["licence"] == "CC0-1.0"
        assert file.metadata()["base_model"] == "sd" and file.metadata()["initializer"] == "ab"
    assert sorted(path.name for path in (tmp_path / "glee.run").iterdir()) == ["lock", "log.jsonl"]

    source = tmp_path / "in" / "0.png"
    edit = ["edit", str(source), "--to", "<Glee>", "-o", str(tmp_path / "o.png"), "--model", str(FOLDER)]
    edit += ["--box", "0,0,16,16"]
    assert main.main([*edit, "--steps", "2", "--token", str(out)]) == 0
    assert images.read_provenance(tmp_path / "o.png")["people"][0]["prompt"] == "photo of a <glee> person"
    assert main.main([*edit, "--steps", "2"]) == 2
    assert "<glee> is no token of sd" in capsys.readouterr().err
    (tmp_path / "o.png").unlink()
    plain = ["edit", str(source), "--to", "awe", *edit[4:], "--steps", "2", "--token", str(out)]
    assert main.main(plain) == 2  # a token that nothing asks for was meant to be used
    assert capsys.readouterr().err == f"emolib: {out}: nothing asks for its <glee>; give --to '<glee>'\n"
    assert not (tmp_path / "o.png").exists()
    assert main.main([*plain, "--prompt", "photo of {article} {word} <Glee> person"]) == 0


def test_pairs_and_check(tmp_path, capsys):
    write(tmp_path / "in" / "awe", 3)
    write(tmp_path / "in" / "neutral", 3, seed=1)
    out = tmp_path / "awe.safetensors"
    more = ("--focus", "--min-snr", "5")
    assert train(tmp_path / "in", out, "--pairs", *more, token="<awe>", init=None) == 0
    assert "3 pairs" in capsys.readouterr().err and token_files.load_token(out).initializer == "awestruck"
    still = splice.vectors_of_words(tiny_pipelines.tiny("sd"), "<glee>", "ab", vectors=2)
    token_files.save_token(still, out)
    sheet = tmp_path / "sheet.png"
    command = ["token", "check", str(out), "--model", str(FOLDER), "-n", "2", "--sheet", str(sheet)]
    assert main.main(command) == 1  # it is its word
    assert "not good; nothing was learned" in capsys.readouterr().out
    saved = images.to_tensor(images.open_image(sheet))[0]
    assert saved.shape == (3, 96, 64)
    lines = [words.fill_template(words.TEMPLATE, word) for word in ("ab", "ab", "")]
    rows = [report.sample_pictures(tiny_pipelines.tiny("sd"), [line] * 2, 20, 5.0, 0) for line in lines]
    expected = torch.cat([torch.cat([*row], -1) for row in rows], -2)  # token (it is its word), word, nothing
    torch.testing.assert_close(saved, expected, atol=0.01, rtol=0)


def test_a_saved_manifest_of_several_emotions_teaches_the_tokens_own(tmp_path, capsys):
    for k, name in enumerate(("awe", "fear")):
        write(tmp_path / "in" / name, 3, seed=k)
    assert main.main(["data", "import", str(tmp_path / "in"), "-o", str(tmp_path / "m.parquet")]) == 0
    assert train(tmp_path / "m.parquet", tmp_path / "awe.safetensors", token="<awe>", init=None) == 0
    assert "<awe>: 3 pictures" in capsys.readouterr().err
    assert train(tmp_path / "m.parquet", tmp_path / "glee.safetensors", token="<glee>") == 2
    assert "holds pictures of awe, fear; say which with --emotion" in capsys.readouterr().err


def test_minisd_is_asked_for_hair_and_glasses_too(tmp_path, capsys, monkeypatch):
    monkeypatch.undo()  # the real model, not the tiny one
    model = backbone.load_backbone("minisd", device="cpu")
    probe, people = token_cli.load_probe(model, 4)
    assert people[0] == "woman with short black hair" and len(set(people)) == 4
    walk = report.sample_pictures(
        model, [words.fill_template(words.TEMPLATE, "", who) for who in people], 12, 5.0, 0
    )
    assert [bool(probe(one[None], who)) for one, who in zip(walk, people, strict=True)].count(True) >= 3
    assert not probe(walk[:1], people[3])  # a woman without a beard is not the bearded man
    token_files.save_token(splice.vectors_of_words(model, "<glee>", "amused"), tmp_path / "glee.safetensors")
    assert (
        main.main(["token", "check", str(tmp_path / "glee.safetensors"), "-n", "1", "--device", "cpu"]) == 1
    )
    assert "rest of the prompt obeyed, of 1 pictures each: token" in capsys.readouterr().out
    assert token_cli.load_probe(tiny_pipelines.tiny("sd"), 4) == (None, ("person",))


def test_a_run_that_was_broken_off_goes_on_only_when_told(tmp_path, capsys, monkeypatch):
    folder, out = write(tmp_path / "in", 3), tmp_path / "glee.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr(token_files, "save_token", lambda token, path: (_ for _ in ()).throw(KeyboardInterrupt))
        assert train(folder, out) == 130
    assert train(folder, out) == 2 and not out.exists()
    assert "add --resume" in capsys.readouterr().err
    assert train(folder, out, "--resume", "--seed", "3") == 2  # another run
    assert train(folder, out, "--resume") == 0 and out.exists()
    assert "goes on at step 4" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("pictures", "options", "reason"),
    [
        (0, (), "no picture"),
        (1, (), "one picture"),
        ("same", (), "all 3 pictures are the same"),
        ("grey", (), "picture 3 is one flat colour"),
        ("small", (), "too small"),
        (3, ("--token", "glee"), "angle brackets"),
        (3, ("--token", "<g lee>"), "space"),
        (3, ("--vectors", "9"), "in [1, 8], not 9"),
        (3, ("--pairs",), "pairs need two folders"),
        (3, ("--lr", "inf"), "lr must lie in"),
        (3, ("--focus",), "--focus listens to what differs within pairs"),
        (3, ("--min-snr", "-1"), "min_snr must lie in"),
        (3, ("--steps", "0"), "steps must lie in"),
        (3, ("--precision", "half"), "precision"),
        (3, ("--out", "x.pt"), "suffix"),
        (3, ("--init", "<mine>"), "<mine> is no token of sd"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_overwritten(tmp_path, capsys, pictures, options, reason):
    folder = tmp_path / "in"
    write(folder, pictures if isinstance(pictures, int) else 3, side=15 if pictures == "small" else 40)
    if pictures == "same":
        for i in (1, 2):
            (folder / f"{i}.png").write_bytes((folder / "0.png").read_bytes())
    if pictures == "grey":
        images.save_image(torch.zeros(3, 40, 40), folder / "2.png")
    out = tmp_path / "glee.safetensors"
    out.write_text("precious")
    assert train(folder, out, *options) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("emolib: ")]
    assert len(lines) == 1 and reason in lines[0]
    assert out.read_text() == "precious"


def test_a_name_that_leads_out_of_the_folder_needs_a_file(tmp_path, capsys, monkeypatch):
    folder = write(tmp_path / "in", 3)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    command = ["token", "train", str(folder), "--init", "ab", "--model", str(FOLDER), "--steps", "1"]
    for name in ("<../b>", f"<{tmp_path}/b>"):
        assert main.main([*command, "--token", name]) == 2
        assert "say where it belongs: --out" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "in"]
    assert main.main([*command, "--token", "<../b>", "--out", "b.safetensors", "--no-check"]) == 0
    assert token_files.load_token("b.safetensors").name == "<../b>"


def test_the_check_and_what_is_overwritten_are_announced(tmp_path, capsys):
    folder, out = write(tmp_path / "in", 3), tmp_path / "glee.safetensors"
    assert train(folder, out, check=True) == 0
    said = capsys.readouterr().err
    assert "--no-check leaves that out" in said and "overwrites" not in said
    assert train(folder, out) == 0
    said = capsys.readouterr()
    assert said.out == f"{out}\n" and said.err.splitlines().count(f"overwrites {out}") == 1


def test_two_trainings_do_not_write_one_file(tmp_path, capsys):
    folder, out = write(tmp_path / "in", 3), tmp_path / "glee.safetensors"
    (tmp_path / "glee.run").mkdir()
    with hold_lock(tmp_path / "glee.run" / "lock", "busy"):
        assert train(folder, out) == 2
    assert "is going on there already" in capsys.readouterr().err
    assert not out.exists() and [path.name for path in (tmp_path / "glee.run").iterdir()] == ["lock"]
    assert train(folder, out) == 0


def test_a_full_disk_is_one_line(tmp_path, capsys, monkeypatch):
    def full(*arguments, **options):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    assert train(write(tmp_path / "in", 3), tmp_path / "glee.safetensors") == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("emolib: ")]
    assert len(said) == 1 and "No space left on device" in said[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["glee.run", "in"]


def test_pairs_in_folders_of_their_own_are_each_persons_own(tmp_path):
    from emolib.training import pictures

    for k, label in enumerate(("awe", "neutral")):
        for person in range(3):
            write(tmp_path / label / f"person{person}", 1, seed=10 * k + person)
    found = pictures.read_pictures(tmp_path, 32, pairs=True)
    expected = torch.cat([tiny_pipelines.pictures(1, side=40, seed=10 + person) for person in range(3)])
    torch.testing.assert_close(found.neutral, images.resize(expected, 32), atol=0.02, rtol=0)


def test_odd_pickles_are_read_or_refused_in_one_line(tmp_path, capsys):
    rows = torch.ones(2, 16)
    path, named = tmp_path / "number.pt", {"string_to_param": {"*": rows}, "name": 7}
    for content, name in (({7: rows}, "number"), (named, "7")):
        torch.save(content, path)
        assert token_files.load_token(path, allow_pickle=True).name == f"<{name}>"
    for content in ({"string_to_param": 3}, [1, 2], [{"a": rows}, {"b": torch.ones(1, 3)}]):
        torch.save(content, path)
        command = ["token", "check", str(path), "--allow-pickle", "--word", "ab"]
        assert main.main([*command, "--model", str(FOLDER), "-n", "1"]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_places_are_checked_before_anything_is_loaded(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "emolib.interventions.token_files", None)  # importing it is an error now
    monkeypatch.delattr(interventions, "token_files")
    folder, token = write(tmp_path / "in", 3), str(tmp_path / "a.safetensors")
    (tmp_path / "glee.run").write_text("precious")
    sheet = tmp_path / "none" / "sheet.png"
    for refused, says in (
        (lambda: train(folder, tmp_path / "none" / "x.safetensors"), "does not exist; make it first"),
        (lambda: train(folder, tmp_path / "glee.safetensors"), "glee.run' is a file; give another folder"),
        (
            lambda: main.main(["token", "check", token, "--sheet", str(sheet)]),
            "does not exist; make it first",
        ),
        (lambda: main.main(["token", "check", token, "--sheet", "a.svg"]), "change the suffix"),
        (lambda: main.main(["token", "check", token, "-n", "0"]), "-n must lie in [1, inf], not 0"),
        (lambda: main.main(["token", "check", token, "-n", "-1"]), "-n must lie in [1, inf], not -1"),
    ):
        assert refused() == 2
        said = capsys.readouterr().err
        assert says in said and said.count("\n") == 1


def test_of_pairs_the_empty_folder_is_named(tmp_path, capsys):
    write(tmp_path / "in" / "awe", 2)
    (tmp_path / "in" / "neutral").mkdir()
    out = tmp_path / "awe.safetensors"
    assert train(tmp_path / "in", out, "--pairs", token="<awe>") == 2
    assert f"{tmp_path / 'in' / 'neutral'}: holds no picture" in capsys.readouterr().err
    (tmp_path / "in" / "awe").rename(tmp_path / "in" / "fear")
    (tmp_path / "in" / "awe").mkdir()
    write(tmp_path / "in" / "neutral", 2, seed=1)
    assert train(tmp_path / "in", out, "--pairs", token="<awe>") == 2
    assert f"{tmp_path / 'in' / 'awe'}: holds no picture" in capsys.readouterr().err


def test_a_run_that_diverges_writes_nothing(tmp_path, capsys, monkeypatch):
    nan = lambda self, batch, embedding: embedding.hidden.sum((1, 2)) * float("nan")  # noqa: E731
    monkeypatch.setattr(objective.Objective, "losses", nan)
    out = tmp_path / "glee.safetensors"
    out.write_text("precious")
    assert train(write(tmp_path / "in", 3), out) == 2
    assert "step 0: the loss is no longer a number; lower the learning rate" in capsys.readouterr().err
    assert out.read_text() == "precious" and not (tmp_path / "glee.run/checkpoint.safetensors").exists()


def test_a_file_for_another_model_is_said(tmp_path, capsys):
    token_files.save_token(
        Token("<awe>", torch.ones(1, 16), torch.ones(1, 24), emotion="awe"), tmp_path / "xl.safetensors"
    )
    assert main.main(["token", "check", str(tmp_path / "xl.safetensors"), "--model", str(FOLDER)]) == 2
    assert "vectors of width [16, 24], but sd's text encoders take [16]" in capsys.readouterr().err


def test_where_a_token_starts_when_nothing_is_said():
    assert token_cli.choose_start(None, "awe", "sd15") == ("awestruck",)
    assert token_cli.choose_start("a, b", "", "minisd") == ("a", "b")
    for emotion, reason in (("surprise", "minisd knows no word"), ("", "name is no emotion")):
        with pytest.raises(InputError, match=reason):
            token_cli.choose_start(None, emotion, "minisd")
    assert token_cli.choose_start(None, "surprise", "sd15") == ("surprised",)


def test_a_runs_folder_is_held_by_the_main_process_alone(tmp_path):
    first, other = SimpleNamespace(is_main_process=True), SimpleNamespace(is_main_process=False)
    held, beside, again = (token_cli.hold_work(tmp_path / "run", each) for each in (first, other, first))
    with held, beside, pytest.raises(InputError, match="a training is going on there already"), again:
        pass
