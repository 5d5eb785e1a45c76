"""Stage 4: a splat as small as it gets, and what that cost.

Reads 03_train/splat.ply (or any 3DGS PLY), writes splat.sog, the same unbundled in sog/, and a report of
bytes, errors of every field, and held-out PSNR before and after, all measured on the file as decoded.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from spaceport_lab import backends, evaluation, files, sog
from spaceport_lab.cameras import Cameras, read_scene
from spaceport_lab.errors import QualityGateError
from spaceport_lab.gaussians import Dropped, Gaussians, read_ply_valid
from spaceport_lab.images import load_rgb
from spaceport_lab.params import CompressParams
from spaceport_lab.workspace import Progress, StageRun

FIELDS = {
    "means": (3, ("means_l.webp", "means_u.webp")),
    "scales": (3, ("scales.webp",)),
    "quats": (4, ("quats.webp",)),
    "sh0 + opacities": (4, ("sh0.webp",)),
    "shN": (0, ("shN_centroids.webp", "shN_labels.webp")),
}
"""What is stored: numbers per Gaussian in the PLY (shN: by its degree), and its images in the SOG."""


@dataclass(frozen=True)
class Results:
    """What the stage made, read back for pictures and tables.

    Attributes:
        report: as in compression_report.json.
        original: the splat that was compressed, in the order of the SOG.
        decoded: the SOG.
        errors: of every field.
    """

    report: dict[str, Any]
    original: Gaussians
    decoded: Gaussians
    errors: dict[str, sog.FieldError]


def run(run: StageRun, p: CompressParams) -> Iterator[Progress]:
    """Compress, decode, compare, report.

    Raises:
        SplatFormatError: the PLY is no splat, truncated, or holds no usable row.
        WorkspaceError: there is no trained splat and no PLY, or the folder cannot be written.
        BackendError: the rasterizer asked for cannot run here.
    """
    total = p.iterations + 8
    states = _stages(run, p)
    for step, state in enumerate(states):
        yield Progress(min(step, total - 1), total, state.message, state.values)
    yield Progress(total, total, "compressed", {"ratio": run.metrics["ratio"]})


def _stages(run: StageRun, p: CompressParams) -> Iterator[Progress]:
    source = _source(run, p)
    yield Progress(0, None, f"reading {source.name}")
    gaussians, dropped = read_ply_valid(source)
    if dropped.n:
        run.warn(f"{source.name}: {dropped}: left out")
    options = sog.SogOptions(
        sh_degree=p.sh_degree, sh_palette=p.sh_palette, iterations=p.iterations, seed=p.seed
    )
    encoded = yield from sog.encode(gaussians, options)
    bundle, folder = run.output("splat.sog"), run.output("sog")
    sog.write_folder(folder, encoded.files)
    sog.write_bundle(bundle, encoded.files)
    yield Progress(0, None, "decoding what was written")
    decoded = sog.read_sog(bundle)
    errors = sog.field_errors(gaussians.subset(encoded.order), decoded)
    heldout = yield from _heldout(run, p, gaussians, decoded)
    report = _report(source, gaussians, dropped, encoded, bundle, errors, heldout)
    files.write_json(run.output("compression_report.json"), report)
    files.write_text(run.output("compression_report.txt"), report_text(report))
    _judge(run, p, report)


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


def error_rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The report's errors as a table."""
    return [{"error of": name.replace("_", " "), **error} for name, error in report["errors"].items()]


def _heldout(
    run: StageRun, p: CompressParams, gaussians: Gaussians, decoded: Gaussians
) -> Generator[Progress, None, dict[str, Any]]:
    """Held-out views rendered from the splat before and after; `reason` says why there are none."""
    cameras, images, reason = heldout_cameras(run)
    if not reason:
        backend = backends.choose_backend(p.backend)
        yield Progress(0, None, f"rendering {len(cameras)} held-out views before")
        before = evaluation.evaluate(gaussians, cameras, images, backend, with_ssim=False)
        yield Progress(0, None, f"rendering {len(cameras)} held-out views after")
        after = evaluation.evaluate(decoded, cameras, images, backend, with_ssim=False)
        views = [
            {"name": b.name, "psnr_before": b.psnr, "psnr_after": a.psnr}
            for b, a in zip(before, after, strict=True)
        ]
        mean_before, mean_after = evaluation.mean_psnr(before), evaluation.mean_psnr(after)
        # Renders that equal their photographs have infinite PSNR, and inf - inf is no loss.
        loss = mean_before - mean_after if mean_before != mean_after else 0.0
        return {"views": views, "psnr_before": mean_before, "psnr_after": mean_after, "loss": loss}
    return {"views": [], "psnr_before": None, "psnr_after": None, "loss": None, "reason": reason}


def heldout_cameras(run: StageRun) -> tuple[Cameras | None, Path | None, str]:
    """Held-out cameras and the folder of their photographs, or why there are none."""
    missing = [stage for stage in ("sfm", "train") if not run.has(stage)]
    if missing:
        return None, None, f"no cameras: stage {' and '.join(missing)} did not run in this job"
    scene = read_scene(run.input("sfm"))
    names = set(json.loads(run.input("train", "heldout.json").read_text())["test"])
    index = [i for i, name in enumerate(scene.cameras.names) if name in names]
    if not index:
        return None, None, "training held out no view"
    return scene.cameras.subset(index), run.input("sfm", "images"), ""


