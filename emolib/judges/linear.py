"""Linear judges: a frozen network's features and one linear layer, fitted on any manifest.

What a judge learns is what its pictures teach: the same features fitted on two data sets give two judges,
and the transfer table says how far they agree. The held-out judge is no backbone: it only measures.
"""

from __future__ import annotations

import copy
import hashlib
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional as F

from emolib import images as pictures
from emolib.data.manifest import Manifest
from emolib.data.preparation import load_preparation
from emolib.judges.emotion import CALIBRATION, PROCESSOR, Judge, find_head, find_network, load_network
from emolib.metrics import emotion, estimates
from emolib.metrics.estimates import Estimate
from emolib.runtime import InputError, atomic_folder, pick_device, progress, reading, write_json

PENALTIES = (0.003, 0.03, 0.3, 3.0)  # inverse strengths of the L2 penalty, one of which val pictures choose
TEMPERATURES = np.geomspace(0.2, 10, 400)
SHARES = (0.7, 0.85)  # of a manifest that names no splits: train up to the first, val up to the second
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Report:
    """How a linear judge does on its own test pictures; n and a 95 % interval beside every rate.

    accuracy   all pictures; `balanced`: the mean over labels of the share recognised, which rare labels
               count as much in as common ones
    confusion  (K, K) counts, row = label, column = judged
    ece        expected calibration error before and after the temperature (Guo et al. 2017, eq. 3)
    sizes      pictures of train, val, test
    """

    labels: tuple[str, ...]
    accuracy: Estimate
    balanced: Estimate
    by_label: dict[str, Estimate]
    confusion: list[list[int]]
    ece: tuple[float, float]
    temperature: float
    penalty: float
    sizes: tuple[int, int, int]


def load_backbone(name: str | Path, *, device: str = "auto") -> Judge:
    """Load a frozen network to take features of: "guide", or an image model's folder or cached Hub id.

    What its last layer says plays no part, and may be missing. InputError: the held-out judge, nothing there.
    """
    if str(name).endswith("heldout"):
        raise InputError("the heldout judge only measures; take features of the guide, or of another network")
    folder = find_network(name, "backbone")
    with reading(folder, "transformers image model"):
        network, prepare = load_network(folder, headless=True), load_preparation(folder)
    labels = tuple(str(i) for i in range(network.config.num_labels))
    return Judge(network.to(pick_device(device)), str(name), labels=labels, prepare=prepare)


def features(network: Judge, manifest: Manifest, *, batch: int = 64) -> Tensor:
    """(N, D) float32 on the CPU: what the last layer of `network` would read of every picture."""
    found = []
    for first in progress(range(0, len(manifest), batch), "features"):
        pixels = _prepared(network, manifest, range(first, min(first + batch, len(manifest))))
        found.append(network.describe(pixels, prepared=True)[1])
    return torch.cat(found)


def _prepared(network: Judge, manifest: Manifest, rows: Iterable[int]) -> Tensor:
    """(B, 3, S, S): pictures of any sizes as the network takes them."""
    return torch.cat([network.prepare(pictures.to_tensor(manifest.image(i))) for i in rows])


