"""h-space: hooks and the asymmetric process by identities."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from tiny_pipelines import noise, tiny, unet

from emolib.diffusion.backbone import Embedding
from emolib.diffusion.sampling import Prediction, Trajectory, denoise
from emolib.interventions import hspace
from emolib.interventions.asyrp import Asymmetric, Curves, find_interval, measure_distances, relative_distance
from emolib.interventions.directions import Network, Table
from emolib.runtime import InputError

both = pytest.mark.parametrize("kind", ["sd", "sdxl"])
places = pytest.mark.parametrize("place", ["mid", "up0", "up1"])
guidances = pytest.mark.parametrize("guidance", [1.0, 3.0])
CHANNELS, SIDE = 16, 8  # of the tiny UNets' h for 16 x 16 latents
SHAPES = {"mid": (16, 8, 8), "up0": (16, 16, 16), "up1": (8, 16, 16)}


@torch.no_grad()
def predict(model, z, t=600, guidance=1.0):
    return model.predict(z, t, model.embed("a man"), model.null(), guidance)


def constant(delta_h):
    return lambda h, t: delta_h


def delta(scale=1.0, place="mid"):
    return constant(scale * noise(*SHAPES[place], seed=1))


# Hooks ------------------------------------------------------------------------------------------------------


@guidances
@both
def test_a_shift_of_zero_is_the_identity_bit_for_bit(kind, guidance):
    model, z = tiny(kind), noise(2, 4, 16, 16)
    plain = predict(model, z, guidance=guidance).eps
    with hspace.shifted(model.unet, constant(torch.zeros(CHANNELS, 1, 1))):
        assert torch.equal(predict(model, z, guidance=guidance).eps, plain)
    with hspace.shifted(model.unet, Network(CHANNELS)):  # untrained
        assert torch.equal(predict(model, z, guidance=guidance).eps, plain)


@places
@both
def test_what_is_shifted_is_what_was_recorded_plus_delta(kind, place):
    model, z, shift = tiny(kind), noise(2, 4, 16, 16), delta(place=place)
    with hspace.record(model.unet, place=place) as plain:
        predict(model, z)
    with hspace.shifted(model.unet, shift, place=place), hspace.record(model.unet, place=place) as moved:
        changed = predict(model, z, t=torch.tensor([600, 400])).eps
    assert plain[0].h.shape == (2, *SHAPES[place])
    assert hspace.channels(model.unet, place) == SHAPES[place][0]
    assert moved[0].t.tolist() == [600, 400]
    torch.testing.assert_close(moved[0].h[0], plain[0].h[0] + shift(None, None))
    assert (changed - predict(model, z, t=torch.tensor([600, 400])).eps).abs().max() > 1e-4


def test_shifts_nest_and_add_up_and_nothing_is_left_behind():
    model, z = tiny("sd"), noise(1, 4, 16, 16)
    with hspace.shifted(model.unet, delta(3.0)):
        expected = predict(model, z).eps
    with hspace.shifted(model.unet, delta(1.0)):
        once = predict(model, z).eps
        with hspace.shifted(model.unet, delta(2.0)):
            torch.testing.assert_close(predict(model, z).eps, expected, rtol=1e-4, atol=1e-5)
        with pytest.raises(RuntimeError, match="oops"), hspace.shifted(model.unet, delta()):
            raise RuntimeError("oops")
        assert torch.equal(predict(model, z).eps, once)
    for module in model.unet.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_networks_without_the_right_h_space():
    model, z = tiny("sd"), noise(1, 4, 16, 16)
    with pytest.raises(InputError, match=r"unknown place in the network 'up2'; did you mean 'up\d'"):
        hspace.channels(model.unet, "up2")
    wrong = hspace.shifted(model.unet, constant(torch.zeros(7, 1, 1)))
    with wrong, pytest.raises(InputError, match=r"shape \(7, 1, 1\) for an h-space of 16 channels"):
        predict(model, z)
    headless = unet(cross_attention_dim=16, mid_block_type=None)
    for context in (
        hspace.record(headless),
        hspace.shifted(headless, delta()),
        hspace.paired(headless, delta(), 1),
    ):
        with pytest.raises(InputError, match="unknown place in the network 'mid'"), context:
            pass


def test_a_middle_block_without_text_has_an_h_space_too():
    plain = unet(cross_attention_dim=16, mid_block_type="UNetMidBlock2D")
    z, text = noise(2, 4, 16, 16), noise(2, 5, 16)
    with torch.no_grad(), hspace.record(plain) as seen, hspace.shifted(plain, delta()):
        plain(sample=z, timestep=5, encoder_hidden_states=text)  # by keyword, the time as a number
    assert seen[0].t.tolist() == [5, 5]
    assert isinstance(plain, UNet2DConditionModel)


# The asymmetric process -------------------------------------------------------------------------------------


@places
@guidances
@both
def test_sharing_the_encoder_gives_what_two_evaluations_give(kind, guidance, place):
    model, z = tiny(kind), noise(3, 4, 16, 16)
    cond, uncond = Embedding.cat([model.embed("a man"), model.embed(["a cow", "a hen"])]), model.null()
    shift = lambda h, t: 0.2 * h.flip(2) + 0.001 * t[:, None, None, None]  # noqa: E731
    asymmetric = Asymmetric(model, cond, shift, 0, guidance, uncond, place)
    with torch.no_grad():
        plain, moved = asymmetric.both(z, 600)
        expected = model.predict(z, 600, cond, uncond, guidance)
        with hspace.shifted(model.unet, shift, place=place):
            changed = model.predict(z, 600, cond, uncond, guidance)
    for found, wanted in ((plain, expected), (moved, changed)):
        torch.testing.assert_close(found.eps, wanted.eps, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.x0, wanted.x0, rtol=1e-4, atol=1e-4)
    assert (moved.eps - plain.eps).abs().max() > 1e-3


def test_the_encoder_runs_once_and_the_decoder_twice():
    model, rows = tiny("sd"), []
    watched = (model.unet.down_blocks[0].resnets[0], model.unet.up_blocks[0].resnets[0])
    watch = [
        module.register_forward_pre_hook(lambda m, args: rows.append(len(args[0]))) for module in watched
    ]
    with torch.no_grad():
        Asymmetric(model, model.embed("a man"), delta(), 0)(noise(3, 4, 16, 16), 600)
    for hook in watch:
        hook.remove()
    assert rows == [3, 6]
    with hspace.paired(model.unet, delta(), 2), pytest.raises(RuntimeError):  # 3 do not hold 2 twice
        predict(model, noise(3, 4, 16, 16))


@both
def test_the_asymmetric_predictor_without_a_shift_is_plain_ddim(kind):
    model, z = tiny(kind), noise(2, 4, 16, 16)
    walk, cond = Trajectory(model.timesteps(5), start=z), model.embed("a man")
    with torch.no_grad():
        plain = denoise(model.guided(cond, 1.0), walk)
        zero = denoise(Asymmetric(model, cond, hspace.scaled(delta(), 0.0), 0), walk)
        never = denoise(Asymmetric(model, cond, delta(), 1001), walk)
        edited = denoise(Asymmetric(model, cond, delta(), 500), walk)
    torch.testing.assert_close(zero, plain, rtol=1e-4, atol=1e-4)
    assert torch.equal(never, plain)
    assert (edited - plain).abs().max() > 1e-2


def test_every_latent_may_have_its_own_time():
    model, z, t = tiny("sd"), noise(3, 4, 16, 16), torch.tensor([700, 400, 550])
    asymmetric = Asymmetric(model, model.embed("a man"), delta(), 500)
    with torch.no_grad():
        together = asymmetric(z, t)
        for i in range(3):
            alone = asymmetric(z[i, None], int(t[i]))
            torch.testing.assert_close(together.x0[i], alone.x0[0], rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(together.eps[i], alone.eps[0], rtol=1e-4, atol=1e-5)


def test_only_x0_is_moved():
    model, z = tiny("sd"), noise(1, 4, 16, 16)
    with torch.no_grad():
        found = Asymmetric(model, model.embed("a man"), delta(), 500)(z, 600)
    plain = predict(model, z)
    torch.testing.assert_close(found.eps, plain.eps, rtol=1e-4, atol=1e-5)
    assert (found.x0 - plain.x0).abs().max() > 1e-2


class Known:
    """Predicts x0 = level / 1000 everywhere, so that its distance from a source of 0 is known."""

    alphas_cumprod = torch.linspace(0.99, 0.01, 1000, dtype=torch.float64)

    def __call__(self, z, t, *, level=None, uncond=None):
        return Prediction(torch.full_like(z, t / 1000), torch.zeros_like(z))


def test_the_editing_interval_is_where_the_measured_curves_cross_the_thresholds():
    levels = [900, 700, 500, 300, 100, 0]
    latents = torch.stack([torch.full((1, 1, 2, 2), 2 * level / 1000) for level in levels])
    far = lambda a, b: float((a - b).abs().max())  # noqa: E731
    curves = measure_distances(Known(), Trajectory(levels, latents), distance=far)
    assert curves.timesteps == levels[:-1]
    assert curves.predicted == pytest.approx([0.9, 0.7, 0.5, 0.3, 0.1])
    assert curves.latents == pytest.approx([1.8, 1.4, 1.0, 0.6, 0.2])
    assert find_interval(curves, edit=0.33) == (500, 0)
    assert find_interval(curves, edit=0.33, boost=0.7) == (500, 300)
    assert find_interval(curves, edit=2.0) == (900, 0)
    assert find_interval(Curves([9, 5], [1, 1], [3, 2]), edit=0.5, boost=0.1) == (5, 0)
    halved = measure_distances(Known(), Trajectory(levels, latents), distance=far, decode=lambda z: z / 2)
    assert halved.predicted == pytest.approx([0.45, 0.35, 0.25, 0.15, 0.05])
    with pytest.raises(TypeError):
        measure_distances(Known(), Trajectory([1, 0], start=latents[0]))


def test_relative_distance():
    source = noise(2, 4, 8, 8)
    assert relative_distance(source, source) == 0
    assert relative_distance(source + 3 * source.std(), source) == pytest.approx(3)


def test_a_table_takes_the_nearest_time_and_fits_itself_to_the_grid():
    table = Table(torch.arange(3.0)[:, None, None, None].expand(3, 2, 4, 4), torch.tensor([100, 500, 900]))
    found = table(torch.zeros(4, 2, 4, 4), torch.tensor([0, 450, 701, 999]))
    assert found[:, 0, 0, 0].tolist() == [0, 1, 2, 2]
    assert table(torch.zeros(1, 2, 6, 3), torch.tensor([500])).shape == (1, 2, 6, 3)
