"""Run an evaluation: tasks outside, methods inside, every result kept on disk, so that it can be killed.

With `accelerate launch` every process takes each so-many-th task; numbers do not depend on how many.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from threadpoolctl import threadpool_limits
from torch import Tensor

from emolib import images
from emolib.evaluation import board, columns, measure, methods, numbers, store, submissions, tasks
from emolib.evaluation.measure import Arrays, Decoded, Embed, Instruments
from emolib.evaluation.methods import Method, Options
from emolib.evaluation.numbers import Rows, Scores
from emolib.evaluation.store import Edits
from emolib.evaluation.tasks import Task, TaskSet
from emolib.judges import emotion
from emolib.metrics import optional, protocols
from emolib.metrics.cost import Cost
from emolib.runtime import InputError, check_output, derive_seed, one_of, progress, write_json

STRIDE = 5  # the k-th example shows change 5 k: neighbours ask for different emotions


@dataclass(frozen=True)
class Settings:
    """What `emolib evaluate` is told, see its --help. `judge` gives the headline, `others` stand beside."""

    data: str
    methods: tuple[str, ...]
    out: Path
    people: int | None = None
    targets: tuple[str, ...] = ()
    sources: str = "rotate"
    judge: str = "heldout"
    others: tuple[str, ...] = ("guide",)
    protocol: str = "standard"
    metrics: tuple[str, ...] = ()
    baseline: str = "nothing"
    identity: str = ""
    size: int | None = None
    examples: int = 6
    seed: int = 0
    control: bool = False
    options: Options = Options()


@dataclass(frozen=True)
class Run:
    """Everything loaded. `missing` says which columns and methods are not there, and why."""

    settings: Settings
    tasks: TaskSet
    methods: tuple[Method, ...]
    instruments: Instruments
    threshold: float
    identity_about: str
    missing: Mapping[str, str]

    @property
    def cache(self) -> Path:
        return self.settings.out / "cache"

    def folder(self, method: Method) -> Path:
        """Name the folder of the method's edits; another model, seed, data or version has another folder."""
        told = (method.key, self.tasks.digest, self.settings.seed, self.settings.targets, store.VERSION)
        return self.cache / "edits" / f"{store.file_name(method.name)}-{store.make_key(*told)}"

    def measuring_key(self) -> str:
        """Make a key of everything that measured numbers depend on but the pictures."""
        judges = [self.instruments.judge, *self.instruments.others.values()]
        return store.make_key(
            [methods.digest_weights(judge) for judge in judges],
            self.identity_about,
            sorted(self.instruments.extra),
            self.instruments.protocols,
            store.VERSION,
        )


# Prepare: everything that can be checked, then everything that is loaded.


def prepare(settings: Settings) -> Run:
    """Check everything that can be checked, then load it. InputError: see `emolib evaluate`."""
    one_of(settings.protocol, protocols.PROTOCOLS, "protocol")
    columns.check(settings.metrics)
    check_output(settings.out, folder=True)
    for name in settings.others:
        if "/" not in name and not Path(name).is_dir():
            one_of(name, emotion.ROLES, "judge (or folder, or Hub id owner/name)")
    if settings.examples < 0:
        raise InputError(f"--examples {settings.examples}: give 0 or more")
    options = {"people": settings.people, "targets": settings.targets, "sources": settings.sources}
    todo = tasks.load_tasks(settings.data, **options)
    contestants, missing = methods.load_methods(settings.methods, todo, settings.options)
    todo = tasks.resize_tasks(todo, _choose_size(settings, todo, contestants))
    if settings.baseline != "nothing":
        one_of(settings.baseline, [method.name for method in contestants], "baseline")
    judge = emotion.load_judge(settings.judge, device=settings.options.device)
    methods.check_roles(contestants, judge.name)
    _check_labels(todo, judge)
    others = _load_others(settings)
    embed, threshold, about = _load_identity(settings, todo, missing)
    extra = _load_extra(settings, missing)
    used = tuple(dict.fromkeys(("standard", settings.protocol)))
    instruments = Instruments(judge, others, embed, used, extra)
    return Run(settings, todo, contestants, instruments, threshold, about, missing)