def fit(
    network: Judge, manifest: Manifest, *, weight_power: float = 1.0, seen: Tensor | None = None
) -> tuple[Judge, Report]:
    """A judge of the manifest's labels: multinomial logistic regression on the features of `network`.

    weight_power  classes weigh count^-power: 1 balances them, 0 leaves the common ones their majority
    seen          the manifest's `features`, if they are there already

    Trained on the split "train"; "val" chooses the L2 penalty and the temperature, "test" is reported on. A
    manifest without these splits is divided by identity, else by picture, 70 : 15 : 15. InputError: no
    labels, one label only, a label that train, val or test do not have.
    """
    usable = np.flatnonzero(manifest.frame["emotion"].notna())
    chosen = manifest.take(usable)
    split, labels = splits(chosen), tuple(name for name in manifest.labels if chosen.counts()[name] > 0)
    target = chosen.frame["emotion"].map({name: k for k, name in enumerate(labels)}).to_numpy(dtype=int)
    _check(manifest, labels, split, target)
    x = features(network, chosen) if seen is None else seen[torch.from_numpy(usable)]
    rows = {name: np.flatnonzero(split == name) for name in SPLITS}
    weights = dict(zip(manifest.labels, chosen.take(rows["train"]).class_weights(weight_power), strict=True))
    sample = np.array([weights[labels[k]] for k in target[rows["train"]]])
    wanted = torch.tensor(target)
    heads = [_head(x[rows["train"]], target[rows["train"]], sample, c) for c in PENALTIES]
    losses = [float(F.cross_entropy(F.linear(x[rows["val"]], *h), wanted[rows["val"]])) for h in heads]
    best = int(np.argmin(losses))
    logits = F.linear(x, *heads[best])
    temperature = _temperature(logits[rows["val"]], wanted[rows["val"]])
    judge = Judge(
        _with_head(network.network, *heads[best], labels),
        f"{network.name}-linear",
        labels=labels,
        temperature=temperature,
        prepare=network.prepare,
    )
    test = rows["test"]
    return judge, _report(labels, logits[test], wanted[test], temperature, PENALTIES[best], rows, chosen)


def splits(manifest: Manifest) -> np.ndarray:
    """(N,) names "train", "val", "test": the manifest's own if it has all three, else 70 : 15 : 15 by a hash.

    People stay whole where there is a column `identity`: else a face would be recognised. Where there is none
    every label is divided alike.
    """
    own = manifest.frame["split"]
    if set(SPLITS) <= set(own.dropna()):
        return own.where(own.isin(SPLITS), "").fillna("").to_numpy(dtype=str)
    people = "identity" in manifest.frame
    unit = manifest.frame["identity" if people else "id"].astype(str)
    order = unit.map(lambda one: hashlib.sha256(one.encode()).hexdigest())
    among = pd.Series("" if people else manifest.frame["emotion"].fillna(""), index=order.index)
    rank = order.groupby(among).rank("dense")
    share = (rank - 0.5) / rank.groupby(among).transform("max")
    return np.array(SPLITS)[np.searchsorted(SHARES, share, side="right")]


def _check(manifest: Manifest, labels: Sequence[str], split: np.ndarray, target: np.ndarray) -> None:
    where = manifest.root
    if len(labels) < 2:
        found = f"all are {labels[0]!r}" if labels else "none has a label"
        raise InputError(f"{where}: a judge needs pictures of two emotions at least; {found}")
    for name in SPLITS:
        lacking = set(range(len(labels))) - set(target[split == name].tolist())
        if lacking:
            raise InputError(
                f"{where}: no picture of {labels[min(lacking)]!r} in {name}; add some, or splits"
            )


def _head(x: Tensor, target: np.ndarray, sample: np.ndarray, penalty: float) -> tuple[Tensor, Tensor]:
    """Weight (K, D) and bias (K,) of the fitted layer, for features as they come."""
    mean, std = x.mean(0), x.std(0).clamp(min=1e-6)
    model = LogisticRegression(C=penalty, max_iter=500)
    model.fit(((x - mean) / std).numpy(), target, sample_weight=sample)
    weight, bias = (torch.from_numpy(part).float() for part in (model.coef_, model.intercept_))
    if len(weight) == 1:  # of two classes scikit-learn gives the second's only
        weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    return weight / std, bias - (weight / std) @ mean


def _with_head(network: torch.nn.Module, weight: Tensor, bias: Tensor, labels: Sequence[str]):
    """A copy of the network whose last linear layer is this one."""
    copied = copy.deepcopy(network)
    name = find_head(copied)
    layer = torch.nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    parent, _, leaf = name.rpartition(".")
    setattr(copied.get_submodule(parent), leaf, layer.to(next(network.parameters()).device))
    if hasattr(copied, "config"):  # transformers' own; any module whose output has `logits` will do
        copied.config.id2label = dict(enumerate(labels))
        copied.config.label2id = {label: k for k, label in enumerate(labels)}
    return copied


