"""The playground's edits: made from recipes by a model that remembers, kept, and in a thread of their own.

An inversion walks from the clean picture upwards, so at every strength it asks the same questions from the
start, whatever the emotion. Remembering them makes the inversion of a picture a one-time cost for all
methods that begin with it. Answers are the network's own, so an edit comes out bit for bit as without.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from emolib import images
from emolib.diffusion import backbone
from emolib.diffusion.backbone import Backbone, Embedding
from emolib.diffusion.sampling import Prediction
from emolib.editors.recipe import Recipe, apply_recipe, change_person, describe_edit, save_recipe
from emolib.playground.pictures import Picture
from emolib.runtime import first_line, is_out_of_memory

T = TypeVar("T")


class Recent:
    """A mapping that keeps the `size` most recently used values."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._kept

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The value kept under `key`, made now if there is none."""
        if key not in self._kept:
            self._kept[key] = make()
            if len(self._kept) > self.size:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]


class Remembered(Backbone):
    """`model`, with memory and a hook before every question to the UNet.

    watch              called before every one; what it raises ends the edit (`worker.Ticket.check`)
    asked, remembered  how many questions there were, and how many of them were answered from memory
    size               answers kept; 0 for methods that reach into the network (attention control), where the
                       same question may have another answer
    """

    def __init__(self, model: Backbone, *, size: int = 2000) -> None:
        super().__init__(model.pipe, model.name, model.device)
        self.watch: Callable[[], None] = lambda: None
        self.asked = self.remembered = 0
        self._answers, self._texts, self._latents, self._decoded = map(Recent, (size, 64, 16, 16))

    def embed(self, prompts: str | Sequence[str]) -> Embedding:
        """See `Backbone.embed`."""
        texts = (prompts,) if isinstance(prompts, str) else tuple(prompts)
        return self._texts.get(texts, lambda: super(Remembered, self).embed(texts))

    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See `Backbone.posterior`."""
        return self._latents.get(digest(images), lambda: super(Remembered, self).posterior(images))

    def decode(self, z: Tensor) -> Tensor:
        """See `Backbone.decode`."""
        return self._decoded.get(digest(z), lambda: super(Remembered, self).decode(z))

    def predict(
        self,
        z: Tensor,
        t: int | Tensor,
        cond: Embedding,
        uncond: Embedding | None = None,
        guidance_scale: float | Tensor = 1.0,
        *,
        level: int | Tensor | None = None,
    ) -> Prediction:
        """See `Backbone.predict`. Questions under autograd are not remembered."""
        self.watch()
        self.asked += 1

        def ask() -> Prediction:
            return super(Remembered, self).predict(z, t, cond, uncond, guidance_scale, level=level)

        if torch.is_grad_enabled() or not self._answers.size:
            return ask()
        parts = (z, t, level, guidance_scale, cond.hidden, cond.pooled)
        parts += () if uncond is None else (uncond.hidden, uncond.pooled)
        key = tuple(digest(part) if isinstance(part, Tensor) else part for part in parts)
        self.remembered += key in self._answers
        return self._answers.get(key, ask)


def digest(values: Tensor) -> bytes:
    """A short name of a tensor's contents: shape, type and bytes."""
    head = f"{tuple(values.shape)} {values.dtype}".encode()
    raw = values.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return hashlib.blake2b(head + raw.tobytes(), digest_size=16).digest()


CALLS = {"img2img": 1, "prompt-to-prompt": 2}  # questions to the UNet for each step; inversions ask twice


@dataclass(frozen=True)
class Steps:
    """Steps at strength 1 while the hand moves, and when it rests."""

    preview: int = 6
    full: int = 20


class Cost(NamedTuple):
    """What an edit took: seconds, questions to the UNet, and how many of them memory answered."""

    seconds: float
    asked: int
    remembered: int


class Session:
    """Models, and every edit made with them.

    load  how a model is found by name (`backbone.load_backbone`)
    """

    def __init__(
        self, load: Callable[[str], backbone.Backbone] = backbone.load_backbone, keep: int = 256
    ) -> None:
        self._load = load
        self._models: dict[tuple[str, bool], Remembered] = {}
        self._edits = Recent(keep)

    @property
    def loaded(self) -> set[str]:
        """Names of the models that are there already."""
        return {name for name, _ in self._models}

    def made(self, picture: Picture, recipe: Recipe) -> bool:
        """Whether everything in `recipe` has been made before."""
        return all(self._key(picture, recipe, k) in self._edits for k in recipe.changed)

    def model(self, name: str, method: str = "img2img") -> Remembered:
        """The model called `name`, loaded once. Attention control gets it without memory. InputError."""
        remembers = method != "prompt-to-prompt"
        if (name, remembers) not in self._models:
            twin = self._models.get((name, not remembers))
            loaded = self._load(name) if twin is None else twin
            self._models[name, remembers] = Remembered(loaded, size=2000 if remembers else 0)
        return self._models[name, remembers]

    def edit(
        self,
        picture: Picture,
        recipe: Recipe,
        *,
        watch: Callable[[], None] = lambda: None,
        progress: Callable[[float], None] = lambda share: None,
    ) -> tuple[Tensor, Cost]:
        """The picture after `recipe`, (1, 3, H, W), and what it cost now.

        watch     called before every question to the UNet; what it raises ends the edit, and what the
                  network has answered so far is kept
        progress  called likewise, with the share of the work that is done
        """
        model, start = self.model(recipe.model, recipe.method), time.perf_counter()
        before = model.asked, model.remembered
        new = [k for k in recipe.changed if self._key(picture, recipe, k) not in self._edits]
        planned = sum(questions(recipe, k) for k in new)

        def step() -> None:
            watch()
            progress(min((model.asked - before[0]) / max(planned, 1), 1.0))

        model.watch = step
        try:
            edited = apply_recipe(recipe, model, picture.pixels, partial(self._one, picture))
        finally:
            model.watch = lambda: None
        seconds = time.perf_counter() - start
        return edited, Cost(seconds, model.asked - before[0], model.remembered - before[1])

    def _key(self, picture: Picture, recipe: Recipe, k: int) -> tuple:
        return picture, recipe.alone(k)

    def _one(self, picture: Picture, recipe: Recipe, model: Remembered, pixels: Tensor, k: int) -> Tensor:
        return self._edits.get(self._key(picture, recipe, k), lambda: change_person(recipe, model, pixels, k))


