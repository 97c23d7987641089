"""What every editor promises: nothing at strength zero, together as alone, what is refused."""

import pytest
import torch
from tiny_pipelines import bank, pictures, tiny

from emolib.editors import inversion
from emolib.editors.asyrp import Asyrp
from emolib.editors.ledits import LEditsPP
from emolib.editors.prompt_to_prompt import PromptToPrompt
from emolib.runtime import InputError, generator

EDITORS = {
    "img2img": inversion.Img2Img,
    "ddim": inversion.DDIMInversion,
    "negative-prompt": inversion.NegativePromptInversion,
    "null-text": inversion.NullTextInversion,
    "edit-friendly": inversion.EditFriendlyInversion,
    "direct": inversion.DirectInversion,
    "exact": inversion.ExactInversion,
    "prompt-to-prompt": PromptToPrompt,
    "asyrp": lambda model, **options: Asyrp(model, bank(model.name), **options),
    "ledits": LEditsPP,
}
every = pytest.mark.parametrize("method", EDITORS)
both = pytest.mark.parametrize("kind", ["sd", "sdxl"])


def make(method, kind="sd", **options):
    """The editor with few steps; null-text learns for one of them only."""
    if (method, kind) == ("ledits", "sdxl"):
        pytest.skip("LEDITS++ edits Stable Diffusion 1 and 2 alone")
    few = {"num_inference_steps": 2} | ({"inner_steps": 1} if method == "null-text" else {})
    return EDITORS[method](tiny(kind), **few | options)


def edit(editor, images, emotion, seed=0, **options):
    return editor(images, emotion, generator=generator(seed), **options)


@every
@both
def test_strength_zero_is_the_source_bit_for_bit(kind, method):
    editor, source = make(method, kind, strength=0.0), pictures(2)
    assert torch.equal(edit(editor, source, "anger"), source)
    assert torch.equal(edit(editor, source[:1], ["anger", "awe"]), source[:1].expand(2, -1, -1, -1))


@every
@both
def test_emotions_together_are_the_single_edits(kind, method):
    editor, source = make(method, kind), pictures()
    before = source.clone()
    together = edit(editor, source, ["anger", "awe"])
    alone = torch.cat([edit(editor, source, emotion) for emotion in ("anger", "awe")])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-3)
    assert not torch.allclose(together[0], together[1], atol=1e-3)
    assert (together.shape, together.dtype, together.device) == ((2, 3, 32, 32), torch.float32, source.device)
    assert together.abs().max() <= 1 and not together.requires_grad
    assert torch.equal(source, before)


@pytest.mark.parametrize("method", [m for m in EDITORS if m not in ("img2img", "edit-friendly", "ledits")])
def test_pictures_together_are_the_single_edits_where_no_noise_is_drawn(method):
    editor, source = make(method), pictures(2)
    options = {"description": ["man", "old woman"], "source_emotion": ["awe", None]}
    together = edit(editor, source, ["anger", "awe"], **options)
    for i in range(2):
        mine = {name: values[i] for name, values in options.items()}
        alone = edit(editor, source[i : i + 1], ["anger", "awe"][i], **mine)
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1 / 255)  # half a grey level


@every
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strength": 1.2}, "strength must lie in"),
        ({"strength": -0.1}, "strength must lie in"),
        ({"strength": float("nan")}, "strength must lie in"),
        ({"num_inference_steps": 0}, "num_inference_steps must be 1 to 1000, not 0"),
    ],
)
def test_impossible_settings(method, options, message):
    with pytest.raises(ValueError, match=message):
        make(method, **options)


@every
def test_impossible_calls(method):
    editor, unknown = make(method), "direction" if method == "asyrp" else "emotion"
    with pytest.raises(InputError, match=f"unknown {unknown} 'joyfulness'"):
        edit(editor, pictures(), "joyfulness")
    with pytest.raises(ValueError, match="3 emotions for 2 pictures"):
        edit(editor, pictures(2), ["anger", "awe", "anger"])
    with pytest.raises(ValueError, match="2 descriptions for 3 pictures"):
        edit(editor, pictures(3), "anger", description=["man", "woman"])
    with pytest.raises(ValueError, match="2 source emotions for 3 pictures"):
        edit(editor, pictures(3), "anger", source_emotion=["awe", "anger"])
    with pytest.raises(InputError, match="31 x 31 picture does not fit|multiple of 32 px, not 31 x 31"):
        edit(editor, pictures(side=31), "anger")
