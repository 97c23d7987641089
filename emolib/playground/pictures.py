"""What can be played with, pictures by name or brought along, and what is shown beside an edit: what a judge
sees in it, and how far it is from the truth. Nothing of the latter goes back into an edit.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image
from torch import Tensor

from emolib import images
from emolib.data import emofaces
from emolib.data.framing import FACE_MARGIN
from emolib.editors.person import Person
from emolib.judges import emotion as judges
from emolib.judges import faces
from emolib.metrics import preservation
from emolib.runtime import InputError

judge = cache(judges.load_judge)
LARGEST = 768  # px, the longer side of what is edited and shown; larger uploads are scaled down


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture with its people. `pixels` (1, 3, H, W) in [-1, 1]; `note` is one line to show, or empty.

    `truths` (position of a person, emotion) -> the rendered answer, (1, 3, H, W), where there is one.
    """

    name: str
    image: Image.Image
    people: tuple[Person, ...]
    note: str = ""
    truths: dict[tuple[int, str], Tensor] | None = None

    @property
    def pixels(self) -> Tensor:
        return images.to_tensor(self.image)


def names(scenes: int = 12, portraits: int = 12) -> dict[str, str]:
    """Name -> words for a menu: the first scenes and portraits of EmoFaces' test people."""
    rooms, people = emofaces.scenes(), emofaces.portraits("test")
    found = {}
    for number in rooms.ids[:scenes]:
        versions = rooms.versions(number)
        found[f"scene {number}"] = f"scene {number}: {len(versions) - 2} people"
    for identity in people.spread(portraits):
        found[f"person {identity}"] = f"person {identity}"
    return found


@cache
def open_named(name: str) -> Picture:
    """The EmoFaces picture called "scene 3" or "person 1034" (as "person 1034 sadness": that emotion), or a
    picture file. InputError: no such picture."""
    if Path(name).is_file():
        return open_upload(Path(name).name, Path(name).read_bytes())
    kind, _, rest = name.partition(" ")
    number, _, emotion = rest.partition(" ")
    if kind not in ("scene", "person") or not number.isdigit():
        raise InputError(f"no picture is called {name!r}; write e.g. 'scene 0', 'person 1034' or a file")
    return _scene(int(number)) if kind == "scene" else _portrait(int(number), emotion or "neutral")


def _scene(number: int) -> Picture:
    rooms = emofaces.scenes()
    scene = rooms.get(number)
    people, truths = [], {}
    for k, person in enumerate(scene.people):
        people.append(Person(person.box, description=person.gender, source_emotion=person.emotion))
        truths[k, person.target] = images.to_tensor(rooms.truth(number, k).image)
    return Picture(f"scene {number}", scene.image, tuple(people), truths=truths)


def _portrait(identity: int, emotion: str) -> Picture:
    test = emofaces.portraits("test")
    record, image = test.record(identity, emotion), test.image(identity, emotion)
    who = emofaces.description(record)
    person = Person((0, 0, *image.size), description=who, source_emotion=emotion)
    truths = {(0, felt): images.to_tensor(test.image(identity, felt)) for felt in test.emotions}
    return Picture(f"person {identity}", image, (person,), truths=truths)


def open_upload(name: str, data: bytes) -> Picture:
    """A picture somebody brought, with the faces found in it. InputError: unreadable."""
    try:
        image = images.open_image(data)
    except InputError as error:
        raise InputError(str(error).replace("the picture", name, 1)) from None
    image.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    width, height = image.size
    people, note = tuple(Person(face.box, eyes=face.eyes) for face in faces.find_faces(image)), ""
    if not people:
        people = (Person(images.square_box((0, 0, width, height), height, width)),)
        note = f"{name}: no face found; the middle square is person 1"
    return Picture(name, image, people, note)


def face_of(picture: Picture, pixels: Tensor, k: int) -> Tensor:
    """Person `k`, as a judge looks at them: the square around the face, (1, 3, side, side)."""
    box = images.square_box(picture.people[k].box, *pixels.shape[-2:], margin=FACE_MARGIN)
    return images.crop(pixels, box)


def probabilities(picture: Picture, edited: Tensor, k: int, role: str = "heldout") -> list[float]:
    """What a judge sees in person `k` of `edited` (1, 3, H, W): probabilities in the order of `EMOFACES`."""
    return judge(role, device="cpu")(face_of(picture, edited, k)).probs[0].tolist()


def to_the_truth(picture: Picture, edited: Tensor, k: int, emotion: str | None) -> tuple[float, float] | None:
    """PSNR (dB) to the true answer of the edited face and of the untouched one; None without a truth."""
    truth = (picture.truths or {}).get((k, emotion))
    if truth is None:
        return None
    goal = face_of(picture, truth, k)
    edit, untouched = (face_of(picture, x, k) for x in (edited, picture.pixels))
    return float(preservation.psnr(edit, goal)[0]), float(preservation.psnr(untouched, goal)[0])


def describe_distance(distance: tuple[float, float] | None) -> str:
    """What `to_the_truth` says, in words."""
    if distance is None:
        return "There is no true picture of this emotion to compare with."
    edit, untouched = distance
    return f"To the true picture: {edit:.1f} dB, doing nothing {untouched:.1f} dB (PSNR)"