def questions(recipe: Recipe, k: int) -> int:
    """Count the questions to the UNet that the edit of person `k` takes, about."""
    settings, strength = recipe.settings, recipe.people[k].strength
    strength = settings["strength"] if strength is None else strength
    steps = max(1, round(strength * settings["num_inference_steps"]))
    return steps * CALLS.get(recipe.method, 2) * (1 if recipe.via is None else 2)


def save_edit(folder: Path, picture: Picture, recipe: Recipe, edited: Tensor) -> Path:
    """Write NAME.png, NAME-source.png and NAME.json into `folder`; returns the path of the recipe.

    `emolib edit --from NAME.json` makes NAME.png again."""
    folder.mkdir(parents=True, exist_ok=True)
    felt = "-".join(f"{k + 1}{recipe.people[k].emotion}" for k in recipe.changed) or "unchanged"
    stem = "".join(c if c.isalnum() else "-" for c in Path(picture.name).stem) + f"-{felt}"
    numbers = ("", *(f"-{i}" for i in range(2, 1000)))
    name = next(stem + n for n in numbers if not (folder / f"{stem}{n}.json").exists())
    source = folder / f"{name}-source.png"
    images.save_image(picture.image, source)
    images.save_image(edited, folder / f"{name}.png", provenance=describe_edit(recipe))
    save_recipe(folder / f"{name}.json", recipe, source, picture.image)
    return folder / f"{name}.json"


def one_line(error: Exception) -> str:
    """What went wrong as one line that says how to mend it."""
    if is_out_of_memory(error):
        return "out of memory: take fewer steps, a smaller picture or a smaller model, then move a slider"
    kind = "" if isinstance(error, ValueError) and str(error).strip() else f"{type(error).__name__}: "
    return kind + first_line(error)


class Superseded(Exception):
    """A newer request waits: what is running is no longer wanted."""


class Ticket:
    """A running request's view of the queue. `certain`: it is done whatever comes."""

    def __init__(self, worker: Newest, certain: bool = False) -> None:
        self._worker, self._certain = worker, certain

    def check(self) -> None:
        """Call between steps. Raises Superseded once a newer request waits."""
        if not self._certain and self._worker.newer():
            raise Superseded

    def rest(self, seconds: float) -> None:
        """Wait for the hand to rest. Raises Superseded as soon as a newer request comes within `seconds`."""
        if not self._certain and self._worker.newer(seconds):
            raise Superseded


Work = Callable[[Ticket], None]


class Newest:
    """A thread with room for one waiting request: a newer one takes its place and ends the running one.

    Requests that are `certain` wait in a row of their own: nothing takes their place or ends them.

    failed  called, in the thread, with what a request raised (other than Superseded)
    """

    def __init__(self, failed: Callable[[Exception], None]) -> None:
        self._failed = failed
        self._changed = threading.Condition()
        self._waiting: Work | None = None
        self._certain: deque[Work] = deque()
        self._busy = self._closed = False
        self._thread = threading.Thread(target=self._run, name="playground", daemon=True)
        self._thread.start()

    def submit(self, work: Work, *, certain: bool = False) -> None:
        """Do `work(ticket)` next. Returns at once."""
        with self._changed:
            if certain:
                self._certain.append(work)
            else:
                self._waiting = work
            self._changed.notify_all()

    def _wanted(self) -> bool:
        return self._closed or bool(self._certain) or self._waiting is not None

    def newer(self, seconds: float = 0.0) -> bool:
        """Whether a newer request waits, or comes within `seconds`; also true once the worker is closed."""
        with self._changed:
            return self._changed.wait_for(self._wanted, seconds)

    def idle(self, seconds: float) -> bool:
        """Wait until nothing runs or waits; False if that takes longer than `seconds`."""
        with self._changed:
            return self._changed.wait_for(
                lambda: not self._busy and (self._closed or not self._wanted()), seconds
            )

    def close(self) -> None:
        """End the running request at its next check, and the thread; certain requests end first."""
        with self._changed:
            self._closed, self._waiting = True, None
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(self._wanted)
                certain = bool(self._certain)
                if self._closed and not certain:
                    return
                work = self._certain.popleft() if certain else self._waiting
                self._waiting, self._busy = (self._waiting if certain else None), True
            try:
                work(Ticket(self, certain))
            except Superseded:
                pass
            except Exception as error:  # whatever it is, the next request must find a living thread
                self._failed(error)
            finally:
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()
