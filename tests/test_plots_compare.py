"""Figures of comparisons: curves by run, parallel coordinates with their axes."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from matplotlib.figure import Figure

from spaceport_lab.plots import compare as plots
from spaceport_lab.plots.compare import Curve, Dimension


def texts(fig: Figure) -> list[str]:
    return [text.get_text() for ax in fig.axes for text in ax.texts]


def test_one_line_a_run_named_at_its_end() -> None:
    fig = plots.curves(
        [Curve("a", [1, 2], [20, 21]), Curve("none", [], []), Curve("b$", [1, 3], [22, 24])], 20.5
    )
    fig.draw_without_rendering()
    lines = [line for line in fig.axes[0].lines if len(line.get_xdata()) == 2 and line.get_label()[0] != "_"]
    assert [line.get_xdata().tolist() for line in lines] == [[1, 2], [1, 3]]
    assert texts(fig) == ["a 21.00 dB", "b\\$ 24.00 dB"]


def test_many_runs_have_a_legend() -> None:
    fig = plots.curves([Curve(str(i), [1, 2], [20, 20 + i]) for i in range(14)])
    fig.draw_without_rendering()
    assert texts(fig) == []
    assert len(fig.axes[0].get_legend().get_texts()) == 14


def test_nothing_to_draw_is_said() -> None:
    assert texts(plots.curves([])) == ["no run has evaluated a view"]
    assert "need two runs" in texts(plots.parallel([Dimension("a", [1, 2])], [None, 20.0]))[0]
    assert "need two runs" in texts(plots.parallel([Dimension("a", [1, 1])], [21.0, 20.0]))[0]


def test_numbers_words_and_gaps_on_parallel_axes() -> None:
    dimensions = [
        Dimension("train.blur", [0.0, 1.0, 2.0]),
        Dimension("train.strategy", ["mcmc", None, "default"]),
    ]
    fig = plots.parallel(dimensions, [20.0, 22.0, None])
    fig.draw_without_rendering()
    lines = [line for line in fig.axes[0].lines if len(line.get_xdata()) == 3]
    drawn = [np.asarray(line.get_ydata(), float) for line in lines]
    # The run without a PSNR first, the best last; 2, None and 22 dB are at their places.
    np.testing.assert_allclose(drawn[0], [1, 0, np.nan])
    np.testing.assert_allclose(drawn[1], [0, 1, 0])
    np.testing.assert_allclose(drawn[2], [0.5, np.nan, 1])
    assert lines[2].get_linewidth() > lines[1].get_linewidth()
    labels = [label.get_text() for label in fig.axes[0].get_xticklabels()]
    assert labels == ["train.\nblur", "train.\nstrategy", "PSNR [dB]"]


@pytest.mark.parametrize(
    ("values", "heights"),
    [
        ([1.0, 2.0, 3.0], [0, 0.5, 1]),
        ([0.001, 0.01, 0.1], [0, 0.5, 1]),
        ([0.0, 0.001, 0.1], [0, plots.ZERO_GAP, 1]),
        ([-1.0, 0.0, 100.0], [0, 1 / 101, 1]),
        ([5.0, None, 5.0], [0, math.nan, 0]),
    ],
)
def test_axes_are_logarithmic_where_numbers_span_much(values: list, heights: list) -> None:
    np.testing.assert_allclose(plots._placed(values)[0], heights, atol=1e-12)


def test_marks_beside_an_axis_keep_apart() -> None:
    _, marks = plots._placed([float(i) for i in range(100)])
    places = sorted(height for height, _ in marks)
    assert (places[0], places[-1]) == (0, 1)
    assert min(b - a for a, b in itertools.pairwise(places)) > 0.08
    assert plots._written(400_000.0) == "400,000"
