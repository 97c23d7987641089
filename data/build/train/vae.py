"""MiniSD's autoencoder: an AutoencoderKL, by default with f=8 and sixteen latent channels.

Loss: L1 + gradient L1 + a tiny KL term, more weight on the face, and optionally the distance between the
guide judge's features of the picture and of its reconstruction. The first steps use 64-px pictures (the
network is convolutional), the rest native ones. After training, a shift and a scale of each latent channel
are folded into the 1x1 convolutions around the latents, so that one `scaling_factor` is right for all
channels: the Stable Diffusion pipelines know no other normalisation.

`--decoder FOLDER` goes on with the decoder alone, as Stable Diffusion's own autoencoders were fine-tuned: the
latents, and with them a denoiser trained on them, stay as they are. `--start FOLDER` goes on with encoder and
decoder, and folds nothing again: the latents move little, and the denoiser must be trained on after them.
`--like FOLDER` draws the first latent channels to those that another autoencoder finds in the picture shrunk
to the same latent side, so that a denoiser of those can be trained on for these.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import nn
from transformers import AutoModelForImageClassification

from emolib.runtime import InputError, pick_device, repo_path
from train import appearance, data, files, options
from train.judges import outputs
from train.loop import Plan, train


def network(
    channels: tuple[int, ...] = (24, 48, 96, 128), size: int = 128, latent: int = 16
) -> AutoencoderKL:
    """A randomly initialised autoencoder of `latent` channels; it shrinks by two per width but the last."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        block_out_channels=channels,
        latent_channels=latent,
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=size,
        force_upcast=False,
    )


