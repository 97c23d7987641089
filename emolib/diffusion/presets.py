"""What is known of each model by name: its vocabulary, sizes and defaults. The only place that knows them.

Loads no torch. An editor called from Python takes MiniSD's numbers unless it is given others; the command
line, the playground and the benchmark ask here what the chosen model wants.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from emolib.data.framing import FACE_MARGIN
from emolib.emotions import sets, words
from emolib.runtime import InputError


class Settings(NamedTuple):
    """Defaults of one method: see `editors.base.DiffusionEditor`. Asyrp takes no prompt, so no guidance."""

    strength: float
    guidance_scale: float | None
    num_inference_steps: int = 30


MINISD_SETTINGS: Mapping[str, Settings] = {
    # Lesson 03's sweep over strength and guidance, EmoFaces' validation people.
    "img2img": Settings(0.6, 5.0),
    # Lesson 04's comparison: inversions remember the picture, so they bear more strength, and less guidance.
    "ddim": Settings(0.8, 3.0),
    "negative-prompt": Settings(0.8, 3.0),
    "null-text": Settings(0.8, 3.0),
    "exact": Settings(0.8, 3.0),
    "direct": Settings(0.8, 1.75),
    "prompt-to-prompt": Settings(0.8, 1.75),
    # benchmarks/editing_figures.py, validation people: the most edits nearer to the truth than doing nothing.
    "edit-friendly": Settings(0.55, 1.75),
    # benchmarks/ledits.py, the peer on the same people.
    "ledits++": Settings(0.8, 5.0),
    # Lesson 05: directions are measured for this many steps at strength 1.
    "asyrp": Settings(1.0, None),
}
"""Method -> what MiniSD takes."""


@dataclass(frozen=True)
class Preset:
    """A model family.

    settings    method -> its defaults
    vocabulary  the set of emotions (`emotions.sets`) whose words it has learned; None: it reads any word
    held_out    emotions of EmoFaces whose words it has never seen
    judge       role of the judge that knows such pictures and may guess what people feel now; None: no judge
    margin      what the square around a face adds on each side, as a share of the face's longer side
    """

    settings: Mapping[str, Settings]
    vocabulary: str | None = None
    held_out: tuple[str, ...] = ()
    judge: str | None = None
    margin: float = FACE_MARGIN

    def resolve_emotion(self, word: str) -> str:
        """Return the emotion to ask the model for when somebody says `word`.

        InputError, with the nearest word, for what it has not learned or what has no prompt word."""
        label = word.strip().casefold()
        meant = label if label in words.ADJECTIVES else words.VOCABULARY.get(label)
        if self.vocabulary is None and meant in words.ADJECTIVES:
            return meant
        return words.resolve(word, self.vocabulary or "emofaces")


MINISD = Preset(MINISD_SETTINGS, "emofaces", sets.HELD_OUT, "guide")
STABLE_DIFFUSION = Preset(MINISD_SETTINGS)
"""Any other Stable Diffusion, a folder or Hub id: MiniSD's numbers until its own are measured."""

PRESETS: Mapping[str, Preset] = {
    "minisd": MINISD,
    "sd15": STABLE_DIFFUSION,
    "sd21": STABLE_DIFFUSION,
    "sdxl": STABLE_DIFFUSION,
}
"""Short name of a model -> its preset."""

DEFAULT_MODEL, DEFAULT_METHOD = "minisd", "edit-friendly"


def find_preset(model: str) -> Preset:
    """Return the preset of a model's name; folders and Hub ids count as Stable Diffusion."""
    return PRESETS.get(model, STABLE_DIFFUSION)


def is_known(model: str, word: str) -> bool:
    """Tell whether `model` can be asked for `word`."""
    try:
        find_preset(model).resolve_emotion(word)
    except InputError:
        return False
    return True
