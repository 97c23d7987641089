"""What can be played with: EmoFaces' test scenes and portraits by name, and pictures that people bring."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from PIL import Image
from torch import Tensor

from emolib import images
from emolib.data import emofaces
from emolib.editors.recipe import Person
from emolib.judges import faces
from emolib.runtime import InputError

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
    """The EmoFaces picture called "scene 3" or "person 1034" (as "person 1034 sadness": that emotion).

    InputError: no such picture."""
    kind, _, rest = name.partition(" ")
    number, _, emotion = rest.partition(" ")
    if kind not in ("scene", "person") or not number.isdigit():
        raise InputError(f"no picture is called {name!r}; write e.g. 'scene 0' or 'person 1034'")
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
    found, note = faces.find(images.to_tensor(image)), ""
    if not found:
        found = [images.square_box((0, 0, width, height), height, width)]
        note = f"{name}: no face found; the middle square is person 1"
    return Picture(name, image, tuple(Person(box) for box in found), note)
