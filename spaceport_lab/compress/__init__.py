"""Stage 4: a splat as small as it gets, and what that cost.

Reads 03_train/splat.ply (or any 3DGS PLY), writes splat.sog, the same unbundled in sog/, and a report of
bytes, errors of every field, and held-out PSNR before and after, all measured on the file as decoded.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from spaceport_lab import backends, evaluation, files, sog
from spaceport_lab.compress.report import Made, error_rows, make_report, report_text
from spaceport_lab.compress.views import Views, measure, no_verdict, read_views, seen, verdict
from spaceport_lab.errors import QualityGateError
from spaceport_lab.evaluation import ViewMetrics
from spaceport_lab.gaussians import Gaussians, read_ply_antialias, read_ply_valid
from spaceport_lab.images import load_rgb
from spaceport_lab.params import CompressParams
from spaceport_lab.sog.sogs import check_sogs, compress_with_sogs
from spaceport_lab.workspace import Progress, StageRun

SOGS = "sogs"
"""The backend that is PlayCanvas' own writer; and, in the report, the setting that it has."""


@dataclass(frozen=True)
class Results:
    """What the stage made, read back for pictures and tables.

    Attributes:
        report: as in compression_report.json.
        original: the splat that was compressed, in the order of the SOG.
        decoded: the SOG.
        errors: of every field; none where sogs wrote, which says not which Gaussian became which.
    """

    report: dict[str, Any]
    original: Gaussians
    decoded: Gaussians
    errors: dict[str, sog.FieldError]


@dataclass(frozen=True)
class Attempt:
    """One setting tried: its file in memory and its held-out verdict."""

    encoded: sog.Encoded
    heldout: dict[str, Any]


def run(run: StageRun, p: CompressParams) -> Iterator[Progress]:
    """Compress, decode, compare, report.

    Raises:
        SplatFormatError: the PLY is no splat, truncated, or holds no usable row.
        WorkspaceError: there is no trained splat and no PLY, or the folder cannot be written.
        BackendError: the rasterizer or the writer asked for cannot run here.
    """
    tries = len(sog.SETTINGS) if p.setting == "auto" else 1
    total = tries * (p.iterations + 6) + 8
    states = _stages(run, p)
    for step, state in enumerate(states):
        yield Progress(min(step, total - 1), total, state.message, state.values)
    yield Progress(total, total, "compressed", {"ratio": run.metrics["ratio"]})


def _stages(run: StageRun, p: CompressParams) -> Iterator[Progress]:
    if p.backend == SOGS:
        check_sogs()
    backend = _rasterizer(p)
    source = _source(run, p)
    yield Progress(0, None, f"reading {source.name}")
    gaussians, dropped = read_ply_valid(source)
    if dropped.n:
        run.warn(f"{source.name}: {dropped}: left out")
    views = read_views(run)
    antialias = read_ply_antialias(source)
    chosen, attempt, tried = yield from _attempts(run, p, gaussians, views, backend, antialias)
    encoded = attempt.encoded
    bundle, folder = run.output("splat.sog"), run.output("sog")
    sog.write_folder(folder, encoded.files)
    sog.write_bundle(bundle, encoded.files)
    yield Progress(0, None, "comparing what was written, field by field")
    decoded = sog.read_sog(bundle)
    if len(encoded.far):
        run.warn(
            f"{source.name}: {len(encoded.far):,} of {gaussians.n:,} splats lie far outside the scene: pulled"
            " in along the line to its middle and shrunk alike, so that the others keep their precision"
        )
    if decoded.n < gaussians.n:
        run.warn(f"{source.name}: sogs left out {gaussians.n - decoded.n:,} of {gaussians.n:,} splats")
    errors: dict[str, sog.FieldError] = {}
    if len(encoded.order):
        errors = sog.field_errors(gaussians, decoded, encoded.order, encoded.far, values=False)
    setting = {"name": chosen, "tried": tried}
    made = Made(encoded, decoded.n, bundle.stat().st_size, errors, attempt.heldout, setting)
    report = make_report(source, gaussians, dropped, made)
    files.write_json(run.output("compression_report.json"), report)
    files.write_text(run.output("compression_report.txt"), report_text(report))
    _judge(run, p, report)


def _rasterizer(p: CompressParams) -> str:
    """What renders views: sogs has its own needs, and where it runs so does gsplat."""
    return backends.choose_backend("auto" if p.backend == SOGS else p.backend)


