"""LEDITS++ as one of the editors: it edits, shares inversions, leaves the network as it was."""

import pytest
import torch
from tiny_pipelines import pictures, sd_pipeline, tiny, unet, vae

from emolib.diffusion.backbone import Backbone
from emolib.editors import ledits
from emolib.editors.ledits import LEditsPP
from emolib.runtime import InputError, generator


def edit(editor, images, emotion, seed=0, **options):
    return editor(images, emotion, generator=generator(seed), **options)


@pytest.fixture(scope="module")
def eight():
    """A tiny model whose latents have eight channels, as MiniSD's."""
    pipe = sd_pipeline()
    torch.manual_seed(1)
    pipe.register_modules(
        unet=unet(cross_attention_dim=16, in_channels=8, out_channels=8), vae=vae(latent_channels=8)
    )
    return Backbone(pipe, "eight")


@pytest.fixture(params=["four", "eight"])
def model(request):
    return tiny("sd") if request.param == "four" else request.getfixturevalue("eight")


def ceiling(model, images):
    with torch.no_grad():
        return model.decode(model.encode(images))


def test_emotions_change_the_picture_and_share_one_inversion(model):
    counted, source = [], pictures()
    hook = model.unet.register_forward_pre_hook(lambda unet, inputs: counted.append(len(inputs[0])))
    try:
        editor = LEditsPP(model, strength=0.5, guidance_scale=50.0, num_inference_steps=6)
        several = edit(editor, source, ["anger", "awe"])
    finally:
        hook.remove()
    assert sum(counted) == 3 + 2 * (3 * 2)  # three steps up, then two edits of three guided steps
    alone = torch.cat([edit(editor, source, emotion) for emotion in ("anger", "awe")])
    torch.testing.assert_close(several, alone, atol=1e-4, rtol=0)
    assert not torch.allclose(several[0], several[1], atol=1e-3)
    assert not torch.allclose(several[:1], ceiling(model, source), atol=1e-3)


def test_attention_processors_are_put_back_even_after_an_error(model, monkeypatch):
    before = dict(model.unet.attn_processors)

    def broken(self, pipe, text):
        assert model.unet.attn_processors != before
        raise RuntimeError("on the way")

    monkeypatch.setattr(LEditsPP, "_edit", broken)
    with pytest.raises(RuntimeError, match="on the way"):
        edit(LEditsPP(model, num_inference_steps=2), pictures(), "anger")
    assert model.unet.attn_processors == before


def test_the_edit_keeps_to_the_latents_where_the_words_differ_most(eight):
    """A threshold near 1 lets hardly anything change, 0 all of it."""
    source, changed = pictures(), []
    unasked = edit(LEditsPP(eight, 0.5, 0.0, 4), source, "anger")
    for threshold in (0.0, 0.99):
        editor = LEditsPP(eight, 0.5, 3.0, 4, edit_threshold=threshold)
        changed.append((edit(editor, source, "anger") - unasked).abs().mean())
    assert changed[1] < changed[0] / 2


def test_folding_is_undone():
    z = torch.randn(2, 8, 3, 5)
    assert ledits.fold(z).shape == (2, 4, 6, 5)
    assert torch.equal(ledits.unfold(ledits.fold(z), 8), z)


def test_refusals(eight):
    with pytest.raises(InputError, match="multiple of 32 px, not 48 x 32"):
        edit(LEditsPP(eight), torch.zeros(1, 3, 32, 48), "anger")
    with pytest.raises(InputError, match="needs 4 latent channels"):
        LEditsPP(eight, use_intersect_mask=True)
    with pytest.raises(InputError, match="Stable Diffusion 1 and 2, .*not XL"):
        LEditsPP(tiny("sdxl"))
