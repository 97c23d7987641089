"""The run: tasks outside, methods inside, every result an entry on disk, so that it can be killed.

With `accelerate launch` every process takes each so-many-th task; numbers do not depend on how many.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache as once
from pathlib import Path

from threadpoolctl import threadpool_limits
from torch import Tensor

from emolib.evaluation import (
    board,
    cache,
    checks,
    columns,
    edits,
    identity,
    methods,
    observe,
    parts,
    tables,
    tasks,
)
from emolib.evaluation.methods import Method, Options
from emolib.evaluation.observe import Arrays, Instruments
from emolib.evaluation.tasks import Task, TaskSet
from emolib.judges import emotion
from emolib.metrics import optional, protocols
from emolib.runtime import InputError, check_output, one_of, progress

Decode = Callable[[], observe.Decoded]
"""Decodes a task when first called, `once`: a task that is wholly cached never is."""


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
    """Everything loaded. `where` is the cache folder, `notes` say which columns are missing and why."""

    settings: Settings
    tasks: TaskSet
    methods: tuple[Method, ...]
    instruments: Instruments
    threshold: float
    identity_about: str
    notes: Mapping[str, str]

    @property
    def where(self) -> Path:
        return self.settings.out / "cache"

    def folder(self, method: Method) -> Path:
        """Where the method's edits lie; another model, seed, data or code has another folder."""
        key = cache.key(
            method.key,
            self.tasks.digest,
            self.settings.seed,
            self.settings.targets,
            cache.code(without=cache.NOT_EDITING),
        )
        return self.where / "edits" / f"{edits.slug(method.name)}-{key}"

    def stamp(self) -> str:
        """Stands for everything that a measured number depends on but the edits."""
        judged = [self.instruments.judge, *self.instruments.others.values()]
        weights = [parts.weights(judge) for judge in judged]
        return cache.key(
            weights,
            self.tasks.digest,
            self.identity_about,
            sorted(self.instruments.extra),
            self.instruments.protocols,
            cache.code(only=cache.MEASURING),
        )


def prepare(settings: Settings) -> Run:
    """Check everything that can be checked, then load it. InputError: see `emolib evaluate`."""
    protocols.check(settings.protocol)
    columns.check(settings.metrics)
    check_output(settings.out, folder=True)
    checks.others(settings.others)
    if settings.examples < 0:
        raise InputError(f"--examples {settings.examples}: give 0 or more")
    found = tasks.load(
        settings.data, people=settings.people, targets=settings.targets, sources=settings.sources
    )
    contestants, notes = methods.load_all(settings.methods, found, settings.options)
    found = tasks.resized(found, _size(settings, found, contestants))
    if settings.baseline != "nothing":
        one_of(settings.baseline, [method.name for method in contestants], "baseline")
    judge = emotion.load_judge(settings.judge, device=settings.options.device)
    methods.check_roles(contestants, judge.name)
    checks.labels(found, judge)
    others = _others(settings, notes)
    checks.asked(settings.metrics, others, notes)
    embed, threshold, about = _identity(settings, found, notes)
    extra = _extra(settings, notes)
    used = tuple(dict.fromkeys(("standard", settings.protocol)))
    instruments = Instruments(judge, others, embed, used, extra)
    return Run(settings, found, contestants, instruments, threshold, about, notes)


def _size(settings: Settings, found: TaskSet, contestants: tuple[Method, ...]) -> int | None:
    """The side that portraits are brought to, px: what was asked for, else the diffusion models' own."""
    if not found.whole:
        if settings.size is not None:
            raise InputError(f"--size is for portraits; in {found.name} faces are edited at the model's size")
        return None  # in scenes every face is brought to its editor's size, and back
    native = sorted({method.size for method in contestants if method.size})
    if settings.size is None and len(native) > 1:
        raise InputError(f"the methods work at {' and '.join(map(str, native))} px; choose one with --size")
    return settings.size or next(iter(native), None)


def _others(settings: Settings, notes: dict[str, str]) -> dict[str, emotion.Judge]:
    """Further judges: roles, judge folders, or classifiers from the Hub's cache; a missing one is a note."""
    found = {}
    for name in settings.others:
        try:
            judge = emotion.load_judge(name, device=settings.options.device)
            found[edits.slug(judge.name)] = judge
        except InputError as error:
            notes[f"emo_a@{edits.slug(name)}"] = f"{optional.OFFLINE} ({error})"
    return found


def _identity(
    settings: Settings, found: TaskSet, notes: dict[str, str]
) -> tuple[observe.Embed | None, float, str]:
    if settings.identity:
        network, about = identity.imported(settings.identity)
        return network, float("nan"), about
    try:
        return identity.from_emofaces(found, settings.out / "cache")
    except InputError as error:
        notes["identity"] = f"{optional.OFFLINE} ({error})"
        return None, float("nan"), "none, so joint success leaves it out"


