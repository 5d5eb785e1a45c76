"""What flies and what holds it: the rocket with its tower, a landed booster, a test hopper, traffic."""

from __future__ import annotations

import math

import numpy as np

from spaceport_lab.sample import layout
from spaceport_lab.sample.builder import (
    CONCRETE,
    GLASS,
    PLAIN,
    ROCKET,
    STEEL,
    TANK,
    VEHICLE,
    Builder,
)
from spaceport_lab.sample.shapes import beam, box, dome, fin, lathe, lattice, merge, prism

WHITE = (0.74, 0.74, 0.72)
BLACK = (0.035, 0.035, 0.04)
GREY = (0.34, 0.35, 0.36)
RED = (0.42, 0.08, 0.05)


def add_rocket(builder: Builder) -> None:
    """A two-stage rocket with two boosters, fins, bands and a pointed fairing on the launch pad."""
    east, north = layout.PADS[0, :2]
    floor = layout.ground_height(east, north)
    base = floor + layout.ROCKET_BASE
    top = layout.ROCKET_HEIGHT
    body = [
        (0.0, 0.0), (1.6, 0.0), (2.2, 1.2), (2.2, 21.5), (2.2, 22.5), (1.95, 23.6), (1.95, 28.4), (2.5, 29.8),
        (2.5, 33.6), (2.3, 35.3), (1.9, 36.9), (1.3, 38.3), (0.6, 39.4), (0.0, top),
    ]  # fmt: skip
    builder.add(lathe(body, 28), ROCKET, WHITE, (east, north, base), 0.35, size=(2.1, 2.1, top), second=BLACK)
    for k in range(2):
        angle = 0.35 + math.pi * k
        at = (east + 3.15 * math.cos(angle), north + 3.15 * math.sin(angle), base)
        profile = [(0.0, 0.0), (0.8, 0.0), (1.0, 0.8), (1.0, 15.0), (0.85, 16.4), (0.45, 17.8), (0.0, 18.8)]
        builder.add(lathe(profile, 20), ROCKET, WHITE, at, angle, size=(1.0, 1.0, 18.8), second=RED)
    for k in range(4):
        angle = 0.35 + math.pi / 4 + math.pi / 2 * k
        at = (east + 2.0 * math.cos(angle), north + 2.0 * math.sin(angle), base + 1.3)
        builder.add(fin(0.9, 1.6, 5.2, 2.4, 0.3), PLAIN, RED, at, angle)
    table = [
        box((9.0, 1.6, layout.ROCKET_BASE), (0, 3.4, 0)), box((9.0, 1.6, layout.ROCKET_BASE), (0, -3.4, 0)),
        box((1.2, 5.4, 1.0), (3.6, 0, 2.2)), box((1.2, 5.4, 1.0), (-3.6, 0, 2.2)),
    ]  # fmt: skip
    builder.add(merge(table), CONCRETE, (0.36, 0.35, 0.33), (east, north, floor))


def add_tower(builder: Builder) -> None:
    """The launch tower: a clad core in a lattice, stepped platforms, three arms to the rocket."""
    x, y = layout.TOWER
    floor = layout.ground_height(x, y)
    height = 43.0
    builder.add(lattice(5.2, height, 5.2, 0.6, 0.34), STEEL, (0.40, 0.17, 0.11), (x, y, floor))
    builder.add(box((2.3, 2.3, height - 4.0)), STEEL, (0.42, 0.43, 0.43), (x - 0.9, y, floor))
    decks = merge([box((6.0, 6.0, 0.3), (0, 0, z)) for z in np.arange(5.2, height + 1, 10.4)])
    builder.add(decks, STEEL, (0.33, 0.33, 0.33), (x, y, floor))
    reach = layout.PADS[0, 0] - x - 2.0
    arms = [box((reach - 2.6, 1.5, 1.7), (2.6 + (reach - 2.6) / 2, 0, z)) for z in (15.5, 26.0, 33.4)]
    builder.add(merge(arms), STEEL, (0.55, 0.54, 0.50), (x, y, floor))
    crane = [beam((-6.0, 0, height + 3.2), (9.0, 0, height + 3.2), 0.7), box((1.5, 1.5, 4.2), (0, 0, height))]
    builder.add(merge(crane), STEEL, (0.62, 0.40, 0.06), (x, y, floor))
    builder.add(box((9.0, 8.0, 3.4)), CONCRETE, (0.42, 0.41, 0.38), (x - 1.2, y, floor))


