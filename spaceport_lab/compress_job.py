"""Compress every PLY of a folder, as a job of SageMaker or of anything that speaks its environment.

In: `SM_CHANNEL_INPUT`. Out, in `SM_OUTPUT_DATA_DIR`: a .sog for each PLY, metadata.json (the job),
compression_report.json and .txt (each file). They are written anew after each file, so that a job that is
stopped leaves what it has done, and the same job started again goes on from there.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from spaceport_lab import __version__, backends, evaluation, files, metrics, sog
from spaceport_lab.cameras import Cameras
from spaceport_lab.errors import InputError, ParamsError, SpaceportError, SplatFormatError
from spaceport_lab.gaussians import Gaussians, read_ply_antialias, read_ply_valid
from spaceport_lab.inspection.viewpoint import first_view, up_direction

logger = logging.getLogger(__name__)

REPORT = "compression_report.json"
_PICTURE = (512, 288)  # pixels
_KEPT = 1024  # characters of SageMaker's failure reason


@dataclass(frozen=True)
class Job:
    """What a job is given.

    Attributes:
        input: folder whose PLY files are compressed, also those in folders below.
        output: folder for everything that is written.
        host: name of this machine among those of the job, for the record.
        setting: a key of `sog.SETTINGS`.
        failure: where the reason of a failure goes, for SageMaker's console; None for nowhere.
        views: from how many sides before and after are rendered and compared; 0: not at all.
        min_ratio: a file that does not become so many times smaller has failed.
        min_psnr: [dB] a file whose renders are less alike than this has failed; needs views.
    """

    input: Path
    output: Path
    host: str = "localhost"
    setting: str = "balanced"
    failure: Path | None = None
    views: int = 4
    min_ratio: float = 0.0
    min_psnr: float = 0.0

    def __post_init__(self) -> None:
        if self.setting not in sog.SETTINGS:
            raise ParamsError("unknown setting", got=self.setting, expected=", ".join(sog.SETTINGS))
        if not 0 <= self.views <= 64 or (self.min_psnr > 0 and not self.views):
            raise ParamsError("impossible views", got=self.views, expected="0 to 64; min_psnr needs one")
        if not self.input.is_dir():
            raise InputError(
                "the input is no folder", got=self.input, expected="SM_CHANNEL_INPUT, with PLY files"
            )


def job_from_environment(environment: Mapping[str, str] = os.environ, setting: str = "") -> Job:
    """A job as SageMaker describes it; `setting` wins over the hyperparameter of that name.

    Hyperparameters are `SM_HP_SETTING`, `SM_HP_VIEWS`, `SM_HP_MIN_RATIO` and `SM_HP_MIN_PSNR`.

    Raises:
        ParamsError: an unknown setting, or a hyperparameter that is no number.
        InputError: the input is no folder.
    """
    home = environment.get("SM_OUTPUT_DIR")

    def number(name: str, kind: type, default: float) -> Any:
        text = environment.get(name, str(default))
        try:
            return kind(text)
        except ValueError as error:
            raise ParamsError(f"{name} is no number", got=text, expected=kind.__name__) from error

    return Job(
        input=Path(environment.get("SM_CHANNEL_INPUT", "/opt/ml/input/data/input")),
        output=Path(environment.get("SM_OUTPUT_DATA_DIR", "/opt/ml/output/data")),
        host=environment.get("SM_CURRENT_HOST", "localhost"),
        setting=setting or environment.get("SM_HP_SETTING", "balanced"),
        failure=Path(home) / "failure" if home else None,
        views=number("SM_HP_VIEWS", int, Job.views),
        min_ratio=number("SM_HP_MIN_RATIO", float, Job.min_ratio),
        min_psnr=number("SM_HP_MIN_PSNR", float, Job.min_psnr),
    )


def run_job(job: Job) -> int:
    """Compress all; returns how many files could not be. One bad file does not keep the others from it.

    Raises:
        InputError: no PLY in the input.
        WorkspaceError: the output cannot be written.
    """
    started = time.time()
    sources = find_plys(job.input)
    if not sources:
        error = InputError(
            "there is no PLY to compress", got=f"no .ply file in {job.input}", expected="at least one"
        )
        _note_failure(job, str(error))
        raise error
    before, entries = _earlier(job.output), []
    logger.info("%d PLY files in %s, setting %s", len(sources), job.input, job.setting)
    _write(job, started, sources, entries, before)
    for number, (source, target) in enumerate(_targets(job, sources), 1):
        entry = _one(job, source, target, before)
        before = before if entry["status"] == "failed" else {**before, entry["key"]: entry}
        entries.append(entry)
        logger.log(
            logging.ERROR if entry["status"] == "failed" else logging.INFO,
            "%d/%d %s: %s", number, len(sources), entry["input"], _line(entry),
        )  # fmt: skip
        _write(job, started, sources, entries, before)
    failed = [entry for entry in entries if entry["status"] == "failed"]
    if failed:
        _note_failure(job, "\n".join(f"{entry['input']}: {entry['error']}" for entry in failed))
    return len(failed)


def find_plys(folder: Path) -> list[Path]:
    """PLY files of a folder and of those below, sorted; hidden ones are left out."""
    found = (p for p in folder.rglob("*") if p.suffix.lower() == ".ply" and p.is_file())
    return sorted(p for p in found if not any(part.startswith(".") for part in p.relative_to(folder).parts))


def _targets(job: Job, sources: list[Path]) -> Iterator[tuple[Path, Path]]:
    """Each source and its .sog; where two would meet (a.ply, a.PLY), the later one keeps its whole name."""
    taken: set[str] = set()
    for source in sources:
        relative = source.relative_to(job.input)
        target = relative.with_suffix(".sog")
        if str(target).casefold() in taken:
            target = relative.with_name(f"{relative.name}.sog")
        taken.add(str(target).casefold())
        yield source, job.output / target


def _one(job: Job, source: Path, target: Path, before: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Compress one file, or find that it was done; the entry of the report."""
    names = {
        "input": source.relative_to(job.input).as_posix(),
        "output": target.relative_to(job.output).as_posix(),
    }
    clock = time.perf_counter()
    try:
        size, digest = source.stat().st_size, files.hash_file(source)
        key = files.hash_json(
            {"input": digest, "options": _options(job), "views": job.views, "version": __version__}
        )
        known = before.get(key)
        if known and _intact(job.output / known["output"], known):
            same = known["output"] == names["output"]
            if not same:
                files.link_or_copy(job.output / known["output"], target)
            again = {"status": "unchanged", "same_as": None if same else known["output"], "seconds": 0.0}
            return _gated(job, known | names | again)
        entry = _compress(job, source, target)
        entry |= {"input_sha256": digest, "input_bytes": size, "ratio": size / entry["bytes"]}
        seconds = round(time.perf_counter() - clock, 3)
        made = {"status": "compressed", "key": key, "same_as": None, "seconds": seconds}
        return _gated(job, names | made | entry)
    except (SpaceportError, OSError) as error:
        return names | {"status": "failed", "error": str(error)}
    except Exception as error:
        logger.exception("%s: not foreseen", names["input"])
        return names | {"status": "failed", "error": f"{type(error).__name__}: {error}"}


