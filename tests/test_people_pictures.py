"""The renderer's walls and skin colours."""

import numpy as np
import pytest
from people import look, paint
from people.backdrop import backdrop

BLUE = paint.to_linear((48, 84, 176))
TEXTURES = ("stripes", "tiles", "bricks", "boards", "plaster")


def seed_of(texture):
    """The first seed whose textured wall is of this kind (the kind is the generator's first draw)."""
    return next(s for s in range(100) if np.random.default_rng(s).choice(TEXTURES) == texture)


def test_linear_light_of_known_values():
    # IEC 61966-2-1: the straight part ends at 0.04045 * 255 = 10.3.
    assert np.allclose(paint.to_linear((0, 10, 255)), (0, 10 / 255 / 12.92, 1))
    assert np.allclose(paint.to_linear((188, 128, 55)), (0.5029, 0.2159, 0.0382), atol=5e-5)


def test_skin_runs_from_the_palest_tone_to_the_darkest():
    tones = np.array([paint.skin_tone(x, 0) for x in np.linspace(0, 1, 30)])
    assert (np.diff(tones, axis=0) < 0).all()
    assert np.allclose(tones[0], paint.to_linear(paint.TONES[0]))
    assert np.allclose(tones[-1], paint.to_linear(paint.TONES[-1]))
    assert np.array_equal(paint.skin_tone(-3, 0), tones[0]) and np.array_equal(
        paint.skin_tone(3, 0), tones[-1]
    )


def test_warm_skin_is_redder_and_less_blue():
    cold, warm = paint.skin_tone(0.4, -1), paint.skin_tone(0.4, 1)
    assert warm[0] > cold[0] and warm[1] == cold[1] and warm[2] < cold[2]


def test_varied_colours_vary_as_much_as_asked():
    rng = np.random.default_rng(0)
    for srgb in look.COLOURS.values():
        assert np.allclose(look.vary(rng, srgb, hue=0, saturation=0, value=0), paint.to_linear(srgb))
        many = np.array([look.vary(rng, srgb) for _ in range(50)])
        assert (many >= 0).all() and (many <= 1).all() and (many.std(axis=0) > 0).all()
    darker = np.array([look.vary(rng, (100, 50, 50), hue=0, saturation=0).max() for _ in range(400)])
    assert (darker < paint.to_linear(100)).mean() == pytest.approx(0.5, abs=0.1)  # value: normal about 1


@pytest.mark.parametrize("kind", ["plain", "gradient", "textured", "cluttered"])
@pytest.mark.parametrize("size", [(384, 384), (300, 240)])
def test_walls_have_the_size_and_range_asked_for(kind, size):
    wall = backdrop(kind, BLUE, 4, size=size)
    assert wall.shape == (size[1], size[0], 3) and wall.dtype == np.float32
    assert wall.min() >= 0 and wall.max() <= 1
    assert (np.ptp(wall, axis=(0, 1)).max() == 0) == (kind == "plain")


def test_a_plain_wall_has_the_colour_asked_for():
    for srgb in look.COLOURS.values():
        assert np.allclose(backdrop("plain", paint.to_linear(srgb), 0)[5, 5] * 255, srgb, atol=1e-3)


@pytest.mark.parametrize("kind", ["gradient", "textured"])
def test_decorated_walls_keep_their_colour(kind):
    means = [backdrop(kind, BLUE, seed, size=(64, 64)).mean(axis=(0, 1)) for seed in range(12)]
    assert all(mean.argmax() == 2 for mean in means)


def test_a_seed_is_a_wall():
    for kind, seed in (("plain", 1), ("gradient", 1), *(("textured", seed_of(name)) for name in TEXTURES)):
        assert np.array_equal(backdrop(kind, BLUE, seed), backdrop(kind, BLUE, seed))


def test_clutter_on_a_bare_wall_is_its_seed():
    bare = [seed for seed in range(20) if np.random.default_rng(seed).random() >= 0.4][:3]
    first, again = ([backdrop("cluttered", BLUE, seed) for seed in bare] for _ in range(2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first[0], first[1])


def test_an_unknown_wall_is_refused_with_the_choices():
    with pytest.raises(ValueError, match="unknown backdrop 'brick'; choose plain, gradient, textured or"):
        backdrop("brick", BLUE, 0)
