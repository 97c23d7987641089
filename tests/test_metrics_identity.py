"""Fisherfaces on made-up faces: a person is a pattern, an emotion another pattern laid over it."""

import numpy as np
import pytest
import torch
from scipy.linalg import eigh

from emolib.judges import identity
from emolib.metrics import preservation

EMOTIONS = 5


def people(count, seed):
    """(pictures (N, 3, 48, 48), who (N,)): a person's own pattern, and twice as strong the emotion's."""
    generator = torch.Generator().manual_seed(99)
    emotions = torch.randn(EMOTIONS, 1, 6, 6, generator=generator)
    generator.manual_seed(seed)
    faces = torch.randn(count, 1, 6, 6, generator=generator)
    noise = 0.1 * torch.randn(count, EMOTIONS, 1, 6, 6, generator=generator)
    small = (faces[:, None] + 2 * emotions[None] + noise).flatten(0, 1)
    pictures = torch.nn.functional.interpolate(small, (48, 48), mode="bilinear") / 8
    return pictures.expand(-1, 3, -1, -1), np.arange(count).repeat(EMOTIONS)


@pytest.fixture(scope="module")
def model():
    pictures, who = people(80, 0)
    found = identity.fit_fisherfaces(identity.crop_faces(pictures, [[4, 4, 44, 44]] * len(pictures)), who)
    others, names = people(40, 1)
    return identity.calibrated(found, crop(others), names)


def crop(pictures):
    return identity.crop_faces(pictures, [[4, 4, 44, 44]] * len(pictures))


def test_a_stranger_is_recognised_under_another_emotion(model):
    pictures, who = people(30, 2)
    embedded = model(crop(pictures))
    same = preservation.cosine(embedded[who == 3][:1], embedded[who == 3][1:2])
    assert same.item() > model.threshold
    unit = torch.nn.functional.normalize(embedded, dim=1)
    similar, alike = unit @ unit.T, torch.from_numpy(who[:, None] == who[None])
    # Half of the pictures' variation is the emotion's, and plain pixels are fooled by it.
    plain = torch.nn.functional.normalize(crop(pictures) - crop(pictures).mean(0), dim=1)
    accepted = (similar[alike] >= model.threshold).float().mean()
    assert accepted > 0.95
    assert (similar[~alike] >= model.threshold).float().mean() < 0.05
    fooled = plain @ plain.T
    assert (fooled[alike] >= fooled[~alike].quantile(0.99)).float().mean() < 0.6


def test_no_axis_separates_people_better():
    pictures, who = people(60, 3)
    faces = crop(pictures)[:, ::40]  # few pixels, so that the PCA drops none
    first = identity.fit_fisherfaces(faces, who).axes[:, 0].double().numpy()
    x = faces.double().numpy() - faces.double().numpy().mean(0)
    means = np.stack([x[who == k].mean(0) for k in range(60)])
    within, between = np.cov((x - means[who]).T, ddof=0), means.T @ means / 60
    best = eigh(between, within, eigvals_only=True)[-1]  # Fisher's criterion at its maximum
    assert (first @ between @ first) / (first @ within @ first) == pytest.approx(best, rel=1e-2)


def test_brightness_and_contrast_do_not_make_another_person(model):
    pictures, _ = people(3, 4)
    torch.testing.assert_close(crop(0.5 * pictures + 0.2), crop(pictures), atol=1e-4, rtol=1e-4)


def test_a_flat_face_is_nobody(model):
    flat = crop(torch.full((1, 3, 48, 48), 0.3))
    assert flat.abs().max() < 1e-2


def test_only_the_face_counts(model):
    pictures, _ = people(2, 5)
    changed = pictures.clone()
    changed[..., :4] = changed[..., 44:] = changed[..., :4, :] = changed[..., 44:, :] = 1.0
    assert torch.equal(crop(pictures), crop(changed))


def test_too_few_people():
    faces = torch.randn(4, 50)
    with pytest.raises(ValueError, match="three people"):
        identity.fit_fisherfaces(faces, [0, 0, 1, 1])
    with pytest.raises(ValueError, match="three people"):
        identity.fit_fisherfaces(faces, [0, 1, 2, 3])
    with pytest.raises(ValueError, match="two people"):
        identity.calibrated(identity.Fisherfaces(torch.zeros(50), torch.eye(50)), faces, [0] * 4)
