"""What people feel before the edit, as the guide judge sees it."""

from types import SimpleNamespace

import tiny_pipelines
import torch

from emolib import images
from emolib.cli import main
from emolib.data import emofaces
from emolib.diffusion import backbone
from emolib.editors import person as guess
from emolib.editors.person import Person, with_sources
from emolib.judges import emotion as judges
from emolib.runtime import InputError


def test_the_judge_names_what_each_person_feels_and_the_caller_knows_better():
    guide = judges.load_judge("guide")
    val = emofaces.portraits("val")
    felt = ("anger", "amusement", "neutral")
    scene = torch.cat([images.to_tensor(val.image(val.identities[0], emotion)) for emotion in felt], -1)
    people = [Person((96 * i, 0, 96 * i + 96, 96), "awe") for i in range(3)]
    found = with_sources(scene, people, guide)
    assert tuple(person.source_emotion for person in found) == felt
    assert all(
        one.box == other.box and one.emotion == "awe" for one, other in zip(people, found, strict=True)
    )
    told = Person((0, 0, 96, 96), "awe", source_emotion="fear")
    bystander = Person((0, 0, 96, 96))
    assert with_sources(scene, [told, bystander], guide) == [told, bystander]


class Watcher:
    """A judge that keeps what it is shown, and sees its first label everywhere."""

    labels, size = ("awe",), 12

    def __call__(self, pictures):
        self.shown = pictures
        return SimpleNamespace(emotion=torch.zeros(len(pictures), dtype=torch.long))


def test_the_judge_is_shown_the_crop_that_is_edited():
    picture = torch.linspace(-1, 1, 40).expand(1, 3, 40, 40)
    person = Person((10, 10, 20, 20), "anger")
    for margin, box in ((0.0, (10, 10, 20, 20)), (0.5, (5, 5, 25, 25))):
        judge = Watcher()
        with_sources(picture, [person], judge, margin=margin)
        assert torch.equal(judge.shown, images.resize(images.crop(picture, box), 12))


def test_the_command_line_gives_the_judge_the_margin_of_the_edit(tmp_path, monkeypatch, capsys):
    def watch(*given, margin):
        raise InputError(f"margin {margin}")

    source = tmp_path / "a.png"
    emofaces.portraits("val").image_at(0).save(source)
    monkeypatch.setattr(guess, "with_sources", watch)
    model = tiny_pipelines.tiny("sd")  # before the loader is replaced, which it calls itself
    monkeypatch.setattr(backbone, "load_backbone", lambda name, **options: model)
    options = ["--to", "awe", "-o", str(tmp_path / "b.png"), "--margin", "0.25", "--box", "0,0,32,32"]
    assert main.main(["edit", str(source), *options]) == 2
    assert "emolib: margin 0.25" in capsys.readouterr().err
