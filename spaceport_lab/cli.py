"""The command `spaceport-lab`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from spaceport_lab import __version__, service_cli, splat_cli
from spaceport_lab.cli_options import DataDir, Output, Override, Preset, Scene, Steps, console
from spaceport_lab.errors import SpaceportError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Drone photographs to compressed 3D Gaussian splats, one notebook a stage.",
)
params_app = typer.Typer(no_args_is_help=True, help="Parameters: show them, keep the notebooks in step.")
app.add_typer(params_app, name="params")
app.add_typer(splat_cli.app, name="splat")
app.add_typer(service_cli.app)
Mlflow = Annotated[
    str,
    typer.Option(
        help="Log to MLflow: local (mlflow.db beside the scenes), or a tracking URI.",
        envvar="SPACEPORT_MLFLOW",
    ),
]


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        console.print(__version__)
        raise typer.Exit


@app.command()
def run(
    path: Annotated[
        str,
        typer.Argument(
            help="Photographs (folder, zip, video, transforms.json, s3://…), scene, COLMAP folder, or PLY.",
            envvar="S3_INPUT_URI",
        ),
    ],
    preset: Preset = None,
    override: Override = None,
    job: Annotated[str | None, typer.Option(help="Name of the job; the same name again resumes it.")] = None,
    steps: Steps = "full",
    scene: Scene = "",
    output: Output = "",
    new: Annotated[
        bool, typer.Option("--new", help="Start a new job even if the same was run before.")
    ] = False,
    data: DataDir = Path("data"),
    mlflow: Mlflow = "",
    usd_per_hour: Annotated[
        float,
        typer.Option(
            min=0,
            help="What this machine costs; the run card says then what the run did.",
            envvar="SPACEPORT_USD_PER_HOUR",
        ),
    ] = 0.0,
) -> None:
    """Run the pipeline: photographs in, splat, .sog and report out."""
    from spaceport_lab.pipeline import make_request, run_pipeline
    from spaceport_lab.pipeline.display import Display

    request = make_request(path, steps, data, scene)
    try:
        result = run_pipeline(
            request,
            preset or (),
            override or (),
            job=job,
            new=new,
            display=Display(console=console),
            mlflow=mlflow,
            usd_per_hour=usd_per_hour,
            output=output,
        )
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on from here")
        raise typer.Exit(130) from None
    _print_result(result.root)


@app.command()
def sample(
    folder: Annotated[Path, typer.Argument(help="Where the scene goes.")] = Path("data/sample"),
    photographs: Annotated[int, typer.Option("--photographs", "-n", min=3, max=500)] = 30,
    width: Annotated[int, typer.Option(min=64, max=8192, help="[px]")] = 800,
    height: Annotated[int, typer.Option(min=64, max=8192, help="[px]")] = 600,
    seed: Annotated[int, typer.Option(min=0)] = 7,
    survey: Annotated[bool, typer.Option(help="Surveyed control points beside the photographs.")] = True,
) -> None:
    """Make the sample scene: a simulated drone flight over a spaceport, with exact ground truth."""
    from rich.progress import Progress

    from spaceport_lab.sample import make_sample

    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("the sample scene", total=None)
        info = make_sample(
            folder,
            n_images=photographs,
            width=width,
            height=height,
            seed=seed,
            survey=survey,
            progress=lambda done, total, message: bar.update(
                task, completed=done, total=total, description=message
            ),
        )
    made = "are in" if info.created else "were there already, in"
    console.print(f"{info.n_images} photographs and their ground truth {made} {folder}", soft_wrap=True)


@app.command()
def report(run_dir: Annotated[Path, typer.Argument(help="A run folder, data/SCENE/runs/JOB.")]) -> None:
    """Write report.html of a run anew, such as one whose notebooks were run by hand."""
    from spaceport_lab.report import write_report

    console.print(write_report(run_dir), soft_wrap=True)


@app.command()
def pages(
    run_dir: Annotated[Path, typer.Argument(help="A run folder, data/SCENE/runs/JOB.")],
    dark: Annotated[bool, typer.Option("--dark", help="Light on dark.")] = False,
) -> None:
    """Write the executed notebooks of a run as pages that open offline, beside them."""
    from spaceport_lab.report.pages import write_pages

    for path in write_pages(run_dir, "dark" if dark else "light"):
        console.print(path, soft_wrap=True)


@app.command()
def watch(
    run_dir: Annotated[Path, typer.Argument(help="A run folder with a finished sfm stage.")],
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 lets others in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 0,
) -> None:
    """Walk through a run in 3D while it trains: cameras, points, GPS track, and the splat as it grows."""
    import signal
    import threading

    from spaceport_lab.viewer.live import LiveScene
    from spaceport_lab.workspace import StageRun

    ended = threading.Event()
    for kind in (signal.SIGINT, signal.SIGTERM):  # a shell that starts it in the background ignores the first
        signal.signal(kind, lambda *_: ended.set())
    scene = LiveScene(StageRun(run_dir, "train"), host, port)
    scene.follow()
    console.print(f"{scene.address}  (Ctrl-C ends it; training does not notice)", soft_wrap=True)
    ended.wait()
    scene.close()


@app.command()
def ablate(
    run_dir: Annotated[Path, typer.Argument(help="A run folder with a finished sfm stage.")],
    arm: Annotated[
        list[str] | None,
        typer.Option("--arm", "-a", help="none, step, frequency, blur, or NAME:train.x=1,train.y=2."),
    ] = None,
    preset: Preset = None,
    override: Override = None,
) -> None:
    """Train a run with and without coarse-to-fine, and plot PSNR against time; no arm means all four."""
    from rich.progress import Progress

    from spaceport_lab import ablation

    arms = ablation.read_arms(arm or (), preset or (), override or ())
    try:
        with Progress(console=console, transient=True) as bar:
            tasks = {one.name: bar.add_task(one.name, total=one.params.max_steps) for one in arms}
            outcomes = ablation.ablate(
                run_dir, arms, lambda one, state: bar.update(tasks[one.name], completed=state.step)
            )
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on from here")
        raise typer.Exit(130) from None
    table = Table("arm", box=None, pad_edge=False)
    for column in ("PSNR", "SSIM", "seconds", "Gaussians"):
        table.add_column(column, justify="right")
    table.add_column("")
    for o in outcomes:
        figures = ((o.psnr, ".2f"), (o.ssim, ".3f"), (o.seconds, ".1f"), (o.n_gaussians, ","))
        cells = ["–" if value is None else format(value, form) for value, form in figures]
        table.add_row(escape(o.arm), *cells, escape(o.reason), style="red" if o.reason else "")
    console.print(table)
    console.print(run_dir / "ablation" / "ablation.png", soft_wrap=True)
    if any(o.reason for o in outcomes):
        raise typer.Exit(1)


@app.command()
def sweep(
    path: Annotated[Path, typer.Argument(help="A run with a finished sfm stage, or a scene that has one.")],
    space: Annotated[Path, typer.Argument(help="YAML over train.NAME; see docs/sweep-demo.yaml.")],
    trials: Annotated[int, typer.Option(min=2, help="Of the whole sweep; the first is the default.")] = 12,
    name: Annotated[str | None, typer.Option(help="Of the sweep; the file's when left out.")] = None,
    preset: Preset = None,
    override: Override = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes; their times are less exact.")] = 1,
    storage: Annotated[str, typer.Option(help="URL for Optuna; study.db in the sweep's folder else.")] = "",
    on: Annotated[str, typer.Option(help="ray, or ray://HOST:10001: workers on a cluster.")] = "",
    mlflow: Mlflow = "",
) -> None:
    """Search parameters of training with Optuna; what is best in the default's own time becomes a preset."""
    from spaceport_lab import sweep as sweeping
    from spaceport_lab.sweep.showing import Display, table

    asked = sweeping.make_sweep(
        path, sweeping.read_space(space), name or space.stem, preset or (), override or (), storage
    )
    console.print(f"sweep [bold]{asked.name}[/]  →  {asked.folder}", soft_wrap=True)
    try:
        with Display(console, trials) as display:
            found = sweeping.run_sweep(asked, trials, workers, display.step, display.stands, mlflow, on)
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on from here")
        raise typer.Exit(130) from None
    console.print(table(found))
    console.print(escape(found.sentence), soft_wrap=True)
    console.print(found.preset, soft_wrap=True)


