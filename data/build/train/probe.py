"""The attribute probe: does a picture show the red hair, the glasses, the blue wall that its prompt named?

Its eyes are the first stages of the held-out judge, frozen, so the probe, like that judge, measures and is
used for nothing else. Beside their features stand the colours themselves. A small head reads every cell of a
12x12 grid alike and pools the cells' answers, attribute by attribute, under weights that it learned: whatever
of the wall shows between hair and frame decides the wall's colour (attention-based pooling, Ilse, Tomczak and
Welling 2018, "Attention-based Deep Multiple Instance Learning", eq. 7).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from emolib import judges
from emolib.data._files import read_json
from emolib.images import resize
from emolib.runtime import InputError, atomic_write, generator, pick_device, progress, repo_path, write_json
from train import augment, data, files, options
from train.loop import train

ATTRIBUTES = (
    "gender", "age", "skin", "hair_style", "hair_color", "beard", "glasses", "clothes_color", "background",
    "background_color",
)  # fmt: skip
ASKED = ("hair_color", "glasses", "beard", "background_color")
"""What text-to-image is measured by."""

SIZE, CELLS, HIDDEN = 96, 12, 64
Values = dict[str, tuple[str, ...]]


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


@torch.no_grad()
def features(judge: judges.Judge, images: torch.Tensor) -> torch.Tensor:
    """(B, C, 12, 12) float32 of pictures (B, 3, H, W) in [-1, 1]: of each cell the mean colours of its
    quarters, the colours' deviation, then what the judge's stem and first three stages find there."""
    x = resize(images.to(judge.device), SIZE)
    side = SIZE // CELLS
    mean = F.avg_pool2d(x, side)
    deviation = (F.avg_pool2d(x * x, side) - mean * mean).clamp_min(0).sqrt()
    found = [F.pixel_unshuffle(F.avg_pool2d(x, side // 2), 2), deviation]
    for level in judge.network(x, output_hidden_states=True).hidden_states[:4]:
        fine = level.shape[-1] >= CELLS
        found.append(F.adaptive_avg_pool2d(level, CELLS) if fine else F.interpolate(level, size=CELLS))
    return torch.cat(found, 1).float()


class Head(nn.Module):
    """Features (B, C, 12, 12) -> logits (B, all values of all attributes): what the cells say, pooled, plus
    what a 3x3 grid of their averages says, for attributes that no single place shows, such as age.

    counts  how many values each attribute has, in order
    """

    def __init__(self, channels: int, counts: list[int]):
        super().__init__()
        self.counts = counts
        self.register_buffer("mean", torch.zeros(1, channels, 1, 1))
        self.register_buffer("spread", torch.ones(1, channels, 1, 1))
        self.cell, self.picture = nn.Conv2d(channels, HIDDEN, 1), nn.Linear(channels, HIDDEN)
        self.place = nn.Parameter(torch.zeros(1, HIDDEN, CELLS, CELLS))
        self.mix, self.dropout = nn.Conv2d(HIDDEN, HIDDEN, 1), nn.Dropout(0.2)
        self.answer, self.weight = nn.Conv2d(HIDDEN, sum(counts), 1), nn.Conv2d(HIDDEN, len(counts), 1)
        self.whole = nn.Linear(9 * HIDDEN, sum(counts))

    def standardise(self, x: torch.Tensor) -> None:
        """Bring the channels of features like `x` to mean 0 and deviation 1."""
        self.mean.copy_(x.mean((0, 2, 3), keepdim=True))
        self.spread.copy_(x.std((0, 2, 3), keepdim=True).clamp_min(1e-3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = ((x - self.mean) / self.spread).clamp(-6, 6)
        # What a colour is called depends on the light: each cell also knows the picture's average.
        hidden = F.gelu(self.cell(x) + self.picture(x.mean((2, 3)))[..., None, None] + self.place)
        hidden = self.dropout(F.gelu(self.mix(self.dropout(hidden))))
        answers = self.answer(hidden).flatten(2).split(self.counts, 1)
        weights = self.weight(hidden).flatten(2).softmax(-1).split(1, 1)
        pooled = torch.cat([(a * w).sum(-1) for a, w in zip(answers, weights, strict=True)], 1)
        return pooled + self.whole(F.adaptive_avg_pool2d(hidden, 3).flatten(1))


def loss(logits: torch.Tensor, wanted: torch.Tensor, counts: list[int]) -> torch.Tensor:
    """Mean cross entropy over the attributes; a target of -1 does not count."""
    parts = zip(logits.float().split(counts, 1), wanted.T, strict=True)
    # A batch may hold no known target of an attribute: the sum, so that this is 0 and not 0/0.
    losses = [F.cross_entropy(z, y, ignore_index=-1, reduction="sum") / len(y) for z, y in parts]
    return torch.stack(losses).mean()


@dataclass(frozen=True)
class Probe:
    """A trained head, the judge it looks through, and the values of each attribute in the logits' order."""

    judge: judges.Judge
    head: Head
    values: Values


