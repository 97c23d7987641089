"""What does an edit cost? Our editors and diffusers' pipelines on the same pictures, alternating.

Peers, all on the same weights and in the same precision: diffusers' `StableDiffusionImg2ImgPipeline`; its
LEDITS++ pipeline, as the editor `emolib.editors.ledits` calls it; the loop that is usually written around
`DDIMInverseScheduler`. Counted are network evaluations (one latent through the UNet once), seconds on the
clock and of the processor, and how well a picture comes back that is asked for nothing: PSNR to what the
autoencoder makes of it. Besides: eight emotions of one picture in one call, against eight calls.

    python benchmarks/editing.py              # MiniSD, minutes on a CPU
    python benchmarks/editing.py --people 1 --rounds 1 --steps 10
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler, StableDiffusionImg2ImgPipeline
from torch import Tensor

from emolib import images
from emolib.data import emofaces
from emolib.diffusion import backbone
from emolib.diffusion.backbone import Backbone, Embedding
from emolib.editors import inversion
from emolib.editors.inversion import Img2Img
from emolib.editors.ledits import LEditsPP
from emolib.editors.prompt_to_prompt import PromptToPrompt
from emolib.emotions.sets import MIKELS
from emolib.emotions.words import prompt
from emolib.metrics import preservation
from emolib.runtime import generator, progress, repo_path, script, versions, write_json

Edit = Callable[[Tensor, list[str], str], Tensor]
"""`edit(picture (1, 3, H, W), emotions, description) -> (n, 3, H, W)`."""

ROUND_TRIP = "round trip, dB to the autoencoder's picture"
IMG2IMG, LEDITS, LOOP, NULL_TEXT = (
    "diffusers img2img",
    "diffusers LEDITS++",
    "diffusers DDIM inverse",
    "null-text",
)


def ours(editor) -> Edit:
    """One of our editors; who is in the picture feels nothing in particular."""

    def edit(picture: Tensor, emotions: list[str], who: str) -> Tensor:
        draws = generator(0)
        return editor(picture, emotions, generator=draws, description=who, source_emotion="neutral")

    return edit


def img2img_pipeline(model: Backbone, strength: float, guidance_scale: float, steps: int) -> Edit:
    """diffusers' own image to image, called once with all the prompts."""
    pipe = StableDiffusionImg2ImgPipeline(
        **{name: part for name, part in model.pipe.components.items() if name != "image_encoder"},
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)

    def edit(picture: Tensor, emotions: list[str], who: str) -> Tensor:
        found = pipe(
            [prompt(emotion, who) for emotion in emotions],
            image=(picture / 2 + 0.5).expand(len(emotions), -1, -1, -1),
            strength=strength,
            guidance_scale=guidance_scale,
            num_inference_steps=steps,
            generator=generator(0),
            output_type="pt",
        )
        return found.images * 2 - 1

    return edit


def inverse_loop(model: Backbone, guidance_scale: float, steps: int) -> Edit:
    """The usual loop: up with `DDIMInverseScheduler`, unguided, and down with `DDIMScheduler`, guided."""
    config = model.pipe.scheduler.config
    up, down = DDIMInverseScheduler.from_config(config), DDIMScheduler.from_config(config)
    up.set_timesteps(steps)
    down.set_timesteps(steps)

    @torch.no_grad()
    def edit(picture: Tensor, emotions: list[str], who: str) -> Tensor:
        z, source = model.encode(picture), model.embed(prompt("neutral", who)).hidden
        for t in up.timesteps:
            z = up.step(model.unet(z, t, source).sample, t, z).prev_sample
        wanted = model.embed([prompt(emotion, who) for emotion in emotions])
        text = Embedding.cat([model.null().expand(len(emotions)), wanted]).hidden
        z = z.expand(len(emotions), -1, -1, -1)
        for t in down.timesteps:
            plain, conditioned = model.unet(torch.cat([z, z]), t, text).sample.chunk(2)
            z = down.step(plain + guidance_scale * (conditioned - plain), t, z).prev_sample
        return model.decode(z)

    return edit


def contestants(model: Backbone, steps: int) -> dict[str, Edit]:
    """Name -> edit. Peers and their counterparts have the same strength, guidance and steps."""
    usual = (model, 0.8, 3.0, steps)
    full = (model, 1.0, 3.0, steps)
    return {
        IMG2IMG: img2img_pipeline(model, 0.6, 5.0, steps),
        "img2img": ours(Img2Img(model, 0.6, 5.0, steps)),
        LOOP: inverse_loop(model, 3.0, steps),
        "DDIM inversion": ours(inversion.DDIMInversion(*full)),
        "negative-prompt inversion": ours(inversion.NegativePromptInversion(*full)),
        LEDITS: ours(LEditsPP(*usual)),
        "edit-friendly inversion": ours(inversion.EditFriendlyInversion(*usual, source_guidance_scale=1.0)),
        "direct inversion": ours(inversion.DirectInversion(*usual)),
        "exact inversion": ours(inversion.ExactInversion(*usual)),
        "prompt-to-prompt": ours(PromptToPrompt(*usual)),
        NULL_TEXT: ours(inversion.NullTextInversion(*usual)),
    }


