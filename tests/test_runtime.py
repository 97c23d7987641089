"""emolib.runtime: paths, seeds, device policy, safe writes, spelling help."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from emolib import __version__, runtime
from emolib.runtime import InputError

ROOT = Path(__file__).resolve().parents[1]


def test_nearest():
    spelled = {"angr": "anger", "ANGER": "anger", "amuzement": "amusement", " awe ": "awe", "xyzzy": None}
    for word, expected in (spelled | {"": None}).items():
        assert runtime.nearest(word, ["amusement", "awe", "anger", "fear"]) == expected


def test_one_of_passes_known_words_and_names_the_nearest_for_others():
    assert runtime.one_of("awe", ["awe", "fear"]) == "awe"
    with pytest.raises(InputError) as caught:
        runtime.one_of("feer", ["awe", "fear"], "emotion")
    assert str(caught.value) == "unknown emotion 'feer'; did you mean 'fear'? known: awe, fear"


def test_paths_are_in_the_repository():
    assert runtime.repo_path("data", "minisd") == ROOT / "data" / "minisd"


def test_home_overrides_and_must_exist(monkeypatch, tmp_path):
    monkeypatch.setenv("EMOLIB_HOME", str(tmp_path))
    assert runtime.repo_path("data") == tmp_path.resolve() / "data"
    monkeypatch.setenv("EMOLIB_HOME", str(tmp_path / "gone"))
    with pytest.raises(InputError, match="EMOLIB_HOME"):
        runtime.repo_root()


def test_device_policy(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert runtime.pick_device() == torch.device("cpu")
    with pytest.raises(InputError, match="not available"):
        runtime.pick_device("cuda")
    for name in ("auto", "cpu", "cuda", "mps", "cuda:1"):
        runtime.check_device(name)
    for name, says in (("cuda:", "malformed"), ("cuda:x", "malformed"), ("auto:0", "unknown device")):
        with pytest.raises(InputError, match=says):
            runtime.check_device(name)
    with pytest.raises(InputError, match="unknown device 'gpu'"):
        runtime.pick_device("gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert runtime.pick_device() == torch.device("cuda")
    assert runtime.pick_device("cuda:1") == torch.device("cuda:1")
    monkeypatch.setenv("EMOLIB_DEVICE", "cpu")
    assert runtime.pick_device() == torch.device("cpu")


def test_dtype_policy():
    assert runtime.pick_dtype("cuda") is torch.float16
    assert runtime.pick_dtype(torch.device("cpu")) is torch.float32
    assert runtime.pick_dtype("cpu", "bfloat16") is torch.bfloat16
    with pytest.raises(InputError, match="did you mean 'float16'"):
        runtime.pick_dtype("cpu", "float15")


def draw(*arguments):
    return torch.rand(4, generator=runtime.generator(*arguments))


def test_generators_repeat_and_their_streams_differ():
    assert torch.equal(draw(3), draw(3))
    assert torch.equal(draw(3), torch.rand(4, generator=torch.Generator().manual_seed(3)))
    assert torch.equal(draw(3, "noise", 1), draw(3, "noise", 1))
    streams = [draw(3), draw(4), draw(3, "noise"), draw(3, "noise", 1), draw(3, "noise1")]
    assert len({tuple(stream.tolist()) for stream in streams}) == len(streams)


def test_a_named_stream_is_the_same_in_every_process():
    text = hashlib.sha256(
        b"3\0noise"
    ).digest()  # of the words themselves: Python's own hash differs by process
    assert runtime.generator(3, "noise").initial_seed() == int.from_bytes(text[:8], "big") >> 1


def test_atomic_write_replaces_only_on_success(tmp_path):
    target = tmp_path / "out.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError, match="half way"), runtime.atomic_write(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError("half way")
    assert target.read_text() == "old"
    with runtime.atomic_write(target) as temporary:
        assert temporary.parent == target.parent and temporary.suffix == ".txt"
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_atomic_write_takes_the_longest_name_and_refuses_missing_folder_and_folder_as_file(tmp_path):
    with runtime.atomic_write(tmp_path / f"{'a' * 251}.png") as temporary:
        temporary.write_bytes(b"1")
    (tmp_path / f"{'a' * 251}.png").unlink()
    with (
        pytest.raises(InputError, match="does not exist; make it first: mkdir -p"),
        runtime.atomic_write(tmp_path / "no" / "a.png"),
    ):
        pass
    with pytest.raises(InputError, match="is a folder"), runtime.atomic_write(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_write_json_takes_numpy_and_torch_and_refuses_nan(tmp_path):
    target = tmp_path / "a.json"
    runtime.write_json(target, {"n": np.int64(3), "x": np.arange(2), "y": torch.tensor(0.5), "ü": None})
    assert json.loads(target.read_text(encoding="utf-8")) == {"n": 3, "x": [0, 1], "y": 0.5, "ü": None}
    with pytest.raises(ValueError):
        runtime.write_json(target, {"x": float("nan")})
    assert json.loads(target.read_text(encoding="utf-8"))["n"] == 3


def test_read_json_names_what_is_missing_or_broken(tmp_path):
    path = tmp_path / "a.json"
    with pytest.raises(InputError, match="a.json: this file is missing"):
        runtime.read_json(path)
    for text in ("{", "[" * 100_000, "\x00"):
        path.write_text(text)
        with pytest.raises(InputError, match=r"^[^\n]*a.json: not a readable JSON"):
            runtime.read_json(path)
    runtime.write_json(path, {"é": [1, None]})
    assert runtime.read_json(path) == {"é": [1, None]}


def test_a_number_in_a_range():
    assert [runtime.in_range(x, 0, 4, "margin") for x in (0, 0.5, 4)] == [0, 0.5, 4]
    for wrong in (float("nan"), float("inf"), -0.1, 4.1):
        with pytest.raises(InputError, match=r"margin must lie in \[0, 4\], not"):
            runtime.in_range(wrong, 0, 4, "margin")


def test_every_seed_that_torch_takes_and_no_other():
    for seed in runtime.SEEDS:
        runtime.generator(seed)
    for seed in (runtime.SEEDS[0] - 1, runtime.SEEDS[1] + 1):
        with pytest.raises(InputError, match="seed must lie in"):
            runtime.generator(seed)
        runtime.generator(seed, "noise")  # a stream's own seed is a hash


def test_outputs_that_cannot_be_written_are_refused_before_the_work(tmp_path, monkeypatch):
    runtime.check_output(tmp_path / "c" / "d", folder=True)
    assert not (tmp_path / "c").exists()
    (tmp_path / "file").write_text("precious")
    for inside in (tmp_path / "file", tmp_path / "file" / "x"):
        with pytest.raises(InputError, match="file' is a file; give another folder"):
            runtime.check_output(inside, folder=True)
    with pytest.raises(InputError, match="file' is a file; give another folder"):
        runtime.check_output(tmp_path / "file" / "x.png")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    for folder in (True, False):
        with pytest.raises(InputError, match="is not writable"):
            runtime.check_output(tmp_path / "x.png", folder=folder)


def test_new_files_have_the_mode_that_the_umask_says(tmp_path):
    before = os.umask(0o027)
    try:
        with runtime.atomic_write(tmp_path / "a.safetensors") as temporary:
            save_file({"x": torch.zeros(2)}, temporary)
        with runtime.atomic_folder(tmp_path / "new" / "judge") as folder:
            save_file({"x": torch.zeros(2)}, folder / "b.safetensors")
    finally:
        os.umask(before)
    for path in (tmp_path / "a.safetensors", tmp_path / "new" / "judge" / "b.safetensors"):
        assert path.stat().st_mode & 0o777 == 0o640
    assert len(list(tmp_path.rglob("*"))) == 4


def test_a_folder_is_filled_wholly_or_not_at_all(tmp_path):
    target = tmp_path / "judge"
    target.mkdir()
    (target / "config.json").write_text("old")
    with pytest.raises(OSError, match="judge: cannot be written"), runtime.atomic_folder(target) as folder:
        (folder / "config.json").write_text("new")
        save_file({"x": torch.zeros(2)}, folder / "nowhere" / "x.safetensors")  # as on a full disk
    assert (target / "config.json").read_text() == "old"
    assert sorted(tmp_path.rglob("*")) == [target, target / "config.json"]
    with pytest.raises(OSError, match="cannot be written"), runtime.atomic_write(target / "x") as temporary:
        save_file({"x": torch.zeros(2)}, temporary / "x")


def test_a_broken_file_is_one_line_and_a_fault_of_ours_is_not(tmp_path):
    for error in (KeyError("labels"), OSError("cut off\nhere"), ValueError("odd"), RuntimeError("shapes")):
        with pytest.raises(InputError, match="not a readable") as refused, runtime.reading("a", "judge"):
            raise error
        assert "\n" not in str(refused.value)
    for error in (TypeError("a bug"), InputError("what, where"), RuntimeError("CUDA out of memory")):
        with pytest.raises(type(error), match=str(error)), runtime.reading("judge", "judge"):
            raise error


def test_a_folder_or_a_cached_repository(tmp_path):
    assert runtime.local_folder(tmp_path) == tmp_path
    for name in ("nobody/nothing", "me/model--x", "not a name", str(tmp_path / "gone")):
        assert runtime.local_folder(name) is None


def test_an_output_over_an_input_is_refused_however_it_is_spelled(tmp_path):
    picture = tmp_path / "a.png"
    picture.write_bytes(b"1")
    (tmp_path / "link.png").symlink_to(picture)
    (tmp_path / "hard.png").hardlink_to(picture)
    (tmp_path / "folder").mkdir()
    for output in (picture, tmp_path / "folder/../a.png", tmp_path / "link.png", tmp_path / "hard.png"):
        with pytest.raises(InputError, match="is an input of this command"):
            runtime.check_output(output, [tmp_path / "missing", picture])
    runtime.check_output(tmp_path / "b.png", [picture, tmp_path])
    with pytest.raises(InputError, match="is an input of this command"):
        runtime.check_output(tmp_path / "folder/..", [tmp_path], folder=True)
    runtime.check_output(tmp_path / "folder", [tmp_path], folder=True)


def test_versions_memory_and_progress_say_what_runs(capsys):
    assert list(runtime.progress(range(5), "counting")) == [0, 1, 2, 3, 4]
    assert capsys.readouterr().err == ""  # no bar in a file
    assert 2**28 < runtime.free_memory("cpu") < 2**50  # bytes
    report = runtime.versions()
    assert report["torch"].startswith(torch.__version__.split("+")[0])
    assert report["python"].count(".") == 2 and report["emolib"] == __version__
    assert all(f"{name} {value}" in runtime.versions_report() for name, value in report.items())


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("fpu avx2", False), ("avx512f avx512_bf16", True), ("amx_bf16", True), (None, False)],
)
def test_bf16_is_fast_only_where_the_cpu_has_it(monkeypatch, flags, expected):
    def read(self, **_):
        if flags:
            return f"flags : {flags}\n"
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", read)
    assert runtime.fast_bf16("cpu") is expected
    assert not runtime.fast_bf16("mps")
