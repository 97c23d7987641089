"""Figures: what is drawn must be what was given (areas, positions, numbers), and labels must be readable."""

import itertools
import json
import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pytest

mpl.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from PIL import Image  # noqa: E402

from emolib.course.figures import emotions, labels, pictures, style
from emolib.emotions import facs, sets
from emolib.metrics import estimates, measured  # noqa: E402
from emolib.runtime import InputError  # noqa: E402


@pytest.fixture(autouse=True)
def clean():
    with mpl.rc_context():
        style.use()
        yield
    plt.close("all")


def area(patch):
    x, y = patch.get_xy()[:-1].T
    return 0.5 * abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))


def texts(ax):
    return [t.get_text() for t in ax.texts if t.get_text()]


def test_rose_areas_are_proportional_to_counts():
    counts = {label: i + 1 for i, label in enumerate(sets.PLUTCHIK24)}
    ax = emotions.plutchik_wheel(counts)
    order = [x for petal in sets.PLUTCHIK8 for x in reversed(sets.PETALS[petal])]
    areas = np.array([area(p) for p in ax.patches])
    ratio = areas / np.array([counts[x] for x in order])
    assert len(areas) == 24 and np.allclose(ratio, ratio[0], rtol=2e-3)
    assert "joy\n6 (2%)" in texts(ax)  # 1 + 2 + 3 of 300
    assert "anticipation\n69 (23%)" in texts(ax)


def test_rose_takes_missing_labels_and_refuses_strange_ones():
    ax = emotions.plutchik_wheel({"joy": 3})
    assert "joy\n3 (100%)" in texts(ax) and "anger\n0 (0%)" in texts(ax)
    assert len(texts(emotions.plutchik_wheel({}))) == 8
    with pytest.raises(InputError, match="'love' is not one of Plutchik's 24"):
        emotions.plutchik_wheel({"love": 1})


def test_lines_go_through_the_numbers_and_show_their_intervals():
    ax = style.lines([1, 2], {"a": [(0.5, 0.4, 0.8, 9), (0.6, 0.5, 0.7, 9)], "b": [1, 2]}, reference=0.3)
    drawn = {c.get_label(): c for c in ax.containers}
    np.testing.assert_allclose(drawn["a"].lines[0].get_ydata(), [0.5, 0.6])
    ((bars,), no_bars) = drawn["a"].lines[2], drawn["b"].lines[2]
    np.testing.assert_allclose([segment[:, 1] for segment in bars.get_segments()], [[0.4, 0.8], [0.5, 0.7]])
    np.testing.assert_allclose(drawn["b"].lines[0].get_ydata(), [1, 2])
    assert not no_bars and len(ax.get_legend().get_texts()) == 2


def test_wheel_names_all_labels_and_primary_dyads():
    shown = set(texts(emotions.plutchik_wheel()))
    assert shown == {*sets.PLUTCHIK24, *(n for n, d in sets.DYADS.items() if d.order == "primary")}


def boxes(ax, made):
    renderer = ax.figure.canvas.get_renderer()
    return [t.get_window_extent(renderer) for t in made]


def test_spread_labels_do_not_overlap_and_stay_inside():
    ax = style.axes_of(None, (6, 5))
    ax.set(xlim=(-1, 1), ylim=(-1, 1))
    rng = np.random.default_rng(0)
    x, y = rng.normal(0, 0.15, size=(2, 24))
    made = labels.spread(ax, x, y, sets.PLUTCHIK24)
    found = boxes(ax, made)
    assert not any(a.overlaps(b) for a, b in itertools.combinations(found, 2))
    frame = ax.get_window_extent()
    assert all(frame.x0 - 1 <= b.x0 and b.x1 <= frame.x1 + 1 for b in found)
    assert all(frame.y0 - 1 <= b.y0 and b.y1 <= frame.y1 + 1 for b in found)


def test_spread_leaves_lonely_labels_beside_their_points():
    ax = style.axes_of(None, (6, 5))
    ax.set(xlim=(0, 10), ylim=(0, 10))
    made = labels.spread(ax, [2, 2], [2, 8], ["one", "two"])
    for text, y in zip(made, (2, 8), strict=True):
        assert text.get_position()[1] == pytest.approx(y) and 2 < text.get_position()[0] < 3
    assert not ax.lines


def test_coinciding_points_still_part():
    ax = style.axes_of(None, (6, 5))
    ax.set(xlim=(-1, 1), ylim=(-1, 1))
    found = boxes(ax, labels.spread(ax, [0] * 5, [0] * 5, ["joy", "trust", "fear", "awe", "rage"]))
    assert not any(a.overlaps(b) for a, b in itertools.combinations(found, 2))


def test_density_cells_are_centred_on_whole_numbers_and_sum_to_one():
    ax = emotions.va_density([-3, 3, 3, 0], [0, 6, 6, 2])
    mesh = ax.collections[0]
    shares = mesh.get_array().reshape(7, 7)
    assert shares.sum() == pytest.approx(1) and shares[6, 6] == 0.5 and shares[0, 0] == 0.25
    assert shares[2, 3] == 0.25  # arousal 2, valence 0
    assert ax.get_xlim() == (-3.5, 3.5) and ax.get_ylim() == (-0.5, 6.5)
    fine = emotions.va_density([0.1, -0.2], [0.3, 0.9], scale="signed").collections[0]
    assert fine.get_array().size == 1600 and fine.get_array().sum() == pytest.approx(1)


