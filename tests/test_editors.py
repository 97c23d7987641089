"""The Editor contract on img2img: against diffusers, and by what must stay the same."""

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionXLImg2ImgPipeline,
)
from hypothesis import given
from hypothesis import strategies as st
from tiny_pipelines import folder, pictures, tiny

from emolib.editors.base import draw, steps_taken
from emolib.editors.inversion import Img2Img
from emolib.emotions.sets import MIKELS
from emolib.emotions.words import prompt
from emolib.runtime import InputError, generator

both = pytest.mark.parametrize("kind", ["sd", "sdxl"])


def edit(editor, images, emotion=None, seed=0, **options):
    return editor(images, emotion, generator=generator(seed), **options)


@pytest.mark.parametrize("guidance_scale", [1.0, 5.0])
@pytest.mark.parametrize("strength", [0.5, 1.0])
@both
def test_img2img_equals_diffusers(kind, strength, guidance_scale):
    cls = {"sd": StableDiffusionImg2ImgPipeline, "sdxl": StableDiffusionXLImg2ImgPipeline}[kind]
    options = {"sd": {"safety_checker": None}, "sdxl": {"add_watermarker": False}}[kind]
    peer = cls.from_pretrained(folder(kind), **options)
    peer.scheduler = DDIMScheduler.from_config(
        peer.scheduler.config, clip_sample=False, set_alpha_to_one=False, steps_offset=1
    )
    peer.set_progress_bar_config(disable=True)
    model, source = tiny(kind), pictures(2)
    with torch.no_grad():
        latents = model.encode(source)  # the pipeline would draw from the posterior: give it our mean
    theirs = peer(
        prompt=["photo of a sad person"] * 2,
        image=latents,
        strength=strength,
        guidance_scale=guidance_scale,
        num_inference_steps=10,
        generator=generator(7),
        output_type="pt",
    ).images
    mine = edit(Img2Img(model, strength, guidance_scale, 10), source, "sadness", seed=7)
    assert (mine / 2 + 0.5 - theirs).abs().max() < 1e-4
    assert (mine - source).abs().max() > 0.01


@both
def test_strength_zero_is_the_source_bit_for_bit(kind):
    source = pictures(2)
    assert torch.equal(edit(Img2Img(tiny(kind), strength=0.0), source, "anger"), source)
    several = edit(Img2Img(tiny(kind), strength=0.0), source[:1], list(MIKELS))
    assert torch.equal(several, source[:1].expand(8, -1, -1, -1))


