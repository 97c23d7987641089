"""The lessons' closing sections: photographs are found, their model is chosen, edits are made and judged."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from emolib.course import photographs
from emolib.diffusion import backbone, hub
from emolib.runtime import InputError


@pytest.fixture(scope="module")
def minisd():
    return backbone.load_backbone("minisd")


@pytest.fixture(scope="module")
def astronaut():
    (photo,) = photographs.load_photographs()
    return photo


def test_everybody_is_edited_shown_and_judged(astronaut, minisd):
    edits = {"anger": photographs.edit_photograph(astronaut, "anger", minisd, "img2img", steps=2)}
    changed = (np.asarray(edits["anger"]) != np.asarray(astronaut.image)).any(2)
    (x0, y0, x1, y1) = astronaut.faces[0].box
    assert changed[y0:y1, x0:x1].mean() > 0.5
    assert (
        not changed[y1 + y1 - y0 :].any() and not changed[:, : x0 - (x1 - x0)].any()
    )  # the rest is the source
    photographs.show_photograph(astronaut, edits)
    plt.close("all")
    table = photographs.judge_edits(astronaut, edits, photographs.load_witnesses())
    assert list(table.index) == [("astronaut", 1), ("anger", 1)]
    assert table["likeness"]["astronaut", 1] == 1 > table["likeness"]["anger", 1]
    assert {"guide", "guide, p", "heldout", "heldout, p"} <= {*table.columns}


def test_pictures_of_a_folder(tmp_path, astronaut):
    Image.new("RGB", (64, 64), "grey").save(tmp_path / "a.png")
    with pytest.raises(InputError, match="nobody found in 1 pictures"):
        photographs.load_photographs(str(tmp_path))
    astronaut.image.resize((3000, 3000)).save(tmp_path / "b.jpg")
    (photo,) = photographs.load_photographs(str(tmp_path))
    assert photo.name == "b.jpg" and max(photo.image.size) == photographs.LARGEST and len(photo.faces) == 1
    with pytest.raises(InputError, match="no such folder"):
        photographs.load_photographs(str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("device", "reachable", "expected"),
    [("cuda", True, "sd15"), ("cuda", False, "minisd"), ("cpu", True, "minisd")],
)
def test_auto_is_stable_diffusion_where_there_are_a_gpu_and_the_hub(
    device, reachable, expected, minisd, monkeypatch
):
    def find(name, *, half):
        if not reachable:
            raise InputError("the Hub cannot be reached")

    monkeypatch.setattr(photographs.runtime, "pick_device", lambda: torch.device(device))
    monkeypatch.setattr(hub, "find", find)
    monkeypatch.setattr(backbone, "load_backbone", lambda name: name)
    assert getattr(chosen := photographs.load_photo_model("auto", minisd), "name", chosen) == expected
    assert photographs.load_photo_model("minisd", minisd) is minisd
