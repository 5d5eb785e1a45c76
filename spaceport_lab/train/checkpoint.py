"""Everything a training needs to go on as if it had not been interrupted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam, Optimizer

from spaceport_lab import files
from spaceport_lab.backends import DeferredAdam
from spaceport_lab.train.appearance import Appearance
from spaceport_lab.train.densify import Adc, Mcmc
from spaceport_lab.train.poses import CameraRefinement

FORMAT = 2
"""Raised when an older checkpoint can no longer be read."""


@dataclass
class Counters:
    """The small numbers of a training; plain values only, they are stored by name.

    Attributes:
        step: finished steps.
        seconds: spent training, over all attempts.
        cap: Gaussians at the most on this machine.
        psnr, ssim: of the held-out views at the latest evaluation; None before it.
        psnr_validation: of the validation views; None where there are none.
        best_psnr, best_step: of the best evaluation of the views that decide.
        improved_step: of the latest evaluation that was better by what counts.
        eval_steps, eval_psnrs: all evaluations of the views that decide.
        loss: of training, averaged over the latest hundred steps or so.
        loss_best: the same at the best evaluation.
        idle_checks: densifications in a row in which no Gaussian exceeded the threshold.
        grown: Gaussians added by densification so far.
        checks: densifications so far that had room for more Gaussians.
        sh_degree: the highest SH degree rendered so far.
        changes: what a person changed on the way, each with `step` and `values`.
        stopped_by: why training ended: "max_steps", "target_psnr", "patience", "nan" or "person"; empty while
            it goes on.
        warnings: what a person should know, kept for the run card.
        fault: what was not finite, and where; empty if nothing was.
    """

    step: int = 0
    seconds: float = 0.0
    cap: int = 0
    psnr: float | None = None
    ssim: float | None = None
    psnr_validation: float | None = None
    best_psnr: float | None = None
    best_step: int | None = None
    improved_step: int = 0
    eval_steps: list[int] = field(default_factory=list)
    eval_psnrs: list[float] = field(default_factory=list)
    loss: float | None = None
    loss_best: float | None = None
    idle_checks: int = 0
    grown: int = 0
    checks: int = 0
    sh_degree: int = 0
    changes: list[dict[str, Any]] = field(default_factory=list)
    stopped_by: str = ""
    warnings: list[str] = field(default_factory=list)
    fault: str = ""


@dataclass
class State:
    """What a step changes.

    Attributes:
        splats: the six fields, raw, by name.
        optimizers: one Adam for each.
        strategy: densification with its running statistics.
        counters: see `Counters`.
        best: the fields at the best evaluation; None where it is not needed.
        appearance: exposure of each training view; None where it is not learnt.
        cameras: refinement of each training camera; None where they stand still.
        sh_degrees: [N] of each Gaussian once bands were dropped; None before.
        n_first: Gaussians at the start, from which growth is planned.
    """

    splats: dict[str, torch.nn.Parameter]
    optimizers: dict[str, Optimizer]
    strategy: Adc | Mcmc
    counters: Counters
    best: dict[str, Tensor] | None = None
    appearance: Appearance | None = None
    cameras: CameraRefinement | None = None
    sh_degrees: Tensor | None = None
    n_first: int = 0

    @property
    def n(self) -> int:
        """How many Gaussians."""
        return len(self.splats["means"])


def make_optimizers(splats: dict[str, torch.nn.Parameter]) -> dict[str, Optimizer]:
    """One Adam a field, as gsplat's strategies need it; rates are set before every step.

    On the CPU one that steps the Gaussians in view alone, on a GPU torch's fused one.
    """
    return {name: _make_optimizer(name, values) for name, values in splats.items()}


def _make_optimizer(name: str, values: torch.nn.Parameter) -> Optimizer:
    groups = [{"params": [values], "lr": 0.0, "name": name}]
    if values.is_cuda:
        return Adam(groups, betas=(0.9, 0.999), eps=1e-15, fused=True)
    return DeferredAdam(groups, betas=(0.9, 0.999), eps=1e-15)


def save(path: Path, key: str, state: State) -> None:
    """Write a checkpoint atomically. `step` and `splats` stand where gsplat's own tools look for them.

    Raises:
        WorkspaceError: the disk is full or the folder is not writable.
    """
    cuda = state.splats["means"].is_cuda
    content = {
        "format": FORMAT,
        "key": key,
        "step": state.counters.step,
        "splats": {name: values.detach() for name, values in state.splats.items()},
        "optimizers": {name: o.state_dict()["state"] for name, o in state.optimizers.items()},
        "strategy": state.strategy.state,
        "counters": asdict(state.counters),
        "best": state.best,
        "appearance": state.appearance.state() if state.appearance else None,
        "cameras": state.cameras.state() if state.cameras else None,
        "sh_degrees": state.sh_degrees,
        "random": torch.get_rng_state(),
        "random_cuda": torch.cuda.get_rng_state() if cuda else None,
    }
    with files.atomic_path(path) as temporary:
        torch.save(content, temporary)


def load(path: Path, key: str, device: torch.device, warn: Callable[[str], None]) -> dict[str, Any] | None:
    """Read a checkpoint of this very training; None, and a warning that says why, for any other."""
    if not path.exists():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        usable = content["format"] == FORMAT
    except Exception as error:  # an unpickler meets damage with any of them
        warn(f"{path.name} cannot be read ({type(error).__name__}); training starts anew")
        return None
    if not usable or content["key"] != key:
        warn(
            f"{path.name} belongs to other parameters, other inputs or another version; training starts anew"
        )
        return None
    for group in ("splats", "strategy", "best", "sh_degrees"):
        content[group] = _to_device(content[group], device)
    return content


def steered(content: dict[str, Any]) -> bool:
    """Whether a person changed or stopped the training of this checkpoint."""
    counters = content["counters"]
    return bool(counters.get("changes")) or counters["stopped_by"] == "person"


def restore(state: State, content: dict[str, Any]) -> None:
    """Bring `state` to where the checkpoint was written, random numbers included."""
    state.splats = {name: torch.nn.Parameter(values) for name, values in content["splats"].items()}
    state.optimizers = make_optimizers(state.splats)
    for name, optimizer in state.optimizers.items():
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": content["optimizers"][name], "param_groups": groups})
    state.strategy.load_state(content["strategy"])
    state.counters = Counters(**content["counters"])
    state.best, state.sh_degrees = content["best"], content["sh_degrees"]
    for correction in ("appearance", "cameras"):
        if content[correction] is not None:
            getattr(state, correction).load_state(content[correction])
    torch.set_rng_state(content["random"])
    if content["random_cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(content["random_cuda"])


def _to_device(value: Any, device: torch.device) -> Any:
    if isinstance(value, dict):
        return {name: _to_device(item, device) for name, item in value.items()}
    return value.to(device) if isinstance(value, Tensor) else value