def _report(
    source: Path,
    gaussians: Gaussians,
    dropped: Dropped,
    encoded: sog.Encoded,
    bundle: Path,
    errors: dict[str, sog.FieldError],
    heldout: dict[str, Any],
) -> dict[str, Any]:
    ply_bytes, sog_bytes = source.stat().st_size, bundle.stat().st_size
    sizes = {name: len(content) for name, content in encoded.files.items()}
    coefficients = 3 * gaussians.shN.shape[1]
    fields = {
        name: {
            "ply_bytes": 4 * dropped.of * (numbers or coefficients),
            "sog_bytes": sum(sizes.get(image, 0) for image in images),
        }
        for name, (numbers, images) in FIELDS.items()
    }
    return {
        "input": {
            "name": source.name, "bytes": ply_bytes, "splats": dropped.of,
            "sh_degree": gaussians.sh_degree, "dropped": asdict(dropped),
        },
        "output": {
            "bytes": sog_bytes, "n_gaussians": gaussians.n, "files": sizes,
            "bytes_per_gaussian": sog_bytes / gaussians.n,
        },
        "ratio": ply_bytes / sog_bytes,
        "fields": fields,
        "errors": {
            name: {"unit": e.unit, "mean": e.mean, "rms": e.rms, "max": e.max} for name, e in errors.items()
        },
        "heldout": heldout,
    }  # fmt: skip


def report_text(report: dict[str, Any]) -> str:
    """The report for people: sizes, errors, PSNR."""
    source, output, heldout = report["input"], report["output"], report["heldout"]
    lines = [
        f"{source['name']}: {source['splats']:,} splats, SH degree {source['sh_degree']}, "
        f"{source['bytes']:,} bytes",
        f"splat.sog: {output['n_gaussians']:,} splats, {output['bytes']:,} bytes, "
        f"{output['bytes_per_gaussian']:.2f} a splat",
        f"ratio: {report['ratio']:.2f}",
    ]
    dropped = source["dropped"]
    if dropped["n"]:
        each = ", ".join(f"{name} {count:,}" for name, count in dropped["fields"].items())
        lines.append(f"left out: {dropped['n']:,} splats with NaN or Inf ({each})")
    lines += ["", f"{'field':<16}{'PLY bytes':>14}{'SOG bytes':>14}{'ratio':>9}"]
    for name, size in report["fields"].items():
        ratio = f"{size['ply_bytes'] / size['sog_bytes']:.1f}" if size["sog_bytes"] else "–"
        lines.append(f"{name:<16}{size['ply_bytes']:>14,}{size['sog_bytes']:>14,}{ratio:>9}")
    lines += ["", f"{'file':<20}{'bytes':>12}"]
    lines += [f"{name:<20}{size:>12,}" for name, size in output["files"].items()]
    lines += ["", f"{'error':<20}{'mean':>12}{'rms':>12}{'max':>12}  unit"]
    for name, error in report["errors"].items():
        numbers = "".join(f"{error[key]:>12.4g}" for key in ("mean", "rms", "max"))
        lines.append(f"{name:<20}{numbers}  {error['unit']}")
    lines.append("")
    if heldout["views"]:
        lines.append(f"{'held-out view':<36}{'before':>10}{'after':>10}  dB PSNR")
        for view in heldout["views"]:
            lines.append(f"{view['name']:<36}{view['psnr_before']:>10.2f}{view['psnr_after']:>10.2f}")
        lines.append(f"{'mean':<36}{heldout['psnr_before']:>10.2f}{heldout['psnr_after']:>10.2f}")
    else:
        lines.append(f"held-out PSNR: not measured, {heldout['reason']}")
    return "\n".join(lines) + "\n"


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
            hint="lower compress.sh_palette or compress.sh_degree",
        ),
    )
    run.gate(
        loss is None or loss <= p.max_psnr_loss,
        QualityGateError(
            "compressing cost too much picture quality",
            got=f"held-out PSNR fell by {loss or 0:.2f} dB",
            expected=f"at most {p.max_psnr_loss:g} dB (compress.max_psnr_loss)",
            hint="raise compress.sh_palette, or keep more SH bands with compress.sh_degree",
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
    original = gaussians.subset(sog.sog_order(gaussians))
    decoded = sog.read_sog(run.dir / "splat.sog")
    return Results(report, original, decoded, sog.field_errors(original, decoded))


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
    cameras, images, reason = heldout_cameras(run)
    if reason or not views:
        return None
    name = max(views, key=lambda v: v["psnr_before"] - v["psnr_after"])["name"]
    index = cameras.names.index(name)
    backend = backends.choose_backend(p.backend)
    before, after = (
        evaluation.render_view(g, cameras, index, backend) for g in (results.original, results.decoded)
    )
    size = (int(cameras.sizes[index][0]), int(cameras.sizes[index][1]))
    return ViewPictures(name, load_rgb(images / name, size).astype(np.float32) / 255, before, after)
