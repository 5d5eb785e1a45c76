"""The spaceport as geometry: terrain, pads, buildings, tanks, plants; and what light reaches of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from spaceport_lab.sample import layout, plants, vehicles
from spaceport_lab.sample.builder import (
    CONCRETE,
    CONTAINER,
    CORRUGATED,
    FOLIAGE,
    GLASS,
    GROUND,
    PLAIN,
    STEEL,
    TANK,
    WALL,
    Builder,
)
from spaceport_lab.sample.noise import fractal
from spaceport_lab.sample.shapes import (
    ball,
    barrel_body,
    barrel_roof,
    box,
    dome,
    flat,
    lathe,
    merge,
    moved,
    prism,
    surface,
)


@dataclass(frozen=True)
class Site:
    """All triangles of the site, with the ray caster over them.

    Attributes:
        points: [F, 3, 3] corners, east-north-up metres.
        normals: [F, 3, 3] unit normals at the corners.
        openness: [F, 3] share of the sky each corner sees, 0 to 1.
        owner: [F] which object a triangle belongs to.
        objects: [O, 16] rows as `Builder.objects` lists them; object 0 is the ground.
        caster: Open3D's RaycastingScene over `points`.
    """

    points: Float[np.ndarray, "F 3 3"]
    normals: Float[np.ndarray, "F 3 3"]
    openness: Float[np.ndarray, "F 3"]
    owner: Int[np.ndarray, "F"]
    objects: Float[np.ndarray, "O 16"]
    caster: Any

    def cast(self, rays: Float[np.ndarray, "R 6"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Distances in ray lengths [R] (inf where nothing is hit), triangles [R], barycentric uv [R, 2]."""
        import open3d

        hits = self.caster.cast_rays(open3d.core.Tensor(rays))
        return (hits[k].numpy() for k in ("t_hit", "primitive_ids", "primitive_uvs"))

    def blocked(self, rays: Float[np.ndarray, "R 6"]) -> Bool[np.ndarray, "R"]:
        """Whether anything lies along each ray."""
        import open3d

        return self.caster.test_occlusions(open3d.core.Tensor(rays)).numpy()


def build_site(seed: int) -> Site:
    """Build the whole site; plants and parked vehicles differ by `seed`, the plan does not."""
    import open3d

    rng = np.random.default_rng([seed, 1])
    builder = Builder()
    _add_ground(builder)
    vehicles.add_rocket(builder)
    vehicles.add_tower(builder)
    vehicles.add_booster(builder)
    vehicles.add_hopper(builder)
    vehicles.add_masts(builder)
    _add_hangars(builder)
    _add_control(builder)
    _add_tanks(builder)
    _add_containers(builder, rng)
    vehicles.add_traffic(builder, rng)
    _add_plants(builder, rng)
    points, normals, openness, owner, objects = builder.arrays()
    caster = open3d.t.geometry.RaycastingScene()
    corners = np.arange(3 * len(points), dtype=np.uint32).reshape(-1, 3)
    caster.add_triangles(open3d.core.Tensor(points.reshape(-1, 3)), open3d.core.Tensor(corners))
    site = Site(points, normals, openness, owner, objects, caster)
    _bake_openness(site)
    return site


def sky_rays(count: int) -> Float[np.ndarray, "S 3"]:
    """Directions over the upper hemisphere, cosine-distributed about +Z (a golden-angle spiral)."""
    k = np.arange(count) + 0.5
    radius, angle = np.sqrt(k / count), k * 2.399963
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), np.sqrt(1 - radius**2)], axis=1)


def sky_share(
    site: Site, points: Float[np.ndarray, "P 3"], normals: Float[np.ndarray, "P 3"], count: int
) -> Float[np.ndarray, "P"]:
    """Share of the hemisphere over each point from which light comes, by `count` rays."""
    helper = np.where(np.abs(normals[:, 2:]) > 0.8, [[1.0, 0.0, 0.0]], [[0.0, 0.0, 1.0]])
    side = np.cross(normals, helper)
    side /= np.linalg.norm(side, axis=1, keepdims=True) + 1e-9
    other = np.cross(normals, side)
    free = np.zeros(len(points), np.float32)
    rays = np.empty((len(points), 6), np.float32)
    rays[:, :3] = points + 0.12 * normals
    for x, y, z in sky_rays(count):
        rays[:, 3:] = x * side + y * other + z * normals
        free += ~site.blocked(rays)
    return free / count


