"""The whole chain on cartoons with tiny networks: what one recipe saves, the next and diffusers can open."""

import json
import sys

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    AutoPipelineForImage2Image,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file
from train import judges, miniclip, options, standin, unet, vae
from transformers import CLIPModel, CLIPProcessor

from emolib.judges import emotion as judging

TINY = ["--device", "cpu", "--precision", "no", "--threads", "1", "--log-every", "2", "--warmup", "1"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """All recipes run once, two or three steps each, on three people."""
    root = tmp_path_factory.mktemp("world")
    standin.write(root / "faces", {"train": 3, "val": 2})

    def recipe(module, name, *arguments):
        common = [
            "--data",
            root / "faces",
            "--renders",
            root / "faces" / "renders",
            "--work",
            root / "work" / name,
            *TINY,
        ]
        before = sys.argv
        sys.argv = [str(argument) for argument in ("train", *arguments, *common)]
        try:
            options.run(module.main)
        finally:
            sys.argv = before

    guide = ["--judge", root / "judges" / "guide"]
    recipe(judges, "guide", "guide", "--out", root / "judges", "--steps", 2, "--batch", 4)
    small = ["--width", 32, "--layers", 1, 1, "--patch", 24, "--variants", 4]
    towers = ["--text", root / "text", "--out", root / "miniclip", "--steps", 3, "--batch", 9, *guide, *small]
    for part in ("text", "picture"):
        recipe(miniclip, f"miniclip-{part}", part, *towers)
    sizes = [
        "--channels",
        16,
        16,
        16,
        "--latent",
        8,
        "--validate",
        3,
        "--small-steps",
        1,
        "--perceptual",
        0.1,
    ]
    recipe(vae, "vae", *guide, "--steps", 2, "--batch", 2, *sizes)
    first = root / "work" / "vae" / "final"
    deeper = ["--channels", 16, 16, 16, 16, "--latent", 12, "--like", first]
    recipe(vae, "vae-like", *guide, "--steps", 2, "--batch", 2, *sizes, *deeper)
    for name, how in (("vae-2", "--start"), ("vae-decoder", "--decoder")):
        recipe(vae, name, *guide, how, first, "--steps", 2, "--batch", 2, "--lr", 0.01, *sizes)
    towers[1] = root / "text-2"
    recipe(miniclip, "miniclip-text-2", "text", "--start", root / "text", *towers)
    parts = [
        "--miniclip",
        root / "miniclip",
        "--vae",
        root / "work" / "vae" / "final",
        "--out",
        root / "minisd",
    ]
    sizes = [
        "--channels",
        32,
        64,
        "--heads",
        2,
        "--small-steps",
        2,
        "--variants",
        4,
        "--samples",
        1,
        "--views",
        3,
    ]
    recipe(unet, "unet", *guide, *parts, "--steps", 3, "--batch", 9, "--siblings", 0.5, *sizes)
    further = ["--start", root / "minisd", "--blend", 0.25, "--steps", 1, "--batch", 9, "--lr", 0.01]
    parts[-1] = root / "blended"
    recipe(unet, "unet-2", *guide, *parts, *further, "--decay", 0, *sizes)
    parts[-1], parts[-3] = root / "wide", root / "work" / "vae-like" / "final"
    recipe(unet, "unet-3", *guide, *parts, "--start", root / "minisd", "--steps", 1, "--batch", 9, *sizes)
    return root


def test_the_judge_opens_with_its_calibration(world):
    verdict = judging.load_judge(world / "judges" / "guide", device="cpu")(torch.zeros(2, 3, 96, 96))
    assert verdict.probs.shape == (2, 9) and torch.allclose(verdict.probs.sum(1), torch.ones(2))
    calibration = json.loads((world / "judges" / "guide" / "calibration.json").read_text())
    assert set(calibration) == {"temperature", "labels", "ece", "n"} and calibration["n"] == 18


def test_miniclip_opens_with_its_processor(world):
    model = CLIPModel.from_pretrained(world / "miniclip")
    processor = CLIPProcessor.from_pretrained(world / "miniclip")
    picture = torch.zeros(3, 50, 70, dtype=torch.uint8)
    batch = processor(text=["a sad person"], images=picture, return_tensors="pt", padding="max_length")
    assert batch["pixel_values"].shape == (1, 3, 96, 96) and (batch["pixel_values"] == -1).all()
    assert batch["input_ids"].shape == (1, 40)
    assert torch.isfinite(model(**batch).logits_per_image).all() and model.dtype == torch.float32


@pytest.mark.parametrize(
    "opener", [StableDiffusionPipeline, StableDiffusionImg2ImgPipeline, AutoPipelineForImage2Image]
)
def test_minisd_opens_and_runs_in_every_pipeline(world, opener):
    pipe = opener.from_pretrained(world / "minisd")
    pipe.set_progress_bar_config(disable=True)
    image = {} if opener is StableDiffusionPipeline else {"image": torch.rand(1, 3, 96, 96), "strength": 1.0}
    draw = torch.Generator().manual_seed(0)
    made = pipe("photo of an angry person", num_inference_steps=2, generator=draw, output_type="pt", **image)
    assert made.images.shape == (1, 3, 96, 96) and torch.isfinite(made.images).all()


def weights(folder):
    """The autoencoder in `folder`: the parameters before the latents, and those behind them."""
    named = AutoencoderKL.from_pretrained(folder).state_dict()
    return [
        torch.cat(
            [
                p.flatten()
                for name, p in named.items()
                if ("encoder" in name or name.startswith("quant")) == front
            ]
        )
        for front in (True, False)
    ]


def test_an_autoencoder_goes_on_whole_or_with_its_decoder_alone(world):
    first, whole, decoder = (
        weights(world / "work" / name / "final") for name in ("vae", "vae-2", "vae-decoder")
    )
    assert torch.equal(first[0], decoder[0]) and not torch.equal(first[1], decoder[1])
    assert not torch.equal(first[0], whole[0]) and not torch.equal(first[1], whole[1])


def test_a_denoiser_goes_on_in_the_latents_of_a_deeper_autoencoder(world):
    pipe = StableDiffusionPipeline.from_pretrained(world / "wide")
    assert pipe.unet.config.in_channels == 12 and pipe.vae_scale_factor == 8
    logged = [
        json.loads(line) for line in (world / "work" / "vae-like" / "log.jsonl").read_text().splitlines()
    ]
    assert any(row.get("like", 0) > 0 for row in logged)


def test_the_text_tower_goes_on_with_the_same_tokenizer(world):
    first, then = (CLIPModel.from_pretrained(world / name) for name in ("text", "text-2"))
    assert not torch.equal(first.text_projection.weight, then.text_projection.weight)
    vocabularies = [(world / name / "tokenizer.json").read_bytes() for name in ("text", "text-2")]
    assert vocabularies[0] == vocabularies[1]


def test_minisd_says_what_the_inversions_need(world):
    pipe = StableDiffusionPipeline.from_pretrained(world / "minisd")
    assert not pipe.scheduler.config.set_alpha_to_one and not pipe.scheduler.config.clip_sample
    assert pipe.tokenizer.model_max_length == pipe.text_encoder.config.max_position_embeddings == 40
    assert pipe.unet.config.sample_size * pipe.vae_scale_factor == 96
    assert pipe.safety_checker is None and pipe.vae.config.scaling_factor != 0.18215


def test_the_text_tower_is_miniclips(world):
    pipe = StableDiffusionPipeline.from_pretrained(world / "minisd")
    clip = CLIPModel.from_pretrained(world / "miniclip")
    ids = pipe.tokenizer("a sad man", padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        ours, theirs = pipe.text_encoder(ids).pooler_output, clip.text_model(ids).pooler_output
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_the_log_holds_the_emotion_rates_and_the_sheet_is_drawn(world):
    lines = [json.loads(line) for line in (world / "work" / "unet" / "log.jsonl").read_text().splitlines()]
    rates = lines[-1]
    assert rates["step"] == 3 and 0 <= rates["text_rate"] <= 1 and 0 <= rates["edit_anger"] <= 1
    assert (world / "work" / "unet" / "samples-0000003.png").is_file()


def test_a_blend_lies_between_the_weights_before_and_after(world):
    before, blended = (
        UNet2DConditionModel.from_pretrained(world / name / "unet", dtype=torch.float32).state_dict()
        for name in ("minisd", "blended")
    )
    after = load_file(world / "work" / "unet-2" / "checkpoint.safetensors")
    moved = 0.0
    for name, start in before.items():
        end = after[f"average.{name}"]
        assert torch.allclose(blended[name], 0.25 * start + 0.75 * end, atol=2e-3, rtol=2e-3), name  # fp16
        moved = max(moved, (blended[name] - start).abs().max().item())
    assert moved > 1e-3


def test_a_missing_part_is_one_line_and_exit_code_2(world, monkeypatch, capsys):
    arguments = ["--data", world / "faces", "--work", world / "w", "--miniclip", world / "none", *TINY]
    monkeypatch.setattr(sys, "argv", [str(argument) for argument in ("train", *arguments)])
    with pytest.raises(SystemExit) as stopped:
        options.run(unet.main)
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith(f"train: {world / 'none'}")
