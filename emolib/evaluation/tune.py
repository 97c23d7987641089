"""Choose a method's strength and guidance on validation pictures: successive halving, judged by a guide.

Every round spends as much on half as many settings (Jamieson & Talwalkar 2016). All are asked for the same
edits with the same noise; the model's own setting goes through to the last round, to be compared with. What a
guide says would favour ever stronger edits, so it counts as far as the person is still the same. Edits and
measures are kept as an evaluation keeps them, so that a killed search goes on where it was.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from emolib.diffusion.presets import KIND, OPEN, load_preset
from emolib.emotions.sets import EMOFACES
from emolib.evaluation import builders, methods, run, store
from emolib.evaluation.builders import Options
from emolib.evaluation.methods import Method
from emolib.evaluation.numbers import Numbers, Scores
from emolib.evaluation.run import Run
from emolib.evaluation.tasks import Task
from emolib.judges.emotion import load_judge
from emolib.metrics import estimates
from emolib.metrics.estimates import Estimate
from emolib.runtime import InputError, progress, write_json

GOAL = "goal"
"""Emo-S times the cosine of identity, or SSIM where nothing tells who is who; of each edit."""
SHOWN = (GOAL, "emo_s", "emo_a", "identity", "same_person", "ssim", "beats_nothing")
FINALISTS = 2  # in the last round, beside the model's own setting
Fields = dict[str, Any]
"""A setting: those of `presets.OPEN` that the method has."""


@dataclass(frozen=True)
class Search:
    """What `emolib tune` is told, see its --help.

    out      folder of all that is kept
    floor    (column, value): what a setting has to keep
    judge    "" is the model's own guide
    budget   edits of a method, at most
    strengths, guidance_scales  to try; none: some about the model's own
    """

    data: str
    out: Path
    floor: tuple[str, float] = ("same_person", 0.9)
    judge: str = ""
    budget: int = 400
    strengths: tuple[float, ...] = ()
    guidance_scales: tuple[float, ...] = ()
    targets: tuple[str, ...] = ()
    identity: str = ""
    seed: int = 0
    options: Options = Options()


@dataclass(frozen=True)
class Finding:
    """The best setting of a method: its `means` and the `reference`'s, the model's own, of as many `people`,
    and the `gain`, the paired difference of `GOAL`."""

    fields: Fields
    means: Numbers
    reference: Numbers
    gain: Estimate
    people: int


def prepare_search(search: Search) -> Run:
    """Load pictures, judge and identity. InputError: see `emolib tune`."""
    name, _, split = search.data.partition(":")
    if name == "emofaces" and split not in ("train", "val"):
        raise InputError(f"--data {search.data}: these people are for scores; tune on emofaces:val")
    model = builders.load_model(search.options)
    judge = load_judge(search.judge or model.preset.judge, device=search.options.device)
    if judge.role == "heldout":
        raise InputError(f"--judge {search.judge}: a held-out judge is for scores; tune with a guide")
    targets = search.targets or tuple(label for label in EMOFACES if label in judge.labels)
    loaded = run.prepare(
        run.Settings(
            search.data,
            (),
            search.out,
            targets=targets,
            judge=search.judge or model.preset.judge,
            others=(),
            identity=search.identity,
            size=model.size,
            examples=0,
            seed=search.seed,
            options=search.options,
        )
    )
    if loaded.instruments.identity is None and search.floor[0] in ("identity", "same_person"):
        raise InputError(
            f"{search.data}: nothing tells who is who; give --identity, or another floor: --floor ssim=0.6"
        )
    return loaded


def list_settings(search: Search, method: str) -> list[Fields]:
    """List what is tried, the model's own setting first. InputError: the model cannot do the method."""
    preset = builders.load_model(search.options).preset
    preset = load_preset(search.options.preset, preset) if search.options.preset else preset
    own = {name: value for name, value in preset.get_settings(method).fields.items() if name in OPEN}
    own |= {} if search.options.steps is None else {"num_inference_steps": search.options.steps}
    near = [round(own["strength"] + step, 4) for step in (-0.3, -0.15, 0, 0.15)]
    tried = [own | {"strength": x} for x in search.strengths or [x for x in near if 0 < x <= 1]]
    if "guidance_scale" in own:
        scales = search.guidance_scales or [own["guidance_scale"] * times for times in (0.5, 0.75, 1, 1.5)]
        tried = [fields | {"guidance_scale": x} for fields in tried for x in scales]
    return [own, *(fields for fields in tried if fields != own)]


