"""Pairs worth matching: those that share something, and a few for everybody."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spaceport_lab.sfm.likely import MAX_RATIO, PARTNERS, coarsest, count_shared, likely_pairs


def count_slowly(one: np.ndarray, other: np.ndarray) -> int:
    """One feature at a time."""
    count = 0
    for i, mine in enumerate(one):
        angles = [math.acos(min(1.0, max(-1.0, float(mine @ theirs)))) for theirs in other]
        j = int(np.argmin(angles))
        back = [math.acos(min(1.0, max(-1.0, float(theirs @ other[j])))) for theirs in one]
        rest = [angle for k, angle in enumerate(angles) if k != j]
        count += int(np.argmin(back)) == i and angles[j] < MAX_RATIO * min(rest)
    return count


def described(rng: np.random.Generator, n: int) -> np.ndarray:
    """Descriptors like SIFT's: not negative, of unit length."""
    found = rng.exponential(1.0, (n, 128)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def seen_again(rng: np.random.Generator, found: np.ndarray, noise: float = 0.02) -> np.ndarray:
    again = np.abs(found + rng.normal(0, noise, found.shape)).astype(np.float32)
    return again / np.linalg.norm(again, axis=1, keepdims=True)


@given(st.integers(0, 10**6), st.integers(2, 25), st.integers(2, 25), st.integers(0, 20))
def test_counting_is_the_slow_counting(seed: int, n: int, m: int, n_shared: int) -> None:
    rng = np.random.default_rng(seed)
    one, other = described(rng, n), described(rng, m)
    n_shared = min(n, m, n_shared)
    other[:n_shared] = seen_again(rng, one[:n_shared])
    assert count_shared(one, other) == count_slowly(one, other)


@pytest.mark.parametrize(("n", "m"), [(0, 5), (5, 0), (1, 5), (5, 1), (0, 0)])
def test_too_few_to_compare(n: int, m: int) -> None:
    rng = np.random.default_rng(0)
    assert count_shared(described(rng, n), described(rng, m)) == 0


def test_the_coarsest_come_first_whatever_their_shape() -> None:
    turned = np.array([[0, 0, 0, -3, 3, 0], [1, 0, 1, 0, 0, 1], [2, 0, 2, 0, 0, 2]], np.float32)
    descriptors = np.eye(3, 128, dtype=np.uint8) * np.array([[7], [8], [9]], np.uint8)
    found = coarsest(turned, descriptors, n=2)
    assert np.array_equal(found, np.eye(3, 128, dtype=np.float32)[[0, 2]])
    assert coarsest(np.empty((0, 6), np.float32), np.empty((0, 128), np.uint8)).shape == (0, 128)


def test_photographs_round_a_house_keep_their_neighbours() -> None:
    """Each sees what its two neighbours on either side see; across the house nothing is shared."""
    rng = np.random.default_rng(3)
    n = 30
    world = described(rng, 60 * n).reshape(n, 60, 128)
    names = [f"{i:02d}.jpg" for i in range(n)]
    features = {
        name: np.concatenate([seen_again(rng, world[(i + k) % n]) for k in range(3)])
        for i, name in enumerate(names)
    }
    pairs = list(itertools.combinations(names, 2))
    told: list[tuple[int, int]] = []
    kept = likely_pairs(pairs, features, lambda done, total: told.append((done, total)))
    near = {
        (names[i], names[j]) for i, j in itertools.combinations(range(n), 2) if min(j - i, n - j + i) <= 2
    }
    assert near <= set(kept)
    assert kept == [pair for pair in pairs if pair in set(kept)], "in order"
    assert len(kept) <= n * PARTNERS
    assert told[-1] == (len(pairs), len(pairs))


def test_everybody_keeps_some_partners_even_without_features() -> None:
    names = [f"{i}.jpg" for i in range(12)]
    pairs = list(itertools.combinations(names, 2))
    kept = likely_pairs(pairs, {})
    for name in names:
        assert sum(name in pair for pair in kept) >= PARTNERS
    assert likely_pairs([], {}) == []
