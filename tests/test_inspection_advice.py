"""What a person is told to do next: each rule fires on its figures and not beside them."""

from __future__ import annotations

import pytest

from spaceport_lab.inspection.advice import Advice, advise

FINE = {
    "sfm": {"n_images": 40, "n_registered": 40},
    "train": {"psnr_heldout": 27.0, "psnr_train": 28.5, "cc_psnr_heldout": 27.3, "verdicts": []},
    "compress": {"psnr_heldout": 26.9, "bytes": 1_500_000},
}
VIEWS = [{"name": f"{i}.jpg", "psnr": psnr} for i, psnr in enumerate((25.0, 27.0, 28.0, 28.5))]
SUSPECTS = {
    "nearly transparent": {"count": 10, "share": 0.1, "rule": "faint"},
    "huge": {"count": 1, "share": 0.0001, "rule": "large"},
    "floater": {"count": 0, "share": 0.0, "rule": "alone"},
}


def advised(
    changes: dict | None = None, views=VIEWS, suspects=SUSPECTS, thin: float | None = 0.01
) -> list[Advice]:
    metrics = {stage: values | (changes or {}).get(stage, {}) for stage, values in FINE.items()}
    return advise(metrics, views, suspects, thin)


def test_nothing_stands_out_of_a_good_run() -> None:
    assert advised() == []
    assert advise({}, [], {}, None) == []
    assert advise({"train": {"psnr_heldout": None, "psnr_train": None, "verdicts": None}}, [], {}, None) == []


@pytest.mark.parametrize(
    ("changes", "finding", "evidence", "action"),
    [
        ({"sfm": {"n_registered": 30}}, "without a camera", "10 of 40", "overlap"),
        ({"train": {"psnr_train": 31.0}}, "learnt by heart", "31.0 dB", "photographs"),
        ({"train": {"cc_psnr_heldout": 28.0}}, "exposure differs", "1.0 dB", "train.exposure"),
        ({"train": {"verdicts": ["Still improving: 0.2 dB"]}}, "too early", "improving", "train.max_steps"),
        ({"compress": {"psnr_heldout": 26.0}}, "costs quality", "1.00 dB", "quality"),
        ({"compress": {"psnr_heldout": 26.99}}, "could be smaller", "0.01 dB", "auto"),
    ],
)
def test_figures_of_stages(changes: dict, finding: str, evidence: str, action: str) -> None:
    (one,) = advised(changes)
    assert finding in one.finding
    assert evidence in one.evidence
    assert action in one.action
    assert set(one.row().values()) == {one.finding, one.evidence, one.action}


def test_views_coverage_and_suspects() -> None:
    (worst,) = advised(views=[{"name": "dark.jpg", "psnr": 12.0}, *VIEWS])
    assert "dark.jpg" in worst.evidence
    (thin,) = advised(thin=0.3)
    assert "30%" in thin.evidence
    bad = {name: s | {"share": 0.5, "count": 500} for name, s in SUSPECTS.items()}
    found = advised(suspects=bad)
    assert [one.finding for one in found] == ["many Gaussians that hardly show", "huge Gaussians", "floaters"]
    assert all("500" in one.evidence and one.action for one in found)


def test_what_matters_most_comes_first() -> None:
    changes = {"sfm": {"n_registered": 30}, "compress": {"psnr_heldout": 20.0}}
    found = [one.finding for one in advised(changes, thin=0.5)]
    assert found == [
        "photographs without a camera",
        "places that few photographs show",
        "compressing costs quality",
    ]