def measured(model: Backbone, work: Callable[[], Tensor]) -> tuple[Tensor, dict[str, float]]:
    """What `work` makes, and its evaluations, seconds on the clock and of the processor."""
    counted = []
    hook = model.unet.register_forward_pre_hook(lambda unet, inputs: counted.append(len(inputs[0])))
    clock, processor = time.perf_counter(), time.process_time()
    try:
        made = work()
    finally:
        hook.remove()
    clock, processor = time.perf_counter() - clock, time.process_time() - processor
    return made, {"evaluations": float(sum(counted)), "seconds": clock, "processor_seconds": processor}


def spread(values: list[float]) -> dict[str, float]:
    """Median and range."""
    return {"value": statistics.median(values), "low": min(values), "high": max(values), "n": len(values)}


def table(rows: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """The median and range of every number, over runs."""
    return {name: spread([row[name] for row in rows]) for name in rows[0]}


def against(runs: dict[str, list[dict[str, float]]], peer: str) -> dict[str, dict[str, float]]:
    """How many times as long as each of ours the peer took, run by run."""
    pairs = {name: zip(runs[peer], rows, strict=True) for name, rows in runs.items() if name != peer}
    return {
        name: spread([theirs["processor_seconds"] / mine["processor_seconds"] for theirs, mine in both])
        for name, both in pairs.items()
    }


def compare(args: argparse.Namespace, model: Backbone) -> dict:
    """All numbers. In every round each contestant edits each picture once, in turn."""
    people = emofaces.portraits(args.split)
    who = people.identities[: args.people]
    pictures = [images.resize(images.to_tensor(people.image(i, "neutral")), model.size) for i in who]
    texts = [emofaces.description(people.record(i, "neutral")) for i in who]
    edits = contestants(model, args.steps)
    if args.skip_null_text:
        del edits[NULL_TEXT]
    one, eight = {name: [] for name in edits}, {name: [] for name in edits}
    back = {name: [] for name in edits}
    edits[next(iter(edits))](pictures[0], ["anger"], texts[0])  # warm up
    for _ in progress(range(args.rounds), "rounds"):
        for picture, text in zip(pictures, texts, strict=True):
            ceiling = through(model, picture)
            for name, edit in edits.items():
                unasked, cost = measured(model, lambda: edit(picture, ["neutral"], text))  # noqa: B023
                one[name].append(cost)
                back[name].append(min(float(preservation.psnr(unasked, ceiling)), 100.0))
            for name, edit in edits.items():
                if name != NULL_TEXT:
                    eight[name].append(measured(model, lambda: edit(picture, [*MIKELS], text))[1])  # noqa: B023
    found = {
        name: {
            "one edit": table(one[name]),
            "eight edits in one go": table(eight[name]) if eight[name] else None,
            ROUND_TRIP: spread(back[name]),
            "eight single edits / eight in one go": gain(one[name], eight[name]) if eight[name] else None,
        }
        for name in edits
    }
    peers = [name for name in (IMG2IMG, LOOP, LEDITS, NULL_TEXT) if name in edits]
    ratios = {f"{peer} / ours": against(one, peer) for peer in peers}
    done = {name: rows for name, rows in eight.items() if rows}
    ratios |= {f"{peer} / ours, eight edits": against(done, peer) for peer in peers if peer in done}
    return {"methods": found, "processor time": ratios}


def gain(one: list[dict[str, float]], eight: list[dict[str, float]]) -> dict[str, float]:
    """Processor time of eight single edits over that of eight in one go."""
    return spread(
        [8 * a["processor_seconds"] / b["processor_seconds"] for a, b in zip(one, eight, strict=True)]
    )


@torch.no_grad()
def through(model: Backbone, picture: Tensor) -> Tensor:
    """The picture, encoded and decoded."""
    return model.decode(model.encode(picture))


def report(found: dict) -> str:
    """The numbers as plain text."""
    lines = [f"{'method':28}{'evaluations':>12}{'CPU s':>9}{'8 in one go':>13}{'gain':>7}{'round trip':>12}"]
    for name, row in found["methods"].items():
        one, eight = row["one edit"], row["eight edits in one go"]
        more = "" if eight is None else f"{eight['processor_seconds']['value']:.2f}"
        times = row["eight single edits / eight in one go"]
        line = (
            f"{name:28}{one['evaluations']['value']:12.0f}{one['processor_seconds']['value']:9.2f}{more:>13}"
        )
        line += f"{'' if times is None else format(times['value'], '.1f'):>7}"
        lines.append(line + f"{row[ROUND_TRIP]['value']:12.1f}")
    for name, row in found["processor time"].items():
        lines.append(f"{name}: " + ", ".join(f"{k} {v['value']:.2f}" for k, v in row.items()))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", default="minisd", help="minisd, or a diffusers folder (default: %(default)s)")
    add("--people", type=int, default=1, help="pictures, one a person (default: %(default)s)")
    add("--rounds", type=int, default=3, help="alternating runs (default: %(default)s)")
    add("--steps", type=int, default=30, help="num_inference_steps (default: %(default)s)")
    add("--split", default="val", choices=("val", "test"), help="whose pictures (default: %(default)s)")
    add("--skip-null-text", action="store_true", help="it takes most of the time")
    add("--out", type=Path, default=repo_path("reports", "data", "editing.json"))
    args = parser.parse_args()
    model = backbone.load_backbone(args.model, device="cpu", dtype="float32")
    found = compare(args, model)
    about = {"model": model.name, "size": model.size, "split": args.split, "people": args.people}
    about |= {"rounds": args.rounds, "steps": args.steps, "threads": torch.get_num_threads()}
    write_json(args.out, {"about": {**about, "versions": versions()}, **found})
    print(report(found))


if __name__ == "__main__":
    script(main)
