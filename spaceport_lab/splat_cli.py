"""The commands `spaceport-lab splat …`: splat files of any kind in, cleaned, turned, merged, smaller, out."""

from __future__ import annotations

import json
import sys
from collections.abc import Generator
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress as Bar
from rich.table import Table

from spaceport_lab import sog
from spaceport_lab.errors import InputError, ParamsError
from spaceport_lab.gaussians import Gaussians, concatenate
from spaceport_lab.workspace import Progress

T = TypeVar("T")
app = typer.Typer(no_args_is_help=True, help="Splat files: convert, clean, turn, merge, decimate.")
console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)

Setting = Enum("Setting", {name: name for name in sog.SETTINGS}, type=str)  # type: ignore[misc]

Source = Annotated[Path, typer.Argument(help="A .ply, .sog, meta.json, lod-meta.json, or their folder.")]
Target = Annotated[
    Path, typer.Argument(help="Ends in .ply, .sog, /meta.json (unbundled) or /lod-meta.json (streamed).")
]
Backend = Enum("Backend", {"ours": "ours", "sogs": "sogs"}, type=str)  # type: ignore[misc]
OURS = Backend("ours")
Frame = Enum("Frame", {"enu": "enu", "utm": "utm"}, type=str)  # type: ignore[misc]
ENU, UTM = Frame("enu"), Frame("utm")
SettingOption = Annotated[Setting, typer.Option("--setting", help="How small a .sog becomes.")]
Levels = Annotated[
    str, typer.Option("--levels", help="[share] Gaussians of each level of a streamed SOG, comma-separated.")
]
Level = Annotated[
    int, typer.Option("--level", help="Which level of a streamed SOG is read; 0 is the finest.")
]
Views = Annotated[
    Path | None,
    typer.Option("--cameras", help="A run's 02_sfm folder: what its views see counts, not opacity and size."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")]

BALANCED = Setting("balanced")
SHARES = "1,0.5,0.25,0.125"


@app.command()
def info(
    sources: Annotated[list[Path], typer.Argument(help="Splat files.")],
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
) -> None:
    """Say what splat files hold."""
    rows = [_describe(path) for path in sources]
    if as_json:
        console.print_json(json.dumps(rows))
        return
    for row in rows:
        table = Table(box=None, pad_edge=False, show_header=False)
        for name, value in row.items():
            table.add_row(name, escape(_text(value)))
        console.print(table)
        console.print()


@app.command()
def convert(
    source: Source,
    target: Target,
    setting: SettingOption = BALANCED,
    levels: Levels = SHARES,
    level: Level = 0,
    cameras: Views = None,
    overwrite: Overwrite = False,
    backend: Annotated[
        Backend, typer.Option(help="sogs: PlayCanvas' own writer, on CUDA, its output brought to version 2.")
    ] = OURS,
) -> None:
    """Write a splat in another format."""
    from spaceport_lab.edit.formats import target_kind, upgrade_sog, write_with_sogs

    if backend == Backend("sogs"):
        result = write_with_sogs(source, _free(target, overwrite))
        console.print(f"sogs left out {result.left_out:,} of the faintest splats" if result.left_out else "")
        _say_written(target, result.n)
        return
    loaded = _load(source, target, level, overwrite)
    if loaded.version == 1 and target_kind(target) in ("sog", "folder") and setting == BALANCED:
        upgrade_sog(source, target)  # keeps positions, rotations and SH as they are
        _say_written(target, loaded.gaussians.n)
        return
    weights = _seen(loaded.gaussians, cameras)
    _write(target, loaded.gaussians, setting, levels, loaded.antialias, weights)


@app.command()
def clean(
    source: Source,
    target: Target,
    box: Annotated[str | None, typer.Option(help="x,y,z,X,Y,Z: Gaussians outside go.")] = None,
    sphere: Annotated[str | None, typer.Option(help="x,y,z,radius: Gaussians outside go.")] = None,
    min_opacity: Annotated[float, typer.Option(help="[0 to 1] fainter ones go.")] = 0.0,
    max_sigma: Annotated[
        float, typer.Option(help="[world units] those with a larger standard deviation go.")
    ] = float("inf"),
    floaters: Annotated[
        float, typer.Option(help="[share] groups that touch nothing and hold less than this go; try 0.001.")
    ] = 0.0,
    sh_degree: Annotated[int, typer.Option(help="[degree] SH bands above this one go.")] = 3,
    setting: SettingOption = BALANCED,
    levels: Levels = SHARES,
    level: Level = 0,
    overwrite: Overwrite = False,
) -> None:
    """Leave Gaussians out, and say how many went for which reason."""
    from spaceport_lab.edit.clean import CleanOptions
    from spaceport_lab.edit.clean import clean as clean_splat

    corners, ball = _numbers("--box", box, 6), _numbers("--sphere", sphere, 4)
    options = CleanOptions(
        box=(corners[:3], corners[3:]) if corners else None,
        sphere=(ball[:3], ball[3]) if ball else None,
        min_opacity=min_opacity,
        max_sigma=max_sigma,
        floaters=floaters,
        sh_degree=sh_degree,
    )
    loaded = _load(source, target, level, overwrite)
    cleaned = clean_splat(loaded.gaussians, options)
    console.print(escape(str(cleaned)))
    _write(target, cleaned.gaussians, setting, levels, loaded.antialias)


@app.command()
def transform(
    source: Source,
    target: Target,
    rotate: Annotated[
        str | None, typer.Option(help="x,y,z: [degrees] about the fixed X, then Y, then Z.")
    ] = None,
    quat: Annotated[str | None, typer.Option(help="w,x,y,z: a rotation as a quaternion.")] = None,
    scale: Annotated[float, typer.Option(help="Uniform factor.")] = 1.0,
    translate: Annotated[str | None, typer.Option(help="x,y,z: [world units], after the others.")] = None,
    setting: SettingOption = BALANCED,
    levels: Levels = SHARES,
    level: Level = 0,
    overwrite: Overwrite = False,
) -> None:
    """Turn, scale and move a splat, in the axes of its file; spherical harmonics turn with it."""
    from spaceport_lab.edit.transform import Transform, euler
    from spaceport_lab.edit.transform import transform as transform_splat

    if rotate and quat:
        raise ParamsError("a rotation is given twice", got="--rotate and --quat", expected="one of them")
    turn = _numbers("--quat", quat, 4) or euler(_numbers("--rotate", rotate, 3) or (0.0, 0.0, 0.0))
    t = Transform(turn, _numbers("--translate", translate, 3) or (0.0, 0.0, 0.0), scale)
    loaded = _load(source, target, level, overwrite)
    _write(target, transform_splat(loaded.gaussians, t), setting, levels, loaded.antialias)


@app.command()
def place(
    run: Annotated[Path, typer.Argument(help="A run folder with georeference.json in its 02_sfm.")],
    target: Target,
    frame: Annotated[
        Frame, typer.Option(help="enu: local metres; utm: the zone's grid less an offset.")
    ] = ENU,
    origin: Annotated[
        str | None, typer.Option(help="lat,lon,height: [degrees, metres] of the local frame; the run's own.")
    ] = None,
    splat: Annotated[Path | None, typer.Option(help="A splat in the run's world; what it trained.")] = None,
    setting: SettingOption = BALANCED,
    levels: Levels = SHARES,
    overwrite: Overwrite = False,
) -> None:
    """Write a run's splat where it is on Earth, SH turned with it; a .json beside it says which frame."""
    from spaceport_lab import files
    from spaceport_lab.sfm.located import locate, read_place, record_path

    record = record_path(target)
    where = read_place(run)
    trained = splat or run / "03_train" / "splat.ply"
    loaded = _load(trained, target, 0, overwrite)
    _free(record, overwrite)
    moved, about = locate(loaded.gaussians, where, frame.value, _numbers("--origin", origin, 3) or None)
    _write(target, moved, setting, levels, loaded.antialias)
    files.write_json(record, about | {"file": target.name})
    console.print(f"{about['words']}: {escape(str(record))}", soft_wrap=True)
    if about["resolution_m"] > 0.001:
        console.print(f"its numbers are {about['resolution_m']:.3g} m apart there: choose a nearer origin")


@app.command()
def merge(
    sources: Annotated[list[Path], typer.Argument(help="Two or more splat files, then the target.")],
    setting: SettingOption = BALANCED,
    levels: Levels = SHARES,
    overwrite: Overwrite = False,
) -> None:
    """Put several splats into one file; the last name is the target."""
    if len(sources) < 3:
        raise ParamsError(
            "nothing to merge", got=f"{len(sources)} names", expected="two sources and a target"
        )
    *parts, target = sources
    loaded = [_load(source, target, 0, overwrite) for source in parts]
    joined = concatenate([part.gaussians for part in loaded])
    _write(target, joined, setting, levels, all(part.antialias for part in loaded))


@app.command()
def decimate(
    source: Source,
    target: Target,
    to: Annotated[
        str, typer.Option("--to", help="How many are left: a number such as 100000, or 25%.")
    ] = "25%",
    setting: SettingOption = BALANCED,
    level: Level = 0,
    cameras: Views = None,
    overwrite: Overwrite = False,
) -> None:
    """Fewer Gaussians, by merging neighbours instead of dropping them."""
    from spaceport_lab.edit.decimate import decimate as decimate_splat

    loaded = _load(source, target, level, overwrite)
    wanted = _count(to, loaded.gaussians.n)
    few = _follow(decimate_splat(loaded.gaussians, wanted, _seen(loaded.gaussians, cameras)))
    _write(target, few, setting, SHARES, loaded.antialias)


@app.command()
def job(
    setting: Annotated[
        Setting | None, typer.Option("--setting", help="How small; SM_HP_SETTING, else balanced.")
    ] = None,
) -> None:
    """Compress every PLY of SM_CHANNEL_INPUT into SM_OUTPUT_DATA_DIR, with a report; for production."""
    from spaceport_lab import logs
    from spaceport_lab.compress_job import job_from_environment, run_job

    logs.configure(stream=sys.stdout)
    failed = run_job(job_from_environment(setting=setting.value if setting else ""))
    if failed:
        console.print(f"{failed} files could not be compressed: see compression_report.txt")
        raise typer.Exit(1)


def _load(source: Path, target: Path, level: int, overwrite: bool) -> Any:
    """Read a splat once it is known that the target can be written."""
    from spaceport_lab.edit.formats import read_splat, target_kind

    target_kind(target)
    if target.exists() and source.exists() and target.resolve() == source.resolve():
        raise InputError("source and target are the same file", got=target, hint="give another name")
    _free(target, overwrite)
    loaded = read_splat(source, level)
    if loaded.dropped.n:
        console.print(f"{escape(source.name)}: {loaded.dropped}: left out")
    return loaded


def _free(target: Path, overwrite: bool) -> Path:
    """`target`, unless something is there that may not be replaced."""
    if target.exists() and not overwrite:
        raise InputError(f"{target} is there already", hint="--overwrite replaces it")
    return target


def _seen(gaussians: Gaussians, folder: Path | None) -> np.ndarray | None:
    """[N] how much of the views' pictures each Gaussian fills; None without views."""
    if folder is None:
        return None
    from spaceport_lab.cameras import read_scene
    from spaceport_lab.compress.views import seen

    weights = seen(gaussians, read_scene(folder).cameras)
    if not weights.any():
        raise InputError("no camera sees any of the splat", got=folder, expected="cameras of the same world")
    return weights


def _write(
    target: Path,
    gaussians: Gaussians,
    setting: Setting,
    levels: str,
    antialias: bool,
    weights: np.ndarray | None = None,
) -> None:
    from spaceport_lab.edit.formats import write_splat

    shares = _numbers("--levels", levels)
    options = replace(sog.SETTINGS[setting.value], antialias=antialias)
    far = _follow(write_splat(target, gaussians, options, shares, weights))
    if far:
        what = (
            "kept apart, as environment" if target.name == "lod-meta.json" else "pulled in and shrunk alike"
        )
        console.print(f"{far:,} splats lie far outside the scene: {what}")
    _say_written(target, gaussians.n)


def _say_written(target: Path, n: int) -> None:
    from spaceport_lab.edit.formats import target_kind

    folder = target_kind(target) in ("folder", "streamed")
    size = sum(f.stat().st_size for f in target.parent.rglob("*") if f.is_file()) if folder else 0
    size = size or target.stat().st_size
    console.print(f"{n:,} splats, {size:,} bytes: {escape(str(target))}", soft_wrap=True)


def _follow(steps: Generator[Progress, None, T]) -> T:
    """Run a generator of states to its end, with a bar where there is a terminal; returns what it returns."""
    with Bar(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)
        while True:
            try:
                state = next(steps)
            except StopIteration as done:
                return done.value
            bar.update(task, completed=state.step, total=state.total, description=state.message)


def _numbers(option: str, text: str | None, count: int | None = None) -> tuple[float, ...]:
    """Comma-separated numbers; none when the option is not given."""
    if text is None:
        return ()
    try:
        numbers = tuple(float(word) for word in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or (count and len(numbers) != count):
        raise ParamsError(
            f"{option} cannot be understood",
            got=text,
            expected=f"{count or 'some'} numbers with commas between",
        )
    return numbers


def _count(text: str, n: int) -> int:
    """`25%` or a number of Gaussians."""
    try:
        return max(1, round(n * float(text[:-1]) / 100)) if text.endswith("%") else int(text)
    except (ValueError, OverflowError) as error:
        raise ParamsError(
            "--to cannot be understood", got=text, expected="a number, or a share as 25%"
        ) from error


def _describe(path: Path) -> dict[str, Any]:
    from spaceport_lab.edit.formats import read_splat
    from spaceport_lab.sog.stream import read_stream_meta

    loaded = read_splat(path)
    g = loaded.gaussians
    row: dict[str, Any] = {"file": str(path), "kind": loaded.kind}
    if loaded.version:
        row["version"] = loaded.version
    if loaded.kind == "streamed":
        row["levels"] = list(read_stream_meta(path).counts)
    low, high = np.percentile(g.means.astype(np.float64), (1, 99), axis=0)
    row |= {
        "gaussians": g.n,
        "sh_degree": g.sh_degree,
        "antialias": loaded.antialias,
        "not_finite": loaded.dropped.n,
        "least_corner": g.means.min(axis=0).tolist(),
        "greatest_corner": g.means.max(axis=0).tolist(),
        "extent_98": (high - low).tolist(),
        "median_sigma": float(np.median(np.exp(np.minimum(g.scales, 80)))),
        "median_opacity": float(np.median(g.alphas)),
    }
    return row


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_text(item) for item in value)
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if type(value) is int else str(value)