@torch.no_grad()
def attributes(probe: Probe, images: torch.Tensor, *, batch_size: int = 128) -> dict[str, torch.Tensor]:
    """Attribute -> logits (B, values) of pictures (B, 3, H, W) in [-1, 1] of any size, on their device."""
    parts = [probe.head(features(probe.judge, part)) for part in images.split(batch_size)]
    split = torch.cat(parts).to(images.device).split(probe.head.counts, 1)
    return dict(zip(probe.values, split, strict=True))


def right(probe: Probe, images: torch.Tensor, frame: pd.DataFrame) -> dict[str, torch.Tensor]:
    """Attribute -> (B,) bool: is it seen in the picture as the row of `frame` says?"""
    wanted = targets(frame, probe.values).to(images.device)
    found = attributes(probe, images)
    return {name: found[name].argmax(1) == wanted[:, k] for k, name in enumerate(probe.values)}


def _digest(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()[:16]


def save(probe: Probe, judge_folder: Path, folder: Path, numbers: dict) -> None:
    """fp16 weights of the head, and probe.json: the values, whose eyes it needs, and `numbers`."""
    weights = {name: value.half().contiguous().cpu() for name, value in probe.head.state_dict().items()}
    values = {name: list(known) for name, known in probe.values.items()}
    with files.whole_folder(folder) as temporary:
        save_file(weights, temporary / "model.safetensors")
        write_json(temporary / "probe.json", {"judge": _digest(judge_folder), "values": values, **numbers})


def load(folder: Path, judge_folder: Path, *, device: str = "auto") -> Probe:
    """The probe saved in `folder`, looking through the held-out judge of `judge_folder`. Runs in float32.

    InputError if a file is missing or broken, or if the probe was trained on another judge."""
    facts = read_json(folder / "probe.json")
    judge = judges.load(judge_folder, device=device)
    if facts.get("judge") != _digest(judge_folder):
        raise InputError(f"{folder}: was trained on another judge than {judge_folder}; run train.probe again")
    try:
        values = {name: tuple(known) for name, known in facts["values"].items()}
        weights = load_file(folder / "model.safetensors")
        head = Head(weights["mean"].shape[1], [len(known) for known in values.values()])
        head.load_state_dict(weights)
    except Exception as error:  # broken files make nearly any error
        raise InputError(f"{folder}: not a readable probe ({str(error).splitlines()[0]})") from None
    return Probe(judge, head.to(judge.device).eval().requires_grad_(False), values)


def spoil(x: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    """Pictures as a generator makes them: moved, a little relit, damaged as by a decoder; half of them so at
    64 px and enlarged again."""
    x = augment.relight(augment.move(x, draw), draw, amount=0.05)
    small = resize(augment.degrade(resize(x, 64), draw), SIZE)
    at_64 = torch.rand(len(x), 1, 1, 1, generator=draw, device=x.device) < 0.5
    return torch.where(at_64, small, augment.degrade(x, draw))


def cached(judge: judges.Judge, digest: str, people: data.Portraits, name: str, work: Path) -> torch.Tensor:
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
    judge, digest = judges.load(args.judge, device=args.device), _digest(args.judge)
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
