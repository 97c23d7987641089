"""Parts of the recipes whose right answer can be derived: folding, weights, timesteps, calibration, files."""

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from train import augment, data, files, judges, latents, standin, unet, vae
from transformers import AutoModelForImageClassification, ResNetConfig, ResNetForImageClassification

from emolib.emotions.sets import EMOFACES, HELD_OUT
from emolib.runtime import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    where = tmp_path_factory.mktemp("emofaces")
    standin.write(where, {"train": 3, "val": 1, "concepts": 1})
    return where


@pytest.fixture
def people(folder, tmp_path):
    return data.load("train", folder, tmp_path)


@pytest.fixture(scope="module")
def autoencoder():
    torch.manual_seed(0)
    return vae.network((16, 16, 32), 32, 8).eval()


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_portraits_are_read_once_and_again_when_the_file_changes(folder, tmp_path):
    first = data.load("train", folder, tmp_path)
    assert first.images.shape == (27, 3, 96, 96) and first.images.dtype == torch.uint8
    assert first.emotion.tolist() == list(range(9)) * 3
    assert first.siblings.tolist() == torch.arange(27).view(3, 9).tolist()
    (cached,) = tmp_path.glob("train-*.npy")
    np.save(cached, np.zeros((27, 3, 96, 96), np.uint8))
    assert data.load("train", folder, tmp_path).images.max() == 0  # the cache is what is read
    standin.write(folder, {"train": 3, "val": 1, "concepts": 1})
    assert torch.equal(data.load("train", folder, tmp_path).images, first.images)


def test_held_out_emotions_never_reach_training(folder, tmp_path):
    (folder / "other").mkdir()
    (folder / "other" / "portraits-train.parquet").write_bytes(
        (folder / "portraits-concepts.parquet").read_bytes()
    )
    kept = data.load("train", folder / "other", tmp_path)
    assert sorted(kept.frame["emotion"]) == sorted(EMOFACES)
    assert set(HELD_OUT) < set(data.load("concepts", folder, tmp_path).frame["emotion"])


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"portraits-train\.parquet"):
        data.load("train", tmp_path, tmp_path)


def test_the_judges_halves_share_nobody_and_stay_when_people_are_added():
    few, many = pd.DataFrame({"identity": range(100)}), pd.DataFrame({"identity": range(300)})
    assert (data.halves(few) == data.halves(many)[:100]).all()
    assert 0.4 < data.halves(many).mean() < 0.6
    twice = pd.DataFrame({"identity": [7, 8, 7, 8]})
    assert data.halves(twice)[0] == data.halves(twice)[2]