def _temperature(logits: Tensor, target: Tensor) -> float:
    """The temperature with the least cross entropy."""
    return float(min(TEMPERATURES, key=lambda t: float(F.cross_entropy(logits / t, target))))


def _report(labels, logits, target, temperature, penalty, rows, chosen) -> Report:
    judged, index = logits.argmax(1), rows["test"]
    unit = chosen.frame["identity" if "identity" in chosen.frame else "id"].to_numpy()[index]
    hits, known = (judged == target).numpy(), target.numpy()
    balanced = estimates.jackknife(_mean_recall(hits, known), unit)
    return Report(
        labels,
        estimates.rate(hits, groups=unit),
        Estimate(*balanced, len(index)),
        {name: estimates.rate(hits[known == k], groups=unit[known == k]) for k, name in enumerate(labels)},
        emotion.confusion(judged, target, len(labels)).tolist(),
        tuple(emotion.calibration_error((logits / t).softmax(1), target) for t in (1.0, temperature)),
        temperature,
        penalty,
        tuple(len(rows[name]) for name in SPLITS),
    )


def _mean_recall(hits: np.ndarray, target: np.ndarray):
    def recall(rows: np.ndarray) -> float:
        of = target[rows]
        return float(np.mean([hits[rows][of == k].mean() for k in np.unique(of)]))

    return recall


def save_judge(judge: Judge, report: Report, folder: Path, *, source: str | Path) -> None:
    """Write a judge folder that `load_judge` opens, and report.json; `source` is the backbone's name.

    All of it, or nothing: OSError where the disk is full."""
    about = {"temperature": judge.temperature, "labels": list(judge.labels)}
    with atomic_folder(folder) as temporary:
        judge.network.save_pretrained(temporary)
        shutil.copyfile(find_network(source, "backbone") / PROCESSOR, temporary / PROCESSOR)
        write_json(temporary / CALIBRATION, {**about, "ece": report.ece[1], "n": report.sizes[1]})
        write_json(temporary / "report.json", asdict(report))


def transfer(
    panel: Mapping[str, Judge], data: Mapping[str, Manifest]
) -> dict[tuple[str, str], tuple[Estimate | None, tuple[str, ...]]]:
    """Every judge on every data set: {(judge, data): (accuracy, shared labels)}.

    Pictures whose label the judge knows, its answer the most probable of the shared labels, so that two label
    sets can meet. Only pictures of "test" count (the manifest's own, else by `splits`): a judge may have seen
    the rest. None where fewer than two labels are shared.
    """
    found = {}
    for name, manifest in data.items():
        own = (manifest.frame["split"] == "test").to_numpy()
        test = manifest.take(np.flatnonzero(own if own.any() else splits(manifest) == "test"))
        for label, judge in panel.items():
            found[label, name] = _agreement(judge, test)
    return found


def _agreement(judge: Judge, manifest: Manifest) -> tuple[Estimate | None, tuple[str, ...]]:
    present = set(manifest.frame["emotion"].dropna())
    shared = tuple(name for name in judge.labels if name in present)
    if len(shared) < 2:
        return None, shared
    chosen = manifest.take(np.flatnonzero(manifest.frame["emotion"].isin(shared)))
    columns = [judge.labels.index(name) for name in shared]
    verdict = judge.describe(_prepared(judge, chosen, range(len(chosen))), prepared=True)[0]
    judged = verdict.probs[:, columns].argmax(1).numpy()
    target = chosen.frame["emotion"].map({name: k for k, name in enumerate(shared)}).to_numpy(dtype=int)
    unit = chosen.frame["identity" if "identity" in chosen.frame else "id"].to_numpy()
    return estimates.rate(judged == target, groups=unit), shared
