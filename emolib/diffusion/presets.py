"""What is known of each model family: vocabulary, size, every method's settings, and who says so.

The only place that knows. Loads no torch. An editor called from Python takes MiniSD's numbers unless it is
given others; the command line, the playground and the benchmark ask here what the chosen model wants.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from emolib.data.framing import FACE_MARGIN
from emolib.emotions import sets, words
from emolib.runtime import BROKEN, InputError, local_folder, one_of, read_json, reading

KIND = "emolib preset 1"
OWN_MODEL = ("instruct", "hosted")
"""Methods whose models are no Stable Diffusion: what no preset says is the editor's own."""
UNMEASURED = "unmeasured"
"""How the source of a number begins that nobody has published for this model."""


class Settings(NamedTuple):
    """Defaults of one method: fields of its editor (`editors.base.DiffusionEditor`), and where from.

    Asyrp takes no prompt, so no guidance. `more` are other fields; `sources` holds a field's source, and
    under "" that of the rest.
    """

    strength: float
    guidance_scale: float | None
    num_inference_steps: int | None
    sources: Mapping[str, str]
    more: Mapping[str, Any] = MappingProxyType({})

    @property
    def fields(self) -> dict[str, Any]:
        """The editor's fields by name."""
        guidance = {} if self.guidance_scale is None else {"guidance_scale": self.guidance_scale}
        return {"strength": self.strength, **guidance, "num_inference_steps": self.num_inference_steps} | {
            **self.more
        }

    def with_fields(self, fields: Mapping[str, Any], source: str) -> Settings:
        """Return the settings with other fields, which are `source`'s."""
        own = {name: value for name, value in fields.items() if name in OPEN}
        more = {**self.more, **{name: value for name, value in fields.items() if name not in OPEN}}
        return self._replace(**own, more=more, sources={**self.sources, **dict.fromkeys(fields, source)})


OPEN = ("strength", "guidance_scale", "num_inference_steps")
"""Fields that nearly every method has; `Settings.more` holds the others."""

OWN = Settings(1.0, None, None, {"": "the editor's own"})
_SWEEP = {"": "measured here: lesson 03's sweep over strength and guidance, EmoFaces' validation people"}
_LESSON_04 = {"": "measured here: lesson 04's comparison, EmoFaces' validation people"}
MINISD_SETTINGS: Mapping[str, Settings] = {
    "img2img": Settings(0.6, 5.0, 30, _SWEEP),
    # Inversions remember the picture, so they bear more strength, and less guidance.
    "ddim": Settings(0.8, 3.0, 30, _LESSON_04),
    "negative-prompt": Settings(0.8, 3.0, 30, _LESSON_04),
    "null-text": Settings(0.8, 3.0, 30, _LESSON_04),
    "exact": Settings(0.8, 3.0, 30, _LESSON_04),
    "direct": Settings(0.8, 1.75, 30, _LESSON_04),
    "prompt-to-prompt": Settings(0.8, 1.75, 30, _LESSON_04),
    # The most edits nearer to the truth than doing nothing.
    "edit-friendly": Settings(
        0.55, 1.75, 30, {"": "measured here: benchmarks/editing_figures.py, validation people"}
    ),
    "ledits++": Settings(0.8, 5.0, 30, {"": "measured here: benchmarks/ledits.py, validation people"}),
    # Directions are measured for this many steps at strength 1.
    "asyrp": Settings(1.0, None, 30, {"": "measured here: lesson 05"}),
}
"""Method -> what MiniSD takes."""

