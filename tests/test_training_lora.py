"""Training of LoRA, sliders and DreamBooth: the loss by hand, resumed runs, the command line."""

import json

import pytest
import torch
from safetensors import safe_open
from tiny_pipelines import folder, pictures, tiny

from emolib import images
from emolib.cli import main
from emolib.diffusion import backbone
from emolib.diffusion.sampling import add_noise
from emolib.interventions.lora import Lora, lora, start_lora
from emolib.runtime import InputError
from emolib.training import lora as training
from emolib.training.examples import Batches, pick
from emolib.training.lora import Sides, contrast, learn_dreambooth, learn_lora
from emolib.training.pictures import Pictures
from emolib.training.settings import LoraSettings

FEW = LoraSettings(steps=4, batch=2, evaluate_every=2, evaluate_on=2, rank=2, checkpoint_every=0.0)
PAIRS = Pictures(pictures(3, seed=1), neutral=pictures(3, seed=2))


def objective(model, neutral=True, **how):
    felt = training.encode_pictures(model, PAIRS.images, PAIRS.descriptions, "", False)
    if neutral:
        calm = training.encode_pictures(model, PAIRS.neutral, PAIRS.descriptions, "", False)
        felt = training.replace(felt, neutral=calm)
    batches = Batches(model, {"awe": felt}, seed=0, held_out=0.0)
    settings = LoraSettings(focus=False, min_snr=0.0)
    return Sides(model, batches, settings, **how), batches.training(0, 2, ["awe"])


def losses(sides, draw):
    embedding, which = sides.encode(draw)
    with torch.no_grad():
        return sides.losses(draw, pick(embedding, which))


def test_a_sliders_loss_is_that_of_both_sides_at_opposite_scales_under_one_noise():
    model = tiny("sd")
    start = start_lora(model, 2, torch.Generator().manual_seed(0))
    change = Lora({name: (a, torch.ones_like(b) / 4) for name, (a, b) in start.layers.items()})
    with lora(model, change) as attached:
        sides, draw = objective(model, attached=attached, opposite=-1.0)
        package = losses(sides, draw)
    by_hand = 0.0
    for scale, neutral in ((1.0, False), (-1.0, True)):
        z0 = sides.batches.latents(draw, neutral=neutral)
        z = add_noise(z0, draw.noise, model.alphas_cumprod[draw.t].float().view(-1, 1, 1, 1))
        with lora(model, change, scale), torch.no_grad():
            eps = model.predict(z, draw.t, pick(sides.text, draw.prompt)).eps
        by_hand = by_hand + (eps - draw.noise).square().mean((1, 2, 3))
    torch.testing.assert_close(package, by_hand, rtol=1e-4, atol=1e-6)


def test_a_prior_of_weight_0_is_the_plain_loss():
    plain, draw = objective(tiny("sd"), neutral=False)
    weighed, same = objective(tiny("sd"), weight=0.0)
    torch.testing.assert_close(losses(weighed, same), losses(plain, draw), rtol=1e-5, atol=1e-6)
    assert (losses(objective(tiny("sd"), weight=1.0)[0], same) > losses(plain, draw)).all()


def test_the_contrast_is_log_2_where_nothing_tells_the_sides_apart_and_falls_with_what_does():
    own, rival = torch.eye(4)[:2], torch.eye(4)[2:]
    mixed = torch.nn.functional.normalize(own + rival, dim=1)
    torch.testing.assert_close(contrast(mixed, mixed, own, rival), torch.full((2,), 2.0).log())
    assert (contrast(own, rival, own, rival) < 1e-5).all() and (contrast(rival, own, own, rival) > 10).all()


def test_a_run_that_was_killed_goes_on_bit_for_bit_and_leaves_the_model_as_it_was(tmp_path, monkeypatch):
    model, weights = tiny("sd"), {k: v.clone() for k, v in tiny("sd").unet.state_dict().items()}
    whole = learn_lora(model, PAIRS, "awe", FEW, work=tmp_path / "whole")
    encode, asked = Sides.encode, []

    def killed(self, batch):
        asked.append(batch)
        if len(asked) == 5:
            raise KeyboardInterrupt
        return encode(self, batch)

    monkeypatch.setattr(Sides, "encode", killed)
    with pytest.raises(KeyboardInterrupt):
        learn_lora(model, PAIRS, "awe", FEW, work=tmp_path / "broken")
    again = learn_lora(model, PAIRS, "awe", FEW, work=tmp_path / "broken")
    assert len(asked) > 5 and again.curve == whole.curve
    for name, pair in whole.lora.layers.items():
        assert all(torch.equal(x, y) for x, y in zip(pair, again.lora.layers[name], strict=True))
    assert model.unet.state_dict().keys() == weights.keys()
    assert all(torch.equal(value, weights[key]) for key, value in model.unet.state_dict().items())
    assert whole.lora.emotion == "awe" and whole.lora.model == model.name and whole.lora.rank == 2
    with pytest.raises(InputError, match="another"):
        learn_lora(model, PAIRS, "awe", LoraSettings(**vars(FEW) | {"lr": 1.0}), work=tmp_path / "broken")


