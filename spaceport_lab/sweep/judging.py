"""How a sweep went: its trials as rows, whether one beat the default, and the best as a preset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from spaceport_lab import files
from spaceport_lab.sweep.study import Sweep, changes, limit

STATES = {
    TrialState.COMPLETE: "done",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}

ENDED = ("done", "pruned", "failed")
"""States of a trial that has ended."""


@dataclass(frozen=True)
class TrialRow:
    """A trial.

    Attributes:
        number: 0 is the default.
        run: its run folder.
        state: done, pruned, failed, running or waiting.
        changes: `train.grow_ratio` → value, against the default.
        psnr: dB, the best of the views that decide, within the time; None where it has none.
        heldout: dB, of the held-out views at that moment.
        seconds, step: of training until then.
        reason: why it was pruned or failed.
    """

    number: int
    run: Path
    state: str
    changes: Mapping[str, Any]
    psnr: float | None
    heldout: float | None
    seconds: float | None
    step: int | None
    reason: str


@dataclass(frozen=True)
class Outcome:
    """A sweep so far.

    Attributes:
        trials: all there are, by number.
        seconds: of training that each trial has; None before the default has ended.
        best: the best one that is done; None where there is none.
        beats: whether `best` beats the default, by the views that decide and by the held-out views.
        sentence: that in words.
        preset: the file with the best as a preset; None before it was written.
    """

    trials: Sequence[TrialRow]
    seconds: float | None
    best: TrialRow | None
    beats: bool
    sentence: str
    preset: Path | None = None


def outcome(study: Study, sweep: Sweep) -> Outcome:
    """How the sweep stands."""
    trials = [_row(trial, sweep) for trial in study.get_trials(deepcopy=False)]
    done = [row for row in trials if row.state == "done" and row.psnr is not None]
    best = max(done, key=lambda row: row.psnr or 0.0, default=None)
    seconds = limit(study)
    beats, sentence = _verdict(done[0], best, seconds) if best and done[0].number == 0 else (False, "")
    preset = sweep.folder / "best.yaml"
    return Outcome(
        trials, seconds, best, beats, sentence or "the default has not been trained yet",
        preset if preset.exists() else None,
    )  # fmt: skip


def write_best(found: Outcome, sweep: Sweep) -> Path:
    """Write best.yaml: a preset of what the best trial changes, empty where nothing beat the default.

    Raises:
        WorkspaceError: the folder cannot be written.
    """
    over = f" over the preset {', '.join(sweep.presets)}" if sweep.presets else ""
    lines = [f"# Sweep {sweep.name} of {sweep.folder.parents[1].name}, {len(found.trials)} trials{over}."]
    lines.append(f"# {found.sentence}")
    values: dict[str, dict[str, Any]] = {}
    if found.best is not None and found.beats:
        lines += [f"# Trial {found.best.number}: {_figures(found.best)}, at step {found.best.step:,}."]
        for name, value in found.best.changes.items():
            stage, _, key = name.partition(".")
            values.setdefault(stage, {})[key] = value
    text = yaml.safe_dump(values, sort_keys=False) if values else ""
    path = sweep.folder / "best.yaml"
    files.write_text(path, "\n".join(lines) + "\n" + text)
    return path


def _row(trial: FrozenTrial, sweep: Sweep) -> TrialRow:
    known = trial.user_attrs
    return TrialRow(
        trial.number,
        sweep.run_dir(trial.number),
        STATES[trial.state],
        changes(trial, sweep.space),
        known.get("best_psnr"),
        known.get("best_heldout"),
        known.get("best_seconds"),
        known.get("best_step"),
        known.get("reason", ""),
    )


def _verdict(default: TrialRow, best: TrialRow, seconds: float | None) -> tuple[bool, str]:
    time = f"within the {seconds or 0:.1f} s that the default trains"
    if best.number == default.number:
        return False, f"Nothing beat the default {time}: {_figures(default)}."
    both = f"{_figures(best)}, the default {_figures(default)}, {time}"
    if best.heldout is None or default.heldout is None or best.heldout > default.heldout:
        return True, f"Trial {best.number} beats the default: {both}."
    return False, (
        f"Nothing beat the default: trial {best.number} is better on the views that decide, but not on the "
        f"held-out ones: {both}."
    )


def _figures(row: TrialRow) -> str:
    if row.heldout is None or row.heldout == row.psnr:
        return f"{row.psnr:.2f} dB on held-out views"
    return f"{row.psnr:.2f} dB on validation and {row.heldout:.2f} dB on held-out views"
