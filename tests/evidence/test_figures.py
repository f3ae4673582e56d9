"""The visual style: what can be told apart, what is drawn, and equal bytes for equal figures."""

from __future__ import annotations

import itertools

import matplotlib
import numpy as np
import pytest

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

from cptlib.errors import CptError  # noqa: E402
from cptlib.evidence import figures  # noqa: E402


@pytest.fixture
def axes():
    with figures.style():
        fig, ax = plt.subplots()
        yield ax
        plt.close(fig)


def luminance(colour: str) -> float:
    return float(np.dot([0.2126, 0.7152, 0.0722], matplotlib.colors.to_rgb(colour)))


def test_categories_differ_in_more_than_colour():
    looks = [figures.category(k) for k in range(7)]
    for a, b in itertools.combinations(looks, 2):
        assert a["color"] != b["color"] and a["marker"] != b["marker"] and a["linestyle"] != b["linestyle"]
    with pytest.raises(CptError, match="not 7"):
        figures.category(7)


@pytest.mark.parametrize("n", [1, 2, 5, 9])
def test_ordered_colours_get_lighter_and_stay_visible(n):
    light = [luminance(c) for c in figures.ordered_colours(n)]
    assert len(light) == n and light == sorted(light) and max(light) < 0.72
    assert len(set(light)) == n
    with pytest.raises(CptError):
        figures.ordered_colours(0)


def test_style_leaves_nothing_behind():
    before = dict(matplotlib.rcParams)
    with figures.style():
        assert matplotlib.rcParams["axes.grid"]
    assert dict(matplotlib.rcParams) == before


def test_curve_draws_its_interval(axes):
    x, y = np.array([1.0, 2.0, 3.0]), np.array([2.0, 1.5, 1.2])
    line = figures.curve_with_interval(axes, x, y, y - 0.2, y + 0.1, label="a", **figures.category(1))
    (band,) = axes.collections
    points = band.get_paths()[0].vertices
    assert points[:, 1].min() == pytest.approx(1.0) and points[:, 1].max() == pytest.approx(2.1)
    assert line.get_label() == "a" and line.get_color() == figures.OKABE_ITO[1]
    figures.curve_with_interval(axes, x, y, y + 0.1, y + 0.2, bars=True)  # a biased bootstrap still draws
    assert len(axes.collections) == 2
    figures.curve_with_interval(axes, x, y)
    assert len(axes.collections) == 2


@pytest.mark.parametrize("args, words", [
    (([1, 2], [1]), "equal lengths"),
    (([1, 2], [1, 2], [0, 0]), "together"),
    (([1, 2], [1, 2], [0], [3]), "2 values like x"),
    (([1, 2], [1, 2], [0, 3], [3, 2]), "reversed at point 1"),
])
def test_curve_refuses(axes, args, words):
    with pytest.raises(CptError, match=words):
        figures.curve_with_interval(axes, *args)


def test_token_axis_has_readable_ticks_and_a_unit(axes):
    axes.plot([2e4, 5e5], [1, 2])
    figures.log_token_axis(axes)
    axes.figure.canvas.draw()
    shown = {t.get_text() for t in axes.get_xticklabels()}
    assert {"20k", "50k", "100k", "200k", "500k"} <= shown
    assert axes.get_xscale() == "log" and "(tokens)" in axes.get_xlabel()


def test_badge_has_shape_and_word(axes):
    assert figures.verdict_badge(axes, "refuted").get_text() == "▼ refuted"
    with pytest.raises(CptError, match="unknown verdict"):
        figures.verdict_badge(axes, "perhaps")


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_equal_figures_are_equal_bytes(tmp_path, suffix):
    files = []
    for k in range(2):
        with figures.style():
            fig, ax = plt.subplots(figsize=(2, 1.5))
            figures.curve_with_interval(ax, [1, 2], [1, 2], [0, 1], [2, 3], label="x")
            ax.legend()
            files.append(tmp_path / f"{k}{suffix}")
            figures.save(fig, files[-1])
            plt.close(fig)
    assert files[0].read_bytes() == files[1].read_bytes()
    assert b"<dc:date>" not in files[0].read_bytes()


def test_save_refuses_other_formats_and_leaves_nothing(tmp_path, axes):
    with pytest.raises(CptError, match=".png or .svg"):
        figures.save(axes.figure, tmp_path / "a.jpg")
    assert list(tmp_path.iterdir()) == []
