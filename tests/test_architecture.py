"""The house stands as planned: imports point down, stages do not know each other, rooms stay small."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import spaceport_lab

PACKAGE = Path(spaceport_lab.__file__).parent
FLOORS: list[set[str]] = [
    {"errors", "resources", "fence", "files", "kernels"},
    {"params"},
    {"workspace", "runcard", "naming", "colmap", "cameras", "gaussians", "images", "metrics"},
    {"backends", "sog"},
    {"evaluation", "edit"},
    {"sample", "ingest", "sfm", "train", "compress", "inspection"},
    {"plots", "viewer", "compress_job", "logs", "costs"},
    {"notebook", "report", "ablation", "session", "tracking", "aws"},
    {"pipeline", "doctor", "splat_cli", "widgets", "comparing"},
    {"sweep", "jobs", "notify"},
    {"serve", "batch"},
    {"cli_options", "service_cli"},
    {"cli"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
STAGES = {"ingest", "sfm", "train", "compress", "inspection"}
# errors is every room's; files sits on errors; the rest of a floor shares nothing unless listed here.
SAME_FLOOR = {
    ("files", "errors"), ("fence", "errors"), ("files", "fence"), ("kernels", "errors"),
    ("runcard", "files"), ("workspace", "runcard"),
    ("cameras", "images"), ("cameras", "colmap"), ("report", "notebook"), ("notebook", "report"),
    ("session", "notebook"), ("notify", "jobs"), ("service_cli", "cli_options"),
}  # fmt: skip
MODULES = sorted(p for p in PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    """Rooms of the package that a module imports, at its top or inside a function."""
    rooms: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "spaceport_lab" and len(parts) > 1 and parts[1] in FLOOR:
                rooms.add(parts[1])
    return rooms


def test_every_room_is_on_the_plan() -> None:
    rooms = {room(path) for path in MODULES} - {"__init__"}
    assert rooms == set(FLOOR), "name new rooms in FLOORS, take gone ones out"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    here = room(path)
    if here == "__init__":
        return
    for other in imported_rooms(path) - {here}:
        down = FLOOR[other] < FLOOR[here] or (here, other) in SAME_FLOOR
        assert down, f"{here} (floor {FLOOR[here]}) imports {other} (floor {FLOOR[other]})"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_stages_draw_nothing(path: Path) -> None:
    if room(path) not in STAGES:
        return
    names = {
        alias.name.split(".")[0]
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in ([ast.alias(node.module or "")] if isinstance(node, ast.ImportFrom) else node.names)
    }
    assert not names & {"IPython", "matplotlib", "ipywidgets"}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_modules_stay_small_and_say_what_they_are(path: Path) -> None:
    source = path.read_text()
    assert len(source.splitlines()) <= 450, "two ideas in one module: split it"
    assert ast.get_docstring(ast.parse(source)), "a module starts with what it is"
