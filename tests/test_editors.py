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
from emolib.runtime import generator

both = pytest.mark.parametrize("kind", ["sd", "sdxl"])


def edit(editor, images, emotion=None, seed=0, **options):
    return editor(images, emotion, generator=generator(seed), **options)


@pytest.mark.parametrize(("strength", "guidance_scale"), [(0.5, 5.0), (1.0, 1.0)])
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
