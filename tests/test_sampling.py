"""The step and the loop against closed forms (Gaussian data, float64) and diffusers' DDIMScheduler."""

import math

import pytest
import torch
from closed_form import Gaussian, latents
from diffusers import DDIMScheduler, DDPMScheduler

from emolib.diffusion import sampling
from emolib.diffusion.sampling import Prediction, Trajectory, add_noise, ddim_step, denoise, timestep_grid


@pytest.mark.parametrize("spacing", sampling.SPACINGS)
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 10, 27, 30, 50, 243, 999])
@pytest.mark.parametrize("offset", [0, 1])
def test_grid_equals_diffusers(spacing, steps, offset):
    peer = DDIMScheduler(timestep_spacing=spacing, steps_offset=offset)
    peer.set_timesteps(steps)
    grid = timestep_grid(steps, spacing=spacing, steps_offset=offset)
    assert grid == [*peer.timesteps.tolist(), 0]


@pytest.mark.parametrize("bad", [0, -1, 1001])
def test_grid_refuses_impossible_step_counts(bad):
    with pytest.raises(ValueError, match="1 to 1000"):
        timestep_grid(bad)


def test_grid_refuses_unknown_spacing_and_overflowing_offset():
    with pytest.raises(ValueError, match="leading, trailing, linspace"):
        timestep_grid(10, spacing="karras")
    with pytest.raises(ValueError, match="steps_offset"):
        timestep_grid(1000, steps_offset=1)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_steps_equal_diffusers(prediction_type, eta):
    peer = DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
    )
    peer.set_timesteps(10)
    grid, abar = timestep_grid(10, steps_offset=1), peer.alphas_cumprod.tolist()
    z, noise = latents(2, 4, 3, 3).float(), latents(2, 4, 3, 3, seed=1).float()
    for i, (level, target) in enumerate(zip(grid, grid[1:], strict=False)):
        output = latents(2, 4, 3, 3, seed=10 + i).float()
        theirs = peer.step(output, level, z, eta=eta, variance_noise=noise)
        mine = sampling.to_prediction(output, z, abar[level], prediction_type)
        torch.testing.assert_close(mine.x0, theirs.pred_original_sample, rtol=1e-5, atol=1e-5)
        stepped = ddim_step(mine, abar[level], abar[target], eta=eta, noise=noise)
        torch.testing.assert_close(stepped, theirs.prev_sample, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_prediction_recovers_what_made_the_latents(prediction_type):
    x0, eps, abar = latents(2, 4, 3, 3), latents(2, 4, 3, 3, seed=1), torch.tensor([0.9, 0.2]).double()
    abar = abar.view(2, 1, 1, 1)
    z = add_noise(x0, eps, abar)
    v = abar**0.5 * eps - (1 - abar) ** 0.5 * x0
    output = {"epsilon": eps, "v_prediction": v, "sample": x0}[prediction_type]
    prediction = sampling.to_prediction(output, z, abar, prediction_type)
    torch.testing.assert_close(prediction.x0, x0)
    torch.testing.assert_close(prediction.eps, eps)


def test_unknown_prediction_type():
    with pytest.raises(ValueError, match="epsilon, v_prediction or sample, not 'score'"):
        sampling.to_prediction(latents(1), latents(1), 0.5, "score")


def test_forward_noising_has_the_stated_moments_and_agrees_with_diffusers():
    x0, noise = torch.full((50_000,), 2.0, dtype=torch.float64), latents(50_000)
    z = add_noise(x0, noise, 0.25)
    assert z.mean().item() == pytest.approx(1.0, abs=0.02)
    assert z.var().item() == pytest.approx(0.75, abs=0.02)
    peer = DDPMScheduler()
    theirs = peer.add_noise(x0.float(), noise.float(), torch.tensor([400]))
    mine = add_noise(x0.float(), noise.float(), peer.alphas_cumprod[400].item())
    torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6)


def test_eta_one_is_the_ddpm_posterior():
    # Ho et al. 2020, eq. 7, for one step of the schedule with beta = 1 - a/b.
    a, b = 0.3, 0.5
    x0, eps, noise = latents(5), latents(5, seed=1), latents(5, seed=2)
    z, alpha = add_noise(x0, eps, a), a / b
    mean = math.sqrt(b) * (1 - alpha) / (1 - a) * x0 + math.sqrt(alpha) * (1 - b) / (1 - a) * z
    variance = (1 - b) / (1 - a) * (1 - alpha)
    step = ddim_step(Prediction(x0, eps), a, b, eta=1.0, noise=noise)
    torch.testing.assert_close(step, mean + math.sqrt(variance) * noise)


def test_step_takes_a_level_per_sample():
    x0, eps, noise = latents(2, 3), latents(2, 3, seed=1), latents(2, 3, seed=2)
    a, b = torch.tensor([[0.3], [0.2]]).double(), torch.tensor([[0.5], [0.2]]).double()
    for eta in (0.0, 1.0):
        together = ddim_step(Prediction(x0, eps), a, b, eta=eta, noise=noise)
        for i in range(2):
            alone = ddim_step(Prediction(x0[i], eps[i]), a[i].item(), b[i].item(), eta=eta, noise=noise[i])
            torch.testing.assert_close(together[i], alone)


