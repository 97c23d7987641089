"""How fast is our textual inversion, against a plain restatement of the usual recipe on the same model?

The usual recipe (as published training scripts have it): in every step read and resize the pictures, encode
them with the autoencoder, encode every prompt, train the whole table of token vectors with AdamW, then put
all rows but the new one back from a copy. Ours: `emolib.training`. Both take the same batch in float32, each
on its own copy of the model; runs alternate, so that a busy machine slows both alike.

    python benchmarks/textual_inversion.py           # MiniSD
    python benchmarks/textual_inversion.py --sd15    # besides, a step at Stable Diffusion 1.5's size
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel

from emolib import backbone, images
from emolib.adapters import initial
from emolib.adapters.splice import parameters_of, spliced
from emolib.backbone import Backbone
from emolib.data import emofaces
from emolib.emotions.sets import MIKELS
from emolib.runtime import repo_path, versions, write_json
from emolib.training import examples as caches
from emolib.training.loop import fit
from emolib.training.settings import Settings

TOKEN, PICTURES = "<new>", 16
RECIPES = ("plain", "ours")
RESULT = repo_path("reports", "data", "textual_inversion.json")


@dataclass
class Plain:
    """The usual recipe on a Stable Diffusion pipeline; `step()` is one optimiser step."""

    pipe: StableDiffusionPipeline
    files: list[Path]
    size: int
    batch: int

    def __post_init__(self) -> None:
        pipe, self.draw = self.pipe, np.random.default_rng(0)
        self.noise = DDPMScheduler.from_config(pipe.scheduler.config)
        pipe.tokenizer.add_tokens([TOKEN])
        pipe.text_encoder.resize_token_embeddings(len(pipe.tokenizer), mean_resizing=False)
        self.new = pipe.tokenizer.convert_tokens_to_ids([TOKEN])
        self.table = pipe.text_encoder.get_input_embeddings().weight.requires_grad_(True)
        self.original = self.table.detach().clone()
        self.optimizer = torch.optim.AdamW([self.table], lr=5e-3, weight_decay=1e-2)

    def item(self) -> tuple[torch.Tensor, torch.Tensor]:
        """A picture and its prompt, read, resized and tokenised when they are asked for."""
        image = Image.open(self.files[self.draw.integers(len(self.files))]).convert("RGB")
        image = image.resize((self.size, self.size), Image.Resampling.BICUBIC)
        pixels = (np.array(image) / 127.5 - 1.0).astype(np.float32)
        pixels = pixels[:, ::-1].copy() if self.draw.random() < 0.5 else pixels
        template = caches.TEMPLATES[self.draw.integers(len(caches.TEMPLATES))]
        text = template.format(article="a", word=TOKEN, description="person")
        tokenizer = self.pipe.tokenizer
        length = tokenizer.model_max_length
        ids = tokenizer(text, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        return torch.from_numpy(pixels).permute(2, 0, 1), ids.input_ids[0]

    def step(self) -> float:
        """One optimiser step; its loss."""
        pipe = self.pipe
        pixels, ids = (
            torch.stack(part) for part in zip(*(self.item() for _ in range(self.batch)), strict=True)
        )
        with torch.no_grad():
            latents = pipe.vae.encode(pixels).latent_dist.sample() * pipe.vae.config.scaling_factor
        noise = torch.randn_like(latents)
        t = torch.randint(0, self.noise.config.num_train_timesteps, (len(latents),)).long()
        hidden = pipe.text_encoder(ids)[0]
        found = pipe.unet(self.noise.add_noise(latents, noise, t), t, hidden).sample
        loss = F.mse_loss(found.float(), noise.float(), reduction="mean")
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        frozen = torch.ones(len(pipe.tokenizer), dtype=torch.bool)
        frozen[min(self.new) : max(self.new) + 1] = False
        with torch.no_grad():
            self.table[frozen] = self.original[frozen]
        return loss.detach().item()


@dataclass
class Ours:
    """The package's loop; `steps(n)` is one run of n steps."""

    model: Backbone
    files: list[Path]
    batch: int

    def __post_init__(self) -> None:
        start = initial.of_words(self.model, TOKEN, "person")
        self.rows = parameters_of(self.model, start, requires_grad=True)
        opened = [images.to_tensor(images.open_image(path)) for path in self.files]
        pictures = torch.cat([images.resize(one, self.model.size) for one in opened])
        begin = time.perf_counter()
        texts = caches.prompts(TOKEN, ["person"] * len(pictures))
        self.examples = caches.cache(self.model, pictures, texts)
        self.caching = time.perf_counter() - begin

    def steps(self, n: int, *, every: int = 0) -> None:
        """Train n steps; one draw is evaluated at each end, or in `every` steps as many as by default."""
        plan = Settings(
            steps=n,
            batch=self.batch,
            evaluate_every=every or n,
            evaluate_on=Settings.evaluate_on if every else 1,
            patience=0,
            precision="float32",
        )
        with spliced(self.model, {TOKEN: self.rows}):
            fit(self.model, {TOKEN: self.examples}, {TOKEN: self.rows}, plan)


def emoface_files(folder: Path, n: int) -> list[Path]:
    """n portraits of train people as PNG files."""
    people = emofaces.portraits("train")
    paths = []
    for i, who in enumerate(people.identities[:n]):
        paths.append(folder / f"{i}.png")
        people.image(who, MIKELS[i % len(MIKELS)]).save(paths[-1])
    return paths


def timed(work, steps: int) -> tuple[float, float]:
    """Seconds a step of `work()`: on the clock, and of processor time."""
    clock, processor = time.perf_counter(), time.process_time()
    work()
    return (time.perf_counter() - clock) / steps, (time.process_time() - processor) / steps