def test_points_are_drawn_where_they_are():
    ax = style.axes_of(None, (6, 5))
    ax.set(xlim=(-1, 1), ylim=(-1, 1))
    emotions.points(["joy", "anger"], [[0.5, 0.2], [-0.5, 0.6]], ax=ax)
    dots = [line.get_xydata()[0].tolist() for line in ax.lines if line.get_marker() == "o"]
    assert dots == [[0.5, 0.2], [-0.5, 0.6]]
    assert texts(ax) == ["joy", "anger"]


def test_means_come_with_both_intervals_inside_the_axes():
    means = estimates.label_means(["joy"] * 4 + ["fear"] * 4, np.arange(16.0).reshape(8, 2), draws=50)
    ax = emotions.va_means(means)
    bars = [line.get_xydata() for line in ax.lines if len(line.get_xydata()) == 2]
    k = means.names.index("joy")
    joy = [[means.low[k, 0], means.mean[k, 1]], [means.high[k, 0], means.mean[k, 1]]]
    assert any(np.allclose(bar, joy) for bar in bars)
    (x0, x1), (y0, y1) = ax.get_xlim(), ax.get_ylim()
    assert all(x0 < x < x1 and y0 < y < y1 for bar in bars for x, y in bar)
    ax = emotions.label_intervals(means, axis=1)
    assert texts(ax) == ["n = 4", "n = 4"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["fear", "joy"]


def test_measured_keeps_what_is_true_and_refuses_the_rest(tmp_path, monkeypatch):
    monkeypatch.setenv("EMOLIB_HOME", str(tmp_path))
    m = measured.Measured("01")
    m.add("rate", 0.5, 0.4, 0.6, 12)
    m.add_means("mean", estimates.label_means(["joy", "joy"], [1, 3], draws=20))
    assert m.table().loc["rate"].tolist() == [0.5, 0.4, 0.6, 12]
    assert m.table().loc["mean: joy", "value"] == 2 and m.table().loc["mean: joy", "n"] == 2
    for row in (("rate", 1, 0, 2, 3), ("b", 1, 2, 3, 4), ("c", float("nan"), 0, 1, 2), ("d", 1, 0, 2, 0)):
        with pytest.raises(InputError):
            m.add(*row)
    m.add("one person", 0.5, -np.inf, np.inf, 4)
    path = m.write()
    assert path == tmp_path / "reports" / "data" / "01.json"
    found = json.loads(path.read_text())
    assert found["lesson"] == "01" and found["measured"][:-1] == m.rows[:-1]
    assert found["measured"][-1] == {"name": "one person", "value": 0.5, "low": None, "high": None, "n": 4}


def test_au_heatmap_drops_silent_units_and_prints_the_rest():
    matrix = np.zeros((2, len(facs.AUS)))
    matrix[0, facs.AUS.index("AU12")] = 0.8
    matrix[1, facs.AUS.index("AU4")] = 0.64
    matrix[1, facs.AUS.index("AU20")] = 0.01
    ax = emotions.au_heatmap(matrix, ["joy", "anger"])
    assert [t.get_text() for t in ax.get_xticklabels()] == ["4 brow lowerer", "12 lip corner puller"]
    assert sorted(texts(ax)) == ["0.6", "0.8"]


def test_heatmap_skips_blanks_and_missing():
    ax = style.heatmap([[0, 1], [np.nan, 2]], ["a", "b"], ["c", "d"], fmt="{:.0f}")
    assert texts(ax) == ["1", "2"]
    with pytest.raises(ValueError, match="(?i)shape"):
        style.heatmap([[1, 2]], ["a", "b"], ["c"])


def test_intervals_and_shares():
    ax = style.intervals(["a", "b"], [1, 2], [0, 1.5], [3, 2.5], notes=["n = 3", "n = 4"])
    bars = [line.get_xdata().tolist() for line in ax.lines if len(line.get_xdata()) == 2]
    assert bars == [[0, 3], [1.5, 2.5]] and texts(ax) == ["n = 3", "n = 4"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # first name on top
    ax = style.shares([("hair", ["long", "bald"], [3, 1])])
    assert [p.get_width() for p in ax.patches] == [0.75, 0.25]
    assert texts(ax) == ["long 75%", "bald 25%"]


def test_contact_sheet_puts_every_picture_in_its_cell():
    red, blue = Image.new("RGB", (20, 10), "red"), np.full((10, 10, 3), (0, 0, 255), np.uint8)
    names = {"rows": ["a", "b"], "columns": ["x", "y"]}
    ax = pictures.contact_sheet([[red, None], [blue, red]], **names, size=20, gap=2)
    sheet = ax.images[0].get_array()
    assert sheet.shape == (42, 42, 3)
    assert sheet[10, 10].tolist() == [255, 0, 0] and sheet[2, 10].tolist() == [255] * 3  # keeps its shape
    assert sheet[10, 32].tolist() == [255] * 3  # the empty cell
    assert (sheet[22:, :20] == (0, 0, 255)).all()  # scaled up to fill
    assert [t.get_text() for t in ax.get_xticklabels()] == ["x", "y"]


def test_figures_load_no_torch():
    modules = "emolib.course.figures.emotions, emolib.course.figures.pictures"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_estimates_show_values_intervals_and_n():
    ax = style.estimates({"a": (0.5, 0.2, 0.7, 12), "b": (1.0, 1.0, 1.0, 3)})
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b"]
    assert [t.get_text() for t in ax.texts] == ["n = 12", "n = 3"]
    assert list(ax.lines[0].get_xdata()) == [0.2, 0.7] and ax.lines[1].get_xdata()[0] == 0.5
