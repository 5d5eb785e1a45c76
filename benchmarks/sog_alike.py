"""Whether splat-transform decodes what we write to exactly what our reader decodes, to the last bit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.scene import make_scene
from spaceport_lab.gaussians import Gaussians
from spaceport_lab.sog import SETTINGS, read_sog, write_sog
from spaceport_lab.sog.stream import read_streamed
from spaceport_lab.sog.stream_write import StreamOptions, write_streamed

SIZES, DEGREES, LARGE = (1, 5, 70, 1000), (0, 1, 2, 3), 100_000
FORMS = {"bundled": "splat.sog", "unbundled": "meta.json"}


def rows(
    folder: Path, sizes: Sequence[int] = SIZES, degrees: Sequence[int] = DEGREES, large: int = LARGE
) -> list[dict[str, Any]]:
    """A row for each file written: what it holds, and whether both readers agree in every value.

    Args:
        folder: empty, for the files.
        sizes: Gaussians; each of them at each of `degrees`, bundled and unbundled.
        degrees: of spherical harmonics.
        large: Gaussians of one more splat, at every setting, and of a streamed one.
    """
    made = [(f"degree {d}", make_scene(n, d), "balanced") for d in degrees for n in sizes]
    made.append(("constant axes", _constant(make_scene(9)), "balanced"))
    made += [(setting, make_scene(large), setting) for setting in SETTINGS]
    found = []
    for number, (what, splat, setting) in enumerate(made):
        for form, name in FORMS.items():
            home = folder / f"{number}_{form}"
            home.mkdir()
            write_sog(home / name if form == "bundled" else home, splat, SETTINGS[setting])
            row = {"what": what, "n": splat.n, "sh_degree": splat.sh_degree, "form": form}
            found.append(row | {"identical": same(read_sog(home / name), home / name, home)})
    return found + list(_streamed(folder / "streamed", make_scene(large)))


def _streamed(folder: Path, splat: Gaussians) -> Iterator[dict[str, Any]]:
    levels = [splat, splat.subset(slice(0, None, 2)), splat.subset(slice(0, None, 8))]
    options = StreamOptions(chunk_count=max(10, splat.n // 5), sog=SETTINGS["balanced"])
    for _ in write_streamed(folder, levels, options):
        pass
    for level, part in enumerate(levels):
        identical = same(read_streamed(folder, level), folder / "lod-meta.json", folder, "-L", level)
        row = {"what": f"level {level}", "n": part.n, "sh_degree": part.sh_degree, "form": "streamed"}
        yield row | {"identical": identical}


def same(ours: Gaussians, path: Path, folder: Path, *options: str | int) -> bool:
    """Whether splat-transform reads at `path` what we did: all fields, no more, bit by bit."""
    from tests.splat_transform import decode

    peer = decode(path, folder, *options)
    k = ours.shN.shape[1]
    fields = [
        (["x", "y", "z"], ours.means),
        ([f"rot_{i}" for i in range(4)], ours.quats),
        ([f"scale_{i}" for i in range(3)], ours.scales),
        (["opacity"], ours.opacities),
        ([f"f_dc_{i}" for i in range(3)], ours.sh0),
        ([f"f_rest_{c * k + j}" for j in range(k) for c in range(3)], ours.shN),
    ]
    expected = [name for names, _ in fields for name in names]
    extra = {name for name in peer if name.startswith("f_rest")} - set(expected)
    if extra or not set(expected) <= set(peer) or len(peer["x"]) != ours.n:
        return False
    return all(
        np.array_equal(values.reshape(ours.n, -1), np.column_stack([peer[name] for name in names]))
        for names, values in fields
        if names
    )


def _constant(splat: Gaussians) -> Gaussians:
    """No extent along Y, one size, one colour."""
    means = splat.means.copy()
    means[:, 1] = 7.25
    return replace(splat, means=means, scales=np.full_like(splat.scales, -2), shN=np.zeros_like(splat.shN))
