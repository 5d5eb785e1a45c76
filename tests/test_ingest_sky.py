"""The sky: found where it is and nowhere else, and only where the gimbal says that it can be."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pictures import exif, save, texture
from PIL import Image
from test_ingest_flight import packet

from spaceport_lab import ingest
from spaceport_lab.ingest.photos import Photo
from spaceport_lab.ingest.sky import above_horizon, find_sky
from spaceport_lab.params import IngestParams
from spaceport_lab.workspace import StageRun

W, H = 480, 360
BLUE, CLOUDED = (120, 170, 230), (205, 208, 212)


def photo(pitch: float | None = -10.0, roll: float = 0.0) -> Photo:
    drone = None if pitch is None else {"pitch_deg": pitch, "roll_deg": roll}
    return Photo("a.jpg", "a.jpg", width=W, height=H, focal_35mm=24.0, drone=drone)


def view(horizon: int, color=BLUE, seed: int = 0) -> np.ndarray:
    """Textured ground under a sky that gets lighter towards the horizon, with a little noise."""
    picture = texture(seed, W, H)
    rows = np.linspace(0, 25, max(1, horizon))[:, None, None]
    noise = np.random.default_rng(seed).normal(0, 2, (horizon, W, 3))
    picture[:horizon] = np.clip(np.array(color) + rows + noise, 0, 255)
    return picture


def agreement(found: np.ndarray, true: np.ndarray) -> float:
    return (found & true).sum() / (found | true).sum()


def test_the_horizon_is_where_the_gimbal_puts_it() -> None:
    """Row by row from the definition, tilted by the roll."""
    focal = 24.0 / 43.267 * np.hypot(W, H)
    above = above_horizon(photo(-12.0), (W, H))
    row = H / 2 - focal * np.tan(np.radians(12.0 + -2.0))  # two degrees of margin
    assert abs(above[:, W // 2].sum() - row) < 1.5
    rolled = above_horizon(photo(-12.0, 10.0), (W, H))
    left, right = rolled[:, 5].sum(), rolled[:, -6].sum()
    assert abs(abs(left - right) - (W - 11) * np.tan(np.radians(10))) < 12
    assert not above_horizon(photo(-90.0), (W, H)).any()
    assert above_horizon(photo(None), (W, H)) is None


@pytest.mark.parametrize("color", [BLUE, CLOUDED], ids=["blue", "clouded"])
def test_sky_is_found_and_what_stands_before_it_is_not(color) -> None:
    picture = view(140, color)
    tower = texture(5, 60, 100) // 2
    picture[60:160, 200:260] = tower
    true = np.zeros((H, W), bool)
    true[:140] = True
    true[60:140, 200:260] = False
    found = find_sky(picture, above_horizon(photo(-5.0), (W, H)))
    assert agreement(found, true) > 0.95
    assert found[70:130, 205:255].mean() < 0.02


def test_what_is_no_sky_stays() -> None:
    everywhere = np.ones((H, W), bool)
    assert not find_sky(texture(3, W, H), everywhere).any()
    dark = view(200, (20, 30, 60))
    assert not find_sky(dark, everywhere).any()
    lake = view(0)
    lake[150:250, 100:300] = BLUE  # smooth and blue, and joined to no border
    assert not find_sky(lake, everywhere).any()
    meadow = view(200, (90, 150, 70))
    assert not find_sky(meadow, everywhere).any()
    # A lake up to the upper border, seen from straight above.
    assert not find_sky(view(200), above_horizon(photo(-90.0), (W, H))).any()


def test_masks_are_written_counted_and_put_together(tmp_path: Path) -> None:
    source = tmp_path / "scene" / "images"
    looks = {"a": -5.0, "b": -5.0, "c": -90.0, "d": None}
    for seed, (name, pitch) in enumerate(looks.items()):
        drone = {} if pitch is None else {"xmp": packet(GimbalPitchDegree=f"{pitch:.1f}")}
        save(source / f"{name}.jpg", view(140, seed=seed), exif=exif(), quality=95, **drone)
    given = np.full((H, W), 255, np.uint8)
    given[-50:] = 0
    save(tmp_path / "scene" / "masks" / "b.png", given)
    run = StageRun(tmp_path / "scene" / "runs" / "job", "ingest")
    run.dir.mkdir(parents=True)
    list(ingest.run(run, IngestParams(source=str(source), sky_mask=True)))
    made = {p.name: np.asarray(Image.open(p)) for p in (run.dir / "masks").iterdir()}
    assert sorted(made) == ["a.jpg.png", "b.jpg.png"]
    assert all(mask.shape == (H, W) and set(np.unique(mask)) <= {0, 255} for mask in made.values())
    assert (made["a.jpg.png"][:130] == 0).mean() > 0.97
    assert (made["a.jpg.png"][160:] == 255).all()
    assert (made["b.jpg.png"][-50:] == 0).all(), "what was hidden stays hidden"
    assert (made["b.jpg.png"][:130] == 0).mean() > 0.97
    assert (run.metrics["n_sky_masks"], run.metrics["n_sky_unknown"]) == (2, 1)
    assert run.metrics["sky_share"] == pytest.approx(140 / H, abs=0.02)
    assert any("1 of 4 photographs do not say how they look" in warning for warning in run.warnings)
    assert "masks" in run.outputs


def test_nobody_asked_for_it(tmp_path: Path) -> None:
    for seed in range(3):
        drone = packet(GimbalPitchDegree="-5.0")
        save(tmp_path / "in" / f"{seed}.jpg", view(140, seed=seed), exif=exif(), xmp=drone)
    run = StageRun(tmp_path / "scene" / "runs" / "job", "ingest")
    run.dir.mkdir(parents=True)
    list(ingest.run(run, IngestParams(source=str(tmp_path / "in"))))
    assert not (run.dir / "masks").exists()
    assert "n_sky_masks" not in run.metrics
    assert json.loads((run.dir / "photos.json").read_text())["photos"][0]["drone"]["pitch_deg"] == -5.0
