"""Token files: ours is safetensors with one key, so that every known program opens it; theirs are read.

Who writes what: diffusers `{"<token>": (n, d)}`; kohya `{"emb_params": ...}`; OneTrainer
`{"emp_params": ...}`; A1111 a pickle with `string_to_param`; for SDXL everybody
`{"clip_l": ..., "clip_g": ...}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from emolib import __version__
from emolib.data.files import load_tensors, save_tensors
from emolib.interventions.tokens import Token, bracketed, placeholder
from emolib.runtime import InputError, first_line

PICKLES = (".pt", ".pth", ".bin", ".ckpt")
SDXL = ("clip_l", "clip_g")
# Keys that name no token: the file's own name does then.
NAMELESS = ("emb_params", "emp_params", "*", "clip_l", "vectors")
SECONDARY = ("emp_params_out",)  # OneTrainer's second tensor; no other program reads it


def save_token(token: Token, path: str | Path) -> None:
    """Write a token, atomically: one key, the token's name (SDXL: clip_l and clip_g), and a header.

    The header holds token, base_model, emotion, initializer, steps and licence. Raises InputError.
    """
    tensors = dict(zip(SDXL, token.rows, strict=True)) if token.vectors_2 is not None else None
    header = {
        "token": token.name,
        "base_model": token.model,
        "emotion": token.emotion,
        "initializer": token.initializer,
        "steps": str(token.steps),
        "licence": token.licence,
        "software": f"emolib {__version__}",
    }
    save_tensors(path, tensors or {token.name: token.vectors}, header)


def load_token(path: str | Path, *, name: str | None = None, allow_pickle: bool = False) -> Token:
    """Read a token file of emolib, diffusers, kohya, OneTrainer, A1111 or ComfyUI's kinds.

    `name` overrules the file's own; a file that names no token is called after itself. Pickles (.pt, .bin)
    can run code when they are opened: they are refused, unless `allow_pickle`, and then only read with
    `weights_only`. Raises InputError for anything that is no token file.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; `emolib token train` makes one")
    if path.suffix in PICKLES:
        content, header = _read_pickle(path, allow_pickle), {}
    else:
        content, header = load_tensors(path)
    try:
        rows, own_name, header = _interpret(content, header)
        name = placeholder(name) if name else bracketed(header.get("token") or own_name or path.stem)
        steps = str(header.get("steps", ""))
        facts = {key: str(header.get(key, "")) for key in ("emotion", "initializer", "licence")}
        model = str(header.get("base_model", ""))
        return Token(name, *rows, model=model, steps=int(steps) if steps.isdecimal() else 0, **facts)
    except (ValueError, TypeError, RuntimeError) as error:  # other things than vectors, of several widths
        raise InputError(f"{path}: not a token file: {first_line(error)}") from None


def _read_pickle(path: Path, allowed: bool) -> Any:
    if not allowed:
        raise InputError(
            f"{path}: is a pickle, which can run code when opened; if you trust it, allow pickles"
            " (--allow-pickle), and save it as safetensors"
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a hostile or broken pickle fails in nearly any way
        reason = first_line(error).split(".")[0]
        raise InputError(
            f"{path}: holds more than plain tensors, or is broken ({reason}); get a .safetensors"
        ) from None


def _interpret(content: Any, header: Mapping) -> tuple[list[Tensor], str | None, Mapping]:
    """Find rows for each text encoder, the token's name if the content has one, and the header.

    ValueError: it is no token's."""
    if isinstance(content, list):  # ComfyUI reads these
        return [torch.cat([_rows(value) for part in content for value in dict(part).values()])], None, header
    if not isinstance(content, Mapping):
        return [_rows(content)], None, header
    if "string_to_param" in content:
        vectors = next(iter(dict(content["string_to_param"]).values()), None)
        header = {"base_model": content.get("sd_checkpoint_name") or "", "steps": content.get("step") or 0}
        name = content.get("name")
        return [_rows(vectors)], str(name) if name else None, header
    if set(content) == set(SDXL):
        return [_rows(content[key]) for key in SDXL], None, header
    keys = [key for key in content if key not in SECONDARY]
    if len(keys) != 1:
        raise ValueError(f"{len(keys)} tensors ({', '.join(map(str, keys[:3]))}, ...)")
    name = keys[0] if isinstance(keys[0], str) and keys[0] not in NAMELESS else None
    return [_rows(content[keys[0]])], name, header


def _rows(value: Any) -> Tensor:
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.ndim not in (1, 2):
        raise ValueError("something else than vectors")
    return value.reshape(-1, value.shape[-1])