_TOOLS = "tool practice: ADetailer and sd-face-editor 0.4, Impact FaceDetailer 0.5"
_IMG2IMG = "authors' code: defaults of diffusers' image-to-image pipeline"
_NULL_TEXT = {"": "authors' code: google/prompt-to-prompt, null_text_w_ptp.ipynb"}
_PNP = "benchmark form: PIE-Bench, cure-lab/PnPInversion"
_DDPM = {"": "authors' code: inbarhub/DDPM_inversion, main_run.py"}
_LEDITS = {"": "authors' code: defaults of diffusers' LEDITS++ pipeline"}
_NOBODY = "unmeasured: nobody has published a setting; here "
_SHIFTS = {"": f"{_NOBODY}MiniSD's"}
SD1_SETTINGS: Mapping[str, Settings] = {
    "img2img": Settings(0.5, 7.5, 50, {"": _IMG2IMG, "strength": _TOOLS}),
    "ddim": Settings(1.0, 7.5, 50, _NULL_TEXT),
    "negative-prompt": Settings(1.0, 7.5, 50, {"": _PNP}),
    "null-text": Settings(1.0, 7.5, 50, _NULL_TEXT),
    "exact": Settings(1.0, 7.5, 50, {"": f"{_NOBODY}negative-prompt inversion's"}),
    "direct": Settings(1.0, 7.5, 50, {"": _PNP}),
    "prompt-to-prompt": Settings(
        1.0,
        7.5,
        50,
        {"": f"{_PNP}, run_editing_p2p.py"},
        {
            "cross_replace_steps": 0.4,
            "self_replace_steps": 0.6,
            "follow": 0.0,
            "emphasis": 2.0,
            "local_blend": 0.3,
        },
    ),
    "edit-friendly": Settings(0.64, 15.0, 100, _DDPM, {"source_guidance_scale": 3.5}),
    "ledits++": Settings(0.85, 5.0, 30, _LEDITS, {"edit_threshold": 0.9, "use_intersect_mask": True}),
    "asyrp": Settings(1.0, None, 30, _SHIFTS),
}
"""Method -> what Stable Diffusion 1.x takes. None of it was measured here."""

_PIPELINES = ("img2img", "ledits++")  # diffusers has one pipeline, with one set of defaults, for 1.x and 2.x
SD2_SETTINGS: Mapping[str, Settings] = {
    method: settings
    if method in _PIPELINES
    else settings._replace(sources={"": f"{_NOBODY}Stable Diffusion 1.x's"})
    for method, settings in SD1_SETTINGS.items()
}
"""Method -> what Stable Diffusion 2.x takes, with v-prediction or without."""

_XL = {"": f"{_NOBODY}50 steps at diffusers' guidance for this model"}
_XL_LEDITS = {"": f"{_NOBODY}LEDITS++'s on this model, diffusers' pipeline"}
_PIPELINE = "authors' code: RoyiRa/prompt-to-prompt-with-sdxl, which takes diffusers' defaults"
_ROYIRA = "authors' code: RoyiRa/prompt-to-prompt-with-sdxl, run.py"
_SHARES = {"cross_replace_steps": 0.8, "self_replace_steps": 0.4}
SDXL_SETTINGS: Mapping[str, Settings] = {
    "img2img": Settings(0.4, 5.0, 50, {"": _IMG2IMG, "strength": _TOOLS}),
    # Style-aligned inverts with guidance 2; here every DDIM inversion is made without.
    "ddim": Settings(1.0, 5.0, 50, _XL | {"strength": "authors' code: google/style-aligned"}),
    "negative-prompt": Settings(1.0, 5.0, 50, _XL),
    "null-text": Settings(1.0, 5.0, 50, _XL),
    "exact": Settings(1.0, 5.0, 50, _XL),
    "direct": Settings(1.0, 5.0, 50, _XL),
    # There only the new word has a share of its own, 0.8 where it refines the prompt; here one is for all.
    "prompt-to-prompt": Settings(1.0, 5.0, 50, {"": _PIPELINE, **dict.fromkeys(_SHARES, _ROYIRA)}, _SHARES),
    "edit-friendly": Settings(0.85, 5.0, 50, _XL_LEDITS, {"source_guidance_scale": 3.5}),
    "asyrp": Settings(1.0, None, 30, _SHIFTS),
}
"""Method -> what Stable Diffusion XL takes. LEDITS++ is not among them: `editors.ledits` cannot do it."""