def options(
    p: CompressParams, setting: str, backend: str = "cpu", *, antialias: bool = False
) -> sog.SogOptions:
    """How the writer is told: the setting's values, overridden by what the params say themselves."""
    base = sog.SETTINGS[setting]
    return replace(
        base,
        sh_degree=min(base.sh_degree, p.sh_degree),
        sh_palette=p.sh_palette,
        iterations=p.iterations,
        seed=p.seed,
        antialias=antialias,
        pull_far=p.far_splats == "pull",
        device=backend,
    )


def _attempts(
    run: StageRun, p: CompressParams, gaussians: Gaussians, views: Views, backend: str, antialias: bool
) -> Generator[Progress, None, tuple[str, Attempt, dict[str, Any]]]:
    """The setting that is used, what it gave, and for `auto` what was tried, by name."""
    weights, before = None, None
    if views.train is not None and gaussians.sh_degree and p.sh_degree and p.backend != SOGS:
        yield Progress(0, None, "looking which Gaussians the training views see")
        weights = seen(gaussians, views.train)
    if views.heldout is not None:
        yield Progress(0, None, f"rendering {len(views.heldout)} held-out views before")
        before = measure(gaussians, views, backend)
    if p.backend == SOGS:
        encoded = yield from _with_sogs(gaussians, p)
        attempt = yield from _judged(SOGS, encoded, views, before, backend)
        return SOGS, attempt, {}

    def make(setting: str) -> Generator[Progress, None, sog.Encoded]:
        return sog.encode(gaussians, options(p, setting, backend, antialias=antialias), weights)

    setting = p.setting
    if setting == "auto" and before is not None:
        return (yield from _smallest(run, p, make, views, before, backend))
    if setting == "auto":
        setting = "balanced"
        run.warn(f"compress.setting auto needs held-out views to judge by: balanced is used ({views.reason})")
    encoded = yield from make(setting)
    attempt = yield from _judged(setting, encoded, views, before, backend)
    return setting, attempt, {}


def _with_sogs(gaussians: Gaussians, p: CompressParams) -> Generator[Progress, None, sog.Encoded]:
    """PlayCanvas' writer; of its settings only the SH degree is ours to choose."""
    yield Progress(0, None, "PlayCanvas' sogs at work")
    degree = p.sh_degree if p.setting == "auto" else options(p, p.setting).sh_degree
    made = compress_with_sogs(gaussians.with_sh_degree(degree))
    nobody = np.empty(0, np.intp)
    return sog.Encoded(dict(made.files), nobody, nobody)


def _smallest(
    run: StageRun,
    p: CompressParams,
    make: Callable[[str], Generator[Progress, None, sog.Encoded]],
    views: Views,
    before: list[ViewMetrics],
    backend: str,
) -> Generator[Progress, None, tuple[str, Attempt, dict[str, Any]]]:
    """The smallest of all settings that loses little enough; where none does, the one that loses least."""
    made = {}
    for setting in sog.SETTINGS:
        made[setting] = yield from make(setting)
    sizes = {setting: sum(map(len, encoded.files.values())) for setting, encoded in made.items()}
    tried: dict[str, Any] = {}
    best, kept = "", None
    for setting in sorted(made, key=sizes.__getitem__):
        attempt = yield from _judged(setting, made[setting], views, before, backend)
        loss = attempt.heldout["loss"]
        tried[setting] = {"bytes": sizes[setting], "loss": loss}
        if kept is None or loss < kept.heldout["loss"] or loss <= p.auto_max_loss:
            best, kept = setting, attempt
        if loss <= p.auto_max_loss:
            return best, kept, tried
    run.warn(
        f"no setting stays under a loss of {p.auto_max_loss:g} dB (compress.auto_max_loss): "
        f"{best} is used, which loses {tried[best]['loss']:.2f} dB"
    )
    return best, kept, tried


def _judged(
    setting: str, encoded: sog.Encoded, views: Views, before: list[ViewMetrics] | None, backend: str
) -> Generator[Progress, None, Attempt]:
    """What a file as written costs in held-out views."""
    if before is None:
        return Attempt(encoded, no_verdict(views.reason))
    yield Progress(0, None, f"rendering {len(before)} held-out views after ({setting})")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "splat.sog"
        sog.write_bundle(path, encoded.files)
        decoded = sog.read_sog(path)
    return Attempt(encoded, verdict(before, measure(decoded, views, backend)))