def plan_rounds(settings: int, budget: int) -> list[tuple[int, int]]:
    """Plan the rounds: (settings, the model's own among them; edits of each). InputError: a small budget."""
    left = [settings]
    while left[-1] > FINALISTS + 1:
        left.append(max(FINALISTS, math.ceil((left[-1] - 1) / 2)) + 1)
    least = 2 * len(left) * settings
    if budget < least:
        raise InputError(f"--budget {budget}: {settings} settings take {least} edits or more; try fewer")
    return [(count, budget // (len(left) * count)) for count in left]


def choose_tasks(tasks: Sequence[Task], edits: int, most: int) -> tuple[Task, ...]:
    """Choose pictures for about so many edits, at least two; the last round makes `most` of them.

    With as few targets a picture as give that many: it is people who are independent, not edits. A smaller
    round's edits are part of a larger one's."""
    each, chosen = math.ceil(most / len(tasks)), []
    for k, task in enumerate(tasks[: max(2, edits // each)]):
        start = run.STRIDE * k % len(task.changes)
        turned = task.changes[start:] + task.changes[:start]
        chosen.append(replace(task, changes=turned[:each]))
    return tuple(chosen)


def tune_method(search: Search, loaded: Run, method: str) -> Finding:
    """Find the setting of most `GOAL` among those that keep the floor; all scores are in METHOD-scores.json.

    InputError: none of the last round keeps it."""
    settings = {_name(method, fields): fields for fields in list_settings(search, method)}
    rounds, record = plan_rounds(len(settings), search.budget), []
    base = methods.load_method(method, loaded.tasks, search.options)
    own, *others = settings
    for count, edits in rounds:
        names = [own, *others[: count - 1]]
        tasks = choose_tasks(loaded.tasks.tasks, edits, rounds[-1][1])
        scores = _score(search, loaded, base, {name: settings[name] for name in names}, tasks)
        means = {name: _average(scores[name]) for name in names}
        record.append({"people": len(tasks), "settings": {name: _pick(means[name]) for name in names}})
        write_json(search.out / f"{store.file_name(method)}-scores.json", record)
        # Of a few people it is enough that the floor may be kept, at the end it has to be.
        end = len(record) == len(rounds)
        kept = [name for name in names if _get(means[name], search.floor[0], end) >= search.floor[1]]
        order = sorted(names, key=lambda name: means[name][GOAL].value if name in kept else -2, reverse=True)  # noqa: B023
        others = [name for name in order if name != own]
    best = order[0]
    if best not in kept:
        column, value = search.floor
        said = ", ".join(f"{name}: {means[name][column]}" for name in names)
        raise InputError(f"no setting keeps {column} {value:g} ({said}); lower --floor, or other --strengths")
    pair = (measure_goal(scores[best]), measure_goal(scores[own]))
    gain = estimates.paired(*pair, groups=scores[own].rows["group"])
    return Finding(settings[best], means[best], means[own], gain, len(tasks))


def measure_goal(scores: Scores) -> np.ndarray:
    """Measure what is searched for, of every edit (N,)."""
    kept = scores.columns["identity" if "identity" in scores.columns else "ssim"]
    return scores.columns["emo_s"] * kept


def _average(scores: Scores) -> Numbers:
    goal = estimates.mean(measure_goal(scores), groups=scores.rows["group"])
    return {GOAL: goal} | scores.average(sets=False)


def _name(method: str, fields: Fields) -> str:
    return " ".join([method, *(f"{name}={value:g}" for name, value in fields.items())])


def _score(
    search: Search, loaded: Run, base: Method, settings: dict[str, Fields], tasks: tuple[Task, ...]
) -> dict[str, Scores]:
    """Edit and measure the tasks with every setting; what was done before is read."""
    method, contestants = base.name, []
    for name, fields in settings.items():
        editor = builders.build_editor(method, search.options, **fields)
        edit = partial(base.edit.func, editor, *base.edit.args[1:])
        key = store.make_key(base.key, repr(editor))
        contestants.append(replace(base, name=name, caption=repr(editor), key=key, edit=edit, back=None))
    todo = replace(loaded, tasks=replace(loaded.tasks, tasks=tasks), methods=tuple(contestants))
    measurer, what = run.Measurer(todo), f"{len(settings)} settings, {len(tasks)} people"
    with threadpool_limits(1, "blas"):
        measured = [measurer.measure(task) for task in progress(tasks, what)]
    return run.score_methods(todo, measured)[1]


def _get(means: Numbers, column: str, at_least: bool) -> float:
    """A column's mean, or the most that it may be. InputError: no such column."""
    if column not in means:
        raise InputError(f"--floor {column}: not measured here; there are {', '.join(means)}")
    return means[column].value if at_least else means[column].high


def _pick(means: Numbers) -> dict[str, dict[str, float]]:
    return {name: means[name]._asdict() for name in SHOWN if name in means}


def write_preset(path: Path, search: Search, judge: str, findings: dict[str, Finding]) -> None:
    """Write a file for `presets.load_preset` of each method's finding, and how it was found."""
    people = max(finding.people for finding in findings.values())
    tuned = {
        method: {"chosen": _pick(x.means), "before": _pick(x.reference), "gain": x.gain._asdict()}
        for method, x in findings.items()
    }
    content = {
        "kind": KIND,
        "family": builders.load_model(search.options).preset.name,
        "about": f"tuned on {people} people of {search.data}, judge {judge}",
        "settings": {method: finding.fields for method, finding in findings.items()},
        "tuned": tuned | {"floor": list(search.floor), "budget": search.budget, "seed": search.seed},
    }
    write_json(path, content)
