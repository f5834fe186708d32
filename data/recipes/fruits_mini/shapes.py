"""Meshes and patterns for the rendered fruit, in NumPy alone.

A fruit is a list of `Part`s: vertices, faces, one colour and one roughness per vertex, and a `Skin`
that says how the surface takes light. Most bodies are a `Surface`: a profile turned about the z
axis (stem up, radius about 1), then swollen, bent and pushed along its normals.
"""

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Skin:
    """How a part takes light: the constants of its shader."""

    subsurface: float = 0.1
    coat: float = 0.0
    sheen: float = 0.0
    bump: float = 0.0
    bump_scale: float = 20.0


@dataclass
class Part:
    """A mesh with a colour (0 to 255, sRGB) and a roughness at each vertex."""

    vertices: np.ndarray
    faces: np.ndarray
    colour: np.ndarray
    rough: np.ndarray
    skin: Skin = field(default_factory=Skin)


def make_part(vertices, faces, colour, rough=0.6, skin=None):
    """A `Part` from arrays of any grid shape; colour and roughness may be constants."""
    vertices = np.asarray(vertices, float).reshape(-1, 3)
    colour = np.asarray(colour, float)
    colour = np.broadcast_to(colour.reshape(-1, 3), vertices.shape).copy()
    rough = np.broadcast_to(np.asarray(rough, float).reshape(-1), len(vertices)).copy()
    return Part(vertices, faces, colour, rough, skin or Skin())


def join(parts):
    """One part made of several that have the same skin and the same number of corners a face."""
    offsets = np.cumsum([0] + [len(part.vertices) for part in parts[:-1]])
    return Part(
        np.concatenate([part.vertices for part in parts]),
        np.concatenate([part.faces + k for part, k in zip(parts, offsets, strict=True)]),
        np.concatenate([part.colour for part in parts]),
        np.concatenate([part.rough for part in parts]),
        parts[0].skin,
    )


def grid_faces(rows, columns, closed):
    """Quads of a grid of vertices; `closed` joins the last column to the first."""
    index = np.arange(rows * columns).reshape(rows, columns)
    right = np.roll(index, -1, axis=1)
    quads = np.stack([index[:-1], index[1:], right[1:], right[:-1]], axis=-1)
    return (quads if closed else quads[:, :-1]).reshape(-1, 4)


# --- small mathematics ---------------------------------------------------------------------------


def unit(vectors):
    """Vectors of length one (zero vectors stay zero)."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.maximum(length, 1e-9)


def smoothstep(low, high, x):
    """0 below `low`, 1 above `high`, smooth between; `low` may be the larger one."""
    x = np.clip((np.asarray(x, float) - low) / (high - low), 0, 1)
    return x * x * (3 - 2 * x)


def mix(first, second, weight):
    """From the first colour to the second as the weight goes from 0 to 1."""
    weight = np.asarray(weight, float)[..., None]
    return np.asarray(first, float) * (1 - weight) + np.asarray(second, float) * weight


def shade(colour, factor):
    """A colour made lighter or darker."""
    return np.asarray(colour, float) * np.asarray(factor, float)[..., None]


def smooth_line(points, count):
    """`count` points at even distances on a smooth curve through the given (radius, z) points."""
    points = np.asarray(points, float)
    mirror = np.array([-1, 1])
    padded = np.concatenate([points[1:2] * mirror, points, points[-2:-1] * mirror])
    p0, p1, p2, p3 = (padded[k : len(padded) - 3 + k, None] for k in range(4))
    t = np.linspace(0, 1, 40, endpoint=False)[None, :, None]
    curve = 0.5 * (
        2 * p1
        + (p2 - p0) * t
        + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2
        + (3 * p1 - p0 - 3 * p2 + p3) * t**3
    )
    curve = np.concatenate([curve.reshape(-1, 2), points[-1:]])
    steps = np.linalg.norm(np.diff(curve, axis=0), axis=1)
    length = np.concatenate([[0], np.cumsum(steps)])
    wanted = np.linspace(0, length[-1], count)
    return np.stack([np.interp(wanted, length, curve[:, k]) for k in range(2)], axis=1)


# --- noise and patterns --------------------------------------------------------------------------


def _corner(table, cell, place, shift):
    """The part of gradient noise that comes from one corner of each point's lattice cell."""
    x, y, z = (cell[..., k] + shift[k] for k in range(3))
    code = (x * 73856093) ^ (y * 19349663) ^ (z * 83492791)
    code = ((code ^ (code >> 13)) * 1540483477) & 0x7FFFFFFF
    gradient = table[(code ^ (code >> 15)) & 255]
    return np.sum(gradient * (place - np.asarray(shift)), axis=-1)


