"""The playground as a widget. The only module that imports ipywidgets (through anywidget).

Traits, all dictionaries that the page (view.js) reads, and of which it writes only `ask`:

setup   what can be chosen: pictures, methods, models, emotions, wheels, strengths; `live`
ask     what is chosen: see `controls`
scene   name, width, height, `before` (WebP), people (box, description), of the picture
shown   `after` (WebP), quality ("preview" or "full"), bars (title, before, after), cost; the `ask` it answers
strip   items (strength, picture) for the chosen person
status  share of the work that is done, text, error: one line each
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import anywidget
import traitlets
from torch import Tensor

from emolib import images, runtime
from emolib.diffusion import backbone
from emolib.diffusion.presets import DEFAULT_METHOD, DEFAULT_MODEL, PRESETS
from emolib.editors.recipe import Recipe
from emolib.emotions import sets
from emolib.playground import controls, pictures, session
from emolib.playground.pictures import Picture
from emolib.playground.session import Cost, Newest, Session, Steps, Ticket

HERE = Path(__file__).parent
REST = 0.3  # seconds without a newer request after which the hand counts as resting
STRIP = (0.0, 0.25, 0.5, 0.75, 1.0)


def webp(pixels: Tensor) -> bytes:
    """One picture (1, 3, H, W) in [-1, 1] as it is sent to the page: without loss, so that what was not
    edited looks as before."""
    return images.encode_webp(pixels, 20, lossless=True, method=1)


def choices(model: str) -> dict[str, Any]:
    """Make the part of `setup` that depends on the model: its wheels, and what it can be asked for."""
    wheels = {name: controls.petals_of(name, model) for name in controls.WHEELS}
    more = (petal["means"] for petal in wheels["plutchik"] if petal["means"])
    return {"wheels": wheels, "emotions": controls.coloured(dict.fromkeys([*sets.EMOFACES, *more]))}


class Playground(anywidget.AnyWidget):
    """Pick a picture and a person, turn the wheel, watch the face. Edits run in a thread of their own.

    load    how a model is found by its name
    folder  where "Save" writes (default: outputs/playground in the repository)
    """

    _esm = HERE / "view.js"
    _css = HERE / "view.css"
    setup = traitlets.Dict().tag(sync=True)
    ask = traitlets.Dict().tag(sync=True)
    scene = traitlets.Dict().tag(sync=True)
    shown = traitlets.Dict().tag(sync=True)
    strip = traitlets.Dict().tag(sync=True)
    status = traitlets.Dict({"share": None, "text": "", "error": ""}).tag(sync=True)

    def __init__(
        self,
        picture: str = "scene 1",
        emotion: str = "amusement",
        strength: float = 0.6,
        *,
        method: str = DEFAULT_METHOD,
        model: str = DEFAULT_MODEL,
        seed: int = 0,
        steps: Steps = Steps(),  # noqa: B008
        load: Callable[[str], backbone.Backbone] = backbone.load_backbone,
        folder: Path | None = None,
    ) -> None:
        self.steps, self.session = steps, Session(load)
        self.folder = folder or runtime.repo_path("outputs", "playground")
        self._opened: dict[str, Picture] = {}
        self._picture: Picture | None = None
        setup = {
            "live": True,
            "pictures": list(pictures.names().items()),
            "methods": list(controls.METHODS),
            "models": list(PRESETS),
            "labels": controls.coloured(),
            "strengths": list(controls.STRENGTHS),
            "first": {"emotion": emotion, "strength": strength},
            **choices(model),
        }
        super().__init__(setup=setup, ask=controls.first_ask(picture, method, model, seed))
        self.worker = Newest(self._failed)
        self.observe(lambda change: self._submit(change["new"]), "ask")
        self.on_msg(self._message)
        self._submit(self.ask)

    def close(self) -> None:
        """Stop working, and take the view away."""
        if hasattr(self, "worker"):
            self.worker.close()
        super().close()

    def _submit(self, ask: dict[str, Any]) -> None:
        self.worker.submit(partial(self._answer, dict(ask)))

    def _message(self, _: Any, content: dict[str, Any], buffers: list[memoryview]) -> None:
        if content.get("kind") == "upload":
            name, data = str(content["name"]), bytes(buffers[0])
            self.worker.submit(partial(self._upload, name, data))
        elif content.get("kind") == "save":
            self.worker.submit(partial(self._save, dict(self.ask)), certain=True)

    def _failed(self, error: Exception) -> None:
        self.status = {"share": None, "text": "", "error": session.one_line(error)}

    def _say(self, text: str, share: float | None = None, error: str = "") -> None:
        self.status = {"share": share, "text": text, "error": error}

    def _upload(self, name: str, data: bytes, ticket: Ticket) -> None:
        self._say(f"looking for faces in {name}", 0.0)
        self._opened[name] = pictures.open_upload(name, data)
        self._open(name)

    def _open(self, name: str) -> Picture:
        """The picture by its name, shown if it is not yet."""
        picture = self._opened.get(name) or pictures.open_named(name)
        if picture is not self._picture:
            self._picture = picture
            self.strip, self.shown = {"items": []}, {}
            self.scene = controls.scene_of(picture, webp(picture.pixels)) | {"name": name}
        return picture

    def _answer(self, ask: dict[str, Any], ticket: Ticket) -> None:
        """Do what the controls say: a preview, then the real thing, then the strip."""
        picture = self._open(ask["picture"])
        if len(ask["wishes"]) != len(picture.people):
            return  # the page will say who is to feel what, now that it knows the people
        if {**self.setup, **choices(ask["model"])} != self.setup:
            self.setup = {**self.setup, **choices(ask["model"])}
        self._say("" if ask["model"] in self.session.loaded else f"loading {ask['model']}", 0.0)
        preview, full = (
            controls.recipe_of(ask, picture.people, n) for n in (self.steps.preview, self.steps.full)
        )
        if preview != full and not self.session.made(picture, full):
            self._edit(picture, preview, ask, ticket, "preview")
            ticket.rest(REST)
        self._edit(picture, full, ask, ticket, "full")
        self._say("", 1.0, picture.note)
        self._make_strip(picture, preview, ask["person"], ticket)

    def _save(self, ask: dict[str, Any], ticket: Ticket) -> None:
        """Write the edit that was shown, or on its way, when Save was pressed; no newer wish ends this."""
        picture = self._opened.get(ask["picture"]) or pictures.open_named(ask["picture"])
        full = controls.recipe_of(ask, picture.people, self.steps.full)
        self._say("saving", 0.0)
        edited, _ = self.session.edit(picture, full)
        path = session.save_edit(self.folder, picture, full, edited)
        self._say(f"saved; emolib edit --from {path} makes it again", 1.0, picture.note)

    def _edit(
        self, picture: Picture, recipe: Recipe, ask: dict[str, Any], ticket: Ticket, quality: str
    ) -> Tensor:
        """Make the edit, show it with what the judge sees in the chosen person."""

        def progress(share: float) -> None:
            self._say(quality, share, picture.note)

        edited, cost = self.session.edit(picture, recipe, watch=ticket.check, progress=progress)
        ticket.check()
        k = ask["person"]
        bars = {
            "title": f"what the held-out judge sees in person {k + 1}",
            "before": pictures.probabilities(picture, picture.pixels, k),
            "after": pictures.probabilities(picture, edited, k),
        }
        distance = pictures.to_the_truth(picture, edited, k, recipe.people[k].emotion)
        truth = f". {pictures.describe_distance(distance)}" if distance else ""
        self.shown = {
            "after": webp(edited),
            "quality": quality,
            "ask": ask,
            "bars": bars,
            "cost": f"{quality}, {described(cost)}{truth}",
        }
        return edited

    def _make_strip(self, picture: Picture, recipe: Recipe, k: int, ticket: Ticket) -> None:
        """Person `k` at a few strengths, at preview quality, left to right as they are made."""
        person, items = recipe.people[k], []
        if person.emotion is None:
            self.strip = {"items": []}
            return
        for strength in STRIP:
            one = recipe.alone(k).with_wish(k, person.emotion, strength)
            edited, _ = self.session.edit(picture, one, watch=ticket.check)
            ticket.check()
            items = [*items, {"strength": strength, "picture": webp(pictures.face_of(picture, edited, k))}]
        self.strip = {"items": items}


def described(cost: Cost) -> str:
    """What an edit took, in words."""
    if not cost.asked:
        return "made before: nothing to compute"
    memory = f", {cost.remembered} of them answered from memory" if cost.remembered else ""
    return f"{cost.seconds:.1f} s, {cost.asked} questions to the UNet{memory}"
