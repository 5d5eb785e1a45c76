"""Ties: photographs have one scale only by points that three of them see; against the slow, obvious way."""

from __future__ import annotations

import itertools

import numpy as np
import pycolmap
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spaceport_lab.sfm import mapping, ties
from spaceport_lab.sfm.ties import MIN_TIES, count, groups, incidence, tracks


def seen_by(n: int, *sights: tuple[tuple[int, ...], int]):
    """Incidence of so many points for each set of photographs that see them."""
    rows = [(photographs, k) for photographs, times in sights for k in range(times)]
    pairs = [(number, photo) for number, (photographs, _) in enumerate(rows) for photo in photographs]
    points, photos = np.array(pairs, int).reshape(-1, 2).T
    return incidence(points, photos, n)


def as_sets(found) -> list[set[int]]:
    return [set(np.flatnonzero(group).tolist()) for group in found]


def test_two_groups_that_one_pair_links_are_two() -> None:
    """Two hundred matches between one photograph of each group say nothing of how large either is."""
    seen = seen_by(7, ((0, 1, 2), 40), ((1, 2, 3), 40), ((4, 5, 6), 90), ((3, 4), 200))
    assert as_sets(groups(seen)) == [{0, 1, 2, 3}, {4, 5, 6}]
    assert count(seen, groups(seen)[0]).tolist() == [40, 80, 80, 40, 0, 0, 0]


@pytest.mark.parametrize(("n", "joined"), [(MIN_TIES - 1, False), (MIN_TIES, True)])
def test_enough_points_that_two_placed_ones_see_tie_a_photograph(n: int, joined: bool) -> None:
    seen = seen_by(4, ((0, 1, 2), 50), ((1, 2, 3), n), ((2, 3), 100))
    assert as_sets(groups(seen)) == [{0, 1, 2, 3} if joined else {0, 1, 2}]
    assert as_sets(groups(seen, n)) == [{0, 1, 2, 3}]


def test_two_photographs_are_a_group() -> None:
    assert as_sets(groups(seen_by(3, ((0, 2), MIN_TIES)))) == [{0, 2}]
    assert groups(seen_by(3, ((0, 2), MIN_TIES - 1))) == []


def test_nothing_is_seen() -> None:
    assert groups(incidence(np.zeros(0, int), np.zeros(0, int), 3)) == []
    assert groups(tracks([0, 0], {})) == []
    assert count(tracks([5, 5], {}), np.ones(2, bool)).tolist() == [0, 0]


def slow_tracks(n_features: list[int], matches: dict) -> set[frozenset[tuple[int, int]]]:
    """Features that are linked, by merging sets until none can be."""
    sets = [{(i, int(a)), (j, int(b))} for (i, j), rows in matches.items() for a, b in rows]
    merged = True
    while merged:
        merged = False
        for one, other in itertools.combinations(range(len(sets)), 2):
            if sets[one] & sets[other]:
                sets[one] |= sets.pop(other)
                merged = True
                break
    return {frozenset(s) for s in sets}


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 5), st.integers(1, 6), st.randoms(use_true_random=False))
def test_tracks_are_those_of_the_slow_way(n: int, most: int, random) -> None:
    n_features = [random.randint(1, most) for _ in range(n)]
    matches = {}
    for i, j in itertools.combinations(range(n), 2):
        rows = [
            (random.randrange(n_features[i]), random.randrange(n_features[j]))
            for _ in range(random.randint(0, 3))
        ]
        if rows:
            matches[i, j] = np.array(rows)
    found = tracks(n_features, matches).toarray()
    slow = sorted(tuple(sorted({photo for photo, _ in track})) for track in slow_tracks(n_features, matches))
    assert sorted(tuple(np.flatnonzero(row).tolist()) for row in found) == slow


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 7), st.integers(0, 400), st.randoms(use_true_random=False))
def test_groups_and_counts_are_those_of_the_slow_way(n: int, n_points: int, random) -> None:
    views = [tuple(random.sample(range(n), random.randint(1, min(4, n)))) for _ in range(n_points)]
    seen = seen_by(n, *((view, 1) for view in views))
    placed = np.array([random.random() < 0.5 for _ in range(n)])
    for photo, number in enumerate(count(seen, placed)):
        slow = sum(photo in view and sum(placed[k] for k in view) >= 2 for view in views)
        assert number == slow
    found = groups(seen)
    assert [len(g) for g in as_sets(found)] == sorted((len(g) for g in as_sets(found)), reverse=True)
    for number, group in enumerate(found):
        taken = set().union(*as_sets(found[:number]), *as_sets(found[number + 1 :]))
        outside = set(range(n)) - taken - as_sets([group])[0]
        for photo in outside:
            assert count(seen, group)[photo] < MIN_TIES, "it could have joined"


def test_a_model_loses_what_nothing_ties_to_it() -> None:
    """Two models in one, beside each other, as the global mapper makes of groups that one pair links."""
    options = pycolmap.SyntheticDatasetOptions()
    options.num_rigs, options.num_cameras_per_rig, options.num_frames_per_rig = 1, 1, 8
    options.num_points3D = 300
    model = pycolmap.synthesize_dataset(options)
    names = sorted(model.image(i).name for i in model.reg_image_ids())
    apart = set(names[5:])
    for point_id, point in list(model.points3D.items()):
        sights = [(e.image_id, e.point2D_idx) for e in point.track.elements]
        sides = {model.image(image_id).name in apart for image_id, _ in sights}
        for image_id, index in sights if len(sides) == 2 else ():
            # One point of three stays with the one side, the others with the other.
            other = (model.image(image_id).name in apart) != (point_id % 3 == 0)
            if other and model.exists_point3D(point_id):  # a point goes with its last but one
                model.delete_observation(image_id, index)
    dropped = mapping._drop_loose(model)
    assert set(dropped) == apart
    assert set(dropped.values()) == {0}
    assert {model.image(i).name for i in model.reg_image_ids()} == set(names[:5])
    assert mapping._drop_loose(model) == {}
    assert ties.FIRM > MIN_TIES
