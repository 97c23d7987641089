"""What the lessons' closing sections share: photographs, their people, edits shown whole and judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from emolib import images, runtime
from emolib.course.figures.pictures import contact_sheet
from emolib.data.files import PICTURE_SUFFIXES
from emolib.diffusion import backbone, hub
from emolib.diffusion.presets import DEFAULT_MODEL
from emolib.editors.person import Person
from emolib.editors.recipe import Recipe, build_editor, change_person, edit_image
from emolib.interventions.directions import Directions
from emolib.judges import emotion, identity
from emolib.judges.faces import Face, align_face, cut_faces, cut_squares, find_faces, find_points
from emolib.metrics import preservation
from emolib.runtime import InputError

LARGEST = 2048
"""The longer side of what is edited, px; larger photographs are scaled down."""
CLOSE = 0.3
"""What a face is shown with on each side, as a share of its box."""
FETCH = "emolib judge fetch photo-guide, photo-heldout and sface: then judges of photographs look, and SFace"


@dataclass(frozen=True, eq=False)
class Photograph:
    """A photograph and the faces in it, as `people` to edit."""

    name: str
    image: Image.Image
    faces: tuple[Face, ...]

    @property
    def people(self) -> tuple[Person, ...]:
        return tuple(Person(face.box, eyes=face.eyes) for face in self.faces)


def load_photographs(folder: str = "", most: int = 4) -> list[Photograph]:
    """Open the first pictures of a folder, or scikit-image's astronaut for "", and find the people in them.

    InputError: no such folder, no picture, or nobody in the first `most`."""
    if not folder:
        from skimage.data import astronaut

        opened = {"astronaut": Image.fromarray(astronaut())}
    elif not Path(folder).is_dir():
        raise InputError(f"photographs {folder!r}: no such folder; give one with pictures, or nothing")
    else:
        files = [path for path in sorted(Path(folder).rglob("*")) if path.suffix.lower() in PICTURE_SUFFIXES]
        opened = {path.name: images.open_image(path) for path in files[:most]}
    found = []
    for name, image in opened.items():
        image.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
        faces = tuple(find_faces(image))
        print(f"{name}: {image.width} x {image.height} px, faces: {len(faces)}")
        found += [Photograph(name, image, faces)] if faces else []
    if not found:
        raise InputError(
            f"photographs {folder!r}: nobody found in {len(opened)} pictures; give another folder"
        )
    return found


def load_photo_model(name: str, loaded: backbone.Backbone) -> backbone.Backbone:
    """Load the model for photographs; `loaded` if it is the one.

    "auto": Stable Diffusion 1.5 where there is a GPU and the Hub (some 2 GB are fetched), else MiniSD."""
    if name == "auto":
        name = DEFAULT_MODEL
        if runtime.pick_device().type == "cuda":
            try:
                hub.find("sd15", half=True)
                name = "sd15"
            except InputError as error:
                print(f"MiniSD in place of Stable Diffusion: {error}")
    return loaded if name == loaded.name else backbone.load_backbone(name)


def cut_people(shown: Sequence[Photograph], size: int) -> Tensor:
    """Cut everybody out, upright and framed as for an edit: (N, 3, size, size)."""
    return torch.cat([cut_squares(photo.image, photo.faces, size) for photo in shown])


def edit_photograph(
    photo: Photograph,
    label: str,
    model: backbone.Backbone,
    method: str,
    *,
    strength: float | None = None,
    steps: int = 0,
    seed: int = 0,
    directions: Directions | None = None,
) -> Image.Image:
    """Give everybody in a photograph an emotion, as `emolib edit` does.

    Strength, steps (0) and the rest are the model's preset. What people feel now is left unsaid."""
    people = tuple(replace(person, emotion=label, strength=strength) for person in photo.people)
    recipe = Recipe(people, method=method, model=model.name, seed=seed, num_inference_steps=steps or None)
    change = partial(change_person, editor=build_editor(recipe, model, directions))
    return edit_image(recipe, model, photo.image, change)


def show_photograph(photo: Photograph, edits: Mapping[str, Image.Image]) -> None:
    """Show a photograph and its edits by name, whole, then everybody's face close up."""
    shown = {photo.name: photo.image, **edits}
    size = (3.6 * len(shown), 0.3 + 3.6 * photo.image.height / photo.image.width)
    axes = plt.subplots(1, len(shown), figsize=size, layout="constrained", squeeze=False)[1][0]
    for axis, (name, image) in zip(axes, shown.items(), strict=True):
        axis.imshow(image)
        axis.set_title(name)
        axis.axis("off")
    plt.show()
    height, width = photo.image.height, photo.image.width
    boxes = [images.square_box(face.box, height, width, margin=CLOSE) for face in photo.faces]
    rows = [[image.crop(box) for image in shown.values()] for box in boxes]
    contact_sheet(rows, columns=list(shown), size=256, inches=2)
    plt.show()


def load_witnesses() -> tuple[list[emotion.Judge], identity.FaceNetwork | None]:
    """Load two judges and SFace where they have been fetched; else the judges of renders and None."""
    try:
        judges = [emotion.load_judge(f"photo-{role}") for role in emotion.ROLES]
        return judges, identity.load_face_network()
    except InputError:
        print(f"No network here knows photographs, so renders' judges look. {FETCH} says who it is.")
        return [emotion.load_judge(role) for role in emotion.ROLES], None


@torch.no_grad()
def judge_edits(
    photo: Photograph,
    edits: Mapping[Any, Image.Image],
    witnesses: tuple[list[emotion.Judge], identity.FaceNetwork | None],
) -> pd.DataFrame:
    """Say of everybody, before and after, what each judge sees and how sure it is, and whether it is they.

    `same person` is SFace's cosine to the source; without SFace `likeness` stands in, the structural
    similarity (SSIM) of the aligned faces: how much has changed, not who it is."""
    judges, network = witnesses
    rows, first = [], None
    for name, image in {photo.name: photo.image, **edits}.items():
        verdicts = {judge: judge(cut_faces(image, photo.faces, judge)) for judge in judges}
        aligned = images.to_tensor([align_face(image, find_points(face)) for face in photo.faces])
        seen = aligned if network is None else network(aligned)
        first = seen if first is None else first
        like = preservation.ssim(seen, first) if network is None else torch.cosine_similarity(seen, first)
        for k in range(len(photo.faces)):
            row = {"picture": name, "person": k + 1}
            for judge, verdict in verdicts.items():
                row[judge.name] = judge.labels[int(verdict.emotion[k])]
                row[f"{judge.name}, p"] = round(float(verdict.probs[k].max()), 2)
            rows.append(row | {"likeness" if network is None else "same person": round(float(like[k]), 2)})
    return pd.DataFrame(rows).set_index(["picture", "person"])
