"""What a finished training should be told about itself, in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

OVERFIT_DB = 8.0
"""Train over held-out PSNR from which the splat has learnt the photographs instead of the scene."""

SUSPICIOUS_DB = 45.0
"""Held-out PSNR no real photographs allow: noise, exposure and JPEG alone cost more."""

FEW_VIEWS = 12
"""Training views below which a splat is seldom right between the cameras."""

IMPROVING_DB = 0.15
"""Gain between the last two evaluations that says more steps would have helped."""


@dataclass(frozen=True)
class Facts:
    """What verdicts are based on.

    Attributes:
        n_train: training views.
        n_heldout: held-out views.
        psnr_train: in dB, None where not measured.
        psnr_heldout: in dB, None without held-out views.
        eval_steps: steps at which held-out views were evaluated.
        eval_psnrs: PSNR in dB at each of them.
        checks: densifications done.
        grown: Gaussians they added.
        stopped_by: why training ended.
        fault: what was not finite, empty if nothing was.
        capped: whether the cap on Gaussians held growth back.
        best_psnr: the best held-out PSNR met, in dB.
    """

    n_train: int
    n_heldout: int
    psnr_train: float | None
    psnr_heldout: float | None
    eval_steps: Sequence[int]
    eval_psnrs: Sequence[float]
    checks: int
    grown: int
    stopped_by: str
    fault: str
    capped: bool
    best_psnr: float | None


def judge(facts: Facts) -> list[str]:
    """Short sentences, the gravest first; empty when there is nothing to say."""
    return [sentence for rule in _RULES if (sentence := rule(facts))]


def _fault(f: Facts) -> str:
    return f"Not a number: {f.fault}; the last good state was kept." if f.fault else ""


def _suspicious(f: Facts) -> str:
    if f.psnr_heldout is None or f.psnr_heldout < SUSPICIOUS_DB:
        return ""
    return (
        f"Suspicious: held-out PSNR of {f.psnr_heldout:.1f} dB is above what photographs allow; "
        "look for constant or repeated images."
    )


def _overfit(f: Facts) -> str:
    if f.psnr_heldout is None or f.psnr_train is None or f.psnr_train - f.psnr_heldout < OVERFIT_DB:
        return ""
    gap = f.psnr_train - f.psnr_heldout
    return (
        f"Overfit: training views are {gap:.1f} dB better than held-out ones "
        f"({f.psnr_train:.1f} against {f.psnr_heldout:.1f} dB)."
    )


def _declined(f: Facts) -> str:
    if f.psnr_heldout is None or f.best_psnr is None or f.best_psnr - f.psnr_heldout < 0.3:
        return ""
    return (
        f"Past its best: held-out PSNR was {f.best_psnr:.1f} dB before it fell to {f.psnr_heldout:.1f} dB; "
        "train.patience keeps the best."
    )


def _never_grew(f: Facts) -> str:
    if f.checks == 0 or f.grown > 0 or f.capped:
        return ""
    return f"Densification never fired: {f.checks} checks added no Gaussian; lower train.grow_grad2d."


def _few_views(f: Facts) -> str:
    if f.n_train >= FEW_VIEWS:
        return ""
    return f"Few views: {f.n_train} training photographs seldom fix the space between them."


def _unmeasured(f: Facts) -> str:
    return "" if f.n_heldout else "Unmeasured: no view was held out, so quality on new views is unknown."


def _capped(f: Facts) -> str:
    return "The cap on Gaussians held growth back; train.cap_max is the limit." if f.capped else ""


def _improving(f: Facts) -> str:
    if f.stopped_by != "max_steps" or len(f.eval_psnrs) < 2:
        return ""
    gain = f.eval_psnrs[-1] - f.eval_psnrs[-2]
    steps = f.eval_steps[-1] - f.eval_steps[-2]
    if gain < IMPROVING_DB:
        return ""
    return f"Still improving: {gain:.2f} dB in the last {steps:,} steps; more steps would help."


_RULES = (
    _fault, _suspicious, _overfit, _declined, _never_grew, _few_views, _unmeasured, _capped, _improving,
)  # fmt: skip
