"""Profiles of structure from motion: what they mean, how auto chooses, and the rung above."""

from __future__ import annotations

from dataclasses import replace

import pytest

from spaceport_lab.errors import ParamsError
from spaceport_lab.params import SfmParams
from spaceport_lab.params.resolve import resolve
from spaceport_lab.sfm.profiles import (
    PROFILES,
    USUAL_PEAK,
    choose_profile,
    climb,
    cost_s,
    fill,
    longest_side,
)


def photos(n: int, width: int = 4000, height: int = 3000) -> list[dict]:
    return [{"width": width, "height": height} for _ in range(n)]


def asked(**values: object) -> dict:
    return SfmParams(**values).model_dump()


def chosen(n: int, n_pairs: int, **values: object) -> tuple[str, str]:
    settings, why = choose_profile(asked(**values), photos(n), dict.fromkeys(PROFILES, n_pairs))
    return settings.profile, why


def test_profiles_are_the_measured_ones() -> None:
    fast, balanced, high = PROFILES.values()
    assert (fast.max_image_size, fast.max_num_features, fast.spatial_neighbors) == (1600, 4096, 8)
    looked_at = (balanced.max_image_size, balanced.max_num_features, balanced.spatial_neighbors)
    assert looked_at == (2400, 12288, 6)
    assert [p.peak_threshold for p in PROFILES.values()] == [USUAL_PEAK, 0.001, USUAL_PEAK]
    assert [p.max_ratio for p in PROFILES.values()] == [0.8, 0.85, 0.8]
    assert [p.octave_resolution for p in PROFILES.values()] == [3, 4, 3]
    assert fast.first_octave == balanced.first_octave == 0
    assert high.first_octave == -1
    assert [p.light for p in PROFILES.values()] == [True, True, False]
    assert [p.both for p in PROFILES.values()] == [False, True, True]


def test_auto_goes_by_count_size_and_pairs() -> None:
    assert chosen(18, 80)[0] == "balanced"
    assert chosen(200, 1300)[0] == "balanced"
    name, why = chosen(200, 19_900)  # the same without GPS
    assert name == "fast"
    assert "200 photographs of 4000 px, 19,900 pairs" in why
    assert "over the limit of 30 min" in why
    many = photos(800, 4000), photos(800, 800, 600)
    pairs = dict.fromkeys(PROFILES, 2000)
    assert [choose_profile(asked(), p, pairs)[0].profile for p in many] == ["fast", "balanced"]
    assert chosen(200, 19_900, profile="high") == ("high", "asked for")


def test_what_is_set_by_name_wins() -> None:
    params = asked(max_image_size=2000, spatial_neighbors=9)
    settings = fill("fast", params, 4000)
    assert settings == replace(PROFILES["fast"], max_image_size=2000, spatial_neighbors=9)
    assert fill("fast", params, 800).first_octave == -1  # small photographs are doubled
    assert fill("fast", asked(upsample_below=0), 800).first_octave == 0
    assert fill("balanced", asked(), 800).peak_threshold == USUAL_PEAK  # their noise is not worth a feature


def test_cost_rises_with_all_that_costs() -> None:
    base = cost_s(PROFILES["fast"], photos(20), 100)
    assert cost_s(PROFILES["fast"], photos(40), 100) > base
    assert cost_s(PROFILES["fast"], photos(20), 200) > base
    assert cost_s(PROFILES["balanced"], photos(20), 100) > base
    assert cost_s(PROFILES["fast"], photos(20, 8000, 6000), 100) == pytest.approx(base)  # reduced alike
    assert cost_s(PROFILES["balanced"], photos(18, 3840, 2160), 80) < 60


def test_the_second_attempt_climbs_only_where_it_finds_more() -> None:
    params = asked()
    fast, balanced, high = PROFILES.values()
    up = climb(fast, params, 4000, 4000)
    assert (up.profile, up.max_image_size, up.max_num_features) == ("balanced", 2400, 12288)
    # Photographs of 1600 px have no more pixels for balanced; more features only if some were cut off.
    assert climb(fast, params, 1600, 4096).profile == "balanced"
    assert climb(fast, params, 1600, 1200).profile == "high"
    assert climb(balanced, params, 2400, 100).first_octave == -1
    assert climb(high, params, 4000, 16384) is None
    doubled = fill("balanced", params, 800)
    assert climb(doubled, params, 800, 3000) is None
    assert climb(doubled, params, 800, 12288).max_num_features == 24576
    own = fill("balanced", asked(max_num_features=2000), 4000)
    assert climb(own, asked(max_num_features=2000), 4000, 2000).max_num_features == 4000


def test_longest_side_is_the_median() -> None:
    assert longest_side(photos(2, 400, 300) + photos(1, 100, 900)) == 400
    assert longest_side(photos(1, 400, 300) + photos(1, 100, 900)) == 650


def test_values_too_small_are_refused_and_zero_is_not() -> None:
    assert SfmParams().max_image_size == SfmParams().max_num_features == 0
    with pytest.raises(ParamsError, match=r"sfm.max_image_size is [\s\S]*must be 0[\s\S]*at least 320"):
        resolve(overrides=["sfm.max_image_size=100"])


@pytest.mark.parametrize(
    ("preset", "size", "n_features", "neighbors"),
    [("demo", 1600, 4096, 8), ("fast", 1600, 4096, 8), ("production", 2400, 16384, 8)],
)
def test_presets_mean_what_they_say(preset: str, size: int, n_features: int, neighbors: int) -> None:
    params = resolve([preset]).params["sfm"].model_dump()
    settings, _ = choose_profile(params, photos(30), dict.fromkeys(PROFILES, 100))
    assert (settings.max_image_size, settings.max_num_features) == (size, n_features)
    assert settings.spatial_neighbors == neighbors
