"""Inversion and editing on MiniSD, where its weights are: what comes back, and what an edit changes."""

import pytest
import torch

from emolib import images
from emolib.data import emofaces
from emolib.diffusion import backbone
from emolib.editors.compose import change_of
from emolib.editors.inversion import (
    DDIMInversion,
    DirectInversion,
    EditFriendlyInversion,
    ExactInversion,
    NegativePromptInversion,
    NullTextInversion,
)
from emolib.editors.prompt_to_prompt import PromptToPrompt
from emolib.judges import emotion as judges
from emolib.runtime import generator, repo_path

pytestmark = pytest.mark.skipif(
    not repo_path("data", "minisd", "model_index.json").is_file(), reason="MiniSD's weights are not here"
)
STEPS = {"strength": 1.0, "guidance_scale": 5.0, "num_inference_steps": 6}


@pytest.fixture(scope="module")
def model():
    return backbone.load_backbone("minisd", device="cpu")


@pytest.fixture(scope="module")
def source(model):
    people = emofaces.portraits("val")
    return images.resize(images.to_tensor(people.image(people.identities[3], "neutral")), model.size)


@pytest.fixture(scope="module")
def ceiling(model, source):
    with torch.no_grad():
        return model.decode(model.encode(source))


def psnr(a, b):
    return -10 * ((a - b) / 2).square().mean().log10().item()


def unasked(editor, source):
    """What an edit makes of a neutral person who is asked to be neutral."""
    return editor(source, "neutral", generator=generator(0), source_emotion="neutral")


@pytest.mark.parametrize("method", [EditFriendlyInversion, DirectInversion, ExactInversion, PromptToPrompt])
def test_exact_methods_come_back_to_what_the_autoencoder_has(model, source, ceiling, method):
    result = unasked(method(model, **STEPS), source)
    assert psnr(result, ceiling) > 60
    assert psnr(result, source) > psnr(ceiling, source) - 0.5
    assert psnr(source + change_of(source, ceiling, result), source) > 60


def test_guided_ddim_loses_what_negative_prompt_and_null_text_inversion_keep(model, source, ceiling):
    lost = psnr(unasked(DDIMInversion(model, **STEPS), source), ceiling)
    assert psnr(unasked(NegativePromptInversion(model, **STEPS), source), ceiling) > lost + 1
    null_text = NullTextInversion(model, **STEPS, inner_steps=5)
    assert psnr(unasked(null_text, source), ceiling) > lost + 1


@pytest.mark.parametrize("method", [EditFriendlyInversion, ExactInversion])
def test_emotions_arrive_and_the_person_stays(model, source, method):
    guide = judges.load_judge("guide", device="cpu")
    wanted = ["amusement", "anger", "sadness"]
    edited = method(model, 0.8, 3.0, 8)(source, wanted, generator=generator(0), source_emotion="neutral")
    columns = [guide.labels.index(emotion) for emotion in wanted]
    before = guide(source).probs[0, columns].mean()
    after = guide(edited).probs[range(3), columns].mean()
    assert after > before + 0.2
    assert psnr(edited, source.expand(3, -1, -1, -1)) > 15
