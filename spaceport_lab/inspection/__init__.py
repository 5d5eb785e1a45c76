"""Stage 5: look at what came out.

Reads 04_compress/splat.sog, and where they exist 02_sfm and the held-out names of 03_train. Renders the
*compressed* splat from every held-out camera; writes views.json, views/, confidence.npz (how many photographs
show each Gaussian), statistics.json, advice.json, viewer.json (where a person looks from first) and
poster.jpg (what is seen from there).
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from spaceport_lab import backends, evaluation, files, sog
from spaceport_lab.cameras import Cameras, Scene, frame_in_words, read_scene
from spaceport_lab.evaluation import ViewMetrics
from spaceport_lab.gaussians import Gaussians
from spaceport_lab.inspection import confidence as confidences
from spaceport_lab.inspection.advice import Advice, advise
from spaceport_lab.inspection.confidence import Confidence
from spaceport_lab.inspection.statistics import describe
from spaceport_lab.inspection.viewpoint import Viewpoint, first_view, up_direction
from spaceport_lab.inspection.views import (
    JPEG_QUALITY,
    ViewPicture,
    empty_folder,
    file_stems,
    measure,
    read_pictures,
    read_views,
    write_pictures,
)
from spaceport_lab.params import STAGES, InspectParams
from spaceport_lab.workspace import Progress, StageRun, folder_name, read_manifest

POSTER_ASPECT = 16 / 9


@dataclass(frozen=True)
class Results:
    """What the stage made, read back for pictures and tables.

    Attributes:
        gaussians: the splat as the .sog holds it.
        views: of views.json, worst first.
        pictures: of the worst views, worst first.
        statistics: as in statistics.json.
        confidence: how well the photographs support each Gaussian.
        advice: what to do next, what matters most first.
        viewpoint: where a person looks from first.
        sog: the file itself.
        reason: why there are no held-out views; empty where there are.
    """

    gaussians: Gaussians
    views: list[dict[str, Any]]
    pictures: list[ViewPicture]
    statistics: dict[str, Any]
    confidence: Confidence
    advice: list[Advice]
    viewpoint: Viewpoint
    sog: Path
    reason: str

    def suspect_rows(self) -> list[dict[str, Any]]:
        """Gaussians that look like trouble, as a table for people."""
        return [
            {"kind": name, "Gaussians": s["count"], "share": f"{s['share']:.2%}", "rule": s["rule"]}
            for name, s in self.statistics["suspects"].items()
        ]

    def advice_rows(self) -> list[dict[str, Any]]:
        """What to do next, as a table for people."""
        return [one.row() for one in self.advice] or [Advice("nothing", "", "").row()]


@dataclass(frozen=True)
class Inputs:
    """What the stage will look at.

    Attributes:
        gaussians: the splat as the .sog holds it.
        scene: cameras and points; None where structure from motion did not run in this job.
        heldout: cameras training never saw; None where there are none.
        trained: cameras it saw; None where there are none, or where training did not run in this job.
        reason: why there are none; empty where there are.
        frame: what the coordinates are, for people.
        bytes: of the .sog.
    """

    gaussians: Gaussians
    scene: Scene | None
    heldout: Cameras | None
    trained: Cameras | None
    reason: str
    frame: str
    bytes: int

    @property
    def georeferenced(self) -> bool:
        """Whether lengths are metres and +Z is up."""
        return self.scene is not None and self.scene.georeferenced

    def rows(self) -> list[dict[str, Any]]:
        """As a table for people."""
        cameras = len(self.scene.cameras) if self.scene else 0
        return [
            {"input": "splat.sog", "value": f"{self.bytes / 1e6:,.2f} MB"},
            {"input": "Gaussians", "value": self.gaussians.n},
            {"input": "SH degree", "value": self.gaussians.sh_degree},
            {"input": "coordinates", "value": self.frame},
            {"input": "cameras", "value": cameras},
            {"input": "held-out views", "value": len(self.heldout) if self.heldout else self.reason},
        ]


def load_inputs(run: StageRun) -> Inputs:
    """Read the .sog, and the cameras where there are some.

    Raises:
        SplatFormatError: the .sog is damaged.
        WorkspaceError: the compress stage has not finished.
        ReconstructionError: the sfm stage's model is damaged.
    """
    path = run.input("compress", "splat.sog")
    gaussians = sog.read_sog(path)
    frame = frame_in_words(run.input("sfm")) if run.has("sfm") else "those of the PLY"
    return Inputs(gaussians, *_cameras(run), frame, path.stat().st_size)


def run(run: StageRun, p: InspectParams) -> Iterator[Progress]:
    """Render, measure, count.

    Raises:
        SplatFormatError: the .sog is damaged.
        WorkspaceError: the compress stage has not finished, or the folder cannot be written.
        BackendError: the rasterizer asked for cannot run here.
    """
    yield Progress(0, None, "reading splat.sog")
    given = load_inputs(run)
    backend = backends.choose_backend(p.backend)
    total = (len(given.heldout) if given.heldout else 0) + 2
    views = yield from _views(run, p, given, backend, total)
    files.write_json(run.output("views.json"), {"backend": backend, "reason": given.reason, "views": views})
    yield Progress(total - 2, total, "looking at each Gaussian through the photographs")
    _judge(run, given, backend, views)
    yield Progress(total - 1, total, "drawing the first view")
    _first_view(run, p, given, backend)
    yield Progress(total, total, "inspected")


def results(run: StageRun, p: InspectParams) -> Results:
    """Read back what the stage made.

    Raises:
        SplatFormatError: the .sog is damaged.
    """
    path = run.input("compress", "splat.sog")
    found, gaussians = read_views(run.dir), sog.read_sog(path)
    return Results(
        gaussians=gaussians,
        views=found["views"],
        pictures=read_pictures(run.dir, p.max_views),
        statistics=json.loads((run.dir / "statistics.json").read_text()),
        confidence=confidences.read(run.dir / "confidence.npz", gaussians.n),
        advice=[Advice(**one) for one in json.loads((run.dir / "advice.json").read_text())],
        viewpoint=Viewpoint.from_json(json.loads((run.dir / "viewer.json").read_text())),
        sog=path,
        reason=found["reason"],
    )


def _cameras(run: StageRun) -> tuple[Scene | None, Cameras | None, Cameras | None, str]:
    """The scene, its held-out and its training cameras, and why none is held out where that is so."""
    if not run.has("sfm"):
        return None, None, None, "no cameras: stage sfm did not run in this job"
    scene = read_scene(run.input("sfm"))
    if not run.has("train"):
        return scene, None, None, "no held-out views: stage train did not run in this job"
    split = json.loads(run.input("train", "heldout.json").read_text())
    heldout, trained = (_named(scene.cameras, split[part]) for part in ("test", "train"))
    return scene, heldout, trained, "" if heldout else "training held out no view"


def _named(cameras: Cameras, names: list[str]) -> Cameras | None:
    index = [i for i, name in enumerate(cameras.names) if name in set(names)]
    return cameras.subset(index) if index else None


def _views(
    run: StageRun, p: InspectParams, given: Inputs, backend: str, total: int
) -> Generator[Progress, None, list[dict[str, Any]]]:
    """Measure every held-out view, keep pictures of the worst; returns views.json's entries, worst first."""
    folder = empty_folder(run.output("views"))
    run.metrics |= {"psnr_heldout": None, "ssim_heldout": None}
    if given.heldout is None:
        return []
    images, stems = run.input("sfm", "images"), file_stems(given.heldout.names)
    measured: list[tuple[ViewMetrics, dict[str, str]]] = []
    for view, render, photo in measure(given.gaussians, given.heldout, images, backend):
        measured.append((view, write_pictures(folder, stems[view.name], render, photo, p.picture_size)))
        values = {"psnr": view.psnr, "ssim": view.ssim}
        yield Progress(len(measured), total, f"held-out view {view.name}", values)
    measured.sort(key=lambda entry: entry[0].psnr)
    for _, names in measured[p.max_views :]:
        for name in names.values():
            (folder / name).unlink()
    metrics = [view for view, _ in measured]
    run.metrics |= {
        "psnr_heldout": evaluation.mean_psnr(metrics),
        "ssim_heldout": evaluation.mean_ssim(metrics),
    }
    return [
        {
            "name": view.name,
            "psnr": view.psnr,
            "ssim": view.ssim,
            "pictures": {k: f"views/{n}" for k, n in names.items()} if rank < p.max_views else None,
        }
        for rank, (view, names) in enumerate(measured)
    ]


