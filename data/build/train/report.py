"""Measures the finished models on the test people, once, and writes reports/data/PART.json.

Nothing is tuned on these people: a figure that is there already is measured again only with --again. Every
number comes with its n and a 95 % interval (Wilson for rates, bootstrap over identities for means).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionPipeline
from transformers import CLIPModel, CLIPTokenizer

from emolib import images
from emolib.emotions import words
from emolib.emotions.sets import EMOFACES
from emolib.judges import attributes
from emolib.judges import emotion as judges
from emolib.metrics import estimates, preservation
from emolib.runtime import one_of, pick_device, progress, repo_path, versions, write_json
from train import captions, data, files, options, probe
from train.miniclip import zero_shot
from train.vae import reconstruct

NAMED = {"emotion", "gender", "hair_color", "glasses", "beard"}
WALL = {"hair_style", "background", "background_color"}


def estimate(found: estimates.Estimate) -> dict[str, float]:
    """As JSON: {"value", "low", "high", "n"}."""
    return found._asdict()


def by_emotion(right: torch.Tensor, emotion: torch.Tensor) -> dict[str, dict[str, float]]:
    """The rate of each emotion."""
    return {name: estimate(estimates.rate(right[emotion == k])) for k, name in enumerate(EMOFACES)}


def measure_judges(test: data.Portraits, args) -> dict:
    """Accuracy, calibration error, confusion and affect errors of both judges on the test renders."""
    found, x = {}, data.pixels(test.images)
    for role in judges.ROLES:
        verdict = judges.load_judge(role, device=args.device)(x)
        right = verdict.emotion == test.emotion
        confusion = torch.zeros(9, 9, dtype=torch.long)
        confusion.index_put_((test.emotion.cpu(), verdict.emotion.cpu()), torch.tensor(1), accumulate=True)
        errors = torch.stack([verdict.valence, verdict.arousal], 1) - test.affect
        confidence = verdict.probs.max(1).values
        found[role] = {
            "accuracy": estimate(estimates.rate(right)),
            "accuracy_by_emotion": by_emotion(right, test.emotion),
            "confusion": confusion.tolist(),
            "calibration_gap": float((confidence.mean() - right.float().mean()).abs()),
            "valence_error": estimate(estimates.mean(errors[:, 0].abs(), groups=test.frame["identity"])),
            "arousal_error": estimate(estimates.mean(errors[:, 1].abs(), groups=test.frame["identity"])),
        }
    if repo_path("data", "judges", "probe").is_dir():
        found["probe"] = _measure_probe(test, x, args)
    return found | {"labels": list(EMOFACES)}


def _measure_probe(test: data.Portraits, x: torch.Tensor, args) -> dict:
    """The attribute probe's accuracy on the test renders: the ceiling of what it can find in samples.

    A wall's colour is counted where it can be seen (`probe.shows_wall`), then also where it cannot."""
    hits = probe.right(_probe(args), x, test.frame)
    shown = torch.from_numpy(probe.shows_wall(test.frame)).to(x.device)
    hits |= {
        "background_color": hits["background_color"][shown],
        "background_color_of_any_wall": hits["background_color"],
    }
    return {name: estimate(estimates.rate(hit)) for name, hit in hits.items()}


def measure_miniclip(test: data.Portraits, args) -> dict:
    """Zero-shot accuracy with "a photo of an angry person" and so on."""
    folder = repo_path("data", "miniclip")
    model = CLIPModel.from_pretrained(folder, dtype=torch.float32).to(test.images.device).eval()
    scores = zero_shot(model, CLIPTokenizer.from_pretrained(folder), test.images)
    right = scores.argmax(1) == test.emotion
    rates = {
        "accuracy": estimate(estimates.rate(right)),
        "accuracy_by_emotion": by_emotion(right, test.emotion),
    }
    return rates | {"megabytes": files.megabytes(folder)}


def measure_vae(test: data.Portraits, args) -> dict:
    """PSNR, SSIM, and the held-out judge's accuracy before and after the autoencoder, at MiniSD's native
    size; PSNR also at the portraits' own."""
    pipe, people = _pipeline(args), test.frame["identity"]
    native = pipe.unet.config.sample_size * pipe.vae_scale_factor
    whole = data.pixels(test.images)
    x = images.resize(whole, native)
    again = reconstruct(pipe.vae, x).to(x.device)
    judge = judges.load_judge("heldout", device=args.device)
    right = {
        name: judge(y).emotion == test.emotion for name, y in (("original", x), ("reconstructed", again))
    }
    change = right["reconstructed"].float() - right["original"].float()
    return {
        "psnr": estimate(estimates.mean(preservation.psnr(again, x), groups=people)),
        "ssim": estimate(estimates.mean(preservation.ssim(again, x), groups=people)),
        **{f"accuracy_{name}": estimate(estimates.rate(hits)) for name, hits in right.items()},
        "accuracy_change": estimate(estimates.mean(change, groups=people)),
        "size": native,
        f"psnr_{whole.shape[-1]}": estimate(
            estimates.mean(preservation.psnr(reconstruct(pipe.vae, whole).to(x.device), whole), groups=people)
        ),
    }


