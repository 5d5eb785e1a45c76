"""Frames out of a video: evenly spaced, the sharpest of each stretch, and never a crash."""

from __future__ import annotations

import math
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from pictures import texture
from PIL import Image, ImageFilter

from spaceport_lab.errors import PhotosError
from spaceport_lab.ingest import video
from spaceport_lab.params import IngestParams

RATE, SECONDS = 10, 4
SHARP = {3, 14, 22, 38}
"""The one frame of each second that is not blurred."""


def film(path: Path, metadata: dict[str, str] | None = None) -> Path:
    """Four seconds over one large texture; its frame number is the brightness of the top left corner."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ground = texture(5, 640, 240)
    with av.open(str(path), "w") as container:
        container.metadata.update(metadata or {})
        stream = container.add_stream("libx264", rate=RATE, options={"crf": "8", "g": "5"})
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for k in range(RATE * SECONDS):
            image = Image.fromarray(ground[:, 8 * k : 8 * k + 320])
            if k not in SHARP:
                image = image.filter(ImageFilter.GaussianBlur(2.5))
            pixels = np.array(image)
            pixels[:40, :40] = 40 + 5 * k
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = k, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def number_of(path: Path) -> int:
    with Image.open(path) as image:
        return round((np.asarray(image)[5:35, 5:35].mean() - 40) / 5)


def extract(path: Path, target: Path, **settings: object) -> tuple[list[Path], dict[str, str]]:
    steps = video.extract(path, target, IngestParams(**settings))
    while True:
        try:
            assert next(steps).step > 0
        except StopIteration as end:
            return sorted(target.iterdir()), end.value


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return film(tmp_path_factory.mktemp("film") / "flight.mp4", {"creation_time": "2026-05-04T12:30:00Z"})


def test_the_sharpest_frame_of_each_second(clip: Path, tmp_path: Path) -> None:
    frames, damaged = extract(clip, tmp_path / "out", video_every=1.0)
    assert damaged == {}
    assert [f.name for f in frames] == [f"flight_{k:05d}.jpg" for k in range(1, 5)]
    assert {number_of(f) for f in frames} == SHARP
    with Image.open(frames[2]) as image:
        assert image.size == (320, 240)
        assert image.getexif()[0x0132] == "2026:05:04 12:30:02"


@pytest.mark.parametrize(
    ("settings", "numbers"),
    [
        ({"video_every": 1.0, "video_start": 1.0, "video_stop": 3.0}, [14, 22]),
        ({"video_every": 0.1, "video_start": 1.35, "video_stop": 1.55}, [14, 15]),
        ({"video_every": 1.0, "video_start": 3.0, "video_stop": 99.0}, [38]),
    ],
)
def test_start_and_stop(settings: dict, numbers: list[int], clip: Path, tmp_path: Path) -> None:
    frames, _ = extract(clip, tmp_path / "out", **settings)
    assert [number_of(f) for f in frames] == numbers


def test_at_most_so_many_and_evenly_spaced(clip: Path, tmp_path: Path) -> None:
    frames, _ = extract(clip, tmp_path / "out", video_every=0.1, video_frames=8)
    numbers = [number_of(f) for f in frames]
    assert len(numbers) == 8
    assert [k // 5 for k in numbers] == list(range(8))
    everything, _ = extract(clip, tmp_path / "all", video_every=0.1)
    assert [number_of(f) for f in everything] == list(range(40))


def test_no_video_and_nothing_between(clip: Path, tmp_path: Path) -> None:
    words = tmp_path / "words.mp4"
    words.write_text("only words " * 50)
    with pytest.raises(PhotosError, match="cannot be read as a video"):
        extract(words, tmp_path / "out")
    (tmp_path / "empty.mov").write_bytes(b"")
    with pytest.raises(PhotosError, match="cannot be read as a video"):
        extract(tmp_path / "empty.mov", tmp_path / "out")
    playlist = tmp_path / "list.mp4"
    playlist.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\n{clip}\n#EXT-X-ENDLIST\n")
    with pytest.raises(PhotosError, match="cannot be read as a video"):
        extract(playlist, tmp_path / "out")
    for settings in ({"video_start": 99.0}, {"video_start": 3.0, "video_stop": 2.0}):
        with pytest.raises(PhotosError, match="lies between start and stop"):
            extract(clip, tmp_path / "out", **settings)


@pytest.mark.parametrize("seed", range(3))
def test_a_video_broken_in_the_middle_gives_what_can_be_had(seed: int, clip: Path, tmp_path: Path) -> None:
    content = bytearray(clip.read_bytes())
    noise = np.random.default_rng(seed).integers(0, 255, 3000, dtype=np.uint8).tobytes()
    middle = len(content) // 2
    content[middle : middle + len(noise)] = noise
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(content)
    frames, damaged = extract(broken, tmp_path / "out", video_every=0.2)
    assert len(frames) >= 8
    assert all("broken.mp4 at" in name and math.isfinite(float(name.split()[-2])) for name in damaged)


@pytest.mark.parametrize("matrix", [(0, 1, -1, 0), (-1, 0, 0, -1)])
def test_frames_of_a_turned_camera_become_upright(
    matrix: tuple[int, ...], clip: Path, tmp_path: Path
) -> None:
    """The track header says how to turn: a quarter clockwise brings the top left corner to the top right."""
    content = bytearray(clip.read_bytes())
    place = content.index(b"tkhd") + 4 + 40
    a, b, c, d = matrix
    values = (a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    content[place : place + 36] = struct.pack(">9i", *values)
    turned = tmp_path / "turned.mp4"
    turned.write_bytes(content)
    frames, _ = extract(turned, tmp_path / "out", video_every=2.0)
    upright, _ = extract(clip, tmp_path / "plain", video_every=2.0)
    with Image.open(frames[0]) as image, Image.open(upright[0]) as plain:
        assert image.size == ((240, 320) if a == 0 else (320, 240))
        pixels, expected = np.asarray(image).astype(int), np.asarray(plain).astype(int)
    quarter = 3 if a == 0 else 2
    assert np.abs(pixels - np.rot90(expected, quarter)).mean() < 2
    corner = pixels[:30, -30:] if a == 0 else pixels[-30:, -30:]
    assert corner.std() < 6, "the flat one"
