"""Protocols against values computed by hand from their definitions; columns whose network is not here."""

import json
import math

import pytest
import torch
from transformers import CLIPConfig, CLIPModel

from emolib.emotions.sets import EMOFACES
from emolib.metrics import optional, preservation, protocols

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


def noise(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


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
    standard, emoedit, piebench = (protocols.PROTOCOLS[name](c) for name in protocols.PROTOCOLS)
    for value in (
        standard["emo_s"],
        emoedit["emoedit_emo_s"],
        standard["background_mse_e4"],
        standard["shift"],
    ):
        assert value.tolist() == [0.0, 0.0]
    for value in (standard["psnr"], standard["background_psnr"], emoedit["emoedit_psnr"]):
        assert value.tolist() == [math.inf] * 2
    assert piebench["piebench_psnr"].tolist() == [math.inf] * 2
    for value in (standard["ssim"], standard["ms_ssim"], standard["sharpness"], emoedit["emoedit_ssim"]):
        assert value.tolist() == pytest.approx([1.0, 1.0])


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


def test_every_protocol_states_its_faults():
    assert set(protocols.FAULTS) == set(protocols.PROTOCOLS)


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