def _bake_openness(site: Site) -> None:
    """Fill in the openness of the corners nobody has set. They are pulled towards their triangle's middle: a
    corner often lies inside a neighbour."""
    unknown = np.isnan(site.openness)
    middle = site.points.mean(axis=1, keepdims=True)
    points = (0.85 * site.points + 0.15 * middle)[unknown]
    site.openness[unknown] = sky_share(site, points, site.normals[unknown], 16)


def _add_ground(builder: Builder) -> None:
    """Terrain (fine on the site, coarse around) and the slabs of the pads, object 0,
    painted by the ground map."""
    fine = np.arange(-132.0, 132.1, 3.0)
    coarse = np.geomspace(140.0, layout.HALF_EXTENT + 10, 26)
    axis = np.concatenate([-coarse[::-1], fine, coarse])
    grid = np.stack([*np.meshgrid(axis, axis, indexing="ij"), layout.terrain_heights(axis, axis)], axis=-1)
    lids, sides = [], []
    for east, north, apothem, height in layout.PADS:
        floor = layout.terrain_height(east, north)
        radius = apothem / math.cos(math.pi / 8)
        polygon = [(radius * math.cos(a), radius * math.sin(a)) for a in (np.arange(8) + 0.5) * math.pi / 4]
        slab = moved(prism(polygon, -2.0, height), (east, north, floor))
        lid = slab.normals[:, 0, 2] > 0.5
        lids.append(flat(slab.points[lid]))
        sides.append(flat(slab.points[~lid]))
    ground = merge([surface(grid), *lids])
    builder.add(ground, GROUND, (0.3, 0.3, 0.3), openness=np.ones((len(ground), 3)))
    builder.add(merge(sides), CONCRETE, (0.40, 0.38, 0.35))


def _add_hangars(builder: Builder) -> None:
    """Two barrel-roofed hangars on the apron, doors to the south, and low workshops around."""
    for x, y, width, length, roof, door in (
        (-63.0, 3.0, 23.0, 33.0, (0.52, 0.54, 0.55), (0.10, 0.20, 0.33)),
        (-36.0, -1.5, 17.0, 24.0, (0.33, 0.41, 0.40), (0.46, 0.42, 0.30)),
    ):
        at = (x, y, layout.ground_height(x, y))
        rise, eaves = width * 0.33, 3.6
        builder.add(barrel_roof(width, length, eaves, rise), CORRUGATED, roof, at, size=(0.9, 1.0, 0.0))
        body = barrel_body(width, length, eaves, rise)
        builder.add(body, CORRUGATED, (0.56, 0.55, 0.50), at, size=(0.7, 0.0, 0.0))
        doors = [
            box((width * 0.19, 0.3, 7.4), (k * width * 0.2, -length / 2 - 0.1, 0))
            for k in (-1.5, -0.5, 0.5, 1.5)
        ]
        builder.add(merge(doors), CORRUGATED, door, at, size=(1.1, 0.0, 0.0))
        vents = [box((1.6, 1.6, 1.3), (0, k * length * 0.22, eaves + rise - 0.2)) for k in (-1, 0, 1)]
        builder.add(merge(vents), PLAIN, (0.45, 0.45, 0.44), at)
    for x, y, size, colour in (
        (-90.0, -24.0, (9.0, 17.0, 4.6), (0.50, 0.36, 0.24)),
        (-88.0, 10.0, (11.0, 8.0, 3.8), (0.54, 0.53, 0.49)),
        (86.0, 16.0, (8.0, 12.0, 4.0), (0.55, 0.50, 0.42)),
    ):
        at = (x, y, layout.ground_height(x, y) - 0.3)
        builder.add(box(size), WALL, colour, at, size=(3.4, 3.2, size[2]), second=(0.33, 0.31, 0.29))
        units = [box((1.3, 1.0, 0.9), (size[0] * 0.2, k * size[1] * 0.25, size[2])) for k in (-1, 1)]
        builder.add(merge(units), PLAIN, (0.48, 0.48, 0.46), at)


