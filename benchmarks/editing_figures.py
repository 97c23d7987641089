"""The editing figures: what an editor reaches, measured by the held-out judge against the true answers.

Three studies, each written to reports/data/editing_NAME.json with n and 95 % intervals (over people, or over
scenes) beside every number:

directions  neutral -> emotion, emotion -> neutral, and the 56 emotion -> emotion directions by wheel distance
strengths   the same people at growing strength: where the emotion arrives, and where the person is lost
scenes      several people: the named ones' emotions, everybody's, and what happens to who was not named

    python benchmarks/editing_figures.py --split val --people 2 --scenes 1 --steps 8 --out try  # a try
    python benchmarks/editing_figures.py                                                # the numbers
Settings are chosen on validation people; test people, and the scenes, are for the last run alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from pkgutil import resolve_name

import numpy as np
import torch
from torch import Tensor

from emolib import images
from emolib.data import emofaces
from emolib.data.framing import FACE_MARGIN
from emolib.diffusion import backbone
from emolib.diffusion.backbone import Backbone
from emolib.editors import METHODS
from emolib.editors.compose import KeepDetail
from emolib.editors.person import PerPerson, Person
from emolib.emotions import spaces
from emolib.emotions.sets import EMOFACES, MIKELS
from emolib.interventions import directions as directions_of
from emolib.judges import emotion as judges
from emolib.judges import identity as fisherfaces
from emolib.metrics import estimates, preservation
from emolib.runtime import generator, one_of, progress, repo_path, script, versions, write_json

STRENGTHS = (0.2, 0.4, 0.6, 0.8, 1.0)
STRONG = {"neutral": ("anger", "amusement", "fear"), "amusement": ("anger", "sadness", "fear")}
STRANGERS = 300  # train people that teach the identity measure
FELT = ("neutral", "anger", "amusement")


@dataclass(frozen=True, eq=False)
class Bench:
    """What all studies use. `editor` makes the edits; the judge and the identity measure see the results."""

    model: Backbone
    editor: Callable
    people: emofaces.Portraits
    chosen: tuple[int, ...]
    raw: bool

    @cached_property
    def judge(self) -> judges.Judge:
        return judges.load_judge("heldout", device="cpu")

    @cached_property
    def identity(self) -> fisherfaces.Fisherfaces:
        """Fitted on train people, its threshold set on validation people, at the model's size."""
        train, val = emofaces.portraits("train"), emofaces.portraits("val")
        fitted = fisherfaces.fit_fisherfaces(*self._known(train, train.identities[:STRANGERS]))
        return fisherfaces.calibrated(fitted, *self._known(val, val.identities))

    def _known(self, data: emofaces.Portraits, who: Sequence[int]) -> tuple[Tensor, np.ndarray]:
        pairs = [(person, felt) for person in who for felt in FELT]
        pictures = images.resize(images.to_tensor([data.image(*pair) for pair in pairs]), self.model.size)
        boxes = [data.record(*pair)["face_box"] for pair in pairs]
        return self.faces(pictures, boxes), np.array([person for person, _ in pairs])

    def faces(self, pictures: Tensor, boxes: Sequence) -> Tensor:
        """What the identity measure reads of pictures at the model's size; boxes are those at 96 px."""
        scaled = np.asarray([list(box) for box in boxes]) * self.model.size / 96
        return fisherfaces.crop_faces(pictures, scaled.round().astype(int))

    def portrait(self, person: int, emotion: str) -> Tensor:
        """(1, 3, size, size)"""
        return images.resize(images.to_tensor(self.people.image(person, emotion)), self.model.size)

    def edit(self, editor: Callable, person: int, felt: str, targets: Sequence[str]) -> dict[str, np.ndarray]:
        """One picture edited into every target in one go; a column of numbers each, one row a target."""
        source, record = self.portrait(person, felt), self.people.record(person, felt)
        editor = editor if self.raw else KeepDetail(editor)
        made = editor(
            source,
            list(targets),
            generator=generator(0, person, felt),
            description=emofaces.description(record),
            source_emotion=felt,
        )
        truth = torch.cat([self.portrait(person, target) for target in targets])
        return self.measure(made, source.expand_as(truth), truth, targets, record["face_box"])

    def measure(
        self, made: Tensor, source: Tensor, truth: Tensor, targets: Sequence[str], box: Sequence[int]
    ) -> dict[str, np.ndarray]:
        """Columns (n,) of n edits of one person; all pictures (n, 3, size, size)."""
        wanted = torch.tensor([EMOFACES.index(target) for target in targets])
        (verdict, seen), (_, before), (_, goal) = (self.judge.describe(x) for x in (made, source, truth))
        faces = [self.identity(self.faces(x, [box] * len(x))) for x in (made, source, truth)]
        found = {
            "target_rate": verdict.emotion == wanted,
            "target_probability": verdict.probs.gather(1, wanted[:, None])[:, 0],
            "truth_psnr": preservation.psnr(made, truth),
            "truth_psnr_of_nothing": preservation.psnr(source, truth),
            "truth_ssim": preservation.ssim(made, truth),
            "truth_ssim_of_nothing": preservation.ssim(source, truth),
            "beats_nothing": preservation.beats_doing_nothing(made, source, truth),
            "truth_features": preservation.cosine(seen, goal),
            "truth_features_of_nothing": preservation.cosine(before, goal),
            "likeness_to_truth": preservation.cosine(faces[0], faces[2]),
            "likeness_to_source": preservation.cosine(faces[0], faces[1]),
            "same_person": preservation.cosine(faces[0], faces[1]) >= self.identity.threshold,
            "sharpness": preservation.sharpness_ratio(made, source),
        }
        return {name: np.asarray(values, dtype=float) for name, values in found.items()}

    def face(self, made: Tensor, room: Tensor, truth: Tensor, person: Person) -> dict[str, np.ndarray]:
        """The columns of one face of a scene. The identity measure knows the portraits' framing alone."""
        box = images.square_box(person.box, *room.shape[-2:], margin=FACE_MARGIN)
        crops = [images.resize(images.crop(x, box), self.model.size) for x in (made, room, truth)]
        found = self.measure(*crops, [person.emotion], (0, 0, 96, 96))
        return {name: x for name, x in found.items() if "likeness" not in name and name != "same_person"}


