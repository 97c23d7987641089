"""Who is in front of the camera, and where: one seed draws a person and the scene around them.

The order of the random draws is part of the data set: a draw added or moved makes other people of all seeds.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass, field

import numpy as np

from people.body import local_names
from people.paint import to_linear

SHAPE = ("nose", "mouth", "chin", "head", "forehead", "eyebrows", "cheek", "ear", "eye", "r-")
HAIR_COLOURS = {  # sRGB of the strands
    "black": (24, 20, 20),
    "brown": (84, 52, 32),
    "blond": (204, 164, 98),
    "red": (158, 62, 26),
    "grey": (158, 156, 154),
}
COLOURS = {  # names people use for clothes and walls
    "red": (186, 40, 40),
    "orange": (222, 120, 40),
    "yellow": (226, 196, 64),
    "green": (56, 134, 66),
    "blue": (48, 84, 176),
    "purple": (122, 66, 150),
    "pink": (224, 138, 164),
    "white": (232, 230, 226),
    "grey": (132, 132, 134),
    "black": (36, 36, 40),
}
STYLES = {  # how often each cut of `hair.CUTS` is drawn; bald is none of them
    "woman": {
        "bob": 2, "fringe-bob": 2, "long": 3, "wavy": 3, "bun": 2, "curly": 1.5, "afro": 1, "short": 0.7,
    },
    "man": {
        "short": 3, "crew": 3, "side-part": 3, "slick-back": 1.5, "curly": 1.2, "afro": 1, "bald": 1.6,
        "long": 0.5,
    },
}  # fmt: skip
STYLE_NAMES = {  # what captions call the cuts that do not go by their own name
    "crew": "short", "side-part": "short", "slick-back": "short", "fringe-bob": "bob", "wavy": "long",
}  # fmt: skip
IRISES = [(92, 60, 36), (62, 40, 26), (74, 104, 140), (88, 116, 82)]  # sRGB: brown, dark brown, blue, green
FRAMES = [(20, 20, 22), (70, 40, 24), (150, 40, 40), (140, 140, 146)]  # sRGB of glasses


@dataclass(frozen=True)
class Look:
    """Everything that stays the same while the emotion changes. Angles in degrees, colours linear RGB."""

    seed: int
    gender: str
    age: str
    skin: str
    hair_style: str  # the name in captions: bald, short, bob, long, curly, afro, bun
    cut: str | None  # the key of hair.CUTS
    hair_color: str
    beard: bool
    glasses: bool
    clothes_color: str
    background: str
    background_color: str
    yaw: float
    pitch: float
    roll: float
    phenotype: dict[str, float]
    local: dict[str, float]
    detail: dict = field(default_factory=dict)  # what captions do not name


def _pick(rng, weights: dict[str, float]) -> str:
    """One of the keys, as often as its weight says."""
    p = np.array(list(weights.values()), dtype=np.float64)
    return str(rng.choice(list(weights), p=p / p.sum()))


def vary(rng, srgb, hue=0.01, saturation=0.12, value=0.12) -> np.ndarray:
    """A colour near `srgb` (in [0, 255]), linear RGB."""
    h, s, v = colorsys.rgb_to_hsv(*(np.asarray(srgb) / 255))
    h = (h + rng.normal(0, hue)) % 1
    s = float(np.clip(s * rng.normal(1, saturation), 0, 1))
    v = float(np.clip(v * rng.normal(1, value), 0.03, 0.97))
    return to_linear(np.array(colorsys.hsv_to_rgb(h, s, v)) * 255)


def _shape(rng, gender: str, age: str) -> tuple[dict, dict, float]:
    """Anny's phenotype and local changes, and the place among the skin tones in [0, 1]."""
    years = {
        "young": rng.uniform(0.44, 0.55),
        "adult": rng.uniform(0.55, 0.75),
        "old": rng.uniform(0.86, 1.0),
    }[age]
    origin = rng.dirichlet((0.55, 0.55, 0.55))
    phenotype = {
        "gender": float(np.clip(rng.normal(0.95 if gender == "man" else 0.05, 0.06), 0, 1)),
        "age": float(years),
        "weight": float(np.clip(rng.normal(0.5, 0.2), 0.1, 0.95)),
        "muscle": float(np.clip(rng.normal(0.5, 0.12), 0.2, 0.8)),
        "african": float(origin[0]),
        "asian": float(origin[1]),
        "caucasian": float(origin[2]),
    }
    local: dict[str, float] = {}
    for name in local_names(SHAPE):
        if name.startswith("r-"):
            continue
        value = float(np.clip(rng.normal(0, 0.22), -0.6, 0.6))
        local[name] = value
        if name.startswith("l-"):  # faces are symmetric but for a little
            local["r-" + name[2:]] = float(value + rng.normal(0, 0.03))
    darkness = 0.75 * origin[0] + 0.33 * origin[1] + 0.12 * origin[2]
    position = 0.06 + 0.76 * darkness / 0.75 * rng.uniform(0.75, 1.25)
    return phenotype, local, float(np.clip(position, 0.02, 0.88))


