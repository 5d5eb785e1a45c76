"""What a finished training should be told about itself, in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from spaceport_lab.train.evidence import Evidence

OVERFIT_DB = 8.0
"""Train over held-out PSNR from which the splat has learnt the photographs instead of the scene."""

DECLINED_DB = 0.3
"""Fall from the best evaluation to the last that is no mere wobble."""

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
        evidence: what the photographs say.
        psnr_train: in dB, None where not measured.
        psnr_heldout: in dB, None without held-out views.
        eval_steps: steps at which the views that decide were evaluated.
        eval_psnrs: their PSNR in dB at each of them.
        checks: densifications that had room for more Gaussians.
        grown: Gaussians they added.
        stopped_by: why training ended.
        fault: what was not finite, empty if nothing was.
        capped: whether the cap on Gaussians held growth back.
        best_psnr, best_step: the best evaluation of the views that decide, in dB.
        loss_best, loss: training loss at that evaluation and at the end.
        restored: whether the best state was kept instead of the last.
    """

    n_train: int
    n_heldout: int
    evidence: Evidence
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
    best_step: int | None
    loss_best: float | None
    loss: float | None
    restored: bool


def judge(facts: Facts) -> list[str]:
    """Short sentences, the gravest first; empty when there is nothing to say."""
    said = [sentence for rule in _RULES if (sentence := rule(facts))]
    overfit = [sentence for sentence in said if sentence.startswith("Overfit")]
    return [sentence for sentence in said if sentence not in overfit[1:]]  # both rules mean the same


def _fault(f: Facts) -> str:
    return f"Not a number: {f.fault}; the last good state was kept." if f.fault else ""


def _constant(f: Facts) -> str:
    n = f.evidence.n_constant
    return f"Constant images: {n} of the photographs looked at show nothing at all." if n else ""


def _on_training_views(f: Facts) -> str:
    same = f.evidence.same_as_training
    if not same:
        return ""
    return (
        f"Suspicious: {len(same)} of {f.n_heldout} held-out photographs are also trained on "
        f"({', '.join(same[:3])}); the held-out figures say little."
    )


def _suspicious(f: Facts) -> str:
    limit = f.evidence.psnr_limit
    if f.psnr_heldout is None or f.psnr_heldout < limit:
        return ""
    return (
        f"Suspicious: held-out PSNR of {f.psnr_heldout:.1f} dB is above the {limit:.1f} dB that the noise of "
        "such photographs allows; look for constant or repeated images."
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
    if not f.eval_psnrs or f.best_psnr is None or f.best_psnr - f.eval_psnrs[-1] < DECLINED_DB:
        return ""
    fall = f"PSNR of views not trained on fell from {f.best_psnr:.1f} dB at step {f.best_step:,} to "
    fall += f"{f.eval_psnrs[-1]:.1f} dB"
    kept = "the best state was restored" if f.restored else "train.patience keeps the best"
    if f.loss is not None and f.loss_best is not None and f.loss < f.loss_best:
        return f"Overfit: {fall} while the training loss sank from {f.loss_best:.3f} to {f.loss:.3f}; {kept}."
    return f"Past its best: {fall}; {kept}."


def _never_grew(f: Facts) -> str:
    if f.checks == 0 or f.grown > 0 or f.capped:
        return ""
    return (
        f"Densification never fired: {f.checks} checks added no Gaussian; set train.grow_grad2d to 0, which "
        "finds a threshold that does."
    )


def _few_views(f: Facts) -> str:
    if f.n_train >= FEW_VIEWS:
        return ""
    return f"Few views: {f.n_train} training photographs seldom fix the space between them."


def _unmeasured(f: Facts) -> str:
    return "" if f.n_heldout else "Unmeasured: no view was held out, so quality on new views is unknown."


def _capped(f: Facts) -> str:
    return "The cap on Gaussians held growth back; train.cap_max is the limit." if f.capped else ""


def _improving(f: Facts) -> str:
    if f.stopped_by not in ("max_steps", "person") or len(f.eval_psnrs) < 2:
        return ""
    gain = f.eval_psnrs[-1] - f.eval_psnrs[-2]
    steps = f.eval_steps[-1] - f.eval_steps[-2]
    if gain < IMPROVING_DB:
        return ""
    return f"Still improving: {gain:.2f} dB in the last {steps:,} steps; more steps would help."


_RULES = (
    _fault, _constant, _on_training_views, _suspicious, _overfit, _declined, _never_grew, _few_views,
    _unmeasured, _capped, _improving,
)  # fmt: skip