def noise(points, scale, rng, octaves=1):
    """Gradient noise in space, about -1 to 1, `scale` bumps a unit, drawn anew at each call."""
    total, size = np.zeros(points.shape[:-1]), 1.0
    for _ in range(octaves):
        table = unit(rng.normal(size=(256, 3)))
        where = points * scale / size + 100 * rng.random(3)
        cell = np.floor(where).astype(np.int64)
        place = where - cell
        weight = place**3 * (place * (place * 6 - 15) + 10)
        for code in range(8):
            shift = np.array([code & 1, code >> 1 & 1, code >> 2])
            share = np.prod(np.where(shift, weight, 1 - weight), axis=-1)
            total += 1.6 * size * share * _corner(table, cell, place, shift)
        size *= 0.5
    return total


def spots(points, centres, radius):
    """1 at the centres, falling to 0 at `radius` (a number, or one for each centre)."""
    radius = np.broadcast_to(np.asarray(radius, float), len(centres))
    flat = points.reshape(-1, 3)
    nearest = np.full(len(flat), np.inf)
    for centre, size in zip(centres, radius, strict=True):
        near = np.flatnonzero(np.abs(flat[:, 2] - centre[2]) < size)
        distance = np.linalg.norm(flat[near] - centre, axis=1) / size
        nearest[near] = np.minimum(nearest[near], distance)
    return smoothstep(1, 0.3, nearest).reshape(points.shape[:-1])


def cells(points, centres):
    """Distances to the nearest and second nearest centre, and which is the nearest."""
    flat = points.reshape(-1, 3)
    first, second = np.full((2, len(flat)), np.inf)
    which = np.zeros(len(flat), int)
    for number, centre in enumerate(centres):
        distance = np.linalg.norm(flat - centre, axis=1)
        closer = distance < first
        second = np.where(closer, first, np.minimum(second, distance))
        which = np.where(closer, number, which)
        first = np.where(closer, distance, first)
    shape = points.shape[:-1]
    return first.reshape(shape), second.reshape(shape), which.reshape(shape)


# --- bodies --------------------------------------------------------------------------------------