def shrink(
    x: torch.Tensor, weight: torch.Tensor, size: int, draw: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures and their weights at `size` px: half of the batch cut out, the other half resized."""
    height, cut = x.shape[-1], len(x) // 2
    top, left = torch.randint(0, height - size + 1, (2,), generator=draw, device=x.device).tolist()
    parts = []
    for t in (x, weight):
        crop = t[:cut, :, top : top + size, left : left + size]
        small = F.interpolate(
            t[cut:], size=(size, size), mode="bilinear", antialias=True, align_corners=False
        )
        parts.append(torch.cat([crop, small]))
    return parts[0].clamp(-1, 1), parts[1]


def face_weight(box: torch.Tensor, size: int, extra: float) -> torch.Tensor:
    """(B, 1, size, size) one outside the face boxes (parts of the width), 1 + extra inside; mean one."""
    at = (torch.arange(size, device=box.device) + 0.5) / size
    inside = lambda low, high: (at >= low[:, None]) & (at < high[:, None])  # noqa: E731
    face = inside(box[:, 1], box[:, 3])[:, :, None] & inside(box[:, 0], box[:, 2])[:, None, :]
    weight = 1 + extra * face[:, None].float()
    return weight / weight.mean((1, 2, 3), keepdim=True)


def reconstruction_loss(x: torch.Tensor, y: torch.Tensor, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    """Weighted L1 of the pictures ("l1") and of their horizontal and vertical differences ("gradient")."""
    error = y - x
    across, down = error.diff(dim=-1) * weight[..., 1:], error.diff(dim=-2) * weight[..., 1:, :]
    return {"l1": (error * weight).abs().mean(), "gradient": across.abs().mean() + down.abs().mean()}


class Like(nn.Module):
    """How far latents are from those that a frozen autoencoder finds in the picture, shrunk to the same
    latent side; each of its channels over its own spread."""

    def __init__(self, folder: Path, device: torch.device):
        super().__init__()
        other = AutoencoderKL.from_pretrained(folder, dtype=torch.float32)
        self.other, self.factor = (
            other.to(device).eval().requires_grad_(False),
            2 ** (len(other.config.block_out_channels) - 1),
        )

    def forward(self, x: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        side = latents.shape[-1] * self.factor
        small = F.interpolate(x, size=(side, side), mode="bilinear", antialias=True, align_corners=False)
        wanted = self.other.encode(small).latent_dist.mode().float()
        spread = wanted.std((0, 2, 3), keepdim=True) + 1e-3
        return ((latents[:, : wanted.shape[1]].float() - wanted) / spread).abs().mean()


class Features(nn.Module):
    """Distance of two pictures in a frozen judge's first two stages, each channel over its own spread."""

    def __init__(self, folder: Path, device: torch.device):
        super().__init__()
        judge = AutoModelForImageClassification.from_pretrained(folder, dtype=torch.float32)
        self.judge = judge.to(device).eval().requires_grad_(False)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        a, b = (self.judge(t, output_hidden_states=True).hidden_states[1:3] for t in (x, y))
        parts = []
        for one, other in zip(a, b, strict=True):
            one, other = one.float(), other.float()
            spread = one.std((0, 2, 3), keepdim=True).detach() + 1e-3
            parts.append(((one - other) / spread).abs().mean())
        return sum(parts) / len(parts)


@torch.no_grad()
def reconstruct(vae: AutoencoderKL, images: torch.Tensor, batch: int = 64) -> torch.Tensor:
    """(N, 3, H, W), uint8 or in [-1, 1], through the autoencoder and back (posterior mean): float32 in
    [-1, 1], on the CPU."""
    parts = [part if part.is_floating_point() else data.pixels(part) for part in images.split(batch)]
    out = [vae.decode(vae.encode(part).latent_dist.mode()).sample for part in parts]
    return torch.cat([part.float().clamp(-1, 1).cpu() for part in out])


def psnr(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """(N,) peak signal-to-noise ratio, dB, of pictures in [-1, 1] as 8-bit pictures have it."""
    error = ((x - y).double() / 2).pow(2).mean((1, 2, 3))
    return -10 * torch.log10(error.clamp(min=1e-12))


@torch.no_grad()
def energies(vae: AutoencoderKL, images: torch.Tensor, *, share: float = 0.1) -> torch.Tensor:
    """(C,) how strongly each latent channel shows: mean squared change of the decoded picture per squared
    change of the latents, for white noise of `share` of the channel's spread."""
    latents = vae.encode(data.pixels(images)).latent_dist.mode()
    plain, found = vae.decode(latents).sample, []
    noise = torch.randn(latents[:, :1].shape, generator=torch.Generator().manual_seed(0)).to(latents)
    for c in range(latents.shape[1]):
        amount = share * latents[:, c].std()
        moved = latents.clone()
        moved[:, c : c + 1] += amount * noise
        found.append((vae.decode(moved).sample - plain).pow(2).mean() / amount**2)
    return torch.stack(found)


@torch.no_grad()
def fold_scales(vae: AutoencoderKL, images: torch.Tensor) -> dict[str, list[float]]:
    """Shift each latent channel to mean 0 and scale it to how strongly it shows, changing no reconstruction.

    Afterwards equal noise in any channel costs equal error in the picture, so the denoiser's loss counts what
    is seen and channels of fine detail stay small. Shift and scale go into the 1x1 convolutions on both sides
    of the latents; `scaling_factor` in the configuration becomes 1 / the root mean square spread. Returns
    each channel's mean, spread and energy as they were, and the spread it has now (in units of all).
    """
    parts = [vae.encode(data.pixels(part)).latent_dist.sample().float() for part in images.split(64)]
    latents = torch.cat(parts).transpose(0, 1).flatten(1)
    mean, spread, energy = latents.mean(1), latents.std(1), energies(vae, images[:32])
    scale = energy.sqrt()
    common = (spread * scale).pow(2).mean().sqrt()
    before, after = vae.quant_conv, vae.post_quant_conv
    count = len(mean)
    before.weight[:count] *= scale[:, None, None, None]
    before.bias[:count] = (before.bias[:count] - mean) * scale
    before.bias[count:] += 2 * scale.log()  # the log variances
    after.bias += after.weight[:, :, 0, 0] @ mean
    after.weight /= scale[None, :, None, None]
    vae.register_to_config(scaling_factor=float(1 / common))
    now = spread * scale / common
    return {k: v.tolist() for k, v in {"mean": mean, "std": spread, "energy": energy, "now": now}.items()}


def arguments():
    text = "Trains MiniSD's autoencoder on EmoFaces train."
    out = options.parser("vae", text, steps=20000, batch=16, lr=8e-4, ema=0.999, warmup=300, decay=0.5)
    add = out.add_argument
    add(
        "--channels",
        type=int,
        nargs="+",
        default=(24, 48, 96, 128),
        help="widths; default 24 48 96 128 (f=8)",
    )
    add("--latent", type=int, default=16, help="latent channels; default 16")
    add("--like", type=Path, default=None, help="an autoencoder's folder: begin with its latent channels")
    add("--like-weight", type=float, default=0.1, help="weight of the distance to them; default 0.1")
    add("--small-steps", type=int, default=8000, help="first steps, with 64-px pictures; default 8000")
    add("--start", type=Path, default=None, help="an autoencoder's folder: go on with all of it")
    add("--decoder", type=Path, default=None, help="an autoencoder's folder: train only its decoder further")
    add("--kl", type=float, default=1e-6, help="weight of the mean KL per latent number; default 1e-6")
    add("--gradient", type=float, default=0.5, help="weight of the differences' L1; default 0.5")
    add(
        "--perceptual",
        type=float,
        default=0.0,
        help="weight of the guide judge's features; default 0: not used",
    )
    add("--face", type=float, default=1.0, help="extra weight of the face; default 1")
    add(
        "--judge",
        type=Path,
        default=repo_path("data", "judges", "guide"),
        help="for --perceptual and the log",
    )
    add(
        "--validate", type=int, default=256, help="val pictures reconstructed at each evaluation; default 256"
    )
    return out.parse_args()


@dataclass
class Teacher:
    """Draws a training batch and scores the autoencoder on it; measures it on `val`."""

    people: data.Portraits
    val: data.Portraits
    judge: Features | None
    like: Like | None
    args: object
    plan: Plan

    def __call__(self, model: AutoencoderKL, step: int, draw: torch.Generator) -> dict[str, torch.Tensor]:
        """The loss of one step, and its parts."""
        args, people, size = self.args, self.people, self.people.images.shape[-1]
        rows = data.batch_rows(len(people), self.plan.batch, self.plan.seed, step).to(draw.device)
        x, points = appearance.draw_photographs(people, rows, draw, cut=0.0, grey=0.1)
        box = torch.cat([points.amin(1), points.amax(1)], 1) / size
        weight = face_weight(box.clamp(0, 1), size, args.face)
        if step < args.small_steps:
            x, weight = shrink(x, weight, 64, draw)
        x = x.contiguous(memory_format=torch.channels_last)
        posterior = model.encode(x).latent_dist
        y = model.decode(posterior.sample(generator=draw)).sample.float()
        parts = reconstruction_loss(x, y, weight)
        parts["kl"] = posterior.kl().float().mean() / posterior.mean[0].numel()
        loss = parts["l1"] + args.gradient * parts["gradient"] + args.kl * parts["kl"]
        if self.like is not None:
            parts["like"] = self.like(x, posterior.mean)
            loss = loss + args.like_weight * parts["like"]
        if args.perceptual:
            parts["perceptual"] = self.judge(x, y)
            loss = loss + args.perceptual * parts["perceptual"]
        return {"loss": loss, **parts}

    def evaluate(self, model: AutoencoderKL, step: int) -> dict[str, float]:
        """PSNR on val, and the judge's accuracy before and after the autoencoder."""
        val = self.val
        again = reconstruct(model, val.images).to(val.images.device)
        found = {"val_psnr": float(psnr(data.pixels(val.images), again).mean())}
        if self.judge is not None:
            for name, pictures in (("original", val.images), ("reconstructed", again)):
                right = outputs(self.judge.judge, pictures)[:, :9].argmax(1) == val.emotion
                found[f"val_accuracy_{name}"] = float(right.float().mean())
        return found


def main() -> None:
    args = arguments()
    plan, device = options.plan(args, "vae-decoder" if args.decoder else "vae"), pick_device(args.device)
    people = data.load("train", args.data, renders=args.renders).to(device)
    val = data.load("val", args.data)
    some = torch.randperm(len(val), generator=torch.Generator().manual_seed(0))[: args.validate]
    judge = Features(args.judge, device) if args.judge.is_dir() else None
    begin = args.decoder or args.start
    for folder in filter(None, (begin, args.like)):
        if not folder.is_dir():
            raise InputError(f"{folder}: no autoencoder there; give the folder of one")
    if args.perceptual and judge is None:
        raise InputError(f"{args.judge}: no judge there for --perceptual; train it first")
    torch.manual_seed(plan.seed)
    if begin:
        model = AutoencoderKL.from_pretrained(begin, dtype=torch.float32)
    else:
        model = network(tuple(args.channels), people.images.shape[-1], args.latent)
    if args.decoder:
        for part in (model.encoder, model.quant_conv):
            part.requires_grad_(False)
    if args.compile:  # the loop compiles `forward`, which is not what is called here
        model.encoder.compile()
        model.decoder.compile()
    like = Like(args.like, device) if args.like else None
    teacher = Teacher(people, val.keep(some.numpy()).to(device), judge, like, args, plan)
    trained = train(plan, model, teacher, evaluate=teacher.evaluate)
    if not begin:
        some = torch.randperm(len(people), generator=torch.Generator().manual_seed(1))[:1024].to(device)
        print(f"latent channels: {fold_scales(trained, people.images[some])}")
    with files.whole_folder(plan.work / "final") as temporary:
        trained.save_pretrained(temporary)
    print(f"saved {plan.work / 'final'}; scaling_factor {trained.config.scaling_factor:.4f}")


if __name__ == "__main__":
    options.run(main)
