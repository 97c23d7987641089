"""MiniSD's denoiser: a UNet2DConditionModel on cached latents, steered by MiniCLIP's frozen text tower.

Timesteps are drawn mostly around the middle, sigmoid of a normal as in Esser et al. 2024 (arXiv 2403.03206,
section 3.1), the rest evenly. At the end everything is assembled and saved as data/minisd.

A long further part (`--start`) makes pictures crisper and edits less faithful: the same noise, told another
emotion, becomes another person. `--blend 0.5` takes the mean of the weights before and after it, which is
better at both (Wortsman et al. 2022, arXiv 2109.01903).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import nn
from transformers import AutoModelForImageClassification, CLIPTextModel, CLIPTokenizer

from emolib.runtime import InputError, pick_device, read_json, repo_path, write_json
from emolib.training.objective import loss_weight
from train import captions, data, files, latents, options
from train.gauge import Gauge
from train.loop import Plan, train

SMALL = 64


def network(
    latent: int, width: int, size: int, *, channels: tuple[int, ...] = (64, 128, 160), heads: int = 4
) -> UNet2DConditionModel:
    """A randomly initialised UNet for `latent` channels of side `size`; all levels but the first and dearest
    attend to the text."""
    levels = len(channels) - 1
    return UNet2DConditionModel(
        sample_size=size,
        in_channels=latent,
        out_channels=latent,
        block_out_channels=channels,
        layers_per_block=1,
        down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * levels,
        up_block_types=("CrossAttnUpBlock2D",) * levels + ("UpBlock2D",),
        cross_attention_dim=width,
        attention_head_dim=heads,  # diffusers reads this as the number of heads
    )


def schedule(prediction: str) -> DDIMScheduler:
    """Stable Diffusion 1's noise levels; the clean end is level 0, not abar = 1 (edit-friendly inversion)."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction,
    )


def timesteps(
    count: int, draw: torch.Generator, device: torch.device, *, mean: float, spread: float, even: float
) -> torch.Tensor:
    """(count,) in 0..999: part `even` uniform, the others 1000 sigmoid(normal(mean, spread)), stratified."""
    order = torch.randperm(count, generator=draw, device=device)
    place = ((order + torch.rand(count, generator=draw, device=device)) / count).clamp(1e-6, 1 - 1e-6)
    middle = torch.sigmoid(mean + spread * torch.special.ndtri(place))
    again = torch.rand(count, generator=draw, device=device)
    uniform = torch.rand(count, generator=draw, device=device) < even
    return (torch.where(uniform, again, middle) * 1000).long().clamp(0, 999)


def expression_weight(moments: torch.Tensor, siblings: torch.Tensor, extra: float) -> torch.Tensor:
    """(N, V, 1, h, w) weights of latents: 1 + `extra` times how much a person's pictures differ there.

    `moments` (N, V, 2C, h, w) are posteriors of V views of each picture, `siblings` (people, S) the rows
    of the same person under all emotions. The difference is the spread over them, in units of its own mean.
    Each picture's weights have mean one.
    """
    mean, weight = moments.chunk(2, 2)[0], torch.ones_like(moments[:, :, :1], dtype=torch.float32)
    for rows in siblings:
        spread = mean[rows].float().var(0).mean(1, keepdim=True).sqrt()
        weight[rows] = 1 + extra * spread / spread.mean((1, 2, 3), keepdim=True)
    return weight / weight.mean((2, 3, 4), keepdim=True)


