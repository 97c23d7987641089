"""A made-up leaderboard, in the form in which `emolib evaluate` writes it."""

from PIL import Image

from emolib.evaluation.board import FILE
from emolib.runtime import write_json

CELLS = ("source", "true answer", "img2img", "ddim")


def row(value, low, high, n=16):
    return {"value": value, "low": low, "high": high, "n": n}


def method(emo_a, psnr, far=0.5):
    share = row(emo_a, max(emo_a - 0.1, 0), min(emo_a + 0.1, 1))
    numbers = {"emo_a": share, "joint": share, "same_person": share, "truth_psnr": psnr, "emo_s": share}
    numbers["sharpness"] = row(1.0, 0.95, 1.05)
    return {"all": numbers, "by": {"distance": {"180": {"joint": row(far, 0.2, 0.6)}}}}


def write_board(folder, size=32):
    """A leaderboard of four methods with one example strip of coloured squares."""
    folder.mkdir(parents=True)
    known = {
        "nothing": method(0.0, row(27.9, 27.0, 28.5)),
        "img2img": method(0.95, row(22.0, 21.0, 23.0)),
        "ddim": method(0.5, row(24.0, 23.0, 25.0)),
        "truth": method(1.0, row("inf", "inf", "inf")),
    }
    about = {"data": "emofaces:val", "edits": 16, "groups": 2, "judge": "heldout", "notes": ["At <32> px"]}
    write_json(folder / FILE, {**about, "metrics": ["emo_a"], "methods": known, "not_available": {}})
    sheet = Image.new("RGB", (size * len(CELLS), size))
    for i, colour in enumerate(("red", "green", "blue", "yellow")):
        sheet.paste(Image.new("RGB", (size, size), colour), (i * size, 0))
    sheet.save(folder / "example-a.webp", lossless=True)
    scores = {"truth": {"emo_a": 1.0}, "img2img": {"emo_a": 0.0}}
    shown = {"id": "a", "file": "example-a.webp", "from": "fear", "to": "awe", "cells": CELLS}
    write_json(folder / "examples.json", {"examples": [{**shown, "size": [size, size], "scores": scores}]})