class Surface:
    """A profile of (radius, z) points, top to bottom, turned about the z axis."""

    def __init__(self, profile, rows=200, columns=256):
        line = smooth_line(profile, rows)
        self.turn = np.tile(np.arange(columns) * 2 * np.pi / columns, (rows, 1))
        self.along = np.tile(np.linspace(0, 1, rows)[:, None], (1, columns))
        radius, z = (np.tile(line[:, k : k + 1], (1, columns)) for k in range(2))
        self.points = np.stack([radius * np.cos(self.turn), radius * np.sin(self.turn), z], -1)

    def normals(self):
        """Outward normals at the points."""
        down = np.gradient(self.points, axis=0)
        around = np.roll(self.points, -1, axis=1) - np.roll(self.points, 1, axis=1)
        normal = np.cross(down, around)
        normal[0] = normal[1].mean(axis=0)
        normal[-1] = normal[-2].mean(axis=0)
        return unit(normal)

    def push(self, height):
        """Move the points outward by `height`."""
        self.points = self.points + self.normals() * np.asarray(height)[..., None]

    def swell(self, factor):
        """Multiply the distance from the axis."""
        self.points[..., :2] *= np.asarray(factor)[..., None]

    def lump(self, rng, amount, scale=0.9):
        """Large soft dents and swellings, so that no body is quite round."""
        self.push(amount * noise(self.points, scale, rng, 2))

    def streaks(self, rng, count, stretch=0.5, octaves=3):
        """Noise drawn out from pole to pole, as the flames of an apple."""
        around = np.stack([np.cos(self.turn), np.sin(self.turn)], -1) * count / 6
        return noise(np.concatenate([around, self.points[..., 2:] * stretch], -1), 1, rng, octaves)

    def scatter(self, rng, count):
        """Random points of the surface, even by area: their (row, column) indices."""
        weight = np.linalg.norm(self.points[..., :2], axis=-1).ravel() + 1e-6
        chosen = rng.choice(weight.size, count, p=weight / weight.sum())
        return np.unravel_index(chosen, self.turn.shape)

    def spiral(self, rng, count, top=0.0, bottom=1.0):
        """Points in the spirals of a pine cone, even by area: their (row, column) indices."""
        rows, columns = self.turn.shape
        radius = np.linalg.norm(self.points[..., :2], axis=-1).mean(axis=1)
        along = self.along[:, 0]
        area = np.cumsum(radius * ((along >= top) & (along <= bottom)))
        wanted = (np.arange(count) + 0.5) / count * area[-1]
        row = np.clip(np.searchsorted(area, wanted), 0, rows - 1)
        golden = np.arange(count) * (3 - np.sqrt(5)) / 2 + rng.random()
        return row, (golden % 1 * columns).astype(int)

    def part(self, colour, rough=0.5, skin=None):
        """The finished mesh."""
        return make_part(self.points, grid_faces(*self.turn.shape, True), colour, rough, skin)


def bend(points, curvature):
    """Bend what stands along z into an arc in the x-z plane."""
    angle = points[..., 2] * curvature
    reach = 1 / curvature - points[..., 0]
    x, z = 1 / curvature - reach * np.cos(angle), reach * np.sin(angle)
    return np.stack([x, points[..., 1], z], -1)


# --- stems, leaves, hairs, beads -----------------------------------------------------------------


def tube(path, radii, colour, rough=0.7, skin=None, sides=14):
    """A round stalk along a path, closed at both ends."""
    path, radii = np.asarray(path, float), np.asarray(radii, float)
    path = np.concatenate([path[:1], path, path[-1:]])
    radii = np.concatenate([[0], radii, [0]])
    ahead = unit(np.gradient(path, axis=0) + 1e-9)
    side = unit(np.cross(ahead, [0.3, 1.0, 0.1]))
    other = np.cross(ahead, side)
    turn = (np.arange(sides) * 2 * np.pi / sides)[None, :, None]
    ring = np.cos(turn) * side[:, None] + np.sin(turn) * other[:, None]
    points = path[:, None] + radii[:, None, None] * ring
    colour = np.asarray(colour, float)
    if colour.ndim == 2:
        colour = np.concatenate([colour[:1], colour, colour[-1:]])
        colour = np.repeat(colour[:, None], sides, axis=1)
    return make_part(points, grid_faces(len(path), sides, True), colour, rough, skin)


def stalk(rng, start, end, radius, colour, lean=0.25, flare=1.5, tip=None, skin=None):
    """A stem from height `start` to `end` that leans to a random side; `tip` colours its end."""
    t = np.linspace(0, 1, 24)
    turn, lean = rng.uniform(0, 2 * np.pi), lean * rng.uniform(0.4, 1.4)
    out = lean * (end - start) * t**2
    path = np.stack([out * np.cos(turn), out * np.sin(turn), start + (end - start) * t], 1)
    radii = radius * (1 + (flare - 1) * (smoothstep(0.7, 1, t) + 0.6 * smoothstep(0.3, 0, t)))
    shades = 1 + 0.25 * rng.normal(size=24).cumsum() / 5
    colours = mix(colour, colour if tip is None else tip, smoothstep(0.75, 0.95, t))
    return tube(path, radii, shade(colours, np.clip(shades, 0.6, 1.4)), 0.7, skin)


