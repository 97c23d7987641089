"""Trains the attribute probe of `emolib.judges.attributes` on all train people, and measures it on val."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from emolib.images import resize
from emolib.judges import attributes, emotion
from emolib.judges.attributes import SIZE, Head, Probe, Values, features
from emolib.runtime import atomic_write, generator, pick_device, progress, repo_path, write_json
from train import augment, data, files, options
from train.loop import train

ATTRIBUTES = (
    "gender", "age", "skin", "hair_style", "hair_color", "beard", "glasses", "clothes_color", "background",
    "background_color",
)  # fmt: skip
ASKED = ("hair_color", "glasses", "beard", "background_color")
"""What text-to-image is measured by."""


def shows_wall(frame: pd.DataFrame) -> np.ndarray:
    """(N,) bool: can the colour of the wall be seen and named?

    Longer hair fills these tightly framed pictures to their edges; shelves, windows and plants hide the wall
    of a cluttered background; a textured one has two shades.
    """
    even = frame["background"].isin(("plain", "gradient"))
    return (even & frame["hair_style"].isin(("short", "bald", "bun"))).to_numpy(copy=True)


def targets(frame: pd.DataFrame, values: Values) -> torch.Tensor:
    """(N, attributes) position of each portrait's value among `values`; -1 for one that is not there."""
    columns = [
        [known.index(str(value)) if str(value) in known else -1 for value in frame[name]]
        for name, known in values.items()
    ]
    return torch.tensor(columns).T


def loss(logits: torch.Tensor, wanted: torch.Tensor, counts: list[int]) -> torch.Tensor:
    """Mean cross entropy over the attributes; a target of -1 does not count."""
    parts = zip(logits.float().split(counts, 1), wanted.T, strict=True)
    # A batch may hold no known target of an attribute: the sum, so that this is 0 and not 0/0.
    losses = [F.cross_entropy(z, y, ignore_index=-1, reduction="sum") / len(y) for z, y in parts]
    return torch.stack(losses).mean()


def right(probe: Probe, images: torch.Tensor, frame: pd.DataFrame) -> dict[str, torch.Tensor]:
    """Attribute -> (B,) bool: is it seen in the picture as the row of `frame` says?"""
    wanted = targets(frame, probe.values).to(images.device)
    found = probe.logits(images)
    return {name: found[name].argmax(1) == wanted[:, k] for k, name in enumerate(probe.values)}


def save(probe: Probe, judge_folder: Path, folder: Path, numbers: dict) -> None:
    """fp16 weights of the head, and probe.json: the values, whose eyes it needs, and `numbers`."""
    weights = {name: value.half().contiguous().cpu() for name, value in probe.head.state_dict().items()}
    values = {name: list(known) for name, known in probe.values.items()}
    with files.whole_folder(folder) as temporary:
        save_file(weights, temporary / "model.safetensors")
        write_json(
            temporary / "probe.json", {"judge": attributes.digest(judge_folder), "values": values, **numbers}
        )


def spoil(x: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    """Pictures as a generator makes them: moved, a little relit, damaged as by a decoder; half of them so at
    64 px and enlarged again."""
    x = augment.relight(augment.move(x, draw), draw, amount=0.05)
    small = resize(augment.degrade(resize(x, 64), draw), SIZE)
    at_64 = torch.rand(len(x), 1, 1, 1, generator=draw, device=x.device) < 0.5
    return torch.where(at_64, small, augment.degrade(x, draw))


def cached(judge: emotion.Judge, digest: str, people: data.Portraits, name: str, work: Path) -> torch.Tensor:
    """(N, C, 12, 12) float16 on the CPU: features of every picture, spoilt once if `name` says so; computed
    once for this judge, then read from `work`."""
    key = hashlib.sha256(json.dumps([digest, people.frame["image_id"].tolist()]).encode()).hexdigest()[:10]
    file, parts = work / f"probe-{name}-{key}.npy", []
    if not file.is_file():
        work.mkdir(parents=True, exist_ok=True)
        for i, images in enumerate(progress(people.images.split(100), f"features of {name}")):
            x = data.pixels(images).cpu()
            x = spoil(x, generator(0, "spoil", name, i)) if name.endswith("spoilt") else x
            parts.append(features(judge, x).half().cpu().numpy())
        with atomic_write(file) as temporary:
            np.save(temporary, np.concatenate(parts))
    return torch.from_numpy(np.load(file))


def accuracies(head: Head, x: torch.Tensor, frame: pd.DataFrame, values: Values) -> dict[str, float]:
    """Attribute -> part right on these features (N, C, 12, 12); the wall's colour where it can be seen, if so
    anywhere."""
    device = head.mean.device
    with torch.no_grad():
        found = torch.cat([head(part.to(device).float()).cpu() for part in x.split(128)]).split(
            head.counts, 1
        )
    wanted, counted = targets(frame, values), torch.from_numpy(shows_wall(frame))
    hits = {name: found[k].argmax(1) == wanted[:, k] for k, name in enumerate(values)}
    hits["background_color"] = hits["background_color"][counted]
    return {name: float(hit.float().mean()) for name, hit in hits.items() if len(hit)}


def train_probe(args) -> None:
    """Train the probe on all train people, measure it on val, save it."""
    plan, device = options.plan(args, "judge-probe"), pick_device(args.device)
    judge, digest = emotion.load_judge(args.judge, device=args.device), attributes.digest(args.judge)
    people, val = data.load("train", args.data), data.load("val", args.data)
    values = {name: tuple(sorted({str(v) for v in people.frame[name]})) for name in ATTRIBUTES}
    x = cached(judge, digest, people, "train-spoilt", args.features)
    tests = {name: cached(judge, digest, val, name, args.features) for name in ("val", "val-spoilt")}
    wanted = targets(people.frame, values)
    wanted[~shows_wall(people.frame), ATTRIBUTES.index("background_color")] = -1
    torch.manual_seed(plan.seed)
    head = Head(x.shape[1], [len(known) for known in values.values()])
    head.standardise(x[::7].float())

    def losses(model, step, draw):
        rows = data.batch_rows(len(x), plan.batch, plan.seed, step)
        logits = model(x[rows].to(device).float())
        return {"loss": loss(logits, wanted[rows].to(device), head.counts)}

    def evaluate(model, step):
        found = {name: accuracies(model, y, val.frame, values) for name, y in tests.items()}
        return {f"{name}_{a}": rate for name, rates in found.items() for a, rate in rates.items()}

    trained = train(plan, head, losses, evaluate=evaluate)
    found = {name: accuracies(trained, y, val.frame, values) for name, y in tests.items()}
    numbers = {"n": len(val), "n_background_color": int(shows_wall(val.frame).sum()), **found}
    save(Probe(judge, trained, values), args.judge, args.out, numbers)
    print(
        f"saved {args.out}; val: " + ", ".join(f"{a} {v:.3f}" for a, v in found["val"].items() if a in ASKED)
    )


def main() -> None:
    text = "Trains the attribute probe on features of the held-out judge."
    parser = options.parser("probe", text, steps=1000, batch=64, lr=2e-3, ema=0.99, weight_decay=0.05)
    folder = repo_path("data", "judges")
    parser.add_argument("--judge", type=Path, default=folder / "heldout", help="default data/judges/heldout")
    parser.add_argument("--out", type=Path, default=folder / "probe", help="default data/judges/probe")
    work = repo_path("data", "build", "work")
    parser.add_argument("--features", type=Path, default=work, help="their cache; default data/build/work")
    train_probe(parser.parse_args())


if __name__ == "__main__":
    options.run(main)