def _described(rows: pd.DataFrame) -> list[captions.Caption]:
    """Prompts that describe these portraits by emotion, gender, hair colour, glasses and beard, as far as can
    be said of them; by the wall only where it shows, and then by the short hair that lets it."""
    rng = np.random.default_rng(0)
    named = [NAMED | WALL if shown else NAMED for shown in probe.shows_wall(rows)]
    return [captions.describe(row, n, rng) for row, n in zip(rows.to_dict("records"), named, strict=True)]


def _painted(texts: list[str], args) -> torch.Tensor:
    """(N, 3, H, W) in [-1, 1]: a picture of each text, each from a seed of its own."""
    pipe, made = _pipeline(args), []
    settings = {"num_inference_steps": args.steps, "guidance_scale": args.guidance, "output_type": "pt"}
    for start in progress(range(0, len(texts), args.batch), "text to image"):
        part = texts[start : start + args.batch]
        draws = [torch.Generator().manual_seed(start + i) for i in range(len(part))]
        made.append(pipe(part, generator=draws, **settings).images.float() * 2 - 1)
    return torch.cat(made)


def measure_minisd(test: data.Portraits, args) -> dict:
    """Text to image: is the emotion the prompt names recognised, and are the attributes right?

    Only what a prompt says is counted. `attributes_all` is about hair colour, glasses, beard and wall colour.
    """
    order = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))[: args.samples].numpy()
    rows = test.frame.iloc[order]
    said = _described(rows)
    x = _painted([caption.text for caption in said], args)
    wanted = test.emotion[torch.from_numpy(order).to(test.emotion.device)].to(x.device)
    right = judges.load_judge("heldout", device=args.device)(x).emotion == wanted
    found = {"emotion": estimate(estimates.rate(right)), "emotion_by_name": by_emotion(right, wanted)}
    hits = {}
    for name, hit in probe.right(_probe(args), x, rows).items():
        named = torch.tensor([name in caption.names for caption in said], device=x.device)
        if named.any():
            hits[name] = hit[named]
    found["attributes"] = {name: estimate(estimates.rate(hit)) for name, hit in hits.items()}
    asked = torch.cat([hits[name] for name in probe.ASKED if name in hits])
    found["attributes_all"] = estimate(estimates.rate(asked))
    settings = {"steps": args.steps, "guidance_scale": args.guidance}
    return found | settings | {"megabytes": files.megabytes(repo_path("data", "minisd"))}


def measure_speed(test: data.Portraits, args) -> dict:
    """Seconds of a guided img2img of one portrait, all of 30 steps (strength 1), after a warm-up."""
    pipe = StableDiffusionImg2ImgPipeline(**_pipeline(args).components, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    image, times = (data.pixels(test.images[:1]) + 1) / 2, []
    for _ in range(6):
        start = time.perf_counter()
        pipe(
            words.prompt("awe", template=words.CAPTION), image=image, strength=1.0, num_inference_steps=30,
            guidance_scale=args.guidance, generator=torch.Generator().manual_seed(0), output_type="pt",
        )  # fmt: skip
        times.append(time.perf_counter() - start)
    found = {
        "seconds": float(np.median(times[1:])),
        "all_seconds": times[1:],
        "threads": torch.get_num_threads(),
    }
    return found | {"versions": versions()}


def _pipeline(args) -> StableDiffusionPipeline:
    pipe = StableDiffusionPipeline.from_pretrained(repo_path("data", "minisd")).to(pick_device(args.device))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _probe(args) -> attributes.Probe:
    return attributes.load_probe(device=args.device)


PARTS = {
    "judges": measure_judges,
    "miniclip": measure_miniclip,
    "vae": measure_vae,
    "minisd": measure_minisd,
    "speed": measure_speed,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m train.report", description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", default=list(PARTS), help=f"of {' '.join(PARTS)}; default all")
    parser.add_argument("--again", action="store_true", help="measure again what was measured before")
    parser.add_argument("--data", type=Path, default=repo_path("data", "emofaces"))
    parser.add_argument("--out", type=Path, default=repo_path("reports", "data"))
    parser.add_argument("--samples", type=int, default=450, help="pictures made from text; default 450")
    parser.add_argument("--steps", type=int, default=30, help="default 30")
    parser.add_argument("--guidance", type=float, default=5.0, help="default 5")
    parser.add_argument("--batch", type=int, default=18, help="default 18")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    test = data.load("test", args.data).to(pick_device(args.device))
    people = test.frame["identity"].nunique()
    for part in args.parts:
        one_of(part, PARTS, "part")
        file = args.out / f"{part}.json"
        if file.exists() and not args.again:
            print(f"{file}: measured before; --again measures again")
            continue
        found = PARTS[part](test, args)
        write_json(file, {"people": people, "pictures": len(test), **found})
        print(f"wrote {file}")


if __name__ == "__main__":
    options.run(main)