@dataclass(frozen=True)
class Preset:
    """A model family.

    name        how it is called
    size        native side of its pictures, px
    settings    method -> its defaults
    vocabulary  the set of emotions (`emotions.sets`) whose words it has learned; None: it reads any word
    held_out    emotions of EmoFaces whose words it has never seen
    judge       of the guide's role, which knows such pictures: guesses what people feel now, and tunes
    margin      what the square around a face adds on each side, as a share of the face's longer side, and
                `margin_source`, who says so
    folder      where it lies in the repository, with directions for Asyrp; None: it does not ship
    """

    name: str
    size: int
    settings: Mapping[str, Settings]
    vocabulary: str | None = None
    held_out: tuple[str, ...] = ()
    judge: str = "photo-guide"
    margin: float = 0.3
    margin_source: str = "tool practice: sd-face-editor's crop, 1.6 times the face"
    folder: str | None = None

    def get_settings(self, method: str) -> Settings:
        """Get a method's settings. InputError: such a model cannot do it."""
        if method in OWN_MODEL:
            return self.settings.get(method, OWN)
        if method not in self.settings:
            raise InputError(f"{self.name} cannot do {method}; it can do {', '.join(self.settings)}")
        return self.settings[method]

    def explain(self, method: str) -> dict[str, tuple[Any, str]]:
        """Say of a method's fields, and of the margin, the value and where it is from. InputError."""
        settings = self.get_settings(method)
        fields = {
            name: (value, settings.sources.get(name, settings.sources[""]))
            for name, value in settings.fields.items()
        }
        return fields | {"margin": (self.margin, self.margin_source)}

    def resolve_emotion(self, word: str) -> str:
        """Return the emotion to ask the model for when somebody says `word`.

        InputError, with the nearest word, for what it has not learned or what has no prompt word."""
        label = word.strip().casefold()
        meant = label if label in words.ADJECTIVES else words.VOCABULARY.get(label)
        if self.vocabulary is None and meant in words.ADJECTIVES:
            return meant
        return words.resolve(word, self.vocabulary or "emofaces")


MINISD = Preset(
    "MiniSD",
    64,
    MINISD_SETTINGS,
    "emofaces",
    sets.HELD_OUT,
    "guide",
    FACE_MARGIN,
    "measured here: EmoFaces' framing, data/emofaces",
    "data/minisd",
)
SD1 = Preset("Stable Diffusion 1.x", 512, SD1_SETTINGS)
SD2 = Preset("Stable Diffusion 2.x", 768, SD2_SETTINGS)
SDXL = Preset("Stable Diffusion XL", 1024, SDXL_SETTINGS)
FAMILIES = {preset.name: preset for preset in (MINISD, SD1, SD2, SDXL)}

PRESETS: Mapping[str, Preset] = {
    "minisd": MINISD,
    "sd15": SD1,
    "sd21": replace(SD2, size=512),  # the base model, which predicts the noise
    "sdxl": SDXL,
}
"""Short name of a model -> its preset."""


class InstructModel(NamedTuple):
    """A model that edits by instruction: where it is on the Hub, what to know before loading it.

    guidance_scale, num_inference_steps  its makers' (diffusers' pipelines, model cards)
    """

    repository: str
    licence: str
    memory: str
    guidance_scale: float
    num_inference_steps: int


_OPEN, _UNREAD = "Apache-2.0", "read its card first"
_FLUX = "FLUX non-commercial licence, to be accepted on its Hub page"
_QWEN = "about 55 GB in bfloat16 (20 B and a text encoder of 7 B)"
INSTRUCT: Mapping[str, InstructModel] = {
    "instruct-pix2pix": InstructModel("timbrooks/instruct-pix2pix", _UNREAD, "about 4 GB", 7.5, 100),
    "sdxl-pix2pix": InstructModel("diffusers/sdxl-instructpix2pix-768", _UNREAD, "about 10 GB", 5.0, 100),
    "kontext": InstructModel(
        "black-forest-labs/FLUX.1-Kontext-dev", _FLUX, "about 33 GB in bfloat16 (12 B and T5)", 3.5, 28
    ),
    "flux2-klein": InstructModel(
        "black-forest-labs/FLUX.2-klein-4B", _OPEN, "13 GB claimed; 16 GB are too few without int8", 1.0, 4
    ),
    "flux2-klein-9b": InstructModel("black-forest-labs/FLUX.2-klein-9B", _FLUX, "over 30 GB", 1.0, 4),
    "qwen-edit": InstructModel("Qwen/Qwen-Image-Edit-2509", _OPEN, _QWEN, 4.0, 40),
    "qwen-edit-2511": InstructModel("Qwen/Qwen-Image-Edit-2511", _UNREAD, _QWEN, 4.0, 40),
    "longcat-edit": InstructModel("meituan-longcat/LongCat-Image-Edit", _UNREAD, "not known here", 4.5, 50),
}
"""Short name -> instruction editor, for `editors.instruct`."""

