"""How fast is our textual inversion, against a plain restatement of the usual recipe on the same model?

The usual recipe (as published training scripts have it): in every step read and resize the pictures, encode
them with the autoencoder, encode every prompt, train the whole table of token vectors with AdamW, then put
all rows but the new one back from a copy. Ours: `emolib.training`. Both take the same batch in float32, each
on its own copy of the model; runs alternate, so that a busy machine slows both alike. Beside them, eight
tokens learned in one run, and what no recipe can do without: the UNet forward and back to the text.

    python benchmarks/textual_inversion.py           # MiniSD
    python benchmarks/textual_inversion.py --sd15    # besides, a step at Stable Diffusion 1.5's size
    python benchmarks/textual_inversion.py --sd15 --device cuda    # memory is then the GPU's
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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from _networks import sd15
from diffusers import DDPMScheduler, StableDiffusionPipeline
from PIL import Image
from torch.nn import functional as F

from emolib import images
from emolib.data import emofaces
from emolib.diffusion import backbone
from emolib.diffusion.backbone import Backbone
from emolib.emotions.sets import MIKELS
from emolib.interventions import splice
from emolib.interventions.splice import parameters_of, spliced
from emolib.runtime import repo_path, script, versions, write_json
from emolib.training import examples as caches
from emolib.training.settings import Settings
from emolib.training.textual_inversion import train_rows

TOKEN, PICTURES = "<new>", 16
EIGHT = [f"<new{k}>" for k in range(8)]
RECIPES = ("plain", "ours")
GPU_MEMORY = {"VmRSS": "allocated_bytes.all.current", "VmHWM": "allocated_bytes.all.peak"}
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
        pipe, items = self.pipe, [self.item() for _ in range(self.batch)]
        pixels, ids = (torch.stack(part).to(self.table.device) for part in zip(*items, strict=True))
        with torch.no_grad():
            latents = pipe.vae.encode(pixels).latent_dist.sample() * pipe.vae.config.scaling_factor
        noise = torch.randn_like(latents)
        t = torch.randint(self.noise.config.num_train_timesteps, (len(latents),), device=latents.device)
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
    """The package's loop; `steps(n)` is one run of n steps, of one token or of several side by side."""

    model: Backbone
    files: list[Path]
    batch: int

    def __post_init__(self) -> None:
        opened = [images.to_tensor(images.open_image(path)) for path in self.files]
        pictures = torch.cat([images.resize(one, self.model.size) for one in opened])
        begin = time.perf_counter()
        texts = caches.write_prompts(TOKEN, ["person"] * len(pictures))
        self.examples = caches.encode_examples(self.model, pictures, texts)
        self.caching = time.perf_counter() - begin

    def steps(self, n: int, *, every: int = 0, tokens: Sequence[str] = (TOKEN,)) -> None:
        """Train n steps; one draw is evaluated at each end, or in `every` steps as many as by default."""
        starts = {token: splice.vectors_of_words(self.model, token, "person") for token in tokens}
        rows = {
            token: parameters_of(self.model, start, requires_grad=True) for token, start in starts.items()
        }
        said = {token: caches.write_prompts(token, ["person"] * len(self.examples)) for token in tokens}
        shown = {token: replace(self.examples, prompts=texts) for token, texts in said.items()}
        plan = Settings(
            steps=n,
            batch=self.batch,
            evaluate_every=every or n,
            evaluate_on=Settings.evaluate_on if every else 1,
            patience=0,
            precision="float32",
        )
        with spliced(self.model, rows):
            train_rows(self.model, shown, rows, plan)


def network_alone(model: Backbone, batch: int) -> Callable[[], None]:
    """The part of a step that every recipe shares: the UNet forward, and back to the text's embedding."""
    side = model.size // model.stride
    latents = torch.randn(batch, model.unet.config.in_channels, side, side, device=model.device)
    latents = latents.contiguous(memory_format=torch.channels_last)
    hidden = model.embed(["a photo of a person"] * batch).hidden.detach().requires_grad_()
    t = torch.randint(model.pipe.scheduler.config.num_train_timesteps, (batch,), device=model.device)

    def step() -> None:
        model.unet(latents, t, hidden).sample.square().mean().backward()

    return step


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
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (time.perf_counter() - clock) / steps, (time.process_time() - processor) / steps