def test_a_slider_learns_with_a_contrast_too_and_a_contrast_needs_two_ends():
    model, settings = tiny("sd"), LoraSettings(**vars(FEW) | {"contrast": 0.1, "steps": 2})

    def embed(x):
        return torch.nn.functional.normalize(x.flatten(1), dim=1)

    plain = learn_lora(model, PAIRS, "awe", LoraSettings(**vars(settings) | {"contrast": 0.0}), embed=embed)
    contrasted = learn_lora(model, PAIRS, "awe", settings, embed=embed)
    assert (
        contrasted.steps == 2 and contrasted.curve[0][1] > plain.curve[0][1]
    )  # no step taken, one term more
    with pytest.raises(InputError, match="contrast needs pairs"):
        learn_lora(model, Pictures(PAIRS.images), "awe", settings, embed=embed)


def test_dreambooth_tunes_a_copy_or_a_part_of_it():
    model, weights = tiny("sd"), {k: v.clone() for k, v in tiny("sd").unet.state_dict().items()}
    prior = training.draw_class(model, PAIRS.descriptions * 2, num_inference_steps=1)
    assert prior.shape == (6, *PAIRS.images.shape[1:])
    tuned, run = learn_dreambooth(
        model, Pictures(PAIRS.images), "xyz", FEW, prior=prior, prior_weight=0.5, part="attn2"
    )
    moved = {key for key, value in tuned.unet.state_dict().items() if not torch.equal(value, weights[key])}
    assert run.step == 4 and moved and all("attn2" in key for key in moved)
    assert all(torch.equal(value, weights[key]) for key, value in model.unet.state_dict().items())
    assert not any(p.requires_grad for p in tuned.unet.parameters())


def test_the_command_line_trains_checks_and_edits(tmp_path, capsys, monkeypatch):
    loaded = tiny("sd")
    monkeypatch.setattr(backbone, "load_backbone", lambda name, **options: loaded)
    for label, seed in (("awe", 1), ("neutral", 2)):
        (tmp_path / "in" / label).mkdir(parents=True)
        for i, picture in enumerate(pictures(3, side=40, seed=seed)):
            images.save_image(picture, tmp_path / "in" / label / f"{i}.png")
    out, model = tmp_path / "awe.safetensors", ["--model", str(folder("sd")), "--device", "cpu"]
    train = [
        "lora",
        "train",
        str(tmp_path / "in"),
        "--emotion",
        "awe",
        "--steps",
        "2",
        "--batch",
        "2",
        *model,
    ]
    assert main.main([*train, "--slider", "--rank", "2", "--licence", "CC0", "--out", str(out)]) == 0
    with safe_open(out, "pt") as file:
        assert file.metadata().items() >= {"emotion": "awe", "rank": "2", "licence": "CC0"}.items()
        assert all(key.startswith("unet.") for key in file.keys())  # noqa: SIM118
    assert main.main(["lora", "check", str(out), "-n", "1", "--sheet", str(tmp_path / "s.png"), *model]) in (
        0,
        1,
    )
    said = capsys.readouterr()
    assert "scale -1" in said.out and "verdict" in said.out and "3 pairs" in said.err
    assert images.open_image(tmp_path / "s.png").height == 5 * 32

    source = str(tmp_path / "in" / "neutral" / "0.png")
    edit = ["edit", source, "--to", "awe", "--box", "0,0,32,32", "--steps", "2", *model]
    assert main.main([*edit, "--lora", f"{out}:0.5", "-o", str(tmp_path / "o.png")]) == 0
    record = images.read_provenance(tmp_path / "o.png")
    assert record["loras"] == ["awe.safetensors:0.5"] and record["people"][0]["prompt"] == "photo of a person"
    assert json.dumps(str(tmp_path)) not in json.dumps(record)
    capsys.readouterr()
    for bad, said in (
        (["--lora", f"{out}:nan"], "scale of --lora"),
        (["--lora", str(tmp_path / "none.safetensors")], "no such file"),
        (["--lora", source], "safetensors"),
    ):
        assert main.main([*edit, *bad, "-o", str(tmp_path / "p.png")]) == 2
        assert said in capsys.readouterr().err and not (tmp_path / "p.png").exists()
    assert main.main([*train, "--contrast", "1", "--out", str(tmp_path / "c.safetensors")]) == 2
    assert "--slider" in capsys.readouterr().err
