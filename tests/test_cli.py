"""The command line: help, errors without tracebacks, params."""

from __future__ import annotations

import subprocess
import sys

import pytest


def cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "spaceport_lab.cli", *arguments], capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["run"],
        ["sample"],
        ["doctor"],
        ["params"],
        ["params", "show"],
        ["splat"],
        ["ablate"],
        ["export"],
        ["compare"],
        ["sweep"],
    ],
)
def test_help_is_there(words: list[str]) -> None:
    result = cli(*words, "--help")
    assert result.returncode == 0
    assert "Usage" in result.stdout


def test_params_show_names_value_origin_and_bounds() -> None:
    result = cli("params", "show", "train", "--preset", "demo", "--set", "train.seed=7")
    assert result.returncode == 0, result.stderr
    lines = {line.split()[0]: line for line in result.stdout.splitlines() if line.strip()}
    assert "--set" in lines["train.seed"]
    assert "7" in lines["train.seed"]
    assert "preset demo" in lines["train.max_steps"]
    assert "≥ 1" in lines["train.max_steps"]
    assert "train.means_lr" in lines


def test_params_show_of_a_misspelt_stage() -> None:
    result = cli("params", "show", "trian")
    assert result.returncode == 1
    assert "did you mean train?" in result.stderr
    assert "Traceback" not in result.stderr


def test_params_check_passes_on_this_tree() -> None:
    result = cli("params", "check")
    assert result.returncode == 0, result.stdout + result.stderr


def test_an_option_typer_does_not_know() -> None:
    result = cli("run", ".", "--presets", "demo")
    assert result.returncode == 2
    assert "--preset" in result.stderr
