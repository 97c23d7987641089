"""Run an evaluation: tasks outside, methods inside, every result kept on disk, so that it can be killed.

With `accelerate launch` every process takes each so-many-th task; numbers do not depend on how many.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from threadpoolctl import threadpool_limits
from torch import Tensor

from emolib import images
from emolib.evaluation import board, measure, methods, numbers, store, tasks
from emolib.evaluation.builders import Options
from emolib.evaluation.columns import get_column
from emolib.evaluation.measure import Arrays, Decoded, Embed, Instruments
from emolib.evaluation.methods import Method
from emolib.evaluation.numbers import Rows, Scores
from emolib.evaluation.store import Edits
from emolib.evaluation.tasks import Task, TaskSet
from emolib.judges import emotion
from emolib.metrics import optional, protocols
from emolib.metrics.cost import Cost
from emolib.runtime import InputError, check_output, derive_seed, in_range, one_of, progress, write_json

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
        parts = (method.key, self.tasks.digest, self.settings.seed, self.settings.targets, store.VERSION)
        return self.cache / "edits" / f"{store.file_name(method.name)}-{store.make_key(*parts)}"

    def measuring_key(self) -> str:
        """Make a key of everything that measured numbers depend on but the pictures."""
        tools = self.instruments
        judges = [methods.digest_weights(judge) for judge in (tools.judge, *tools.others.values())]
        return store.make_key(
            judges, self.identity_about, sorted(tools.extra), tools.protocols, store.VERSION
        )


# Prepare: everything that can be checked, then everything that is loaded.


def prepare(settings: Settings) -> Run:
    """Check everything that can be checked, then load it. InputError: see `emolib evaluate`."""
    one_of(settings.protocol, protocols.PROTOCOLS, "protocol")
    for name in settings.metrics:
        get_column(name)
    check_output(settings.out, folder=True)
    for name in settings.others:
        if "/" not in name and not Path(name).is_dir():
            one_of(name, emotion.ROLES, "judge (or folder, or Hub id owner/name)")
    in_range(settings.examples, 0, math.inf, "--examples")
    options = {"people": settings.people, "targets": settings.targets, "sources": settings.sources}
    todo = tasks.load_tasks(settings.data, **options)
    contestants, missing = methods.load_methods(settings.methods, todo, settings.options)
    todo = tasks.resize_tasks(todo, _choose_size(settings, todo, contestants))
    if settings.baseline != "nothing":
        one_of(settings.baseline, [method.name for method in contestants], "baseline")
    judge = measure.lay_faces(emotion.load_judge(settings.judge, device=settings.options.device))
    methods.check_roles(contestants, judge.name)
    for target in sorted({person.emotion for _, change in todo.edits for person in change.edited}):
        one_of(target, judge.labels, f"emotion to the {judge.name} judge:")
    others = _load_others(settings)
    embed, threshold, about = _load_identity(settings, todo, missing)
    extra = _load_extra(settings, missing) if contestants else {}  # `tune` prepares without any
    used = tuple(dict.fromkeys(("standard", settings.protocol)))
    instruments = Instruments(judge, others, embed, used, extra)
    return Run(settings, todo, contestants, instruments, threshold, about, missing)


def _choose_size(settings: Settings, todo: TaskSet, contestants: tuple[Method, ...]) -> int | None:
    """The side that portraits are brought to, px: what was asked for, else the diffusion models' own."""
    if not todo.whole:  # in scenes every face is brought to its editor's size, and back
        if settings.size is not None:
            raise InputError(f"--size is for portraits; in {todo.name} faces are edited at the model's size")
        return None
    native = sorted({method.size for method in contestants if method.size})
    if settings.size is None and len(native) > 1:
        raise InputError(f"the methods work at {' and '.join(map(str, native))} px; choose one with --size")
    return settings.size or next(iter(native), None)


def _load_others(settings: Settings) -> dict[str, emotion.Judge]:
    """Judges beside the headline's: roles, judge folders, or classifiers from the Hub's cache."""
    judges = [emotion.load_judge(name, device=settings.options.device) for name in settings.others]
    others = {store.file_name(judge.name): measure.lay_faces(judge) for judge in judges}
    for name in settings.metrics:
        if "@" in name:
            one_of(name.partition("@")[2], others, f"judge of metric {name!r}")
    return others


