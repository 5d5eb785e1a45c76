"""How much structure from motion looks at: profiles, the choice among them, and the rung above."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

SIFT_S_PER_MEGAPIXEL = 0.5
"""CPU-seconds to find features in a megapixel, measured."""

MATCH_S_PER_PAIR = 0.2
"""CPU-seconds to match and verify a pair of photographs with up to 12,288 features each, measured."""

AUTO_LIMIT_S = 1800.0
"""CPU-seconds of features and matches up to which auto takes the balanced profile."""


USUAL_PEAK = 0.02 / 3
"""COLMAP's own threshold on the contrast of a feature."""


@dataclass(frozen=True)
class Settings:
    """What a profile stands for, once what was asked for by name has been put in.

    Attributes:
        profile: its name.
        max_image_size: longest side of a photograph in which features are sought, pixels.
        max_num_features: kept per photograph.
        first_octave: −1 doubles the photographs before features are sought.
        spatial_neighbors: nearest photographs each is matched with in spatial matching.
        light: bundle adjustment less often and no finer than changes anything.
        both: the global mapper runs even where the incremental one has left nothing out.
        peak_threshold: least contrast of a feature, of SIFT's scale space; grey levels from 0 to 1.
        max_ratio: a match's distance over that of the next best one is at most this.
        octave_resolution: scales looked at in each octave.
    """

    profile: str
    max_image_size: int
    max_num_features: int
    first_octave: int
    spatial_neighbors: int
    light: bool
    both: bool
    peak_threshold: float = USUAL_PEAK
    max_ratio: float = 0.8
    octave_resolution: int = 3


PROFILES = {
    "fast": Settings("fast", 1600, 4096, 0, 8, True, False),
    "balanced": Settings("balanced", 2400, 12288, 0, 6, True, True, 0.001, 0.85, 4),
    "high": Settings("high", 3200, 16384, -1, 12, False, True),
}
"""From the cheapest to the dearest. Fast needs more partners because each shares fewer features with it.

Balanced looks at fainter features and believes less certain matches, since geometry throws out what is
wrong: two fifths more points for a third more time. A fourth scale in each octave is another fifth, found
more exactly. Its cap is higher for them: at the cap COLMAP gives up the finest features first, and faint
coarse ones would take their place. High doubles photographs and reaches its cap as it is.
"""


def longest_side(photos: Sequence[Mapping[str, Any]]) -> float:
    """Median of the photographs' longer sides, pixels."""
    sides = sorted(max(photo["width"], photo["height"]) for photo in photos)
    half = len(sides) // 2
    return float(sides[half] if len(sides) % 2 else (sides[half - 1] + sides[half]) / 2)


def choose_profile(
    params: Mapping[str, Any], photos: Sequence[Mapping[str, Any]], n_pairs: Mapping[str, int]
) -> tuple[Settings, str]:
    """The settings to begin with, and in words why these.

    Auto takes balanced, whose points are the ones worth starting a splat from, unless its features and
    matches would take longer than `AUTO_LIMIT_S`: that depends on how many photographs there are, how large
    they are, and whether GPS says which of them to compare.

    Args:
        params: of the stage; what is set there by name (not 0) wins over the profile.
        photos: with `width` and `height`.
        n_pairs: profile → pairs that would be matched.
    """
    size = longest_side(photos)
    name = params["profile"]
    why = "asked for"
    if name == "auto":
        cost = {key: cost_s(fill(key, params, size), photos, n_pairs[key]) for key in ("fast", "balanced")}
        name = "balanced" if cost["balanced"] <= AUTO_LIMIT_S else "fast"
        why = (
            f"{len(photos)} photographs of {size:.0f} px, {n_pairs[name]:,} pairs: about "
            f"{_duration(cost['balanced'])} of processor time with balanced"
        )
        if name == "fast":
            why += f", over the limit of {_duration(AUTO_LIMIT_S)}; {_duration(cost['fast'])} with fast"
    return fill(name, params, size), why


def fill(profile: str, params: Mapping[str, Any], size: float) -> Settings:
    """A profile with what was set by name put in; small photographs are doubled whatever the profile."""
    settings = PROFILES[profile]
    named = ("max_image_size", "max_num_features", "spatial_neighbors")
    settings = replace(settings, **{name: params[name] for name in named if params[name]})
    if size < params["upsample_below"]:
        # What is faint in a doubled photograph is its noise.
        return replace(settings, first_octave=-1, peak_threshold=USUAL_PEAK)
    return settings


def climb(first: Settings, params: Mapping[str, Any], size: float, n_found: float) -> Settings | None:
    """The next rung that would find more than the first attempt did, or None.

    Args:
        first: settings of the first attempt.
        params: of the stage. A cap on features set by name is doubled, since it was too low.
        size: longer side of the photographs, pixels.
        n_found: features in the median photograph.
    """
    ladder = list(PROFILES)
    for name in ladder[ladder.index(first.profile) + 1 :]:
        rung = fill(name, params, size)
        more = max(rung.max_num_features, 2 * first.max_num_features)
        rung = replace(rung, max_num_features=more)
        cut_off = n_found >= 0.9 * first.max_num_features
        # Where the cap cut nothing off, a higher one finds nothing more in the same pixels; and what a lower
        # threshold finds there is too little for the only second attempt.
        if _worked_on(rung, size) > _worked_on(first, size) or cut_off:
            return rung
    return None


def cost_s(settings: Settings, photos: Sequence[Mapping[str, Any]], n_pairs: int) -> float:
    """About how many CPU-seconds features and matches take; the mappers add a tenth to a half."""
    megapixels = 0.0
    for photo in photos:
        longest = max(photo["width"], photo["height"])
        ratio = _worked_on(settings, longest) / longest
        megapixels += photo["width"] * photo["height"] * ratio**2 / 1e6
    # Matching alone would grow with the square; verification does not.
    a_pair = MATCH_S_PER_PAIR * (settings.max_num_features / 12288) ** 1.3
    return SIFT_S_PER_MEGAPIXEL * megapixels + a_pair * n_pairs


def _worked_on(settings: Settings, size: float) -> float:
    """Longer side of the pixels SIFT works on."""
    return min(size, settings.max_image_size) * (2 if settings.first_octave == -1 else 1)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
