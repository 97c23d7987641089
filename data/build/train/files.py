"""Saving what was trained: half the bytes, whole folders at once."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from emolib.runtime import read_json, write_json


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yield a new folder beside `folder`; on success it takes its place, keeping README and pictures."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    temporary.mkdir()
    try:
        yield temporary
        for path in temporary.rglob("*"):
            path.chmod(
                0o755 if path.is_dir() else 0o644
            )  # safetensors writes files only their owner can read
        if folder.is_dir():
            for kept in (*folder.glob("README.md"), *folder.glob("*.webp"), *folder.glob("*.png")):
                shutil.copy2(kept, temporary / kept.name)
            old = folder.with_name(f"{temporary.name}.old")
            folder.rename(old)
            temporary.rename(folder)
            shutil.rmtree(old)
        else:
            temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def save_half(model: nn.Module, folder: Path) -> None:
    """fp16 weights of a transformers model; its configuration says float32, so that a CPU can run it."""
    model.half().save_pretrained(folder)
    config = read_json(folder / "config.json")
    for part in (config, config.get("text_config"), config.get("vision_config")):
        if part is not None:
            part["dtype"] = "float32"
    write_json(folder / "config.json", config)


def megabytes(folder: Path) -> float:
    """Size of all files of a folder, MB (1e6 bytes)."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