def _check_labels(todo: TaskSet, judge: emotion.Judge) -> None:
    """InputError if the judge does not know an emotion that is asked for."""
    targets = {face.target for task in todo.tasks for change in task.changes for face in change.asked}
    unknown = sorted(targets - set(judge.labels))
    if unknown:
        known = ", ".join(judge.labels)
        raise InputError(
            f"{todo.name}: the {judge.name} judge does not know {unknown[0]!r}; it knows {known}"
        )


def _choose_size(settings: Settings, todo: TaskSet, contestants: tuple[Method, ...]) -> int | None:
    """The side that portraits are brought to, px: what was asked for, else the diffusion models' own."""
    if not todo.whole:
        if settings.size is not None:
            raise InputError(f"--size is for portraits; in {todo.name} faces are edited at the model's size")
        return None  # in scenes every face is brought to its editor's size, and back
    native = sorted({method.size for method in contestants if method.size})
    if settings.size is None and len(native) > 1:
        raise InputError(f"the methods work at {' and '.join(map(str, native))} px; choose one with --size")
    return settings.size or next(iter(native), None)


def _load_others(settings: Settings) -> dict[str, emotion.Judge]:
    """Judges beside the headline's: roles, judge folders, or classifiers from the Hub's cache."""
    others = {}
    for name in settings.others:
        judge = emotion.load_judge(name, device=settings.options.device)
        others[store.file_name(judge.name)] = judge
    for name in settings.metrics:
        judge = name.partition("@")[2]
        if judge and judge not in others:
            there = ", ".join(others) or "none"
            raise InputError(f"metric {name!r}: no judge {judge!r} stands beside the headline's ({there})")
    return others


def _load_identity(
    settings: Settings, todo: TaskSet, missing: dict[str, str]
) -> tuple[Embed | None, float, str]:
    """(embedding, threshold, what it is): a network from outside, or Fisherfaces of EmoFaces."""
    try:
        if settings.identity:
            return measure.import_identity(settings.identity)
        return measure.load_fisherfaces(todo, settings.out / "cache")
    except InputError as error:
        if settings.identity:
            raise
        missing["identity"] = f"{optional.OFFLINE} ({error})"
        return None, float("nan"), "none, so joint success leaves it out"


def _load_extra(settings: Settings, missing: dict[str, str]) -> dict[str, optional.Compare]:
    """Columns of networks from outside. LPIPS may fetch weights, and so is tried only where it is shown."""
    shown = [
        name for name in board.choose_columns(settings.protocol, settings.metrics) if name in optional.COLUMNS
    ]
    extra = {}
    for name in dict.fromkeys([*optional.LOCAL, *shown]):
        try:
            extra[name] = optional.COLUMNS[name]()
        except optional.Unavailable as error:
            missing[name] = str(error)
    return extra


# Execute: make and measure what is not there yet.


def execute(run: Run) -> Path | None:
    """Do what is not done yet, then write the tables. The path, or None in all but the first process."""
    from accelerate import PartialState

    state = PartialState()
    for folder in (run.settings.out, run.cache):
        folder.mkdir(parents=True, exist_ok=True)
    measurer = Measurer(run)
    own = run.tasks.tasks[state.process_index :: state.num_processes]
    # Threads of numpy's BLAS and torch's would wait for the cores they take from each other: twice the time.
    with threadpool_limits(1, "blas"):
        done = {task.id: measurer.measure(task) for task in progress(own, "evaluating")}
        state.wait_for_everyone()
        if not state.is_main_process:
            return None
        return write_results(run, [done.get(task.id) or measurer.measure(task) for task in run.tasks.tasks])


