"""Tables of the sfm notebook: what they say for every kind of record."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from spaceport_lab import sfm
from spaceport_lab.sfm.registration import UNSURE, try_first, unsettled
from spaceport_lab.workspace import StageRun


@pytest.fixture
def run(tmp_path: Path) -> StageRun:
    run = StageRun(tmp_path / "runs" / "job", "sfm")
    run.dir.mkdir(parents=True)
    return run


def test_effort_counts_what_was_known() -> None:
    attempt = {
        "profile": "fast", "max_image_size": 1600, "max_num_features": 4096, "matching": "spatial",
        "features": {"cached": 8, "made": 4}, "pairs": {"cached": 20, "made": 9}, "seconds": {"matches": 1.5},
    }  # fmt: skip
    again = {**attempt, "pairs": {"cached": 0, "made": 66}, "matching": "exhaustive"}
    del again["features"]  # a second attempt may go on with the features of the first
    first, second = sfm.effort_rows({"attempts": [attempt, again]})
    assert first["photographs"] == "4 + 8 known"
    assert first["pairs"] == "9 spatial + 20 known"
    assert first["matches [s]"] == 1.5
    assert second["photographs"] == "0 + all known"
    assert len(sfm.effort_rows({})) == 1


def test_place_of_every_kind(run: StageRun) -> None:
    assert "nothing is metric" in sfm.place_rows(run)[0]["place"]
    path = run.dir / "georeference.json"
    path.write_text('{"origin": {"lat": 1.0}}')
    assert sfm.place_rows(run) == [{"place": "as the imported model says"}]
    points = [
        {"name": "A", "n_agreeing": 4, "residual_m": [0.1, 0.2, 0.3], "problem": None},
        {"name": "B", "n_agreeing": 0, "residual_m": None, "problem": "seen once"},
    ]
    record = {
        "source": "ground control points", "origin": {"lat": 46.5, "lon": 7.5, "alt": 600.0},
        "utm": {"epsg": 32632}, "n_inliers": 9, "n_positions": 10, "rmse_horizontal_m": 1.0,
        "rmse_vertical_m": 2.0, "control_points": {"points": points},
    }  # fmt: skip
    path.write_text(json.dumps(record))
    scene, a, b = sfm.place_rows(run)
    assert (scene["grid"], scene["positions"], scene["where"]) == (
        "EPSG:32632",
        "9 of 10",
        "46.5000, 7.5000, 600 m",
    )
    assert (a["east [m]"], a["north [m]"], a["up [m]"]) == (0.1, 0.2, 0.3)
    assert (b["east [m]"], b["where"]) == (None, "seen once")
    path.write_text(json.dumps(record | {"control_points": None}))
    assert len(sfm.place_rows(run)) == 1


def test_every_reason_has_its_first_thing_to_try() -> None:
    rows = [
        {"name": "a", "registered": False, "reason": "why", "kind": "no pairs", "n_features": 5,
         "best_partner": None, "best_inliers": 0}
    ]  # fmt: skip
    (row,) = sfm.unregistered_rows({"photographs": rows})
    assert "overlap" in row["try"]
    kinds = ("same view", "features", "no pairs", "component", "rejected", "held by few", "missing")
    assert len({try_first(kind) for kind in kinds}) == len(kinds)


def test_a_focal_length_nobody_can_rely_on_is_found() -> None:
    def camera(sd: list[float] | None) -> dict:
        return {"focal_px": [1000.0, 1000.0], "focal_sd_px": sd}

    sure, unsure = [UNSURE * 900] * 2, [1.0, UNSURE * 1100]
    assert unsettled([camera(sure), camera(None)]) == []
    assert unsettled([camera(unsure)]) == [camera(unsure)]
