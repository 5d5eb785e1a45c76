"""One frame: the kernels in the order in which they are used, and what backward needs of forward.

Nothing here is global: every call allocates what it needs, so any number of threads may render at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import psutil

from spaceport_lab.errors import BackendError
from spaceport_lab.kernels import binning, harmonics, layout, projection, raster, records, threads

# Of one span: itself while lists are filled, its entry; for the backward pass its slot and their numbers.
SPAN_BYTES_FORWARD = 4 + 4
SPAN_BYTES = SPAN_BYTES_FORWARD + 4 + 1 + 4 * layout.SLOT_STRIDE
PLENTY = 2**28  # bytes that are not worth asking the machine about
NONE = np.zeros(0, np.float32)


@dataclass(frozen=True)
class View:
    """A pinhole camera and how it is rendered.

    Attributes:
        view: [16] float32, world to camera, row by row.
        camera: [4] float32 fx, fy, cx, cy in pixels.
        center: [3] float32, the camera's centre in the world.
    """

    view: np.ndarray
    camera: np.ndarray
    center: np.ndarray
    width: int
    height: int
    eps2d: float = 0.3
    near: float = 0.01
    far: float = 1e10
    radius_clip: float = 0.0
    antialiased: bool = False


def intrinsics(K: np.ndarray) -> np.ndarray:
    """fx, fy, cx, cy, float32, of a matrix [3, 3]."""
    return K[[0, 1, 0, 1], [0, 1, 2, 2]].astype(np.float32)


def center(viewmat: np.ndarray) -> np.ndarray:
    """[3] float32, where the camera of a world-to-camera matrix [4, 4] stands.

    Raises:
        BackendError: the matrix cannot be inverted.
    """
    # By Cramer's rule: LAPACK takes as long for nine numbers as a kernel for thousands of Gaussians.
    (a, b, c, x), (d, e, f, y), (g, h, i, z) = viewmat[:3].tolist()
    p, q, r = e * i - f * h, f * g - d * i, d * h - e * g
    det = a * p + b * q + c * r
    if det == 0:
        raise BackendError(
            "a view matrix cannot be inverted", got=viewmat.tolist(), expected="a rotation and a translation"
        )
    moved = (
        p * x + (c * h - b * i) * y + (b * f - c * e) * z,
        q * x + (a * i - c * g) * y + (c * d - a * f) * z,
        r * x + (b * g - a * h) * y + (a * e - b * d) * z,
    )
    return np.array(moved, np.float32) / np.float32(-det)


@dataclass(frozen=True)
class Raw:
    """Scales and opacities as they are trained; see `kernels.activation`.

    Attributes:
        scales: [N*3] float32, logarithms of the standard deviations.
        opacities: [N] float32, logits.
        left_out: share of the Gaussians, 0 to below 1, that are not rendered, the others more opaque for it.
        seed: uint32 that says which.
    """

    scales: np.ndarray
    opacities: np.ndarray
    left_out: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Shape:
    """N Gaussians, flat C-contiguous float32: means [N*3], quats [N*4] wxyz, scales [N*3], opacities [N].

    Where they are `raw`, scales and opacities are for `forward` to fill, and their gradients the raw ones'.
    """

    means: np.ndarray
    quats: np.ndarray
    scales: np.ndarray
    opacities: np.ndarray
    raw: Raw | None = None

    @property
    def n(self) -> int:
        return self.opacities.shape[0]


@dataclass(frozen=True)
class Harmonics:
    """Spherical harmonics as the source of colours; see `kernels.harmonics` for the strides."""

    sh0: np.ndarray
    stride_0: int
    shn: np.ndarray
    stride_n: int
    first_n: int
    n_coefficients: int
    degree: int


NO_HARMONICS = Harmonics(NONE, 0, NONE, 0, 0, 0, -1)


@dataclass(frozen=True)
class Given:
    """Colours as they are: flat [N*channels]."""

    colors: np.ndarray
    channels: int


@dataclass
class Frame:
    """A rendered view and what its backward pass needs."""

    view: View
    channels: int
    with_depth: bool
    tiles: tuple[int, int]
    stride: int
    records: np.ndarray
    radii: np.ndarray
    means2d: np.ndarray
    depths: np.ndarray
    keys: np.ndarray
    counts: np.ndarray
    first_slot: np.ndarray = field(default_factory=lambda: np.zeros(1, np.int64))
    starts: np.ndarray = field(default_factory=lambda: np.zeros(1, np.int64))
    word_starts: np.ndarray = field(default_factory=lambda: np.zeros(1, np.int64))
    ends: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    entries: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    entry_slots: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    words: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    turns: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    image: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    transmittance: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    finite: bool = True  # whether all scales, and raw opacities, are; looked at where they are raw


@dataclass(frozen=True)
class Gradients:
    """Of the inputs, shaped like them, rows padded as `layout.padded` says.

    Colours without depth; where they come from harmonics, sh0 and shn as well.
    """

    means: np.ndarray
    quats: np.ndarray
    scales: np.ndarray
    opacities: np.ndarray
    means2d: np.ndarray
    absolute: np.ndarray
    colors: np.ndarray
    sh0: np.ndarray
    shn: np.ndarray
    view: np.ndarray  # [3, 4] rotation and translation
    center: np.ndarray  # [3]


def forward(
    shape: Shape,
    colors: Harmonics | Given | None,
    view: View,
    with_depth: bool,
    background: np.ndarray,
    for_backward: bool = True,
    means2d: np.ndarray | None = None,
) -> Frame:
    """Render one view.

    Args:
        colors: None renders depth alone.
        with_depth: depth along the optical axis as one more channel after the colours.
        background: [channels] float32, added where the Gaussians let it through.
        for_backward: also keep what `backward` needs.
        means2d: flat float32 of `layout.padded` rows of two that the frame's are written to; None for new
            ones.

    Raises:
        BackendError: there are more Gaussians than can be numbered, or the frame needs more memory than
            there is.
    """
    channels = _color_channels(colors) + with_depth
    if channels > layout.MAX_CHANNELS:
        raise ValueError(f"at most {layout.MAX_CHANNELS} channels are rendered at once, got {channels}")
    if means2d is None:
        means2d = np.empty(2 * layout.padded(shape.n), np.float32)
    frame = _fill_records(shape, colors, view, channels, with_depth, means2d, for_backward)
    _bin(frame, shape.n, for_backward)
    _rasterize(frame, background)
    return frame


def backward(
    frame: Frame,
    shape: Shape,
    colors: Harmonics | Given | None,
    g_image: np.ndarray,
    g_alpha: np.ndarray | None,
    with_absolute: bool = False,
    with_camera: bool = False,
    with_rest: bool = True,
) -> Gradients:
    """Gradients of a rendered view.

    Args:
        g_image: [H*W*channels] float32 gradient of the image.
        g_alpha: [H*W] float32 gradient of the accumulated alpha; None for zeros.
        with_absolute: sum |gradient of the 2D mean| over pixels too (AbsGS).
        with_camera: gradients of the view matrix and of the camera's centre too.
        with_rest: of harmonics above degree 0 too; else their gradients are empty.
    """
    n_slots = int(frame.first_slot[-1])
    if g_alpha is None:
        g_alpha = NONE
    slots, begun = layout.aligned_empty(n_slots * layout.SLOT_STRIDE), np.zeros(n_slots, np.uint8)
    threads.on_all(
        raster.backward, len(frame.starts) - 1, frame.starts, frame.word_starts, frame.ends,
        frame.entries, frame.entry_slots, frame.words, frame.records, frame.stride, frame.view.width,
        frame.view.height, frame.tiles[0], frame.image, frame.transmittance, g_image, g_alpha, slots, begun,
        _channel_tuple(2 if with_absolute else 0), _channel_tuple(frame.channels),
    )  # fmt: skip
    return _carry_back(frame, shape, colors, slots, with_absolute, with_camera, with_rest)


def _channel_tuple(channels: int) -> tuple:
    return (np.float32(0),) * channels


def _color_channels(colors: Harmonics | Given | None) -> int:
    if colors is None:
        return 0
    return 3 if isinstance(colors, Harmonics) else colors.channels


def _fill_records(
    shape: Shape,
    colors: Harmonics | Given | None,
    view: View,
    channels: int,
    with_depth: bool,
    means2d: np.ndarray,
    for_backward: bool,
) -> Frame:
    n, tiles, stride = shape.n, layout.tile_grid(view.width, view.height), layout.record_stride(channels)
    if n >= layout.MAX_GAUSSIANS:
        raise BackendError(
            "there are more Gaussians than can be numbered",
            got=f"{n:,}",
            expected=f"fewer than {layout.MAX_GAUSSIANS:,}",
        )
    rows = layout.padded(n)
    frame = Frame(
        view, channels, with_depth, tiles, stride,
        records=layout.aligned_empty(rows * stride),
        radii=np.empty(rows * 2, np.int32),
        means2d=means2d,
        depths=np.empty(rows, np.float32),
        keys=np.empty(rows, np.uint32),
        counts=np.empty(rows, np.int32),
    )  # fmt: skip
    raw = shape.raw or Raw(NONE, NONE)
    sh = colors if isinstance(colors, Harmonics) else NO_HARMONICS
    given = colors.colors if isinstance(colors, Given) else NONE
    if for_backward and sh.degree > 0:
        frame.turns = np.empty(harmonics.TURNS * rows, np.float32)
    frame.finite = all(threads.on_all(
        records.fill, records.chunks(n), n, n >= records.CROWD, raw.scales, raw.opacities, raw.seed,
        raw.left_out, shape.means, shape.quats, shape.scales, shape.opacities, view.view, view.camera,
        view.width, view.height, np.float32(view.eps2d), np.float32(view.near), np.float32(view.far),
        np.float32(view.radius_clip), view.antialiased, *tiles, stride, frame.records, frame.radii,
        frame.means2d, frame.depths, frame.keys, frame.counts, view.center, sh.sh0, sh.stride_0, sh.shn,
        sh.stride_n, sh.first_n, sh.degree, frame.turns, given, channels - with_depth, with_depth,
    ))  # fmt: skip
    return frame


def _bin(frame: Frame, n: int, for_backward: bool) -> None:
    n_segments = -(-frame.tiles[0] // layout.SEGMENT) * frame.tiles[1]
    order = np.empty(n, np.int32)
    frame.first_slot = np.empty(n + 1, np.int64)
    n_visible = binning.depth_order(n, frame.keys, frame.counts, order, frame.first_slot)
    n_slots = int(frame.first_slot[-1])
    _refuse_too_many(n_slots, SPAN_BYTES if for_backward else SPAN_BYTES_FORWARD, frame.view)
    parts = max(1, min(threads.thread_count(), n_visible // 1024))
    part_starts = np.array([n_visible * part // parts for part in range(parts + 1)], np.int64)
    histogram, lengths = np.zeros((parts, n_segments), np.int64), np.zeros((parts, n_segments), np.int64)
    spans = np.empty(n_slots, np.int32)
    wrong = sum(threads.on_all(
        binning.fill_spans, parts, part_starts, order, frame.records, frame.stride, *frame.tiles,
        frame.counts, frame.first_slot, spans, histogram, lengths,
    ))  # fmt: skip
    if wrong:
        raise BackendError(
            "the tile lists of a frame disagree with their count",
            got=f"{wrong} Gaussians",
            hint="report this: it is a fault of the rasterizer",
        )
    frame.starts, frame.word_starts = np.empty(n_segments + 1, np.int64), np.empty(n_segments + 1, np.int64)
    binning.segment_starts(histogram, lengths, frame.starts, frame.word_starts)
    n_words = int(frame.word_starts[-1]) if for_backward else 0
    _refuse_too_many(n_words, 4, frame.view)
    # 16 entries are read at a time: the last read may go past the end.
    frame.entries = np.empty(n_slots + layout.LANES, np.int32)
    frame.entry_slots = np.empty(n_slots if for_backward else 0, np.int32)
    threads.on_all(
        binning.fill_segments, parts, part_starts, order, frame.first_slot, spans, histogram, frame.entries,
        frame.entry_slots,
    )  # fmt: skip
    frame.words = np.empty(n_words, np.int32)


def _refuse_too_many(count: int, size: int, view: View) -> None:
    """Before lists are allocated: too many for 32-bit numbers, or more bytes than the machine has left."""
    needed = count * size
    if count < 2**31 and needed < PLENTY:
        return
    free = psutil.virtual_memory().available
    if count < 2**31 and needed < free:
        return
    raise BackendError(
        f"rendering {view.width} x {view.height} pixels needs more memory than there is",
        got=f"{count:,} pairs of a Gaussian and tiles it touches, {needed / 2**30:.1f} GiB",
        expected=f"fewer than 2,147,483,648, and less than {free / 2**30:.1f} GiB",
        hint="render smaller images, or fewer or smaller Gaussians",
    )


def _rasterize(frame: Frame, background: np.ndarray) -> None:
    n_pixels, n_tiles = frame.view.width * frame.view.height, frame.tiles[0] * frame.tiles[1]
    frame.image = np.empty(n_pixels * frame.channels, np.float32)
    frame.transmittance = np.empty(n_pixels, np.float32)
    frame.ends = np.empty(n_tiles, np.int64)
    threads.on_all(
        raster.forward, len(frame.starts) - 1, frame.starts, frame.word_starts, frame.entries,
        frame.words, frame.records, frame.stride, frame.view.width, frame.view.height,
        frame.tiles[0], background, frame.image, frame.transmittance, frame.ends,
        _channel_tuple(frame.channels),
    )  # fmt: skip


def _carry_back(
    frame: Frame,
    shape: Shape,
    colors: Harmonics | Given | None,
    slots: np.ndarray,
    with_absolute: bool,
    with_camera: bool,
    with_rest: bool,
) -> Gradients:
    n, view, rows = shape.n, frame.view, layout.padded(shape.n)
    color_channels, chunks = frame.channels - frame.with_depth, records.chunks(n)
    camera_sums, center_sums = np.zeros((chunks, projection.CAMERA_SUMS)), np.zeros((chunks, 3))
    g_sh0, g_shn = _harmonics_gradients(colors, with_rest)
    g = Gradients(
        *(np.empty(size, np.float32) for size in (3 * rows, 4 * rows, 3 * rows, rows, 2 * rows,
        2 * rows if with_absolute else 0, rows * color_channels)), sh0=g_sh0, shn=g_shn,
        view=np.zeros((3, 4)), center=np.zeros(3),
    )  # fmt: skip
    sh = colors if isinstance(colors, Harmonics) else NO_HARMONICS
    depth_slot = layout.SLOT + color_channels if frame.with_depth else -1
    threads.on_all(
        records.fill_backward, chunks, n, n >= records.CROWD, slots, frame.first_slot, frame.counts,
        shape.means, shape.quats, shape.scales, shape.opacities, view.view, view.camera, view.width,
        view.height, np.float32(view.eps2d), view.antialiased, depth_slot, color_channels, g.means, g.quats,
        g.scales, g.opacities, g.colors, g.means2d, g.absolute, camera_sums, view.center, frame.turns,
        sh.stride_0, sh.stride_n, sh.first_n, sh.n_coefficients if len(g_shn) else 0, sh.degree,
        frame.records, frame.stride, g.sh0, g.shn, center_sums, with_camera, shape.raw is not None,
        shape.raw.left_out if shape.raw else 0.0,
    )  # fmt: skip
    if with_camera:
        sums = camera_sums.sum(0)
        g.view[:, :3], g.view[:, 3] = sums[:9].reshape(3, 3), sums[9:]
        g.center[:] = center_sums.sum(0)
    return g


def _harmonics_gradients(colors: Harmonics | Given | None, with_rest: bool) -> tuple[np.ndarray, np.ndarray]:
    """Arrays like sh0 and, if wanted, shn; one and the same where those are one and the same."""
    if not isinstance(colors, Harmonics):
        return NONE, NONE
    g_sh0 = np.empty(colors.sh0.size, np.float32)
    if colors.shn is colors.sh0:
        return g_sh0, g_sh0
    return g_sh0, np.empty(colors.shn.size if with_rest else 0, np.float32)
