"""Token files: what we write, what we read of others, and what we refuse to open."""

import pickle

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from emolib.interventions import token_files
from emolib.interventions.tokens import Token
from emolib.runtime import InputError

ROWS = torch.arange(12.0).view(3, 4)


def test_one_key_a_header_and_back(tmp_path):
    path = tmp_path / "awe.safetensors"
    facts = {"model": "minisd", "emotion": "awe", "initializer": "calm", "steps": 90, "licence": "CC0"}
    token_files.save_token(Token("<awe>", ROWS, **facts), path)
    with safe_open(path, "pt") as file:
        assert list(file.keys()) == ["<awe>"]
        header = file.metadata()
    written = {"token": "<awe>", "base_model": "minisd", "emotion": "awe", "initializer": "calm"}
    assert header.items() >= {**written, "steps": "90", "licence": "CC0"}.items()
    back = token_files.load_token(path)
    assert torch.equal(back.vectors, ROWS) and back.vectors_2 is None
    assert back.name == "<awe>" and {name: getattr(back, name) for name in facts} == facts
    assert token_files.load_token(path, name="<other>").name == "<other>"
    assert path.stat().st_mode & 0o044 == 0o044


def test_sdxl_has_its_two_keys(tmp_path):
    path = tmp_path / "awe.safetensors"
    token_files.save_token(Token("<awe>", ROWS, ROWS.repeat(1, 2)), path)
    with safe_open(path, "pt") as file:
        assert sorted(file.keys()) == ["clip_g", "clip_l"]
    back = token_files.load_token(path)
    assert back.name == "<awe>" and back.vectors_2.shape == (3, 8)


@pytest.mark.parametrize(
    ("tensors", "name"),
    [
        ({"<cat-toy>": ROWS[0]}, "<cat-toy>"),  # diffusers, one vector
        ({"Cat Toy": ROWS}, "<cat-toy>"),
        ({"emb_params": ROWS}, "<my-file>"),  # kohya
        ({"emp_params": ROWS, "emp_params_out": ROWS}, "<my-file>"),  # OneTrainer
        ({"clip_l": ROWS}, "<my-file>"),  # ComfyUI
        ({"clip_l": ROWS, "clip_g": ROWS.repeat(1, 2)}, "<my-file>"),  # SDXL everywhere
        ({"*": ROWS.half()}, "<my-file>"),
    ],
)
def test_the_safetensors_of_other_programs(tmp_path, tensors, name):
    path = tmp_path / "My File.safetensors"
    save_file({key: value.contiguous().clone() for key, value in tensors.items()}, path)
    found = token_files.load_token(path)
    assert found.name == name and found.vectors.dtype == torch.float32
    assert torch.equal(found.vectors, next(iter(tensors.values())).float().view(-1, 4))
    assert (found.vectors_2 is not None) == ("clip_g" in tensors)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ({"string_to_token": {"*": 265}, "string_to_param": {"*": ROWS}, "name": "Smile", "step": 500,
          "sd_checkpoint_name": "v1-5"}, "<smile>"),  # A1111
        ({"<smile>": ROWS}, "<smile>"),  # diffusers' learned_embeds.bin
        ([{"a": ROWS[:1]}, {"b": ROWS[1:]}], "<my-file>"),  # what ComfyUI also takes
        (ROWS, "<my-file>"),
    ],
)  # fmt: skip
def test_pickles_are_read_only_when_allowed(tmp_path, content, name):
    path = tmp_path / "my file.pt"
    torch.save(content, path)
    with pytest.raises(InputError, match="pickle"):
        token_files.load_token(path)
    found = token_files.load_token(path, allow_pickle=True)
    assert found.name == name and torch.equal(found.vectors, ROWS)
    if name == "<smile>" and "step" in content:
        assert (found.steps, found.model) == (500, "v1-5")


class Evil:
    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_pickle_that_runs_code_is_never_run(tmp_path):
    Evil.path = tmp_path / "harm"
    for name in ("a.pt", "a.bin"):
        (tmp_path / name).write_bytes(pickle.dumps({"<awe>": Evil()}, protocol=2))
        with pytest.raises(InputError, match="plain tensors"):
            token_files.load_token(tmp_path / name, allow_pickle=True)
    assert not Evil.path.exists()


def test_what_is_no_token_file_is_said_in_one_line(tmp_path):
    path = tmp_path / "x.safetensors"
    for tensors, reason in (
        ({"lora.up": ROWS, "lora.down": ROWS.clone()}, "2 tensors"),
        ({"<awe>": torch.tensor([[float("nan")]])}, "not finite"),
        ({"<awe>": torch.ones(2, 3, dtype=torch.int64)}, "vectors"),
        ({"<awe>": torch.ones(2, 3, 4)}, "vectors"),
        (None, "readable"),
    ):
        path.write_bytes(b"nothing") if tensors is None else save_file(tensors, path)
        with pytest.raises(InputError, match=reason) as error:
            token_files.load_token(path)
        assert str(path) in str(error.value) and "\n" not in str(error.value)
    (tmp_path / "text.txt").write_text("x")
    with pytest.raises(InputError, match="not a readable"):
        token_files.load_token(tmp_path / "text.txt")


def test_nothing_is_overwritten_by_a_failure(tmp_path):
    path = tmp_path / "awe.safetensors"
    token_files.save_token(Token("<awe>", ROWS), path)
    before = path.read_bytes()
    with pytest.raises(InputError, match="suffix"):
        token_files.save_token(Token("<awe>", ROWS + 1), tmp_path / "awe.pt")
    with pytest.raises(InputError, match="not finite"):
        token_files.save_token(Token("<awe>", ROWS / 0), path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    with pytest.raises(InputError, match="does not exist"):
        token_files.save_token(Token("<awe>", ROWS), tmp_path / "no" / "awe.safetensors")
