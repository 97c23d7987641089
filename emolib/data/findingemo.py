"""FindingEmo: how 25,869 pictures of people in social scenes feel, and where on the web they are.

Mertens et al., "FindingEmo: An Image Dataset for Emotion Recognition in the Wild", NeurIPS 2024. The
annotations and addresses come from the PyPI package `findingemo-light` (CC BY-NC-SA 4.0, not for commercial
use); the pictures belong to their owners and have to be fetched (`emolib data download`).
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from emolib.data.addresses import address_fault, safe_path
from emolib.data.files import read_table
from emolib.data.manifest import Manifest, Problems, build_manifest
from emolib.emotions import spaces
from emolib.emotions.sets import INTENSITIES, PETALS, PLUTCHIK24
from emolib.runtime import InputError, read_json, reading

PACKAGE = "findingemo-light"
AGES = ("Children", "Youth", "Young Adults", "Adults", "Seniors")
FACTORS = ("FacialExpression", "BodyLanguage", "Context", "Staging", "ConflictCtxtPerson", "Neutral")
TAGS = ("NoInteraction", "BadQualityPhoto", "Copyright", "Text", "NA", "Watermark", "NoPeople")

_COLUMNS = ("index", "user", "image_path", "tags", "age", "valence", "arousal", "emotion", "dec_factors")
_COLUMNS += ("ambiguity", "datetime")
_ENDS = {"index": (0, 2**31), "valence": (-3, 3), "arousal": (0, 6), "ambiguity": (0, 6)}
_PLACE = {
    label: (petal, level)
    for petal, names in PETALS.items()
    for label, level in zip(names, INTENSITIES, strict=True)
}


@dataclass(frozen=True)
class FindingEmo:
    """The annotations as a typed table, a row a picture, and what was counted while reading.

    `frame` columns: index (theirs), annotator (number), path (relative, theirs), query (the words the picture
    was found with), tags, ages, factors (tuples of names, empty where undefined), emotion (one of Plutchik's
    24, lower case), petal, intensity ("mild", "basic", "intense"), valence -3..3, arousal 0..6, ambiguity
    0..6, annotated (time), urls (tuple of well-formed addresses, best first), malformed_urls (number).
    """

    frame: pd.DataFrame
    counts: dict[str, int]

    def __len__(self) -> int:
        return len(self.frame)

    def manifest(self, pictures: str | Path | None = None) -> Manifest:
        """As a Manifest over `emotions.sets.PLUTCHIK24`, valence and arousal in [-1, 1].

        `pictures`: the folder they were downloaded to, of which those present are listed; None: all are.
        """
        root, frame = Path(pictures or ""), self.frame
        if pictures is not None:
            if not root.is_dir():
                fetch = f"`emolib data download --to {root}`"
                raise InputError(f"{root}: no such folder; fetch pictures with {fetch}")
            frame = frame.assign(path=[safe_path(path) for path in frame["path"]])
            frame = frame[[(root / path).is_file() for path in frame["path"]]]
        affect = spaces.convert(frame[["valence", "arousal"]].to_numpy(), "findingemo", "signed")
        kept = ["path", "emotion", "tags", "ages", "factors", "petal", "intensity", "ambiguity", "annotator"]
        rows = frame[kept].assign(id=frame["index"].astype(str), valence=affect[:, 0], arousal=affect[:, 1])
        return build_manifest(rows, PLUTCHIK24, root, source="findingemo")


def read_findingemo(folder: str | Path | None = None, *, on_error: str = "refuse") -> FindingEmo:
    """Read the annotations and addresses from the package, or from a `folder` that holds its two data files.

    A row with an unknown emotion or numbers off their scale is refused or skipped (`on_error`). Missing and
    malformed addresses are no faults of the input: they are counted in `counts`.
    """
    folder = _package_folder() if folder is None else Path(folder)
    problems = Problems(on_error)
    frame = _annotations(folder / "annotations_single.ann", problems)
    addresses, counts = _addresses(folder / "dataset_urls_exploded.json", set(frame["path"]))
    pairs = [addresses.get(path, ((), 0)) for path in frame["path"]]
    frame["urls"], frame["malformed_urls"] = [good for good, _ in pairs], [bad for _, bad in pairs]
    number = frame["urls"].str.len()
    summary = {
        "pictures": len(frame),
        "annotators": frame["annotator"].nunique(),
        "with one url": int((number == 1).sum()),
        "with several urls": int((number > 1).sum()),
        "without a url": int((number == 0).sum()),
    }
    return FindingEmo(frame, {**summary, **counts, "skipped rows": sum(problems.counts.values())})


def _package_folder() -> Path:
    spec = importlib.util.find_spec("findingemo_light")
    if spec is None or spec.origin is None:
        raise InputError(f"FindingEmo's annotations are not installed; run: pip install {PACKAGE}")
    return Path(spec.origin).parent / "data"


def _annotations(path: Path, problems: Problems) -> pd.DataFrame:
    """The typed table without addresses."""
    raw = read_table(path, _COLUMNS, text=True)  # as text: "NA" is a tag here, not a missing value
    raw = raw.assign(emotion=raw["emotion"].str.lower())
    numbers = {name: pd.to_numeric(raw[name], errors="coerce") for name in _ENDS}
    good = raw["emotion"].isin(PLUTCHIK24)
    for name, (low, high) in _ENDS.items():
        good &= numbers[name].between(low, high) & (numbers[name] % 1 == 0)
    for i in raw.index[~good]:
        row = raw.loc[i, ["image_path", "emotion", "valence", "arousal", "ambiguity"]].tolist()
        problems.add("annotation", f"{path}: row {i + 2}: emotion or numbers out of range: {row}")
    raw = raw[good].reset_index(drop=True)
    places = [_PLACE[name] for name in raw["emotion"]]
    return pd.DataFrame(
        {
            "index": numbers["index"][good].astype("int64").to_numpy(),
            "annotator": pd.factorize(raw["user"])[0].astype("int32"),
            "path": raw["image_path"].str.lstrip("/"),
            "query": [path.split("/")[-2] if path.count("/") > 1 else "" for path in raw["image_path"]],
            "tags": _names(raw["tags"]),
            "ages": _names(raw["age"]),
            "factors": _names(raw["dec_factors"]),
            "emotion": pd.Categorical(raw["emotion"], categories=list(PLUTCHIK24)),
            "petal": pd.Categorical([petal for petal, _ in places], categories=list(PETALS)),
            "intensity": pd.Categorical([level for _, level in places], categories=INTENSITIES, ordered=True),
            **{name: numbers[name][good].astype("int8").to_numpy() for name in list(_ENDS)[1:]},
            "annotated": pd.to_datetime(raw["datetime"], format="ISO8601", errors="coerce"),
        }
    )


def _names(column: pd.Series) -> list[tuple[str, ...]]:
    """Comma-separated names as tuples; "Undefined" means none."""
    return [tuple(n for n in value.split(",") if n and n != "Undefined") for value in column]


def _addresses(path: Path, annotated: set[str]) -> tuple[dict[str, tuple[tuple, int]], dict[str, int]]:
    """path -> (well-formed addresses in the authors' order, number of malformed ones), and the totals."""
    grouped: dict[str, list[str]] = {}
    with reading(path, "list of addresses"):
        rows = sorted((row["idx_url"], row["rel_path"], row["url"]) for row in read_json(path))
    for _, name, url in rows:
        grouped.setdefault(name.lstrip("/"), []).append(url)
    out = {}
    for name, urls in grouped.items():
        # Once each, in order: the next address is tried only where the one before failed.
        well_formed = [url.strip() for url in urls if address_fault(url) is None]
        out[name] = tuple(dict.fromkeys(well_formed)), len(urls) - len(well_formed)
    return out, {
        "urls": len(rows),
        "malformed urls": sum(malformed for _, malformed in out.values()),
        "url rows without an annotation": sum(name not in annotated for name in out),
    }
