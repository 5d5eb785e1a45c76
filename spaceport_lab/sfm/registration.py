"""What became of each photograph, and why: the part of structure from motion that COLMAP keeps to itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from spaceport_lab.sfm.ties import MIN_TIES

MIN_INLIERS = 15
"""Verified matches a pair needs; COLMAP's own threshold."""

MIN_FEATURES = 100
"""Below this a photograph has too little to be recognised by."""

SAME_VIEW = 0.6
"""Two photographs that share more than this of their features were taken from one place."""

UNSURE = 0.01
"""A focal length whose standard deviation is more than this share of it is not settled by the photographs."""

_TRIES = {
    "same view": "move between shots, by a fifth of the picture's width or more; turning is not enough",
    "features": "leave these photographs out or replace them; sky, water, fog and blur have nothing to match",
    "no pairs": "photograph with more overlap (70 % and more), or set sfm.matching to exhaustive",
    "component": "add photographs that link the groups, or set sfm.matching to exhaustive",
    "rejected": "raise sfm.max_num_features, set sfm.upsample_below to 5000, or add photographs in between",
    "held by few": "photograph what lies between, or raise sfm.max_num_features",
    "missing": "give the folder that holds all images of the model (sfm.import_images)",
    "none": "photograph one place with 70 % overlap, moving between shots",
}


def describe(
    names: Sequence[str],
    n_features: Sequence[int],
    inliers: Mapping[tuple[int, int], int],
    registered: Mapping[str, Mapping[str, Any]],
    elsewhere: Mapping[str, int],
    ties: Mapping[str, int],
) -> list[dict[str, Any]]:
    """One row per photograph: registered or not, why not, and the numbers that show it.

    Args:
        names: all photographs.
        n_features: of each.
        inliers: (i, j) → verified matches of that pair, any number.
        registered: name → `n_points`, `reprojection_error_px` of the photographs in the kept model.
        elsewhere: name → size of another, smaller model it is part of.
        ties: name → points it shares with two photographs of the kept model; unknown ones count as enough.
    """
    component = components(len(names), [pair for pair, count in inliers.items() if count >= MIN_INLIERS])
    home = Counter(component[i] for i, name in enumerate(names) if name in registered)
    main = home.most_common(1)[0][0] if home else None
    rows = []
    for i, name in enumerate(names):
        partners = {b if a == i else a: c for (a, b), c in inliers.items() if i in (a, b)}
        best = max(partners, key=lambda j: (partners[j], -j), default=None)
        row: dict[str, Any] = {
            "name": name,
            "registered": name in registered,
            "reason": None,
            "kind": None,
            "n_features": n_features[i],
            "n_points": None,
            "reprojection_error_px": None,
            "n_pairs": sum(count >= MIN_INLIERS for count in partners.values()),
            "best_partner": None if best is None else names[best],
            "best_inliers": 0 if best is None else partners[best],
            "component": component[i],
        }
        if name in registered:
            row |= registered[name]
        else:
            row["kind"], row["reason"] = _why_not(row, main, elsewhere.get(name), ties.get(name))
        rows.append(row)
    return rows


def _why_not(row: Mapping[str, Any], main: int | None, other_size: int | None, ties: int | None):
    partner = f"{row['best_partner']} ({row['best_inliers']} inliers)" if row["best_partner"] else "none"
    if row["n_features"] < MIN_FEATURES:
        return "features", f"too few features: {row['n_features']}, under {MIN_FEATURES}"
    if row["n_pairs"] == 0:
        needed = f"{MIN_INLIERS} inliers are needed"
        return "no pairs", f"no verified pair: best partner {partner}, {needed}"
    if main is not None and row["component"] != main:
        return "component", f"in a separate group that shares nothing with the rest; best partner {partner}"
    if ties is not None and ties < MIN_TIES:
        words = f"shares {ties} points with two placed photographs, under {MIN_TIES}"
        return "held by few", f"{words}: its distance cannot be known; best partner {partner}"
    if other_size is not None:
        return "component", f"in a separate model of {other_size} photographs; best partner {partner}"
    if row["best_inliers"] > SAME_VIEW * row["n_features"]:
        return "same view", f"shows the same as {partner}: without a change of place there is no depth"
    return "rejected", f"matched, but no pose passed: best partner {partner}"


def components(n: int, edges: Sequence[tuple[int, int]]) -> list[int]:
    """Number of the connected group each of n nodes is in; group 0 is the largest."""
    parent = list(range(n))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for i, j in edges:
        parent[root(i)] = root(j)
    roots = [root(i) for i in range(n)]
    order = {r: k for k, (r, _) in enumerate(Counter(roots).most_common())}
    return [order[r] for r in roots]


def try_first(kind: str | None) -> str:
    """The first thing to try for photographs left out for one kind of reason."""
    return _TRIES.get(kind or "none", _TRIES["none"])


def what_to_try(rows: Sequence[Mapping[str, Any]]) -> str:
    """The first thing to try, for the commonest reason among photographs that were not registered."""
    kinds = Counter(row["kind"] for row in rows if not row["registered"])
    return _TRIES[kinds.most_common(1)[0][0]] if kinds else _TRIES["none"]


def list_reasons(rows: Sequence[Mapping[str, Any]], limit: int = 8) -> str:
    """Photographs that were not registered with their reasons, one a line, as error messages hold them."""
    lost = [f"{row['name']}: {row['reason']}" for row in rows if not row["registered"]]
    lines = lost[:limit] + ([f"… and {len(lost) - limit} more"] if len(lost) > limit else [])
    return "\n            ".join(lines)


def unsettled(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The cameras whose focal length is known no better than `UNSURE`, or not at all."""
    found = []
    for row in rows:
        deviation = row["focal_sd_px"]
        if deviation is not None and any(
            sd > UNSURE * focal for sd, focal in zip(deviation, row["focal_px"], strict=True)
        ):
            found.append(row)
    return found
