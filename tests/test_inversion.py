"""Inversions on closed-form denoisers in float64: what is exact, and of which order is what is not."""

import math

import pytest
import torch
from closed_form import Gaussian, latents

from emolib.diffusion import inversion
from emolib.diffusion.backbone import Embedding
from emolib.diffusion.sampling import Trajectory, denoise, timestep_grid

LEVELS = timestep_grid(20, num_train_timesteps=4096, steps_offset=1)


def model(guidance_scale=1.0, **options):
    return Gaussian(0.7, 0.5, guidance_scale=guidance_scale, **options)


def walk_error(predictor, trajectory, z0, **options):
    return (denoise(predictor, trajectory, **options) - z0).abs().max().item()


def orders(errors):
    return [math.log2(e / f) for e, f in zip(errors, errors[1:], strict=False)]


def fine_grid(steps):
    return timestep_grid(steps, num_train_timesteps=4096, spacing="trailing")


def test_ddim_inversion_follows_the_flow_with_order_one():
    z0, errors = latents(4, 16), []
    for steps in (64, 128, 256):
        walk = inversion.ddim(model(), z0, fine_grid(steps))
        errors.append((walk.latents[0] - model().exact(z0, 0, 4095)).abs().max().item())
        assert torch.equal(walk.latents[-1], z0)
    assert all(0.9 < order < 1.1 for order in orders(errors)), errors


def test_guided_ddim_does_not_come_back():
    z0 = latents(4, 16)
    walk = inversion.ddim(model(), z0, fine_grid(200))
    assert walk_error(model(), walk, z0) < 0.2
    assert walk_error(model(5.0), walk, z0) > 2


@pytest.mark.parametrize("guidance_scale", [-3.0, 0.0, 1.0, 5.0, 100.0])
def test_negative_prompt_at_any_guidance_is_ddim_without(guidance_scale):
    z0 = latents(4, 16)
    source = Embedding(torch.full((1, 1, 16), 0.7, dtype=torch.float64))
    walk = inversion.negative_prompt(model(), z0, LEVELS, source)
    plain = denoise(model(), inversion.ddim(model(), z0, LEVELS))
    torch.testing.assert_close(denoise(model(guidance_scale), walk), plain, rtol=0, atol=1e-10)


class Unconditional(Gaussian):
    """What a network says of the empty prompt alone."""

    def __call__(self, z, t, *, level=None, uncond=None):
        self.mean = uncond.hidden[:, 0]
        return super().__call__(z, t, level=level)


def null_text(z0, levels=LEVELS, **options):
    source, unconditional = model(), Unconditional(0.0, 0.5)
    empty = Embedding(torch.zeros(1, 1, 16, dtype=torch.float64))
    with torch.no_grad():
        walk = inversion.null_text(source, unconditional, z0, levels, empty, 5.0, **options)
    return walk, len(source.asked), len(unconditional.asked)


def test_null_text_comes_back_where_guided_ddim_does_not():
    z0 = latents(4, 16)
    walk, _, _ = null_text(z0, learning_rate=0.1, early_stop=1e-9, inner_steps=20)
    lost = walk_error(model(5.0), inversion.ddim(model(), z0, LEVELS), z0)
    left = walk_error(model(5.0), walk, z0)
    assert left < 0.1 < 3 < lost
    # Guidance away from the prompt's own mean is none: that is what there is to learn.
    assert all(abs(uncond.hidden.mean() - 0.7) < 0.2 for uncond in walk.uncond[2:12])
    rest = denoise(model(5.0), walk.skip(7))
    torch.testing.assert_close(rest, walk.latents[-1], rtol=0, atol=1e-10)


def test_null_text_stops_early_picture_by_picture():
    z0 = latents(3, 16)
    z0[1] *= 4  # harder than the others
    options = {"learning_rate": 0.1, "early_stop": 1e-4}
    walk, conditioned, unconditional = null_text(z0, **options)
    n = len(LEVELS) - 1
    assert conditioned == 2 * n
    assert n <= unconditional < 11 * n  # it may ask inner_steps + 1 times, and stopped somewhere
    for i in range(3):
        alone, _, _ = null_text(z0[i : i + 1], **options)
        torch.testing.assert_close(walk.latents[:, i : i + 1], alone.latents, rtol=0, atol=1e-10)
    _, _, lazy = null_text(z0, early_stop=1e9)
    assert lazy == 2 * n  # look, be content, step


def test_null_text_leaves_the_start_alone():
    empty = Embedding(torch.zeros(1, 1, 16, dtype=torch.float64))
    walk = inversion.null_text(model(), Unconditional(0.0, 0.5), latents(2, 16), LEVELS, empty, 5.0)
    assert torch.equal(empty.hidden, torch.zeros(1, 1, 16, dtype=torch.float64))
    assert not any(uncond.hidden.requires_grad for uncond in walk.uncond)


@pytest.mark.parametrize("guidance_scale", [1.0, 5.0])
def test_edit_friendly_noise_leads_back_exactly(guidance_scale):
    z0, noise = latents(4, 16), latents(20, 4, 16, seed=1)
    walk = inversion.edit_friendly(model(guidance_scale), z0, LEVELS, noise)
    assert walk_error(model(guidance_scale), walk, z0) < 1e-10
    assert walk_error(model(guidance_scale), walk.skip(12), z0) < 1e-10
    assert walk_error(model(2.0), walk, z0) > 0.1  # another predictor: an edit