DEFAULT_MODEL, DEFAULT_METHOD = "minisd", "edit-friendly"
_BY_WIDTH = {160: MINISD, 768: SD1, 1024: SD2, 2048: SDXL}
"""Width of the text that cross-attention reads -> family."""


def find_preset(model: str, file: str | Path = "") -> Preset:
    """Return what is known of a model: a short name's preset, else that of the family it belongs to.

    `file` (of `emolib tune`) overrules it. A folder's or cached Hub id's family is read from its
    configuration; what is not there yet counts as Stable Diffusion 1.x. InputError: a bad file, or another
    family's.
    """
    if model in INSTRUCT:
        about = INSTRUCT[model]
        maker = {"": "its makers: diffusers' pipeline, or the model's card"}
        settings = Settings(1.0, about.guidance_scale, about.num_inference_steps, maker)
        return Preset(model, 1024, {"instruct": settings})
    preset = PRESETS.get(model) or _read_family(model)
    return load_preset(file, preset) if file else preset or SD1


def tell_family(prediction_type: str, width: int, *, two_text_encoders: bool = False) -> Preset:
    """Tell a model's family from its configuration; `width` is that of its cross-attention."""
    if two_text_encoders:
        return SDXL
    return SD2 if prediction_type == "v_prediction" else _BY_WIDTH.get(width, SD1)


def _read_family(model: str) -> Preset | None:
    folder = local_folder(model, "model_index.json")
    paths = [folder / part for part in _CONFIGS] if folder else []
    if not paths or not all(path.is_file() for path in paths):
        return None
    index, unet, scheduler = (dict(read_json(path)) for path in paths)
    second = (index.get("text_encoder_2") or [None])[0] is not None
    kind = scheduler.get("prediction_type", "epsilon")
    return tell_family(kind, unet.get("cross_attention_dim"), two_text_encoders=second)


_CONFIGS = ("model_index.json", "unet/config.json", "scheduler/scheduler_config.json")


def load_preset(path: str | Path, preset: Preset | None = None) -> Preset:
    """Read what `emolib tune` wrote, over `preset` (None: that of the file's family).

    InputError: no such file, no preset, an unknown entry, another family's."""
    content = read_json(path)
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise InputError(f"{path}: no preset file ({KIND!r}); make one with `emolib tune`")
    with reading(path, "preset file", (*BROKEN, TypeError)):
        family = FAMILIES[one_of(content["family"], FAMILIES, "family")]
        if preset is not None and preset.name != family.name:
            raise InputError(f"{path}: made for {family.name}, not for {preset.name}")
        source = f"preset file {path} ({content['about']})"
        settings = dict((preset or family).settings)
        for method, fields in dict(content["settings"]).items():
            one_of(method, settings, f"method of {family.name}")
            for name, value in dict(fields).items():
                one_of(name, (*OPEN, *list_options(method)), f"setting of {method}")
                if not isinstance(value, int | float):
                    raise InputError(f"{path}: {name} is {value!r}, not a number")
            settings[method] = settings[method].with_fields(fields, source)
    return replace(preset or family, settings=settings)


def list_options(method: str) -> tuple[str, ...]:
    """List the fields of a method's editor that some family sets besides those of `OPEN`."""
    known = [family.settings[method].more for family in FAMILIES.values() if method in family.settings]
    return tuple(dict.fromkeys(name for more in known for name in more))


def is_known(model: str, word: str) -> bool:
    """Tell whether `model` can be asked for `word`."""
    try:
        find_preset(model).resolve_emotion(word)
    except InputError:
        return False
    return True
