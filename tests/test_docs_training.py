"""docs/training.md says what the code does: verdicts, records and checkpoint are all named there."""

from __future__ import annotations

import re
import runpy
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import scenes
import torch
from PIL import Image

from spaceport_lab import train
from spaceport_lab.params import TrainParams
from spaceport_lab.train import verdicts
from spaceport_lab.train.evidence import Evidence
from spaceport_lab.train.verdicts import FEW_VIEWS, Facts, judge

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE = (DOCS / "training.md").read_text(encoding="utf-8")
FINE = {
    "n_train": 50, "n_heldout": 7, "evidence": Evidence(45.0, 0, ()), "psnr_train": 25.0,
    "psnr_heldout": 24.0, "eval_steps": [500, 1000], "eval_psnrs": [23.95, 24.0], "checks": 9, "grown": 99,
    "stopped_by": "max_steps", "fault": "", "capped": False, "best_psnr": 24.0, "best_step": 1000,
    "loss_best": 0.05, "loss": 0.05, "restored": False,
}  # fmt: skip
FAULTS: list[dict[str, Any]] = [
    {"fault": "means"},
    {"evidence": Evidence(45.0, 3, ())},
    {"evidence": Evidence(45.0, 0, ("a.jpg",))},
    {"psnr_heldout": 46.0, "psnr_train": 46.0},
    {"psnr_train": 40.0},
    {"best_psnr": 26.0, "loss_best": 0.06},
    {"best_psnr": 26.0},
    {"grown": 0},
    {"n_train": FEW_VIEWS - 1},
    {"n_heldout": 0, "psnr_heldout": None, "eval_psnrs": [], "eval_steps": []},
    {"capped": True},
    {"eval_psnrs": [20.0, 24.0]},
]


def table(heading: str) -> list[str]:
    """First cells of the first table below a heading or a word in bold."""
    below = PAGE[PAGE.index(heading) :].splitlines()
    first = next(i for i, line in enumerate(below) if line.startswith("|"))
    rows = []
    for line in below[first + 2 :]:
        if not line.startswith("|"):
            break
        rows.append(line.split("|")[1].strip())
    return rows


def head(sentence: str) -> str:
    """What a verdict starts with, which is its name."""
    return re.split(r"[:;]", sentence)[0]


def test_every_verdict_is_in_the_table() -> None:
    assert judge(Facts(**FINE)) == []
    said = [judge(Facts(**{**FINE, **fault})) for fault in FAULTS]
    assert all(len(sentences) == 1 for sentences in said), said
    assert sorted(set(map(head, (sentences[0] for sentences in said)))) == sorted(table("## Verdicts"))
    fired = {
        rule.__name__ for rule in verdicts._RULES for fault in FAULTS if rule(Facts(**{**FINE, **fault}))
    }
    assert fired == {rule.__name__ for rule in verdicts._RULES}, "a rule that FAULTS does not cause"
    assert f"fewer than {FEW_VIEWS} photographs" in PAGE


def test_records_and_checkpoint_are_as_written(tmp_path: Path) -> None:
    run = scenes.make_run(tmp_path)
    p = TrainParams(max_steps=20, eval_every=10, refine_every=5, sh_degree=0, timelapse=False)
    list(train.run(run, p))
    records = train.records(run)
    assert {record["kind"] for record in records} == {kind.strip("`") for kind in table("**metrics.jsonl**")}
    for record in records:
        row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{record['kind']}` |"))
        for name in record.keys() - {"kind", "step"}:
            assert f"`{name}`" in row, f"{name} of {record['kind']}"
    below = PAGE[PAGE.index("**checkpoint.pt**") :]
    for name in torch.load(run.dir / "checkpoint.pt", weights_only=True):
        assert f"`{name}`" in below, name


def test_parameters_that_the_page_names_exist() -> None:
    names = set(TrainParams.model_fields)
    for cells in (line.split("|") for line in PAGE.splitlines() if line.startswith("|")):
        if len(cells) == 5 and cells[1].strip() in table("## Schedules"):
            for name in re.findall(r"`(\w+)`", cells[3]):
                assert name in names, name
    assert len(fields(Facts)) == len(FINE)


def test_the_schedules_are_drawn_by_the_command_the_page_names(tmp_path: Path) -> None:
    assert "`python docs/training.py`" in PAGE
    runpy.run_path(str(DOCS / "training.py"))["draw"](tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as drawn, Image.open(DOCS / "training.png") as kept:
        assert drawn.size == kept.size
    assert (tmp_path / "a.png").stat().st_size < 150_000


@pytest.mark.parametrize("name", ["training.md", "rasterizer.md"])
def test_pictures_of_a_page_are_there(name: str) -> None:
    for target in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", (DOCS / name).read_text(encoding="utf-8")):
        assert (DOCS / target).is_file(), target
