"""The editors PromptToPrompt and Asyrp keep the Editor contract, and do nothing where nothing is asked."""

from dataclasses import replace

import pytest
import torch
from tiny_pipelines import bank, pictures, positions, tiny

from emolib.diffusion import inversion
from emolib.diffusion.sampling import denoise
from emolib.editors.asyrp import Asyrp
from emolib.editors.prompt_to_prompt import PromptToPrompt, differing
from emolib.interventions import hspace
from emolib.interventions.alignment import spans
from emolib.interventions.asyrp import Asymmetric
from emolib.runtime import InputError, generator

both = pytest.mark.parametrize("kind", ["sd", "sdxl"])


def p2p(kind="sd", **options):
    return PromptToPrompt(tiny(kind), **{"num_inference_steps": 5, "strength": 1.0, **options})


def asyrp(kind="sd", **options):
    return Asyrp(tiny(kind), bank(kind), **{"num_inference_steps": 5, **options})


def edit(editor, images, emotion, seed=0, **options):
    return editor(images, emotion, generator=generator(seed), **options)


@pytest.mark.parametrize("make", [p2p, asyrp])
def test_more_strength_changes_more(make):
    source = pictures()
    still = edit(make(strength=1e-6), source, "anger")
    moved = [
        float((edit(make(strength=s), source, "anger") - still).square().mean()) for s in (0.2, 0.6, 1.0)
    ]
    assert moved == sorted(moved)
    assert moved[2] > moved[0]


@torch.no_grad()
def reconstruction(model, source, prompt=""):
    predictor = model.guided(model.embed(prompt), 1.0)
    walk = inversion.ddim(predictor, model.encode(source), model.timesteps(5))
    return model.decode(denoise(predictor, walk))


@both
def test_asyrp_towards_what_is_there_is_the_ddim_reconstruction(kind):
    model, source = tiny(kind), pictures(2)
    expected = reconstruction(model, source)
    for editor, emotion, before in (
        (asyrp(kind), "neutral", None),
        (asyrp(kind, scale=0.0), "anger", None),
        (asyrp(kind), ["awe", "anger"], ["awe", "anger"]),
        (asyrp(kind, t_edit=1000), "anger", None),
    ):
        found = edit(editor, source, emotion, source_emotion=before)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (edit(asyrp(kind), source, "anger") - expected).abs().max() > 1e-3


@torch.no_grad()
def test_asyrp_shifts_more_in_a_step_where_there_are_fewer():
    model, source = tiny("sd"), pictures()
    walk = inversion.ddim(model.guided(model.embed(""), 1.0), model.encode(source), model.timesteps(5))
    shift = hspace.scaled(bank("sd").shift("anger"), 0.5 * 30 / 5)
    expected = denoise(Asymmetric(model, model.embed(""), shift, 300), walk)
    found = edit(asyrp(strength=0.5), source, "anger")
    torch.testing.assert_close(found, model.decode(expected), rtol=1e-4, atol=1e-3)


def test_asyrp_is_linear_in_its_direction_and_knows_any_name():
    source = pictures()
    half = edit(asyrp(strength=0.5), source, "smirking")
    scaled = edit(asyrp(scale=0.5), source, "smirking")
    model = tiny("sd")
    stored = Asyrp(model, bank("sd", scale=0.5), num_inference_steps=5)
    torch.testing.assert_close(half, scaled)
    own = Asyrp(tiny("sd"), replace(bank("sd"), scale=0.5), num_inference_steps=5)
    torch.testing.assert_close(half, edit(own, source, "smirking"))
    torch.testing.assert_close(half, edit(stored, source, "smirking"), rtol=1e-4, atol=1e-4)


def test_fresh_noise_comes_in_below_t_boost_only_and_from_the_generator():
    source = pictures()
    calm, boosted = asyrp(), asyrp(t_boost=300)
    assert torch.equal(edit(calm, source, "anger", seed=1), edit(calm, source, "anger", seed=2))
    first = edit(boosted, source, "anger", seed=1)
    assert torch.equal(first, edit(boosted, source, "anger", seed=1))
    assert not torch.allclose(first, edit(boosted, source, "anger", seed=2), atol=1e-3)
    shared = edit(boosted, source, ["anger", "anger"], seed=1)
    torch.testing.assert_close(shared[0], shared[1], rtol=1e-4, atol=1e-4)


