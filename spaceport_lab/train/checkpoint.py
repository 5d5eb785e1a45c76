"""Everything a training needs to go on as if it had not been interrupted."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam

from spaceport_lab import files
from spaceport_lab.train.densify import Adc, Mcmc

FORMAT = 1
"""Raised when an older checkpoint can no longer be read."""


@dataclass
class Counters:
    """The small numbers of a training; plain values only, they are stored by name.

    Attributes:
        step: finished steps.
        seconds: spent training, over all attempts.
        cap: Gaussians at the most on this machine.
        psnr, ssim: of the latest held-out evaluation; None before it.
        best_psnr, best_step: of the best one.
        eval_steps, eval_psnrs: all of them.
        idle_checks: densifications in a row in which no Gaussian exceeded the threshold.
        grown: Gaussians added by densification so far.
        checks: densifications so far.
        stopped_by: why training ended; empty while it goes on.
        warnings: what a person should know, kept for the run card.
        fault: what was not finite, and where; empty if nothing was.
    """

    step: int = 0
    seconds: float = 0.0
    cap: int = 0
    psnr: float | None = None
    ssim: float | None = None
    best_psnr: float | None = None
    best_step: int | None = None
    eval_steps: list[int] = field(default_factory=list)
    eval_psnrs: list[float] = field(default_factory=list)
    idle_checks: int = 0
    grown: int = 0
    checks: int = 0
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
        best: the fields at the best held-out evaluation; None where it is not needed.
    """

    splats: dict[str, torch.nn.Parameter]
    optimizers: dict[str, Adam]
    strategy: Adc | Mcmc
    counters: Counters
    best: dict[str, Tensor] | None = None

    @property
    def n(self) -> int:
        """How many Gaussians."""
        return len(self.splats["means"])


def make_optimizers(splats: dict[str, torch.nn.Parameter]) -> dict[str, Adam]:
    """One fused Adam a field, as gsplat's strategies need it; rates are set before every step."""
    return {
        name: Adam([{"params": [values], "lr": 0.0, "name": name}], betas=(0.9, 0.999), eps=1e-15, fused=True)
        for name, values in splats.items()
    }


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
    except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, TypeError, OSError) as error:
        warn(f"{path.name} cannot be read ({type(error).__name__}); training starts anew")
        return None
    if not usable or content["key"] != key:
        warn(
            f"{path.name} belongs to other parameters, other inputs or another version; training starts anew"
        )
        return None
    for group in ("splats", "strategy", "best"):
        content[group] = _to_device(content[group], device)
    return content


def restore(state: State, content: dict[str, Any]) -> None:
    """Bring `state` to where the checkpoint was written, random numbers included."""
    state.splats = {name: torch.nn.Parameter(values) for name, values in content["splats"].items()}
    state.optimizers = make_optimizers(state.splats)
    for name, optimizer in state.optimizers.items():
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": content["optimizers"][name], "param_groups": groups})
    state.strategy.load_state(content["strategy"])
    state.counters = Counters(**content["counters"])
    state.best = content["best"]
    torch.set_rng_state(content["random"])
    if content["random_cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(content["random_cuda"])


def _to_device(value: Any, device: torch.device) -> Any:
    if isinstance(value, dict):
        return {name: _to_device(item, device) for name, item in value.items()}
    return value.to(device) if isinstance(value, Tensor) else value
