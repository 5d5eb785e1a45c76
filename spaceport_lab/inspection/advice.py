"""What a person should do next, with the figures that say so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

UNREGISTERED = 0.1
"""Share of the photographs without a camera from which it matters."""

GAP = 3.0
"""dB by which training views are better than held-out ones where photographs are learnt by heart."""

EXPOSURE = 0.7
"""dB that matching the colours gains where exposures differ."""

OUTLIER = 4.0
"""dB below the mean from which a view stands out."""

THIN = 0.1
"""Share of the Gaussians shown at all that fewer than three photographs show, from which it matters."""

TRANSPARENT, HUGE, FLOATERS = 0.3, 0.005, 0.005
"""Shares of Gaussians from which suspects of a kind matter."""

LOSS, CHEAP = 0.3, 0.05
"""dB lost in compressing: more is too much, less leaves room for a smaller file."""


@dataclass(frozen=True)
class Advice:
    """One thing to do.

    Attributes:
        finding: what is the matter.
        evidence: the figures that say so.
        action: what to try.
    """

    finding: str
    evidence: str
    action: str

    def row(self) -> dict[str, str]:
        """As a row of a table for people."""
        return {"what stands out": self.finding, "because": self.evidence, "try": self.action}


def advise(
    metrics: Mapping[str, Mapping[str, Any]],
    views: Sequence[Mapping[str, Any]],
    suspects: Mapping[str, Mapping[str, Any]],
    thin_share: float | None,
) -> list[Advice]:
    """What to do next, what matters most first; empty where nothing stands out.

    Args:
        metrics: of the finished stages, by stage, as on the run card.
        views: held-out views as in views.json.
        suspects: as in statistics.json.
        thin_share: as `Confidence.thin_share` gives it.
    """
    sfm, train, packed = (metrics.get(stage) or {} for stage in ("sfm", "train", "compress"))
    return [
        *_photographs(sfm, thin_share),
        *_training(train),
        *_views(views),
        *_suspects(suspects),
        *_compression(train, packed),
    ]


def _photographs(sfm: Mapping[str, Any], thin_share: float | None) -> Iterator[Advice]:
    registered, given = sfm.get("n_registered"), sfm.get("n_images")
    if registered is not None and given and registered < (1 - UNREGISTERED) * given:
        yield Advice(
            "photographs without a camera",
            f"{given - registered} of {given} were not registered",
            "see why in 02_sfm; photographs between those and the others, with 70 % overlap, join them",
        )
    if thin_share is not None and thin_share > THIN:
        yield Advice(
            "places that few photographs show",
            f"{thin_share:.0%} of the Gaussians are shown by fewer than three",
            "fly beyond the edge, with more overlap, or cut the edge off: spaceport-lab splat clean --box",
        )


def _training(train: Mapping[str, Any]) -> Iterator[Advice]:
    heldout, trained = train.get("psnr_heldout"), train.get("psnr_train")
    if heldout is not None and trained is not None and trained - heldout > GAP:
        yield Advice(
            "photographs learnt by heart",
            f"training views {trained:.1f} dB, held-out ones {heldout:.1f} dB",
            "more photographs help most; fewer Gaussians too: train.grow_ratio, or the preset compact",
        )
    matched = train.get("cc_psnr_heldout")
    if heldout is not None and matched is not None and matched - heldout > EXPOSURE:
        yield Advice(
            "exposure differs between photographs",
            f"matching colours alone gains {matched - heldout:.1f} dB",
            "train.exposure learns each photograph's exposure and white balance",
        )
    if any("still improving" in verdict.lower() for verdict in train.get("verdicts") or ()):
        yield Advice(
            "training ended too early", "it was still improving at its last step", "raise train.max_steps"
        )


def _views(views: Sequence[Mapping[str, Any]]) -> Iterator[Advice]:
    measured = [view for view in views if view["psnr"] is not None]
    if len(measured) < 3:
        return
    mean = float(np.mean([view["psnr"] for view in measured]))
    bad = [view for view in measured if view["psnr"] < mean - OUTLIER]
    if bad:
        names = ", ".join(view["name"] for view in bad[:3]) + (" and others" if len(bad) > 3 else "")
        yield Advice(
            "views far worse than the rest",
            f"{names}: {bad[0]['psnr']:.1f} dB against {mean:.1f} in the mean",
            "look at them above: something moved, they are blurred, or they lie at the edge of the flight",
        )


def _suspects(suspects: Mapping[str, Mapping[str, Any]]) -> Iterator[Advice]:
    clean = "spaceport-lab splat clean"
    rules = (
        ("nearly transparent", "many Gaussians that hardly show", TRANSPARENT,
         f"raise train.prune_opa, or {clean} --min-opacity"),
        ("huge", "huge Gaussians", HUGE, f"{clean} --max-sigma; look for the holes they veil"),
        ("floater", "floaters", FLOATERS, f"{clean} --floaters takes out what touches nothing"),
    )  # fmt: skip
    for name, finding, least, action in rules:
        found = suspects.get(name)
        if found and found["share"] > least:
            evidence = f"{found['count']:,} Gaussians, {found['share']:.1%}: {found['rule']}"
            yield Advice(finding, evidence, action)


def _compression(train: Mapping[str, Any], packed: Mapping[str, Any]) -> Iterator[Advice]:
    before, after = train.get("psnr_heldout"), packed.get("psnr_heldout")
    if before is None or after is None:
        return
    loss = before - after
    if loss > LOSS:
        yield Advice(
            "compressing costs quality", f"{loss:.2f} dB on held-out views", "compress.setting quality"
        )
    elif loss < CHEAP and packed.get("bytes"):
        yield Advice(
            "the file could be smaller",
            f"compressing cost {loss:.2f} dB, {packed['bytes'] / 1e6:.2f} MB",
            "compress.setting auto takes the smallest file that loses little",
        )
