"""What people feel before the edit, as the guide judge sees it."""

import torch

from emolib import images, judges
from emolib.data import emofaces
from emolib.editors.guess import with_sources
from emolib.editors.person import Target


def test_the_judge_names_what_each_person_feels_and_the_caller_knows_better():
    guide = judges.load("guide")
    val = emofaces.portraits("val")
    felt = ("anger", "amusement", "neutral")
    scene = torch.cat([images.to_tensor(val.image(val.identities[0], emotion)) for emotion in felt], -1)
    people = [Target((96 * i, 0, 96 * i + 96, 96), "awe") for i in range(3)]
    found = with_sources(scene, people, guide)
    assert tuple(person.source_emotion for person in found) == felt
    assert all(
        one.box == other.box and one.emotion == "awe" for one, other in zip(people, found, strict=True)
    )
    told = Target((0, 0, 96, 96), "awe", source_emotion="fear")
    assert with_sources(scene, [told], guide) == [told]