def compare(args: argparse.Namespace, files: list[Path]) -> dict:
    """Alternating runs of both; seconds a step and their ratio, median and range over the rounds."""
    ours = Ours(backbone.load(args.model, device="cpu", dtype="float32"), files, args.batch)
    plain_model = backbone.load(args.model, device="cpu", dtype="float32")
    plain = Plain(plain_model.pipe, files, plain_model.size, args.batch)
    works = {
        "plain": lambda: [plain.step() for _ in range(args.steps)],
        "ours": lambda: ours.steps(args.steps),
        "ours, with evaluation": lambda: ours.steps(args.steps, every=Settings.evaluate_every),
    }
    for work in (plain.step, lambda: ours.steps(2)):
        work()  # warm up
    rounds = [{name: timed(work, args.steps) for name, work in works.items()} for _ in range(args.rounds)]
    found = {"caching_seconds": ours.caching}
    for k, kind in enumerate(("clock", "processor")):
        for name in works:
            seconds = [one[name][k] for one in rounds]
            found[f"{name}, {kind} seconds a step"] = spread(seconds)
            found[f"{name}, {kind} samples a second"] = args.batch / statistics.median(seconds)
        for name in list(works)[1:]:
            found[f"plain / {name}, {kind}"] = spread([one["plain"][k] / one[name][k] for one in rounds])
    return found


def spread(values: list[float]) -> dict:
    """Median and range."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values), "n": len(values)}


def apart(args: argparse.Namespace, recipe: str) -> dict:
    """`alone` in a process of its own."""
    options = ["--model", args.model, "--only", recipe, "--batch", str(args.batch)]
    options += ["--sd15"] * args.sd15
    done = subprocess.run(
        [sys.executable, __file__, *options], capture_output=True, text=True, check=True, cwd=repo_path()
    )
    return json.loads(done.stdout.splitlines()[-1])


def alone(args: argparse.Namespace, files: list[Path]) -> dict:
    """A few steps of one recipe after a first one: seconds a step, and memory at its peak, MiB."""
    model = sd15(args.model) if args.sd15 else backbone.load(args.model, device="cpu", dtype="float32")
    loaded = memory("VmRSS")
    forget_peak()
    if args.only == "ours":
        recipe = Ours(model, files, args.batch)
        work = recipe.steps
    else:
        recipe = Plain(model.pipe, files, model.size, args.batch)
        work = lambda n: [recipe.step() for _ in range(n)]  # noqa: E731
    if not args.sd15:
        work(1)  # warm up; at SD 1.5's size that is a trifle
    one = timed(lambda: work(1), 1)
    forget_peak()  # what stays, such as the optimiser's state, counts; what loading needed does not
    n = 1 if args.sd15 else 5
    more = timed(lambda: work(n + 1), 1)  # both runs evaluate as often, so that steps make the difference
    clock, processor = ((b - a) / n for a, b in zip(one, more, strict=True))
    found = {"clock seconds a step": clock, "processor seconds a step": processor, "steps": n}
    return {**found, "MiB at the peak": memory("VmHWM"), "MiB of the loaded model": loaded}


def memory(kind: str) -> float | None:
    """This process's memory, MiB: "VmRSS" now, "VmHWM" at its peak; None where there is no /proc."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next(int(line.split()[1]) for line in lines if line.startswith(kind + ":")) / 1024


def forget_peak() -> None:
    """Let the peak begin anew (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def sd15(model: str) -> Backbone:
    """Stable Diffusion 1.5's networks at their real sizes, weights at random; `model` lends its tokenizer."""
    small = backbone.load(model, device="cpu").pipe
    words = small.tokenizer
    torch.manual_seed(0)
    text = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        eos_token_id=words.eos_token_id,
        bos_token_id=words.bos_token_id,
    )
    words.model_max_length = text.max_position_embeddings
    widths = (128, 256, 512, 512)
    pipe = StableDiffusionPipeline(
        vae=AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=widths,
            layers_per_block=2,
            latent_channels=4,
            sample_size=512,
        ),
        text_encoder=CLIPTextModel(text),
        tokenizer=words,
        unet=UNet2DConditionModel(sample_size=64, cross_attention_dim=768),  # the defaults are SD 1's
        scheduler=small.scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    for part in (pipe.vae, pipe.text_encoder, pipe.unet):
        part.requires_grad_(False).eval()
    pipe.unet.to(memory_format=torch.channels_last)
    return Backbone(pipe, "sd15, random weights")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", default="minisd", help="minisd, or a diffusers folder (default: %(default)s)")
    add("--batch", type=int, default=4)
    add("--steps", type=int, default=20, help="steps a run (default: %(default)s)")
    add("--rounds", type=int, default=5, help="runs of each, alternating (default: %(default)s)")
    add("--sd15", action="store_true", help="also time a step at SD 1.5's size (batch 1, float32; minutes)")
    add("--out", type=Path, default=RESULT)
    add("--only", choices=RECIPES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = emoface_files(Path(folder), 1 if args.only and args.sd15 else PICTURES)
        if args.only:
            print(json.dumps(alone(args, files)))
            return
        found = compare(args, files)
    small = argparse.Namespace(**{**vars(args), "sd15": False})
    found["memory"] = {recipe: apart(small, recipe) for recipe in RECIPES}
    if args.sd15:
        one = argparse.Namespace(**{**vars(args), "batch": 1})
        found["sd15"] = {recipe: apart(one, recipe) for recipe in RECIPES}
    about = {"model": Path(args.model).name, "batch": args.batch, "steps a run": args.steps}
    about |= {"threads": torch.get_num_threads(), "versions": versions()}
    write_json(args.out, {"about": about, **found})
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
