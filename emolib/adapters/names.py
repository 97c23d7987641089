"""How learned tokens are called. Loads no torch."""

from __future__ import annotations

import re

from emolib.runtime import InputError


def placeholder(name: str) -> str:
    """The one spelling of a token's name: lower case in angle brackets, "<awe>".

    Brackets keep it from being part of a word; tokenizers of CLIP's kind know no capitals. Raises InputError
    for a name without brackets (which may be a word already) and for one that no tokenizer keeps whole.
    """
    if not re.fullmatch(r"<[^<>]+>", name):
        bare = re.sub(r"[<>\s]+", "-", name).strip("-").casefold() or "awe"
        raise InputError(
            f"token {name!r} is not a name in angle brackets, and may be a word already; write '<{bare}>'"
        )
    if re.search(r"[\s|]", name):
        mended = re.sub(r"[\s|]+", "-", name[1:-1]).strip("-").casefold() or "awe"
        raise InputError(f"token {name!r} has a space or a bar in it; write '<{mended}>'")
    return name.casefold()


def bracketed(name: str) -> str:
    """Another program's token name, or a file's, as a placeholder: "charturner v2" -> "<charturner-v2>"."""
    bare = re.sub(r"[<>|\s]+", "-", name).strip("-").casefold()
    return f"<{bare or 'token'}>"


def pieces(name: str, n: int) -> list[str]:
    """The vocabulary entries of a token of n vectors: "<awe>", "<awe>_1", ... as diffusers names them."""
    return [name, *(f"{name}_{i}" for i in range(1, n))]
