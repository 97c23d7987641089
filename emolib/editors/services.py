"""How each hosted service is spoken to: addresses, keys, fields, prices, answers, as of November 2026.

A price is an estimate in USD, rounded up. Key fields, refusals and sizes differ; what is done with them does
not, and is in `editors.hosted`.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from PIL import Image

from emolib.editors.instruct import KEEPING
from emolib.emotions import words


class Reply(NamedTuple):
    """What an answer holds: a picture, or a link to one, or where to ask later, or why there is none."""

    picture: bytes = b""
    refused: str = ""
    link: str = ""
    later: str = ""
    failed: str = ""


@dataclass(frozen=True)
class Dialect:
    """How one service is spoken to.

    url        of the POST; may use {model}
    variables  environment variables of the key, of which the first that is set counts
    header     that holds the key, and how
    prices     model -> USD an edit; the first is the default
    build      (model, picture, PNG, text, seed) -> the arguments of the POST
    read       JSON of an answer -> Reply
    template   of the text
    """

    url: str
    variables: tuple[str, ...]
    header: tuple[str, str]
    prices: Mapping[str, float]
    build: Callable[[str, Image.Image, bytes, str, int], dict[str, Any]]
    read: Callable[[dict], Reply]
    template: str = KEEPING


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _decode(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _build_stability(model: str, picture: Image.Image, png: bytes, text: str, seed: int) -> dict[str, Any]:
    search = {"search_prompt": "face"} if model == "edit/search-and-replace" else {}
    fields = {"prompt": text, "seed": str(seed), "output_format": "png", **search}
    accept = {"Accept": "application/json"}
    return {"data": fields, "files": {"image": ("picture.png", png, "image/png")}, "headers": accept}


def _read_stability(answer: dict) -> Reply:
    finish = answer.get("finish_reason", "SUCCESS")
    return Reply(_decode(answer["image"])) if finish == "SUCCESS" else Reply(refused=finish)


def _build_openai(model: str, picture: Image.Image, png: bytes, text: str, seed: int) -> dict[str, Any]:
    ratio = picture.width / picture.height
    size = "1536x1024" if ratio > 1.2 else "1024x1536" if ratio < 1 / 1.2 else "1024x1024"
    fields = {"model": model, "prompt": text, "n": "1", "size": size, "quality": "medium"}
    return {"data": fields, "files": [("image[]", ("picture.png", png, "image/png"))]}


def _read_openai(answer: dict) -> Reply:
    data = answer.get("data")
    return Reply(_decode(data[0]["b64_json"])) if data else Reply(refused="no picture")


def _build_gemini(model: str, picture: Image.Image, png: bytes, text: str, seed: int) -> dict[str, Any]:
    inline = {"mime_type": "image/png", "data": _encode(png)}
    config = {"responseModalities": ["IMAGE"], "seed": seed}
    return {
        "json": {
            "contents": [{"parts": [{"text": text}, {"inline_data": inline}]}],
            "generationConfig": config,
        }
    }


def _read_gemini(answer: dict) -> Reply:
    candidate = (answer.get("candidates") or [{}])[0]
    for part in candidate.get("content", {}).get("parts", ()):
        if "inlineData" in part:
            return Reply(_decode(part["inlineData"]["data"]))
    blocked = answer.get("promptFeedback", {}).get("blockReason")
    return Reply(refused=blocked or candidate.get("finishReason") or "no picture")


def _build_bfl(model: str, picture: Image.Image, png: bytes, text: str, seed: int) -> dict[str, Any]:
    return {"json": {"prompt": text, "input_image": _encode(png), "seed": seed, "output_format": "png"}}


def _read_bfl(answer: dict) -> Reply:
    status = answer.get("status", "Pending")
    if status == "Ready":
        return Reply(link=answer["result"]["sample"])
    if "Moderated" in status:
        return Reply(refused=status)
    if status in ("Error", "Failed", "Task not found"):
        return Reply(failed=status)
    return Reply(later=answer.get("polling_url", ""))


SERVICES: dict[str, Dialect] = {
    "stability": Dialect(
        "https://api.stability.ai/v2beta/stable-image/{model}",
        ("STABILITY_API_KEY",),
        ("Authorization", "Bearer {}"),
        {"edit/search-and-replace": 0.05, "control/structure": 0.05},
        _build_stability,
        _read_stability,
        words.TEMPLATE,
    ),
    "openai": Dialect(
        "https://api.openai.com/v1/images/edits",
        ("OPENAI_API_KEY",),
        ("Authorization", "Bearer {}"),
        # 1,056 tokens a picture of medium quality at $30 a million, and some 1,500 of the one sent at $8.
        {"gpt-image-2": 0.05, "gpt-image-1.5": 0.06},
        _build_openai,
        _read_openai,
    ),
    "gemini": Dialect(
        "https://generativelanguage.googleapis.com/v1beta/models/{model}:generateContent",
        ("GOOGLE_API_KEY", "GEMINI_API_KEY"),
        ("x-goog-api-key", "{}"),
        {"gemini-3.1-flash-image": 0.07},
        _build_gemini,
        _read_gemini,
    ),
    "bfl": Dialect(
        "https://api.bfl.ai/v1/{model}",
        ("BFL_API_KEY",),
        ("x-key", "{}"),
        {
            "flux-2-klein-4b": 0.015,
            "flux-2-klein-9b": 0.017,
            "flux-2-pro": 0.045,
            "flux-2-max": 0.10,
            "flux-2-flex": 0.10,
            "flux-kontext-pro": 0.04,
            "flux-kontext-max": 0.08,
        },
        _build_bfl,
        _read_bfl,
    ),
}
"""Name -> how it is spoken to."""
