"""Shifts trained on pairs: which rows are pairs, that training leads from one to the other, and how far."""

from dataclasses import replace

import pytest
import torch
from tiny_pipelines import pictures, tiny

from emolib.diffusion.sampling import add_noise
from emolib.editors.asyrp import Asyrp
from emolib.interventions import directions_fit, hspace
from emolib.interventions.directions import Network
from emolib.runtime import InputError, generator
from emolib.training import directions

LABELS = ["neutral", "neutral", "anger", "anger", "awe", "awe"]
GROUPS = ["ann", "bob", "ann", "bob", "bob", "eve"]


def latents(n, seed=0):
    return torch.randn((n, 4, 16, 16), generator=torch.Generator().manual_seed(seed))


def test_pairs_show_one_person_and_start_from_the_source_or_from_anything():
    assert directions_fit.pairs(LABELS, GROUPS, "anger", "neutral") == [(0, 2), (1, 3)]
    assert directions_fit.pairs(LABELS, GROUPS, "anger", None) == [(0, 2), (1, 3), (4, 3)]
    with pytest.raises(InputError, match="'awe': 1 pairs, at least two"):
        directions_fit.pairs(LABELS, GROUPS, "awe", "neutral")


def test_training_leads_from_the_one_picture_to_the_other():
    torch.manual_seed(0)
    model, z = tiny("sd"), latents(4)
    z[2:] = z[:2] + 2.0  # the "emotion"
    network = Network(hspace.channels(model.unet, "up1"))
    losses = directions.train_network(
        model, network, z, [(0, 2), (1, 3)], generator=generator(0), place="up1", steps=100, lr=5e-2
    )
    assert len(losses) == 100
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])
    assert all(parameter.grad is None for parameter in model.unet.parameters())
    assert not any(parameter.requires_grad for parameter in network.parameters())
    noisy = add_noise(z[:2], latents(2, seed=1), model.alphas_cumprod[500].item())

    @torch.no_grad()
    def missed():
        return (model.predict(noisy, 500, model.embed("")).x0 - z[2:]).square().mean()

    plain = missed()
    with hspace.shifted(model.unet, network, place="up1"):
        assert missed() < 0.9 * plain


def test_a_bank_of_them_is_taken_once_and_sees_for_itself_what_a_picture_shows():
    bank = directions.fit_pairs(tiny("sd"), latents(6), LABELS, GROUPS, generator=generator(0), steps=2)
    assert bank.emotions == ("anger", "awe", "neutral")
    assert [bank.notes[name]["pairs"] for name in bank.emotions] == [3, 2, 3]
    assert (bank.t_edit, bank.t_start, bank.times(10), bank.times(60)) == (0, 500, 1.0, 1.0)
    h, t = torch.randn(2, 16, 8, 8), torch.tensor([500, 500])
    assert torch.equal(bank.shift("anger", away="awe")(h, t), bank.shift("anger")(h, t))
    only = directions.fit_pairs(
        tiny("sd"), latents(6), LABELS[:4], GROUPS[:4], generator=generator(0), source="neutral", steps=2
    )
    assert (tuple(only.shifts), only.emotions) == (("anger",), ("neutral", "anger"))


def test_the_same_generator_gives_the_same_networks():
    def fitted(seed):
        torch.seed()  # whatever torch's own random numbers are
        return directions.fit_pairs(
            tiny("sd"), latents(6), LABELS, GROUPS, generator=generator(seed), steps=2
        )

    h, t = torch.ones(1, 16, 8, 8), torch.tensor([500])
    one, same, other = (fitted(seed).shift("anger")(h, t) for seed in (3, 3, 4))
    assert torch.equal(one, same) and not torch.allclose(one, other)


def test_the_editor_walks_no_further_than_the_bank_says():
    model = tiny("sd")
    bank = directions.fit_pairs(model, latents(6), LABELS, GROUPS, generator=generator(0), steps=2)
    editor, seen = Asyrp(model, bank, num_inference_steps=10), []
    hook = model.unet.register_forward_pre_hook(
        lambda unet, given, named: seen.append(float(torch.as_tensor(given[1]).max())), with_kwargs=True
    )
    made = editor(pictures(1), ["anger", "awe"], generator=generator(0), source_emotion="neutral")
    hook.remove()
    assert made.shape == (2, 3, 32, 32)
    assert max(seen) <= 500
    with pytest.raises(InputError, match="none begins at timestep 0 or below"):
        Asyrp(model, replace(bank, t_start=0), num_inference_steps=2)
