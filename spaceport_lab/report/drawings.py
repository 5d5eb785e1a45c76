"""Which pictures the report shows of each stage, and pictures as parts of a page.

The one place to add a picture: an entry in DRAWINGS.
"""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from spaceport_lab import ingest, inspection, runcard, sfm, train
from spaceport_lab.cameras import read_scene
from spaceport_lab.inspection import confidence
from spaceport_lab.plots import compress as compress_plots
from spaceport_lab.plots import ingest as ingest_plots
from spaceport_lab.plots import inspect as inspect_plots
from spaceport_lab.plots import sfm as sfm_plots
from spaceport_lab.plots import train as train_plots
from spaceport_lab.sog import read_sog
from spaceport_lab.train import results
from spaceport_lab.viewer import data_url
from spaceport_lab.workspace import StageRun

PICTURE_SHARE = 380_000
"""Bytes of the page all drawings together may take, as data URLs; held-out views get what is left."""

SCALES = ((1.0, 1.0), (0.8, 1.0), (0.65, 1.0), (0.5, 1.0), (0.5, 0.75), (0.35, 0.5), (0.2, 0.3))
"""Photographic drawings and charts are made smaller by these until they fit; charts last: they are read."""

DPI = 130
"""Of the pixels drawn."""

SHOWN_DPI = 106
"""Of the page: a figure of 9.6 inches then fills the width of a section."""


@dataclass(frozen=True)
class Drawing:
    """A picture of the report.

    Attributes:
        stage: whose section it stands in.
        title: heading; with `alt` it is the alternative text.
        alt: what there is to see, for who cannot see it.
        draw: from the stage's run; None where this run has nothing of the kind.
        photographic: holds photographs, whose colours a dark page must not change.
    """

    stage: str
    title: str
    alt: str
    draw: Callable[[StageRun], Figure | None]
    photographic: bool = False


@dataclass(frozen=True)
class Picture:
    """A drawing as it stands in the page.

    Attributes:
        title, alt, photographic: of the drawing.
        url: data URL; empty where it could not be drawn.
        width, height: pixels at which it is shown.
        problem: why it could not be drawn; empty where it could.
    """

    title: str
    alt: str
    photographic: bool
    url: str = ""
    width: int = 0
    height: int = 0
    problem: str = ""


def _contact_sheet(run: StageRun) -> Figure:
    return ingest_plots.contact_sheet(ingest.read_photos(run), run.dir / "thumbnails")


def _model(run: StageRun) -> Figure:
    return sfm_plots.model(read_scene(run.dir), sfm.read_registration(run))


def _fit(run: StageRun) -> Figure:
    return sfm_plots.fit(sfm.read_registration(run), read_scene(run.dir))


def _curves(run: StageRun) -> Figure:
    entry = (runcard.read(run.root) or {}).get("stages", {}).get("train", {})
    return train_plots.curves(train.records(run), (entry.get("metrics") or {}).get("stopped_by") or "")


def _compression(run: StageRun) -> dict:
    return json.loads((run.dir / "compression_report.json").read_text())


def _histograms(run: StageRun) -> Figure:
    statistics = json.loads((run.dir / "statistics.json").read_text())
    return inspect_plots.histograms(read_sog(run.input("compress", "splat.sog")), statistics)


def _coverage(run: StageRun) -> Figure | None:
    path = run.dir / "confidence.npz"
    if not path.exists():  # a run of an older version
        return None
    given = inspection.load_inputs(run)
    found = confidence.read(path, given.gaussians.n)
    return None if found.shown_by is None else inspect_plots.coverage(given, found)


