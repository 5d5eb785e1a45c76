"""Frames of a training: kept in files, dropped when it goes back, and a GIF of bounded size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

from spaceport_lab.errors import InputError
from spaceport_lab.train import timelapse
from spaceport_lab.train.timelapse import Timelapse


def frame(brightness: int, height: int = 60, width: int = 80) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 2 % 256, y * 3 % 256, np.full_like(x, brightness)], axis=2).astype(np.uint8)


def filled(folder: Path, steps: list[int], **size: int) -> Timelapse:
    collected = Timelapse(folder)
    for step in steps:
        collected.add(step, frame(step % 256, **size))
    return collected


def test_a_gif_of_all_frames(tmp_path: Path) -> None:
    assert filled(tmp_path / "frames", [200, 0, 100]).write(tmp_path / "a.gif", seconds=2.0)
    with Image.open(tmp_path / "a.gif") as gif:
        assert (gif.format, gif.size, gif.n_frames, gif.info["loop"]) == ("GIF", (80, 60), 3, 0)
        shown = [(f.info["duration"], np.asarray(f.convert("RGB"))) for f in ImageSequence.Iterator(gif)]
    assert [duration for duration, _ in shown] == [1000, 1000, 1500]
    for (_, picture), step in zip(shown, (0, 100, 200), strict=True):
        np.testing.assert_allclose(picture[:35, :, :2], frame(step)[:35, :, :2], atol=40)
        assert abs(picture[:35, :, 2].mean() - step) < 12
        # The bar is blue as far as training has come.
        assert (picture[-2, :, 2] > 150).sum() == pytest.approx(80 * step / 200, abs=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.gif", "frames"]


def test_large_frames_become_small_pictures(tmp_path: Path) -> None:
    filled(tmp_path / "frames", [0, 10], height=300, width=1200).write(tmp_path / "a.gif")
    assert Image.open(tmp_path / "a.gif").size == (400, 100)


def test_frames_of_several_sizes_are_brought_to_that_of_the_last(tmp_path: Path) -> None:
    collected = filled(tmp_path / "frames", [0], height=15, width=20)
    collected.add(10, frame(10))
    collected.write(tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as gif:
        assert (gif.size, gif.n_frames) == ((80, 60), 2)


def test_resuming_drops_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    filled(tmp_path / "frames", [0, 100, 200, 300])
    (tmp_path / "frames" / "notes.txt").write_text("not ours")
    resumed = Timelapse(tmp_path / "frames", resume_from=200)
    assert resumed.steps == [0, 100, 200]
    resumed.add(200, frame(7))
    resumed.add(300, frame(8))
    assert resumed.steps == [0, 100, 200, 300]
    assert Timelapse(tmp_path / "frames").steps == []
    assert [path.name for path in (tmp_path / "frames").iterdir()] == ["notes.txt"]


def test_no_frames_no_gif(tmp_path: Path) -> None:
    assert not Timelapse(tmp_path / "none").write(tmp_path / "a.gif")
    assert list(tmp_path.iterdir()) == []


def test_one_frame_and_none_trained(tmp_path: Path) -> None:
    assert filled(tmp_path / "frames", [0]).write(tmp_path / "a.gif")
    assert Image.open(tmp_path / "a.gif").size == (80, 60)


def test_a_broken_frame_is_left_out_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    collected = filled(tmp_path / "frames", [0, 10, 20])
    broken = tmp_path / "frames" / "frame_00000010.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    collected.write(tmp_path / "a.gif")
    assert Image.open(tmp_path / "a.gif").n_frames == 2
    assert "frame_00000010.jpg is left out" in caplog.text


@pytest.mark.parametrize(("most", "frames"), [(150_000, range(9, 40)), (20_000, range(8, 9))])
def test_a_large_gif_is_thinned_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, frames: range
) -> None:
    monkeypatch.setattr(timelapse, "MAX_BYTES", most)
    rng, collected = np.random.default_rng(0), Timelapse(tmp_path / "frames")
    for step in range(40):
        collected.add(step, rng.integers(0, 256, (60, 80, 3), dtype=np.uint8))
    collected.write(tmp_path / "a.gif")
    assert (tmp_path / "a.gif").stat().st_size <= most
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames in frames
        gif.seek(gif.n_frames - 1)
        assert (np.asarray(gif.convert("RGB"))[-2, :, 2] > 150).mean() > 0.95  # the last one stays


@pytest.mark.parametrize(
    "bad", [np.zeros((4, 5), np.uint8), np.zeros((4, 5, 3)), np.zeros((0, 5, 3), np.uint8)]
)
def test_what_is_no_image_is_refused(tmp_path: Path, bad: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"(?s)uint8 \[H, W, 3\].*got"):
        Timelapse(tmp_path / "frames").add(0, bad)


@pytest.mark.parametrize(
    ("most", "steps"),
    [(5, [0, 20, 60, 170, 470]), (1, [470]), (2, [0, 470]), (100, list(range(0, 480, 10)))],
)
def test_some_frames_in_equal_ratios(tmp_path: Path, most: int, steps: list[int]) -> None:
    filled(tmp_path / "frames", list(range(0, 480, 10)))
    frames = timelapse.some_frames(tmp_path / "frames", most, longest=40)
    assert [step for step, _ in frames] == steps
    assert all(picture.shape == (30, 40, 3) for _, picture in frames)
    for step, picture in frames:
        assert abs(picture[..., 2].mean() - step % 256) < 12


def test_no_frames_and_broken_ones_are_left_out(tmp_path: Path) -> None:
    assert timelapse.some_frames(tmp_path / "none", 5) == []
    filled(tmp_path / "frames", [0, 10])
    (tmp_path / "frames" / "frame_00000010.jpg").write_bytes(b"no picture")
    assert [step for step, _ in timelapse.some_frames(tmp_path / "frames", 5)] == [0]