def blade(root, heading, upper, length, width, colour, curl=0.5, taper=0.6, fold=0.25, rough=0.55):
    """A leaf: grows from `root` along `heading`, curls away from its `upper` side to a point."""
    rows, columns = 14, 5
    heading, upper = unit(np.asarray(heading, float)), np.asarray(upper, float)
    side = unit(np.cross(heading, upper))
    upper = np.cross(side, heading)
    s = np.linspace(0, 1, rows)
    step = np.cos(curl * s)[:, None] * heading - np.sin(curl * s)[:, None] * upper
    spine = np.asarray(root) + np.cumsum(step, axis=0) * length / rows
    half = width / 2 * np.minimum(1, (0.55 + 2 * s)) * (1 - s**2) ** taper
    across = np.linspace(-1, 1, columns)
    offset = across[None, :, None] * half[:, None, None] * side
    offset = offset + fold * (np.abs(across)[None, :, None] * half[:, None, None]) * upper
    tone = 1 - 0.18 * (1 - np.abs(across))[None] + 0.25 * (s[:, None] - 0.5)
    colours = np.asarray(colour, float) * tone[..., None]
    return make_part(
        spine[:, None] + offset, grid_faces(rows, columns, False), colours, rough, Skin(0.0)
    )


def rosette(rng, height, count, length, width, colour, rise=0.3, curl=0.8, ring=0.05, **leaf):
    """Leaves around the axis at a height: a calyx or a tuft, each leaf a little different."""
    leaves, start = [], rng.uniform(0, 2 * np.pi)
    for k in range(count):
        turn = start + 2 * np.pi * (k + rng.normal(0, 0.12)) / count
        lift = rise + rng.normal(0, 0.12)
        out = np.array([np.cos(turn), np.sin(turn), 0])
        heading = out * np.cos(lift) + np.array([0, 0, np.sin(lift)])
        upper = np.array([0, 0, np.cos(lift)]) - out * np.sin(lift)
        size = rng.uniform(0.8, 1.2)
        leaves.append(
            blade(
                out * ring + [0, 0, height],
                heading,
                upper,
                length * size,
                width * rng.uniform(0.85, 1.15),
                np.asarray(colour) * rng.uniform(0.85, 1.15),
                curl * rng.uniform(0.7, 1.3),
                **leaf,
            )
        )
    return join(leaves)


def hairs(rng, roots, normals, length, width, colour, spread=0.8):
    """Many thin straight hairs, one triangle each."""
    count = len(roots)
    way = unit(normals + spread * rng.normal(size=(count, 3)) * 0.5)
    side = unit(np.cross(way, rng.normal(size=(count, 3)))) * width / 2
    tips = roots + way * length * rng.uniform(0.5, 1.3, (count, 1))
    vertices = np.stack([roots - side, roots + side, tips], axis=1)
    colours = np.asarray(colour) * rng.uniform(0.7, 1.3, (count, 1, 1)) * np.ones((1, 3, 1))
    faces = np.arange(count * 3).reshape(count, 3)
    return make_part(vertices, faces, colours, 0.8, Skin(0.0))


def beads(rng, centres, radii, colour, rough=0.3, skin=None, vary=0.12):
    """Balls, each with its own shade."""
    t = np.linspace(0, 1, 13)
    ball = Surface(np.stack([np.sin(np.pi * t), np.cos(np.pi * t)], 1), 14, 20)
    return join(
        [
            make_part(
                centre + ball.points * radius,
                grid_faces(14, 20, True),
                np.asarray(colour) * (1 + vary * rng.normal()),
                rough,
                skin,
            )
            for centre, radius in zip(centres, radii, strict=True)
        ]
    )
