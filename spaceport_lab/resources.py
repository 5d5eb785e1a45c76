"""Where notebooks and presets lie: in the repository when working on it, in the package when installed."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def notebooks_dir() -> Path:
    """The folder of the five stage notebooks, without outputs."""
    return _first_that_exists(_PACKAGE / "_notebooks", _PACKAGE.parent / "notebooks")


def presets_dir() -> Path:
    """The folder of the presets that ship with the package."""
    return _first_that_exists(_PACKAGE / "_presets", _PACKAGE.parent / "params")


def _first_that_exists(*candidates: Path) -> Path:
    for folder in candidates:
        if folder.is_dir():
            return folder
    raise FileNotFoundError(
        f"spaceport_lab is installed without its {candidates[-1].name}: reinstall it "
        f"(looked in {', '.join(map(str, candidates))})"
    )