def _source(run: StageRun, p: CompressParams) -> Path:
    return Path(p.ply).expanduser() if p.ply else run.input("train", "splat.ply")


def load_input(run: StageRun, p: CompressParams) -> tuple[Gaussians, list[dict[str, Any]]]:
    """The splat that will be compressed, and a table of what it is.

    Raises:
        SplatFormatError: the PLY is no splat, truncated, or holds no usable row.
        WorkspaceError: there is no trained splat and no PLY.
    """
    source = _source(run, p)
    gaussians, dropped = read_ply_valid(source)
    rows = {
        "file": source.name,
        "bytes": source.stat().st_size,
        "Gaussians": dropped.of,
        "left out for NaN or Inf": dropped.n,
        "SH degree": gaussians.sh_degree,
        "numbers per Gaussian": 14 + 3 * gaussians.shN.shape[1],
    }
    return gaussians, [{"input": name, "value": value} for name, value in rows.items()]


def _judge(run: StageRun, p: CompressParams, report: dict[str, Any]) -> None:
    loss = report["heldout"]["loss"]
    run.metrics |= {
        "n_gaussians": report["output"]["n_gaussians"],
        "bytes": report["output"]["bytes"],
        "ply_bytes": report["input"]["bytes"],
        "ratio": report["ratio"],
        "psnr_heldout": report["heldout"]["psnr_after"],
    }
    run.gate(
        report["ratio"] >= p.min_ratio,
        QualityGateError(
            "the .sog is not small enough beside its PLY",
            got=f"{report['ratio']:.2f} times smaller",
            expected=f"at least {p.min_ratio:g} times (compress.min_ratio)",
            hint="take compress.setting small, or lower compress.sh_degree",
        ),
    )
    run.gate(
        loss is None or loss <= p.max_psnr_loss,
        QualityGateError(
            "compressing cost too much picture quality",
            got=f"held-out PSNR fell by {loss or 0:.2f} dB",
            expected=f"at most {p.max_psnr_loss:g} dB (compress.max_psnr_loss)",
            hint="take compress.setting quality or auto, or raise compress.sh_degree",
        ),
    )


def results(run: StageRun, p: CompressParams) -> Results:
    """Read back what the stage made, with the errors of every Gaussian.

    Raises:
        SplatFormatError: a file is damaged.
        WorkspaceError: there is no PLY.
    """
    report = json.loads((run.dir / "compression_report.json").read_text())
    gaussians, _ = read_ply_valid(_source(run, p))
    decoded = sog.read_sog(run.dir / "splat.sog")
    if report["setting"]["name"] == SOGS:
        return Results(report, gaussians, decoded, {})
    order, far = sog.sog_order(gaussians, options(p, report["setting"]["name"]))
    gaussians = gaussians.subset(order)
    errors = sog.field_errors(gaussians, decoded, left_out=np.flatnonzero(np.isin(order, far)))
    return Results(report, gaussians, decoded, errors)


@dataclass(frozen=True)
class ViewPictures:
    """One held-out view four times, [H, W, 3] in 0..1.

    Attributes:
        name: of the photograph.
        photo: the photograph.
        before: rendered from the PLY.
        after: rendered from the SOG.
    """

    name: str
    photo: Float[np.ndarray, "H W 3"]
    before: Float[np.ndarray, "H W 3"]
    after: Float[np.ndarray, "H W 3"]


def worst_view(run: StageRun, p: CompressParams, results: Results) -> ViewPictures | None:
    """The held-out view that lost most by compressing; None where there are no cameras."""
    views = results.report["heldout"]["views"]
    if not views:
        return None
    found = read_views(run)
    cameras, images = found.heldout, found.images
    name = max(views, key=lambda v: v["psnr_before"] - v["psnr_after"])["name"]
    index = cameras.names.index(name)
    backend = _rasterizer(p)
    before, after = (
        evaluation.render_view(g, cameras, index, backend) for g in (results.original, results.decoded)
    )
    size = (int(cameras.sizes[index][0]), int(cameras.sizes[index][1]))
    return ViewPictures(name, load_rgb(images / name, size).astype(np.float32) / 255, before, after)


__all__ = [
    "Results",
    "ViewPictures",
    "error_rows",
    "load_input",
    "options",
    "report_text",
    "results",
    "run",
    "worst_view",
]
