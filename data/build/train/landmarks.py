"""The landmark network: where brows, eyes, nose, mouth and chin of a face lie, learned from renders alone.

After "Fake it till you make it" (Wood et al. 2021, arXiv:2109.15102): exact landmarks of rendered faces and
strong changes of their looks carry over to photographs. A small convolutional network draws a map for each
landmark; its place is the mean of the map's softmax (Sun et al. 2018, arXiv:1711.08229). It reads what
`people.portraits` rendered, masks and all:

    PYTHONPATH=data/build python -m train.landmarks
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from emolib.data.framing import LANDMARKS
from emolib.runtime import pick_device, repo_path
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
    people, val = (data.load(split, args.data, renders=args.renders).to(device) for split in ("train", "val"))
    framing = {"zoom": 0.3, "shift": 0.12, "turn": 0.4}
    torch.manual_seed(plan.seed)

    def losses(model, step, draw):
        rows = data.batch_rows(len(people), plan.batch, plan.seed, step).to(device)
        x, points = appearance.draw_photographs(people, rows, draw, **framing)
        true = points / x.shape[-1]
        inside = ((true > 0) & (true < 1)).all(2)
        return {"loss": 100 * F.l1_loss(model(x), true, reduction="none").mean(2)[inside].mean()}

    @torch.no_grad()
    def evaluate(model, step):
        rows, draw = torch.arange(len(val), device=device), torch.Generator(device).manual_seed(0)
        as_they_are = face_errors(model(data.pixels(val.images)), val.landmarks / val.images.shape[-1])
        x, points = appearance.draw_photographs(val, rows, draw, **framing)
        changed = face_errors(model(x), points / x.shape[-1])
        five = [*EYES, *MOUTH, LANDMARKS.index("nose_tip")]
        return {"val_error": float(as_they_are.mean()), "val_error_as_photographs": float(changed.mean()),
                "val_error_of_five": float(changed[:, five].mean())}  # fmt: skip

    save_landmarks(train(plan, LandmarkNet(), losses, evaluate=evaluate), args.out)
    print(f"saved {args.out}: {args.out.stat().st_size / 1e6:.2f} MB, {len(people)} pictures")


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
    parser.add_argument(
        "--out", type=Path, default=repo_path("data", "build", "work") / "landmarks.safetensors"
    )
    train_landmarks(parser.parse_args())


if __name__ == "__main__":
    options.run(main)