def _extra(settings: Settings, notes: dict[str, str]) -> dict[str, optional.Compare]:
    shown = tables.shown(settings.protocol, settings.metrics)
    found = {}
    for name in dict.fromkeys([*columns.OPTIONAL[:4], *(n for n in shown if n in columns.OPTIONAL)]):
        try:
            found[name] = optional.COLUMNS[name]()
        except optional.Unavailable as error:
            notes[name] = str(error)
    return found


def execute(run: Run) -> Path | None:
    """Do what is not done yet, then write the tables. The path, or None in all but the first process."""
    from accelerate import PartialState

    state = PartialState()
    for folder in (run.settings.out, run.where):
        folder.mkdir(parents=True, exist_ok=True)
    measure = Measurer(run)
    own = run.tasks.tasks[state.process_index :: state.num_processes]
    # Threads of numpy's BLAS and torch's would wait for the cores they take from each other: twice the time.
    with threadpool_limits(1, "blas"):
        for task in progress(own, "evaluating"):
            measure(task)
        state.wait_for_everyone()
        if not state.is_main_process:
            return None
        return board.write(run, [measure(task) for task in run.tasks.tasks])


class Measurer:
    """`measurer(task)` -> what the judges see in its source and truth, and every method's rows.

    An entry is believed if its checksum holds and it was measured on the edits that are there now.
    """

    def __init__(self, run: Run) -> None:
        self.run, self.stamp = run, run.stamp()
        self.folders = {method.name: run.folder(method) for method in run.methods}
        self.done: dict[str, tuple[Arrays, dict[str, Arrays]]] = {}

    def __call__(self, task: Task) -> tuple[Arrays, dict[str, Arrays]]:
        if task.id not in self.done:
            decoded = once(lambda: observe.decode(task, whole=self.run.tasks.whole, side=self._side))
            known = self._known(task, decoded)
            rows = {m.name: self._rows(m, task, decoded, known) for m in self.run.methods}
            self.done[task.id] = known, rows
        return self.done[task.id]

    @property
    def _side(self) -> int:
        return self.run.instruments.judge.size

    def _known(self, task: Task, decoded: Decode) -> Arrays:
        path = self._entry(task, "reference", "")
        found = cache.read(path)
        if found is None:
            found = observe.reference(decoded(), self.run.instruments)
            cache.write(path, found)
        return found

    def _rows(self, method: Method, task: Task, decoded: Decode, known: Arrays) -> Arrays:
        folder, seed = self.folders[method.name], self.run.settings.seed
        shown = _Shown(method, task, decoded, folder, seed)
        path = self._entry(task, edits.slug(method.name), shown.digest)
        found = cache.read(path)
        if found is None:
            found = observe.measure(decoded(), shown.images, known, self.run.instruments)
            cache.write(path, found)
        if self.run.settings.control and method.back is not None:
            found = found | self._control(method, task, decoded, shown)
        return found

    def _control(self, method: Method, task: Task, decoded: Decode, shown: _Shown) -> Arrays:
        """How far another seed's edits lie from these, and how near the source the way back ends."""
        folder, seed = self.folders[method.name], self.run.settings.seed
        again = _Shown(method, task, decoded, folder / "again", seed + 1)
        back = _Shown(method, task, decoded, folder / "back", seed, there=shown)
        path = self._entry(task, f"{edits.slug(method.name)}-control", f"{again.digest}{back.digest}")
        found = cache.read(path)
        if found is None:
            found = observe.control(decoded(), shown.images, again.images, back.images)
            cache.write(path, found)
        return found

    def _entry(self, task: Task, name: str, digest: str) -> Path:
        key = cache.key(self.stamp, repr(task), digest)
        return self.run.where / "measured" / name / f"{task.id}-{key}.entry"


class _Shown:
    """A method's edits of a task, from disk if they are there, else made now; decoded when looked at.

    With `there` they are its way back.
    """

    def __init__(
        self,
        method: Method,
        task: Task,
        decoded: Decode,
        folder: Path,
        seed: int,
        *,
        there: _Shown | None = None,
    ) -> None:
        self._decoded, self._images, self._stored = decoded, None, edits.stored(method, task, folder)
        if self._stored is None:
            start = decoded().source if there is None else there.images
            back = there is not None
            self._stored, self._images = edits.make(method, task, start, folder, seed, back=back)
        self.digest = self._stored.digest

    @property
    def images(self) -> Tensor:
        if self._images is None:
            self._images = self._stored.decode(self._decoded().source)
        return self._images