class Measurer:
    """`measure(task)` -> what the judges see in its source and truth, and every method's rows.

    An entry is believed if its checksum holds and it was measured on the pictures that are there now.
    """

    def __init__(self, run: Run) -> None:
        self.run, self.key = run, run.measuring_key()
        self.folders = {method.name: run.folder(method) for method in run.methods}

    def measure(self, task: Task) -> tuple[Arrays, dict[str, Arrays]]:
        """Measure a task, or read what was measured before."""
        tools = self.run.instruments
        decoded = measure.decode_task(task, whole=self.run.tasks.whole, side=tools.judge.size)
        known = self._once(decoded, "reference", "", lambda: measure.measure_reference(decoded, tools))
        return known, {method.name: self._rows(method, decoded, known) for method in self.run.methods}

    def _rows(self, method: Method, decoded: Decoded, known: Arrays) -> Arrays:
        folder, seed, source = self.folders[method.name], self.run.settings.seed, decoded.source
        name, tools = store.file_name(method.name), self.run.instruments
        edits = _get_edits(method, decoded, folder, seed)
        rows = self._once(
            decoded,
            name,
            edits.digest,
            lambda: measure.measure_edits(decoded, edits.decode(source), known, tools),
        )
        if not self.run.settings.control or method.back is None:
            return rows
        # How far another seed's edits lie from these, and how near the source the way back ends.
        again = _get_edits(method, decoded, folder / "again", seed + 1)
        back = _get_edits(method, decoded, folder / "back", seed, there=edits)
        return rows | self._once(
            decoded,
            f"{name}-control",
            edits.digest + again.digest + back.digest,
            lambda: measure.measure_control(decoded, *(x.decode(source) for x in (edits, again, back))),
        )

    def _once(self, decoded: Decoded, name: str, digest: str, measured) -> Arrays:
        """What `measured()` gives for these pictures, from disk if it is there."""
        key = store.make_key(self.key, decoded.key, decoded.truth_key, digest)
        path = self.run.cache / "measured" / name / f"{store.file_name(decoded.task.id)}-{key}.entry"
        arrays = store.read_arrays(path)
        if arrays is None:
            arrays = measured()
            store.write_arrays(path, arrays)
        return arrays


def _get_edits(
    method: Method, decoded: Decoded, folder: Path, seed: int, *, there: Edits | None = None
) -> Edits:
    """A method's edits of a task, or with `there` their way back: from disk, else made now and kept.

    Scores are of the 8-bit pictures, whoever made them. Each picture has a seed of its own, so that intervals
    over people hold the chance of the noise as well; it stands in the record, for `emolib edit --seed`.
    """
    task = decoded.task
    names = [change.name for change in task.changes]
    if method.submitted is not None:
        return store.open_edits([method.submitted[task.id, name] for name in names])
    key = store.make_key(decoded.key, decoded.truth_key if method.name == "truth" else "",
                         there.digest if there else "")  # fmt: skip
    edits = store.read_edits(folder, key, task.id, names)
    if edits is None:
        edit, start = method.edit, decoded.source
        if there is not None:
            edit, start = method.back, there.decode(decoded.source)
        cost, seed = Cost(), derive_seed(seed, task.id)
        with cost.measured(method.networks):
            edited = edit(task, start, seed)
        _check_edits(edited, decoded.source, method, task)
        pictures = dict(zip(names, images.to_pil(edited), strict=True))
        edits = store.write_edits(folder, key, task.id, pictures, {"seed": seed, **cost.each(len(names))})
    return edits


def _check_edits(edited: Tensor, source: Tensor, method: Method, task: Task) -> None:
    """InputError for edits of another shape or range than an editor's contract says."""
    where, due = f"method {method.name!r} on {task.id}", (len(task.changes), *source.shape[1:])
    shape = tuple(edited.shape) if isinstance(edited, Tensor) else type(edited).__name__
    if shape != due:
        raise InputError(f"{where}: returned {shape} where {due} is due")
    if not torch.isfinite(edited).all():
        raise InputError(f"{where}: returned NaN or infinite pixels")
    # A decoder may overshoot a little. [0, 1] has no dark half, which edits of a dark picture have.
    dark = (source < -0.05).float().mean() > 0.01
    if not edited.is_floating_point() or edited.abs().max() > 1.5 or (dark and edited.min() >= 0):
        ends = f"{float(edited.min()):.3g} to {float(edited.max()):.3g}"
        raise InputError(f"{where}: returned {edited.dtype} from {ends}; pictures are floats in [-1, 1]")


# Write: rows to tables, examples and costs.


