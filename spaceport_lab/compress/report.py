"""What the compress stage says about itself: bytes, errors of every field, held-out PSNR."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from spaceport_lab import sog
from spaceport_lab.gaussians import Dropped, Gaussians

FIELDS = {
    "means": (3, ("means_l.webp", "means_u.webp")),
    "scales": (3, ("scales.webp",)),
    "quats": (4, ("quats.webp",)),
    "sh0 + opacities": (4, ("sh0.webp",)),
    "shN": (0, ("shN_centroids.webp", "shN_labels.webp")),
}
"""What is stored: numbers per Gaussian in the PLY (shN: by its degree), and its images in the SOG."""


@dataclass(frozen=True)
class Made:
    """What compressing gave.

    Attributes:
        encoded: the SOG in memory.
        n: Gaussians that it decodes to.
        bytes: size of the .sog.
        errors: of every field, without those of far splats; empty where nobody knows which Gaussian
            became which.
        heldout: PSNR before and after, as `views.verdict` gives it.
        setting: what was chosen and what was tried for it.
    """

    encoded: sog.Encoded
    n: int
    bytes: int
    errors: dict[str, sog.FieldError]
    heldout: dict[str, Any]
    setting: dict[str, Any]


def make_report(
    source: Path,
    gaussians: Gaussians,
    dropped: Dropped,
    made: Made,
) -> dict[str, Any]:
    """compression_report.json.

    Args:
        source: the PLY.
        gaussians: what of it was compressed.
        dropped: what was left out.
        made: what came of it.
    """
    ply_bytes = source.stat().st_size
    sizes = {name: len(content) for name, content in made.encoded.files.items()}
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
            "bytes": made.bytes, "n_gaussians": made.n, "files": sizes,
            "bytes_per_gaussian": made.bytes / made.n, "left_out": gaussians.n - made.n,
        },
        "setting": made.setting,
        "far": len(made.encoded.far),
        "ratio": ply_bytes / made.bytes,
        "fields": fields,
        "errors": {
            name: {"unit": e.unit, "mean": e.mean, "rms": e.rms, "max": e.max}
            for name, e in made.errors.items()
        },
        "heldout": made.heldout,
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
        f"setting: {report['setting']['name']}",
    ]
    lines += [_tried(name, one) for name, one in report["setting"]["tried"].items()]
    dropped = source["dropped"]
    if dropped["n"]:
        each = ", ".join(f"{name} {count:,}" for name, count in dropped["fields"].items())
        lines.append(f"left out: {dropped['n']:,} splats with NaN or Inf ({each})")
    if output["left_out"]:
        lines.append(f"left out: {output['left_out']:,} of the faintest splats, by sogs")
    if report["far"]:
        lines.append(f"pulled in: {report['far']:,} splats far outside the scene, their errors not below")
    lines += ["", f"{'field':<16}{'PLY bytes':>14}{'SOG bytes':>14}{'ratio':>9}"]
    for name, size in report["fields"].items():
        ratio = f"{size['ply_bytes'] / size['sog_bytes']:.1f}" if size["sog_bytes"] else "–"
        lines.append(f"{name:<16}{size['ply_bytes']:>14,}{size['sog_bytes']:>14,}{ratio:>9}")
    lines += ["", f"{'file':<20}{'bytes':>12}"]
    lines += [f"{name:<20}{size:>12,}" for name, size in output["files"].items()]
    lines.append("")
    if report["errors"]:
        lines.append(f"{'error':<20}{'mean':>12}{'rms':>12}{'max':>12}  unit")
    else:
        lines.append("errors of fields: not measured, sogs does not say which splat became which")
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


def _tried(name: str, one: dict[str, Any]) -> str:
    return f"  tried {name}: {one['bytes']:,} bytes, held-out PSNR lost {one['loss']:.3f} dB"


def error_rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The report's errors as a table."""
    return [{"error of": name.replace("_", " "), **error} for name, error in report["errors"].items()]