def add_booster(builder: Builder) -> None:
    """A first stage that has landed on its four legs, a little off the centre."""
    east, north, _, _ = layout.PADS[1]
    at = (east + 1.3, north - 0.9, layout.ground_height(east, north) + 1.4)
    profile = [
        (0.0, 0.0),
        (1.5, 0.0),
        (1.8, 1.0),
        (1.8, 19.0),
        (1.8, 21.6),
        (1.35, 21.6),
        (1.3, 21.0),
        (0.0, 21.0),
    ]
    builder.add(lathe(profile, 24), ROCKET, (0.66, 0.66, 0.65), at, 1.1, size=(1.8, 1.8, 21.6), second=BLACK)
    for k in range(4):
        angle = 0.6 + math.pi / 2 * k
        c, s = math.cos(angle), math.sin(angle)
        leg = [beam((1.6 * c, 1.6 * s, 0.9), (5.2 * c, 5.2 * s, -1.3), 0.6)]
        leg.append(beam((1.7 * c, 1.7 * s, 5.6), (4.9 * c, 4.9 * s, -1.1), 0.45))
        leg.append(box((1.3, 1.3, 0.35), (5.2 * c, 5.2 * s, -1.4)))
        builder.add(merge(leg), PLAIN, (0.07, 0.07, 0.075), at)
        grid = box((0.25, 1.5, 1.7), (2.3 * c, 2.3 * s, 18.6), angle)
        builder.add(grid, PLAIN, (0.28, 0.27, 0.26), at)


def add_hopper(builder: Builder) -> None:
    """A stubby test vehicle on the third pad, with its crane-like service frame."""
    east, north, _, _ = layout.PADS[2]
    at = (east - 1.0, north + 1.5, layout.ground_height(east, north))
    cone = [
        (0.0, 1.3),
        (2.4, 1.3),
        (2.6, 2.0),
        (2.6, 9.0),
        (2.35, 11.0),
        (1.8, 12.8),
        (0.9, 14.4),
        (0.0, 15.2),
    ]
    builder.add(
        lathe(cone, 24), ROCKET, (0.52, 0.53, 0.55), at, 0.3, size=(2.6, 2.6, 15.2), second=(0.3, 0.3, 0.31)
    )
    legs = [
        box((0.9, 0.9, 3.2), (2.7 * math.cos(a), 2.7 * math.sin(a), 0.0), a)
        for a in np.arange(3) * 2.094 + 0.3
    ]
    builder.add(merge(legs), PLAIN, GREY, at)
    frame = (east - 7.0, north - 4.0, layout.ground_height(east, north))
    builder.add(lattice(3.0, 14.0, 3.5, 0.45, 0.28), STEEL, (0.55, 0.36, 0.05), frame)
    builder.add(box((3.6, 3.6, 0.3), (0, 0, 14.0)), STEEL, (0.4, 0.4, 0.4), frame)


def add_traffic(builder: Builder, rng: np.random.Generator) -> None:
    """Cars in the car park, lorries, and a tug with a rocket stage on its way along the crawlerway."""
    paints = [
        (0.62, 0.62, 0.60), (0.05, 0.05, 0.06), (0.35, 0.36, 0.38), (0.36, 0.04, 0.04), (0.05, 0.11, 0.30),
        (0.70, 0.68, 0.62), (0.10, 0.22, 0.14), (0.52, 0.36, 0.08),
    ]  # fmt: skip
    west, east, south, north = layout.PARKING
    for y in (south + 3.4, south + 8.6, north - 3.4):
        for x in np.arange(west + 2.6, east - 1.5, 2.9):
            if rng.random() < 0.52:
                spot = (x + rng.normal(0, 0.12), y + rng.normal(0, 0.2))
                _car(builder, rng, spot, math.pi / 2 + rng.normal(0, 0.03), paints[rng.integers(len(paints))])
    for x, y, yaw in ((98.0, -18.0, -0.06), (20.0, -12.6, 0.3), (33.0, 5.2, 0.62), (-10.0, -21.0, 0.5)):
        _car(builder, rng, (x, y), yaw, paints[rng.integers(len(paints))])
    lorries = [
        (-4.0, 33.5, 2.2, WHITE), (38.5, -26.0, 0.1, (0.55, 0.33, 0.05)), (10.5, 52.0, 1.5, WHITE),
        (-72.0, -25.0, 0.2, (0.06, 0.12, 0.28)),
    ]  # fmt: skip
    for x, y, yaw, paint in lorries:
        _lorry(builder, (x, y), yaw, paint)
    x, y, yaw = -22.5, -8.5, 0.96
    z = layout.ground_height(x, y)
    builder.add(box((17.0, 4.2, 1.5)), PLAIN, (0.50, 0.33, 0.05), (x, y, z + 0.5), yaw)
    stage = lathe([(0.0, 0.0), (1.5, 0.0), (1.7, 0.6), (1.7, 14.0), (1.6, 14.6), (0.0, 14.6)], 20)
    lying = type(stage)(stage.points[..., [2, 1, 0]] * [1, -1, 1], stage.normals[..., [2, 1, 0]] * [1, -1, 1])
    at = (x - 7.3 * math.cos(yaw), y - 7.3 * math.sin(yaw), z + 3.8)
    builder.add(lying, PLAIN, (0.68, 0.68, 0.66), at, yaw)


