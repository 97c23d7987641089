"""Banks of directions: shifts, mixes, files, and fitting by planted answers."""

import json

import pytest
import torch
from safetensors.torch import save_file
from tiny_pipelines import noise, tiny

from emolib.interventions import directions, directions_fit
from emolib.interventions.directions import Directions, Network, Table
from emolib.runtime import InputError, generator

CHANNELS, SIDE = 16, 8


def bank(**options):
    times = torch.tensor([100, 600])
    names = {"anger": 1, "awe": 2}
    shifts = {name: Table(noise(2, CHANNELS, SIDE, SIDE, seed=seed), times) for name, seed in names.items()}
    fields = {"source": "neutral", "prompt": "", "model": "sd", "channels": CHANNELS, "width": 16}
    return Directions(shifts, **{**fields, **options})


def at(shift, n=2, t=600):
    return shift(torch.zeros(n, CHANNELS, SIDE, SIDE), torch.full((n,), t))


# The bank ---------------------------------------------------------------------------------------------------


def test_a_shift_for_all_rows_for_each_row_and_back_again():
    found, delta = bank(), {name: table.delta[1] for name, table in bank().shifts.items()}
    assert found.emotions == ("neutral", "anger", "awe")
    torch.testing.assert_close(at(found.shift("anger"))[0], delta["anger"])
    rows = at(found.shift(["awe", "neutral", "anger"]), n=6)
    torch.testing.assert_close(rows[:3], rows[3:])  # the two halves of a guided batch
    torch.testing.assert_close(rows[0], delta["awe"])
    assert not rows[1].any()
    back = at(found.shift(["neutral", "anger", "awe"], away="anger"), n=3)
    torch.testing.assert_close(back[0], -delta["anger"])
    assert back[1].abs().max() < 1e-6
    torch.testing.assert_close(back[2], delta["awe"] - delta["anger"])
    with pytest.raises(InputError, match="unknown direction 'angr'; did you mean 'anger'"):
        found.shift("angr")


def test_mixes_are_weighted_sums():
    found = bank()
    mixed = found.mix({"anger": 0.5, "awe": -2.0})
    expected = 0.5 * found.shifts["anger"].delta[1] - 2 * found.shifts["awe"].delta[1]
    torch.testing.assert_close(at(mixed)[0], expected)
    with pytest.raises(InputError, match="unknown direction"):
        found.mix({"rage": 1.0})


def test_several_emotions_ask_each_direction_once_for_all_its_rows():
    asked = []

    class Watched(torch.nn.Module):
        def forward(self, h, t):
            asked.append(t.tolist())
            return h * t[:, None, None, None]

    facts = {name: getattr(bank(), name) for name in directions.ABOUT}
    shift = Directions({"anger": Watched(), "awe": Watched()}, **facts).shift(["awe", "anger", "awe"])
    h, t = noise(6, CHANNELS, SIDE, SIDE), torch.tensor([1, 2, 3, 4, 5, 6])
    torch.testing.assert_close(shift(h, t), h * t[:, None, None, None])
    assert asked == [[1, 3, 4, 6], [2, 5]]


def test_a_file_gives_back_the_bank(tmp_path):
    torch.manual_seed(0)
    network = Network(CHANNELS, 12)
    torch.nn.init.normal_(network.last.weight)
    before = bank(notes={"anger": {"pictures": 3}}, method="probe", place="up0", scale=2.5)
    before = Directions(
        {**before.shifts, "sad/ly": network}, **{k: getattr(before, k) for k in directions.ABOUT}
    )
    before.save(tmp_path / "bank.safetensors")
    after = directions.load_directions(tmp_path / "bank.safetensors")
    assert [getattr(after, name) for name in directions.ABOUT] == [
        getattr(before, name) for name in directions.ABOUT
    ]
    assert after.emotions == before.emotions
    h = noise(2, CHANNELS, SIDE, SIDE)
    for name in ("anger", "awe", "sad/ly"):  # stored in half precision
        a, b = (one.shift(name)(h, torch.tensor([600, 100])) for one in (before, after))
        torch.testing.assert_close(b, a, rtol=1e-3, atol=3e-3)


def test_without_the_directions_that_ship_there_is_a_command_for_them(tmp_path, monkeypatch):
    monkeypatch.setattr(directions, "repo_path", lambda *parts: tmp_path.joinpath(*parts))
    with pytest.raises(InputError, match=r"hspace.safetensors: no such file; .*`emolib hspace fit data"):
        directions.load_shipped_directions()
    (tmp_path / "data" / "minisd").mkdir(parents=True)
    bank().save(tmp_path / "data" / "minisd" / "hspace.safetensors")
    assert directions.load_shipped_directions().emotions == bank().emotions


