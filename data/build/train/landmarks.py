"""The landmark network: where brows, eyes, nose, mouth and chin of a face lie, learned from renders alone.

After "Fake it till you make it" (Wood et al. 2021, arXiv:2109.15102): exact landmarks of rendered faces and
strong changes of their looks carry over to photographs. A small convolutional network draws a map for each
landmark; its place is the mean of the map's softmax (Sun et al. 2018, arXiv:1711.08229). It reads what
`people.portraits` rendered, masks and all:

    PYTHONPATH=data/build python -m train.landmarks
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from people.pack import split_of
from safetensors.torch import load_file, save_file
from torch import nn

from emolib.data.framing import LANDMARKS
from emolib.runtime import InputError, pick_device, repo_path
from train import appearance, data, options
from train.appearance import EYES, MOUTH
from train.loop import train

WIDTHS = (16, 32, 64, 96, 128)


def _layer(before: int, after: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)
    )


class LandmarkNet(nn.Module):
    """Pictures (B, 3, 128, 128) in [-1, 1] -> landmarks (B, N, 2) as parts of the side, x right, y down."""

    def __init__(self, points: int = len(LANDMARKS), widths: tuple[int, ...] = WIDTHS):
        super().__init__()
        pairs = zip((3, *widths), widths, strict=False)
        self.down = nn.ModuleList(nn.Sequential(_layer(a, b, 2), _layer(b, b)) for a, b in pairs)
        self.up = nn.ModuleList(_layer(a + b, b) for a, b in zip(widths[:2:-1], widths[-2:1:-1], strict=True))
        self.maps = nn.Conv2d(widths[2], points, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        levels = []
        for layer in self.down:  # sides 64, 32, 16, 8, 4
            x = layer(x)
            levels.append(x)
        for layer, before in zip(self.up, levels[-2:1:-1], strict=True):  # back to 8, then 16
            x = layer(torch.cat([F.interpolate(x, before.shape[-2:]), before], 1))
        share = self.maps(x).float().flatten(2).softmax(2).unflatten(2, x.shape[-2:])
        at = (torch.arange(x.shape[-1], device=x.device) + 0.5) / x.shape[-1]
        return torch.stack([(share.sum(2) * at).sum(2), (share.sum(3) * at).sum(2)], 2)


def load_renders(folder: Path, split: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The rendered people of a split: pictures (N, 3, S, S) and masks (N, 1, S, S) uint8, landmarks (N, L, 2)
    in pixels. InputError without any."""
    pictures, masks, points = [], [], []
    for file in sorted(folder.glob("[0-9]*.npz")):
        if split_of(int(file.stem)) != split:
            continue
        with np.load(file) as kept:
            pictures.append(kept["pictures"])
            masks.append(kept["masks"])
            points += [record["landmarks"] for record in json.loads(str(kept["meta"]))["records"]]
    if not points:
        raise InputError(f"{folder}: nobody of {split} is rendered; run python -m people.portraits first")
    images = torch.from_numpy(np.concatenate(pictures)).permute(0, 3, 1, 2).contiguous()
    return images, torch.from_numpy(np.concatenate(masks))[:, None], torch.tensor(points)


def face_errors(found: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """(B, L) distances of landmarks (B, L, 2) from true ones, as shares of the eyes' distance to the mouth
    (of the distance between the pupils by 0.9 where that is larger)."""
    eyes, mouth = points[:, EYES], points[:, MOUTH].mean(1)
    down = (eyes.mean(1) - mouth).norm(dim=1)
    across = (eyes[:, 0] - eyes[:, 1]).norm(dim=1)
    return (found - points).norm(dim=2) / torch.maximum(down, across / 0.9)[:, None]


def train_landmarks(args) -> None:
    """Train the network on the people of train, measure it on val, save half-precision weights."""
    plan = options.plan(args, "landmarks")
    device = pick_device(plan.device)
    images, masks, points = (part.to(device) for part in load_renders(args.portraits, "train"))
    val = tuple(part.to(device) for part in load_renders(args.portraits, "val"))
    framing = {"zoom": 0.3, "shift": 0.12, "turn": 0.4}
    torch.manual_seed(plan.seed)

    def photographs(part, rows, draw):
        x, mask, true = (each[rows] for each in part)
        x, true = appearance.photograph(data.pixels(x), mask.float() / 255, true, draw, **framing)
        return x, true / x.shape[-1]

    def losses(model, step, draw):
        rows = data.batch_rows(len(images), plan.batch, plan.seed, step).to(device)
        x, true = photographs((images, masks, points), rows, draw)
        inside = ((true > 0) & (true < 1)).all(2)
        return {"loss": 100 * F.l1_loss(model(x), true, reduction="none").mean(2)[inside].mean()}

    @torch.no_grad()
    def evaluate(model, step):
        rows = torch.arange(len(val[0]), device=device)
        as_they_are = face_errors(model(data.pixels(val[0])), val[2] / images.shape[-1])
        x, true = photographs(val, rows, torch.Generator(device).manual_seed(0))
        changed = face_errors(model(x), true)
        five = [*EYES, *MOUTH, LANDMARKS.index("nose_tip")]
        return {"val_error": float(as_they_are.mean()), "val_error_as_photographs": float(changed.mean()),
                "val_error_of_five": float(changed[:, five].mean())}  # fmt: skip

    save_landmarks(train(plan, LandmarkNet(), losses, evaluate=evaluate), args.out)
    print(f"saved {args.out}: {args.out.stat().st_size / 1e6:.2f} MB, {len(images)} pictures")


def save_landmarks(model: LandmarkNet, path: Path) -> None:
    """Half-precision weights; the file's header names the landmarks."""
    weights = {name: w.half() if w.is_floating_point() else w for name, w in model.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: w.contiguous() for k, w in weights.items()}, path, {"landmarks": ",".join(LANDMARKS)})


def load_landmarks(path: Path) -> LandmarkNet:
    """A saved network, ready to find landmarks."""
    model = LandmarkNet()
    model.load_state_dict({name: weight.float() for name, weight in load_file(path).items()})
    return model.eval()


def main() -> None:
    text = "Trains the landmark network."
    parser = options.parser(
        "landmarks", text, steps=3000, batch=48, lr=2e-3, ema=0.998, weight_decay=0.01, evaluate_every=500
    )
    work = repo_path("data", "build", "work")
    parser.add_argument(
        "--portraits", type=Path, default=work / "portraits", help="folder of rendered people"
    )
    parser.add_argument("--out", type=Path, default=work / "landmarks.safetensors")
    train_landmarks(parser.parse_args())


if __name__ == "__main__":
    options.run(main)