def _judge(run: StageRun, given: Inputs, backend: str, views: list[dict[str, Any]]) -> None:
    """Count and describe the Gaussians, and say what to do about what stands out."""
    gaussians = given.gaussians
    found = confidences.judge(gaussians, given.trained, backend)
    confidences.write(run.output("confidence.npz"), found)
    statistics = describe(gaussians, given.georeferenced, found)
    files.write_json(run.output("statistics.json"), statistics)
    thin = found.thin_share()
    run.metrics["thin_share"] = thin
    manifests = {stage: read_manifest(run.root / folder_name(stage)) for stage in STAGES}
    metrics = {stage: manifest.get("metrics") or {} for stage, manifest in manifests.items() if manifest}
    advice = advise(metrics, views, statistics["suspects"], thin)
    files.write_json(run.output("advice.json"), [asdict(one) for one in advice])


def _first_view(run: StageRun, p: InspectParams, given: Inputs, backend: str) -> None:
    """Choose where a person looks from first, and draw what is seen from there."""
    cameras = given.scene.cameras if given.scene else None
    viewpoint = first_view(given.gaussians, cameras, up_direction(cameras, given.georeferenced))
    files.write_json(run.output("viewer.json"), viewpoint.json())
    camera = viewpoint.camera(p.picture_size, round(p.picture_size / POSTER_ASPECT))
    render = evaluation.render_view(given.gaussians, camera, 0, backend)
    with files.atomic_path(run.output("poster.jpg")) as path:
        Image.fromarray((render * 255).round().astype(np.uint8)).save(path, quality=JPEG_QUALITY)
