"""The label sets, each in one fixed order, and what holds between their members.

Order is part of the data: EmoSet and EmoEdit number Mikels' eight positive-then-negative, EmoEditor
numbers the same eight alphabetically, and an array of scores does not say which. Every vector in
emolib follows the tuples below; `permutation` moves scores from any other order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from emolib.runtime import one_of

MIKELS = ("amusement", "awe", "contentment", "excitement", "anger", "disgust", "fear", "sadness")
"""Mikels et al. 2005, in EmoSet's and EmoEdit's order (EmoSet `info.json`, label2idx 0..7)."""

MIKELS_ALPHABETICAL = tuple(sorted(MIKELS))
"""The same eight in EmoEditor's order. For reading its files only."""

EMOFACES = ("neutral", *MIKELS)
"""The nine classes of EmoFaces and MiniSD."""

HELD_OUT = ("surprise", "contempt")
"""Never shown to MiniSD, neither as pictures nor as words: the concepts the lessons have to learn."""

EMOFACES_ALL = (*EMOFACES, *HELD_OUT)
"""The eleven emotions of EmoFaces' `concepts` split."""

EKMAN6 = ("anger", "disgust", "fear", "happiness", "sadness", "surprise")
EKMAN7 = (*EKMAN6, "contempt")

PLUTCHIK8 = ("joy", "trust", "fear", "surprise", "sadness", "disgust", "anger", "anticipation")
"""Plutchik's primary emotions around the wheel, 45 degrees apart."""

PETALS = {
    "joy": ("serenity", "joy", "ecstasy"),
    "trust": ("acceptance", "trust", "admiration"),
    "fear": ("apprehension", "fear", "terror"),
    "surprise": ("distraction", "surprise", "amazement"),
    "sadness": ("pensiveness", "sadness", "grief"),
    "disgust": ("boredom", "disgust", "loathing"),
    "anger": ("annoyance", "anger", "rage"),
    "anticipation": ("interest", "anticipation", "vigilance"),
}
"""petal -> (mild, basic, intense)."""

INTENSITIES = ("mild", "basic", "intense")

PLUTCHIK24 = tuple(label for petal in PLUTCHIK8 for label in PETALS[petal])
"""FindingEmo's 24 labels, petal by petal, each mild, basic, intense."""

OPPOSITES = {petal: PLUTCHIK8[(i + 4) % 8] for i, petal in enumerate(PLUTCHIK8)}

POLARITY = {label: 1 if i < 4 else -1 for i, label in enumerate(MIKELS)}
"""EmoSet's two-class version: +1 for the first four, -1 for the rest."""


class Dyad(NamedTuple):
    """A blend of two petals; `order` is primary, secondary or tertiary (1, 2 or 3 petals apart)."""

    first: str
    second: str
    order: str
    alias: str = ""


# Name, the two petals and perhaps a second name; nearest petals first.
_DYADS = """
love joy trust, submission trust fear, awe fear surprise alarm,
disapproval surprise sadness disappointment, remorse sadness disgust, contempt disgust anger,
aggressiveness anger anticipation, optimism anticipation joy, guilt joy fear, curiosity trust surprise,
despair fear sadness, unbelief surprise disgust shock, envy sadness anger,
cynicism disgust anticipation, pride anger joy, hope anticipation trust fatalism, delight joy surprise,
sentimentality trust sadness, shame fear disgust, outrage surprise anger,
pessimism sadness anticipation, morbidness disgust joy, dominance anger trust,
anxiety anticipation fear
"""
_ORDERS = ("primary", "secondary", "tertiary")


def _read_dyads() -> Iterator[tuple[str, Dyad]]:
    for i, entry in enumerate(_DYADS.split(",")):
        name, first, second, *alias = entry.split()
        yield name, Dyad(first, second, _ORDERS[i // 8], *alias)


DYADS = dict(_read_dyads())
"""Plutchik's 24 dyads. Opposite petals do not combine, so there is no fourth order."""

SETS = {
    "mikels": MIKELS,
    "emofaces": EMOFACES,
    "emofaces-all": EMOFACES_ALL,
    "ekman6": EKMAN6,
    "ekman7": EKMAN7,
    "plutchik8": PLUTCHIK8,
    "plutchik24": PLUTCHIK24,
    "dyads": tuple(DYADS),
}


def labels(name: str) -> tuple[str, ...]:
    """Return the labels of the set called `name` (see `SETS`), in its order. InputError: no such set."""
    return SETS[one_of(name, SETS, "emotion set")]


def index(label: str, order: Iterable[str] = MIKELS) -> int:
    """Return the position of `label` in `order`. InputError, naming the set, if it is not a member."""
    order = tuple(order)
    return order.index(one_of(label, order, "label"))


def permutation(source: Iterable[str], target: Iterable[str]) -> list[int]:
    """Find positions p with `scores_in_target_order = scores_in_source_order[..., p]`.

    ValueError unless both hold the same labels, each once.
    """
    source, target = tuple(source), tuple(target)
    if sorted(source) != sorted(set(target)) or len(source) != len(target):
        odd = sorted(set(source) ^ set(target)) or ["a label twice"]
        raise ValueError(f"the two orders do not hold the same labels: {', '.join(odd)}")
    return [source.index(label) for label in target]


def petal(label: str) -> str:
    """Return the petal of one of Plutchik's 24 labels ("ecstasy" -> "joy"). InputError: another word."""
    return PLUTCHIK8[index(label, PLUTCHIK24) // 3]


def intensity(label: str) -> str:
    """Return "mild", "basic" or "intense" for one of Plutchik's 24 labels."""
    return INTENSITIES[index(label, PLUTCHIK24) % 3]
