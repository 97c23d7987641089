"""What an edit of a photograph costs at Stable Diffusion 1.5's size, without its weights: random networks of
the same configuration take as long as trained ones.

    python benchmarks/photographs.py --out build/photographs.json            # all of it
    python benchmarks/photographs.py --out build/photographs.json --small    # a tiny model: does it run?

Measured: seconds of an edit of 12 megapixels and the share of them outside the UNet, peak memory beside its
prediction, and the time from `emolib edit` to the first step. Seconds of a whole edit are scaled up from
`--steps` steps, and say so.
"""

from __future__ import annotations

import argparse
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from skimage import data
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from emolib import images, runtime
from emolib.data.framing import FACE_MARGIN
from emolib.diffusion import memory
from emolib.diffusion.backbone import Backbone
from emolib.diffusion.presets import find_preset
from emolib.editors.person import Person
from emolib.editors.recipe import Recipe, build_editor, change_person, edit_image

FACE = (170, 60, 275, 175)  # of scikit-image's astronaut, 512 x 512
SCHEDULE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}


def build_model(widths: tuple[int, ...], decoder: tuple[int, ...], side: int) -> Backbone:
    """Build a Stable Diffusion 1.x of these widths with random weights, in float32."""
    words = CLIPTokenizer.from_pretrained(runtime.repo_path("data", "minisd", "tokenizer"))
    text = CLIPTextConfig(vocab_size=len(words), hidden_size=768, intermediate_size=3072)
    if len(widths) < 4:
        text = CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
        )
    n, cross = len(widths) - 1, text.hidden_size
    unet = UNet2DConditionModel(
        sample_size=side // 2 ** (len(decoder) - 1),
        block_out_channels=widths,
        down_block_types=("CrossAttnDownBlock2D",) * n + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * n,
        cross_attention_dim=cross,
    )
    kinds = (f"{kind}Block2D" for kind in ("DownEncoder", "UpDecoder"))
    down, up = ((kind,) * len(decoder) for kind in kinds)
    vae = AutoencoderKL(
        block_out_channels=decoder,
        down_block_types=down,
        up_block_types=up,
        layers_per_block=2,
        latent_channels=4,
    )
    pipe = StableDiffusionPipeline(
        vae=vae,
        unet=unet,
        tokenizer=words,
        text_encoder=CLIPTextModel(text),
        scheduler=DDIMScheduler(**SCHEDULE, clip_sample=False, set_alpha_to_one=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    for network in (pipe.unet, pipe.vae, pipe.text_encoder):
        network.requires_grad_(False).eval()
    return Backbone(pipe, "sd15")


def time_edit(model: Backbone, method: str, steps: int, photograph: Image.Image) -> dict[str, float]:
    """Measure one edit of a photograph of 12 megapixels: seconds, share outside the UNet, bytes."""
    scale = photograph.width / 512
    box = tuple(round(scale * value) for value in FACE)
    strength = 1.0 if method == "img2img" else find_preset("sd15").settings[method].strength
    person = Person(box, "amusement", strength=strength)
    recipe = Recipe((person,), method=method, model="sd15", num_inference_steps=steps, margin=FACE_MARGIN)
    editor, spent = build_editor(recipe, model), []
    forward = model.unet.forward

    def timed(*args, **kwargs):
        start = time.perf_counter()
        result = forward(*args, **kwargs)
        spent.append(time.perf_counter() - start)
        return result

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    model.unet.forward, start = timed, time.perf_counter()
    edit_image(recipe, model, photograph, lambda *given: change_person(*given, editor=editor))
    whole, model.unet.forward = time.perf_counter() - start, forward
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    full = find_preset("sd15").settings[method].num_inference_steps
    outside, calls = whole - sum(spent), len(spent)
    return {
        "steps": steps,
        "unet_calls": calls,
        "seconds": whole,
        "seconds_outside_unet": outside,
        "full_steps": full,
        "seconds_scaled_to_full_steps": outside + sum(spent) * full / steps,
        "share_outside_unet_scaled": outside / (outside + sum(spent) * full / steps),
        "peak_growth_bytes": 1024 * (peak - before),
    }


def check_prediction(model: Backbone) -> dict[str, float]:
    """Compare the memory predicted with this process's growth while the networks really run, one batch."""
    n, side = 2 * 2, model.size // model.stride  # one edit, its source, both under guidance
    z, text = torch.zeros(n, 4, side, side), torch.zeros(n, 77, model.unet.config.cross_attention_dim)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with torch.no_grad():
        model.unet(z, 5, text)
        model.vae.decode(z[:1])
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    predicted = memory.predict_activations(model, 1, model.size, model.size)
    return {"predicted_bytes": predicted, "measured_bytes": grown, "ratio": predicted / max(grown, 1)}


def time_start(picture: Path) -> dict[str, float]:
    """Measure the time from the command to the first step, in a process of its own: MiniSD, a box given."""
    code = (
        "import sys, time\nfrom emolib.cli import main\nfrom emolib.diffusion import sampling\n"
        "class Stop(Exception): pass\n"
        "def stop(*args, **kwargs): raise Stop\n"
        "from emolib.diffusion.backbone import Backbone\nBackbone.predict = stop\n"
        "try: main.main(sys.argv[1:])\nexcept Stop: print(time.process_time())\n"
    )
    command = ["edit", str(picture), "--to", "awe", "-o", str(picture.with_suffix(".out.png"))]
    start = time.perf_counter()
    run = subprocess.run(
        [sys.executable, "-c", code, *command, "--box", "170,60,275,175"], capture_output=True, text=True
    )
    return {"seconds": time.perf_counter() - start, "cpu_seconds": float(run.stdout.split()[-1])}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="the JSON file with what was measured")
    parser.add_argument("--methods", nargs="+", default=["img2img", "edit-friendly"])
    parser.add_argument(
        "--steps", type=int, default=2, help="steps that are really taken (default: %(default)s)"
    )
    parser.add_argument("--small", action="store_true", help="a tiny model, to try the benchmark itself")
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    sizes = ((32, 64), (32, 64), 64) if args.small else ((320, 640, 1280, 1280), (128, 256, 512, 512), 512)
    model = build_model(*sizes)
    picture = args.out.with_suffix(".png")
    images.save_image(Image.fromarray(data.astronaut()), picture)
    photograph = Image.fromarray(data.astronaut()).resize((3464, 3464))
    results = {"memory": check_prediction(model), "start": time_start(picture)}
    results["edits"] = {m: time_edit(model, m, args.steps, photograph) for m in args.methods}
    about = {"small": args.small, "threads": torch.get_num_threads(), "machine": platform.machine()}
    runtime.write_json(args.out, about | results)
    print(args.out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    runtime.script(main)
