"""The survey of the site: its targets as somebody measured them and then pointed at them in photographs.

GPS of a metre fixes the scale of so small a flight to half a per cent at best; control points do it to
centimetres. One target stays a check point, which nothing is fitted to.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from spaceport_lab.sample import flight, layout
from spaceport_lab.sample.site import Site

CHECK_POINT = layout.KNOWN_DISTANCE[1]
"""The target that is not in the list."""

POINTING_PX = 0.3
"""How far off, in pixels, a person points, as a standard deviation in each direction."""

SLACK_M = 0.3
"""What a ray to a target may end before or behind it: the ground's relief within a target."""

MARGIN_PX = 4.0
"""Targets nearer to the edge of a photograph are not pointed at."""


def gcp_list(
    site: Site, shots: Sequence[flight.Shot], focal: float, width: int, height: int, seed: int
) -> str:
    """The text of a `gcp_list.txt` as OpenDroneMap reads it: a line for each photograph a target is seen in.

    Args:
        site: what can stand in the way.
        shots: the flight.
        focal: in pixels; the principal point is the image's centre.
        width, height: of the photographs, in pixels.
        seed: of what a person's pointing adds.
    """
    rng, lines = np.random.default_rng([seed, 4]), ["EPSG:4326"]
    known = layout.known_points()
    for name in layout.CONTROL_POINTS:
        if name == CHECK_POINT:
            continue
        lat, lon, alt = flight.enu_to_wgs84(np.array(known[name]))
        for shot in shots:
            x, y, depth = shot.rotation @ (np.array(known[name]) - shot.center)
            px, py = focal * np.array([x, y]) / depth + np.array([width, height]) / 2
            inside = MARGIN_PX < px < width - MARGIN_PX and MARGIN_PX < py < height - MARGIN_PX
            if depth > 0 and inside and is_seen(site, shot.center, np.array(known[name])):
                px, py = np.array([px, py]) + rng.normal(0, POINTING_PX, 2)
                lines.append(f"{lon:.9f} {lat:.9f} {alt:.3f} {px:.1f} {py:.1f} {shot.name} {name}")
    return "\n".join(lines) + "\n"


def is_seen(site: Site, center: Float[np.ndarray, "3"], point: Float[np.ndarray, "3"]) -> bool:
    """Whether nothing stands between a camera and a point on the ground."""
    towards = point - center
    reached, _, _ = site.cast(np.concatenate([center, towards])[None].astype(np.float32))
    return bool(abs(reached[0] - 1.0) * np.linalg.norm(towards) < SLACK_M)
