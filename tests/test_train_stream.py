from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from spaceport_lab.train.stream import Stream, read


def test_records_can_be_read_while_written(tmp_path: Path) -> None:
    stream = Stream(tmp_path / "m.jsonl", None)
    stream.write("step", 10, loss=np.float32(0.5), psnr=float("nan"))
    assert read(tmp_path / "m.jsonl") == [{"kind": "step", "step": 10, "loss": 0.5, "psnr": None}]
    stream.write("step", 20, loss=0.25)
    stream.close()
    assert [json.loads(line)["step"] for line in (tmp_path / "m.jsonl").read_text().splitlines()] == [10, 20]


def test_resuming_drops_what_came_after_the_checkpoint_and_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    stream = Stream(path, None)
    for step in (10, 20, 30, 40):
        stream.write("step", step)
    stream.close()
    with open(path, "a") as file:
        file.write('{"kind": "step", "ste')
    assert [r["step"] for r in read(path)] == [10, 20, 30, 40]
    stream = Stream(path, resume_from=20)
    stream.write("step", 30, again=True)
    stream.close()
    assert [(r["step"], r.get("again")) for r in read(path)] == [(10, None), (20, None), (30, True)]


def test_a_fresh_start_empties_the_file(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text('{"kind": "step", "step": 1}\n')
    Stream(path, None).close()
    assert read(path) == []


def test_no_file_no_records(tmp_path: Path) -> None:
    assert read(tmp_path / "none.jsonl") == []
