"""Several runs side by side: which they are, what differs, which view all of them show."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from spaceport_lab.comparing.reading import Run, View, is_run, read_run
from spaceport_lab.errors import InputError
from spaceport_lab.params import SCHEMAS

TARGET_STEP_DB = 0.5
"""Time to quality is asked for at a whole multiple of this that every run reaches."""


@dataclass(frozen=True)
class Difference:
    """A parameter that is not the same in all runs.

    Attributes:
        name: `train.max_steps`.
        values: of each run, as text; "–" where the run has no such parameter.
        numbers: the same as numbers, for plots; None where it is none.
        changed: of each run, whether it was changed while training ran.
        help: what the parameter is.
    """

    name: str
    values: Sequence[str]
    numbers: Sequence[float | None]
    changed: Sequence[bool]
    help: str


@dataclass(frozen=True)
class Shared:
    """A held-out view for looking at.

    Attributes:
        name: of the photograph; empty where no two runs show the same one.
        views: name of the run → its pictures.
        note: which runs are not there, and why; empty where all are.
    """

    name: str
    views: Mapping[str, View]
    note: str


@dataclass(frozen=True)
class Comparison:
    """Runs read, and folders that could not be.

    Attributes:
        runs: in the order given, those of a scene by their age.
        unreadable: folder and reason.
    """

    runs: Sequence[Run]
    unreadable: Sequence[tuple[Path, str]] = ()

    @property
    def scenes(self) -> list[str]:
        """Names of the scenes, each once."""
        return list(dict.fromkeys(run.scene for run in self.runs))

    @property
    def scene_dirs(self) -> list[Path]:
        """`data/SCENE` of every run that lies in one, each once."""
        return list(dict.fromkeys(r.root.parents[1] for r in self.runs if r.root.parent.name == "runs"))

    def differences(self) -> list[Difference]:
        """Parameters that differ between the runs, or were changed in one while it trained."""
        names = dict.fromkeys(name for run in self.runs for name in run.params)
        found = []
        for name in names:
            values = [run.params.get(name) for run in self.runs]
            distinct = {json.dumps(v) for v in values if v is not None}
            if len(distinct) > 1 or any(name in run.changes for run in self.runs):
                found.append(_difference(name, self.runs))
        return found

    def target(self) -> float | None:
        """The PSNR in dB that time to quality is measured at; None where runs cannot be compared by it.

        All runs that ended their training reach it; one that broke early must not lower it.
        """
        ended = [run for run in self.runs if run.curve and "psnr" in run.figures]
        best = [max(psnr for _, _, psnr in run.curve) for run in ended]
        if len(best) < 2 or len(self.scenes) > 1:
            return None
        return min(best) // TARGET_STEP_DB * TARGET_STEP_DB

    def shared_view(self) -> Shared:
        """The view that most runs show, of those the one that is worst on average."""
        showing: dict[tuple[str, str], list[Run]] = {}
        for run in self.runs:
            for name in run.views:
                showing.setdefault((run.scene, name), []).append(run)
        ranked = sorted(showing.items(), key=lambda item: (-len(item[1]), _mean_psnr(item[1], item[0][1])))
        if not ranked or len(ranked[0][1]) < 2:
            return Shared("", {}, "no two of these runs show the same held-out view")
        (_, name), runs = ranked[0]
        missing = [run.name for run in self.runs if run not in runs]
        note = f"{name} is not shown by {', '.join(missing)}" if missing else ""
        return Shared(name, {run.name: run.views[name] for run in runs}, note)

    def notes(self) -> list[str]:
        """What could not be read, in sentences."""
        said = [f"{path}: {reason}" for path, reason in self.unreadable]
        if said:
            count = len(said)
            said.insert(0, f"{count} {'folder' if count == 1 else 'folders'} could not be read:")
        return said + [f"{run.name}: {note}" for run in self.runs for note in run.notes]


def compare(paths: Sequence[Path | str]) -> Comparison:
    """Read run folders, and of scene folders all their runs.

    Args:
        paths: folders; one that is given twice is read once.

    Raises:
        InputError: there is not one run among them.
    """
    runs: list[Run] = []
    unreadable: list[tuple[Path, str]] = []
    folders, nothing = _folders(paths)
    for folder in folders:
        try:
            runs.append(read_run(folder))
        except (OSError, ValueError) as error:
            unreadable.append((folder, str(error)))
    unreadable += nothing
    if not runs:
        raise InputError(
            "there is no run to compare",
            got="; ".join(f"{path}: {reason}" for path, reason in unreadable) or "no folder",
            expected="run folders such as data/SCENE/runs/JOB, or a scene folder with runs in it",
        )
    return Comparison(_named(runs), unreadable)


def _folders(paths: Sequence[Path | str]) -> tuple[list[Path], list[tuple[Path, str]]]:
    """Run folders behind the paths, each once, and paths that are none."""
    found: dict[Path, None] = {}
    nothing: list[tuple[Path, str]] = []
    for path in (Path(p).expanduser() for p in paths):
        if is_run(path):
            found[path.resolve()] = None
        elif (path / "runs").is_dir():
            inside = sorted(p for p in (path / "runs").iterdir() if p.is_dir() and not p.name.startswith("."))
            found |= dict.fromkeys(p.resolve() for p in sorted(inside, key=_age) if is_run(p))
            nothing += [(p, "neither a run card nor a stage in it") for p in inside if not is_run(p)]
        else:
            nothing.append((path, "no run and no scene" if path.exists() else "there is no such folder"))
    return list(found), nothing


def _age(folder: Path) -> float:
    card = folder / "run.json"
    return card.stat().st_mtime if card.exists() else folder.stat().st_mtime


def _named(runs: Sequence[Run]) -> list[Run]:
    """Runs with names that differ: with the scene where jobs of several scenes are called the same."""
    taken = Counter(run.name for run in runs)
    named = [replace(r, name=f"{r.scene}/{r.name}") if taken[r.name] > 1 else r for r in runs]
    seen: Counter[str] = Counter()
    unique = []
    for run in named:
        seen[run.name] += 1
        unique.append(replace(run, name=f"{run.name} ({seen[run.name]})") if seen[run.name] > 1 else run)
    return unique


def _difference(name: str, runs: Sequence[Run]) -> Difference:
    stage, _, key = name.partition(".")
    fields = SCHEMAS[stage].model_fields if stage in SCHEMAS else {}
    return Difference(
        name,
        values=[_value(run, name) for run in runs],
        numbers=[_number(run.params.get(name)) for run in runs],
        changed=[name in run.changes for run in runs],
        help=(fields[key].description or "") if key in fields else "",
    )


def _value(run: Run, name: str) -> str:
    if name not in run.params:
        return "–"
    said = _text(run.params[name])
    for step, value in run.changes.get(name, []):
        said += f" → {_text(value)} from step {step:,}"
    return said


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return f"{value:,}" if isinstance(value, int) else str(value) or "(empty)"


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _mean_psnr(runs: Sequence[Run], view: str) -> float:
    known = [run.views[view].psnr for run in runs if run.views[view].psnr is not None]
    return sum(known) / len(known) if known else float("inf")
