"""SOG written and read: splat-transform sees what we see, and it is close to what went in."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from splat_transform import decode, splat_transform
from splats import random_splat, scene_splat

from spaceport_lab.errors import SplatFormatError
from spaceport_lab.gaussians import SH_C0, Gaussians, write_ply
from spaceport_lab.sog import SETTINGS, Encoded, SogOptions, field_errors, read_sog, sog_order, write_sog
from spaceport_lab.sog.read import read_antialias


def assert_peer_reads_the_same(path: Path, folder: Path, n: int) -> Gaussians:
    """splat-transform's values of every field equal our reader's, to the last bit."""
    ours, peer = read_sog(path), decode(path, folder)
    assert ours.n == len(peer["x"]) == n
    k = ours.shN.shape[1]
    groups = {
        "means": ["x", "y", "z"],
        "quats": [f"rot_{i}" for i in range(4)],
        "scales": [f"scale_{i}" for i in range(3)],
        "opacities": ["opacity"],
        "sh0": [f"f_dc_{i}" for i in range(3)],
        "shN": [f"f_rest_{c * k + j}" for j in range(k) for c in range(3)],
    }
    for name, columns in groups.items():
        values = getattr(ours, name).reshape(n, -1)
        assert np.isfinite(values).all()
        theirs = np.column_stack([peer[c] for c in columns]) if columns else np.empty((n, 0))
        np.testing.assert_array_equal(values, theirs, err_msg=name)
    assert sum(name.startswith("f_rest") for name in peer) == 3 * k
    return ours


@pytest.mark.parametrize("sh_degree", [0, 1, 2, 3])
@pytest.mark.parametrize("n", [1, 5, 70, 1000])
def test_peer_decodes_what_we_decode(tmp_path: Path, n: int, sh_degree: int) -> None:
    splat = random_splat(n, sh_degree, seed=n)
    path = tmp_path / ("splat.sog" if (n + sh_degree) % 2 else "meta.json")
    encoded = write_sog(path if path.suffix == ".sog" else tmp_path, splat)
    back = assert_peer_reads_the_same(path, tmp_path, n)
    errors = field_errors(splat.subset(encoded.order), back)
    assert back.sh_degree == sh_degree
    assert errors["position_of_extent"].max < 100
    assert errors["rotation"].max < 1.0
    assert errors["log_scale"].max < 0.2
    assert errors["opacity"].max < 0.51
    assert errors["color"].max < 6


@pytest.mark.parametrize("name", ["splat.sog", "folder"])
def test_peer_decodes_a_scene(tmp_path: Path, name: str) -> None:
    splat = scene_splat(12_000)
    write_sog(tmp_path / name, splat, SogOptions(iterations=2))
    path = tmp_path / name
    assert_peer_reads_the_same(path if name == "splat.sog" else path / "meta.json", tmp_path, splat.n)


@pytest.mark.parametrize("n", [1, 9])
def test_constant_axes_and_constant_fields(tmp_path: Path, n: int) -> None:
    splat = replace(
        random_splat(n), scales=np.full((n, 3), -2, np.float32), shN=np.zeros((n, 15, 3), np.float32)
    )
    splat.means[:, 1] = 7.25
    write_sog(tmp_path / "splat.sog", splat)
    back = assert_peer_reads_the_same(tmp_path / "splat.sog", tmp_path, n)
    np.testing.assert_allclose(back.means[:, 1], 7.25, rtol=1e-6)
    np.testing.assert_array_equal(back.scales, splat.scales)
    assert not back.shN.any()


def test_wild_values_survive(tmp_path: Path) -> None:
    splat = random_splat(300)
    splat.means[0] = (1e30, -1e30, 3e38)
    splat.scales[1] = (-90, 20, 0)
    splat.quats[2] = 0
    splat.opacities[3:5] = (-200, 200)
    splat.sh0[5] = 1e6
    splat.shN[6] = -1e6
    write_sog(tmp_path / "splat.sog", splat)
    back = assert_peer_reads_the_same(tmp_path / "splat.sog", tmp_path, 300)
    order, far = sog_order(splat)
    assert far.tolist() == [0]
    near = order > 6
    errors = field_errors(splat.subset(order), back)
    assert errors["log_scale"].values[near].max() < 0.6
    assert errors["rotation"].values[near].max() < 1


def test_one_far_splat_costs_the_others_no_precision(tmp_path: Path) -> None:
    splat = scene_splat(3000)
    plain = _position_errors(tmp_path, splat)[0]
    splat.means[17] = 1e6
    with_far, encoded, back = _position_errors(tmp_path, splat)
    assert encoded.far.tolist() == [17]
    others = encoded.order != 17
    assert with_far[others].mean() < 1.8 * plain.mean()
    kept, _, _ = _position_errors(tmp_path, splat, SogOptions(pull_far=False))
    assert kept[others].mean() > 1.8 * with_far[others].mean()
    assert 200 < back.means[~others].max() < 1000
    assert_peer_reads_the_same(tmp_path / "splat.sog", tmp_path, 3000)


def _position_errors(
    folder: Path, splat: Gaussians, options: SogOptions = SETTINGS["balanced"]
) -> tuple[np.ndarray, Encoded, Gaussians]:
    encoded = write_sog(folder / "splat.sog", splat, options)
    back = read_sog(folder / "splat.sog")
    return field_errors(splat.subset(encoded.order), back)["position"].values, encoded, back


@pytest.mark.parametrize("setting", list(SETTINGS))
def test_settings_make_ever_smaller_files(tmp_path: Path, setting: str) -> None:
    splat = scene_splat(4000)
    names = list(SETTINGS)
    sizes = {}
    for name in (setting, names[max(0, names.index(setting) - 1)]):
        encoded = write_sog(tmp_path / f"{name}.sog", splat, SETTINGS[name])
        sizes[name] = (tmp_path / f"{name}.sog").stat().st_size
        errors = field_errors(splat.subset(encoded.order), read_sog(tmp_path / f"{name}.sog"))
        assert errors["log_scale"].max < 0.2
        assert errors["position_of_extent"].mean < 25
        assert errors["rotation"].mean < 0.7
    assert len(sizes) == 1 or sizes[setting] < 0.97 * max(sizes.values())


def test_gaussians_keep_their_order_on_request(tmp_path: Path) -> None:
    splat = scene_splat(900)
    encoded = write_sog(tmp_path / "splat.sog", splat, SogOptions(sort=False))
    np.testing.assert_array_equal(encoded.order, np.arange(900))
    assert field_errors(splat, read_sog(tmp_path / "splat.sog"))["position"].max < 0.02


def test_given_weights_decide_whose_colours_are_kept(tmp_path: Path) -> None:
    splat = scene_splat(9000)
    seen = np.where(np.arange(9000) % 10 == 0, 50.0, 0.0)
    errors = {}
    for name, weights in (("plain", None), ("seen", seen)):
        encoded = write_sog(tmp_path / "splat.sog", splat, weights=weights)
        values = field_errors(splat.subset(encoded.order), read_sog(tmp_path / "splat.sog"))["shN"].values
        errors[name] = float((values[encoded.order % 10 == 0] ** 2).mean())
    assert errors["seen"] < 0.8 * errors["plain"]


def test_we_read_what_the_peer_writes(tmp_path: Path) -> None:
    splat = scene_splat(1500, 2)
    write_ply(tmp_path / "in.ply", splat)
    splat_transform("-q", "-w", "-g", "cpu", "-i", "2", tmp_path / "in.ply", tmp_path / "peer.sog")
    back = assert_peer_reads_the_same(tmp_path / "peer.sog", tmp_path, 1500)
    peer_order = np.lexsort(back.means.T)
    assert np.abs(back.means[peer_order] - splat.means[np.lexsort(splat.means.T)]).mean() < 2


def slow_decode(folder: Path) -> list[dict[str, float]]:
    """One Gaussian after the other, as the format's description says."""
    from PIL import Image

    meta = json.loads((folder / "meta.json").read_text())
    images = {f.name: np.asarray(Image.open(f).convert("RGBA")).astype(int) for f in folder.glob("*.webp")}
    low, high = (images[name] for name in meta["means"]["files"])
    out = []
    for i in range(meta["count"]):
        y, x = divmod(i, low.shape[1])
        one: dict[str, float] = {}
        for axis in range(3):
            least, most = meta["means"]["mins"][axis], meta["means"]["maxs"][axis]
            t = least + (low[y, x, axis] + 256 * high[y, x, axis]) / 65535 * ((most - least) or 1)
            one["xyz"[axis]] = np.sign(t) * np.expm1(abs(t))
            one[f"scale_{axis}"] = meta["scales"]["codebook"][images["scales.webp"][y, x, axis]]
            one[f"dc_{axis}"] = meta["sh0"]["codebook"][images["sh0.webp"][y, x, axis]]
        rest = [(b / 255 * 2 - 1) / 2**0.5 for b in images["quats.webp"][y, x, :3]]
        rest.insert(images["quats.webp"][y, x, 3] - 252, max(0, 1 - sum(c * c for c in rest)) ** 0.5)
        one |= {f"rot_{k}": c for k, c in enumerate(rest)}
        alpha = min(max(images["sh0.webp"][y, x, 3] / 255, 1e-6), 1 - 1e-6)
        one["opacity"] = np.log(alpha / (1 - alpha))
        label = images["shN_labels.webp"][y, x, 0] + 256 * images["shN_labels.webp"][y, x, 1]
        for j in range(15):
            entry = images["shN_centroids.webp"][label // 64, label % 64 * 15 + j]
            one |= {f"rest_{j}_{c}": meta["shN"]["codebook"][entry[c]] for c in range(3)}
        out.append(one)
    return out


def test_reader_agrees_with_the_slow_one(tmp_path: Path) -> None:
    write_sog(tmp_path, random_splat(75), SogOptions(sh_palette=70))
    back = read_sog(tmp_path)
    for i, one in enumerate(slow_decode(tmp_path)):
        np.testing.assert_allclose(back.means[i], [one[a] for a in "xyz"], rtol=1e-6)
        np.testing.assert_allclose(back.quats[i], [one[f"rot_{k}"] for k in range(4)], atol=1e-7)
        np.testing.assert_allclose(back.scales[i], [one[f"scale_{k}"] for k in range(3)], rtol=1e-6)
        np.testing.assert_allclose(back.opacities[i], one["opacity"], rtol=1e-6)
        np.testing.assert_allclose(back.sh0[i, 0], [one[f"dc_{k}"] for k in range(3)], rtol=1e-6)
        rest = [[one[f"rest_{j}_{c}"] for c in range(3)] for j in range(15)]
        np.testing.assert_allclose(back.shN[i], rest, rtol=1e-6)


def test_same_splat_and_seed_give_the_same_bytes(tmp_path: Path) -> None:
    splat = scene_splat(5000)
    options = SogOptions(sh_palette=500, iterations=2, seed=3)
    for name in ("a.sog", "b.sog"):
        write_sog(tmp_path / name, splat, options)
    assert (tmp_path / "a.sog").read_bytes() == (tmp_path / "b.sog").read_bytes()
    write_sog(tmp_path / "c.sog", splat, replace(options, seed=4))
    assert (tmp_path / "a.sog").read_bytes() != (tmp_path / "c.sog").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.sog") as archive:
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
        assert {entry.date_time[0] for entry in archive.infolist()} == {1980}


def test_ratio_and_errors_of_a_scene(tmp_path: Path) -> None:
    splat = scene_splat(30_000)
    write_ply(tmp_path / "splat.ply", splat)
    encoded = write_sog(tmp_path / "splat.sog", splat, SogOptions(iterations=4))
    ratio = (tmp_path / "splat.ply").stat().st_size / (tmp_path / "splat.sog").stat().st_size
    assert ratio > 12
    errors = field_errors(splat.subset(encoded.order), read_sog(tmp_path / "splat.sog"))
    assert errors["position_of_extent"].mean < 13
    assert errors["rotation"].mean < 0.36
    assert errors["log_scale"].mean < 0.008
    assert errors["log_scale"].max < 0.2
    assert errors["opacity"].mean < 0.26
    assert errors["color"].mean < 0.5
    assert errors["shN"].rms < 0.6 * np.sqrt((splat.shN**2).mean())


def test_bands_above_the_degree_are_dropped(tmp_path: Path) -> None:
    splat = random_splat(40)
    encoded = write_sog(tmp_path / "splat.sog", splat, SogOptions(sh_degree=1))
    back = read_sog(tmp_path / "splat.sog")
    assert back.sh_degree == 1
    np.testing.assert_allclose(back.shN, splat.shN[encoded.order, :3], atol=0.02)
    errors = field_errors(splat.subset(encoded.order), back)
    np.testing.assert_array_equal(errors["shN"].values[:, 3:], np.abs(splat.shN[encoded.order, 3:]))


def test_folder_is_cleared_of_images_no_longer_used(tmp_path: Path) -> None:
    write_sog(tmp_path, random_splat(30))
    (tmp_path / "notes.txt").write_text("mine")
    write_sog(tmp_path, random_splat(30, 0), SogOptions(antialias=True))
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        "meta.json", "means_l.webp", "means_u.webp", "scales.webp", "quats.webp", "sh0.webp", "notes.txt",
    }  # fmt: skip
    assert read_antialias(tmp_path)
    assert not read_antialias(_written(tmp_path / "b.sog"))


