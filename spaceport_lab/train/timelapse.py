"""Training seen from one view: frames as they come, an animated GIF at the end."""

from __future__ import annotations

import io
import logging
import re
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont, UnidentifiedImageError

from spaceport_lab import files
from spaceport_lab.errors import InputError

logger = logging.getLogger(__name__)

MAX_BYTES = 4_000_000
"""A GIF that is larger loses colours, then frames, until it fits."""

HOLD = 1.5
"""Seconds that the last frame stays."""

COLORS = (256, 128, 64)
"""Entries of the palette, all that are tried."""

FEWEST_FRAMES = 8
"""Frames are not thinned out below this many; the picture is made smaller instead."""

BAR = 6
"""Height of the progress bar in pixels."""

_NAME = re.compile(r"frame_(\d+)\.jpg")


class Timelapse:
    """Collects frames, one JPEG each, so that a resumed training has the earlier ones.

    Args:
        folder: for the frames; made when the first one comes. Nothing else should lie in it.
        resume_from: finished steps of the checkpoint that training goes on from: frames of later steps are
            removed, they come again. None starts anew.

    Raises:
        WorkspaceError: the folder is not writable.
    """

    def __init__(self, folder: Path, resume_from: int | None = None) -> None:
        self.folder = Path(folder)
        with files.clear_os_errors(self.folder):
            for step, path in _listed(self.folder):
                if resume_from is None or step > resume_from:
                    path.unlink(missing_ok=True)

    @property
    def steps(self) -> list[int]:
        """Finished steps of the frames there are, rising."""
        return [step for step, _ in _listed(self.folder)]

    def add(self, step: int, frame: UInt8[np.ndarray, "H W 3"]) -> None:
        """Keep what the view looks like after `step` steps; a frame of the same step is replaced.

        Raises:
            InputError: the frame is not an 8-bit RGB image.
            WorkspaceError: the disk is full or the folder is not writable.
        """
        frame = np.asarray(frame)
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or frame.size == 0:
            raise InputError(
                "a frame of the timelapse is no image",
                got=f"{frame.dtype} of shape {list(frame.shape)}",
                expected="uint8 [H, W, 3]",
            )
        with files.atomic_path(self.folder / f"frame_{step:08d}.jpg") as temporary:
            Image.fromarray(frame).save(temporary, quality=92, subsampling=0)

    def write(self, path: Path, *, longest: int = 400, seconds: float = 6.0) -> bool:
        """Write the frames as an animated GIF that repeats, with a bar that fills as training goes on.

        Frames that cannot be read are left out, with a line in the log. Where the file would be larger than
        `MAX_BYTES`, colours, frames and at last pixels are given up.

        Args:
            path: of the GIF; its last frame stays `HOLD` seconds longer.
            longest: pixels of the longer side at the most.
            seconds: of one run through all frames but the last.

        Returns:
            False, and nothing is written, where there is no frame.

        Raises:
            WorkspaceError: the disk is full or the folder is not writable.
        """
        frames = _read(_listed(self.folder), longest)
        if not frames:
            return False
        last, size = frames[-1][0], frames[-1][1].size
        pictures = [_with_bar(picture, size, step, last) for step, picture in frames]
        files.write_bytes(path, _fitting(pictures, seconds))
        return True


def some_frames(folder: Path, most: int, longest: int = 480) -> list[tuple[int, UInt8[np.ndarray, "H W 3"]]]:
    """Step and picture of up to `most` frames from first to last, close together where much changes.

    In the beginning every step shows, towards the end hundreds hardly do: frames are taken in equal ratios.
    Those that cannot be read are left out, with a line in the log.

    Args:
        folder: of a `Timelapse`; nothing in it is changed.
        most: frames, at least one; a single one is the last.
        longest: pixels of the longer side at the most.
    """
    frames = _listed(folder)
    if not frames:
        return []
    places = np.arange(len(frames))
    if len(frames) > most:
        places = np.geomspace(len(frames), 1, most).round().astype(int) - 1
    read = _read([frames[place] for place in sorted(set(places.tolist()))], longest)
    return [(step, np.asarray(picture)) for step, picture in read]


def _listed(folder: Path) -> list[tuple[int, Path]]:
    """Finished steps and file of every frame, rising."""
    if not folder.is_dir():
        return []
    matches = ((_NAME.fullmatch(path.name), path) for path in folder.iterdir())
    return sorted((int(match[1]), path) for match, path in matches if match)


def _read(listed: list[tuple[int, Path]], longest: int) -> list[tuple[int, Image.Image]]:
    """Step and picture of every frame that can be read, none larger than wanted."""
    frames = []
    for step, path in listed:
        try:
            with Image.open(path) as file:
                picture = file.convert("RGB")
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
            logger.warning("%s is left out of the timelapse: %s", path.name, error)
            continue
        picture.thumbnail((longest, longest), Image.Resampling.BOX)
        frames.append((step, picture))
    return frames


def _with_bar(picture: Image.Image, size: tuple[int, int], step: int, last: int) -> Image.Image:
    """The picture at `size` (width, height), with the step and how far that is along its lower edge."""
    picture = picture if picture.size == size else picture.resize(size)
    width, height = size
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, height - BAR, width, height), fill=(30, 30, 30))
    if done := round(width * step / max(1, last)):
        draw.rectangle((0, height - BAR, done - 1, height), fill=(80, 180, 255))
    draw.text(
        (4, height - BAR - 2), f"step {step:,}", fill="white", anchor="lb", stroke_width=1,
        stroke_fill="black", font=ImageFont.load_default(12),
    )  # fmt: skip
    return picture


def _fitting(pictures: list[Image.Image], seconds: float) -> bytes:
    """The GIF with as many colours, frames and pixels as `MAX_BYTES` allows, given up in that order."""
    while True:
        for colors in COLORS:
            content = _gif(pictures, seconds, colors)
            if len(content) <= MAX_BYTES:
                return content
        # What frames cost is roughly alike, so this many should fit; the ends always stay.
        share = MAX_BYTES / len(content)
        if len(pictures) > FEWEST_FRAMES:
            fewer = max(FEWEST_FRAMES, min(len(pictures) - 1, int(len(pictures) * share)))
            kept = np.linspace(0, len(pictures) - 1, fewer).round().astype(int)
            pictures = [pictures[index] for index in kept]
        elif max(pictures[0].size) > 16:
            size = tuple(max(1, int(side * min(0.8, share**0.5))) for side in pictures[0].size)
            pictures = [picture.resize(size, Image.Resampling.BOX) for picture in pictures]
        else:
            return content


def _gif(pictures: list[Image.Image], seconds: float, colors: int) -> bytes:
    """All pictures on one palette, made from a strip of some of them; no dithering, which costs bytes."""
    some = [pictures[i] for i in np.linspace(0, len(pictures) - 1, min(8, len(pictures))).astype(int)]
    width, height = pictures[0].size
    strip = Image.new("RGB", (width, height * len(some)))
    for number, picture in enumerate(some):
        strip.paste(picture, (0, height * number))
    palette = strip.quantize(colors, method=Image.Quantize.MEDIANCUT)
    indexed = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    each = max(20, round(1000 * seconds / max(1, len(pictures) - 1) / 10) * 10)  # GIFs count hundredths
    durations = [each] * (len(pictures) - 1) + [round(1000 * HOLD)]
    buffer = io.BytesIO()
    indexed[0].save(
        buffer, "GIF", save_all=True, append_images=indexed[1:], duration=durations, loop=0, optimize=False
    )
    return buffer.getvalue()
