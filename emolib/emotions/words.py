"""Words: how each emotion is said in a prompt, and which emotion a free word means."""

from __future__ import annotations

from emolib.emotions import mappings, sets
from emolib.runtime import InputError, nearest, one_of

_ADJECTIVES = """
neutral neutral, amusement amused, awe awestruck, contentment content, excitement excited, anger angry,
disgust disgusted, fear fearful, sadness sad, happiness happy, surprise surprised,
contempt contemptuous, serenity serene, joy joyful, ecstasy ecstatic, acceptance accepting,
trust trusting, admiration admiring, apprehension apprehensive, terror terrified,
distraction distracted, amazement amazed, pensiveness pensive, grief grieving, boredom bored,
loathing loathing, annoyance annoyed, rage enraged, interest interested, anticipation expectant,
vigilance vigilant
"""
ADJECTIVES: dict[str, str] = dict(pair.split() for pair in _ADJECTIVES.split(","))
"""The word for a person who feels it, for prompts such as "a photo of an angry man"."""

SYNONYMS = {
    "amusement": "laughing funny hilarious entertained",
    "awe": "awed wonder reverent awe-struck",
    "contentment": "contented calm relaxed peaceful satisfied pleased comfortable",
    "excitement": "thrilled elated exhilarated enthusiastic",
    "anger": "mad angered furious cross irate",
    "disgust": "disgusted disgusting revolted repulsed grossed-out",
    "fear": "afraid scared frightened anxious worried nervous",
    "sadness": "unhappy sorrow sorrowful crying depressed miserable",
    "happiness": "happiness smiling smile cheerful glad",
    "surprise": "astonished startled shocked",
    "contempt": "scorn scornful disdain",
    "neutral": "expressionless blank",
    "grief": "mourning bereaved",
    "joy": "delighted",
}
"""Further words (ours) for a label, in any form a user may type."""


def adjective(label: str) -> str:
    """Return the prompt word for a label of any set ("anger" -> "angry"); a token, "<awe>", is its own."""
    if label.startswith("<"):
        return label
    return ADJECTIVES[one_of(label, ADJECTIVES, "emotion")]


def article(word: str) -> str:
    """ "an" before a vowel letter, else "a": "an angry", "a sad"."""
    return "an" if word[:1].lower() in tuple("aeiou") else "a"


PERSON = "person"
TEMPLATE = "photo of {article} {word} {description}"
"""What editors ask for; MiniSD learned from such captions."""
CAPTION = "a photo of {article} {word} {description}"
"""What CLIP is asked."""


def prompt(label: str | None, description: str = PERSON, template: str = TEMPLATE) -> str:
    """Fill in `template`: "photo of a sad woman with red hair"; without a label "photo of a woman ...".

    The one builder of prompts, with `fill_template`. InputError: a label without a prompt word. KeyError,
    IndexError, ValueError or AttributeError: braces in the template around anything but {article}, {word} and
    {description}.
    """
    return fill_template(template, "" if label is None else adjective(label), description)


def fill_template(template: str, word: str, description: str = PERSON, *, like: str = "") -> str:
    """Fill in `template` with a word that need not be a label's, "" for none, and the article of `like`."""
    first = (like or word if "{word}" in template else "") or description
    text = template.format(article=article(first), word=word, description=description)
    return text if word else " ".join(text.split()).strip(" ,")


def _build_vocabulary() -> dict[str, str]:
    """Map every word that `resolve` understands to the label it means, in whichever set that label lives."""
    pairs = [pair for label, word in ADJECTIVES.items() for pair in ((label, label), (word, label))]
    pairs += [(word, label) for label, text in SYNONYMS.items() for word in text.split()]
    pairs += [(word, name) for name, dyad in sets.DYADS.items() for word in (name, dyad.alias) if word]
    vocabulary = {}
    for word, label in pairs:
        vocabulary.setdefault(word, label)  # the first meaning counts
    return vocabulary


VOCABULARY = _build_vocabulary()
_SEARCHED = ("ekman7", "plutchik24", "mikels", "emofaces-all", "dyads")


def resolve(word: str, name: str = "mikels") -> str:
    """Find the member of the set called `name` that a free word means ("furious" -> "anger").

    Case and surrounding space do not matter. A word of another set goes through `mappings` and must have
    one clear winner there. InputError, with the nearest known word or the candidates, in any other case.
    """
    order = sets.labels(name)
    key = str(word).strip().casefold()
    if key in order:
        return key
    if key not in VOCABULARY:
        guess = nearest(key, VOCABULARY)
        hint = f"did you mean {guess!r}? " if guess else ""
        raise InputError(f"no emotion is known by the word {word!r}; {hint}choose among {', '.join(order)}")
    label = VOCABULARY[key]
    return label if label in order else _mapped(str(word), label, name, order)


def _mapped(word: str, label: str, name: str, order: tuple[str, ...]) -> str:
    for other in _SEARCHED:
        if label not in sets.labels(other):
            continue
        row = mappings.mapping(other, name).matrix[sets.labels(other).index(label)]
        best = [order[i] for i in (row > row.max() - 1e-9).nonzero()[0]]
        if len(best) == 1:
            return best[0]
        if len(best) < len(order):
            raise InputError(f"{word!r} ({label}) could be {' or '.join(best)} here; say which")
    raise InputError(f"{word!r} ({label}) has no place among {', '.join(order)}")
