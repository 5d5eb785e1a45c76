"""The parts of the SOG writer beside slow and obvious ones: packing, codebooks, palette."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from splats import random_splat, scene_splat

from spaceport_lab.errors import SplatFormatError
from spaceport_lab.kernels import threads
from spaceport_lab.sog import compare, kmeans, pack, palette_cuda
from spaceport_lab.sog.axes import ROTATIONS, SWAPS, least_turn, turned_towards
from spaceport_lab.sog.codebook import companded_codebook, nearest, uniform_codebook
from spaceport_lab.sog.compare import field_errors, rotation_degrees
from spaceport_lab.sog.far import far_splats, pull_in
from spaceport_lab.sog.palette import Palette, build_palette, default_size, sort_entries
from spaceport_lab.sog.write import visibility


def finish(steps) -> Palette:
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return done.value


# --- packing -----------------------------------------------------------------------------------------------


def test_means_land_on_the_nearest_step() -> None:
    means = np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32) * [1, 30, 1000]
    steps, mins, maxs = pack.pack_means(means)
    assert steps.min() == 0
    assert steps.max() == 65535
    t = np.sign(means) * np.log1p(np.abs(means.astype(np.float64)))
    back = mins + (maxs - mins) * steps / 65535
    assert (np.abs(back - t) <= (maxs - mins) / 65535 * 0.5000001).all()
    assert (np.abs(pack.unpack_means(steps, mins, maxs) - means) <= 1.3e-4 * (1 + np.abs(means))).all()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1, 1, width=32), min_size=4, max_size=4))
def test_any_rotation_survives_packing(components: list[float]) -> None:
    quats = np.array([components], np.float32)
    packed = pack.pack_quats(quats)
    assert 252 <= packed[0, 3] <= 255
    assert rotation_degrees(quats, pack.unpack_quats(packed))[0] < 1.0


def test_rotations_pack_as_described() -> None:
    for quat in random_splat(50).quats:
        q = quat / np.linalg.norm(quat)
        largest = int(np.argmax(np.abs(q)))
        q = q * np.sign(q[largest])
        others = [round(255 * (c * 2**0.5 / 2 + 0.5)) for i, c in enumerate(q) if i != largest]
        np.testing.assert_array_equal(pack.pack_quats(quat[None])[0], [*others, 252 + largest])


def test_opacities_land_on_the_nearest_step() -> None:
    logits = np.linspace(-12, 12, 999).astype(np.float32)
    back = pack.unpack_opacities(pack.pack_opacities(logits))
    alpha, again = 1 / (1 + np.exp(-logits.astype(np.float64))), 1 / (1 + np.exp(-back.astype(np.float64)))
    assert np.abs(alpha - again).max() <= 0.5 / 255 + 1e-6
    assert np.isfinite(back).all()


@pytest.mark.parametrize("every", [1, 2, 4])
def test_coarser_steps_are_multiples_and_still_the_nearest(every: int) -> None:
    splat = random_splat(400)
    steps, *_ = pack.pack_means(splat.means, every)
    fine, *_ = pack.pack_means(splat.means)
    assert (steps % every == 0).all()
    assert (
        np.abs(steps.astype(int) - fine) <= (every if fine.max() > 65535 - every else every // 2 + 1)
    ).all()
    assert rotation_degrees(splat.quats, pack.unpack_quats(pack.pack_quats(splat.quats, every))).max() < every
    assert (pack.pack_quats(splat.quats, every)[:, :3] % every == 0).all()
    alphas = pack.pack_opacities(splat.opacities, every)
    assert (alphas % every == 0).all()
    assert np.abs(alphas - 255 * splat.alphas).max() <= max(every / 2 + 0.01, every - 0.5)
    codebook = companded_codebook(splat.scales, 256 // every)
    assert codebook.shape == (256,)
    assert len(np.unique(codebook)) <= 256 // every


# --- compare -----------------------------------------------------------------------------------------------


def test_errors_are_those_of_each_gaussian_whatever_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "_BLOCK", 64)  # so that there are several
    before, noise = random_splat(300, 2), np.random.default_rng(1)
    order = noise.permutation(300)
    after = before.subset(order)
    after = replace(
        after,
        means=after.means + np.float32(0.5),
        scales=after.scales + noise.normal(scale=0.1, size=(300, 3)).astype(np.float32),
        shN=after.shN[:, :3],
    )
    after.means[order == 7] = 1e6
    found = field_errors(before, after, order, np.array([7]))
    kept = order != 7
    position = np.linalg.norm(before.means[order].astype(float) - after.means, axis=1)[kept]
    np.testing.assert_allclose(found["position"].values, position, rtol=1e-6)
    assert found["position"].max == pytest.approx(position.max())
    assert found["position"].max == pytest.approx(np.sqrt(0.75), rel=1e-3)
    scales = np.abs(before.scales[order] - after.scales)[kept]
    np.testing.assert_allclose(found["log_scale"].values, scales, atol=1e-6)
    assert found["log_scale"].rms == pytest.approx(np.sqrt((scales**2).mean()), rel=1e-5)
    rest = np.abs(before.shN[order][kept])
    assert found["shN"].values[:, :3].max() == 0
    assert found["shN"].mean == pytest.approx(rest[:, 3:].sum() / rest.size, rel=1e-5)
    brief = field_errors(before, after, order, np.array([7]), values=False)
    for name, error in brief.items():
        assert (error.mean, error.rms, error.max) == (found[name].mean, found[name].rms, found[name].max)
        assert error.values.size == 0
    with pytest.raises(SplatFormatError, match="of different size"):
        field_errors(before, after.subset(slice(9)))
    with pytest.raises(SplatFormatError, match="no Gaussians to compare"):
        field_errors(before, before, left_out=np.arange(300))


# --- axes --------------------------------------------------------------------------------------------------


def covariances(quats: np.ndarray, scales: np.ndarray) -> np.ndarray:
    w, x, y, z = (quats / np.linalg.norm(quats, axis=1, keepdims=True)).astype(np.float64).T
    R = np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]).transpose(2, 0, 1)  # fmt: skip
    return np.einsum("nij,nj,nkj->nik", R, np.exp(2 * scales.astype(np.float64)), R)


def test_there_are_24_rotations_of_the_cube() -> None:
    assert len(ROTATIONS) == len(SWAPS) == 24
    np.testing.assert_array_equal(ROTATIONS[0], [1, 0, 0, 0])
    np.testing.assert_allclose(np.linalg.norm(ROTATIONS, axis=1), 1)
    likeness = np.abs(ROTATIONS @ ROTATIONS.T)
    assert (likeness[~np.eye(24, dtype=bool)] < 0.8).all()


def test_naming_axes_anew_changes_no_gaussian() -> None:
    splat = random_splat(500)
    quats, scales = least_turn(splat.quats, splat.scales)
    np.testing.assert_allclose(
        covariances(quats, scales), covariances(splat.quats, splat.scales), rtol=1e-4, atol=1e-7
    )
    np.testing.assert_array_equal(np.sort(scales), np.sort(splat.scales))
    assert (quats[:, 0] >= np.abs(quats).max(axis=1)).all()
    assert (
        2 * np.degrees(np.arccos(np.minimum(quats[:, 0], 1)))
    ).max() < 62.81  # as far as a cube can be off
    again, same = least_turn(quats, scales)
    np.testing.assert_allclose(again, quats, atol=1e-6)
    np.testing.assert_array_equal(same, scales)


def test_axes_can_be_named_as_another_names_them() -> None:
    splat = random_splat(300)
    quats, scales = turned_towards(*least_turn(splat.quats, splat.scales), splat.quats)
    np.testing.assert_array_equal(scales, splat.scales)
    assert rotation_degrees(quats, splat.quats).max() < 0.01
    nothing = np.zeros((2, 4), np.float32)
    np.testing.assert_array_equal(least_turn(nothing, scales[:2])[0], [[1, 0, 0, 0]] * 2)


# --- far splats --------------------------------------------------------------------------------------------


def test_nothing_is_far_in_a_scene_nor_among_a_few() -> None:
    assert len(far_splats(scene_splat(3000).means)) == 0
    assert len(far_splats(random_splat(2000).means)) == 0
    few = random_splat(50).means
    few[3] = 1e6
    assert len(far_splats(few)) == 0
    flat = random_splat(1000).means
    flat[:, 2] = 0
    assert len(far_splats(flat)) == 0
    point = np.zeros((300, 3), np.float32)
    assert len(far_splats(point)) == 0
    point[4] = 1
    assert len(far_splats(point)) == 0
    many = random_splat(2000).means
    many[::100] *= 1000  # one in a hundred is no exception but part of the scene
    assert len(far_splats(many)) == 0


def test_far_splats_come_nearer_and_look_the_same_from_the_middle() -> None:
    splat = scene_splat(3000)
    splat.means[[5, 9]] = [[1e6, 0, 2e5], [-3e4, -8e7, 10]]
    assert far_splats(splat.means).tolist() == [5, 9]
    near = pull_in(splat, far_splats(splat.means))
    others = np.delete(np.arange(3000), [5, 9])
    np.testing.assert_array_equal(near.means[others], splat.means[others])
    np.testing.assert_array_equal(near.scales[others], splat.scales[others])
    middle = np.median(splat.means, axis=0)
    for i in (5, 9):
        before, after = splat.means[i] - middle, near.means[i] - middle
        assert 400 < np.linalg.norm(after) < 1000
        np.testing.assert_allclose(after / np.linalg.norm(after), before / np.linalg.norm(before), atol=1e-4)
        sizes = np.exp(near.scales[i]) / np.linalg.norm(after)
        np.testing.assert_allclose(sizes, np.exp(splat.scales[i]) / np.linalg.norm(before), rtol=1e-3)


# --- codebooks ---------------------------------------------------------------------------------------------


def heavy_tails(n: int) -> np.ndarray:
    rng = np.random.default_rng(n)
    return (rng.standard_t(3, n) * 0.7 - 4).astype(np.float32)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=400))
def test_nearest_is_the_nearest(values: list[float]) -> None:
    array = np.array(values, np.float32)
    codebook = companded_codebook(array)
    assert codebook.shape == (256,)
    assert (np.diff(codebook) >= 0).all()
    got = np.abs(codebook[nearest(array, codebook)].astype(np.float64) - array)
    best = np.abs(codebook[None].astype(np.float64) - array[:, None]).min(axis=1)
    np.testing.assert_allclose(got, best, rtol=1e-6, atol=1e-9)


def test_few_values_are_kept_exactly() -> None:
    values = np.repeat(np.float32([3, -1, 0.1, 7e8]), 100_000)
    np.testing.assert_array_equal(
        companded_codebook(values)[nearest(values, companded_codebook(values))], values
    )


def lloyd_max(values: np.ndarray, size: int = 256) -> float:
    """RMS error of plain Lloyd-Max from quantiles: what a codebook without a floor reaches."""
    codebook = np.quantile(values, (np.arange(size) + 0.5) / size)
    for _ in range(60):
        label = np.searchsorted((codebook[1:] + codebook[:-1]) / 2, values)
        count = np.bincount(label, minlength=size)
        mean = np.bincount(label, values, size) / np.maximum(count, 1)
        codebook = np.sort(np.where(count > 0, mean, codebook))
    return float(np.sqrt(((values - codebook[nearest(values, codebook)]) ** 2).mean()))


def test_lonely_values_get_codewords_of_their_own() -> None:
    """A trained splat has a few needles far below all other scales: even they may not be off by much."""
    random = np.random.default_rng(0)
    lonely = np.concatenate([np.linspace(-11, -8, 9), np.linspace(2, 5, 7)])
    values = np.concatenate([random.normal(-2, 0.8, 200_000), lonely]).astype(np.float32)
    plain, bounded = companded_codebook(values), companded_codebook(values, most=0.08)
    errors = [np.abs(book[nearest(values, book)] - values) for book in (plain, bounded)]
    assert errors[0].max() > 0.08 >= errors[1].max()
    assert errors[1].mean() < 1.1 * errors[0].mean()
    assert (np.diff(bounded) >= 0).all()


@pytest.mark.parametrize("n", [2000, 300_000])
def test_companded_codebook_has_small_mean_and_bounded_largest_error(n: int) -> None:
    values = heavy_tails(n)
    codebook = companded_codebook(values)
    error = np.abs(codebook[nearest(values, codebook)] - values)
    assert np.sqrt((error**2).mean()) < 1.05 * lloyd_max(values)
    assert error.max() < (values.max() - values.min()) / 60


def test_one_far_value_does_not_cost_the_others() -> None:
    values = np.random.default_rng(0).normal(size=20_000).astype(np.float32)
    plain = np.abs(companded_codebook(values)[nearest(values, companded_codebook(values))] - values).mean()
    values[7] = 500
    codebook = companded_codebook(values)
    error = np.abs(codebook[nearest(values, codebook)] - values)
    assert error[7] < 5
    assert np.delete(error, 7).mean() < 1.5 * plain


def test_uniform_codebook_has_the_error_asked_for_and_even_steps() -> None:
    values = np.random.default_rng(0).laplace(scale=0.05, size=50_000).astype(np.float32)
    codebook = uniform_codebook(values, mean_square=0.02**2, share=0.35)
    error = np.abs(codebook[nearest(values, codebook)] - values)
    assert (error**2).mean() == pytest.approx(0.35 * 0.02**2, rel=0.15)
    steps = np.diff(codebook[(codebook > -0.15) & (codebook < 0.15)])
    np.testing.assert_allclose(steps, steps[0], rtol=1e-3)
    assert codebook[0] <= values.min() + 0.05
    assert codebook[-1] >= values.max() - 0.05


def test_uniform_codebook_of_exact_values_is_the_companded_one() -> None:
    values = heavy_tails(900)
    np.testing.assert_array_equal(uniform_codebook(values, 0.0), companded_codebook(values))


# --- palette -----------------------------------------------------------------------------------------------


def exact_kmeans(X: np.ndarray, k: int, iterations: int = 12) -> float:
    """Mean square error of k-means that compares everything with everything."""
    entries = X[np.random.default_rng(0).choice(len(X), k, replace=False)].copy()
    for _ in range(iterations):
        distance = (entries**2).sum(1)[None] - 2 * X @ entries.T
        label = distance.argmin(axis=1)
        for entry in np.unique(label):
            entries[entry] = X[label == entry].mean(axis=0)
    return float(((X - entries[label]) ** 2).mean())


def test_palette_is_as_good_as_exact_kmeans() -> None:
    X = scene_splat(6000).shN.reshape(6000, -1)
    palette = finish(build_palette(X, np.ones(6000), 600, 6, seed=0))
    assert palette.entries.shape == (600, 45)
    assert ((X - palette.entries[palette.labels]) ** 2).mean() == pytest.approx(palette.mean_square, rel=1e-4)
    assert palette.mean_square < 1.01 * exact_kmeans(X, 600)


def test_weights_draw_entries_to_what_counts() -> None:
    X = scene_splat(5000).shN.reshape(5000, -1)
    weights = np.where(np.arange(5000) < 500, 50.0, 0.02)
    plain = finish(build_palette(X, np.ones(5000), 300, 5, seed=0))
    weighted = finish(build_palette(X, weights, 300, 5, seed=0))

    def error(palette: Palette) -> np.ndarray:
        return ((X - palette.entries[palette.labels]) ** 2).mean(axis=1)

    assert error(weighted)[:500].mean() < 0.8 * error(plain)[:500].mean()
    assert error(weighted).mean() > error(plain).mean()


@pytest.mark.parametrize(("n", "k", "depth"), [(1, 1, 3), (7, 3, 9), (300, 33, 24), (5000, 200, 45)])
def test_kernels_find_what_comparing_with_all_finds(n: int, k: int, depth: int) -> None:
    rng = np.random.default_rng(n)
    X, entries = (rng.normal(size=(rows, depth)).astype(np.float32) for rows in (n, k))
    distance = ((X[:, None].astype(np.float64) - entries[None]) ** 2).sum(axis=2)
    near, errors = np.empty((n, min(k, 8)), np.uint16), np.empty(n, np.float32)
    kmeans.near_cells(X, 0, n, entries, near, errors)
    np.testing.assert_array_equal(near, np.argsort(distance, axis=1)[:, : near.shape[1]])
    np.testing.assert_allclose(errors, distance.min(axis=1), rtol=1e-4)
    one_cell, offsets = np.array([0, k]), np.array([0, -(-k // 32) * 32])
    flat, norms = np.empty(offsets[1] * depth, np.float32), np.empty(offsets[1], np.float32)
    kmeans.panels(entries, one_cell, offsets, flat, norms)
    labels = np.empty(n, np.int32)
    zeros = np.zeros((n, 1), np.uint16)
    kmeans.assign(X, 0, n, zeros, 1, one_cell, offsets, flat, norms, labels, errors)
    np.testing.assert_array_equal(labels, distance.argmin(axis=1))
    np.testing.assert_allclose(errors, distance.min(axis=1), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("n", "distinct", "size"), [(1, 1, 1), (5, 5, 9), (3000, 7, 20), (3000, 40, 40)])
def test_few_distinct_vectors_are_kept_exactly(n: int, distinct: int, size: int) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(distinct, 9)).astype(np.float32)[np.arange(n) % distinct]
    palette = finish(build_palette(X, np.ones(n), size, 3, seed=0))
    np.testing.assert_array_equal(palette.entries[palette.labels], X)
    assert palette.mean_square == 0
    assert len(palette.entries) == distinct


def test_duplicates_and_zeros_leave_no_entry_without_a_value() -> None:
    X = np.zeros((4000, 9), np.float32)
    X[::7] = np.random.default_rng(0).normal(size=X[::7].shape)
    palette = finish(build_palette(X, np.ones(4000), 100, 5, seed=0))
    assert np.isfinite(palette.entries).all()
    assert palette.labels.max() < len(palette.entries) <= 100
    np.testing.assert_allclose(palette.entries[palette.labels][X.any(axis=1) == 0], 0, atol=0.2)


def test_same_seed_same_palette_for_any_number_of_threads() -> None:
    X = scene_splat(70_000).shN.reshape(70_000, -1)
    found = []
    try:
        for count in (1, 4, 3):
            threads.set_thread_count(count)
            found.append(finish(build_palette(X, np.ones(len(X)), 700, 3, seed=5)))
    finally:
        threads.set_thread_count(None)
    for other in found[1:]:
        np.testing.assert_array_equal(found[0].labels, other.labels)
        np.testing.assert_array_equal(found[0].entries, other.entries)
    other = finish(build_palette(X, np.ones(len(X)), 700, 3, seed=6))
    assert not np.array_equal(found[0].labels, other.labels)


def test_sorting_keeps_every_vectors_entry_and_drops_unused_ones() -> None:
    rng = np.random.default_rng(0)
    palette = Palette(rng.normal(size=(50, 6)), rng.integers(0, 40, 900), 0.1)
    tidy = sort_entries(palette)
    np.testing.assert_array_equal(tidy.entries[tidy.labels], palette.entries[palette.labels])
    assert len(tidy.entries) == len(np.unique(palette.labels)) == 40
    ranks = [np.flatnonzero(tidy.labels == entry).mean() for entry in range(40)]
    assert ranks == sorted(ranks)


def test_default_size() -> None:
    sizes = {1: 1, 70: 70, 1000: 1000, 8200: 1024, 100_000: 12480, 10_000_000: 65536}
    assert {n: default_size(n) for n in sizes} == sizes


def test_visibility_is_about_one_and_bounded() -> None:
    splat = random_splat(1000)
    splat.scales[0], splat.opacities[0] = 80, 10
    weights = visibility(splat)
    assert 0.5 < np.median(weights) < 2
    assert weights.max() == pytest.approx(50)
    assert weights.min() >= np.sqrt(1e-3)


def test_palette_through_torch_is_as_good_and_repeatable() -> None:
    """On whatever device: here the processor stands in for a GPU."""
    X = scene_splat(4000).shN.reshape(4000, -1)
    w = np.ones(4000, np.float32)
    ours = finish(build_palette(X, w, 400, 6, seed=0))
    theirs = [finish(palette_cuda.build(X, w, 400, 6, 0, "cpu")) for _ in range(2)]
    assert theirs[0].mean_square < 1.02 * ours.mean_square
    assert ((X - theirs[0].entries[theirs[0].labels]) ** 2).mean() == pytest.approx(
        theirs[0].mean_square, rel=1e-4
    )
    np.testing.assert_array_equal(theirs[0].entries, theirs[1].entries)
    np.testing.assert_array_equal(theirs[0].labels, theirs[1].labels)


@pytest.mark.gpu
def test_palette_on_the_gpu_is_that_of_the_processor() -> None:
    X = scene_splat(20_000).shN.reshape(20_000, -1)
    ours = finish(build_palette(X, np.ones(20_000), 2000, 6, seed=0))
    gpu = [finish(build_palette(X, np.ones(20_000), 2000, 6, seed=0, device="cuda")) for _ in range(2)]
    assert gpu[0].mean_square < 1.02 * ours.mean_square
    np.testing.assert_array_equal(gpu[0].entries, gpu[1].entries)
    np.testing.assert_array_equal(gpu[0].labels, gpu[1].labels)


@pytest.mark.parametrize("size", [1, 2, 3, 9, 63])
def test_a_palette_never_has_more_entries_than_asked_for(size: int) -> None:
    X = np.random.default_rng(0).normal(size=(64, 9)).astype(np.float32)
    palette = finish(build_palette(X, np.ones(64), size, 3, seed=0))
    assert len(palette.entries) == size
    assert palette.labels.max() < size
    best = ((X[:, None] - palette.entries[None]) ** 2).sum(axis=2).min(axis=1).sum()
    assert ((X - palette.entries[palette.labels]) ** 2).sum() < 1.1 * best + 1e-3


def test_thousands_of_equal_vectors_take_no_longer_than_others() -> None:
    """Nearly every entry of their cell is empty: looking for a new place must not cost a pass each."""
    X = np.full((60_000, 9), 0.3, np.float32)
    X[::50] = np.random.default_rng(0).normal(size=X[::50].shape)
    palette = finish(build_palette(X, np.ones(len(X)), 1100, 4, seed=0))
    assert np.abs(palette.entries[palette.labels] - X)[1:50].max() < 1e-3
    assert ((X - palette.entries[palette.labels])[::50] ** 2).mean() < 0.2
