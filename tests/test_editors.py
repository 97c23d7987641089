"""The Editor contract on img2img and scenes: against diffusers, and by what must stay the same."""

import json
from dataclasses import asdict

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionXLImg2ImgPipeline,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_pipelines import folder, pictures, tiny

from emolib.editors import Img2Img, PerPerson, Target, prompt, steps_taken
from emolib.emotions.sets import MIKELS
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
        ({"guidance_scale": float("inf")}, "guidance_scale must be a finite number"),
        ({"num_inference_steps": 0}, "num_inference_steps must be 1 to 1000, not 0"),
    ],
)
def test_impossible_settings(options, message):
    with pytest.raises(InputError, match=message):
        Img2Img(tiny("sd"), **options)


def test_impossible_calls():
    editor = Img2Img(tiny("sd"))
    with pytest.raises(InputError, match="no prompt word for 'joyfulness'"):
        edit(editor, pictures(), "joyfulness")
    with pytest.raises(InputError, match="3 emotions for 2 pictures"):
        edit(editor, pictures(2), ["anger", "awe", "fear"])
    with pytest.raises(InputError, match="2 descriptions for 3 pictures"):
        edit(editor, pictures(3), "anger", description=["man", "woman"])
    with pytest.raises(InputError, match="31 x 31 picture does not fit"):
        edit(editor, pictures(side=31), "anger")


def test_prompts():
    assert prompt("anger") == "photo of an angry person"
    assert prompt("sadness", "woman with red hair") == "photo of a sad woman with red hair"
    assert prompt("fear", template="{word}, {description}") == "fearful, person"
    for template in ("{face}", "{", "{0}", "{word.nothing}"):
        with pytest.raises(InputError, match="may stand in braces"):
            prompt("fear", template=template)


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


def test_an_editor_is_its_own_caption_and_log_entry():
    editor = Img2Img(tiny("sd"), strength=0.4)
    assert "backbone=sd, strength=0.4, guidance_scale=5.0" in repr(editor)
    assert json.loads(json.dumps(asdict(editor), default=str))["backbone"] == "sd"


# Scenes -----------------------------------------------------------------------------------------------------


def paint(images, emotion, *, generator):
    """An editor whose result is known: anger paints black, everything else white."""
    values = [-1.0 if label == "anger" else 1.0 for label in emotion]
    return torch.tensor(values).view(-1, 1, 1, 1).expand_as(images).clone()


def keep(images, emotion, *, generator):
    return images.clone()


def noise(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_people_are_cropped_edited_in_one_batch_and_pasted_back():
    scene, sizes = noise(1, 3, 40, 60), []

    def record(images, emotion, *, generator):
        sizes.append((images.shape, list(emotion)))
        return paint(images, emotion, generator=generator)

    people = [Target((5, 5, 15, 15), "anger"), Target((40, 10, 52, 22))]
    result = edit(PerPerson(record, size=16, margin=0.0, feather=0.0), scene, "awe", people=people)
    assert sizes == [((2, 3, 16, 16), ["anger", "awe"])]
    expected = scene.clone()
    expected[..., 5:15, 5:15] = -1
    expected[..., 10:22, 40:52] = 1
    torch.testing.assert_close(result, expected)
    assert torch.equal(result[..., :, 15:40], scene[..., :, 15:40])


def test_several_pictures_and_descriptions():
    heard = []

    def record(images, emotion, *, generator, description):
        heard.extend(description)
        return paint(images, emotion, generator=generator)

    scenes = noise(2, 3, 20, 20)
    people = [Target((2, 2, 10, 10), picture=1, description="old man")]
    result = edit(PerPerson(record, size=8, feather=0.0), scenes, "anger", people=people)
    assert heard == ["old man"]
    assert torch.equal(result[0], scenes[0])
    assert (result[1, :, 2:10, 2:10] < -0.999).all()


boxes = st.tuples(st.integers(0, 36), st.integers(0, 26), st.integers(1, 24), st.integers(1, 24)).map(
    lambda b: (b[0], b[1], min(b[0] + b[2], 40), min(b[1] + b[3], 30))
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(boxes, st.sampled_from(["anger", "awe"])), min_size=1, max_size=3),
    st.integers(0, 2**31),
    st.floats(0, 1),
    st.floats(0, 0.3),
)
def test_pixels_outside_the_masks_never_change(people, seed, margin, feather):
    scene = noise(1, 3, 30, 40, seed=seed)
    masks = [noise(30, 40, seed=seed + i) > 0 for i in range(len(people))]
    targets = [Target(box, emotion, mask) for (box, emotion), mask in zip(people, masks, strict=True)]
    editor = PerPerson(paint, size=8, margin=margin, feather=feather)
    result = edit(editor, scene, people=targets)
    outside = ~torch.stack(masks).any(0)
    assert torch.equal(result[..., outside], scene[..., outside])
    assert result.abs().max() <= 1


@settings(max_examples=30, deadline=None)
@given(boxes, st.floats(0, 1))
def test_an_editor_that_does_nothing_changes_nothing(box, margin):
    scene = noise(1, 3, 30, 40)
    assert torch.equal(edit(PerPerson(keep, 16, margin), scene, "awe", people=[Target(box)]), scene)


def test_strength_zero_leaves_a_scene_bit_for_bit():
    editor = PerPerson(Img2Img(tiny("sd"), strength=0.0), size=32)
    scene = noise(1, 3, 50, 70)
    assert torch.equal(edit(editor, scene, "anger", people=[Target((10, 10, 30, 30))]), scene)


def test_scenes_through_a_real_model():
    editor = PerPerson(Img2Img(tiny("sd"), num_inference_steps=3), size=32)
    scene, mask = noise(1, 3, 50, 70), torch.zeros(50, 70)
    mask[12:30, 12:30] = 1
    result = edit(editor, scene, "anger", people=[Target((10, 10, 30, 30), mask=mask)])
    assert torch.equal(result[..., mask == 0], scene[..., mask == 0])
    assert not torch.allclose(result[..., 20, 20], scene[..., 20, 20], atol=1e-3)


def test_nobody_named_means_nothing_changes():
    scene = noise(1, 3, 20, 20)
    result = edit(PerPerson(paint, 8), scene, "anger", people=[])
    assert torch.equal(result, scene)
    assert result is not scene


@pytest.mark.parametrize(
    ("person", "message"),
    [
        (Target((0, 0, 50, 10), "awe"), "inside the 20 x 20 picture"),
        (Target((0, 0, 10, 10), "awe", mask=torch.ones(10, 10)), "mask of 10 x 10 for a picture of 20 x 20"),
        (Target((0, 0, 10, 10), "awe", picture=1), "there is no picture 1; the batch has 1"),
        (Target((0, 0, 10, 10)), "name an emotion"),
    ],
)
def test_impossible_people(person, message):
    with pytest.raises(InputError, match=message):
        edit(PerPerson(paint, 8), noise(1, 3, 20, 20), people=[person])