DRAWINGS: tuple[Drawing, ...] = (
    Drawing(
        "ingest",
        "Contact sheet",
        "Every photograph small; those left out are marked with the reason",
        _contact_sheet,
        photographic=True,
    ),
    Drawing(
        "ingest",
        "Where the photographs were taken",
        "GPS positions from above in flight order, and heights along the way",
        lambda run: ingest_plots.gps_map(ingest.read_photos(run)),
    ),
    Drawing(
        "sfm",
        "Cameras and points",
        "Sparse points in their colours with every camera, from above and from the side",
        _model,
        photographic=True,
    ),
    Drawing(
        "sfm",
        "How well the model fits",
        "Points seen and reprojection error of each photograph, and distances to GPS",
        _fit,
    ),
    Drawing(
        "train",
        "Loss and held-out PSNR",
        "Training loss falling and PSNR of held-out views rising over the steps; the best is marked",
        _curves,
    ),
    Drawing(
        "train",
        "One view on the way",
        "A view that was not trained on, rendered at a few steps from first to last, and its photograph",
        lambda run: train_plots.journey(results.journey(run)),
        photographic=True,
    ),
    Drawing(
        "train",
        "Number of Gaussians",
        "Gaussians over the steps, and what each densification added and removed",
        lambda run: train_plots.gaussians(train.records(run)),
    ),
    Drawing(
        "compress",
        "Where the bytes are",
        "Bytes of each field in the PLY and in the SOG, and of each file of the SOG",
        lambda run: compress_plots.bytes_per_field(_compression(run)),
    ),
    Drawing(
        "compress",
        "Held-out PSNR before and after",
        "PSNR of each held-out view before and after compression",
        lambda run: compress_plots.psnr_per_view(_compression(run)),
    ),
    Drawing(
        "inspect",
        "What the splat is made of",
        "Histograms of opacity, size and elongation, and strength of the SH bands; suspects are marked",
        _histograms,
    ),
    Drawing(
        "inspect",
        "Coverage",
        "Map of how many training photographs show each place, and how many Gaussians are shown by how many",
        _coverage,
    ),
)


def draw_all(root: Path, stages: Sequence[str]) -> dict[str, list[Picture]]:
    """The pictures of every stage in `stages`, together at most PICTURE_SHARE bytes.

    A drawing that fails leaves its reason in its place: one odd figure must not cost a whole run its report.
    """
    drawn: list[tuple[Drawing, np.ndarray | None, str]] = []
    for drawing in DRAWINGS:
        if drawing.stage not in stages:
            continue
        try:
            figure = drawing.draw(StageRun(root, drawing.stage))
            if figure is not None:
                drawn.append((drawing, pixels(figure), ""))
        except Exception as error:
            drawn.append((drawing, None, f"{type(error).__name__}: {error}"))
    by_stage: dict[str, list[Picture]] = {stage: [] for stage in stages}
    for (drawing, _, _), picture in zip(drawn, _encode_all(drawn), strict=True):
        by_stage[drawing.stage].append(picture)
    return by_stage


def _encode_all(drawn: Sequence[tuple[Drawing, np.ndarray | None, str]]) -> list[Picture]:
    """All drawings encoded, at the first of SCALES at which they fit together."""
    encoded = functools.cache(lambda i, scale: _encode(*drawn[i], scale))
    pictures: list[Picture] = []
    for photographic, chart in SCALES:
        pictures = [
            encoded(i, photographic if d.photographic else chart) for i, (d, _, _) in enumerate(drawn)
        ]
        if sum(len(picture.url) for picture in pictures) <= PICTURE_SHARE:
            break
    return pictures


def pixels(figure: Figure) -> np.ndarray:
    """A figure as an image [H, W, 3], 8 bits."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return np.asarray(Image.open(buffer).convert("RGB"))


def webp_url(image: np.ndarray, quality: int, lossless: bool = False) -> str:
    """An image [H, W, 3] as a WebP data URL."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(
        buffer, "WEBP", quality=100 if lossless else quality, lossless=lossless, method=4
    )
    return data_url(buffer.getvalue(), "image/webp")


def _encode(drawing: Drawing, image: np.ndarray | None, problem: str, scale: float) -> Picture:
    if image is None:
        return Picture(drawing.title, drawing.alt, drawing.photographic, problem=problem)
    height, width = image.shape[:2]
    small = image
    if scale < 1:
        size = (round(width * scale), round(height * scale))
        small = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
    url = webp_url(small, quality=76 if drawing.photographic else 84)
    if not drawing.photographic:
        # Lines and letters are sharper without loss, and often smaller too.
        sharp = webp_url(small, quality=100, lossless=True)
        url = sharp if len(sharp) < 1.5 * len(url) else url
    return Picture(
        drawing.title,
        drawing.alt,
        drawing.photographic,
        url,
        round(width * SHOWN_DPI / DPI),
        round(height * SHOWN_DPI / DPI),
    )
