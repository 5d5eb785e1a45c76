"""What a part of training is worth: the same run trained with and without it, with one seed."""

from __future__ import annotations

import re
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import filelock

from spaceport_lab import files, train, workspace
from spaceport_lab.errors import ParamsError, SpaceportError, WorkspaceError
from spaceport_lab.params import TrainParams, resolve
from spaceport_lab.params.resolve import parse_override
from spaceport_lab.workspace import Progress, StageRun

ARMS: dict[str, tuple[str, ...]] = {
    "none": ("train.coarse_to_fine=none", "train.blur=0"),
    "step": ("train.coarse_to_fine=step", "train.blur=0"),
    "frequency": ("train.coarse_to_fine=frequency", "train.blur=0"),
    "blur": ("train.coarse_to_fine=none", "train.blur=3"),
}
"""The arms that have a name, each with what it changes."""

FIXED = {"patience": 0, "target_psnr": 0.0, "timelapse": False, "tensorboard": False}
"""In every arm: all take their steps to the end, on the same training views."""

EVALUATIONS = 20
"""Points of a curve at least, where an arm has so many steps."""

WARM_UP_STEPS = 8


@dataclass(frozen=True)
class Arm:
    """One training of an ablation: a name, what it changes as overrides, and the parameters it gets."""

    name: str
    changes: tuple[str, ...]
    params: TrainParams


@dataclass
class Outcome:
    """How an arm went.

    Attributes:
        arm, changes: as in `Arm`.
        reason: why it failed; empty where it did not.
        psnr, ssim: of the held-out views at the end, dB and 0..1; None where none is held out or it failed.
        seconds: of training, without evaluations and checkpoints.
        n_gaussians: at the end.
        curve: (seconds, step, held-out PSNR in dB) of every evaluation.
    """

    arm: str
    changes: tuple[str, ...]
    reason: str = ""
    psnr: float | None = None
    ssim: float | None = None
    seconds: float | None = None
    n_gaussians: int | None = None
    curve: list[tuple[float, int, float]] = field(default_factory=list)


def read_arms(
    texts: Sequence[str] = (), presets: Sequence[str] = (), overrides: Sequence[str] = ()
) -> list[Arm]:
    """Understand arms: names of ARMS, or `NAME:train.x=1,train.y=2`; all of ARMS when there are none.

    Args:
        texts: the arms.
        presets, overrides: in force in every arm, under what the arm changes.

    Raises:
        ParamsError: no such arm, two of one name, a change of another stage or of what all arms share.
    """
    arms: list[Arm] = []
    for text in texts or list(ARMS):
        name, colon, changes = text.partition(":")
        wanted = tuple(c.strip() for c in changes.split(",") if c.strip()) if colon else ARMS.get(name)
        if wanted is None or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}", name):
            raise ParamsError(
                f"cannot read the arm {text!r}",
                expected=f"one of {', '.join(ARMS)}, or NAME:train.x=1,train.y=2 with a NAME of letters, "
                "digits, - and _",
            )
        if name.lower() in {arm.name.lower() for arm in arms}:
            raise ParamsError(f"there are two arms {name}", hint="give each a name of its own")
        arms.append(Arm(name, wanted, _params(name, wanted, presets, overrides)))
    return arms


