"""Charts of the bench: what records become, what goes over the wire, what stands in for them in exports."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hatchling.builders.wheel import WheelBuilder
from PIL import Image

from spaceport_lab.params import TrainParams
from spaceport_lab.plots.style import figure
from spaceport_lab.train.schedules import plan
from spaceport_lab.widgets import fallback, records
from spaceport_lab.widgets.canvases import Chart, Histogram
from spaceport_lab.widgets.drawing import Drawing, Series, draw


def step(number: int, loss: float = 0.1, n: int = 100) -> dict:
    return {"kind": "step", "step": number, "loss": loss, "n_gaussians": n}


def refine(number: int, **values) -> dict:
    zeros = dict.fromkeys(("cloned", "split", "pruned", "added"), 0)
    more = {"reset": False, "threshold": 2e-4, "n_before": 100}
    return {"kind": "refine", "step": number, **zeros, **more, **values}


def evaluated(number: int, psnr: float, validation: float | None = None) -> dict:
    return {"kind": "eval", "step": number, "psnr": psnr, "psnr_validation": validation}


def decoded(drawing: Drawing) -> list[np.ndarray]:
    """What the page makes of the bytes, series by series: [columns, n]."""
    values, found = np.frombuffer(drawing.data(), np.float32), []
    for series in drawing.spec()["series"]:
        columns = 3 if series["kind"] == "bars" else 2
        found.append(values[: columns * series["n"]].reshape(columns, series["n"]))
        values = values[columns * series["n"] :]
    assert len(values) == 0
    return found


def test_before_the_first_step_charts_say_so() -> None:
    for chart in (records.loss, records.psnr, records.gaussians):
        drawing = chart([], 100)
        assert drawing.say
        assert drawing.data() == b""


def test_what_goes_over_the_wire_is_what_was_recorded() -> None:
    rows = [step(10, 0.5), step(20, 0.25, 130), refine(20, cloned=10, split=20, pruned=5)]
    faint, clear = decoded(records.loss(rows, 100))
    np.testing.assert_array_equal(faint, np.array([[10, 20], [0.5, 0.25]], np.float32))
    assert clear.shape == (2, 2)
    cloned, split, pruned, count = decoded(records.gaussians(rows, 100))
    np.testing.assert_array_equal(cloned[:, 0], [20, 10, 0])
    np.testing.assert_array_equal(split[:, 0], [20, 30, 10])  # on top of what was cloned
    np.testing.assert_array_equal(pruned[:, 0], [20, -5, 0])
    np.testing.assert_array_equal(count[1], [100, 130])


def test_bars_never_reach_the_line_they_share_a_chart_with() -> None:
    drawing = records.gaussians([step(10), refine(20, split=50), refine(30, split=80, pruned=9)], 100)
    low, high = drawing.right
    assert 80 / high == pytest.approx(records.BARS_SHARE)
    assert low <= -9


def test_a_long_training_stays_a_small_message() -> None:
    rows = [step(s, 1 / s) for s in range(10, 100_010, 10)]
    drawing = records.loss(rows, 100_000)
    assert len(drawing.data()) < 20_000
    assert decoded(drawing)[0][0, -1] == 100_000


def test_psnr_shows_both_kinds_of_views() -> None:
    drawing = records.psnr([evaluated(50, 20.0, 21.0), evaluated(100, 22.0, 24.0)], 200)
    assert [s.name for s in drawing.series] == ["held out", "validation"]
    assert "22.00 dB" in drawing.title
    only = records.psnr([evaluated(50, 20.0)], 200)
    assert [s.name for s in only.series] == ["held out"]


def test_a_collapse_does_not_flatten_the_curve() -> None:
    drawing = records.psnr([evaluated(50, 3.0), evaluated(100, 30.0)], 200)
    assert drawing.y[0] > 15


def test_the_schedule_marks_now() -> None:
    p = TrainParams(max_steps=1000, coarse_to_fine="step", blur=2.0)
    drawing = records.schedule(plan(p, 1.0, 1000, 100, {}), 1000, 50)
    assert drawing.now == 50
    assert "25 %" in drawing.title
    assert "2.0 px" in drawing.title
    assert "100 %" in records.schedule(plan(p, 1.0, 1000, 100, {}), 1000, 1000).title
    share = next(s for s in drawing.series if s.axis == "left")
    assert (share.y[0], share.y[-1]) == (25, 100)


def test_gradients_are_those_of_the_last_check_that_looked() -> None:
    histogram = {"edges": [1e-5, 1e-4, 1e-3], "counts": [3, 4]}
    rows = [refine(100, histogram=histogram, split=4), refine(200, reset=True), step(210)]
    found = records.gradients(rows)
    assert found.counts.tolist() == [3, 4]
    assert found.threshold == 2e-4
    assert found.note == "step 100: 0 cloned, 4 split"
    assert records.gradients([refine(200)]) is None
    assert records.gradients([]) is None


def test_a_chart_sends_only_what_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    drawing = records.loss([step(10)], 100)
    chart = Chart(drawing)
    sent: list[dict] = []
    monkeypatch.setattr(chart, "_send", lambda message, buffers=None: sent.append(message))
    chart.show(drawing)
    assert sent == []
    chart.show(records.loss([step(10), step(20, 0.3)], 100))
    assert len(sent) == 1
    assert set(sent[0]["state"]) | {"data"} == {"spec", "data"}


def test_the_histogram_keeps_its_bins_until_there_are_others() -> None:
    histogram = Histogram()
    histogram.show(None)
    assert histogram.counts == b""
    histogram.show(records.gradients([refine(5, histogram={"edges": [1e-5, 1e-4], "counts": [7]})]))
    assert np.frombuffer(histogram.counts, np.float32).tolist() == [7]
    assert histogram.found == 2e-4


def test_matplotlib_draws_the_same(tmp_path) -> None:
    rows = [step(10), step(20, 0.05, 150), refine(20, split=50, reset=True), evaluated(20, 20.0, 21.0)]
    drawings = [chart(rows, 100) for chart in (records.loss, records.psnr, records.gaussians)]
    fig, axes = figure(9, 3, columns=3)
    for ax, drawing in zip(axes[0], drawings, strict=True):
        draw(ax, drawing)
        assert drawing.title in (ax.get_title(loc="left"), ax.get_title())
        assert ax.get_xlim() == drawing.x
    assert [line.get_ydata().tolist() for line in axes[0, 1].lines] == [[20.0], [21.0]]
    fig.savefig(tmp_path / "drawn.png")


@pytest.mark.parametrize("n_pictures", [0, 3])
def test_exports_get_one_picture_of_it_all(n_pictures: int) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(buffer, "JPEG")
    drawings = [chart([], 100) for chart in (records.loss, records.psnr, records.gaussians)]
    line = Series("a", "line", "#0072B2", np.arange(3.0), np.arange(3.0))
    drawings.append(Drawing("t", [line], (0, 2), (0, 2), right=(0, 1)))
    gradients = records.gradients([refine(5, histogram={"edges": [1e-5, 1e-4], "counts": [7]})])
    png = fallback.picture(drawings, gradients, [buffer.getvalue()] * n_pictures)
    with Image.open(io.BytesIO(png)) as image:
        red = (np.asarray(image.convert("RGB")).astype(int) - [254, 0, 0]).__abs__().sum(axis=2) < 30
    assert red.any() == (n_pictures > 0)


def test_a_long_training_is_seen_from_its_beginning() -> None:
    assert records.loss([step(10), step(500)], 30_000).x == (0, 937.5)
    assert records.loss([step(10), step(15_000)], 30_000).x == (0, 30_000)


def test_the_wheel_has_what_runs_in_the_page() -> None:
    here = Path(records.__file__).parent
    packed = {
        file.distribution_path for file in WheelBuilder(str(here.parent.parent)).recurse_included_files()
    }
    wanted = {
        f"spaceport_lab/widgets/{path.name}" for path in here.iterdir() if path.suffix in (".js", ".css")
    }
    assert len(wanted) == 5
    assert wanted <= packed