def _add_control(builder: Builder) -> None:
    """The control building: two wings, roof plant, a glazed tower; a radome beyond it."""
    at = (46.0, -4.0, layout.ground_height(46.0, -4.0) - 0.3)
    wall, roof = (0.62, 0.58, 0.50), (0.36, 0.35, 0.34)
    builder.add(box((26.0, 11.0, 7.2), (0, 0, 0)), WALL, wall, at, -0.08, size=(3.0, 3.4, 7.2), second=roof)
    builder.add(
        box((11.0, 10.0, 10.6), (-6.0, 3.0, 0)), WALL, wall, at, -0.08, size=(2.75, 3.4, 10.6), second=roof
    )
    parapets = [box((26.4, 0.4, 0.7), (0, s * 5.4, 7.2)) for s in (-1, 1)]
    parapets += [box((0.4, 11.2, 0.7), (s * 13.0, 0, 7.2)) for s in (-1, 1)]
    builder.add(merge(parapets), CONCRETE, (0.55, 0.53, 0.49), at, -0.08)
    plant = [box((2.6, 1.8, 1.5), (x, -1.5, 7.2)) for x in (3.0, 7.0, 10.5)] + [
        box((1.2, 1.2, 1.0), (2.0, 2.6, 7.2))
    ]
    builder.add(merge(plant), PLAIN, (0.55, 0.56, 0.56), at, -0.08)
    builder.add(
        box((4.4, 4.4, 16.0), (9.0, 3.0, 0)), WALL, (0.60, 0.57, 0.52), at, -0.08, size=(4.4, 5.0, 30.0)
    )
    cab = moved(lathe([(2.6, 0.0), (3.5, 2.6)], 8, smooth=False), (9.0, 3.0, 16.0))
    builder.add(cab, GLASS, (0.05, 0.07, 0.08), at, -0.08)
    lid = moved(lathe([(3.5, 0.0), (3.9, 0.1), (3.9, 0.5), (0.0, 0.9)], 8, smooth=False), (9.0, 3.0, 18.6))
    builder.add(lid, PLAIN, (0.52, 0.50, 0.47), at, -0.08)
    x, y = 84.0, 2.0
    floor = layout.ground_height(x, y)
    builder.add(
        box((9.0, 9.0, 3.4)),
        WALL,
        (0.55, 0.54, 0.5),
        (x, y, floor - 0.3),
        0.4,
        size=(3.0, 3.0, 3.4),
        second=roof,
    )
    globe = moved(
        lathe([(3.4, -2.6), *[(4.3 * r, 4.3 * h) for r, h in dome(1.0, 9)]], 14, smooth=False), (0, 0, 5.8)
    )
    builder.add(globe, PLAIN, (0.70, 0.70, 0.68), (x, y, floor), 0.4)


def _add_tanks(builder: Builder) -> None:
    """Propellant farm: two spheres, three upright tanks, two lying ones, pipes, a low wall around it."""
    west, east, south, north = layout.TANK_FARM
    floor = layout.ground_height((west + east) / 2, (south + north) / 2)
    white = (0.68, 0.68, 0.66)
    for x, radius in ((-17.5, 4.2), (-6.5, 4.2)):
        at = (x, 72.5, floor + 5.4)
        builder.add(ball(radius), TANK, white, at, size=(radius, 2.6, 0.0))
        legs = [lathe([(0.35, -6.2), (0.35, 0.0)], 6) for _ in range(6)]
        ring = [
            moved(leg, (radius * math.cos(a), radius * math.sin(a), 0))
            for leg, a in zip(legs, np.arange(6) * 1.047, strict=True)
        ]
        builder.add(merge(ring), STEEL, (0.5, 0.5, 0.48), at)
    for x, y, radius, height in ((1.0, 75.5, 2.9, 8.5), (1.2, 68.0, 2.9, 8.5), (1.4, 61.5, 2.3, 6.0)):
        upright = lathe(
            [(radius, -1.0), (radius, height), *[(r, height + 0.35 * h) for r, h in dome(radius)][1:]], 24
        )
        builder.add(upright, TANK, white, (x, y, floor), size=(radius, 2.1, height))
    for y in (61.5, 66.0):
        hull = lathe(
            [*[(r, -5.5 - h) for r, h in reversed(dome(1.6))], *[(r, 5.5 + h) for r, h in dome(1.6)]], 20
        )
        lying = type(hull)(
            hull.points[..., [2, 1, 0]] * [1, -1, 1], hull.normals[..., [2, 1, 0]] * [1, -1, 1]
        )
        builder.add(lying, TANK, (0.60, 0.62, 0.64), (-13.0, y, floor + 2.5), size=(1.6, 2.2, 0.0))
        saddles = [box((0.9, 2.4, 2.0), (k, 0, -2.9)) for k in (-3.6, 3.6)]
        builder.add(merge(saddles), CONCRETE, (0.42, 0.4, 0.38), (-13.0, y, floor + 2.5))
    walls = [box((east - west, 0.5, 1.7), ((west + east) / 2, y, floor - 0.6)) for y in (south, north)]
    walls += [box((0.5, north - south, 1.7), (x, (south + north) / 2, floor - 0.6)) for x in (west, east)]
    builder.add(merge(walls), CONCRETE, (0.46, 0.44, 0.41))


