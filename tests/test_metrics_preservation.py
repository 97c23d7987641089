"""What an edit kept, and the protocols' columns: by hand and as the libraries that define them."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)
from transformers import CLIPConfig, CLIPModel

from emolib.emotions.sets import EMOFACES
from emolib.metrics import optional, preservation, protocols
from emolib.metrics import preservation as metrics


def noise(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def ms_ssim(images, reference):
    return metrics.ssim_map_and_ms_ssim(images, reference)[1]


def test_psnr_by_hand_and_as_torchmetrics_has_it():
    black = torch.full((3, 3, 4, 4), -1.0)
    offset = black + torch.tensor([2.0, 0.2, 0.0]).view(3, 1, 1, 1)
    # error 2 of a range 2: 0 dB; error 0.2: 20 dB; none: infinite
    assert metrics.psnr(offset, black).tolist() == pytest.approx([0.0, 20.0, math.inf], abs=1e-4)
    a, b = noise(4, 3, 16, 16), noise(4, 3, 16, 16, seed=1)
    theirs = peak_signal_noise_ratio(a, b, data_range=2.0, dim=(1, 2, 3), reduction="none")
    torch.testing.assert_close(metrics.psnr(a, b), theirs)


def test_ssim_is_the_published_one():
    a = noise(2, 3, 24, 32)
    b = (a + 0.2 * noise(2, 3, 24, 32, seed=1)).clamp(-1, 1)
    for i in range(2):
        wang = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
        pair = ((x[i] / 2 + 0.5).numpy() for x in (a, b))
        theirs = structural_similarity(*pair, channel_axis=0, data_range=1.0, **wang)
        assert metrics.ssim(a, b)[i].item() == pytest.approx(theirs, abs=1e-3)
    torch.testing.assert_close(metrics.ssim(a, a), torch.ones(2))
    theirs = structural_similarity_index_measure(a / 2 + 0.5, b / 2 + 0.5, data_range=1.0, reduction="none")
    torch.testing.assert_close(metrics.ssim(a, b), theirs, atol=1e-5, rtol=1e-5)
    assert metrics.ssim(a[:1], b[:1]).shape == (1,)


def test_sharpness_by_hand():
    # One bright pixel in the middle of 5x5 grey ones: the inner 3x3 of the Laplacian is a +-shaped stencil.
    picture = torch.zeros(1, 3, 5, 5)
    picture[..., 2, 2] = 1.0
    stencil = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]], dtype=float)
    assert metrics.sharpness(picture).item() == pytest.approx(stencil.std(), rel=1e-5)
    ramp = torch.linspace(-1, 1, 8).expand(1, 3, 8, 8)
    assert metrics.sharpness(ramp).item() == pytest.approx(0.0, abs=1e-6)


def test_sharpness_ratio_is_linear_in_contrast_and_falls_with_blur():
    source = noise(2, 3, 16, 16)
    torch.testing.assert_close(metrics.sharpness_ratio(source, source), torch.ones(2))
    torch.testing.assert_close(metrics.sharpness_ratio(source * 0.5, source), torch.full((2,), 0.5))
    blurred = torch.nn.functional.avg_pool2d(source, 3, 1, 1)
    assert (metrics.sharpness_ratio(blurred, source) < 0.5).all()


@pytest.mark.parametrize("name", ["psnr", "ssim", "ms_ssim"])
def test_falls_with_growing_noise_and_does_not_care_which_is_which(name):
    metric, x = ms_ssim if name == "ms_ssim" else getattr(metrics, name), smooth(1, 48)
    worse = torch.cat(
        [(x + level * noise(1, 3, 48, 48)).clamp(-1, 1) for level in (0.05, 0.1, 0.2, 0.4, 0.8)]
    )
    values = metric(worse, x.expand(5, -1, -1, -1))
    assert (values.diff() < 0).all()
    torch.testing.assert_close(metric(x.expand(5, -1, -1, -1), worse), values, atol=1e-6, rtol=1e-5)


def smooth(n, side, seed=0):
    """Blurred noise: neighbouring pixels alike, as in pictures."""
    return torch.nn.functional.avg_pool2d(noise(n, 3, side + 8, side + 8, seed=seed), 9, 1) * 4


def test_ms_ssim_takes_the_scales_that_fit():
    sides = {10: 0, 11: 1, 22: 2, 43: 2, 44: 3, 96: 4, 175: 4, 176: 5}
    assert {side: metrics.scales(side, side) for side in sides} == sides
    a = smooth(2, 176)
    b = (a + 0.3 * noise(2, 3, 176, 176, seed=1)).clamp(-1, 1)
    theirs = multiscale_structural_similarity_index_measure(
        a / 2 + 0.5, b / 2 + 0.5, data_range=1.0, reduction="none", normalize="relu"
    )
    torch.testing.assert_close(ms_ssim(a, b), theirs, atol=1e-5, rtol=1e-5)
    for measure in (ms_ssim, metrics.ssim):
        with pytest.raises(ValueError, match="11 px"):
            measure(noise(1, 3, 10, 16), noise(1, 3, 10, 16))


@pytest.mark.parametrize("side", [12, 96])
def test_ssim_and_ms_ssim_at_once_are_what_they_are_alone(side):
    a = smooth(3, side)
    b = (a + 0.3 * noise(3, 3, side, side, seed=1)).clamp(-1, 1)
    similarity, several = metrics.ssim_map_and_ms_ssim(a, b)
    assert torch.equal(similarity, metrics.ssim_map(a, b))
    assert torch.allclose(several, metrics.ssim(a, b)) == (side == 12)  # there is only one scale


def test_masked_error_by_hand():
    source, edit = torch.zeros(1, 3, 12, 12), torch.zeros(1, 3, 12, 12)
    mask = torch.zeros(1, 12, 12)
    mask[:, :, :6] = 1
    edit[..., :6] = 1.0  # half the range, inside only
    assert metrics.masked_error(edit, source, mask).item() == pytest.approx(0.25)
    assert metrics.masked_psnr(edit, source, mask).item() == pytest.approx(10 * math.log10(4))
    assert metrics.masked_psnr(edit, source, mask == 0).item() == math.inf
    assert metrics.masked_psnr(edit, source, mask * 0).isnan().all()
    whole = torch.ones(1, 12, 12)
    torch.testing.assert_close(metrics.masked_psnr(edit, source, whole), metrics.psnr(edit, source))


def test_masked_ssim_does_not_see_across_the_rim():
    source = smooth(1, 40)
    edit, mask = source.clone(), torch.zeros(1, 40, 40)
    edit[..., :12], mask[..., :12] = -edit[..., :12], 1
    similarity = metrics.ssim_map(edit, source)
    assert metrics.masked_ssim(similarity, mask == 0).item() == pytest.approx(1.0)
    # A plain mean over the same side's pixels is dragged down by windows that reach across.
    assert similarity[0, :, 12:].mean() < 0.97
    assert metrics.masked_ssim(similarity, mask).item() < 0.2
    assert metrics.masked_ssim(similarity, torch.zeros(1, 40, 40)).isnan().all()


def test_box_mask():
    mask = metrics.box_mask([[1, 2, 3, 5], [0, 0, 6, 6]], 6, 6)
    assert mask.sum((1, 2)).tolist() == [6, 36]
    assert mask[0, 2:5, 1:3].all()


def test_a_shifted_picture_is_measured_in_pixels():
    wide = smooth(1, 80)
    source, moved = wide[..., 8:72, 8:72], wide[..., 5:69, 4:68]
    assert metrics.alignment_shift(moved, source).item() == pytest.approx(5.0, abs=0.3)
    assert metrics.alignment_shift(moved * 0, source).isnan().all()


def test_beating_doing_nothing():
    source, truth = torch.zeros(3, 3, 8, 8), torch.ones(3, 3, 8, 8)
    edits = torch.stack([torch.full((3, 8, 8), value) for value in (0.5, 0.0, -0.1)])  # 0: untouched
    assert metrics.beats_doing_nothing(edits, source, truth).tolist() == [True, False, False]


# Protocols --------------------------------------------------------------------------------------------------


TARGET = EMOFACES.index("anger")


def comparison(edit, source, mask=None, probs=None, target=TARGET):
    n = len(edit)
    mask = torch.zeros(n, *edit.shape[-2:]) if mask is None else mask
    even = torch.full((n, 9), 1 / 9)
    probs = even if probs is None else probs
    return protocols.Comparison(edit, source, mask, probs, even, torch.full((n,), target), EMOFACES)


def grey(*levels, side=32):
    """Pictures of one 8-bit grey level each."""
    return torch.tensor(levels).view(-1, 1, 1, 1).expand(-1, 3, side, side) / 127.5 - 1


def test_emoedit_psnr_has_the_sources_own_range():
    source = grey(100, side=512).clone()
    source[..., :256] = 120 / 127.5 - 1  # levels 100 and 120: a range of 20
    edit = source + 2 / 127.5  # every pixel 2 levels brighter
    found = protocols.emoedit(comparison(edit, source))
    assert found["emoedit_psnr"].item() == pytest.approx(20 * math.log10(20 / 2), rel=1e-6)
    assert found["emoedit_mse"].item() == 4.0
    # On the 255 scale, as `standard` has it, the same pictures are 22 dB further up.
    assert preservation.psnr(edit, source).item() == pytest.approx(20 * math.log10(255 / 2), rel=1e-4)


def test_emoedit_mse_wraps_around_as_its_8_bit_arithmetic_does():
    # 10 - 20 is 246 in 8 bits, and 246 squared is 100 modulo 256: by luck. 40 - 20 squared is 400 - 256.
    found = protocols.emoedit(comparison(grey(10, 40), grey(20, 20)))
    assert found["emoedit_mse"].tolist() == [100.0, 144.0]


def test_emoedit_ssim_of_flat_pictures():
    # No variance anywhere: (2ab + c1) / (a^2 + b^2 + c1), c1 = (0.01 * 255)^2.
    c1 = (0.01 * 255) ** 2
    found = protocols.emoedit(comparison(grey(100), grey(120)))["emoedit_ssim"].item()
    assert found == pytest.approx((2 * 100 * 120 + c1) / (100**2 + 120**2 + c1), rel=1e-6)


def test_emoedit_crops_the_source_and_squeezes_the_edit():
    wide = grey(50, side=32).repeat(1, 1, 1, 2).clone()
    wide[..., :16] = wide[..., 48:] = 200 / 127.5 - 1  # stripes left and right, outside the middle square
    found = protocols.emoedit(comparison(wide, wide))
    assert found["emoedit_psnr"].item() == -math.inf  # the cropped source is flat: a range of 0
    assert found["emoedit_mse"].item() > 0


def test_emoedit_emotion_is_among_eight(monkeypatch):
    monkeypatch.setattr(protocols, "EMOEDIT_SIDE", 32)  # the size is beside the point, and slow
    probs = torch.zeros(3, 9)
    probs[0, [0, TARGET, 1]] = torch.tensor([0.6, 0.3, 0.1])  # neutral, anger, amusement
    probs[1, [0, TARGET, 1]] = torch.tensor([0.2, 0.3, 0.5])
    probs[2] = probs[0]
    found = protocols.emoedit(comparison(noise(3, 3, 16, 16), noise(3, 3, 16, 16), probs=probs))
    assert found["emoedit_emo_a"].tolist() == [1.0, 0.0, 1.0]
    # 0.3 of 0.4 against an eighth before; 0.3 of 0.8.
    assert found["emoedit_emo_s"].tolist() == pytest.approx([0.75 - 0.125, 0.375 - 0.125, 0.625])
    assert found["emoedit_valence"].tolist() == [1.0, 0.0, 1.0]
    standard = protocols.standard(comparison(noise(3, 3, 16, 16), noise(3, 3, 16, 16), probs=probs))
    assert standard["emo_a"].tolist() == [0.0, 0.0, 0.0]
    neutral = comparison(noise(1, 3, 16, 16), noise(1, 3, 16, 16), target=0)
    assert protocols.emoedit(neutral)["emoedit_emo_a"].isnan().all()


def test_piebench_counts_the_black_it_painted():
    source = noise(1, 3, 42, 42)
    mask = torch.zeros(1, 42, 42)
    mask[:, :, :21] = 1
    edit = source.clone()
    edit[..., :21] = noise(1, 3, 42, 21, seed=1)
    edit[..., 21:] = (edit[..., 21:] * 0.5).clamp(-1, 1)
    c = comparison(edit, source, mask)
    piebench, standard = protocols.piebench(c), protocols.standard(c)
    # 20 x 40 of the 42 x 42 pixels are background there (the rim counts as edited), 21 x 42 here.
    background = torch.zeros(1, 42, 42)
    background[:, 1:41, 21:41] = 1
    error = preservation.masked_error(edit, source, background).item()
    assert piebench["piebench_mse_e4"].item() == pytest.approx(1e4 * error * 800 / 42**2, rel=1e-5)
    assert piebench["piebench_psnr"].item() == pytest.approx(-10 * math.log10(error * 800 / 42**2), rel=1e-5)
    assert piebench["piebench_psnr"] > standard["background_psnr"] + 2.5
    assert piebench["piebench_ssim_e2"] > standard["background_ssim_e2"] + 5


def test_piebench_without_background_has_no_number():
    whole = comparison(noise(1, 3, 16, 16), noise(1, 3, 16, 16), torch.ones(1, 16, 16))
    assert all(value.isnan().all() for value in protocols.piebench(whole).values())
    assert protocols.standard(whole)["background_psnr"].isnan().all()


def test_an_untouched_picture_under_every_protocol():
    x = noise(2, 3, 48, 48)
    mask = torch.zeros(2, 48, 48)
    mask[:, 10:30, 10:30] = 1
    c = comparison(x, x, mask)
    assert set(protocols.FAULTS) == set(protocols.PROTOCOLS)
    standard, emoedit, piebench = protocols.standard(c), protocols.emoedit(c), protocols.piebench(c)
    columns = standard | emoedit | piebench
    expected = dict.fromkeys(("emo_s", "emoedit_emo_s", "background_mse_e4", "shift"), 0.0)
    expected |= dict.fromkeys(("psnr", "background_psnr", "emoedit_psnr", "piebench_psnr"), math.inf)
    expected |= dict.fromkeys(("ssim", "ms_ssim", "sharpness", "emoedit_ssim"), 1.0)
    for name, value in expected.items():
        assert columns[name].tolist() == pytest.approx([value] * 2), name


@pytest.mark.parametrize("name", protocols.PROTOCOLS)
def test_the_order_of_pictures_does_not_matter(name, monkeypatch):
    monkeypatch.setattr(protocols, "EMOEDIT_SIDE", 64)
    order = [2, 0, 1]
    c = comparison(noise(3, 3, 48, 48), noise(3, 3, 48, 48, seed=1), noise(3, 48, 48) > 0)
    mixed = comparison(c.edit[order], c.source[order], c.mask[order])
    straight, turned = protocols.PROTOCOLS[name](c), protocols.PROTOCOLS[name](mixed)
    assert list(straight) == list(turned)
    for key in straight:
        torch.testing.assert_close(turned[key], straight[key][order], equal_nan=True)


def test_columns_without_their_network_say_so():
    for name in ("clip_i", "dino_i"):
        with pytest.raises(optional.Unavailable, match="not available offline"):
            optional.COLUMNS[name]()


def test_clip_i_of_a_folder(tmp_path):
    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = small | {"vocab_size": 9, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    vision = small | {"image_size": 32, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(tmp_path)
    settings = {"image_mean": [0.5] * 3, "image_std": [0.2] * 3, "crop_size": {"height": 32, "width": 32}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    column = optional.load_clip_i(str(tmp_path))
    x = noise(2, 3, 48, 48)
    assert column(comparison(x, x)).tolist() == pytest.approx([1.0, 1.0])
    changed = column(comparison(noise(2, 3, 48, 48, seed=1), x))
    assert (changed < 1 - 1e-4).all() and torch.isfinite(changed).all()


def test_lpips_gets_the_range_that_each_protocol_gives_it(monkeypatch):
    seen = {}

    class Lpips(torch.nn.Module):
        def __init__(self, net_type):
            super().__init__()
            self.seen = seen.setdefault(net_type, [])

        def forward(self, edit, source):
            self.seen.append((edit, source))
            return edit.amax()

    monkeypatch.setattr("torchmetrics.image.lpip.LearnedPerceptualImagePatchSimilarity", Lpips)
    edit, source, mask = grey(255), grey(0), torch.zeros(1, 32, 32)
    mask[:, 8:16] = 1
    c = comparison(edit, source, mask)
    for name, number in {"lpips": 1, "emoedit_lpips": 1, "piebench_lpips_e3": 1e3}.items():
        assert optional.COLUMNS[name]()(c).tolist() == [number]
    assert [(a.max().item(), b.min().item()) for a, b in seen["alex"]] == [(1.0, -1.0), (1.0, 0.0)]
    ((black, _),) = seen["squeeze"]
    assert (black[..., 8:16, :] == -1).all() and (black[..., 1:8, 1:31] == 1).all()


def test_ffe_counts_what_is_taken_for_the_confusable_neighbour():
    names = ("anger", "disgust", "fear", "awe")
    probs = torch.eye(9)[[EMOFACES.index(label) for label in ("disgust", "anger", "disgust", "awe")]]
    c = comparison(noise(4, 3, 16, 16), noise(4, 3, 16, 16), probs=probs)
    target = torch.tensor([EMOFACES.index(name) for name in names])
    confused = protocols.ffe(replace(c, target=target))["ffe_confused"]
    # Taken for the neighbour both ways; fear's, surprise, is no label of this judge, and awe has none.
    assert confused[:2].tolist() == [1, 1] and confused[2:].isnan().all()
    wider = replace(c, labels=(*EMOFACES, "surprise"), target=target, probs=torch.eye(10)[[0, 0, 9, 9]])
    assert protocols.ffe(wider)["ffe_confused"][2] == 1


def test_the_harmonic_score_punishes_the_lower_part():
    assert protocols.harmonic_score(np.array([0.5, 1, 1, 0.6]), np.array([0.5, 0, -0.4, 0.3])).tolist() == (
        pytest.approx([0.5, 0, 0, 0.4])
    )


def test_feds_gain_is_the_share_of_the_way_to_the_true_expression():
    source, truth = np.array([[1.0, 0, 0]]), np.array([[0, 1.0, 0]])
    for edit, gain in ((source, 0), (truth, 1), ((source + truth) / 2, 0.5), (np.array([[0, 0, 1.0]]), 0)):
        assert protocols.expression_gain(source, edit, truth) == pytest.approx([gain])
    assert protocols.expression_gain(source, truth, np.array([[0.9, 0.1, 0]])) < 0  # beyond it
    assert np.isnan(protocols.expression_gain(source, truth, source)).all()
    assert protocols.fidelity(np.array([1.0, 0.5]), np.array([1.0, -1])).tolist() == [1, 0.25]
