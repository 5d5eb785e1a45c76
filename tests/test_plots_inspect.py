"""Figures of the inspect stage: what they show, and that odd input still gives one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from inspected import PARAMS, make_run
from matplotlib.figure import Figure
from matplotlib.text import Text
from splats import random_splat

from spaceport_lab import inspection
from spaceport_lab.inspection.confidence import Confidence
from spaceport_lab.inspection.statistics import describe
from spaceport_lab.inspection.views import ERROR_CEILING, ViewPicture
from spaceport_lab.params import InspectParams
from spaceport_lab.plots import inspect as plots
from spaceport_lab.workspace import StageRun


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> StageRun:
    root: Path = make_run(tmp_path_factory.mktemp("data"))
    return StageRun(root, "inspect")


@pytest.fixture(scope="module")
def results(run: StageRun) -> inspection.Results:
    return inspection.results(run, InspectParams(**PARAMS["inspect"]))


def words(figure: Figure) -> str:
    figure.canvas.draw()
    return "\n".join(text.get_text() for text in figure.findobj(Text))


def test_held_out_views_stand_in_rows_with_their_figures(results: inspection.Results) -> None:
    figure = plots.heldout_views(results.pictures)
    text = words(figure)
    for picture in results.pictures:
        assert picture.name in text
        assert f"{picture.psnr:.2f} dB" in text
        assert f"{picture.ssim:.3f}" in text
    assert "grey levels" in text, "the error map has a bar with its unit"
    assert len(figure.axes) == 3 * len(results.pictures) + 1


def test_psnr_of_every_view_with_the_mean(results: inspection.Results) -> None:
    text = words(plots.psnr_per_view(results.views))
    assert all(view["name"] in text for view in results.views)
    assert f"mean {np.mean([v['psnr'] for v in results.views]):.2f} dB" in text


def test_the_map_counts_cameras_by_their_part(run: StageRun) -> None:
    given = inspection.load_inputs(run)
    text = words(plots.from_above(given))
    assert f"{len(given.heldout)} held-out cameras" in text
    assert f"{len(given.scene.cameras) - len(given.heldout)} training cameras" in text
    assert "east [m]" in text
    assert "north [m]" in text


def test_coverage_is_a_map_and_a_count(run: StageRun, results: inspection.Results) -> None:
    given = inspection.load_inputs(run)
    text = words(plots.coverage(given, results.confidence))
    assert "east [m]" in text
    assert f"of {len(given.trained)} looked at" in text
    few = (results.confidence.shown_by < 3).mean()
    assert f"{few:.1%} fewer than 3" in text
    nothing = Confidence(None, results.confidence.floats, 0)
    assert "Without training cameras" in words(plots.coverage(given, nothing))


def test_histograms_name_what_they_count(results: inspection.Results) -> None:
    text = words(plots.histograms(results.gaussians, results.statistics))
    drawn = ("nearly transparent", "huge", "needle")
    for suspect in (results.statistics["suspects"][name] for name in drawn):
        assert f"{suspect['count']:,} (" in text
    assert "longest standard deviation [m]" in text


def test_error_pictures_run_through_the_map_up_to_the_ceiling() -> None:
    levels = np.array([[0, ERROR_CEILING / 2, ERROR_CEILING, 3 * ERROR_CEILING]], np.float32)
    (none, half, most, beyond) = plots.error_picture(levels)[0]
    assert none.max() < 10
    assert none.sum() < half.sum() < most.sum()
    assert (most == beyond).all()


def test_odd_input_still_gives_a_figure_that_says_so() -> None:
    assert "no held-out views" in words(plots.heldout_views([]))
    assert "no held-out views" in words(plots.psnr_per_view([]))
    odd = np.zeros((4, 6, 3), np.uint8)
    name = "a" * 90 + "$x_{1$.jpg"
    text = words(
        plots.heldout_views([ViewPicture(name, np.inf, 1.0, odd, odd, odd[:, :, 0].astype(np.float32))])
    )
    assert "…" in text
    many = [{"name": str(i), "psnr": 20.0 + i / 100} for i in range(300)]
    assert plots.psnr_per_view(many).get_size_inches()[1] <= 12


@pytest.mark.parametrize(("n", "degree"), [(1, 0), (2, 3), (50, 1)])
def test_histograms_and_map_of_the_smallest_splats(n: int, degree: int) -> None:
    splat = random_splat(n, degree)
    words(plots.histograms(splat, describe(splat)))
    given = inspection.Inputs(splat, None, None, None, "no cameras", "units", 100)
    assert f"{n} Gaussians" in words(plots.from_above(given))
