"""Rows of the tables the notebook shows of structure from motion."""

from __future__ import annotations

import json
from typing import Any

from spaceport_lab.sfm.registration import try_first
from spaceport_lab.workspace import StageRun


def candidate_rows(card: dict[str, Any]) -> list[dict[str, Any]]:
    """The models that were tried, the kept one first, as a table has them."""
    names = (
        "profile",
        "mapper",
        "matching",
        "n_registered",
        "n_points",
        "reprojection_error_px",
        "gps_rmse_m",
    )
    rows = [
        {"model": "tried" if number else "kept", **{name: tried.get(name) for name in names}}
        for number, tried in enumerate(card["candidates"])
    ]
    return rows or [{"model": "imported", "n_registered": sum(r["registered"] for r in card["photographs"])}]


def effort_rows(card: dict[str, Any]) -> list[dict[str, Any]]:
    """What was looked at in each attempt, how much of it was known already, and where the time went."""
    rows = []
    for attempt in card.get("attempts", []):
        found, pairs = attempt.get("features", {"cached": "all", "made": 0}), attempt["pairs"]
        rows.append(
            {"profile": attempt["profile"], "size [px]": attempt["max_image_size"],
             "features": attempt["max_num_features"],
             "photographs": f"{found['made']} + {found['cached']} known",
             "pairs": f"{pairs['made']} {attempt['matching']} + {pairs['cached']} known"
             + (f", {pairs['unlikely']} unlikely" if pairs.get("unlikely") else ""),
             **{f"{name} [s]": seconds for name, seconds in attempt["seconds"].items()}}
        )  # fmt: skip
    return rows or [{"profile": "none: the model came from elsewhere"}]


def place_rows(run: StageRun) -> list[dict[str, Any]]:
    """Where the scene is on Earth and how well that is known, then every ground control point."""
    path = run.dir / "georeference.json"
    if not path.is_file():
        return [{"place": "unknown: without GPS nothing is metric"}]
    place = json.loads(path.read_text())
    if "utm" not in place:
        return [{"place": "as the imported model says"}]
    origin, utm = place["origin"], place["utm"]
    rows: list[dict[str, Any]] = [
        {"place": place["source"], "positions": f"{place['n_inliers']} of {place['n_positions']}",
         "horizontal RMSE [m]": place["rmse_horizontal_m"], "vertical RMSE [m]": place["rmse_vertical_m"],
         "where": f"{origin['lat']:.4f}, {origin['lon']:.4f}, {origin['alt']:.0f} m",
         "grid": f"EPSG:{utm['epsg']}"}
    ]  # fmt: skip
    for point in (place["control_points"] or {"points": []})["points"]:
        residual = point["residual_m"] or [None] * 3
        rows.append(
            {"place": f"control point {point['name']}", "positions": f"{point['n_agreeing']} photographs",
             "east [m]": residual[0], "north [m]": residual[1], "up [m]": residual[2],
             "where": point["problem"]}
        )  # fmt: skip
    return rows


def unregistered_rows(card: dict[str, Any]) -> list[dict[str, Any]]:
    """Photographs that were not registered, with the reason; one row saying so when all were."""
    rows = [row for row in card["photographs"] if not row["registered"]]
    if not rows:
        return [{"photograph": "none", "reason": f"all {len(card['photographs'])} were registered"}]
    return [
        {"photograph": row["name"], "reason": row["reason"], "features": row["n_features"],
         "best partner": row["best_partner"], "its matches": row["best_inliers"],
         "try": try_first(row["kind"])}
        for row in rows
    ]  # fmt: skip