def _gated(job: Job, entry: dict[str, Any]) -> dict[str, Any]:
    """The entry, failed where its figures are not good enough; the .sog stays, for whoever wants to look."""
    faults = []
    if entry["ratio"] < job.min_ratio:
        faults.append(f"{entry['ratio']:.2f} times smaller, wanted {job.min_ratio:g} (min_ratio)")
    if job.min_psnr and entry["psnr_renders"] < job.min_psnr:
        faults.append(f"renders alike to {entry['psnr_renders']:.2f} dB, wanted {job.min_psnr:g} (min_psnr)")
    return entry | {"status": "failed", "error": "; ".join(faults)} if faults else entry


def _options(job: Job) -> dict[str, Any]:
    return asdict(sog.SETTINGS[job.setting])


def _compress(job: Job, source: Path, target: Path) -> dict[str, Any]:
    gaussians, dropped = read_ply_valid(source)
    antialias = read_ply_antialias(source)
    steps = sog.encode(gaussians, replace(sog.SETTINGS[job.setting], antialias=antialias))
    while True:
        try:
            logger.debug("%s: %s", source.name, next(steps).message)
        except StopIteration as done:
            encoded = done.value
            break
    sog.write_bundle(target, encoded.files)
    decoded = sog.read_sog(target)
    if decoded.n != gaussians.n:
        raise SplatFormatError(f"{target.name} did not come back whole", got=decoded.n, expected=gaussians.n)
    errors = sog.field_errors(gaussians, decoded, encoded.order, encoded.far, values=False)
    alike = psnr_renders(gaussians, decoded, job.views) if job.views else None
    return {
        "gaussians": gaussians.n,
        "sh_degree": gaussians.sh_degree,
        "antialias": antialias,
        "dropped": {"n": dropped.n, "of": dropped.of, "fields": dropped.fields},
        "far": len(encoded.far),
        "bytes": target.stat().st_size,
        "sha256": files.hash_file(target),
        "psnr_renders": alike,
        "errors": {
            name: {"mean": e.mean, "rms": e.rms, "max": e.max, "unit": e.unit} for name, e in errors.items()
        },
    }


