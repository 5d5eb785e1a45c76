"""The repository itself: environment files agree, notebooks are clean, nothing large lies about."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from spaceport_lab.params import STAGES
from spaceport_lab.params.cells import TOOLS, notebook_path, parameters_cell

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DESIGN_CARD = {
    "jupyterlab", "papermill", "ipywidgets", "torch", "gsplat", "pycolmap", "sogs", "cupy-cuda12x",
    "matplotlib", "open3d",
}  # fmt: skip


def tracked() -> list[Path]:
    out = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [ROOT / name for name in out.stdout.split("\0") if name and (ROOT / name).is_file()]


def requirements(lines: list[str]) -> dict[str, Requirement]:
    return {canonicalize_name(Requirement(line).name): Requirement(line) for line in lines}


def test_environment_yml_agrees_with_pyproject() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    pip = next(d["pip"] for d in environment["dependencies"] if isinstance(d, dict))
    wanted = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["gpu"]
    assert {str(r) for r in requirements(pip).values()} == {str(r) for r in requirements(wanted).values()}
    assert set(requirements(pip)) >= DESIGN_CARD


def test_constraints_pin_what_pyproject_allows() -> None:
    pins = requirements(
        [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]
    )
    assert all(re.fullmatch(r"==[^*]+", str(pin.specifier)) for pin in pins.values())
    extras = PROJECT["optional-dependencies"]
    for name, wanted in requirements(PROJECT["dependencies"] + extras["dev"]).items():
        assert name in pins, f"{name} has no pin"
        version = Version(str(pins[name].specifier).removeprefix("=="))
        assert wanted.specifier.contains(version), f"{name} {version} is outside {wanted.specifier}"


def test_design_card_top_level() -> None:
    for name in ("notebooks", "spaceport_lab", "params", "data", "tests", "environment.yml", "README.md"):
        assert (ROOT / name).exists(), name


def test_nothing_tracked_is_large() -> None:
    assert {p.name: p.stat().st_size for p in tracked() if p.stat().st_size > 250_000} == {}


def test_no_address_of_a_package_registry_is_tracked() -> None:
    pattern = re.compile(rb'"resolved":|index-url|registry\.npmjs|files\.pythonhosted')
    here = Path(__file__).resolve()
    found = [p.name for p in tracked() if p != here and pattern.search(p.read_bytes())]
    assert found == []


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda p: p.stem)
def test_notebooks_are_thin_and_clean(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [c for c in notebook.cells if c.cell_type == "code"]
    assert all(not c.outputs and c.execution_count is None for c in code), "strip the outputs"
    assert len(code) <= 12
    assert notebook.cells[0].cell_type == notebook.cells[-1].cell_type == "markdown"
    assert notebook.cells[1] is parameters_cell(notebook, path)
    for cell in code:
        if cell is notebook.cells[1]:
            continue
        lines = cell.source.splitlines()
        assert len(lines) <= 12, cell.source
        assert not [x for x in lines if re.match(r"\s*(def |class |!|%)", x)], cell.source
        assert not re.search(r"""["'](/|\.\.?/|~)""", cell.source), f"a path in {cell.source}"
    assert {"language_info", "widgets"}.isdisjoint(notebook.metadata)
    assert notebook.metadata.kernelspec.name == "python3"


def test_there_is_one_notebook_a_stage() -> None:
    assert [notebook_path(name).exists() for name in (*STAGES, *TOOLS)] == [True] * (len(STAGES) + len(TOOLS))


def test_the_readme_names_the_two_commands_and_ci_runs_the_second() -> None:
    readme = (ROOT / "README.md").read_text()
    assert "make demo" in readme
    assert "make test" in readme
    assert "make test" in (ROOT / ".ci" / "run").read_text()
    assert ".ci/run" in (ROOT / ".github" / "workflows" / "ci.yml").read_text()


def imported_packages(folder: Path) -> set[str]:
    """Top-level names that Python files below `folder` import."""
    names: set[str] = set()
    for path in folder.rglob("*.py"):
        if "node_modules" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.split(".")[0])
    return names - set(sys.stdlib_module_names) - {"spaceport_lab"}


@pytest.mark.parametrize(
    ("folder", "extras"),
    [("spaceport_lab", ("live", "mlflow", "aws", "serve", "cluster")), ("tests", ("dev",))],
)
def test_everything_imported_is_declared(folder: str, extras: tuple[str, ...]) -> None:
    """A machine that has more installed than it should hides what is missing."""
    wanted = PROJECT["dependencies"] + [r for e in extras for r in PROJECT["optional-dependencies"][e]]
    owners = packages_distributions()
    declared = set(requirements(wanted))
    local = {path.stem for path in (ROOT / "tests").glob("*.py")} | {"hatch_build"}
    missing = {
        name
        for name in imported_packages(ROOT / folder) - local
        if not {canonicalize_name(owner) for owner in owners.get(name, [name])} & declared
    }
    assert missing == set(), "add them to pyproject.toml, environment.yml and constraints.txt"
