"""A sweep on the disk: what is searched, Optuna's study, and which trial comes next."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import optuna
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from spaceport_lab import files
from spaceport_lab.errors import ParamsError, StageError, WorkspaceError
from spaceport_lab.params import Resolved, TrainParams, resolve
from spaceport_lab.params.resolve import parse_override
from spaceport_lab.sweep.space import FIXED, Space, parse_space
from spaceport_lab.sweep.timing import GRID

EVALUATIONS = 20
"""Evaluations of a trial at least, where it has so many steps."""

MOST_ATTEMPTS = 3
"""How often a trial is taken up again whose process died, before it counts as failed."""

STARTUP_TRIALS = 4
"""Trials drawn at random before Optuna's sampler learns, and finished before one is pruned."""

NAME = re.compile(r"[a-z0-9](-?[a-z0-9]){0,30}")
"""What a sweep may be called: its trials are jobs of that name with a number behind."""

NO_MORE, LATER = "no more", "later"
"""What there is instead of a trial: all are done, or the others have to be waited for."""


@dataclass(frozen=True)
class Sweep:
    """What is searched, and where.

    Attributes:
        source: the run whose sfm stage all trials share.
        folder: SCENE/sweeps/NAME.
        space: what may vary.
        presets, overrides: in force in every trial, under what varies.
        storage: URL of Optuna's storage.
    """

    source: Path
    folder: Path
    space: Space
    presets: tuple[str, ...]
    overrides: tuple[str, ...]
    storage: str

    @property
    def name(self) -> str:
        """Of the sweep and, with a number, of its trials' jobs."""
        return self.folder.name

    def run_dir(self, number: int) -> Path:
        """The run folder of a trial."""
        return self.folder.parents[1] / "runs" / f"{self.name}-t{number:02d}"

    def resolved(self, changes: Mapping[str, Any]) -> Resolved:
        """All parameters of a trial that tries `changes`, with their origins.

        Raises:
            ParamsError: a preset or an override cannot be used, or one would end trials early.
        """
        for stage, key, _ in map(parse_override, self.overrides):
            if stage == "train" and key in (*FIXED, "patience"):
                raise ParamsError(
                    f"a sweep cannot be run with train.{key}",
                    expected="trials that train until their time is over, on the same views",
                )
        fixed = dict(FIXED)
        for name, value in changes.items():
            fixed[name.partition(".")[2]] = value
        found = resolve(self.presets, self.overrides, {"train": fixed})
        p = found.params["train"]
        assert isinstance(p, TrainParams)
        # Patience that can never end a training, yet asks for validation views: those decide, never the
        # held-out ones.
        update = {
            "patience": max(1, p.max_steps - 1),
            "eval_every": max(1, min(p.eval_every, p.max_steps // EVALUATIONS)),
        }
        origins = dict.fromkeys((name.partition(".")[2] for name in changes), f"sweep {self.name}")
        origins |= dict.fromkeys(update, "run")
        return Resolved(
            {**found.params, "train": p.model_copy(update=update)},
            {**found.origins, "train": {**found.origins["train"], **origins}},
        )

    def definition(self) -> dict[str, Any]:
        """What must be the same when a sweep goes on."""
        return {
            "source": str(self.source),
            "presets": list(self.presets),
            "overrides": list(self.overrides),
            "space": files.plain(dict(self.space.spec)),
        }

    def save(self) -> None:
        """Write sweep.json, or see that this is the sweep that is there.

        Raises:
            WorkspaceError: there is another one of this name, or the folder cannot be written.
        """
        path = self.folder / "sweep.json"
        with files.clear_os_errors(path):
            self.folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(self.folder / ".lock"):
            if not path.exists():
                files.write_json(path, {**self.definition(), "storage": self.storage})
                return
            before = json.loads(path.read_text(encoding="utf-8"))
        mine = {**self.definition(), "storage": self.storage}
        differing = [name for name, value in mine.items() if before.get(name) != value]
        if differing:
            raise WorkspaceError(
                f"there is a sweep {self.name} of this scene already, with another {', '.join(differing)}",
                got=path,
                hint="give this one another --name, or call it with what the first one had to go on with it",
            )


def load(folder: Path) -> Sweep:
    """The sweep that `Sweep.save` wrote into this folder.

    Raises:
        WorkspaceError: there is none.
    """
    folder = Path(folder).resolve()
    try:
        known = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))
        space = parse_space(known["space"], str(folder / "sweep.json"))
        lists = (tuple(known["presets"]), tuple(known["overrides"]))
        return Sweep(Path(known["source"]), folder, space, *lists, known["storage"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WorkspaceError("there is no sweep in this folder", got=folder) from error


def open_study(sweep: Sweep) -> Study:
    """Optuna's study of the sweep, made when it is not there yet.

    Raises:
        StageError: the storage cannot be reached.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Several workers write one SQLite file: they wait for each other instead of giving up.
    sqlite = sweep.storage.startswith("sqlite:")
    options = {"connect_args": {"timeout": 60}} if sqlite else {}
    try:
        storage = optuna.storages.RDBStorage(sweep.storage, engine_kwargs=options)
        return optuna.create_study(
            storage=storage,
            study_name=f"{sweep.folder.parents[1].name}/{sweep.name}",
            direction="maximize",
            load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(STARTUP_TRIALS, n_warmup_steps=GRID // 4),
        )
    except Exception as error:  # SQLAlchemy and every driver have errors of their own
        raise StageError(
            "the sweep's storage cannot be used",
            got=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
            expected="a URL of SQLAlchemy, such as sqlite:///study.db or postgresql://host/name",
        ) from error


@contextlib.contextmanager
def claim(study: Study, sweep: Sweep, n_trials: int) -> Iterator[Trial | str]:
    """The next trial to work on, held by a lock on its run folder for as long as the context lasts.

    First one whose process died: its run goes on from its checkpoint. Then a new one: trial 0 is the default,
    and the others wait for it, because it sets their time.

    Yields:
        The trial; NO_MORE when all `n_trials` are done; LATER when others are still at work.
    """
    held: filelock.BaseFileLock | None = None
    try:
        with filelock.FileLock(sweep.folder / ".claim.lock"):
            found: Trial | str = LATER
            for frozen in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                held = _hold(sweep.run_dir(frozen.number))
                if held is None:
                    continue
                found = _taken_up(study, frozen)
                if isinstance(found, Trial):
                    break
                held.release()
                held, found = None, LATER
            if held is None:
                found = _new(study, sweep, n_trials)
                if isinstance(found, Trial):
                    held = _hold(sweep.run_dir(found.number))
        if isinstance(found, Trial) and held is None:
            raise WorkspaceError(
                f"another process works in {sweep.run_dir(found.number)}", hint="wait for it or stop it"
            )
        yield found
    finally:
        if held is not None:
            held.release()


def _hold(root: Path) -> filelock.BaseFileLock | None:
    """The lock the pipeline takes too; None where somebody has it."""
    with files.clear_os_errors(root):
        root.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(root / ".lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        return None
    return lock


def _taken_up(study: Study, frozen: FrozenTrial) -> Trial | None:
    """A trial whose process died, to go on with; None where it died too often, which is a failure."""
    attempts = frozen.user_attrs.get("attempts", 1)
    if attempts >= MOST_ATTEMPTS and not frozen.user_attrs.get("default"):
        trial = Trial(study, frozen._trial_id)
        trial.set_user_attr("reason", f"its process died {attempts} times")
        study.tell(frozen.number, state=TrialState.FAIL)
        return None
    # Optuna's own `ask` makes trials in this way; it has no name for going on with one.
    trial = Trial(study, frozen._trial_id)
    trial.set_user_attr("attempts", attempts + 1)
    return trial


def _new(study: Study, sweep: Sweep, n_trials: int) -> Trial | str:
    trials = study.get_trials(deepcopy=False)
    if not trials:
        return _ask_for_the_default(study, sweep)
    if limit(study) is None:
        return LATER
    begun = [trial for trial in trials if trial.state != TrialState.WAITING]  # those enqueued come first
    if len(begun) >= n_trials:
        return NO_MORE if all(trial.state.is_finished() for trial in begun) else LATER
    seed = sweep.resolved({}).params["train"].model_dump()["seed"]
    # Seeded by its number: a sweep that was killed goes on as if it had not been.
    study.sampler = optuna.samplers.TPESampler(n_startup_trials=STARTUP_TRIALS, seed=seed + len(trials))
    trial = study.ask(dict(sweep.space.distributions))
    trial.set_user_attr("run", sweep.run_dir(trial.number).name)
    return trial


def _ask_for_the_default(study: Study, sweep: Sweep) -> Trial:
    p = sweep.resolved({}).params["train"]
    assert isinstance(p, TrainParams)
    inside = sweep.space.holds(p)
    if inside is not None:
        study.enqueue_trial(inside)
    # Outside the space, such as an automatic 0, it is a trial without parameters.
    trial = study.ask(dict(sweep.space.distributions) if inside is not None else None)
    trial.set_user_attr("default", True)
    trial.set_user_attr("run", sweep.run_dir(trial.number).name)
    return trial


def limit(study: Study) -> float | None:
    """Seconds of training that every trial has, those the default took; None before that has ended."""
    first = study.get_trials(deepcopy=False)[:1]
    return first[0].user_attrs.get("limit") if first and first[0].state.is_finished() else None


def changes(trial: Trial | FrozenTrial, space: Space) -> dict[str, Any]:
    """What a trial changes against the default: `train.grow_ratio` → value as trained with."""
    return {} if trial.user_attrs.get("default") else space.tidied(trial.params)


def checked_name(name: str) -> str:
    """`name`, where a sweep may be called that.

    Raises:
        ParamsError: it may not.
    """
    if not NAME.fullmatch(name):
        raise ParamsError(
            f"{name!r} is no name for a sweep",
            expected="lower-case letters, digits and single inner hyphens, 31 at the most",
            hint="give one with --name",
        )
    return name


def finished(study: Study) -> Sequence[FrozenTrial]:
    """Trials that have ended, in whatever way."""
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