def _add_containers(builder: Builder, rng: np.random.Generator) -> None:
    """Rows of shipping containers in the yard, some stacked, and site cabins."""
    paints = [
        (0.33, 0.07, 0.05), (0.06, 0.15, 0.30), (0.10, 0.24, 0.16), (0.50, 0.28, 0.06), (0.48, 0.47, 0.44),
        (0.22, 0.23, 0.24), (0.30, 0.16, 0.09),
    ]  # fmt: skip
    west, _, south, _ = layout.YARD
    floor = layout.ground_height(20.0, -33.0)
    for row in range(3):
        for column in range(4):
            levels = rng.integers(0, 3) if (row, column) != (0, 0) else 2
            for level in range(levels):
                x = west + 4.5 + 6.5 * column + rng.normal(0, 0.15)
                at = (x, south + 3.0 + 4.9 * row + rng.normal(0, 0.12), floor + 2.6 * level)
                yaw = rng.normal(0, 0.02)
                builder.add(
                    box((6.06, 2.44, 2.59)),
                    CONTAINER,
                    paints[rng.integers(len(paints))],
                    at,
                    yaw,
                    size=(0.55, 0, 2.59),
                )
    for x, y, yaw in ((36.5, 55.0, 0.5), (-34.0, 66.0, 0.2), (-62.0, 40.0, 1.2), (-58.0, 61.0, 0.4)):
        at = (x, y, layout.ground_height(x, y) - 0.1)
        builder.add(
            box((6.06, 2.44, 2.59)),
            CONTAINER,
            paints[rng.integers(len(paints))],
            at,
            yaw,
            size=(0.55, 0, 2.59),
        )


def _add_plants(builder: Builder, rng: np.random.Generator) -> None:
    """Trees in loose groves and scattered bushes, wherever nothing is built."""
    trees = [plants.broadleaf, plants.umbrella, plants.conifer]
    models = [make(rng) for make in trees for _ in range(2)]
    shrubs = [plants.bush(rng) for _ in range(4)]
    tones = [
        (0.070, 0.105, 0.035),
        (0.095, 0.125, 0.045),
        (0.060, 0.090, 0.045),
        (0.120, 0.125, 0.050),
        (0.085, 0.100, 0.060),
    ]
    for x, y in _free_spots(rng, 700, 6.5, 190.0):
        if fractal(x, y, 55.0, 2, 0.5, 0.5, 31) < 0.12:
            continue
        kind = int(rng.integers(3)) if fractal(x, y, 90.0, 1, 0.5, 0.5, 33) > 0 else int(rng.integers(2))
        crown, trunk = models[2 * kind + int(rng.integers(2))]
        at, yaw = (x, y, layout.ground_height(x, y)), rng.uniform(0, 6.28)
        scale = rng.uniform(0.75, 1.25)
        tone = tuple(np.array(tones[rng.integers(5)]) * rng.uniform(0.85, 1.2))
        builder.add(crown, FOLIAGE, tone, at, yaw, scale=scale, openness=_inside_crown(crown))
        builder.add(
            trunk, PLAIN, (0.16, 0.12, 0.09), at, yaw, scale=scale, openness=np.full((len(trunk), 3), 0.4)
        )
    for x, y in _free_spots(rng, 520, 2.2, 150.0):
        shrub = shrubs[rng.integers(4)]
        tone = tuple(np.array(tones[rng.integers(5)]) * rng.uniform(0.9, 1.5) * [1.15, 1.05, 1.0])
        at = (x, y, layout.ground_height(x, y) - 0.1)
        builder.add(
            shrub,
            FOLIAGE,
            tone,
            at,
            rng.uniform(0, 6.28),
            scale=rng.uniform(0.6, 1.7),
            openness=_inside_crown(shrub),
        )


def _inside_crown(crown) -> Float[np.ndarray, "F 3"]:
    """Leaves low in a crown and turned downwards see less of the sky."""
    height = crown.points[..., 2]
    relative = (height - height.min()) / (height.max() - height.min())
    return 0.35 + 0.40 * relative + 0.25 * np.clip(crown.normals[..., 2], 0, 1)


def _free_spots(
    rng: np.random.Generator, count: int, margin: float, reach: float
) -> list[tuple[float, float]]:
    """Random places at least `margin` metres from anything built, denser near the site."""
    from spaceport_lab.sample.paving import built_distance

    spots: list[tuple[float, float]] = []
    for _ in range(12 * count):
        radius, angle = reach * rng.random() ** 0.6, rng.uniform(0, 2 * math.pi)
        x, y = radius * math.cos(angle), radius * math.sin(angle)
        if built_distance(x, y) > margin:
            spots.append((x, y))
        if len(spots) == count:
            break
    return spots
