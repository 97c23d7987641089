"""From one label set to another, as row-stochastic matrices whose every entry names its source.

No published table connects these sets. What is published are pieces: which of the 24 labels belongs to
which petal, what two petals blend into, and which words the sets share. All else is ours, and says so.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from emolib.emotions import sets
from emolib.runtime import InputError, one_of

PETAL = "Plutchik 2001: the label is a shade of the petal"
DYAD = "Plutchik 2001: the label is the dyad of the two petals (equal shares)"
SAME = "the same word in both sets"


class Entry(NamedTuple):
    """One non-zero entry. `kind` is "published" or "ours"; `note` says what it rests on."""

    source: str
    target: str
    weight: float
    kind: str
    note: str


class Mapping(NamedTuple):
    """`matrix` (len(rows), len(columns)), rows sum to 1; `entries` lists what is not zero."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    matrix: np.ndarray
    entries: tuple[Entry, ...]


# "label: target weight, target weight | note"; a row that is absent is the same word in both sets.
_SHADES = """
        serenity: contentment 1 | joy split by arousal
        joy: amusement 1 | joy split by arousal
        ecstasy: excitement 1 | joy split by arousal
        acceptance: contentment 1 | pleasant and calm
        trust: contentment 1 | pleasant and calm
        admiration: awe .5, contentment .5 | pleasant, directed at something great
        distraction: awe .5, excitement .5 | as surprise
        amazement: awe 1 | aroused, directed at something great
        boredom: disgust .5, sadness .5 | its petal, but calm
        interest: contentment .5, excitement .5 | mildly aroused, pleasant
        anticipation: excitement 1 | optimism is anticipation and joy
        vigilance: excitement .5, fear .5 | aroused, valence open"""
_PETALS = """
        joy: amusement 1, contentment 1, excitement 1 | split by arousal, which a petal does not tell
        trust: contentment 1 | pleasant and calm
        anticipation: excitement 1 | optimism is anticipation and joy"""
_SURPRISE = """
        surprise: awe .5, excitement .5 | aroused, valence open"""
_FACES = """
        amusement: happiness 1 | a smile
        awe: fear .5, surprise .5 | by way of Plutchik's dyad fear + surprise
        contentment: happiness 1 | a faint smile
        excitement: happiness .7, surprise .3 | a smile with raised brows"""
_HELD_OUT = f"""{_SURPRISE}
        contempt: anger .5, disgust .5 | by way of Plutchik's dyad disgust + anger"""
_EVEN = ", ".join(f"{label} 1" for label in sets.MIKELS)

_OURS = {
    ("plutchik24", "mikels"): _SHADES + _SURPRISE,
    ("plutchik24", "emofaces-all"): _SHADES,
    ("plutchik8", "mikels"): _PETALS + _SURPRISE,
    ("plutchik8", "emofaces-all"): _PETALS,
    ("plutchik8", "ekman7"): """
        joy: happiness 1 | synonym
        trust: happiness 1 | weak: trust has no face of its own
        anticipation: happiness .5, surprise .5 | weak: anticipation has no face of its own""",
    ("ekman7", "plutchik8"): """
        happiness: joy 1 | synonym""",
    ("ekman6", "ekman7"): "",
    ("ekman7", "ekman6"): """
        contempt: anger .5, disgust .5 | by way of Plutchik's dyad disgust + anger""",
    ("ekman7", "emofaces-all"): """
        happiness: amusement 1, contentment 1, excitement 1 | split by arousal, untold by the word""",
    ("ekman7", "mikels"): """
        happiness: amusement 1, contentment 1, excitement 1 | split by arousal, untold by the word
        surprise: awe .5, excitement .5 | aroused, valence open
        contempt: anger .5, disgust .5 | by way of Plutchik's dyad disgust + anger""",
    ("mikels", "ekman7"): _FACES,
    ("mikels", "plutchik8"): """
        amusement: joy 1 | pleasant and aroused
        contentment: joy .5, trust .5 | serenity and acceptance
        excitement: anticipation .5, joy .5 | optimism without its calm""",
    ("mikels", "emofaces"): "",
    ("emofaces", "mikels"): f"""
        neutral: {_EVEN} | no preference""",
    ("emofaces", "emofaces-all"): "",
    ("mikels", "emofaces-all"): "",
    ("emofaces-all", "emofaces"): _HELD_OUT,
    ("emofaces-all", "ekman7"): f"""{_FACES}
        neutral: {", ".join(f"{label} 1" for label in sets.EKMAN7)} | no preference""",
    ("emofaces-all", "mikels"): f"""{_HELD_OUT}
        neutral: {_EVEN} | no preference""",
}