@app.command("compare")
def compare_runs(
    runs: Annotated[list[Path], typer.Argument(help="Run folders; of a scene folder all its runs.")],
    html: Annotated[
        Path | None, typer.Option(help="Write the comparison as one page that opens offline.")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write figures, differences and curves.")] = None,
) -> None:
    """Compare runs: their figures, the parameters that differ, PSNR against time, one view side by side."""
    from spaceport_lab import comparing
    from spaceport_lab.comparing import terminal

    compared = comparing.compare(runs)
    for part in terminal.tables(compared):
        console.print(part)
    for note in compared.notes():
        console.print(f"[yellow]{escape(note)}[/]", soft_wrap=True)
    if html is not None:
        console.print(comparing.write_html(html, compared), soft_wrap=True)
    if json is not None:
        console.print(comparing.write_json(json, compared), soft_wrap=True)


@app.command("export")
def export_cameras(
    run_dir: Annotated[Path, typer.Argument(help="A run folder, data/SCENE/runs/JOB.")],
    target: Annotated[Path, typer.Argument(help="Where the cameras go.")],
    to: Annotated[str, typer.Option(help="colmap, colmap-text or nerfstudio.")] = "colmap",
) -> None:
    """Write a run's cameras and points for other programs."""
    from spaceport_lab.sfm.exporting import export

    done = export(run_dir, target, to)
    console.print(
        f"{done['n_images']} cameras, {done['n_points']:,} points in {done['target']}", soft_wrap=True
    )


@app.command()
def doctor() -> None:
    """Say what this machine can do, and what to do about each problem."""
    from spaceport_lab.doctor import examine

    marks = {"ok": "[green]✓[/]", "note": "[yellow]![/]", "problem": "[red]✗[/]"}
    table = Table("", "what", "found", "what to do", box=None, pad_edge=False)
    findings = examine()
    for finding in findings:
        table.add_row(marks[finding.state], finding.subject, escape(finding.found), escape(finding.advice))
    console.print(table)
    if any(finding.state == "problem" for finding in findings):
        raise typer.Exit(1)


@params_app.command("show")
def params_show(
    stage: Annotated[str | None, typer.Argument(help="One stage only.")] = None,
    preset: Preset = None,
    override: Override = None,
) -> None:
    """Every parameter with its value, where the value comes from, bounds and help."""
    from spaceport_lab.params import SCHEMAS, resolve
    from spaceport_lab.params.describe import bounds

    resolved = resolve(preset or (), override or ())
    if stage is not None and stage not in SCHEMAS:
        from spaceport_lab.params.resolve import check_name

        check_name(stage, "", where="params show")
    for name in [stage] if stage else SCHEMAS:
        table = Table(box=None, pad_edge=False)
        for column in ("name", "value", "from", "bounds", "help"):
            table.add_column(column, no_wrap=column in ("name", "value", "from"))
        for key, field in SCHEMAS[name].model_fields.items():
            value, origin = getattr(resolved.params[name], key), resolved.origins[name][key]
            row = (f"{name}.{key}", repr(value), origin, bounds(SCHEMAS[name], key), field.description or "")
            table.add_row(*map(escape, row), style="" if origin == "default" else "bold")
        console.print(table)
        console.print()


@params_app.command("sync")
def params_sync() -> None:
    """Write the parameters cells of the notebooks from the schemas."""
    from spaceport_lab.params.cells import sync

    changed = sync()
    console.print(f"updated: {', '.join(changed)}" if changed else "every notebook agrees with its schema")


@params_app.command("check")
def params_check() -> None:
    """Fail when a notebook's parameters cell differs from its schema, or a preset cannot be used."""
    from spaceport_lab.params import preset_names, resolve
    from spaceport_lab.params.cells import drifted

    for name in preset_names():
        resolve([name])
    if stages := drifted():
        console.print(f"[red]parameters cells differ from the schema: {', '.join(stages)}[/]")
        console.print("try: spaceport-lab params sync")
        raise typer.Exit(1)
    console.print("presets and notebooks agree with the schemas")


def _print_result(root: Path) -> None:
    console.print()
    rows = {
        "report": root / "report.html",
        "splat": root / "04_compress" / "splat.sog",
        "PLY": root / "03_train" / "splat.ply",
        "notebooks": root / "notebooks",
        "run card": root / "run.json",
    }
    here = Path.cwd()
    for name, path in rows.items():
        if path.exists():
            shown = path.relative_to(here) if path.is_relative_to(here) else path
            console.print(f"{name:>10}  {shown}", soft_wrap=True)
    console.print("\nOpen the report in a browser: the splat in it turns with the mouse.")


def main() -> None:
    """Entry point: errors made on purpose are printed as they are, others keep their traceback."""
    try:
        app()
    except SpaceportError as error:
        Console(stderr=True, highlight=False).print(f"[red]{escape(str(error))}[/]", soft_wrap=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