@dataclass
class Teacher:
    """Draws a training batch and scores the network on it; everything but the network is frozen."""

    people: data.Portraits
    bank: captions.Bank
    plain: captions.Bank
    moments: dict[int, torch.Tensor]
    weights: dict[int, torch.Tensor]
    text: CLIPTextModel
    empty: torch.Tensor
    scale: float
    scheduler: DDIMScheduler
    args: object
    plan: Plan

    def size(self, step: int) -> int:
        """Picture size of `step`, px."""
        return SMALL if step < self.args.small_steps else self.args.size or self.people.images.shape[-1]

    def __call__(self, model: nn.Module, step: int, draw: torch.Generator) -> dict[str, torch.Tensor]:
        """The loss of one step."""
        args, device = self.args, draw.device
        # Of a family all get the same view, noise and time: only the expression differs.
        rows, family = data.step_rows(self.people, self.plan.batch, self.plan.seed, step, args.siblings)
        groups = len(rows) // family
        size = self.size(step)
        views = self.moments[size].shape[1]
        view = torch.randint(views, (groups,), generator=draw, device=device).repeat_interleave(family)
        when = timesteps(
            groups, draw, device, mean=args.time_mean, spread=args.time_spread, even=args.time_even
        )
        when = when.repeat_interleave(family)
        which = torch.randint(self.bank.ids.shape[1], rows.shape, generator=draw, device=device)
        dropped = torch.rand(len(rows), 1, generator=draw, device=device) < args.drop
        # Views from the third on stand before another wall, of which the caption must not speak.
        own, plain = (bank.ids[rows, which].long() for bank in (self.bank, self.plain))
        ids = torch.where(dropped, self.empty, torch.where(view[:, None] < 2, own, plain))
        latent = latents.sample(self.moments[size][rows, view], draw) * self.scale
        noise = torch.randn(groups, *latent.shape[1:], generator=draw, device=device)
        noise = noise.repeat_interleave(family, 0)
        return {"loss": self._error(model, latent, noise, when, ids, self.weights[size][rows, view])}

    def _error(self, model, latent, noise, when, ids, weight) -> torch.Tensor:
        with torch.no_grad():
            hidden = self.text(ids).last_hidden_state
        noisy = self.scheduler.add_noise(latent, noise, when).contiguous(memory_format=torch.channels_last)
        guess = model(noisy, when, hidden).sample.float()
        kind = self.scheduler.config.prediction_type
        target = noise if kind == "epsilon" else self.scheduler.get_velocity(latent, noise, when)
        error = ((guess - target).pow(2) * weight).mean((1, 2, 3))
        abar = self.scheduler.alphas_cumprod.to(when.device)[when]
        return (error * loss_weight(abar, self.args.min_snr, kind, self.args.floor)).mean()


@torch.no_grad()
def widen(unet: UNet2DConditionModel, latent: int) -> UNet2DConditionModel:
    """A UNet for `latent` channels that does with the first what `unet` does, and ignores the others."""
    before = unet.config.in_channels
    if before == latent:
        return unet
    wide = UNet2DConditionModel.from_config({**unet.config, "in_channels": latent, "out_channels": latent})
    state, fresh = unet.state_dict(), wide.state_dict()
    for name in ("conv_in.weight", "conv_out.weight", "conv_out.bias"):
        value = torch.zeros_like(fresh[name])
        value[tuple(map(slice, state[name].shape))] = state[name]
        state[name] = value
    wide.load_state_dict(state)
    return wide


@torch.no_grad()
def blend(unet: nn.Module, start: dict[str, torch.Tensor], share: float) -> None:
    """Move the weights of `unet` by `share` of the way back to those of `start`."""
    for name, value in unet.state_dict().items():
        value.lerp_(start[name].to(value), share)


def arguments():
    text = "Trains MiniSD's UNet and saves data/minisd. Needs data/miniclip, train.vae and the guide judge."
    out = options.parser(
        "unet", text, steps=30000, batch=36, lr=5e-4, ema=0.998, warmup=300, evaluate_every=1500
    )
    add, work = out.add_argument, repo_path("data", "build", "work")
    add("--out", type=Path, default=repo_path("data", "minisd"), help="default data/minisd")
    add("--miniclip", type=Path, default=repo_path("data", "miniclip"), help="default data/miniclip")
    add("--vae", type=Path, default=work / "vae" / "final", help="default data/build/work/vae/final")
    add(
        "--judge",
        type=Path,
        default=repo_path("data", "judges", "guide"),
        help="reads the samples; default the guide",
    )
    add("--channels", type=int, nargs="+", default=(64, 128, 160), help="widths; default 64 128 160")
    add("--size", type=int, default=0, help="px of the finished model's pictures; default: the portraits'")
    add("--start", type=Path, default=None, help="folder of a MiniSD whose UNet to start from")
    add(
        "--blend",
        type=float,
        default=0.0,
        help="part that the weights of --start have in the finished ones; default 0",
    )
    add("--heads", type=int, default=4, help="attention heads; default 4")
    add("--small-steps", type=int, default=15000, help="first steps, at 64 px; default 15000")
    add("--variants", type=int, default=16, help="captions drawn for a picture; default 16")
    add(
        "--views",
        type=int,
        default=2,
        help="views of a picture: it, its mirror image, photographs; default 2",
    )
    add("--drop", type=float, default=0.1, help="part of empty captions; default 0.1")
    add("--siblings", type=float, default=0.4, help="part of the steps with whole families; default 0.4")
    add("--time-mean", type=float, default=0.2, help="of the logit of time; default 0.2")
    add("--time-spread", type=float, default=0.9, help="default 0.9")
    add("--time-even", type=float, default=0.2, help="part of evenly drawn times; default 0.2")
    add("--prediction", choices=("epsilon", "v_prediction"), default="epsilon", help="default epsilon")
    add("--min-snr", type=float, default=5.0, help="gamma of min-SNR weights; default 5; 0: off")
    add("--floor", type=float, default=0.2, help="least weight, for x0, at high noise; default 0.2")
    add(
        "--expression",
        type=float,
        default=1.0,
        help="extra weight of what differs between a person's pictures; default 1",
    )
    add("--samples", type=int, default=8, help="samples an emotion at each evaluation; default 8")
    return out.parse_args()


