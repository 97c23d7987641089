"""A small EmoFaces of cartoons with random judges beside it, and editors to evaluate on it."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from judge_standins import judge_folder
from train import standin

from emolib import images
from emolib.data import emofaces
from emolib.editors.base import draw
from emolib.evaluation import run
from emolib.judges import emotion as judges

PEOPLE = 4  # of the test split


_FOLDER = tempfile.TemporaryDirectory()


@lru_cache(maxsize=1)
def make_home() -> Path:
    """A clone's root, once for all tests: data/emofaces (cartoons), data/judges (random weights)."""
    root = Path(_FOLDER.name)
    standin.write(root / "data" / "emofaces", {"train": 12, "val": 4, "test": PEOPLE})
    for seed, (role, kind) in enumerate((("guide", "convnext"), ("heldout", "wide"))):
        folder = root / "data" / "judges" / role
        judge_folder(folder, kind, seed=seed)
        _teach(folder, root / "data" / "emofaces")
    return root


@pytest.fixture(scope="module", autouse=True)
def home():
    """Run a module's tests in that clone, when imported there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMOLIB_HOME", str(make_home()))
        yield


def _teach(folder: Path, data: Path) -> None:
    """Give a random judge a last layer that knows the pictures by heart, by ridge regression."""
    judge = judges.load_judge(folder, device="cpu")
    splits = [emofaces.portraits(split, data) for split in ("val", "test")]
    pictures = images.to_tensor([people.image_at(i) for people in splits for i in range(len(people))])
    emotions = [name for people in splits for name in people.frame["emotion"]]
    features = judge.describe(pictures)[1].double()
    wanted = torch.eye(9).double()[[judge.labels.index(name) for name in emotions]]
    centre, spread = features.mean(0), features.std(0) + 1e-6
    inputs = (features - centre) / spread
    gram = inputs.T @ inputs + 0.1 * torch.eye(inputs.shape[1])
    weight = 8 * torch.linalg.solve(gram, inputs.T @ wanted).T / spread  # 8: a confident softmax
    last = [module for module in judge.network.modules() if isinstance(module, torch.nn.Linear)][-1]
    last.weight[:9], last.bias[:9] = weight, -weight @ centre
    judge.network.save_pretrained(folder)


def settings(out: Path, *methods: str, **more) -> run.Settings:
    """Settings of a small run on the CPU."""
    options = run.Options(device="cpu")
    known = {"data": "emofaces:test", "targets": ("anger", "awe", "fear"), "options": options}
    known |= {"identity": "evaluation_world:pixels"}  # quicker than fitting Fisherfaces for every run
    return run.Settings(methods=methods, out=out, **(known | more))


def evaluate(out: Path, *methods: str, **more) -> dict:
    """Run, and the leaderboard as JSON."""
    run.execute(run.prepare(settings(out, *methods, **more)))
    return json.loads((out / "leaderboard.json").read_text())


@dataclass(frozen=True)
class Blend:
    """The generator's noise over the picture, more with more strength, the same for all of a call."""

    strength: float = 0.5
    judges_used: tuple[str, ...] = ()

    def __call__(self, images, emotion, *, generator, description="person", source_emotion=None):
        calls.append((emotion, description, source_emotion))
        noise = draw(images, generator).expand(len(emotion), -1, -1, -1)
        return (images + 0.4 * self.strength * noise).clamp(-1, 1)


@dataclass(frozen=True)
class Guided:
    """Holds a judge, whatever it declares."""

    judge: judges.Judge
    judges_used: tuple[str, ...] = ()

    def __call__(self, images, emotion, *, generator, description="person", source_emotion=None):
        return images.expand(len(emotion), -1, -1, -1)


def value(board, method, metric):
    return board["methods"][method]["all"][metric]["value"]


def _returns(value):
    def edit(images, emotion, *, generator, description="person", source_emotion=None):
        return value(images, len(emotion))

    edit.judges_used = ()
    return edit


calls: list = []
pool = torch.nn.AdaptiveAvgPool2d(6)


def pixels(faces):
    """An identity network of sorts: the face in 36 pixels."""
    return pool(faces).flatten(1)


blend = Blend()
cheat = Blend(judges_used=("heldout",))
shrinks = _returns(lambda x, n: x[..., ::2, ::2].expand(n, -1, -1, -1))
breaks = _returns(lambda x, n: x.expand(n, -1, -1, -1) * float("nan"))
unit = _returns(lambda x, n: (x / 2 + 0.5).expand(n, -1, -1, -1))
eight_bit = _returns(lambda x, n: (x * 127.5 + 127.5).expand(n, -1, -1, -1))
whole_numbers = _returns(lambda x, n: (x * 127.5 + 127.5).expand(n, -1, -1, -1).byte())
number = 3


def undeclared(images, emotion, *, generator, description="person", source_emotion=None):
    """Does not say which judges it asks."""
    return images