def write_results(run: Run, measured: Sequence[tuple[Arrays, dict[str, Arrays]]]) -> Path:
    """Write tables, examples, costs and a manifest beside every method's edits; the Markdown file's path."""
    out = run.settings.out
    rows = Rows(run.tasks, _join([known for known, _ in measured]), run.threshold)
    if np.isnan(run.threshold) and run.instruments.identity is not None:
        rows = replace(rows, threshold=rows.find_threshold())
    scores = {}
    for method in run.methods:
        arrays = _join([arrays[method.name] for _, arrays in measured])
        features, probs = arrays.pop("features"), arrays.pop("probs")
        scores[method.name] = Scores(rows, arrays, features, probs, run.instruments.judge.labels)
    board.write_board(_build_board(run, rows, scores), out)
    _write_examples(run, measured)
    costs = {}
    for method in run.methods:
        if method.edit is not None:
            about = {"method": method.name, "caption": method.caption}
            about |= {"judges_used": list(method.judges_used)}
            submissions.write_submission(run.folder(method), about, run.tasks)
            costs[method.name] = _average_costs(run.folder(method), run.tasks)
    write_json(out / "costs.json", {"threads": torch.get_num_threads(), "methods": costs})
    return out / "leaderboard.md"


def _join(parts: list[Arrays]) -> Arrays:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _build_board(run: Run, rows: Rows, scores: Mapping[str, Scores]) -> board.Board:
    settings, judge, about = run.settings, run.instruments.judge, run.identity_about
    if run.instruments.identity is not None:
        about = f"{about}; same person from cosine {rows.threshold:.3f}"
    return {
        "data": run.tasks.name,
        "data_digest": run.tasks.digest,
        "size": run.tasks.size,
        "notes": [run.tasks.note] if run.tasks.note else [],
        "protocol": settings.protocol,
        "metrics": board.choose_columns(settings.protocol, settings.metrics),
        "judge": judge.name,
        "features": f"{judge.name} judge, {rows.known['source_features'].shape[1]} of its last layer",
        "identity": about,
        "sources": len(run.tasks.tasks),
        "edits": run.tasks.edits,
        "groups": len(set(rows.groups.tolist())),
        "seed": settings.seed,
        "version": store.VERSION,
        "steps": settings.options.steps,
        "weights": sorted({digest for method in run.methods for digest in method.weights}),
        "baseline": settings.baseline,
        "matched_at": numbers.AT,
        "not_available": dict(run.missing),
        "faults": {name: list(protocols.FAULTS[name]) for name in run.instruments.protocols[1:]},
        "labels": list(judge.labels),
        "methods": board.build_methods(run.methods, scores, settings.baseline),
        "curves": board.build_curves(scores),
    }


def _write_examples(run: Run, measured: Sequence[tuple[Arrays, dict[str, Arrays]]]) -> None:
    """A few edits to look at: the first tasks of the run, chosen by no score."""
    examples, scores = [], {}
    for k, task in enumerate(run.tasks.tasks[: run.settings.examples]):
        chosen = STRIDE * k % len(task.changes)
        row = sum(len(change.faces) for change in task.changes[:chosen])
        scores[task.id] = {
            name: {metric: values[row] for metric, values in arrays.items()}
            for name, arrays in measured[k][1].items()
        }
        edits = {m.name: _open_edit(run, m, task, chosen) for m in run.methods
                 if m.name not in board.UNEDITED}  # fmt: skip
        examples.append((task, chosen, edits))
    board.write_examples(run.settings.out, run.tasks.name, examples, scores)


def _open_edit(run: Run, method: Method, task: Task, chosen: int) -> Image.Image:
    name = task.changes[chosen].name
    if method.submitted is not None:
        return images.open_image(method.submitted[task.id, name])
    return images.open_image(run.folder(method) / store.edit_path(task.id, name))


def _average_costs(folder: Path, todo: TaskSet) -> dict[str, Any]:
    """Medians over the tasks of what the records say; they differ from run to run, unlike the tables."""
    records = []
    for task in todo.tasks:
        with suppress(OSError, ValueError):
            records.append(store.read_record(folder, task.id))
    costs: dict[str, Any] = {"n": len(records)}
    for name in ("seconds", "evaluations", "peak_mb"):
        values = [record[name] for record in records if record.get(name) is not None]
        costs[name] = statistics.median(values) if values else None
    return costs
