"""Tile lists against brute force, and the fault that crashed the first sketch of this rasterizer.

The sketch reserved room for as many tiles as a Gaussian's bounding box covers, and filled in those that its
ellipse touches, each by formulas of its own. For a tilted needle whose tip ends at a tile's border, rounding
could make the second one more than the first. It then overwrote its neighbour's first entry, a tile's list
kept a hole of uninitialised memory, and the next read went wherever that pointed.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from spaceport_lab.kernels import binning, layout, render, threads


def frame_of(
    means, scales, opacities, quats, width, height, focal=500.0, depth=4.0, principal=None
) -> render.Frame:
    n = len(means)
    view = np.eye(4, dtype=np.float32)
    view[2, 3] = depth
    cx, cy = principal or (width / 2, height / 2)
    camera = np.array([focal, focal, cx, cy], np.float32)
    shape = render.Shape(
        *(np.ascontiguousarray(a, np.float32).reshape(-1) for a in (means, quats, scales, opacities))
    )
    colors = render.Given(np.ones(n, np.float32), 1)
    return render.forward(
        shape,
        colors,
        render.View(view.reshape(-1), camera, np.zeros(3, np.float32), width, height),
        False,
        np.zeros(1, np.float32),
    )


def lists_of(frame: render.Frame) -> list[list[int]]:
    """The Gaussians of every tile, out of the segments' lists."""
    tiles_x, tiles_y = frame.tiles
    segments = -(-tiles_x // layout.SEGMENT)
    found: list[list[int]] = [[] for _ in range(tiles_x * tiles_y)]
    for segment, (a, b) in enumerate(itertools.pairwise(frame.starts)):
        row, corner = segment // segments, segment % segments * layout.SEGMENT
        for entry in frame.entries[a:b].tolist():
            last, first = (entry & layout.SPAN_MASK) >> layout.FIRST_BITS, entry & layout.FIRST_MASK
            for column in range(corner + first, corner + last + 1):
                found[row * tiles_x + column].append(entry >> layout.SPAN_BITS)
    return found


def check_invariants(frame: render.Frame, n: int) -> None:
    """Every list is full of real Gaussians in order of depth, every slot belongs to exactly one entry."""
    gaussians, slots = frame.entries[: frame.starts[-1]] >> layout.SPAN_BITS, frame.entry_slots
    assert ((gaussians >= 0) & (gaussians < n)).all()
    assert (np.diff(frame.starts) >= 0).all()
    assert np.array_equal(np.sort(slots), np.arange(frame.first_slot[-1]))
    owners = np.repeat(np.arange(n), frame.counts[:n])
    assert np.array_equal(owners[slots], gaussians)
    for a, b in itertools.pairwise(frame.starts):
        assert (np.diff(frame.depths[gaussians[a:b]]) >= 0).all()
    assert frame.word_starts[-1] == sum(map(len, lists_of(frame)))


def brute_force(frame: render.Frame, n: int, width: int, height: int) -> list[set[int]]:
    """Tiles that hold a pixel with alpha >= 1/255, by looking at every pixel in float64."""
    tiles_x, _ = frame.tiles
    found: list[set[int]] = [set() for _ in range(frame.tiles[0] * frame.tiles[1])]
    records = frame.records.reshape(-1, frame.stride).astype(np.float64)
    ys, xs = np.mgrid[:height, :width] + 0.5
    for i in range(n):
        if frame.keys[i] == layout.CULLED:
            continue
        r = records[i]
        w = r[layout.ALPHA] * (r[layout.U] - xs) - r[layout.BETA] * (r[layout.V] - ys)
        y = r[layout.GAMMA] * (r[layout.V] - ys)
        hit = np.argwhere(2 ** (r[layout.LOG_OPACITY] - w * w - y * y) >= 1 / 255)
        for row, column in hit // layout.TILE:
            found[row * tiles_x + column].add(i)
    return found


def random_scene(rng: np.random.Generator, n: int, stretch: float):
    scales = np.exp(rng.normal(-3, 1, (n, 3)))
    scales[:, 0] *= stretch
    return rng.normal(0, 1, (n, 3)) * [1, 0.8, 0.5], scales, rng.uniform(0, 1, n), rng.normal(0, 1, (n, 4))


@pytest.mark.parametrize("stretch", [1.0, 20.0])
@pytest.mark.parametrize("parts", [1, 3])
def test_lists_hold_what_brute_force_finds(stretch: float, parts: int) -> None:
    rng = np.random.default_rng(1)
    n, width, height = 500, 205, 120
    threads.set_thread_count(parts)
    try:
        frame = frame_of(*random_scene(rng, n, stretch), width, height, focal=170)
    finally:
        threads.set_thread_count(None)
    check_invariants(frame, n)
    touched = 0
    for have, need in zip(lists_of(frame), brute_force(frame, n, width, height), strict=True):
        assert len(have) == len(set(have))
        assert need <= set(have)
        touched += len(need)
    assert frame.word_starts[-1] < 1.25 * touched, "lists are much longer than they need to be"


def test_the_needle_that_broke_the_sketch() -> None:
    """The very one that was found: four tiles by its box, five by its ellipse. Here the two cannot differ."""
    angle = np.arctan2(25.02463, 7.9665823)
    needle = np.array([[2.9582024e-02, 1e-5, 1e-5]])
    depth, focal = 1.7815673, 500.0
    u, v = 8.533414, 121.79959
    quats = np.array([[np.cos(angle / 2), 0, 0, np.sin(angle / 2)]])
    offsets = np.concatenate([np.linspace(-1e-3, 1e-3, 4001), [0.0]])
    for axis in (0, 1):
        n = len(offsets)
        centre = np.tile([[(u - 320) * depth / focal, (v - 240) * depth / focal, depth - 4.0]], (n, 1))
        centre[:, axis] += offsets * depth / focal
        frame = frame_of(centre, np.tile(needle, (n, 1)), np.full(n, 0.999), np.tile(quats, (n, 1)), 640, 480)
        check_invariants(frame, n)


def test_tips_at_every_tile_border() -> None:
    """Needles of all tilts whose tips fall on tile borders to within the last bits of float32."""
    rng = np.random.default_rng(3)
    n = 200_000
    angle = rng.uniform(0, np.pi, n)
    length = np.exp(rng.normal(-3.6, 0.5, n))
    reach = np.sqrt(2 * np.log(0.9 * 255)) * np.sqrt((length * 125 * np.cos(angle)) ** 2 + 0.3)
    u = 16 * rng.integers(2, 38, n) + 0.5 - reach + rng.normal(0, 1e-4, n)
    v = rng.uniform(10, 470, n)
    means = np.stack([(u - 320) / 125, (v - 240) / 125, np.zeros(n)], 1)
    scales = np.stack([length, np.full(n, 1e-5), np.full(n, 1e-5)], 1)
    quats = np.stack([np.cos(angle / 2), np.zeros(n), np.zeros(n), np.sin(angle / 2)], 1)
    frame = frame_of(means, scales, np.full(n, 0.9), quats, 640, 480)
    check_invariants(frame, n)


def test_all_in_one_tile_and_one_in_all_tiles() -> None:
    n = 3000
    means = np.zeros((n, 3))
    scales = np.full((n, 3), 0.005)
    scales[-1] = 100.0
    frame = frame_of(
        means, scales, np.full(n, 0.5), np.tile([[1, 0, 0, 0]], (n, 1)), 500, 300, principal=(40.0, 40.0)
    )
    check_invariants(frame, n)
    lists = lists_of(frame)
    assert len(lists[2 * frame.tiles[0] + 2]) == n
    assert all(n - 1 in have for have in lists)
    assert sum(len(have) for have in lists) == n + len(lists) - 1


def test_filling_never_writes_more_than_was_counted() -> None:
    """If counting and filling ever disagreed, the second would say so and stay within its room."""
    rng = np.random.default_rng(5)
    n = 300
    frame = frame_of(*random_scene(rng, n, 5.0), 300, 200)
    too_few = np.maximum(frame.counts - 1, 0)
    first_slot = np.concatenate([[0], np.cumsum(too_few[:n])]).astype(np.int64)
    order = np.flatnonzero(frame.counts[:n] > 0).astype(np.int32)
    spans = np.full(first_slot[-1] + 64, -7, np.int32)
    histogram, lengths = (np.zeros((1, len(frame.starts) - 1), np.int64) for _ in range(2))
    part_starts = np.array([0, len(order)], np.int64)
    wrong = binning.fill_spans(
        np.zeros(1, np.int64), part_starts, order, frame.records, frame.stride, *frame.tiles, too_few,
        first_slot, spans, histogram, lengths,
    )  # fmt: skip
    assert wrong == len(order)
    assert (spans[first_slot[-1] :] == -7).all()
    assert (spans[: first_slot[-1]] >= 0).all()