def pipeline(args, device: torch.device) -> StableDiffusionPipeline:
    """MiniSD with an untrained UNet, on `device`. InputError for a missing part."""
    for path in (args.miniclip, args.vae, args.judge, args.start):
        if path and not path.is_dir():
            raise InputError(f"{path}: not there; train it first (see python -m train --help)")
    if args.blend and not (args.start and 0 < args.blend < 1):
        raise InputError("--blend needs --start, and a number between 0 and 1")
    vae = AutoencoderKL.from_pretrained(args.vae)
    tokenizer, text = (
        CLIPTokenizer.from_pretrained(args.miniclip),
        CLIPTextModel.from_pretrained(args.miniclip),
    )
    side = (args.size or vae.config.sample_size) // 2 ** (len(vae.config.block_out_channels) - 1)
    if args.start:
        unet = UNet2DConditionModel.from_pretrained(args.start / "unet", dtype=torch.float32)
        unet = widen(unet, vae.config.latent_channels)
        unet.register_to_config(sample_size=side)
    else:
        shape = {"channels": tuple(args.channels), "heads": args.heads}
        unet = network(vae.config.latent_channels, text.config.hidden_size, side, **shape)
    pipe = StableDiffusionPipeline(
        vae,
        text.float(),
        tokenizer,
        unet,
        schedule(args.prediction),
        None,
        None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    for part in (pipe.vae, pipe.text_encoder):
        part.requires_grad_(False).eval()
    return pipe.to(device)


def export(pipe: StableDiffusionPipeline, folder: Path) -> None:
    """Save the pipeline in fp16 safetensors; a CPU opens it in float32 unless told otherwise."""
    with files.whole_folder(folder) as temporary:
        pipe.to(torch.float16).save_pretrained(temporary)
        path = temporary / "text_encoder" / "config.json"
        write_json(path, read_json(path) | {"dtype": "float32"})
    StableDiffusionPipeline.from_pretrained(folder)
    print(f"saved {folder}, {files.megabytes(folder):.2f} MB")


def main() -> None:
    args = arguments()
    plan, device = options.plan(args, "unet"), pick_device(args.device)
    torch.manual_seed(plan.seed)
    pipe = pipeline(args, device)
    people = data.load("train", args.data, renders=args.renders).to(device)
    val = data.load("val", args.data).to(device)
    plan.work.mkdir(parents=True, exist_ok=True)
    native = args.size or people.images.shape[-1]
    sizes = ({native} if plan.steps > args.small_steps else set()) | ({SMALL} if args.small_steps else set())
    moments = {size: latents.posteriors(pipe.vae, people, size, plan.work, args.views) for size in sizes}
    bank = partial(captions.bank, people.frame, pipe.tokenizer, variants=args.variants, seed=plan.seed)
    teacher = Teacher(
        people=people,
        bank=bank().to(device),
        plain=bank(without=("background", "background_color")).to(device),
        moments=moments,
        weights={k: expression_weight(m, people.siblings, args.expression) for k, m in moments.items()},
        text=pipe.text_encoder,
        empty=pipe.tokenizer("", padding="max_length", return_tensors="pt").input_ids.to(device),
        scale=pipe.vae.config.scaling_factor,
        scheduler=pipe.scheduler,
        args=args,
        plan=plan,
    )
    judge = AutoModelForImageClassification.from_pretrained(args.judge, dtype=torch.float32).to(device).eval()
    gauge = Gauge(pipe, judge, val, plan.work, args.samples, bf16=plan.precision == "bfloat16")
    evaluate = lambda model, step: gauge(model, step, teacher.size(step - 1))  # noqa: E731
    start = {name: value.cpu().clone() for name, value in pipe.unet.state_dict().items()}
    pipe.unet = train(plan, pipe.unet, teacher, evaluate=evaluate)
    if args.blend:
        blend(pipe.unet, start, args.blend)
        print(f"blended: {evaluate(pipe.unet, plan.steps)}")
    export(pipe, args.out)


if __name__ == "__main__":
    options.run(main)