def _params(
    name: str, changes: Sequence[str], presets: Sequence[str], overrides: Sequence[str]
) -> TrainParams:
    for stage, key, _ in map(parse_override, changes):
        if stage != "train" or key in FIXED:
            raise ParamsError(
                f"the arm {name} cannot change {stage}.{key}",
                expected="parameters of train, but for " + ", ".join(FIXED),
                hint="arms share the sfm stage, and all train to the end so that they can be compared",
            )
    p = resolve(presets, [*overrides, *changes], {"train": FIXED}).params["train"]
    return p.model_copy(update={"eval_every": max(1, min(p.eval_every, p.max_steps // EVALUATIONS))})


def ablate(
    root: Path, arms: Sequence[Arm], progress: Callable[[Arm, Progress], None] = lambda arm, state: None
) -> list[Outcome]:
    """Train all arms of a run, one after the other, into `root/ablation/ARM`.

    An arm that was finished with the same parameters and inputs is not trained again; one that was
    interrupted goes on. `ablation.json` and `ablation.png` are there from the first arm on.

    Args:
        root: run folder with a finished sfm stage.
        arms: see `read_arms`.
        progress: told how far an arm is.

    Raises:
        WorkspaceError: sfm has not finished, the folder cannot be written, or another ablation is at work.
    """
    root = Path(root).resolve()
    StageRun(root, "train").input("sfm")
    outcomes: list[Outcome] = []
    with _alone(root / "ablation"):
        opened = [(arm, _open(root, arm)) for arm in arms]
        if not all(_finished(run, arm.params) for arm, run in opened):
            warm_up(root, arms[0].params)
        for arm, run in opened:
            outcomes.append(_outcome(run, arm, progress))
            _write(root / "ablation", outcomes)
    return outcomes


def _outcome(run: StageRun, arm: Arm, progress: Callable[[Arm, Progress], None]) -> Outcome:
    """Train one arm unless it is there; whatever goes wrong with it is its reason."""
    try:
        if not _finished(run, arm.params):
            _train(run, arm, progress)
        return _read(run, arm)
    except Exception as error:
        # One arm must not cost the others, whatever it met: memory, NaN, a bug. The whole story is kept.
        story = str(error) if isinstance(error, SpaceportError) else traceback.format_exc()
        files.write_text(run.dir / "error.txt", story)
        first = str(error).strip().splitlines() or [""]
        prefix = "" if isinstance(error, SpaceportError) else f"{type(error).__name__}: "
        return Outcome(arm.name, arm.changes, reason=prefix + first[0])


def _train(run: StageRun, arm: Arm, progress: Callable[[Arm, Progress], None]) -> None:
    with files.clear_os_errors(run.dir):
        run.dir.mkdir(parents=True, exist_ok=True)
        for old in ("stage.json", "error.txt"):
            (run.dir / old).unlink(missing_ok=True)
    for state in train.run(run, arm.params):
        progress(arm, state)
    if run.failed_gates:
        raise run.failed_gates[0]
    workspace.write_manifest(run, arm.params)


def _read(run: StageRun, arm: Arm) -> Outcome:
    metrics = workspace.read_manifest(run.dir)["metrics"]
    records = train.records(run)
    return Outcome(
        arm.name,
        arm.changes,
        reason="training met NaN" if metrics["stopped_by"] == "nan" else "",
        psnr=metrics["psnr_heldout"],
        ssim=metrics["ssim_heldout"],
        seconds=max(record["seconds"] for record in records if record["kind"] == "step"),
        n_gaussians=metrics["n_gaussians"],
        curve=[(r["seconds"], r["step"], r["psnr"]) for r in records if r["kind"] == "eval"],
    )


def _open(root: Path, arm: Arm) -> StageRun:
    """The arm's own train stage, in a run folder that shares the sfm stage with `root`."""
    folder = root / "ablation" / arm.name
    workspace.share_stage(root, folder, "sfm")
    return StageRun(folder, "train")


def _finished(run: StageRun, p: TrainParams) -> bool:
    return workspace.is_done(run, workspace.stage_key("train", p, workspace.gather_inputs(run, p)))


def warm_up(root: Path, p: TrainParams) -> None:
    """A few steps, thrown away: the first arm alone would pay for compiling kernels and for cold files."""
    short = {"max_steps": WARM_UP_STEPS, "eval_every": WARM_UP_STEPS, "refine_every": 2, "refine_start": 0.0}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "warm-up"
        workspace.share_stage(root, folder, "sfm")
        run = StageRun(folder, "train")
        run.dir.mkdir()
        try:
            for _ in train.run(run, p.model_copy(update=short)):
                pass
        except Exception:
            return  # what breaks here breaks in the arms too, and is reported there


def _write(folder: Path, outcomes: Sequence[Outcome]) -> None:
    from spaceport_lab.plots.ablation import comparison

    rows = [asdict(outcome) for outcome in outcomes]
    files.write_json(folder / "ablation.json", {"arms": rows})
    with files.atomic_path(folder / "ablation.png") as temporary:
        comparison(rows).savefig(temporary)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock.

    Raises:
        WorkspaceError: another process has it, or the folder cannot be written.
    """
    with files.clear_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout as error:
            raise WorkspaceError(
                "another process trains arms of this run", got=folder, hint="wait until it has ended"
            ) from error
    try:
        yield
    finally:
        lock.release()