def compare(args: argparse.Namespace, files: list[Path]) -> dict:
    """Alternating runs of both; seconds a step and their ratio, median and range over the rounds."""
    ours = Ours(backbone.load_backbone(args.model, device=args.device, dtype="float32"), files, args.batch)
    plain_model = backbone.load_backbone(args.model, device=args.device, dtype="float32")
    plain = Plain(plain_model.pipe, files, plain_model.size, args.batch)
    alone = network_alone(ours.model, args.batch)
    works = {
        "plain": lambda: [plain.step() for _ in range(args.steps)],
        "ours": lambda: ours.steps(args.steps),
        "ours, with evaluation": lambda: ours.steps(args.steps, every=Settings.evaluate_every),
        "ours, one of eight tokens": lambda: ours.steps(args.steps, tokens=EIGHT),
        "the network alone": lambda: [alone() for _ in range(args.steps)],
    }
    for work in (plain.step, lambda: ours.steps(2), alone):
        work()  # warm up
    parts = {name: args.steps * (len(EIGHT) if "eight" in name else 1) for name in works}
    rounds = [{name: timed(work, parts[name]) for name, work in works.items()} for _ in range(args.rounds)]
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
    """`in_this_process`, in a process of its own."""
    options = ["--model", args.model, "--only", recipe, "--batch", str(args.batch), "--device", args.device]
    options += ["--sd15"] * args.sd15
    done = subprocess.run(
        [sys.executable, __file__, *options], capture_output=True, text=True, check=True, cwd=repo_path()
    )
    return json.loads(done.stdout.splitlines()[-1])


def in_this_process(args: argparse.Namespace, files: list[Path]) -> dict:
    """A few steps of one recipe after a first one: seconds a step, and memory at its peak, MiB."""
    load = sd15 if args.sd15 else backbone.load_backbone
    model = load(args.model, device=args.device, dtype="float32")
    loaded = memory("VmRSS", args.device)
    forget_peak(args.device)
    if args.only == "ours":
        recipe = Ours(model, files, args.batch)
        work = recipe.steps
    else:
        recipe = Plain(model.pipe, files, model.size, args.batch)
        work = lambda n: [recipe.step() for _ in range(n)]  # noqa: E731
    if not args.sd15 or args.device != "cpu":
        work(1)  # warm up; at SD 1.5's size on a CPU that is a trifle
    one = timed(lambda: work(1), 1)
    forget_peak(args.device)  # what stays, such as the optimiser's state, counts; not what loading needed
    n = 1 if args.sd15 and args.device == "cpu" else 5
    more = timed(lambda: work(n + 1), 1)  # both runs evaluate as often, so that steps make the difference
    clock, processor = ((b - a) / n for a, b in zip(one, more, strict=True))
    found = {"clock seconds a step": clock, "processor seconds a step": processor, "steps": n}
    return {**found, "MiB at the peak": memory("VmHWM", args.device), "MiB of the loaded model": loaded}


def memory(kind: str, device: str) -> float | None:
    """Memory in use, MiB: "VmRSS" now, "VmHWM" at its peak, of the GPU or else of this process; None where
    there is no /proc."""
    if device != "cpu":
        return torch.cuda.memory_stats()[GPU_MEMORY[kind]] / 2**20
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next(int(line.split()[1]) for line in lines if line.startswith(kind + ":")) / 1024


def forget_peak(device: str) -> None:
    """Let the peak begin anew (Linux, or the GPU)."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        return
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", default="minisd", help="minisd, or a diffusers folder (default: %(default)s)")
    add("--batch", type=int, default=4)
    add("--steps", type=int, default=20, help="steps a run (default: %(default)s)")
    add("--rounds", type=int, default=5, help="runs of each, alternating (default: %(default)s)")
    add("--sd15", action="store_true", help="also time a step at SD 1.5's size (batch 1, float32)")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--out", type=Path, default=RESULT)
    add("--only", choices=RECIPES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = emoface_files(Path(folder), 1 if args.only and args.sd15 else PICTURES)
        if args.only:
            print(json.dumps(in_this_process(args, files)))
            return
        found = compare(args, files)
    small, one = (argparse.Namespace(**{**vars(args), **k}) for k in ({"sd15": False}, {"batch": 1}))
    found["memory"] = {recipe: apart(small, recipe) for recipe in RECIPES}
    if args.sd15:
        found["sd15"] = {recipe: apart(one, recipe) for recipe in RECIPES}
    about = {"model": Path(args.model).name, "batch": args.batch, "steps a run": args.steps}
    about |= {"threads": torch.get_num_threads(), "versions": versions()}
    if args.device == "cuda":
        about["device"] = torch.cuda.get_device_name()
    write_json(args.out, {"about": about, **found})
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    script(main)