def _load_identity(
    settings: Settings, todo: TaskSet, missing: dict[str, str]
) -> tuple[Embed | None, float, str]:
    """(embedding, threshold, what it is): a network from outside, or Fisherfaces of EmoFaces."""
    if settings.identity:
        outside = ":" in settings.identity
        load = measure.import_identity if outside else measure.load_photo_identity
        return load(settings.identity)
    try:
        return measure.load_fisherfaces(todo, settings.out / "cache")
    except (InputError, OSError) as error:
        missing["identity"] = f"{optional.OFFLINE} ({error})"
        return None, float("nan"), "none, so joint success leaves it out"


def _load_extra(settings: Settings, missing: dict[str, str]) -> dict[str, optional.Compare]:
    """Columns of networks from outside. LPIPS may fetch weights, and so is tried only where it is shown."""
    shown = board.choose_columns(settings.protocol, settings.metrics)
    extra = {}
    for name, load in optional.COLUMNS.items():
        if name in optional.LOCAL or name in shown:
            try:
                extra[name] = load()
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
        reference = self._once(decoded, "reference", "", lambda: measure.measure_reference(decoded, tools))
        return reference, {m.name: self._measure_method(m, decoded, reference) for m in self.run.methods}

    def _measure_method(self, method: Method, decoded: Decoded, reference: Arrays) -> Arrays:
        folder, seed, source = self.folders[method.name], self.run.settings.seed, decoded.source
        name, tools = store.file_name(method.name), self.run.instruments
        edits = _get_edits(method, decoded, folder, seed)

        def measure_edits() -> Arrays:
            return measure.measure_edits(decoded, edits.decode(source), reference, tools)

        rows = self._once(decoded, name, edits.digest, measure_edits)
        if method.service is not None:
            rows |= measure.count_answers(decoded, store.read_record(folder, decoded.task.id)["answers"])
        if not self.run.settings.control or method.back is None:
            return rows
        # How far another seed's edits lie from these, and how near the source the way back ends.
        again = _get_edits(method, decoded, folder / "again", seed + 1)
        back = _get_edits(method, decoded, folder / "back", seed, there=edits)

        def measure_control() -> Arrays:
            return measure.measure_control(decoded, *(x.decode(source) for x in (edits, again, back)))

        digest = edits.digest + again.digest + back.digest
        return rows | self._once(decoded, f"{name}-control", digest, measure_control)

    def _once(self, decoded: Decoded, name: str, digest: str, measured: Callable[[], Arrays]) -> Arrays:
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
    truth_key, there_key = decoded.truth_key if method.name == "truth" else "", there.digest if there else ""
    key = store.make_key(decoded.key, truth_key, there_key)
    edits = store.read_edits(folder, key, task.id, names)
    if edits is None:
        edit, start = (method.back, there.decode(decoded.source)) if there else (method.edit, decoded.source)
        cost, seed = Cost(), derive_seed(seed, task.id)
        with cost.measured(method.networks):
            edited = edit(task, start, seed)
        fault = _find_fault(edited, decoded.source, len(names))
        if fault:
            raise InputError(f"method {method.name!r} on {task.id}: returned {fault}")
        pictures = dict(zip(names, images.to_pil(edited), strict=True))
        about = {"seed": seed, **cost.each(len(names))}
        about |= {"answers": method.service.take_records()} if method.service else {}
        edits = store.write_edits(folder, key, task.id, pictures, about)
    return edits


def _find_fault(edited: Tensor, source: Tensor, count: int) -> str | None:
    """What breaks an editor's contract: another shape or range."""
    due = (count, *source.shape[1:])
    shape = tuple(edited.shape) if isinstance(edited, Tensor) else type(edited).__name__
    if shape != due:
        return f"{shape} where {due} is due"
    if not torch.isfinite(edited).all():
        return "NaN or infinite pixels"
    # A decoder may overshoot a little. [0, 1] has no dark half, which edits of a dark picture have.
    dark = (source < -0.05).float().mean() > 0.01
    if edited.is_floating_point() and edited.abs().max() <= 1.5 and not (dark and edited.min() >= 0):
        return None
    low, high = float(edited.min()), float(edited.max())
    return f"{edited.dtype} from {low:.3g} to {high:.3g}; pictures are floats in [-1, 1]"


# Write: rows to tables, examples and costs.


