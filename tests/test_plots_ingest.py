"""Figures of the ingest stage, from real judged photographs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from pictures import exif, good_set, gps_ifd, save, texture
from PIL import Image, ImageFilter

from spaceport_lab import ingest
from spaceport_lab.params import IngestParams
from spaceport_lab.plots import ingest as plots
from spaceport_lab.workspace import StageRun


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> StageRun:
    """Six good photographs, a blurred one, text named .jpg, and one with GPS far away."""
    folder = tmp_path_factory.mktemp("judged")
    source = good_set(folder / "in", 6)
    blurred = Image.fromarray(texture(30)).filter(ImageFilter.GaussianBlur(5))
    save(source / "blurred.jpg", np.asarray(blurred), exif=exif(gps=gps_ifd(46.5002, 7.5002)))
    save(source / "far.jpg", texture(31), exif=exif(gps=gps_ifd(10.0, 120.0)))
    (source / "words.jpg").write_text("words, only words")
    run = StageRun(folder / "runs" / "job", "ingest")
    run.dir.mkdir(parents=True)
    list(ingest.run(run, IngestParams(source=str(source))))
    return run


def texts(figure: Figure) -> list[str]:
    """Every text of a drawn figure."""
    figure.canvas.draw()
    found = [t.get_text() for ax in figure.axes for t in (ax.title, ax.xaxis.label, *ax.texts)]
    return [text for ax in figure.axes for text in [ax.get_title(loc="left")]] + found


def test_contact_sheet_marks_what_is_left_out(judged: StageRun) -> None:
    figure = plots.contact_sheet(ingest.read_photos(judged), judged.dir / "thumbnails")
    shown = texts(figure)
    assert sum(ax.get_visible() for ax in figure.axes) == 9
    assert {"blurred", "not an image", "unreadable"} <= set(shown)
    assert {"good_0.jpg", "words.jpg"} <= set(shown)
    assert sum(bool(ax.images) for ax in figure.axes) == 8


def test_contact_sheet_of_many_keeps_the_bad_ones(judged: StageRun) -> None:
    photos = ingest.read_photos(judged) + [
        {**ingest.read_photos(judged)[1], "source": f"more_{i:03d}.jpg"} for i in range(100)
    ]
    figure = plots.contact_sheet(photos, judged.dir / "thumbnails")
    assert sum(ax.get_visible() for ax in figure.axes) == plots.SHEET_MOST
    assert "words.jpg" in texts(figure)
    assert "60 of 109" in figure.get_supxlabel()


def test_gps_map_is_in_metres_and_true_to_scale(judged: StageRun) -> None:
    figure = plots.gps_map(ingest.read_photos(judged))
    above = figure.axes[0]
    assert above.get_aspect() == 1
    figure.canvas.draw()
    assert "7 positions from above, 1 not believed" in texts(figure)
    x, y = above.lines[0].get_data()
    assert np.ptp(y) == pytest.approx(5 * 11.12, abs=0.3)
    assert 7 < np.ptp(x) < 16


def test_footprints_cover_what_they_cover() -> None:
    """Three squares of 40 m in a row, 20 m apart: two thirds of the middle are seen twice or more."""
    square = np.array([(-20, -20), (20, -20), (20, 20), (-20, 20)])
    views = [
        {"enu": [20.0 * k, 0.0, 100.0], "footprint": (square + np.array([20 * k, 0])).tolist()}
        for k in range(3)
    ]
    flight = {"views": views, "gsd_cm": 2.5, "words": ["…"]}
    figure = plots.footprint_map(flight)
    path, seen = figure.axes[:2]
    assert len(path.patches) == 3
    assert path.get_aspect() == seen.get_aspect() == 1
    assert "a pixel covers 2.5 cm" in seen.get_title(loc="left")
    shown = seen.images[0]
    count, (west, east, south, north) = shown.get_array().filled(0), shown.get_extent()
    cell = (east - west) * (north - south) / count.size
    assert count.max() == 2
    assert (count > 0).sum() * cell == pytest.approx(80 * 40, rel=0.03)
    assert (count == 2).sum() * cell == pytest.approx(40 * 40, rel=0.05)


def test_quality_has_a_bar_for_each_that_could_be_read(judged: StageRun) -> None:
    figure = plots.quality(ingest.read_photos(judged))
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    assert len(heights) == 8
    photos = [p for p in ingest.read_photos(judged) if p["sharpness"] is not None]
    lowest = photos[int(np.argmin(heights))]
    assert lowest["source"] == "blurred.jpg"
    assert np.median(heights) == pytest.approx(1)


def test_nothing_to_draw_is_said(tmp_path: Path) -> None:
    for figure, words in (
        (plots.contact_sheet([], tmp_path), "no photographs"),
        (plots.gps_map([]), "no GPS"),
        (plots.footprint_map({"views": [], "words": ["No GPS: nothing known."]}), "No GPS"),
        (plots.quality([]), "no photograph could be read"),
    ):
        assert any(words in text for text in texts(figure))


def test_masks_are_drawn_over_their_photographs(judged: StageRun, tmp_path: Path) -> None:
    photos = ingest.read_photos(judged)
    assert "no photograph has a mask" in " ".join(texts(plots.masked(photos, judged.dir)))
    (tmp_path / "thumbnails").symlink_to(judged.dir / "thumbnails")
    for number, top in ((0, 150), (1, 30)):
        mask = np.full((300, 400), 255, np.uint8)
        mask[:top] = 0
        save(tmp_path / "masks" / f"good_{number}.jpg.png", mask)
    figure = plots.masked(photos, tmp_path)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["good_0.jpg: 50%", "good_1.jpg: 10%"]
    assert f"in 2 of {len(photos)} photographs" in figure.get_supxlabel()
    shown = figure.axes[0].images[0].get_array()
    rows = len(shown)
    tint = shown[: rows // 3].mean(axis=(0, 1)) - shown[2 * rows // 3 :].mean(axis=(0, 1))
    assert tint[0] > 40 > tint[2]