def test_files_that_are_no_banks(tmp_path):
    path = tmp_path / "x.safetensors"
    with pytest.raises(InputError, match="no such file; make some with `emolib hspace fit"):
        directions.load_directions(path)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(InputError, match="not a readable safetensors file"):
        directions.load_directions(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="holds no h-space directions"):
        directions.load_directions(path)
    about = {name: getattr(bank(), name) for name in directions.ABOUT}
    about = json.dumps({**about, "kinds": {"anger": "table"}})
    save_file({"a": torch.zeros(1)}, path, metadata={"format": directions.FORMAT, "about": about})
    with pytest.raises(InputError, match="damaged"):
        directions.load_directions(path)


def test_directions_of_another_model_are_refused():
    bank().check(tiny("sd").unet)
    with pytest.raises(
        InputError, match=r"made with sd \(16 channels, text width 16\), not .* \(16 and 40\)"
    ):
        bank().check(tiny("sdxl").unet)
    with pytest.raises(InputError, match="fit them anew"):
        bank(channels=1280).check(tiny("sd").unet)


# Fitting ----------------------------------------------------------------------------------------------------


def faces():
    """Latents of four people, each neutral and with one square brighter (anger) or darker (awe)."""
    z = noise(4, 1, 4, 16, 16).expand(4, 3, 4, 16, 16).clone()
    z[:, 1, :, 4:8, 4:8] += 2.0
    z[:, 2, :, 4:8, 4:8] -= 2.0
    labels = ["neutral", "anger", "awe"] * 4
    return z.flatten(0, 1), labels, [f"person {i // 3}" for i in range(12)]


@pytest.mark.parametrize("method", directions_fit.METHODS)
def test_fitted_directions_separate_the_emotions(method):
    model, (z, labels, people) = tiny("sd"), faces()
    found = directions_fit.fit_directions(
        model, z, labels, generator=generator(0), source="neutral", groups=people, method=method, levels=2
    )
    found.check(model.unet)
    assert found.emotions == ("neutral", "anger", "awe")
    assert found.notes["anger"]["pictures"] == 4
    h = directions_fit.collect_h(model, z, [501, 1], generator=generator(1), groups=people)
    for k, t in enumerate((501, 1)):
        anger, awe = (found.shift(name)(h[k], torch.full((12,), t))[0] for name in ("anger", "awe"))
        rows = h[k].unflatten(0, (4, 3))
        assert (((rows[:, 1] - rows[:, 0]) * anger).sum((1, 2, 3)) > 0).all()
        assert (((rows[:, 2] - rows[:, 0]) * anger).sum((1, 2, 3)) < 0).all()
        assert (((rows[:, 2] - rows[:, 0]) * awe).sum((1, 2, 3)) > 0).all()


def test_the_mean_difference_of_a_bank_is_that_of_the_recorded_h():
    model, (z, labels, _) = tiny("sd"), faces()
    options = {"source": "neutral", "levels": 2, "pooled": True}
    found = directions_fit.fit_directions(model, z, labels, generator=generator(0), **options)
    h = directions_fit.collect_h(model, z, [1, 501], generator=generator(0), pooled=True).unflatten(1, (4, 3))
    expected = (h[:, :, 1] - h[:, :, 0]).mean(1)
    torch.testing.assert_close(found.shifts["anger"].delta, expected, rtol=1e-4, atol=1e-5)
    others = directions_fit.fit_directions(model, z, labels, generator=generator(0), levels=2, pooled=True)
    assert others.emotions == ("anger", "awe", "neutral")
    expected = h[:, :, 1].mean(1) - h[:, :, [0, 2]].mean((1, 2))
    torch.testing.assert_close(others.shifts["anger"].delta, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        (["anger"] * 4, {}, "two emotions at least, not of"),
        (["anger", "awe"] * 2, {"source": "fear"}, "unknown emotion to start from 'fear'"),
        (["anger", "anger", "anger", "awe"], {}, "1 pictures, at least two"),
        (["anger", "awe"] * 2, {"groups": [0, 1, 2, 3], "source": "awe"}, "'anger': 0 pairs"),
        (["anger", "awe"] * 2, {"method": "magic"}, "unknown method 'magic'"),
    ],
)
def test_pictures_that_make_no_directions(labels, options, message):
    with pytest.raises(InputError, match=message):
        directions_fit.fit_directions(
            tiny("sd"), noise(4, 4, 16, 16), labels, generator=generator(0), **options
        )
