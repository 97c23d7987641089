"""The trained shifts: their losses by hand, which rows are pairs, that training leads where it should."""

from dataclasses import replace

import pytest
import tiny_clip
import torch
from tiny_pipelines import noise, pictures, tiny

from emolib.diffusion.clip import load_clip
from emolib.diffusion.sampling import Trajectory, add_noise, ddim_step
from emolib.editors.asyrp import Asyrp
from emolib.interventions import directions_fit, hspace
from emolib.interventions.asyrp import Asymmetric
from emolib.interventions.directions import Network, Table
from emolib.runtime import InputError, generator
from emolib.training import directions

CHANNELS = 16


def brightness(images):
    """A CLIP whose space is plain: the three channels' means."""
    return images.mean((2, 3))


@pytest.mark.parametrize(
    "make", [lambda: Network(CHANNELS), lambda: Table(torch.zeros(1, 16, 8, 8), torch.zeros(1))]
)
def test_training_lowers_the_loss_on_a_fixed_batch(make):
    torch.manual_seed(0)
    model, shift = tiny("sd"), make()
    loss = directions.DirectionalLoss(brightness, torch.tensor([1.0, 0.0, -1.0]), l1_weight=0.1)
    predictor = Asymmetric(model, model.embed(""), shift, t_edit=500)
    walk = Trajectory([900, 700, 500, 300], start=noise(2, 4, 16, 16))
    losses = directions.train_shift(predictor, walk, loss, generator=generator(0), epochs=8, batch=2, lr=1e-2)
    assert len(losses) == 8 * 3  # one step a level of the editing interval
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
    assert not any(parameter.requires_grad for parameter in shift.parameters())
    assert all(parameter.grad is None for parameter in model.unet.parameters())


def test_the_loss_compares_with_the_sources_own_walk():
    # However far the edit has gone: the source is what the plain walk predicts.
    model, start, sources = tiny("sd"), noise(1, 4, 16, 16), []

    def loss(edited, source):
        sources.append(source)
        return (edited - 1).square().mean()

    torch.manual_seed(0)
    levels, cond = [900, 700, 500, 300], model.embed("")
    predictor = Asymmetric(model, cond, Network(CHANNELS), 0)
    directions.train_shift(
        predictor, Trajectory(levels, start=start), loss, generator=generator(0), epochs=2, lr=1.0
    )
    z, expected = start, []
    for t, s in zip(levels, levels[1:], strict=False):
        with torch.no_grad():
            found = model.predict(z, t, cond)
            expected.append(model.decode(found.x0))
        z = ddim_step(found, model.alphas_cumprod[t].item(), model.alphas_cumprod[s].item())
    torch.testing.assert_close(torch.cat(sources), torch.cat(expected * 2), atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        plain, moved = predictor.both(start, 900)
    assert (moved.x0 - plain.x0).abs().mean() > 0.01  # it did go somewhere


def test_the_directional_loss_by_hand():
    loss = directions.DirectionalLoss(
        brightness, torch.tensor([1.0, 0.0, 0.0]), clip_weight=2.0, l1_weight=3.0
    )
    source = torch.zeros(1, 3, 4, 4)
    right, wrong = source.clone(), source.clone()
    right[:, 0] = 0.5
    wrong[:, 1] = 0.5
    assert float(loss(right, source)) == pytest.approx(2 * 0 + 3 * 0.5 / 3)
    assert float(loss(wrong, source)) == pytest.approx(2 * 1 + 3 * 0.5 / 3)
    assert float(loss(-right, source)) == pytest.approx(2 * 2 + 3 * 0.5 / 3)


def test_what_cannot_be_trained():
    model, walk = tiny("sd"), Trajectory([300, 0], start=noise(1, 4, 16, 16))
    loss = directions.DirectionalLoss(brightness, torch.ones(3))
    with pytest.raises(ValueError):  # no level of the walk lies in the editing interval
        directions.train_shift(
            Asymmetric(model, model.embed(""), Network(CHANNELS), 500), walk, loss, generator=generator(0)
        )


def test_clip_sees_what_its_own_processor_shows_it_and_differentiates(tmp_path):
    model, words, processor = tiny_clip.parts()
    model.save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    ours, source = load_clip(tmp_path), pictures(2, side=16).requires_grad_()
    pixels = source.detach()  # mean and std of a half: CLIP's pixels are ours
    with torch.no_grad():
        expected = model.get_image_features(pixel_values=pixels).pooler_output
        spoken = model.get_text_features(**words(["a man"], return_tensors="pt")).pooler_output
    found = ours.images(source)
    torch.testing.assert_close(found, torch.nn.functional.normalize(expected, dim=-1))
    torch.testing.assert_close(
        ours.texts(["a man", "a sad man"])[:1], torch.nn.functional.normalize(spoken, dim=-1)
    )
    found.sum().backward()
    assert source.grad.abs().sum() > 0
    assert ours.images(pictures(1, side=32)).shape == (1, 8)
    with pytest.raises(InputError, match="no CLIP there"):
        load_clip(tmp_path / "nowhere")
    with pytest.raises(InputError, match="mean the same"):
        directions.directional_loss(ours, "a man", "a man")


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
