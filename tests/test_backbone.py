"""Loading and running Stable Diffusions: tiny random ones of the real classes, against diffusers itself."""

import json
import shutil

import pytest
import tiny_pipelines
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from safetensors.torch import load_file
from tiny_pipelines import folder, pictures, tiny

from emolib import images
from emolib.diffusion import backbone, hub
from emolib.diffusion.backbone import Backbone, Embedding
from emolib.runtime import InputError

PROMPTS = ["photo of an angry person", "photo of a sad woman"]
both = pytest.mark.parametrize("kind", ["sd", "sdxl"])
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


@both
def test_a_loaded_folder_states_what_it_is(kind):
    model = tiny(kind)
    assert (repr(model), model.name) == (kind, kind)
    assert (model.size, model.stride, model.prediction_type) == (tiny_pipelines.SIDE, 2, "epsilon")
    assert model.dtype == torch.float32
    assert model.timesteps(5) == [801, 601, 401, 201, 1, 0]
    assert not any(parameter.requires_grad for parameter in model.unet.parameters())


@both
def test_latents_are_the_posterior_mean_in_the_models_own_scale(kind):
    model, source = tiny(kind), pictures(2)
    posterior = model.vae.encode(source).latent_dist
    torch.testing.assert_close(model.encode(source), posterior.mean * tiny_pipelines.SCALING)
    drawn = model.encode(source, generator=torch.Generator().manual_seed(5))
    noise = torch.randn(posterior.mean.shape, generator=torch.Generator().manual_seed(5))
    expected = (posterior.mean + posterior.std * noise) * tiny_pipelines.SCALING
    torch.testing.assert_close(drawn, expected)
    decoded = model.decode(model.encode(source))
    expected = model.vae.decode(posterior.mean).sample.clamp(-1, 1)
    torch.testing.assert_close(decoded, expected, rtol=1e-4, atol=1e-5)


def test_a_shift_factor_is_honoured():
    pipe = tiny_pipelines.sd_pipeline()
    plain = Backbone(pipe, "plain")
    shifted_vae = AutoencoderKL.from_config(pipe.vae.config, shift_factor=0.3)
    shifted_vae.load_state_dict(pipe.vae.state_dict())
    shifted = Backbone(pipe.__class__(**{**pipe.components, "vae": shifted_vae}), "shifted")
    source = pictures()
    z = plain.encode(source)
    torch.testing.assert_close(shifted.encode(source), z - 0.3 * tiny_pipelines.SCALING)
    torch.testing.assert_close(shifted.decode(shifted.encode(source)), plain.decode(z), atol=1e-5, rtol=1e-4)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="31 x 32 picture does not fit.*multiple of 2"):
        tiny("sd").encode(torch.zeros(1, 3, 32, 31))


def test_an_overflowing_decoder_says_so():
    with pytest.raises(FloatingPointError, match="use float32"):
        tiny("sd").decode(torch.full((1, 4, 16, 16), float("nan")))


def test_prompts_are_embedded_as_the_pipeline_does():
    sd, sdxl = tiny("sd"), tiny("sdxl")
    theirs, null = sd.pipe.encode_prompt(PROMPTS, "cpu", 1, True)
    torch.testing.assert_close(sd.embed(PROMPTS).hidden, theirs)
    torch.testing.assert_close(sd.null().expand(2).hidden, null)
    assert sd.embed(PROMPTS).pooled is None
    theirs, null, pooled, null_pooled = sdxl.pipe.encode_prompt(PROMPTS, device="cpu")
    mine = sdxl.embed(PROMPTS)
    torch.testing.assert_close(mine.hidden, theirs)
    torch.testing.assert_close(mine.pooled, pooled)
    torch.testing.assert_close(sdxl.null().expand(2).hidden, null)
    torch.testing.assert_close(sdxl.null().expand(2).pooled, null_pooled)
    assert sdxl.null().hidden.count_nonzero() == 0  # force_zeros_for_empty_prompt
    assert len(sdxl.embed("one prompt")) == 1