def test_edit_friendly_noise_needs_a_clean_level_that_has_noise():
    predictor, z0, noise = model(), latents(4, 16), latents(20, 4, 16, seed=1)
    predictor.alphas_cumprod[0] = 1.0
    walk = inversion.edit_friendly(predictor, z0, LEVELS, noise)
    assert not torch.isfinite(walk.noise[-1]).any()
    assert torch.isfinite(walk.noise[:-1]).all()


def test_edit_friendly_calls_are_batched_over_time_and_that_changes_nothing():
    z0, noise = latents(2, 16), latents(20, 2, 16, seed=1)
    one, many = model(), model()
    single = inversion.edit_friendly(one, z0, LEVELS, noise, batch_size=1)
    batched = inversion.edit_friendly(many, z0, LEVELS, noise, batch_size=16)
    assert len(one.asked) == 20
    assert [len(t) for t in many.asked] == [16, 16, 8]  # eight times of two pictures, twice; then four
    assert many.asked[0].tolist() == [level for level in LEVELS[:8] for _ in range(2)]
    torch.testing.assert_close(single.noise, batched.noise, rtol=0, atol=1e-12)
    assert torch.equal(single.latents, batched.latents)


def test_edit_friendly_noise_is_larger_than_drawn_and_neighbours_oppose_each_other():
    # Huberman-Spiegelglas et al., figure 3: independent latents make anticorrelated, larger noise.
    walk = inversion.edit_friendly(model(), latents(50, 16), LEVELS, latents(20, 50, 16, seed=1))
    before, after = walk.noise[4:-5].flatten(), walk.noise[5:-4].flatten()
    assert before.var() > 1.2
    assert torch.corrcoef(torch.stack([before, after]))[0, 1] < -0.2


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_direct_inversion_pins_the_source_exactly(share):
    z0 = latents(2, 16)
    walk, passed = inversion.ddim(model(), z0, LEVELS), []
    pin = inversion.direct(walk, follow=share)

    def watch(i, z, prediction):
        z = pin(i, z, prediction)
        passed.append(z[:2])
        return z

    start = torch.cat([walk.latents[0], walk.latents[0]])
    end = denoise(model(5.0), Trajectory(LEVELS, start=start), callback=watch)
    assert torch.equal(torch.stack(passed), walk.latents[1:])
    assert torch.equal(end[:2], z0)
    edit_error = (end[2:] - z0).abs().max()
    if share == 1:
        assert edit_error < 1e-10  # the same prompt: nothing was asked, nothing changes
    else:
        assert edit_error > 0.5
    if share == 0:
        assert torch.equal(end[2:], denoise(model(5.0), Trajectory(LEVELS, start=walk.latents[0])))


def test_direct_inversion_needs_latents():
    with pytest.raises(ValueError, match="has none"):
        inversion.direct(Trajectory([1, 0], start=latents(1)))


@pytest.mark.parametrize("guidance_scale", [1.0, 5.0])
def test_exact_inversion_comes_back_and_moves_under_another_predictor(guidance_scale):
    z0, predictor = latents(4, 16), model(guidance_scale)
    walk = inversion.exact(predictor, z0, LEVELS)
    assert len(predictor.asked) == 20
    assert walk_error(predictor, walk, z0, callback=inversion.two_step(predictor, walk)) < 1e-10
    half = walk.skip(12)
    assert walk_error(predictor, half, z0, callback=inversion.two_step(predictor, half)) < 1e-10
    last = walk.skip(19)
    other = Gaussian(-0.7, 0.5)
    for part in (walk, half, last):  # even a single step is an edit
        assert walk_error(other, part, z0, callback=inversion.two_step(predictor, part)) > 1e-6


def test_exact_inversion_follows_the_flow_with_order_two():
    z0, errors = latents(4, 16), []
    for steps in (128, 256, 512):
        walk = inversion.exact(model(), z0, fine_grid(steps))
        errors.append((walk.latents[0] - model().exact(z0, 0, 4095)).abs().max().item())
    assert all(order > 1.7 for order in orders(errors)), errors


def test_the_two_step_rule_is_right_for_parabolas_and_is_its_own_inverse():
    abars = (0.2, 0.5, 0.9)
    s = [math.sqrt(1 / abar - 1) for abar in abars]
    flow = lambda s: 0.3 - 1.1 * s + 0.7 * s**2  # noqa: E731
    before, here, after = (
        abar**0.5 * torch.tensor(flow(x)).double() for abar, x in zip(abars, s, strict=True)
    )
    slope = torch.tensor(-1.1 + 1.4 * s[1]).double()
    torch.testing.assert_close(inversion.belm_step(before, here, slope, *abars), after)
    z, eps = latents(3, 5), latents(5, seed=1)
    after = inversion.belm_step(z[0], z[1], eps, *abars)
    torch.testing.assert_close(inversion.belm_step(after, z[1], eps, *abars[::-1]), z[0])


@pytest.mark.parametrize("invert", [inversion.ddim, inversion.exact])
@pytest.mark.parametrize("levels", [[3], [2, 1, 1], [0, 3]])
def test_steps_that_go_nowhere_are_refused(invert, levels):
    with pytest.raises(ValueError, match="strictly descending"):
        invert(model(), latents(1, 16), levels)


def test_gradient_memory_counts_what_autograd_keeps():
    x = torch.zeros(1000, requires_grad=True)
    weight = torch.nn.Parameter(torch.ones(1000), requires_grad=False)
    assert inversion.gradient_memory(lambda: x.exp()) == 4000  # its own result
    assert inversion.gradient_memory(lambda: x * weight) == 0  # only the weight
    with torch.no_grad():
        assert inversion.gradient_memory(lambda: x.exp().sin()) == 4000  # sin keeps what exp kept