RATES = ("target_rate", "beats_nothing", "same_person")


class Rows:
    """Rows of numbers with labels; `numbers` averages those that a condition picks."""

    def __init__(self) -> None:
        self.labels: list[dict] = []
        self.columns: dict[str, list[float]] = {}

    def add(self, labels: list[dict], columns: dict[str, np.ndarray]) -> None:
        """As many rows as labels."""
        self.labels += labels
        for name, values in columns.items():
            self.columns.setdefault(name, []).extend(values.tolist())

    def numbers(self, picked: dict[str, object], only: Sequence[str] = ()) -> dict[str, dict]:
        """Columns (`only` these) over the rows with the `picked` labels, with intervals over groups."""
        use = np.array([all(row[k] == v for k, v in picked.items()) for row in self.labels])
        groups = np.array([row["group"] for row in self.labels])[use]
        own = {name: np.array(values)[use] for name, values in self.columns.items()}
        found = {}
        for name in only or own:
            measure = estimates.rate if name in RATES else estimates.mean
            found[name] = measure(own[name], groups=groups)._asdict()
        if not only:
            gain = estimates.paired(own["truth_psnr"], own["truth_psnr_of_nothing"], groups=groups)
            found["gain_over_nothing"] = gain._asdict()
        return found


def directions(bench: Bench) -> dict:
    """Every emotion into every other, from every person's nine pictures."""
    rows = Rows()
    todo = [(person, felt) for person in bench.chosen for felt in EMOFACES]
    for person, felt in progress(todo, "directions"):
        targets = [target for target in EMOFACES if target != felt]
        labels = [{"group": person, "from": felt, "to": t, "part": part(felt, t)} for t in targets]
        rows.add(labels, bench.edit(bench.editor, person, felt, targets))
    parts = sorted({row["part"] for row in rows.labels})
    found = {name: rows.numbers({"part": name}) for name in parts}
    targets = {label: rows.numbers({"from": "neutral", "to": label}) for label in MIKELS}
    matrix = {felt: {} for felt in EMOFACES}
    for felt, label in {(row["from"], row["to"]): None for row in rows.labels}:
        matrix[felt][label] = rows.numbers({"from": felt, "to": label}, ["target_rate"])["target_rate"]
    return {"parts": found, "neutral to": targets, "target_rate of every direction": matrix}


def part(felt: str, target: str) -> str:
    """Which of the parts a direction belongs to."""
    if "neutral" in (felt, target):
        return "to neutral" if target == "neutral" else "from neutral"
    return f"{spaces.wheel_distance(felt, target):03.0f} degrees"


def strengths(bench: Bench) -> dict:
    """The same edits at every strength, and the strengths at which half have arrived, half are lost."""
    rows = Rows()
    todo = [(person, felt, s) for person in bench.chosen for felt in STRONG for s in STRENGTHS]
    for person, felt, s in progress(todo, "strengths"):
        labels = [{"group": person, "from": felt, "to": to, "strength": s} for to in STRONG[felt]]
        rows.add(labels, bench.edit(replace(bench.editor, strength=s), person, felt, STRONG[felt]))
    found = {}
    for felt in STRONG:
        curve = {str(s): rows.numbers({"from": felt, "strength": s}) for s in STRENGTHS}
        points = {
            "arrives (half show the target)": crossing(rows, felt, "target_rate", rising=True),
            "breaks (half are another person)": crossing(rows, felt, "same_person", rising=False),
        }
        found[f"from {felt} to {', '.join(STRONG[felt])}"] = {"at": curve, "points": points}
    return found


