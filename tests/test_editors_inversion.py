"""Editors by inversion on tiny random models: what comes back, what is shared, what is refused."""

import pytest
import torch
from tiny_pipelines import pictures, tiny

from emolib import runtime
from emolib.diffusion import inversion
from emolib.editors import inversion as by_inversion
from emolib.editors.inversion import (
    DDIMInversion,
    DirectInversion,
    EditFriendlyInversion,
    ExactInversion,
    NegativePromptInversion,
    NullTextInversion,
)
from emolib.emotions.sets import MIKELS
from emolib.runtime import InputError, generator

EDITORS = (
    DDIMInversion,
    NegativePromptInversion,
    NullTextInversion,
    EditFriendlyInversion,
    DirectInversion,
    ExactInversion,
)
HALF_A_GREY_LEVEL = 1 / 255  # of a picture in [-1, 1]
both = pytest.mark.parametrize("kind", ["sd", "sdxl"])
every = pytest.mark.parametrize("method", EDITORS)


def edit(editor, images, emotion, seed=0, **options):
    return editor(images, emotion, generator=generator(seed), **options)


@pytest.mark.parametrize("strength", [0.25, 1.0])
@pytest.mark.parametrize("method", [EditFriendlyInversion, DirectInversion, ExactInversion])
@both
def test_asking_for_what_is_there_returns_what_the_vae_has(kind, method, strength):
    model, source = tiny(kind), pictures(2)
    editor = method(model, strength=strength, num_inference_steps=6)
    result = edit(editor, source, "anger", source_emotion="anger")
    with torch.no_grad():
        goal = model.decode(model.encode(source))
    torch.testing.assert_close(result, goal, rtol=0, atol=HALF_A_GREY_LEVEL)
    assert (edit(editor, source, "awe", source_emotion="anger") - goal).abs().max() > 2 * HALF_A_GREY_LEVEL


def test_negative_prompt_inversion_is_unguided_ddim_where_nothing_is_asked_and_ddim_alone_is_not():
    source, same = pictures(), {"source_emotion": "anger"}
    model = tiny("sd")
    plain = edit(DDIMInversion(model, 1.0, 1.0, 5), source, "anger", **same)
    negative = edit(NegativePromptInversion(model, 1.0, 5.0, 5), source, "anger", **same)
    torch.testing.assert_close(negative, plain, rtol=0, atol=HALF_A_GREY_LEVEL)
    guided = edit(DDIMInversion(model, 1.0, 5.0, 5), source, "anger", **same)
    assert (guided - plain).abs().max() > 0.01


def calls(model, run):
    """Batch size of every call of the network during `run()`."""
    sizes = []
    hook = model.unet.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    run()
    hook.remove()
    return sizes


@pytest.mark.parametrize(
    ("editor", "expected"),
    [
        (DDIMInversion(tiny("sd"), 1.0, 5.0, 3), [1] * 3 + [16] * 3),
        (NegativePromptInversion(tiny("sd"), 1.0, 5.0, 3), [1] * 3 + [16] * 3),
        (EditFriendlyInversion(tiny("sd"), 1.0, 5.0, 3), [6] + [16] * 3),
        (EditFriendlyInversion(tiny("sd"), 1.0, 5.0, 3, batch_size=2), [4, 2] + [16] * 3),
        (EditFriendlyInversion(tiny("sd"), 1.0, 5.0, 3, source_guidance_scale=1.0), [3] + [16] * 3),
        (DirectInversion(tiny("sd"), 1.0, 5.0, 3), [1] * 3 + [18] * 3),
        (ExactInversion(tiny("sd"), 1.0, 5.0, 3), [1] * 4 + [16] * 3),
        (NullTextInversion(tiny("sd"), 1.0, 5.0, 3, early_stop=1e9), [1] * (1 + 3 + 3 * 3) + [16] * 3),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, list) else "",
)
def test_eight_emotions_share_one_inversion(editor, expected):
    assert calls(tiny("sd"), lambda: edit(editor, pictures(), MIKELS)) == expected


@every
def test_strength_skips_the_noisiest_steps(method, monkeypatch):
    model, seen = tiny("sd"), []
    editor = method(model, strength=0.5, num_inference_steps=4)
    if method is NullTextInversion:
        editor = method(model, strength=0.5, num_inference_steps=4, early_stop=1e9)
    change = method.change
    monkeypatch.setattr(
        method, "change", lambda self, z, levels, *rest: seen.append(levels) or change(self, z, levels, *rest)
    )
    edit(editor, pictures(), "awe")
    assert seen == [model.timesteps(4)[-3:]]


def test_strength_changes_no_draw_of_edit_friendly_noise(monkeypatch):
    drawn = []

    def record(predictor, z0, levels, noise, **options):
        drawn.append(noise)
        return invert(predictor, z0, levels, noise, **options)

    invert = inversion.edit_friendly
    monkeypatch.setattr(by_inversion.inversion, "edit_friendly", record)
    for strength in (0.5, 1.0):
        edit(EditFriendlyInversion(tiny("sd"), strength, num_inference_steps=4), pictures(), "awe")
    assert torch.equal(drawn[0], drawn[1][-2:])


def test_what_is_known_of_the_source_reaches_its_prompt(monkeypatch):
    model, heard = tiny("sd"), []
    embed = type(model).embed
    monkeypatch.setattr(
        type(model), "embed", lambda self, prompts: heard.append(prompts) or embed(self, prompts)
    )
    editor = NegativePromptInversion(model, num_inference_steps=1)
    edit(editor, pictures(2), "anger", description="old man", source_emotion=["fear", None])
    assert ["photo of a fearful old man", "photo of an old man"] in heard
    assert ["photo of an angry old man"] * 2 in heard


def test_null_text_inversion_asks_for_its_memory_first(monkeypatch):
    editor = NullTextInversion(tiny("sd"), num_inference_steps=2)
    monkeypatch.setattr(runtime, "free_memory", lambda device: 1000)
    with pytest.raises(InputError, match="are free; give fewer at once or use another method"):
        edit(editor, pictures(), "awe")
    monkeypatch.setattr(runtime, "free_memory", lambda device: 1 << 60)
    monkeypatch.setattr(inversion, "gradient_memory", lambda evaluate: 3 << 30)
    with pytest.warns(UserWarning, match="6.4 GB for the gradients of 2 pictures and takes up to 26 eval"):
        edit(NullTextInversion(tiny("sd"), 1.0, num_inference_steps=2), pictures(2), "awe")