def _dyad(name: str) -> tuple[list[tuple[str, float]], str]:
    return [(sets.DYADS[name].first, 0.5), (sets.DYADS[name].second, 0.5)], DYAD


# Rows that rest on a published statement. Not boredom among Mikels' eight: its petal is disgust, but so calm
# a state is as near to sadness.
_PETAL_OF = {label: ([(sets.petal(label), 1.0)], PETAL) for label in sets.PLUTCHIK24}
_SHARED = [label for label in sets.PLUTCHIK24 if sets.petal(label) in sets.MIKELS and label != "boredom"]
_NAMED = {label: _PETAL_OF[label] for label in _SHARED}
_PUBLISHED = {
    ("plutchik24", "plutchik8"): _PETAL_OF,
    ("plutchik24", "mikels"): _NAMED,
    ("plutchik24", "emofaces-all"): _NAMED,
    ("plutchik8", "plutchik24"): {label: ([(label, 1.0)], PETAL) for label in sets.PLUTCHIK8},
    ("dyads", "plutchik8"): {label: _dyad(label) for label in sets.DYADS},
    ("mikels", "plutchik8"): {"awe": _dyad("awe")},
    ("ekman7", "plutchik8"): {"contempt": _dyad("contempt")},
}
TABLES = tuple(dict.fromkeys([*_PUBLISHED, *_OURS]))
"""The (source, target) pairs with a table of their own; `mapping` chains them for the others."""


def _row(label: str, pair: tuple[str, str]) -> list[Entry]:
    if label in _PUBLISHED.get(pair, {}):
        parts, note = _PUBLISHED[pair][label]
        return [Entry(label, target, weight, "published", note) for target, weight in parts]
    for line in _OURS.get(pair, "").strip().splitlines():
        name, rest = line.strip().split(": ", 1)
        if name == label:
            parts, note = rest.split(" | ")
            weights = [(t, float(w)) for t, w in (part.split() for part in parts.split(", "))]
            total = sum(w for _, w in weights)
            return [Entry(label, target, w / total, "ours", note) for target, w in weights]
    return [Entry(label, label, 1.0, "published", SAME)]


def _path(source: str, target: str) -> list[str]:
    """Shortest chain of sets with a table between each two; InputError if there is none."""
    paths = [[source]]
    for path in paths:
        if path[-1] == target:
            return path
        paths += [[*path, b] for a, b in TABLES if a == path[-1] and b not in path]
    raise InputError(f"no chain of mappings leads from {source!r} to {target!r}")


def _fill_matrix(entries: Iterable[Entry], rows: tuple[str, ...], columns: tuple[str, ...]) -> np.ndarray:
    matrix = np.zeros((len(rows), len(columns)))
    for entry in entries:
        matrix[rows.index(entry.source), columns.index(entry.target)] = entry.weight
    return matrix


def mapping(source: str, target: str) -> Mapping:
    """Find the matrix from one set to another (names in `sets.SETS`), with the source of every entry.

    Where no table exists the shortest chain of tables is multiplied; an entry of a chain is published
    only if every entry it is made of is. InputError for an unknown set or where no chain leads.
    """
    rows, columns = sets.labels(source), sets.labels(target)
    path = _path(source, target)
    matrix = published = np.eye(len(rows))
    for pair in pairwise(path):
        start, end = sets.labels(pair[0]), sets.labels(pair[1])
        entries = [entry for label in start for entry in _row(label, pair)]
        matrix = matrix @ _fill_matrix(entries, start, end)
        published = published @ _fill_matrix((e for e in entries if e.kind == "published"), start, end)
    if len(path) != 2:
        note = SAME if len(path) == 1 else "chain " + " > ".join(path)
        kinds = np.where(np.isclose(published, matrix), "published", "ours")
        entries = [
            Entry(rows[i], columns[j], float(matrix[i, j]), str(kinds[i, j]), note)
            for i, j in np.argwhere(matrix > 0)
        ]
    return Mapping(rows, columns, matrix, tuple(entries))


def convert(weights, source: str, target: str) -> np.ndarray:
    """Turn distributions (..., n) over `source` into distributions (..., m) over `target`.

    ValueError unless n is the number of `source`'s labels."""
    return np.asarray(weights, dtype=np.float64) @ mapping(source, target).matrix


def explain(source: str, target: str, label: str | None = None) -> str:
    """Put the mapping into words, one line an entry: what becomes what, how much, on whose word."""
    m = mapping(source, target)
    if label is not None:
        label = one_of(label, m.rows, f"{source} label")
    lines = [e for e in m.entries if label in (None, e.source)]
    return "\n".join(f"{e.source} -> {e.target} {e.weight:.2f} ({e.kind}: {e.note})" for e in lines)