def _hair_colour(rng, age: str, skin: float) -> str:
    """A key of HAIR_COLOURS; people with dark skin are rarely blond, old ones mostly grey."""
    colours = {"black": 2, "brown": 2, "blond": 2, "red": 1.5, "grey": 0.3}
    if skin > 0.6:
        colours = {"black": 4, "brown": 1.5, "blond": 0.4, "red": 0.3, "grey": 0.3}
    if age == "old":
        colours["grey"] = 6
    return _pick(rng, colours)


def _person_detail(rng, gender: str, age: str, hair_color: str) -> dict:
    """Skin, hair, eyes and glasses; lengths in cm, angles in degrees, colours linear RGB."""
    woman, man = gender == "woman", gender == "man"
    return {
        "warmth": float(rng.normal(0, 0.8)),
        "lip_red": float(rng.uniform(0.15, 0.8) if woman else rng.uniform(0, 0.12)),
        "eye_shadow": float(rng.uniform(0, 0.4) if woman else 0),
        "blush": float(rng.uniform(0.2, 0.7)),
        "stubble": float(rng.uniform(0, 0.55) if man else 0),
        "freckle_seed": int(rng.integers(1 << 30)),
        "hair": vary(rng, HAIR_COLOURS[hair_color]).tolist(),
        "iris": vary(rng, IRISES[rng.choice(4, p=[0.4, 0.25, 0.2, 0.15])]).tolist(),
        "hairline": float(rng.normal(0, 2.5) + (4 if man and age == "old" else 0)),
        "part": float(rng.choice([-0.18, 0, 0.18])),
        "brow_thickness": float(np.clip(rng.normal(1.15 if man else 0.8, 0.18), 0.5, 1.6)),
        "brow_arch": float(rng.uniform(0, 1)),
        "beard_length": float(rng.choice([0.35, 0.8, 1.8])),
        "goatee": bool(rng.random() < 0.3),
        "glasses": {
            "round": bool(rng.random() < 0.4),
            "colour": vary(rng, FRAMES[rng.integers(4)]).tolist(),
            "thickness": float(rng.uniform(0.10, 0.2)),
        },
        "gaze": [float(rng.normal(0, 4)), float(rng.normal(0, 2.5))],
    }


def _scene_detail(rng) -> dict:
    """Light, camera and collar; angles in degrees, camera shift in cm."""
    return {
        "light": {
            "azimuth": float(rng.uniform(-65, 65)),
            "elevation": float(rng.uniform(15, 55)),
            "key": float(rng.uniform(5.5, 8.5)),
            "fill": float(rng.uniform(0.32, 0.55)),
            "warmth": float(rng.normal(0, 0.08)),
        },
        "camera": {
            "zoom": float(rng.normal(1, 0.025)),
            "shift": [float(rng.normal(0, 0.25)), float(rng.normal(0, 0.25))],
        },
        "collar": float(rng.uniform(0.4, 1.0)),
        "backdrop_seed": int(rng.integers(1 << 30)),
    }


