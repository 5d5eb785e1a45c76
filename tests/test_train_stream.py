from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from spaceport_lab.errors import ParamsError
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


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows: for every name its steps and values."""
    events = EventAccumulator(str(folder)).Reload()
    return {
        name: [(event.step, event.value) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


def test_tensorboard_shows_the_numbers_of_the_records(tmp_path: Path) -> None:
    stream = Stream(tmp_path / "m.jsonl", None, tmp_path / "board")
    stream.write("step", 10, loss=np.float32(0.5), lr={"means": 0.25}, resolution=[64, 48], sh_degree=1)
    stream.write("step", 20, loss=0.25, lr={"means": 0.125}, psnr=float("nan"), capped=True, note="text")
    stream.write("evaluation", 20, psnr=21.5)
    stream.close()
    stream.close()
    assert scalars(tmp_path / "board") == {
        "step/loss": [(10, 0.5), (20, 0.25)],
        "step/lr/means": [(10, 0.25), (20, 0.125)],
        "step/sh_degree": [(10, 1)],
        "evaluation/psnr": [(20, 21.5)],
    }
    assert [r["step"] for r in read(tmp_path / "m.jsonl")] == [10, 20, 20]


def test_tensorboard_goes_back_with_the_file(tmp_path: Path) -> None:
    path, board = tmp_path / "m.jsonl", tmp_path / "board"
    stream = Stream(path, None, board)
    for step in (10, 20, 30):
        stream.write("step", step, loss=step)
    stream.close()
    stream = Stream(path, 20, board)
    stream.write("step", 30, loss=7)
    stream.close()
    assert scalars(board) == {"step/loss": [(10, 10), (20, 20), (30, 7)]}
    Stream(path, None, board).close()
    assert scalars(board) == {}


def test_tensorboard_turned_on_later_has_the_earlier_records(tmp_path: Path) -> None:
    stream = Stream(tmp_path / "m.jsonl", None)
    stream.write("step", 10, loss=3)
    stream.close()
    assert list(tmp_path.iterdir()) == [tmp_path / "m.jsonl"]
    Stream(tmp_path / "m.jsonl", 10, tmp_path / "board").close()
    assert scalars(tmp_path / "board") == {"step/loss": [(10, 3)]}


def test_without_the_package_its_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text('{"kind": "step", "step": 1}\n')
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ParamsError, match=r"(?s)not installed.*spaceport-lab\[tensorboard\]"):
        Stream(path, None, tmp_path / "board")
    assert len(read(path)) == 1  # nothing was emptied before
    Stream(path, None).close()