def _written(path: Path) -> Path:
    write_sog(path, random_splat(3))
    return path


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SplatFormatError, match="no Gaussians"):
        write_sog(tmp_path / "a.sog", random_splat(0))
    splat = random_splat(9)
    splat.scales[4, 1] = np.nan
    with pytest.raises(SplatFormatError, match=r"(?s)scales holds.*1 of 9"):
        write_sog(tmp_path / "a.sog", splat)
    assert not list(tmp_path.iterdir())


def test_errors_have_the_units_they_claim() -> None:
    splat = random_splat(200)
    turned = np.column_stack([np.ones(200), np.full((200, 3), 0.01)]).astype(np.float32)
    plain = replace(splat, quats=np.tile(np.float32([1, 0, 0, 0]), (200, 1)))
    moved = replace(
        plain,
        means=splat.means + np.float32([3, 4, 0]),
        quats=-turned,
        scales=splat.scales + np.float32(0.5),
        sh0=splat.sh0 + np.float32(2 / 255 / SH_C0),
    )
    errors = field_errors(plain, moved)
    assert errors["position"].mean == pytest.approx(5, rel=1e-5)
    assert errors["rotation"].max == pytest.approx(np.degrees(2 * np.arctan(np.sqrt(3) * 0.01)), rel=1e-4)
    assert errors["log_scale"].rms == pytest.approx(0.5, rel=1e-5)
    assert errors["color"].mean == pytest.approx(2, rel=1e-3)
    assert errors["opacity"].max == errors["shN"].max == 0
    with pytest.raises(SplatFormatError, match="different size"):
        field_errors(splat, splat.subset(slice(5)))
