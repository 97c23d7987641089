"""Memory predicted on the meta device against networks that really run; batches that are split."""

from dataclasses import replace
from pkgutil import resolve_name
from types import SimpleNamespace

import pytest
import tiny_pipelines
import torch

from emolib.diffusion import memory
from emolib.editors import METHODS
from emolib.editors.compose import KeepDetail


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
@pytest.mark.parametrize("edits", [1, 3])
def test_the_prediction_is_what_the_networks_take(kind, edits):
    model = tiny_pipelines.tiny(kind)
    z, n = torch.zeros(edits, 4, 16, 16), 2 * (edits + 1)
    cond = model.embed("a")
    denoising = memory.count_peak(
        lambda: model._network(z.repeat(1, 1, 1, 1)[:1].expand(n, -1, -1, -1), 5, cond.expand(n))
    )
    decoding = memory.count_peak(lambda: model.vae.decode(z))
    predicted = memory.predict_activations(model, edits, 32, 32) / memory.SLACK
    assert predicted == pytest.approx(max(denoising, decoding), rel=0.1)


def test_precision_and_tiles_count():
    model = tiny_pipelines.tiny("sd")
    stand_in = SimpleNamespace(unet=model.unet, vae=model.vae, stride=model.stride, dtype=torch.float32)
    whole = memory.predict_activations(stand_in, 2, 64, 64)
    stand_in.dtype = torch.float16
    assert memory.predict_activations(stand_in, 2, 64, 64) <= whole
    assert memory.predict_activations(stand_in, 4, 64, 64) > memory.predict_activations(stand_in, 2, 64, 64)
    assert memory.predict_edit(model, 1, 32, 32) > 4 * sum(p.numel() for p in model.unet.parameters())


@pytest.mark.parametrize("method", [name for name in METHODS if name != "asyrp"])
def test_edits_in_parts_are_the_same_edits(method, monkeypatch):
    model = tiny_pipelines.tiny("sd")
    editor = replace(resolve_name(METHODS[method])(model), num_inference_steps=3)
    editor = KeepDetail(editor) if method == "img2img" else editor
    picture, labels = tiny_pipelines.pictures(1), ["anger", "fear", "neutral"]

    def edits():
        return editor(picture, labels, generator=torch.Generator().manual_seed(3), source_emotion="sadness")

    whole = edits()
    monkeypatch.setattr(memory, "count_fitting", lambda *given: 2)
    torch.testing.assert_close(edits(), whole, atol=2e-3, rtol=0)


def test_large_models_share_a_batch_only_as_far_as_memory_goes(monkeypatch):
    monkeypatch.setattr(memory, "predict_activations", lambda model, edits, *size: edits * 2e9)
    monkeypatch.setattr(memory, "free_memory", lambda device: 100e9)
    model = SimpleNamespace(size=512, device="cpu")
    assert memory.count_fitting(model, 8, 512, 512) == 2  # ROOM holds
    monkeypatch.setattr(memory, "free_memory", lambda device: 1e9)
    assert memory.count_fitting(model, 8, 512, 512) == 1
    assert memory.count_fitting(SimpleNamespace(size=64), 8, 64, 64) == 8


@pytest.mark.parametrize(("free", "says"), [(8e9, "takes about 7.0 GB of 8.0 GB"), (80e9, "")])
def test_a_tight_edit_is_told_before_it_starts(monkeypatch, free, says):
    monkeypatch.setattr(memory, "predict_edit", lambda *given: 7e9)
    monkeypatch.setattr(memory, "free_memory", lambda device: free)
    said = memory.describe_tightness(SimpleNamespace(size=512, device="cpu"))
    assert says in said and bool(said) == bool(says)