def _second_detail(seed: int, age: float, skin: float) -> dict:
    """What the second edition added, from a generator of its own: the people of the first stay who they were.

    Shares in [0, 1] unless said otherwise; angles in degrees, lengths in cm.
    """
    rng = np.random.default_rng([2027, seed])
    worn = max(age - 0.5, 0)
    return {
        "complexion": {
            "redness": float(rng.uniform(0.1, 0.75) * (1 - 0.6 * skin)),
            "mottle": float(rng.uniform(0.03, 0.07)),
            "freckles": float(rng.choice([0, 0.3, 1.0], p=[0.5, 0.3, 0.2]) * (1.2 - skin)),
            "relief": float(rng.uniform(0.25, 0.7) + worn),
            "oil": float(rng.beta(2, 2)),
        },
        "folds": rng.lognormal(0, 0.25, 40).tolist(),  # how readily each fold of this face forms
        "sided": float(rng.normal(0, 0.06)),  # how much stronger the left side of every expression is
        "iris_size": float(rng.normal(1.0, 0.04)),
        "sclera": float(rng.uniform(0.0, 1.0)),  # from clear to yellowish and veined
        "lashes": float(rng.uniform(0.5, 1.0)),
        "neckline": float(rng.uniform(0, 1)),
        "room": int(rng.integers(1 << 30)),
        "lamp": str(
            rng.choice(["window", "soft", "flash", "back", "overcast"], p=[0.3, 0.3, 0.12, 0.1, 0.18])
        ),
        "distance": float(np.exp(rng.uniform(np.log(62), np.log(170)))),
        "defocus": float(np.exp(rng.uniform(np.log(0.8), np.log(9)))),
    }


def sample(seed: int) -> Look:
    """The person with this seed, always the same one."""
    rng = np.random.default_rng([2026, seed])
    gender = _pick(rng, {"woman": 1, "man": 1})
    age = _pick(rng, {"young": 0.4, "adult": 0.38, "old": 0.22})
    phenotype, local, skin = _shape(rng, gender, age)
    cut = _pick(rng, STYLES[gender])
    if cut == "afro" and skin < 0.5:
        cut = "curly"
    hair_color = _hair_colour(rng, age, skin)
    beard = gender == "man" and rng.random() < 0.38
    detail = {"skin": skin, "age": phenotype["age"], **_person_detail(rng, gender, age, hair_color)}
    detail.update(_scene_detail(rng))
    detail.update(_second_detail(seed, phenotype["age"], skin))
    clothes = _pick(rng, dict.fromkeys(COLOURS, 1))
    wall = _pick(rng, dict.fromkeys(COLOURS, 1))
    detail["clothes"] = vary(rng, COLOURS[clothes]).tolist()
    detail["wall"] = vary(rng, COLOURS[wall], saturation=0.08, value=0.08).tolist()
    return Look(
        seed=seed,
        gender=gender,
        age=age,
        skin="light" if skin < 0.36 else "medium" if skin < 0.62 else "dark",
        hair_style="bald" if cut == "bald" else STYLE_NAMES.get(cut, cut),
        cut=None if cut == "bald" else cut,
        hair_color="none" if cut == "bald" else hair_color,
        beard=beard,
        glasses=bool(rng.random() < 0.25),
        clothes_color=clothes,
        background=_pick(rng, {"plain": 3, "gradient": 2, "textured": 2, "cluttered": 3}),
        background_color=wall,
        yaw=float(np.clip(rng.normal(0, 11), -24, 24)),
        pitch=float(np.clip(rng.normal(0, 4), -9, 9)),
        roll=float(np.clip(rng.normal(0, 2.5), -6, 6)),
        phenotype=phenotype,
        local=local,
        detail=detail,
    )