def test_augmentation_stays_in_range_and_follows_its_generator(people):
    x = data.pixels(people.images[:8])
    one, same, other = (augment.distort(x, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert one.shape == x.shape and one.abs().max() <= 1 and (one - x).abs().mean() > 0.01


def test_moving_by_nothing_only_flips(people):
    x = data.pixels(people.images[:16])
    moved = augment.move(x, seeded(), shift=0, zoom=0, turn=0)
    same = [(a - b).abs().max() < 1e-3 for a, b in zip(moved, x, strict=True)]
    flipped = [(a - b.flip(-1)).abs().max() < 1e-3 for a, b in zip(moved, x, strict=True)]
    assert all(a or b for a, b in zip(same, flipped, strict=True)) and 2 < sum(flipped) < 14


def test_face_weights_average_one_and_favour_the_face():
    box = torch.tensor([[0.25, 0.5, 0.75, 1.0]])
    weight = vae.face_weight(box, 8, extra=2.0)[0, 0]
    assert weight.mean() == pytest.approx(1)
    assert torch.allclose(weight[4:, 2:6], 3 * weight[0, 0]) and torch.allclose(weight[:4], weight[0, 0])


def test_shrinking_cuts_and_resizes_picture_and_weight_alike():
    x = torch.linspace(-1, 1, 96).expand(4, 3, 96, 96)
    small, weight = vae.shrink(x, x[:, :1], 64, seeded())
    assert small.shape == (4, 3, 64, 64)
    assert torch.allclose(small[:, :1], weight, atol=1e-6)
    assert small[0].diff(dim=-1).mean() < small[2].diff(dim=-1).mean()  # cut out, against resized


def test_folding_makes_channels_show_alike_and_changes_no_reconstruction(autoencoder, people):
    images = people.images[:, :, ::3, ::3]
    with torch.no_grad():
        autoencoder.quant_conv.weight[1] *= 7  # channels of very different mean and spread
        autoencoder.quant_conv.bias[:8] += torch.tensor([3.0, -2.0, 0.0, 1.0, 0.0, 0.0, 0.5, 0.0])
    before = vae.reconstruct(autoencoder, images)
    torch.manual_seed(0)
    vae.fold_scales(autoencoder, images)
    after = vae.reconstruct(autoencoder, images)
    assert torch.allclose(before, after, atol=1e-4)
    torch.manual_seed(0)
    posterior = autoencoder.encode(data.pixels(images)).latent_dist
    scaled = (posterior.sample() * autoencoder.config.scaling_factor).transpose(0, 1).flatten(1)
    assert torch.allclose(scaled.mean(1), torch.zeros(8), atol=0.03)
    assert scaled.std(1).pow(2).mean().sqrt().item() == pytest.approx(1, abs=0.03)
    energy = vae.energies(autoencoder, images)
    assert torch.allclose(energy, torch.ones(8), rtol=0.05)


def test_cached_posteriors_are_the_autoencoders(autoencoder, people, tmp_path):
    moments = latents.posteriors(autoencoder, people, 64, tmp_path)
    assert moments.shape == (27, 2, 16, 16, 16)
    mirrored = data.pixels(people.images[:1].flip(-1))
    small = F.interpolate(mirrored, size=(64, 64), mode="bilinear", antialias=True, align_corners=False)
    with torch.no_grad():
        expected = autoencoder.encode(small).latent_dist.parameters[0]
    assert torch.allclose(moments[0, 1].float(), expected, atol=2e-2)
    assert torch.equal(moments, latents.posteriors(autoencoder, people, 64, tmp_path))
    assert len(list(tmp_path.glob("latents-64-*"))) == 1


def test_further_views_change_all_pictures_of_a_person_alike(autoencoder, folder, people, tmp_path):
    people = data.load("train", folder, tmp_path, renders=folder / "renders")
    people.images[:9], people.masks[:9] = people.images[0].clone(), people.masks[0].clone()
    moments = latents.posteriors(autoencoder, people, 96, tmp_path, views=4)
    assert moments.shape == (27, 4, 16, 24, 24)
    assert torch.equal(moments[:9], moments[:1].expand(9, -1, -1, -1, -1))
    assert not torch.equal(moments[0, 2], moments[0, 3]) and not torch.equal(moments[9, 2], moments[10, 2])


def test_masks_are_those_of_the_render(folder, tmp_path):
    people = data.load("train", folder, tmp_path, renders=folder / "renders")
    assert people.masks.shape == (27, 1, 96, 96)
    with np.load(folder / "renders" / "000001.npz") as stored:
        assert torch.equal(people.keep(np.array([12])).masks[0, 0], torch.from_numpy(stored["masks"][3]))
    with pytest.raises(InputError, match=r"000000\.npz"):
        data.load("train", folder, tmp_path, renders=tmp_path)


def test_a_widened_unet_does_with_the_first_channels_what_it_did():
    torch.manual_seed(0)
    narrow = unet.network(4, 32, 8, channels=(32, 64), heads=2).eval()
    wide = unet.widen(narrow, 7).eval()
    x, text = torch.randn(2, 7, 8, 8), torch.randn(2, 5, 32)
    with torch.no_grad():
        before, after = narrow(x[:, :4], 500, text).sample, wide(x, 500, text).sample
    assert after.shape == x.shape and torch.allclose(after[:, :4], before, atol=1e-6)
    assert (after[:, 4:] == 0).all()


def test_latents_are_drawn_with_the_posteriors_mean_and_spread():
    moments = torch.cat([torch.full((1, 4, 50, 50), 3.0), torch.full((1, 4, 50, 50), 2 * np.log(0.5))], 1)
    drawn = latents.sample(moments, seeded())
    assert drawn.mean() == pytest.approx(3, abs=0.02) and drawn.std() == pytest.approx(0.5, abs=0.02)


def test_timesteps_lie_around_the_middle_or_evenly():
    settings = {"mean": 0.2, "spread": 0.9}
    middle = unet.timesteps(4096, seeded(), torch.device("cpu"), even=0.0, **settings).double() / 1000
    even = unet.timesteps(4096, seeded(), torch.device("cpu"), even=1.0, **settings)
    assert middle.median() == pytest.approx(torch.sigmoid(torch.tensor(0.2)).item(), abs=0.01)
    inside = ((middle > 0.336) & (middle < 0.750)).double().mean()  # one deviation about the mean
    assert inside == pytest.approx(0.6827, abs=0.01)
    assert even.min() >= 0 and even.max() <= 999 and even.double().mean() == pytest.approx(500, abs=15)


def test_expression_weights_favour_what_differs_between_siblings():
    moments = torch.zeros(4, 2, 2, 4, 4)  # two people of two pictures, one latent channel
    moments[1, :, 0, 0, 0] = 1.0  # the first person's pictures differ in one corner
    moments[2:, :, 0, 3, 3] = 5.0  # the second's share what sets them apart from the first
    moments[3, :, 0, 1, 1] = 1.0
    weight = unet.expression_weight(moments, torch.tensor([[0, 1], [2, 3]]), extra=2.0)
    assert weight.shape == (4, 2, 1, 4, 4) and torch.allclose(weight.mean((2, 3, 4)), torch.ones(4, 2))
    assert torch.equal(weight[0], weight[1]) and weight[0, 0, 0].flatten().argmax() == 0
    assert weight[2, 0, 0, 3, 3] == weight[2, 0, 0, 0, 0]
    assert weight[0, 0, 0, 0, 0] / weight[0, 0, 0, 1, 1] == pytest.approx(1 + 2 * 16)


def test_min_snr_weights():
    abar = torch.tensor([0.9, 0.5, 0.1])  # signal-to-noise ratios 9, 1, 1/9
    assert torch.allclose(unet.loss_weight(abar, 5.0, "epsilon"), torch.tensor([5 / 9, 1, 1]))
    assert torch.allclose(unet.loss_weight(abar, 5.0, "v_prediction"), torch.tensor([0.5, 0.5, 0.1]))
    assert torch.equal(unet.loss_weight(abar, 0.0, "epsilon"), torch.ones(3))


def test_calibration_finds_the_temperature_that_was_applied():
    draw = seeded(3)
    logits = 2 * torch.randn(20000, 9, generator=draw)
    labels = torch.multinomial(logits.softmax(1), 1, generator=draw)[:, 0]
    found = judges.calibrate(3 * logits, labels)
    assert found["temperature"] == pytest.approx(3, rel=0.05) and found["ece"] < 0.02


def test_a_judges_loss_is_least_for_the_right_answer():
    affect, emotion = torch.tensor([[0.5, -0.5]]), torch.tensor([3])
    right = torch.cat([5.0 * F.one_hot(emotion, 9), torch.atanh(affect)], 1)
    wrong = torch.cat([5.0 * F.one_hot(emotion + 1, 9), torch.atanh(-affect)], 1)
    kind = F.cross_entropy(right[:, :9], emotion, label_smoothing=0.05)
    assert judges.judge_loss(right, emotion, affect) == pytest.approx(float(kind), abs=1e-6)
    assert judges.judge_loss(wrong, emotion, affect) > 4 + kind


@pytest.mark.parametrize("kind", ["guide", "heldout"])
def test_judges_fit_into_four_megabytes(kind):
    count = sum(value.numel() for value in judges.network(kind, judges.LABELS).state_dict().values())
    assert 2 * count < 4e6


def test_half_precision_files_open_in_full_precision(tmp_path):
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], layer_type="basic", num_labels=3)
    model = ResNetForImageClassification(config)
    expected = model.state_dict()["classifier.1.weight"].half().float()
    files.save_half(model, tmp_path)
    found = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert found.dtype == torch.float32
    assert torch.equal(found.classifier[1].weight, expected)
    assert files.megabytes(tmp_path) < 2.5e-6 * sum(p.numel() for p in model.state_dict().values()) + 0.02


def test_folders_are_replaced_whole_or_not_at_all(tmp_path):
    target = tmp_path / "model"
    target.mkdir()
    (target / "README.md").write_text("card")
    (target / "old").write_text("old")
    with pytest.raises(ZeroDivisionError), files.whole_folder(target) as temporary:
        (temporary / "new").write_text("new")
        1 / 0  # noqa: B018
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["README.md", "model", "old"]
    with files.whole_folder(target) as temporary:
        (temporary / "new").write_text("new")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["README.md", "model", "new"]


def test_features_see_a_difference_and_train_only_the_picture(tmp_path):
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], layer_type="basic")
    ResNetForImageClassification(config).save_pretrained(tmp_path)
    distance = vae.Features(tmp_path, torch.device("cpu"))
    x = torch.rand(2, 3, 32, 32, generator=seeded()) * 2 - 1
    y = nn.Parameter(x.clone())
    assert distance(x, y) == 0
    (distance(x, y + 0.1 * x.flip(-1))).backward()
    assert y.grad.abs().sum() > 0 and all(p.grad is None for p in distance.parameters())