def write_results(run: Run, measured: Sequence[tuple[Arrays, dict[str, Arrays]]]) -> Path:
    """Write tables, examples, costs and a manifest beside every method's edits; the Markdown file's path."""
    out = run.settings.out
    rows, scores = score_methods(run, measured)
    board.write_board(_build_board(run, rows, scores), out)
    board.write_examples(out, run.tasks.name, _choose_examples(run, [arrays for _, arrays in measured]))
    costs = {}
    for method in run.methods:
        if method.edit is not None:
            _write_manifest(method, run.folder(method), run.tasks)
            costs[method.name] = _average_costs(run.folder(method), run.tasks)
    write_json(out / "costs.json", {"threads": torch.get_num_threads(), "methods": costs})
    return out / "leaderboard.md"


def score_methods(
    run: Run, measured: Sequence[tuple[Arrays, dict[str, Arrays]]]
) -> tuple[Rows, dict[str, Scores]]:
    """Put what was measured of every task together: what the methods share, and each one's scores."""
    rows = Rows(run.tasks, _join([reference for reference, _ in measured]), run.threshold)
    if np.isnan(run.threshold) and run.instruments.identity is not None:
        rows = replace(rows, threshold=rows.find_threshold())
    scores = {}
    for method in run.methods:
        arrays = _join([arrays[method.name] for _, arrays in measured])
        features, probs = arrays.pop("features"), arrays.pop("probs")
        scores[method.name] = Scores(rows, arrays, features, probs, run.instruments.judge.labels)
    return rows, scores


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
        "metrics": board.choose_columns(settings.protocol, settings.metrics) + _answer_columns(run),
        "judge": judge.name,
        "features": f"{judge.name} judge, {rows.reference['source_features'].shape[1]} of its last layer",
        "identity": about,
        "sources": len(run.tasks.tasks),
        "edits": len(run.tasks.edits),
        "groups": len(set(rows["group"].tolist())),
        "seed": settings.seed,
        "version": store.VERSION,
        "steps": settings.options.steps,
        "weights": sorted({digest for method in run.methods for digest in method.weights}),
        "baseline": settings.baseline,
        "matched_at": numbers.AT,
        "not_available": dict(run.missing),
        "faults": {name: list(protocols.FAULTS[name]) for name in run.instruments.protocols[1:]},
        "labels": list(judge.labels),
        "methods": {m.name: board.build_method(m, scores, settings.baseline) for m in run.methods},
        "curves": board.build_curves(scores),
    }


def _answer_columns(run: Run) -> list[str]:
    """What is shown of hosted services."""
    return ["refused", "lost"] if any(method.service for method in run.methods) else []


def _choose_examples(run: Run, measured: Sequence[dict[str, Arrays]]) -> list[board.Example]:
    """A few edits to look at: the first tasks of the run, chosen by no score."""
    examples = []
    for k, task in enumerate(run.tasks.tasks[: run.settings.examples]):
        chosen = STRIDE * k % len(task.changes)
        row = sum(len(change.people) for change in task.changes[:chosen])
        scores = {m: {name: x[row] for name, x in arrays.items()} for m, arrays in measured[k].items()}
        edited = [method for method in run.methods if method.name not in board.UNEDITED]
        edits = {method.name: _open_edit(run, method, task, chosen) for method in edited}
        examples.append(board.Example(task, chosen, edits, scores))
    return examples


def _open_edit(run: Run, method: Method, task: Task, chosen: int) -> Image.Image:
    name = task.changes[chosen].name
    if method.submitted is not None:
        return images.open_image(method.submitted[task.id, name])
    return images.open_image(run.folder(method) / store.edit_path(task.id, name))


def _write_manifest(method: Method, folder: Path, todo: TaskSet) -> None:
    """Make a method's folder in the store a submission that anybody can score again."""
    rows = [
        {"source": task.id, "target": change.name, "path": store.edit_path(task.id, change.name)}
        for task, change in todo.edits
    ]
    about = {"method": method.name, "caption": method.caption, "judges_used": list(method.judges_used)}
    write_json(folder / store.MANIFEST, {**about, "data": todo.name, "edits": rows})


def _average_costs(folder: Path, todo: TaskSet) -> dict[str, Any]:
    """Medians over the tasks of what the records say; they differ from run to run, unlike the tables."""
    records = [record for task in todo.tasks if (record := store.read_record(folder, task.id))]
    costs: dict[str, Any] = {"n": len(records)}
    for name in ("seconds", "evaluations", "peak_mb"):
        values = [record[name] for record in records if record.get(name) is not None]
        costs[name] = statistics.median(values) if values else None
    return costs