@both
def test_all_emotions_at_once_are_the_single_edits(kind):
    editor, source = Img2Img(tiny(kind), num_inference_steps=4), pictures()
    together = edit(editor, source, MIKELS)
    assert together.shape == (8, 3, 32, 32)
    for i in (0, 5):
        torch.testing.assert_close(together[i], edit(editor, source, MIKELS[i])[0], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(together[0], together[1], atol=1e-3)


def test_the_picture_is_encoded_once_and_each_step_is_one_call():
    model = tiny("sd")
    encoded, called = [], []
    hooks = (
        model.vae.encoder.register_forward_pre_hook(lambda module, args: encoded.append(len(args[0]))),
        model.unet.register_forward_pre_hook(lambda module, args: called.append(len(args[0]))),
    )
    edit(Img2Img(model, strength=0.6, num_inference_steps=5), pictures(), MIKELS)
    for hook in hooks:
        hook.remove()
    assert encoded == [1]
    assert called == [16, 16, 16]  # 3 steps of 5, eight emotions, guided


def test_an_edit_keeps_shape_dtype_and_range_and_leaves_the_source_alone():
    source = pictures(3)
    before = source.clone()
    result = edit(Img2Img(tiny("sd"), num_inference_steps=3), source, ["anger", "awe", "fear"])
    assert (result.shape, result.dtype, result.device) == (source.shape, source.dtype, source.device)
    assert result.abs().max() <= 1
    assert not result.requires_grad
    assert torch.equal(source, before)


def test_the_same_seed_gives_the_same_edit_and_another_seed_another():
    editor, source = Img2Img(tiny("sd"), num_inference_steps=3), pictures()
    first = edit(editor, source, "awe", seed=1)
    assert torch.equal(first, edit(editor, source, "awe", seed=1))
    assert not torch.allclose(first, edit(editor, source, "awe", seed=2), atol=1e-3)


@pytest.mark.parametrize(
    ("steps", "strength", "taken"),
    [(10, 0.0, 0), (10, 0.5, 5), (10, 1.0, 10), (30, 0.6, 18), (100, 0.29, 29), (10, 0.01, 1), (10, 0.55, 6)],
)
def test_strength_in_steps(steps, strength, taken):
    assert steps_taken(steps, strength) == taken


@given(st.integers(1, 1000), st.floats(0, 1), st.floats(0, 1))
def test_more_strength_never_takes_fewer_steps(steps, first, second):
    low, high = sorted((first, second))
    assert 0 <= steps_taken(steps, low) <= steps_taken(steps, high) <= steps


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strength": 1.2}, "strength must lie in"),
        ({"strength": -0.1}, "strength must lie in"),
        ({"strength": float("nan")}, "strength must lie in"),
        ({"num_inference_steps": 0}, "num_inference_steps must be 1 to 1000, not 0"),
    ],
)
def test_impossible_settings(options, message):
    with pytest.raises(ValueError, match=message):
        Img2Img(tiny("sd"), **options)


def test_impossible_calls():
    editor = Img2Img(tiny("sd"))
    with pytest.raises(InputError, match="unknown emotion 'joyfulness'"):
        edit(editor, pictures(), "joyfulness")
    with pytest.raises(ValueError, match="3 emotions for 2 pictures"):
        edit(editor, pictures(2), ["anger", "awe", "fear"])
    with pytest.raises(ValueError, match="2 descriptions for 3 pictures"):
        edit(editor, pictures(3), "anger", description=["man", "woman"])
    with pytest.raises(InputError, match="31 x 31 picture does not fit"):
        edit(editor, pictures(side=31), "anger")


def test_prompts():
    assert prompt("anger") == "photo of an angry person"
    assert prompt("sadness", "woman with red hair") == "photo of a sad woman with red hair"
    assert prompt("fear", template="{word}, {description}") == "fearful, person"
    assert prompt(None) == "photo of a person"
    assert prompt(None, "old man") == "photo of an old man"
    assert prompt(None, template="a portrait, {word}") == "a portrait"


def test_descriptions_reach_the_prompt(monkeypatch):
    model, heard = tiny("sd"), []
    embed = type(model).embed

    def listen(self, prompts):
        heard.append(prompts)
        return embed(self, prompts)

    monkeypatch.setattr(type(model), "embed", listen)
    editor = Img2Img(model, num_inference_steps=1, guidance_scale=1.0)
    edit(editor, pictures(2), "anger", description=["man", "woman with red hair"])
    assert heard == [["photo of an angry man", "photo of an angry woman with red hair"]]


def test_an_editor_is_its_own_caption():
    assert "backbone=sd, strength=0.4, guidance_scale=5.0" in repr(Img2Img(tiny("sd"), strength=0.4))


def test_one_generator_for_each_picture_is_what_each_would_get_alone():
    editor, source, seeds = Img2Img(tiny("sd"), num_inference_steps=3), pictures(3), (4, 9, 2)
    together = editor(source, "awe", generator=[generator(seed) for seed in seeds])
    for i, seed in enumerate(seeds):
        torch.testing.assert_close(
            together[[i]], edit(editor, source[[i]], "awe", seed), rtol=1e-4, atol=1e-4
        )
    rows = draw(torch.zeros(2, 5), [generator(seed) for seed in seeds[:2]])
    assert torch.equal(rows[1], torch.randn(5, generator=generator(9)))
