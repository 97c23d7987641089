"""Directions from labelled pictures: planted answers, closed forms, and what a network's layers carry."""

import pytest
import torch
from tiny_pipelines import noise, sd_pipeline, tiny

from emolib.diffusion import backbone
from emolib.interventions import directions_fit, hspace

CHANNELS, SIDE = 16, 8  # of the tiny UNets' h for 16 x 16 latents


def planted(n=60, size=50, seed=0):
    """Pictures' h with a known difference between two classes, under noise with a known main axis."""
    axis, main = torch.linalg.qr(noise(size, 2, seed=9))[0].T
    h = noise(2 * n, size, seed=seed) * 0.3 + 4 * noise(2 * n, 1, seed=seed + 1) * main
    label = torch.arange(2 * n) % 2
    return h + 2 * label[:, None] * axis, label, axis, main


def cosine(a, b):
    return float(torch.cosine_similarity(a, b, dim=0))


def test_the_mean_difference_of_pairs_is_the_planted_direction():
    h, label, axis, main = planted()
    target, source = h[label == 0] + 2 * axis, h[label == 0]
    torch.testing.assert_close(directions_fit.mean_difference(target, source), 2 * axis, rtol=1e-4, atol=1e-5)
    assert directions_fit.agreement(target, source) == pytest.approx(1, abs=1e-5)


def test_agreement_is_near_zero_without_a_direction():
    h = noise(400, 500)
    assert abs(directions_fit.agreement(h[:200], h[200:])) < 0.2


def test_principal_components_are_the_planted_axis_exactly_and_by_sketch():
    h, label, axis, main = planted()
    exact = directions_fit.principal(h, 3)
    sketch = directions_fit.principal(h, 3, generator=torch.Generator().manual_seed(0))
    for found in (exact, sketch):
        assert abs(cosine(found.directions[0], main)) > 0.99
        assert abs(cosine(found.directions[1], axis)) > 0.95
        torch.testing.assert_close(found.directions @ found.directions.T, torch.eye(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(exact.variance[:2], sketch.variance[:2], rtol=1e-4, atol=0)
    assert exact.variance[0] == pytest.approx(float((h @ main).var()), rel=0.01)


def test_confining_takes_off_what_is_orthogonal_to_the_components_and_nothing_else():
    h, label, axis, main = planted()
    basis = directions_fit.principal(h, 2)
    inside = 3 * basis.directions[0] - basis.directions[1]
    outside = noise(50) - directions_fit.confine(noise(50), basis)
    torch.testing.assert_close(directions_fit.confine(inside + outside, basis), inside, rtol=1e-4, atol=1e-5)


def test_a_probe_sees_through_a_difference_in_what_varies_anyway():
    h, label, axis, main = planted(n=200, size=20)
    h = h + 1.5 * label[:, None] * main  # by chance, one class has more of the main axis
    target, source = h[label == 1], h[label == 0]
    found = directions_fit.probe(target, source, ridge=0.001)
    assert cosine(directions_fit.mean_difference(target, source), axis) < 0.9
    assert cosine(found.direction, axis) > 0.95
    torch.testing.assert_close(
        found.direction @ found.direction, found.direction @ directions_fit.mean_difference(target, source)
    )  # along itself it goes as far as the means do
    assert found.accuracy > 0.95
    assert directions_fit.probe(noise(100, 50, seed=5), noise(100, 50, seed=6)).accuracy < 0.65


def test_leave_one_out_is_leaving_one_out():
    h, label, axis, main = planted(n=6, size=8)
    target, source = h[label == 1], h[label == 0]
    x, y = torch.cat([target, source]).double(), torch.tensor([1.0] * 6 + [-1.0] * 6, dtype=torch.double)
    x, right = x - x.mean(0), 0
    penalty = 0.1 * (x @ x.T).diagonal().mean()
    for i in range(12):
        keep = torch.arange(12) != i
        gram = x[keep].T @ x[keep] + penalty * torch.eye(8, dtype=torch.double)
        right += bool((x[i] @ torch.linalg.solve(gram, x[keep].T @ y[keep])).sign() == y[i])
    assert directions_fit.probe(target, source, ridge=0.1).accuracy == pytest.approx(right / 12)


def test_a_person_is_left_out_with_all_pictures():
    h, label, axis, main = planted(n=6, size=8)
    target, source, people = h[label == 1], h[label == 0], list("abcdef") * 2
    x, y = torch.cat([target, source]).double(), torch.tensor([1.0] * 6 + [-1.0] * 6, dtype=torch.double)
    x, right = x - x.mean(0), 0
    penalty = 0.1 * (x @ x.T).diagonal().mean()
    for i in range(6):
        keep, out = torch.arange(12) % 6 != i, torch.arange(12) % 6 == i
        gram = x[keep].T @ x[keep] + penalty * torch.eye(8, dtype=torch.double)
        right += int(((x[out] @ torch.linalg.solve(gram, x[keep].T @ y[keep])).sign() == y[out]).sum())
    assert directions_fit.probe(target, source, ridge=0.1, people=people).accuracy == pytest.approx(
        right / 12
    )


@pytest.mark.parametrize("place", ["mid", "up0"])
def test_influence_is_part_of_it_early_and_all_of_it_at_the_end(place):
    model, z = tiny("sd"), noise(3, 4, 16, 16)
    draw = lambda: torch.Generator().manual_seed(0)  # noqa: E731
    some = directions_fit.measure_influence(model, z, [700, 300], generator=draw(), place=place)
    assert all(0 < value < 1 for value in some)
    direct = backbone.Backbone(sd_pipeline("sample"), "predicts x0")
    assert directions_fit.measure_influence(direct, z, [700], generator=draw(), place="up1") == pytest.approx(
        [1], abs=1e-3
    )
    with hspace.record(model.unet) as seen:
        directions_fit.measure_influence(model, z, [700, 300], generator=draw(), place=place)
    assert len(seen) == 4  # two evaluations a level


@pytest.mark.parametrize("pooled", [False, True])
def test_h_is_collected_at_every_level_and_pairs_share_their_noise(pooled):
    model, z = tiny("sd"), noise(3, 4, 16, 16)
    z[1] = z[0]
    draw = torch.Generator().manual_seed(0)
    h = directions_fit.collect_h(
        model, z, [800, 200], generator=draw, groups=["a", "a", "b"], pooled=pooled, batch=2
    )
    assert h.shape == ((2, 3, CHANNELS, 1, 1) if pooled else (2, 3, CHANNELS, SIDE, SIDE))
    torch.testing.assert_close(h[:, 0], h[:, 1], rtol=1e-4, atol=1e-5)
    apart = directions_fit.collect_h(
        model, z, [800], generator=torch.Generator().manual_seed(0), pooled=pooled
    )
    assert (apart[0, 0] - apart[0, 1]).abs().max() > 1e-3
