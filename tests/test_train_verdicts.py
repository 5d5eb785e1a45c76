from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import scenes
from PIL import Image

from spaceport_lab import train
from spaceport_lab.params import TrainParams
from spaceport_lab.train import evidence
from spaceport_lab.train.evidence import Evidence
from spaceport_lab.train.verdicts import Facts, judge

FINE = Facts(
    n_train=40, n_heldout=6, evidence=Evidence(45.0, 0, ()), psnr_train=30.0, psnr_heldout=28.0,
    eval_steps=(500, 1000), eval_psnrs=(27.95, 28.0), checks=10, grown=500, stopped_by="max_steps", fault="",
    capped=False, best_psnr=28.0, best_step=1000, loss_best=0.1, loss=0.1, restored=False,
)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, []),
        ({"fault": "scales (3 of 9)"}, ["Not a number: scales"]),
        ({"evidence": Evidence(45.0, 2, ())}, ["Constant images: 2"]),
        ({"evidence": Evidence(45.0, 0, ("a.jpg",))}, ["1 of 6 held-out photographs are also trained on"]),
        ({"psnr_heldout": 54.0, "psnr_train": 54.2}, ["above the 45.0 dB"]),
        ({"psnr_train": 37.0}, ["Overfit: training views are 9.0 dB better"]),
        (
            {"eval_psnrs": (28.0, 27.0), "best_step": 500, "loss_best": 0.2, "restored": True},
            ["while the training loss sank from 0.200 to 0.100; the best state was restored"],
        ),
        ({"eval_psnrs": (28.0, 27.0), "best_step": 500, "loss": 0.3}, ["Past its best: "]),
        (
            {"eval_psnrs": (28.0, 27.0), "best_step": 500, "loss_best": 0.2, "psnr_train": 39.0},
            ["Overfit: training views are 11.0 dB better"],
        ),
        ({"grown": 0}, ["Densification never fired: 10 checks"]),
        ({"grown": 0, "capped": True}, ["The cap on Gaussians"]),
        ({"n_train": 5}, ["Few views: 5"]),
        ({"n_heldout": 0, "psnr_heldout": None, "eval_psnrs": (), "eval_steps": ()}, ["Unmeasured"]),
        ({"eval_psnrs": (27.0, 28.0)}, ["Still improving: 1.00 dB in the last 500 steps"]),
        ({"eval_psnrs": (27.0, 28.0), "stopped_by": "target_psnr"}, []),
    ],
)  # fmt: skip
def test_what_is_said(change: dict, said: list[str]) -> None:
    verdicts = judge(dataclasses.replace(FINE, **change))
    assert len(verdicts) == len(said)
    for verdict, part in zip(verdicts, said, strict=True):
        assert part in verdict


def test_noise_limits_what_can_be_reached() -> None:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:240, :320]
    clean = 128 + 80 * np.sin(x / 15)[..., None] * np.cos(y / 11)[..., None] * np.ones(3)
    for sigma, limit in ((1.5, 20 * np.log10(255 / 1.5)), (2.5, 20 * np.log10(255 / 2.5))):
        grey_noise = rng.normal(0, sigma, (240, 320, 1))  # the same in all channels, so also in grey
        photo = np.clip(clean + grey_noise, 0, 255).round().astype(np.uint8)
        assert evidence.psnr_limit(photo) == pytest.approx(limit, abs=1.2)
    assert evidence.psnr_limit(np.full((64, 64, 3), 9, np.uint8)) == evidence.HIGHEST_LIMIT
    assert evidence.psnr_limit(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)) == evidence.LEAST_LIMIT
    assert evidence.psnr_limit(np.zeros((9, 9, 3), np.uint8)) == evidence.HIGHEST_LIMIT


def quick(run, **values) -> list[str]:
    p = TrainParams(**{"max_steps": 30, "eval_every": 10, "sh_degree": 0, "timelapse": False, **values})
    list(train.run(run, p))
    return run.metrics["verdicts"]


def test_held_out_photographs_that_were_trained_on_are_found(tmp_path: Path) -> None:
    run = scenes.make_run(tmp_path)
    images = run.input("sfm", "images")
    (images / "view_008.png").write_bytes((images / "view_003.png").read_bytes())
    assert any("also trained on (view_008.png)" in verdict for verdict in quick(run))


def test_constant_photographs_are_found(tmp_path: Path) -> None:
    run = scenes.make_run(tmp_path)
    for path in run.input("sfm", "images").iterdir():
        Image.new("RGB", (64, 48), (90, 90, 90)).save(path)
    verdicts = quick(run)
    assert any(verdict.startswith("Constant images") for verdict in verdicts)
    assert any(verdict.startswith("Suspicious") for verdict in verdicts)
    assert any("never fired" in v or "also trained on" in v for v in verdicts)