@both
def test_embeddings_expand_and_join(kind):
    model = tiny(kind)
    together, apart = model.embed(PROMPTS), [model.embed(prompt) for prompt in PROMPTS]
    joined = Embedding.cat(apart)
    torch.testing.assert_close(joined.hidden, together.hidden, rtol=1e-5, atol=1e-5)
    assert len(apart[0].expand(3)) == 3
    six = together.expand(6)  # whole, for several times of the same pictures
    assert len(six) == 6 and torch.equal(six.hidden, torch.cat([together.hidden] * 3))
    assert kind == "sd" or torch.equal(six.pooled, torch.cat([together.pooled] * 3))
    with pytest.raises(RuntimeError):
        together.expand(3)


@both
def test_guidance_is_the_published_combination_in_one_call(kind):
    model, cond, null = tiny(kind), tiny(kind).embed(PROMPTS), tiny(kind).null()
    z = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    plain, conditioned = model.predict(z, 401, null), model.predict(z, 401, cond)
    batches = []
    hook = model.unet.register_forward_pre_hook(lambda module, args: batches.append(len(args[0])))
    guided = model.predict(z, 401, cond, null, 5.0)
    model.predict(z, 401, cond, null, 1.0)
    empty = model.predict(z, 401, cond, null, 0.0)
    hook.remove()
    assert batches == [4, 2, 2]  # one doubled call; guidance 1 and 0 cost no second half
    assert torch.equal(empty.eps, plain.eps)
    expected = plain.eps + 5.0 * (conditioned.eps - plain.eps)
    torch.testing.assert_close(guided.eps, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(plain.eps, conditioned.eps)
    with pytest.raises(ValueError, match="needs uncond"):
        model.predict(z, 401, cond, None, 5.0)


def test_guidance_only_within_an_interval_and_calls_only_what_it_needs():
    model = tiny("sd")
    cond = model.embed(PROMPTS)
    z = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    partly, always, never = (
        model.guided(cond, scale, interval=interval)
        for scale, interval in ((5.0, (100, 400)), (5.0, backbone.ALWAYS), (1.0, backbone.ALWAYS))
    )
    batches = []
    hook = model.unet.register_forward_pre_hook(lambda module, args: batches.append(len(args[0])))
    at = {t: partly(z, t) for t in (99, 100, 400, 401)}
    hook.remove()
    assert batches == [2, 4, 4, 2]
    for t, prediction in at.items():
        assert torch.equal(prediction.eps, (always if 100 <= t <= 400 else never)(z, t).eps)
    mixed = partly(z, torch.tensor([400, 401]))
    torch.testing.assert_close(mixed.eps[0], at[400].eps[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mixed.eps[1], at[401].eps[1], rtol=1e-4, atol=1e-5)


@both
def test_the_prediction_explains_the_latents(kind):
    model, cond = tiny(kind), tiny(kind).embed(PROMPTS)
    z = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    for t, level in ((401, None), (401, 201)):
        x0, eps = model.predict(z, t, cond, level=level)
        abar = model.alphas_cumprod[t if level is None else level].item()
        torch.testing.assert_close(abar**0.5 * x0 + (1 - abar) ** 0.5 * eps, z, rtol=1e-4, atol=1e-4)


@both
def test_a_timestep_for_each_picture_equals_one_call_each(kind):
    model, cond, null = tiny(kind), tiny(kind).embed(PROMPTS), tiny(kind).null()
    z = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    together = model.predict(z, torch.tensor([401, 21]), cond, null, 3.0)
    for i, t in enumerate((401, 21)):
        one = model.predict(z[i : i + 1], t, model.embed(PROMPTS[i]), null, 3.0)
        torch.testing.assert_close(together.x0[i], one.x0[0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(together.eps[i], one.eps[0], rtol=1e-4, atol=1e-4)


def test_latents_keep_their_precision_around_the_network():
    model = tiny("sd")
    z = torch.randn(1, 4, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert model.predict(z, 401, model.embed("x")).x0.dtype == torch.float64


def test_v_prediction_models_are_read_as_such():
    z = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    eps_model = Backbone(tiny_pipelines.sd_pipeline(), "eps")
    v_model = Backbone(tiny_pipelines.sd_pipeline("v_prediction"), "v")  # the same weights, read otherwise
    assert v_model.prediction_type == "v_prediction"
    output = eps_model.predict(z, 401, eps_model.embed("x")).eps
    x0, eps = v_model.predict(z, 401, v_model.embed("x"))
    abar = v_model.alphas_cumprod[401].item()
    torch.testing.assert_close(abar**0.5 * eps - (1 - abar) ** 0.5 * x0, output, rtol=1e-4, atol=1e-5)


def test_gradients_reach_the_embedding():
    model = tiny("sd")
    cond = model.embed("x")
    with torch.enable_grad():
        hidden = cond.hidden.clone().requires_grad_()
        model.predict(torch.ones(1, 4, 16, 16), 401, Embedding(hidden)).eps.sum().backward()
    assert hidden.grad.abs().sum() > 0


def test_bfloat16_networks_keep_float32_latents():
    model = backbone.load_backbone(folder("sd"), device="cpu", dtype="bfloat16")
    exact = tiny("sd")
    assert model.dtype == torch.bfloat16
    z = model.encode(pictures())
    assert z.dtype == torch.float32
    prediction = model.predict(z, 401, model.embed("x"), model.null(), 3.0)
    assert prediction.x0.dtype == torch.float32
    expected = exact.predict(z, 401, exact.embed("x"), exact.null(), 3.0)
    assert (prediction.eps - expected.eps).abs().max() < 0.1
    assert model.decode(z).dtype == torch.float32


@pytest.mark.parametrize("memory", ["balanced", "low"])
def test_memory_options_change_nothing_but_memory(memory):
    frugal, plain = backbone.load_backbone(folder("sd"), device="cpu", memory=memory), tiny("sd")
    assert frugal.vae.use_slicing
    assert frugal.vae.use_tiling
    z = plain.encode(pictures(3))
    torch.testing.assert_close(frugal.encode(pictures(3)), z, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(frugal.decode(z), plain.decode(z), rtol=1e-4, atol=1e-5)
    cond, null = plain.embed(PROMPTS + ["c"]), plain.null()
    mine, theirs = (model.predict(z, 401, cond, null, 3.0).eps for model in (frugal, plain))
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_a_decoder_that_overflows_in_half_precision_stays_in_float32(tmp_path):
    copied = tmp_path / "model"
    shutil.copytree(folder("sdxl"), copied)
    config = json.loads((copied / "vae/config.json").read_text())
    (copied / "vae/config.json").write_text(json.dumps({**config, "force_upcast": True}))
    model = backbone.load_backbone(copied, device="cpu", dtype="float16")
    assert model.dtype == torch.float16
    assert model.vae.dtype == torch.float32


def test_fp16_files_are_used_when_they_suit(tmp_path):
    pipe = tiny_pipelines.sd_pipeline()
    pipe.to(torch.float16).save_pretrained(tmp_path / "half", variant="fp16")
    assert backbone.load_backbone(tmp_path / "half", device="cpu").dtype == torch.float32
    assert hub.find(str(tmp_path / "half"), half=False).variant == "fp16"  # the only ones there
    pipe.save_pretrained(tmp_path / "half")
    assert hub.find(str(tmp_path / "half"), half=False).variant is None
    assert hub.find(str(tmp_path / "half"), half=True).variant == "fp16"
    stored = load_file(tmp_path / "half/unet/diffusion_pytorch_model.fp16.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}


def test_loading_is_silent_and_restores_log_settings(capfd):
    from diffusers.utils import logging

    before = (logging.get_verbosity(), logging.is_progress_bar_enabled())
    backbone.load_backbone(folder("sd"), device="cpu")
    assert capfd.readouterr() == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_diffusers_opens_and_agrees_with_the_same_folder():
    # What the course teaches about this file must hold for the library everybody uses.
    pipe = StableDiffusionPipeline.from_pretrained(folder("sd"))
    pipe.set_progress_bar_config(disable=True)
    model = tiny("sd")
    z = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    theirs = pipe(PROMPTS[0], latents=z, num_inference_steps=6, guidance_scale=4.0, output_type="pt").images
    from emolib.diffusion.sampling import Trajectory, denoise

    end = denoise(model.guided(model.embed(PROMPTS[0]), 4.0), Trajectory(model.timesteps(6), start=z))
    torch.testing.assert_close(model.decode(end) / 2 + 0.5, theirs, rtol=1e-4, atol=1e-4)
    assert images.to_pil(model.decode(end))[0].size == (32, 32)