def psnr_renders(before: Gaussians, after: Gaussians, views: int) -> float:
    """How alike two splats look from around: PSNR in dB over all pictures, at most 100, which means equal.

    A splat that comes without cameras has no held-out views. So it is seen as a whole, -Y up as 3DGS files
    have it, from `views` sides.
    """
    first = first_view(before, None, up_direction(None, georeferenced=False))
    target, up = np.array(first.target), np.array(first.up)
    cameras = []
    for side in range(views):
        turn = Rotation.from_rotvec(up * (2 * np.pi * side / views))
        position = target + turn.apply(np.array(first.position) - target)
        cameras.append(replace(first, position=tuple(position.tolist())).camera(*_PICTURE))
    all_of_them = Cameras(
        tuple(f"side {side}" for side in range(views)),
        *(np.concatenate([getattr(c, name) for c in cameras]) for name in ("viewmats", "Ks", "sizes")),
    )
    backend = backends.choose_backend("auto")
    pictures = [list(evaluation.render_views(g, all_of_them, None, backend)) for g in (before, after)]
    return min(metrics.psnr(*(np.concatenate(p) for p in pictures)), 100.0)


def _intact(path: Path, entry: Mapping[str, Any]) -> bool:
    """Whether a .sog of an earlier job is still what its report says."""
    return path.is_file() and files.hash_file(path) == entry["sha256"]


def _earlier(output: Path) -> dict[str, dict[str, Any]]:
    """What an earlier job left in the output, by key; nothing where its report cannot be used."""
    try:
        report = json.loads((output / REPORT).read_text())
        done = [e for e in (*report.get("earlier", []), *report["files"]) if e["status"] != "failed"]
        return {e["key"]: e for e in done if isinstance(e["output"], str) and _within(output, e["output"])}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _within(folder: Path, name: str) -> bool:
    return folder.resolve() in (folder / name).resolve().parents


def _write(
    job: Job,
    started: float,
    sources: list[Path],
    entries: list[dict[str, Any]],
    before: Mapping[str, dict[str, Any]],
) -> None:
    counts = {
        state: sum(e["status"] == state for e in entries) for state in ("compressed", "unchanged", "failed")
    }
    running = len(entries) < len(sources)
    now = time.time()
    metadata = {
        "status": "running" if running else "failed" if counts["failed"] else "succeeded",
        "host": job.host,
        "package": f"spaceport-lab {__version__}",
        "setting": job.setting,
        "options": _options(job),
        "inputs": len(sources),
        "done": len(entries),
        **counts,
        "started": _utc(started),
        "updated": _utc(now),
        "seconds": round(now - started, 3),
        "input_bytes": sum(e.get("input_bytes", 0) for e in entries),
        "output_bytes": sum(e.get("bytes", 0) for e in entries),
        "free_disk_bytes": shutil.disk_usage(_existing(job.output)).free,
    }
    report: dict[str, Any] = {"files": entries}
    if running:  # what an earlier job did is known even if this one is stopped before it comes to it
        here = {entry.get("key") for entry in entries}
        report["earlier"] = [entry for key, entry in before.items() if key not in here]
    files.write_json(job.output / REPORT, report)
    lines = [f"{e['input']}: {_line(e)}" for e in entries]
    total = f"{len(entries)} of {len(sources)} files: " + ", ".join(
        f"{n} {state}" for state, n in counts.items()
    )
    files.write_text(job.output / "compression_report.txt", "\n".join([total, "", *lines, ""]))
    files.write_json(job.output / "metadata.json", metadata)


def _line(entry: Mapping[str, Any]) -> str:
    if entry["status"] == "failed":
        return f"failed: {entry['error']}"
    dropped = entry["dropped"]["n"]
    return (
        f"{entry['status']}, {entry['gaussians']:,} splats, "
        f"{entry['input_bytes']:,} to {entry['bytes']:,} bytes, "
        f"{entry['ratio']:.2f} times smaller, {entry['seconds']:.1f} s"
        + ("" if entry["psnr_renders"] is None else f", renders alike to {entry['psnr_renders']:.1f} dB")
        + (f", {dropped:,} splats with NaN or Inf left out" if dropped else "")
        + (f", {entry['far']:,} far splats pulled in" if entry.get("far") else "")
        + (f", the same as {entry['same_as']}" if entry["same_as"] else "")
    )


def _note_failure(job: Job, text: str) -> None:
    if job.failure is not None:
        files.write_text(job.failure, text[:_KEPT])


def _existing(path: Path) -> Path:
    return next(p for p in (path, *path.resolve().parents) if p.exists())


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