def test_stochastic_step_without_noise_is_refused():
    with pytest.raises(ValueError, match="adds noise"):
        ddim_step(Prediction(latents(1), latents(1)), 0.3, 0.5, eta=1.0)


def test_ddim_converges_with_order_one():
    model, z = Gaussian(mean=0.7, std=0.5), latents(64)
    truth = model.exact(z, 4095, 0)
    errors = []
    for steps in (32, 64, 128, 256):
        grid = timestep_grid(steps, num_train_timesteps=4096, spacing="trailing")
        errors.append((denoise(model, Trajectory(grid, start=z)) - truth).abs().max().item())
    orders = [math.log2(e / f) for e, f in zip(errors, errors[1:], strict=False)]
    assert all(0.9 < order < 1.1 for order in orders), (errors, orders)


@pytest.mark.parametrize("steps", [1, 3, 20])
def test_a_point_mass_is_reached_exactly_in_any_number_of_steps(steps):
    model, z = Gaussian(mean=0.7, std=0.0), latents(64)
    grid = timestep_grid(steps, num_train_timesteps=4096, spacing="trailing")
    end = denoise(model, Trajectory(grid, start=z))
    torch.testing.assert_close(end, model.exact(z, 4095, 0), rtol=0, atol=1e-12)


def test_walking_up_then_down_returns():
    # Point mass: the flow is linear along each step, so inversion is exact. Otherwise it is first order.
    z0 = latents(64)
    errors = []
    for std, steps in ((0.0, 10), (0.5, 64), (0.5, 128)):
        model = Gaussian(mean=0.7, std=std)
        grid = timestep_grid(steps, num_train_timesteps=4096, spacing="trailing")
        noisy = denoise(model, Trajectory(grid[::-1], start=z0))
        errors.append((denoise(model, Trajectory(grid, start=noisy)) - z0).abs().max().item())
    assert errors[0] < 1e-12
    assert 1.7 < errors[1] / errors[2] < 2.3


def test_the_network_is_asked_at_the_same_timesteps_up_and_down():
    model, grid = Gaussian(0.0, 1.0), timestep_grid(5, num_train_timesteps=4096, steps_offset=1)
    denoise(model, Trajectory(grid, start=latents(1)))
    down, model.asked = model.asked, []
    denoise(model, Trajectory(grid[::-1], start=latents(1)))
    assert down == grid[:-1]
    assert model.asked == down[::-1]


def test_ddpm_sampling_has_the_data_distribution():
    model, steps, n = Gaussian(mean=1.0, std=0.5, levels=256), 256, 4000
    grid = timestep_grid(steps, num_train_timesteps=256)
    noise = latents(steps, n, seed=3)
    end = denoise(model, Trajectory(grid, start=latents(n, seed=4), noise=noise, eta=1.0))
    assert end.mean().item() == pytest.approx(1.0, abs=0.05)
    assert end.std().item() == pytest.approx(0.5, abs=0.05)


def test_callback_sees_every_step_and_may_replace_the_latents():
    model, grid, seen = Gaussian(0.0, 1.0), [300, 200, 100, 0], []

    def pin(i, z, prediction):
        seen.append((i, z))
        return torch.zeros_like(z) if i == 1 else None

    end = denoise(model, Trajectory(grid, start=latents(3)), callback=pin)
    assert [i for i, _ in seen] == [0, 1, 2]
    assert torch.equal(seen[2][1], end)
    assert torch.equal(end, torch.zeros(3, dtype=torch.float64))  # mean 0: zero stays zero


def test_recorded_latents_and_skip_start_in_the_middle():
    model, grid, record = Gaussian(0.7, 0.5), [300, 200, 100, 0], [latents(3)]
    denoise(model, Trajectory(grid, start=record[0]), callback=lambda i, z, p: record.append(z))
    walk = Trajectory(grid, torch.stack(record), uncond=["a", "b", "c"], noise=torch.zeros(3, 3))
    assert torch.equal(denoise(model, walk), record[-1])
    rest = walk.skip(2)
    assert rest.timesteps == [100, 0]
    assert list(rest.uncond) == ["c"]
    assert torch.equal(denoise(model, rest), record[-1])
    assert walk.skip(0) is walk


def test_unconditional_embeddings_reach_their_step():
    heard = []

    class Listener(Gaussian):
        def __call__(self, z, t, *, level=None, uncond=None):
            heard.append(uncond)
            return super().__call__(z, t, level=level)

    denoise(Listener(0.0, 1.0), Trajectory([200, 100, 0], start=latents(2), uncond=["first", "second"]))
    assert heard == ["first", "second"]


def test_inconsistent_trajectories_are_refused():
    with pytest.raises(ValueError, match="start or latents"):
        Trajectory([1, 0])
    with pytest.raises(ValueError, match="latents has 3 entries"):
        Trajectory([1, 0], latents(3, 1))
    with pytest.raises(ValueError, match="noise has 2 entries"):
        Trajectory([1, 0], start=latents(1), noise=latents(2, 1))
    with pytest.raises(ValueError, match="cannot skip"):
        Trajectory([2, 1, 0], start=latents(1)).skip(1)
    with pytest.raises(ValueError, match="cannot skip"):
        Trajectory([1, 0], latents(2, 1)).skip(2)
