"""The commands of production: the queue, its worker, the start-job API, SageMaker, what a run will cost."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from spaceport_lab.cli_options import DataDir, Output, Override, Preset, Scene, Steps, console
from spaceport_lab.errors import InputError, ParamsError

app = typer.Typer()


@app.command()
def submit(
    path: Annotated[
        str, typer.Argument(help="Photographs, scene, COLMAP folder, PLY or s3://…, as for `run`.")
    ],
    preset: Preset = None,
    override: Override = None,
    steps: Steps = "full",
    name: Annotated[str, typer.Option(help="Of the job; made when left out.")] = "",
    scene: Scene = "",
    output: Output = "",
    email: Annotated[str, typer.Option(help="Who is told how it ended.")] = "",
    webhook: Annotated[str, typer.Option(help="Address that is told how it ended.")] = "",
    priority: Annotated[int, typer.Option(min=-10, max=10, help="Higher ones first.")] = 0,
    key: Annotated[str, typer.Option(help="The same key again gives the same job, not another one.")] = "",
    to: Annotated[str, typer.Option(help="queue, for a worker; or sagemaker, as a training job.")] = "queue",
    settings: Annotated[
        Path | None,
        typer.Option(help="With --to sagemaker: YAML, see docs/sagemaker.md.", envvar="SPACEPORT_SAGEMAKER"),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="With --to sagemaker: follow it to its end.")] = False,
    data: DataDir = Path("data"),
) -> None:
    """Put a run into the queue, where a worker takes it, or start it at SageMaker."""
    if to == "sagemaker":
        _submit_to_sagemaker(path, preset or (), override or (), steps, name, settings, wait, data)
        return
    if to != "queue":
        raise ParamsError("there is nowhere of that name to submit to", got=to, expected="queue or sagemaker")
    from spaceport_lab import jobs

    ask = jobs.local_ask(
        path, preset or (), override or (),
        steps=steps, name=name, scene=scene, output=output, email=email, webhook=webhook, priority=priority,
    )  # fmt: skip
    job, made = jobs.Store(jobs.store_path(data)).submit(ask, key)
    console.print(f"job [bold]{job.name}[/] {'waits' if made else f'is there already: {job.state}'}")


def _submit_to_sagemaker(path, presets, overrides, steps, name, settings, wait, data) -> None:
    from spaceport_lab.aws import sagemaker
    from spaceport_lab.aws.runs import drain
    from spaceport_lab.naming import new_name

    if settings is None:
        raise ParamsError(
            "SageMaker needs settings: image, role, buckets",
            expected="--settings FILE.yaml, or SPACEPORT_SAGEMAKER",
            hint="docs/sagemaker.md has one to copy",
        )
    asked = sagemaker.read_settings(settings)
    sent = drain(sagemaker.send(name or new_name(path, time.time()), path, asked, steps, presets, overrides))
    console.print(escape(str(sent)), soft_wrap=True)
    if wait:

        def say(status: sagemaker.Status) -> None:
            console.print(escape(f"{status.state} {status.detail} {status.message}".strip()), soft_wrap=True)

        root = drain(sagemaker.see_through(sent, data, asked.region, say))
        console.print(escape(str(root)), soft_wrap=True)


@app.command("jobs")
def show_jobs(
    name: Annotated[str, typer.Argument(help="One job, with all that happened to it.")] = "",
    json: Annotated[bool, typer.Option("--json", help="For other programs.")] = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Until it has ended.")] = False,
    data: DataDir = Path("data"),
) -> None:
    """Show the queue, or one job."""
    from spaceport_lab import jobs
    from spaceport_lab.jobs import showing

    store = jobs.Store(jobs.store_path(data))
    if json:
        typer.echo(showing.as_json(store, name))
        return
    try:
        showing.show(store, console, name, watch)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


@app.command()
def cancel(name: Annotated[str, typer.Argument(help="The job.")], data: DataDir = Path("data")) -> None:
    """Cancel a job: at once where it waits, within seconds where it runs."""
    from spaceport_lab import jobs

    job = jobs.Store(jobs.store_path(data)).cancel(name)
    console.print(f"job [bold]{job.name}[/]: {'asked to stop' if job.state == 'running' else job.state}")


@app.command()
def worker(
    once: Annotated[bool, typer.Option("--once", help="One job at the most.")] = False,
    name: Annotated[str, typer.Option(help="Of this worker; host and process when left out.")] = "",
    lease: Annotated[float, typer.Option(min=5, help="[s] after its death its job goes to others.")] = 30,
    grace: Annotated[float, typer.Option(min=0, help="[s] a running job has to stop in.")] = 9,
    steps: Annotated[list[str] | None, typer.Option(help="Only jobs of these steps; repeatable.")] = None,
    data: DataDir = Path("data"),
) -> None:
    """Take jobs from the queue, one at a time; SIGTERM puts the running one back."""
    from spaceport_lab import jobs, logs, notify
    from spaceport_lab.serve.addresses import check_webhook
    from spaceport_lab.serve.settings import load

    logs.configure()
    store = jobs.Store(jobs.store_path(data))
    told = notify.load()
    senders = notify.make_senders(told, partial(check_webhook, settings=load(data=data)))
    deliver = partial(notify.loop, store, senders, give_up_days=told.give_up_days)
    jobs.Worker(
        store, data, name, lease_s=lease, grace_s=grace, kinds=tuple(steps or ()), beside=[deliver]
    ).run(once)


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen at; this machine only else.")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="8321 unless said; 0 takes a free one.")
    ] = None,
    settings: Annotated[Path | None, typer.Option(help="YAML: roots, s3_prefixes, webhook_hosts, …")] = None,
    data: Annotated[Path | None, typer.Option("--data", help="Folder of the scenes.")] = None,
) -> None:
    """Start jobs and follow them from a browser or over HTTP; a worker runs them."""
    from spaceport_lab import logs
    from spaceport_lab.serve.settings import load

    try:
        from spaceport_lab.serve.app import serve as listen
    except ModuleNotFoundError as error:
        raise InputError(
            "the service needs a package that is not installed",
            got=error.name,
            hint="pip install 'spaceport-lab[serve]'",
        ) from error
    logs.configure()
    listen(
        load(settings, data=data, host=host, port=port),
        lambda line: console.print(line, soft_wrap=True, markup=False),
    )


@app.command()
def batch(
    scenes: Annotated[Path, typer.Argument(help="YAML list of scenes; see docs/batch-example.yaml.")],
    data: DataDir = Path("data"),
    jobs: Annotated[int, typer.Option(min=1, help="Scenes at a time on this machine.")] = 1,
    on: Annotated[str, typer.Option(help="ray, or ray://HOST:10001: a cluster instead.")] = "",
    output: Annotated[str, typer.Option(help="s3:// prefix that gets each run; over the file's.")] = "",
    name: Annotated[str, typer.Option(help="Of the batch; the file's when left out.")] = "",
) -> None:
    """Run many scenes; the same command again does only what is left."""
    from spaceport_lab import batch as batches
    from spaceport_lab.batch.on_ray import OnRay
    from spaceport_lab.batch.showing import Display, summary

    asked = batches.make_batch(scenes, data, name, output)
    console.print(
        f"batch [bold]{asked.name}[/], {len(asked.scenes)} scenes  →  {asked.folder}", soft_wrap=True
    )
    with Display(console) as display:
        outcome = batches.run_batch(asked, OnRay(on) if on else batches.Here(jobs), display.told)
    console.print(summary(outcome.rows))
    console.print(outcome.report, soft_wrap=True)
    if outcome.interrupted:
        console.print("stopped; the same command goes on from here")
    raise typer.Exit(outcome.exit_code)


@app.command()
def estimate(
    path: Annotated[Path, typer.Argument(help="Photographs, or a scene.")],
    preset: Preset = None,
    override: Override = None,
    region: Annotated[str, typer.Option(help="Of the prices.", envvar="SPACEPORT_REGION")] = "us-west-2",
    data: DataDir = Path("data"),
) -> None:
    """Say what a run would take and cost on each kind of machine, going by earlier runs."""
    from spaceport_lab import costs
    from spaceport_lab.params import resolve

    size = costs.size_up(path)
    if size is None:
        raise InputError(
            "there are no photographs to be seen here", got=path, expected="a folder with JPEG files, a zip"
        )
    steps = resolve(preset or (), override or ()).params["train"].max_steps
    table = Table("machine", box=None, pad_edge=False)
    for column in ("minutes", "USD", "from runs"):
        table.add_column(column, justify="right")
    for name, found in costs.estimates(costs.read_cards(data), *size, steps, region).items():
        usd = f"{found.usd.low:.2f} to {found.usd.high:.2f}" if found and found.usd else "unknown"
        minutes = f"{found.seconds.low / 60:.1f} to {found.seconds.high / 60:.1f}" if found else "unknown"
        table.add_row(escape(name), minutes, usd, str(found.n_runs) if found else "0")
    console.print(f"{size[0]} photographs of {size[1]:.1f} megapixels, {steps:,} steps", soft_wrap=True)
    console.print(table)


@app.command("sagemaker-entry", hidden=True)
def sagemaker_entry(
    words: Annotated[list[str] | None, typer.Argument(help="SageMaker adds `train`.")] = None,
) -> None:
    """What a SageMaker container starts: one run, told by its environment."""
    from spaceport_lab import logs
    from spaceport_lab.aws import entry

    raise typer.Exit(entry.main(configure=lambda: logs.configure("json")))