def _car(builder: Builder, rng: np.random.Generator, spot: tuple[float, float], yaw: float, paint) -> None:
    z = layout.ground_height(*spot)
    length = rng.uniform(4.1, 5.0)
    lower = prism([(-length / 2, -0.9), (length / 2, -0.9), (length / 2, 0.9), (-length / 2, 0.9)], 0.3, 0.95)
    builder.add(lower, VEHICLE, paint, (*spot, z), yaw, size=(length, 1.8, 0.95))
    cabin = lathe([(1.18, 0.9), (0.86, 1.5), (0.0, 1.5)], 4, smooth=False)
    points = cabin.points.copy()
    c, s = math.cos(math.pi / 4), math.sin(math.pi / 4)
    points[..., 0], points[..., 1] = (
        1.45 * (c * cabin.points[..., 0] - s * cabin.points[..., 1]) - 0.25,
        s * cabin.points[..., 0] + c * cabin.points[..., 1],
    )
    builder.add(type(cabin)(points, cabin.normals), VEHICLE, paint, (*spot, z), yaw, size=(length, 1.8, 0.0))


def _lorry(builder: Builder, spot: tuple[float, float], yaw: float, paint) -> None:
    at = (*spot, layout.ground_height(*spot))
    builder.add(box((8.6, 2.3, 0.7), (0, 0, 0.5)), PLAIN, BLACK, at, yaw)
    builder.add(box((6.2, 2.5, 2.6), (-1.2, 0, 1.2)), VEHICLE, paint, at, yaw, size=(6.2, 2.5, 9.0))
    builder.add(box((2.0, 2.4, 2.2), (3.2, 0, 0.8)), VEHICLE, (0.5, 0.5, 0.5), at, yaw, size=(2, 2.4, 9.0))
    builder.add(box((0.15, 2.1, 0.8), (4.2, 0, 2.0)), GLASS, (0.05, 0.06, 0.07), at, yaw)


def add_masts(builder: Builder) -> None:
    """Floodlight masts around the launch pad, and the water tower of its deluge system."""
    east, north = layout.PADS[0, :2]
    for angle in (0.7, 2.5, 3.9, 5.4):
        x, y = east + 26.5 * math.cos(angle), north + 26.5 * math.sin(angle)
        floor = layout.ground_height(x, y)
        pole = lathe([(0.42, -0.5), (0.30, 8.0), (0.22, 14.0), (0.0, 14.1)], 8)
        builder.add(pole, STEEL, (0.42, 0.43, 0.43), (x, y, floor))
        lamps = box((0.6, 2.8, 1.1), (0.0, 0.0, 13.6))
        builder.add(lamps, PLAIN, (0.55, 0.55, 0.52), (x, y, floor), angle)
        builder.add(box((1.8, 1.8, 0.9)), CONCRETE, (0.45, 0.44, 0.41), (x, y, floor - 0.3), angle)
    x, y = 34.0, 56.0
    floor = layout.ground_height(x, y)
    stem = [(1.6, 0.0), (1.2, 2.0), (1.0, 12.0), (2.4, 14.5), (4.0, 16.5)]
    upper = [(4.0 * r, 17.5 + 3.2 * h) for r, h in dome(1.0)]
    builder.add(lathe([*stem, *upper], 24), TANK, (0.62, 0.66, 0.68), (x, y, floor), size=(4.0, 3.0, 0.0))