def test_each_asyrp_step_is_one_call():
    model, rows = tiny("sd"), []
    hook = model.unet.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    edit(asyrp(t_edit=500), pictures(), ["anger", "awe"])
    hook.remove()
    # Five to invert one picture; on the grid 801 601 401 201 1 two steps hold both edits twice, three do not.
    assert rows == [1] * 5 + [4, 4, 2, 2, 2]


@both
def test_prompt_to_prompt_that_takes_nothing_over_is_plain_ddim(kind):
    model, source = tiny(kind), pictures(2)
    expected = reconstruction(model, source, "photo of a neutral person")
    nothing = {"cross_replace_steps": 0.0, "self_replace_steps": 0.0, "follow": 0.0}
    found = edit(p2p(kind, guidance_scale=1.0, **nothing), source, "neutral", source_emotion="neutral")
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


@both
def test_prompt_to_prompt_comes_back_at_any_guidance_when_asked_for_what_is_there(kind):
    model, source = tiny(kind), pictures(2)
    ceiling = model.decode(model.encode(source)).detach()
    for blend in (None, 0.5):
        editor = p2p(kind, guidance_scale=7.5, local_blend=blend)
        found = edit(editor, source, "neutral", source_emotion="neutral")
        torch.testing.assert_close(found, ceiling, rtol=1e-4, atol=1e-3)


@both
def test_an_empty_local_blend_is_the_source_and_a_full_one_the_edit(kind, monkeypatch):
    source = pictures()
    model = tiny(kind)
    blended = p2p(kind, local_blend=0.5)
    for mask, expected in (
        (torch.ones, edit(p2p(kind), source, "anger")),
        (torch.zeros, model.decode(model.encode(source)).detach()),
    ):
        monkeypatch.setattr(
            "emolib.interventions.attention.LocalBlend.mask",
            lambda self, size, mask=mask: mask((2, 1, *size), dtype=torch.bool),
        )
        found = edit(blended, source, "anger")
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_prompt_to_prompt_restores_the_network_and_asks_it_once_a_step():
    model, rows = tiny("sd"), []
    before = model.unet.attn_processors
    hook = model.unet.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    edit(p2p(local_blend=0.3, strength=0.6), pictures(), ["anger", "awe"])
    hook.remove()
    assert rows == [1] * 3 + [6] * 3  # source and two targets, guided
    assert all(model.unet.attn_processors[name] is before[name] for name in before)


def test_the_words_that_differ():
    pipe = tiny("sd").pipe
    texts = ["a sad man", "a man", "an angry man", "a very old man", "a fearful man"]
    words = [("sad",), (), ("angry",), ("very", "old"), ("fearful",)]
    tokens = [
        sum((positions(pipe, text, word) for word in row), ()) for text, row in zip(texts, words, strict=True)
    ]
    assert differing([spans(pipe, text) for text in texts], (0, 1, 0, 1, 0)) == tokens


def test_knobs_of_prompt_to_prompt_matter():
    source, known = pictures(), {"source_emotion": "neutral"}
    base = edit(p2p(), source, "anger", **known)
    for options, call in (
        ({}, {}),
        ({}, {"source_emotion": "awe"}),
        ({"cross_replace_steps": 0.0}, known),
        ({"self_replace_steps": 1.0}, known),
        ({"emphasis": 5.0}, known),
        ({"local_blend": 1.0}, known),
    ):
        assert (edit(p2p(**options), source, "anger", **call) - base).abs().max() > 1e-4, options


def test_impossible_directions():
    with pytest.raises(InputError, match="unknown direction 'fear'"):
        edit(asyrp(), pictures(), "awe", source_emotion="fear")
    with pytest.raises(InputError, match="made with sd"):
        replace(asyrp("sd"), backbone=tiny("sdxl"))


def test_another_bank_brings_its_own_scale_and_range():
    other = replace(bank("sd"), scale=2.0, t_edit=300)
    swapped, fresh = (
        replace(asyrp(), directions=other),
        replace(asyrp(), directions=other, scale=2.0, t_edit=300),
    )
    made = [edit(editor, pictures(), "awe") for editor in (swapped, fresh, asyrp())]
    assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])