def crossing(rows: Rows, felt: str, column: str, *, rising: bool, resamples: int = 1000) -> dict:
    """The strength at which the column's mean crosses 1/2, linear in between, with a bootstrap over people.

    At strength 0 nothing has arrived and nobody is lost. Where the curve never crosses, the value is null.
    """
    people = sorted({row["group"] for row in rows.labels})
    values: dict[tuple, list[float]] = {}
    for row, value in zip(rows.labels, rows.columns[column], strict=True):
        values.setdefault((row["group"], row["from"], row["strength"]), []).append(value)
    curves = np.array([[np.mean(values[person, felt, s]) for s in STRENGTHS] for person in people])

    def at(mean: np.ndarray) -> float:
        reached = np.maximum.accumulate(mean if rising else 1 - mean)
        return np.inf if reached[-1] < 0.5 else float(np.interp(0.5, [0, *reached], [0, *STRENGTHS]))

    draws = np.random.default_rng(0).integers(len(people), size=(resamples, len(people)))
    drawn = np.sort([at(curves[rows_of].mean(0)) for rows_of in draws])
    ends = drawn[round(0.025 * (resamples - 1))], drawn[round(0.975 * (resamples - 1))]
    value, low, high = (float(x) if np.isfinite(x) else None for x in (at(curves.mean(0)), *ends))
    return {"value": value, "low": low, "high": high, "n": len(people)}


def scenes(bench: Bench, count: int) -> dict:
    """Scenes of several people: everybody at once, and each person alone."""
    data, rows, everybody, outside, bystanders = emofaces.scenes(), Rows(), [], [], []
    people = PerPerson(bench.editor, bench.model.size)
    for number in progress(data.ids[:count], "scenes"):
        scene = data.get(number)
        room, everyone = images.to_tensor(scene.image), range(len(scene.people))
        for version, named in {"all": everyone, **{f"person{k}": [k] for k in everyone}}.items():
            whole = [person_of(p, asked=k in named) for k, p in enumerate(scene.people)]
            asked = [person for person in whole if person.emotion is not None]
            others = [person for person in whole if person.emotion is None]
            made = people(room, whole, seed=0)
            truth = images.to_tensor(data.get(number, version).image)
            faces = [bench.face(made, room, truth, person) for person in asked]
            for columns in faces:
                rows.add([{"group": number, "people": str(len(everyone))}], columns)
            moved = (made - room).abs().amax((0, 1)).numpy() * 127.5
            outside.append(float(moved[~np.any([person.mask for person in asked], axis=0)].max()))
            bystanders += [float(moved[person.mask].max()) for person in others]
            if version == "all":
                everybody.append(all(columns["target_rate"][0] for columns in faces))
    sizes = sorted({row["people"] for row in rows.labels})
    by_size = {n: rows.numbers({"people": n}, ["target_rate"])["target_rate"] for n in sizes}
    return {
        "named people": rows.numbers({}),
        "target_rate by people in the scene": by_size,
        "everybody shows their target": estimates.rate(everybody)._asdict(),
        "people not named, largest change in 8-bit levels": {"value": max(bystanders), "n": len(bystanders)},
        "outside the named, largest change in 8-bit levels": {"value": max(outside), "n": len(outside)},
        "outside the named, pictures of infinite PSNR": estimates.rate(np.array(outside) == 0)._asdict(),
    }


def person_of(person: emofaces.Person, *, asked: bool) -> Person:
    """A person of a scene, with what the true answer has them feel if they are asked."""
    text = emofaces.in_short(person.gender, person.hair_color)
    return Person(person.box, person.target if asked else None, person.emotion, text, mask=person.mask)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--study", nargs="+", default=["directions", "strengths", "scenes"], help="default: all three")
    add("--split", default="test", choices=("val", "test"), help="whose portraits (default: %(default)s)")
    add("--people", type=int, default=20, help="portraits of so many people (default: %(default)s)")
    add("--scenes", type=int, default=40, help="so many scenes (default: %(default)s)")
    add("--method", default="edit-friendly", help=f"{', '.join(METHODS)} (default: %(default)s)")
    add("--steps", type=int, default=20, help="num_inference_steps (default: %(default)s)")
    add("--guidance-scale", type=float, help="default: the method's own")
    add("--raw", action="store_true", help="portraits without KeepDetail")
    add("--model", default="minisd", help="minisd, or a diffusers folder (default: %(default)s)")
    add("--out", type=Path, default=repo_path("reports", "data"), help="folder (default: reports/data)")
    args = parser.parse_args()
    studies = {"directions": directions, "strengths": strengths, "scenes": partial(scenes, count=args.scenes)}
    for name in args.study:
        one_of(name, studies, "study")
    model = backbone.load_backbone(args.model, device="cpu")
    options = {} if args.guidance_scale is None else {"guidance_scale": args.guidance_scale}
    if args.method == "asyrp":
        options["directions"] = directions_of.load_shipped_directions()
    editor = resolve_name(METHODS[one_of(args.method, METHODS, "method")])
    editor = editor(model, num_inference_steps=args.steps, **options)
    people = emofaces.portraits(args.split)
    chosen = people.spread(args.people)
    bench = Bench(model, editor, people, chosen, args.raw)
    about = {"editor": repr(editor), "keep_detail": not args.raw, "split": args.split, "size": model.size}
    for name in args.study:
        path = args.out / f"editing_{name}.json"
        write_json(path, {"about": {**about, "versions": versions()}, **studies[name](bench)})
        print(path)


if __name__ == "__main__":
    script(main)
