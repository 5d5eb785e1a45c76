"""Options that several commands have."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

# Without a terminal there is no width to respect, and a table cut at 80 columns helps nobody.
console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)

Preset = Annotated[
    list[str] | None, typer.Option("--preset", "-p", help="Preset name or .yaml path; later ones win.")
]
Override = Annotated[
    list[str] | None, typer.Option("--set", "-s", help="STAGE.NAME=VALUE, over presets; repeatable.")
]
DataDir = Annotated[Path, typer.Option("--data", help="Folder of the scenes.", envvar="SPACEPORT_DATA")]
Scene = Annotated[
    str, typer.Option(help="What the scene is to be called, where its folder's name says nothing.")
]
Steps = Annotated[str, typer.Option(help="full, 3dgs or compression.")]
Output = Annotated[
    str,
    typer.Option(
        help="s3://BUCKET/PREFIX that gets the run folder, after each stage.", envvar="S3_OUTPUT_URI"
    ),
]
