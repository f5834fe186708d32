"""The fruit of data/fruits-mini: one builder a kind, one row of the table a class.

A builder takes a random generator (the individual) and the row's settings and returns the parts of
one fruit, stem up, about one unit in radius. `build` adds what all fruit share: each individual has
its own proportions and its own shade.
"""

from functools import partial

import numpy as np
from shapes import (
    Part,
    Skin,
    Surface,
    beads,
    bend,
    cells,
    hairs,
    join,
    make_part,
    mix,
    noise,
    rosette,
    shade,
    smoothstep,
    spots,
    stalk,
    tube,
    unit,
)

BROWN = (92, 66, 42)
DARK = (58, 42, 30)
LEAF = (74, 112, 48)
WOOD = (128, 98, 60)

WAXY = Skin(subsurface=0.12, coat=0.25)
GLOSSY = Skin(subsurface=0.15, coat=0.8)
MATTE = Skin(subsurface=0.12)


def lobes(body, count, depth, rng, sharp=1.0):
    """Swell the body into `count` uneven lobes with furrows `depth` deep between them."""
    turn = body.turn + rng.uniform(0, 6) + 0.25 * np.sin(body.turn + rng.uniform(0, 6))
    wave = np.abs(np.sin(turn * count / 2)) ** sharp
    body.swell(1 - depth * (1 - wave))


def furrow(body, rng, depth, width=0.12):
    """One groove from pole to pole, as on a peach; returns how deep in it each point is."""
    where = np.angle(np.exp(1j * (body.turn - rng.uniform(0, 6) - 0.15 * np.sin(3 * body.along))))
    groove = np.exp(-((where / width) ** 2)) * np.sin(np.pi * body.along) ** 0.5
    body.swell(1 - depth * groove)
    return groove


def dots(body, rng, count, size):
    """Specks of random sizes around `size`: 1 in the middle of each, 0 outside."""
    centres = body.points[body.scatter(rng, count)]
    return spots(body.points, centres, size * rng.uniform(0.5, 1.5, count))


def pole(body, size, top=True):
    """1 at the top (or the bottom) of the body, falling to 0 at the distance `size`."""
    centre = body.points[0 if top else -1].mean(axis=0)
    return spots(body.points, centre[None], size)


# --- apples, pears and their kin -----------------------------------------------------------------


def apple(rng, ground, blush, cover, russet=0.0, width=1.0, waist=0.8):
    """An apple: streaks of `blush` over `ground`, a hollow with the stem, the dry calyx below."""
    body = Surface(
        [(0, 0.5), (0.08, 0.53), (0.22, 0.72), (0.48, 0.87), (0.8, 0.72), (1, 0.25)]
        + [(0.95, -0.25), (waist, -0.62), (0.52, -0.9), (0.3, -0.93), (0.12, -0.8), (0, -0.76)]
    )
    body.swell(1 - 0.05 * body.along * (1 + np.cos(5 * body.turn + rng.uniform(0, 6))))
    body.swell(width)
    body.lump(rng, 0.05)
    flames = 0.5 * body.streaks(rng, 26, 0.5) + 0.5 * body.streaks(rng, 8, 0.3)
    patches = noise(body.points, 0.8, rng, 2)
    amount = smoothstep(-0.45, 0.45, flames * 0.8 + patches * 0.5 + cover + rng.normal(0, 0.08))
    colour = mix(shade(ground, 1 + 0.1 * patches), shade(blush, 1 + 0.3 * flames), amount)
    colour = mix(colour, (225, 205, 150), 0.55 * dots(body, rng, 260, 0.022))
    rust = smoothstep(-0.05, 0.6, noise(body.points, 7, rng, 5) + 0.9 * patches - 0.4 + russet)
    rust = np.maximum(rust * (russet > 0), 0.7 * pole(body, 0.45))
    colour = mix(colour, (140, 108, 62), 0.75 * rust)
    colour = mix(colour, DARK, pole(body, 0.16, top=False))
    return [
        body.part(colour, 0.38 + 0.3 * rust, WAXY),
        stalk(rng, 0.45, rng.uniform(0.98, 1.3), 0.035, (104, 78, 44), tip=DARK),
        rosette(rng, -0.8, 6, 0.16, 0.08, DARK, rise=-0.9, curl=-0.8),
    ]


def pear(rng, ground, blush, cover, freckles):
    """A pear: freckled, its neck a little bent."""
    body = Surface(
        [(0, 1.35), (0.12, 1.36), (0.27, 1.22), (0.38, 0.92), (0.5, 0.55), (0.78, 0.1)]
        + [(0.97, -0.4), (0.88, -0.85), (0.5, -1.12), (0.2, -1.14), (0, -1.04)]
    )
    body.lump(rng, 0.07)
    bent = rng.uniform(-0.1, 0.1)
    body.points = bend(body.points, bent)
    patches = noise(body.points, 0.7, rng, 3)
    colour = mix(ground, blush, smoothstep(-0.3, 0.6, patches + cover))
    colour = mix(colour, (120, 96, 48), 0.6 * dots(body, rng, freckles, 0.028))
    rust = np.maximum(pole(body, 0.3), pole(body, 0.3, top=False))
    colour = mix(colour, (132, 98, 52), 0.8 * rust)
    colour = mix(colour, DARK, pole(body, 0.12, top=False))
    stem = stalk(rng, 1.25, rng.uniform(1.75, 2.05), 0.05, BROWN, lean=0.4)
    stem.vertices = bend(stem.vertices, bent)
    return [body.part(colour, 0.45, WAXY), stem]


def stone_fruit(rng, ground, blush, cover, height, depth, velvet=0.0, bloom=0.0, speckle=0.0):
    """A peach, an apricot or a plum: a furrow, a blush, velvet or a waxy bloom."""
    body = Surface(
        [(0, 0.62), (0.1, 0.66), (0.3, 0.84), (0.6, 0.84), (0.92, 0.4), (1, 0), (0.9, -0.5)]
        + [(0.55, -0.85), (0.2, -0.97), (0, -0.96)]
    )
    body.points[..., 2] *= height
    groove = furrow(body, rng, depth)
    body.lump(rng, 0.05)
    patches = noise(body.points, 0.8, rng, 3) + 0.25 * body.streaks(rng, 14)
    mottle = noise(body.points, 9, rng, 3)
    amount = smoothstep(-0.7, 0.7, patches + 0.3 * mottle + cover + rng.normal(0, 0.1))
    colour = mix(ground, shade(blush, 1 + 0.25 * mottle), amount)
    colour = shade(colour, 1 - 0.12 * groove)
    colour = mix(colour, blush, speckle * dots(body, rng, 160, 0.03) * (patches > -0.2))
    dust = smoothstep(-0.15, 0.6, noise(body.points * [1, 1, 0.5], 2.2, rng, 4) + bloom - 0.4)
    colour = mix(colour, (150, 142, 172), 0.62 * dust * (bloom > 0))
    colour = mix(colour, WOOD, 0.8 * pole(body, 0.16))
    rough = 0.7 if velvet else 0.32 + 0.4 * dust
    parts = [body.part(colour, rough, Skin(0.15, 0.0 if velvet else 0.2, velvet, 0.15, 30))]
    if bloom:
        parts.append(stalk(rng, 0.6 * height, 1.02 * height, 0.035, (112, 92, 48), tip=DARK))
    return parts


def cherry(rng):
    """A cherry: heart-shaped, dark and shining, on a long green stem."""
    body = Surface(
        [(0, 0.6), (0.1, 0.62), (0.3, 0.78), (0.6, 0.8), (0.92, 0.4), (0.98, 0), (0.8, -0.55)]
        + [(0.45, -0.86), (0, -0.93)]
    )
    furrow(body, rng, 0.04, 0.2)
    body.lump(rng, 0.04)
    patches = noise(body.points, 0.9, rng, 3)
    colour = mix((78, 8, 18), (150, 18, 28), smoothstep(-0.5, 0.7, patches + rng.normal(0, 0.2)))
    return [
        body.part(colour, 0.25, GLOSSY),
        stalk(rng, 0.55, rng.uniform(2.0, 2.5), 0.04, (110, 128, 48), 0.4, 2.2, tip=WOOD),
    ]


# --- citrus --------------------------------------------------------------------------------------


def citrus(rng, profile, ground, patch, amount, pores=0.5, scars=0, rough=0.38):
    """A citrus fruit: pores all over, patches of a second colour, a green button at the stem."""
    body = Surface(profile)
    body.lump(rng, 0.06)
    pits = noise(body.points, 13, rng, 2)
    body.push(-0.012 * pores * smoothstep(-0.1, 0.6, pits))
    patches = noise(body.points, 0.9, rng, 3)
    colour = mix(ground, patch, smoothstep(-0.2, 0.7, patches + amount + rng.normal(0, 0.1)))
    colour = shade(colour, 1 - 0.16 * pores * smoothstep(0, 0.6, pits))
    if scars:
        scar = dots(body, rng, scars, 0.13) * smoothstep(-0.2, 0.4, noise(body.points, 9, rng, 3))
        colour = mix(colour, (176, 158, 110), 0.8 * scar)
    colour = mix(colour, (128, 130, 60), 0.6 * pole(body, 0.2))
    top = body.points[0, :, 2].mean()
    button = beads(rng, [(0, 0, top - 0.02)], [0.09], (104, 116, 58), 0.8)
    button.vertices[:, 2] = top + (button.vertices[:, 2] - top) * 0.5
    star = rosette(rng, top, 5, 0.13, 0.1, (98, 110, 54), rise=0.05, curl=0.4, ring=0.04)
    return [body.part(colour, rough, Skin(0.15, 0.15, 0.0, 0.25, 28)), button, star]


ROUND = [(0, 0.88), (0.12, 0.9), (0.5, 0.84), (0.88, 0.45), (1, 0), (0.88, -0.45), (0.5, -0.84)]
ROUND += [(0.15, -0.93), (0, -0.92)]
LEMON = [(0, 1.18), (0.1, 1.18), (0.22, 1.05), (0.5, 0.88), (0.82, 0.5), (0.92, 0), (0.82, -0.5)]
LEMON += [(0.48, -0.95), (0.26, -1.12), (0.17, -1.28), (0.06, -1.36), (0, -1.36)]
LIME = [(0, 0.98), (0.1, 0.99), (0.35, 0.93), (0.8, 0.5), (0.94, 0), (0.8, -0.5), (0.42, -0.92)]
LIME += [(0.17, -1.04), (0.08, -1.12), (0, -1.13)]


# --- berries -------------------------------------------------------------------------------------


def strawberry(rng):
    """A strawberry: a cone with sunken yellow seeds, pale shoulders and a green calyx."""
    body = Surface(
        [(0, 0.78), (0.15, 0.82), (0.5, 0.8), (0.85, 0.5), (0.88, 0.1), (0.68, -0.45)]
        + [(0.38, -1.0), (0.15, -1.2), (0, -1.23)]
    )
    lobes(body, 3, rng.uniform(0, 0.08), rng)
    body.lump(rng, 0.12)
    places = body.spiral(rng, int(rng.integers(150, 200)), top=0.12)
    centres = body.points[places]
    pit = spots(body.points, centres, 0.1)
    body.push(-0.035 * pit)
    pale = smoothstep(0.25, 0.05, body.along + 0.1 * noise(body.points, 2, rng))
    red = mix((196, 22, 30), (148, 10, 24), smoothstep(-0.5, 0.6, noise(body.points, 1.2, rng, 2)))
    colour = mix(red, (226, 130, 90), rng.uniform(0.3, 0.8) * pale)
    colour = shade(colour, 1 - 0.35 * pit)
    seeds = beads(rng, body.points[places], [0.03] * len(centres), (226, 178, 84), 0.4)
    leaf = rosette(rng, 0.8, 9, 0.62, 0.26, (70, 120, 44), rise=0.35, curl=1.1, ring=0.06)
    return [
        body.part(colour, 0.36, Skin(0.2, 0.15)),
        seeds,
        leaf,
        stalk(rng, 0.75, rng.uniform(1.1, 1.4), 0.05, (104, 140, 66)),
    ]


def raspberry(rng):
    """A raspberry: many small beads around a hollow."""
    body = Surface(
        [(0, 0.3), (0.3, 0.5), (0.45, 0.8), (0.6, 0.88), (0.8, 0.7), (0.86, 0.2), (0.72, -0.4)]
        + [(0.42, -0.85), (0, -0.98)]
    )
    body.lump(rng, 0.08)
    places = body.spiral(rng, int(rng.integers(85, 105)), top=0.18)
    centres = body.points[places] + 0.02 * rng.normal(size=(len(places[0]), 3))
    drops = beads(
        rng,
        centres,
        rng.uniform(0.15, 0.2, len(centres)),
        (190, 30, 62),
        0.25,
        Skin(0.3, 0.5),
        0.1,
    )
    threads = hairs(rng, centres, body.normals()[places], 0.3, 0.014, (170, 110, 70), 0.8)
    return [body.part((150, 20, 44), 0.6, MATTE), drops, threads]


def blueberry(rng):
    """A blueberry: flat, blue under its bloom, with a crown."""
    body = Surface(
        [(0, 0.5), (0.2, 0.52), (0.3, 0.68), (0.42, 0.74), (0.7, 0.66), (0.97, 0.3), (1, 0)]
        + [(0.9, -0.4), (0.5, -0.72), (0, -0.78)]
    )
    body.lump(rng, 0.05)
    dust = smoothstep(-0.7, 0.6, noise(body.points, 1.6, rng, 5))
    colour = mix((30, 34, 66), (88, 104, 150), 0.9 * dust)
    colour = mix(colour, (40, 30, 40), pole(body, 0.3))
    crown = rosette(rng, 0.66, 5, 0.3, 0.34, (62, 66, 100), rise=0.7, curl=-0.2, ring=0.3)
    return [body.part(colour, 0.5, MATTE), crown]


# --- tomatoes, peppers, aubergines ---------------------------------------------------------------


def tomato(rng):
    """A tomato: flat, faintly ribbed, shining, with a spidery calyx."""
    body = Surface(
        [(0, 0.55), (0.12, 0.57), (0.35, 0.7), (0.65, 0.68), (0.95, 0.35), (1, 0), (0.92, -0.35)]
        + [(0.6, -0.68), (0.25, -0.77), (0, -0.76)]
    )
    ribs = (1 - body.along) * (1 + np.cos(int(rng.integers(5, 9)) * body.turn + rng.uniform(0, 6)))
    body.swell(1 - rng.uniform(0.02, 0.06) * ribs)
    body.lump(rng, 0.06)
    patches = noise(body.points, 0.8, rng, 2) + rng.normal(0, 0.15)
    colour = mix((196, 28, 16), (216, 74, 22), smoothstep(-0.2, 0.7, patches))
    colour = mix(colour, (206, 150, 60), 0.5 * pole(body, 0.4))
    leaf = rosette(rng, 0.62, 5, 0.8, 0.2, (66, 112, 44), rise=0.55, curl=1.0, ring=0.03, taper=0.9)
    return [
        body.part(colour, 0.25, GLOSSY),
        leaf,
        stalk(rng, 0.52, rng.uniform(0.85, 1.05), 0.06, (84, 122, 50)),
    ]


def pepper(rng, colour, second):
    """A bell pepper: three or four blocky lobes, very shiny, a thick green stem."""
    body = Surface(
        [(0, 0.55), (0.16, 0.58), (0.34, 0.86), (0.62, 0.98), (0.88, 0.78), (0.93, 0.3)]
        + [(0.86, -0.3), (0.77, -0.75), (0.55, -1.02), (0.3, -0.98), (0.1, -0.78), (0, -0.74)],
        240,
        300,
    )
    count = int(rng.integers(3, 5))
    turn = body.turn + 0.3 * np.sin(body.turn + rng.uniform(0, 6)) + 0.12 * np.sin(3 * body.along)
    wave = np.abs(np.sin(turn * count / 2)) ** 0.7
    depth = 0.2 + 0.25 * np.abs(body.along - 0.5)
    body.swell(1.06 - depth * (1 - wave))
    ends = smoothstep(0.2, 0.0, body.along) + smoothstep(0.75, 1.0, body.along)
    body.points[..., 2] *= 1 + 0.16 * (wave - 0.6) * ends
    body.lump(rng, 0.12, 0.7)
    body.points = bend(body.points, rng.uniform(0.05, 0.2))
    patches = noise(body.points, 0.8, rng, 3)
    tone = mix(colour, second, smoothstep(0.1, 0.8, patches + rng.normal(0, 0.1)))
    tone = shade(tone, 1 - 0.25 * smoothstep(0.35, 0.0, wave))
    green = (82, 124, 50)
    return [
        body.part(tone, 0.22, Skin(0.1, 1.0)),
        stalk(rng, 0.5, rng.uniform(1.25, 1.5), 0.13, green, 0.5, 1.35, tip=(150, 160, 92)),
        rosette(rng, 0.66, 6, 0.3, 0.3, green, rise=0.35, curl=0.3, ring=0.02),
    ]


def eggplant(rng):
    """An aubergine: long, black-violet, shining, under a spiky green cap."""
    body = Surface(
        [(0, 1.75), (0.2, 1.74), (0.36, 1.55), (0.46, 1.0), (0.62, 0.2), (0.78, -0.6)]
        + [(0.72, -1.15), (0.42, -1.5), (0, -1.6)]
    )
    body.lump(rng, 0.08, 0.6)
    curve = rng.uniform(0.06, 0.22)
    body.points = bend(body.points, curve)
    patches = noise(body.points, 0.8, rng, 2) + 0.4 * body.streaks(rng, 20)
    colour = mix((44, 18, 44), (74, 26, 66), smoothstep(-0.3, 0.7, patches))
    colour = mix(colour, (190, 180, 120), 0.5 * pole(body, 0.5))
    green = (84, 112, 56)
    cap = Surface([(0, 1.86), (0.16, 1.86), (0.36, 1.68), (0.46, 1.4), (0.47, 1.3)], 40, 128)
    cap.points[..., 2] += 0.3 * cap.along**2 * np.sin(cap.turn * 5 + rng.uniform(0, 6))
    tone = shade(green, 1 + 0.3 * noise(cap.points, 4, rng, 3))
    leaves = rosette(rng, 1.72, 5, 0.75, 0.36, green, rise=-0.5, curl=0.75, ring=0.3)
    stem = stalk(rng, 1.7, rng.uniform(2.25, 2.6), 0.13, green, 0.2, 1.4, tip=WOOD)
    for part in (leaves, stem):
        part.vertices = bend(part.vertices, curve)
    cap.points = bend(cap.points, curve)
    return [body.part(colour, 0.2, GLOSSY), cap.part(tone, 0.6, MATTE), leaves, stem]


# --- long things ---------------------------------------------------------------------------------


def banana(rng):
    """A banana: five-sided, bent, with a neck and a dark tip, freckled when ripe."""
    body = Surface(
        [(0, 2.2), (0.12, 2.2), (0.15, 1.95), (0.19, 1.6), (0.42, 1.15), (0.54, 0.5), (0.57, 0)]
        + [(0.54, -0.6), (0.4, -1.25), (0.2, -1.62), (0.13, -1.75), (0.08, -1.8), (0, -1.8)]
    )
    edge = np.cos(5 * body.turn + rng.uniform(0, 6))
    body.swell(1 + 0.07 * edge)
    body.lump(rng, 0.05, 0.6)
    patches = noise(body.points, 0.9, rng, 3)
    ripe = rng.uniform(0, 1)
    colour = shade((226, 184, 46), 1 + 0.08 * patches)
    ends = smoothstep(0.3, 0.12, body.along) + smoothstep(0.82, 0.95, body.along)
    colour = mix(colour, (170, 172, 60), (0.75 - 0.6 * ripe) * np.clip(ends, 0, 1))
    flecks = dots(body, rng, int(20 + 130 * ripe), 0.05) * smoothstep(-0.6, 0.3, patches)
    colour = mix(colour, (104, 70, 30), 0.75 * flecks)
    colour = mix(colour, (120, 90, 40), 0.4 * smoothstep(0.75, 1.0, edge) * (patches > 0))
    tips = smoothstep(0.045, 0.015, body.along) + smoothstep(0.95, 0.975, body.along)
    colour = mix(colour, (60, 46, 32), np.clip(tips, 0, 1))
    body.points = bend(body.points, rng.uniform(0.38, 0.6))
    return [body.part(colour, 0.45, MATTE)]


def cucumber(rng):
    """A cucumber: green with pale streaks and small warts, lighter on its belly."""
    body = Surface(
        [(0, 1.95), (0.14, 1.94), (0.36, 1.75), (0.48, 1.2), (0.52, 0.3), (0.54, -0.6)]
        + [(0.5, -1.4), (0.32, -1.82), (0.1, -1.95), (0, -1.95)],
        300,
    )
    ridges = np.cos(int(rng.integers(7, 10)) * body.turn + rng.uniform(0, 6))
    body.swell(1 + 0.025 * ridges)
    body.lump(rng, 0.06, 0.6)
    warts = dots(body, rng, 140, 0.055)
    body.push(0.035 * warts)
    streak = body.streaks(rng, 36, 0.15)
    down = smoothstep(0.2, 0.9, body.along)
    pale = smoothstep(0.05, 0.5, streak + 0.5 * (down - 0.7)) * down
    belly = 0.5 * (1 + np.cos(body.turn + rng.uniform(0, 6)))
    ground = mix((44, 84, 34), (126, 142, 54), rng.uniform(0.05, 0.45) + 0.4 * belly * down)
    colour = mix(ground, (186, 190, 106), 0.75 * pale)
    colour = mix(colour, (196, 196, 140), 0.5 * warts)
    curve = rng.uniform(0.04, 0.2)
    body.points = bend(body.points, curve)
    stem = stalk(rng, 1.9, 2.15, 0.08, (104, 120, 60), tip=(160, 150, 100))
    stem.vertices = bend(stem.vertices, curve)
    return [body.part(colour, 0.35, WAXY), stem]


def carrot(rng):
    """A carrot: orange, ringed and tapering, with the stubs of its green."""
    length = rng.uniform(0.85, 1.1)
    body = Surface(
        [(0, 1.5), (0.2, 1.52), (0.45, 1.45), (0.55, 1.2), (0.5, 0.4), (0.37, -0.6)]
        + [(0.22, -1.4), (0.1, -1.9), (0.03, -2.2), (0, -2.25)],
        320,
    )
    body.lump(rng, 0.09, 0.7)
    rings = noise(body.points * [0.8, 0.8, 7], 1, rng, 3)
    dents = smoothstep(0.15, 0.6, rings)
    body.push(-0.03 * dents)
    patches = noise(body.points, 1, rng, 3)
    colour = mix((232, 112, 28), (212, 88, 20), smoothstep(-0.5, 0.5, patches))
    colour = mix(colour, (176, 92, 34), 0.6 * dents)
    colour = mix(colour, (120, 120, 50), 0.7 * pole(body, 0.45))
    body.points[..., 2] *= length
    curve = rng.uniform(0.02, 0.16)
    stubs = [carrot_leaf(rng, 1.45 * length) for _ in range(9)]
    root = body.points[-1, 0]
    thread = tube([root + [0, 0, 0.05], root - [0.05, 0, 0.3]], [0.03, 0.012], (196, 120, 60))
    parts = [body.part(colour, 0.5, Skin(0.15, 0.1, 0.0, 0.2, 16)), join(stubs), thread]
    for part in parts:
        part.vertices = bend(part.vertices, curve)
    return parts


def carrot_leaf(rng, height):
    """The stub of a carrot's leaf stalk."""
    turn, lean = rng.uniform(0, 2 * np.pi), rng.uniform(0.05, 0.45)
    t = np.linspace(0, 1, 12)
    out, length = 0.1 + lean * t**1.5, rng.uniform(0.5, 0.95)
    path = np.stack([out * np.cos(turn), out * np.sin(turn), height - 0.08 + length * t], 1)
    tone = np.array((92, 142, 52)) * rng.uniform(0.8, 1.2)
    return tube(path, 0.055 - 0.015 * t, tone, 0.5, Skin(0.05), 10)


def corn(rng):
    """An ear of corn: rows of kernels, some husk at its foot."""
    body = Surface(
        [(0, 2.0), (0.15, 1.98), (0.36, 1.7), (0.52, 1.1), (0.6, 0.2), (0.62, -0.8)]
        + [(0.58, -1.35), (0.4, -1.55), (0, -1.6)],
        360,
        320,
    )
    around, along = int(rng.integers(12, 17)), int(rng.integers(30, 36))
    row = body.turn / (2 * np.pi) * around
    place = body.along * along + 0.35 * np.sin(np.floor(row) * 2.4)
    across, up = np.abs(2 * (row % 1) - 1), np.abs(2 * (place % 1) - 1)
    bump = (1 - across**3) * (1 - up**3)
    body.push(0.09 * np.sqrt(bump) * smoothstep(0, 0.1, body.along))
    table = rng.normal(size=(along + 2, around))
    kernel = table[np.floor(place).astype(int) % (along + 2), np.floor(row).astype(int) % around]
    colour = mix((242, 196, 52), (250, 222, 112), smoothstep(-1.5, 1.5, kernel))
    colour = mix((176, 116, 24), colour, smoothstep(0.0, 0.45, bump))
    body.lump(rng, 0.08, 0.5)
    husk = [
        rosette(rng, -1.45, 5, rng.uniform(1.4, 2.2), 0.6, tone, 1.1, -0.25, 0.35, taper=0.7)
        for tone in ((128, 156, 74), (168, 186, 108))
    ]
    foot = tube([(0, 0, -1.5), (0, 0, -2.0)], [0.3, 0.2], (176, 186, 120))
    return [body.part(colour, 0.3, Skin(0.2, 0.4)), *husk, foot]


# --- vegetables of the earth ---------------------------------------------------------------------


def onion(rng, colours, line):
    """An onion: papery skin drawn out in lines to the neck, threads of root below."""
    body = Surface(
        [(0, 1.3), (0.07, 1.28), (0.1, 1.05), (0.2, 0.86), (0.55, 0.68), (0.92, 0.3), (1, -0.05)]
        + [(0.88, -0.48), (0.5, -0.78), (0.18, -0.85), (0, -0.83)]
    )
    body.lump(rng, 0.06)
    flames = body.streaks(rng, 30, 0.15)
    thin = body.streaks(rng, 90, 0.1, 2)
    patches = noise(body.points, 0.7, rng, 2)
    amount = smoothstep(-0.5, 0.5, 0.7 * patches + 0.4 * flames + rng.normal(0, 0.15))
    colour = mix(colours[0], colours[1], amount)
    colour = mix(colour, line, 0.7 * smoothstep(0.2, 0.5, thin))
    dry = smoothstep(0.28, 0.1, body.along + 0.05 * flames)
    colour = mix(colour, colours[2], 0.85 * np.maximum(dry, pole(body, 0.3, top=False)))
    ends = rosette(rng, 1.15, 5, 0.4, 0.12, colours[2], rise=1.2, curl=0.5, ring=0.03, taper=0.5)
    count = 60
    roots = np.stack([*rng.normal(0, 0.07, (2, count)), np.full(count, -0.82)], 1)
    threads = hairs(rng, roots, np.tile([0, 0, -1.0], (count, 1)), 0.3, 0.03, (176, 150, 100), 1.4)
    return [body.part(colour, 0.36, Skin(0.1, 0.25)), ends, threads]


def potato(rng, ground, second):
    """A potato: lumpy, with eyes, specks and some earth."""
    body = Surface(
        [(0, 1.1), (0.35, 1.03), (0.7, 0.65), (0.82, 0), (0.72, -0.65), (0.36, -1.04)]
        + [(0, -1.12)]
    )
    body.points[..., 1] *= rng.uniform(0.8, 0.95)
    body.lump(rng, 0.22, 0.75)
    body.points = bend(body.points, rng.uniform(0.05, 0.25))
    eyes = body.points[body.scatter(rng, int(rng.integers(9, 14)))]
    hollow = spots(body.points, eyes, 0.22)
    body.push(-0.07 * hollow + 0.04 * spots(body.points, eyes + [0, 0, 0.06], 0.14))
    body.push(0.012 * noise(body.points, 9, rng, 3))
    mottle = noise(body.points, 3, rng, 4)
    colour = mix(ground, second, smoothstep(-0.1, 0.5, mottle + rng.normal(0, 0.1)))
    colour = mix(colour, (96, 70, 42), 0.75 * dots(body, rng, 150, 0.03))
    colour = mix(colour, (104, 76, 46), 0.55 * spots(body.points, eyes, 0.1))
    return [body.part(colour, 0.75, Skin(0.08, 0.0, 0.0, 0.5, 22))]


# --- the large and the rough ---------------------------------------------------------------------


def pineapple(rng):
    """A pineapple: a barrel of spiny scales in spirals under a tuft of leaves."""
    body = Surface(
        [(0, 1.15), (0.4, 1.12), (0.72, 0.9), (0.9, 0.35), (0.93, -0.2), (0.84, -0.8)]
        + [(0.55, -1.13), (0, -1.2)],
        300,
        360,
    )
    body.lump(rng, 0.05)
    places = body.spiral(rng, int(rng.integers(95, 125)))
    first, second, which = cells(body.points, body.points[places])
    edge = smoothstep(0.0, 0.13, second - first)
    tone = rng.normal(size=len(places[0]))[which]
    body.push(0.1 * np.sqrt(edge) + 0.02 * noise(body.points, 7, rng, 3))
    ripe = mix((190, 118, 40), (222, 160, 62), smoothstep(-1.5, 1.5, tone))
    unripe = rng.uniform(0.1, 0.5) * smoothstep(0.2, -0.3, body.points[..., 2])
    ripe = mix(ripe, (124, 116, 50), unripe)
    colour = mix((84, 62, 34), ripe, edge)
    colour = mix(colour, (112, 74, 40), 0.8 * smoothstep(0.12, 0.04, first))
    normals = body.normals()[places]
    roots, way = body.points[places] - [0, 0, 0.02], unit(normals + [0, 0, 0.9])
    spines = hairs(rng, roots, way, 0.24, 0.1, (132, 96, 56), 0.2)
    crown = [
        rosette(
            rng,
            height=1.02 + 0.1 * k,
            count=8,
            length=1.5 - 0.12 * k,
            width=0.26,
            colour=green,
            rise=0.45 + 0.25 * k,
            curl=0.6,
            ring=0.3 - 0.06 * k,
            taper=1.0,
            fold=0.5,
        )
        for k, green in enumerate(((66, 98, 58), (80, 112, 64), (92, 122, 72), (100, 128, 80)))
    ]
    return [body.part(colour, 0.6, Skin(0.1, 0.1)), spines, *crown]


def cantaloupe(rng):
    """A cantaloupe: ribs under a raised pale net."""
    body = Surface(ROUND, 260, 320)
    body.swell(1 - 0.045 * (1 - np.abs(np.sin(5 * body.turn))) * np.sin(np.pi * body.along))
    body.lump(rng, 0.05)
    wobble = np.stack([noise(body.points, 4, rng, 2) for _ in range(3)], -1)
    first, second, _ = cells(body.points + 0.05 * wobble, body.points[body.scatter(rng, 420)])
    net = smoothstep(0.05, 0.015, second - first)
    seam = smoothstep(0.3, 0.05, np.abs(np.sin(5 * body.turn))) * np.sin(np.pi * body.along)
    body.push(0.02 * net * (1 - seam))
    patches = noise(body.points, 0.8, rng, 3) + rng.normal(0, 0.3)
    ground = mix((196, 160, 88), (166, 154, 84), smoothstep(-0.4, 0.6, patches))
    ground = mix(ground, (134, 140, 76), 0.8 * seam)
    colour = mix(ground, (224, 208, 164), 0.85 * net * (1 - 0.6 * seam))
    colour = mix(colour, (176, 150, 96), pole(body, 0.15))
    return [
        body.part(colour, 0.65, MATTE),
        stalk(rng, 0.82, 1.05, 0.09, (150, 138, 80), tip=(180, 160, 110)),
    ]


def watermelon(rng):
    """A watermelon: jagged dark stripes on light green, a curled stem."""
    body = Surface(ROUND, 240, 320)
    body.points[..., 2] *= rng.uniform(0.95, 1.2)
    body.lump(rng, 0.05)
    count = int(rng.integers(8, 12))
    jag = 0.35 * noise(body.points, 3.2, rng, 4) + 0.1 * noise(body.points, 12, rng, 2)
    wave = np.cos(count * body.turn + 2.2 * jag + 0.6 * noise(body.points, 1, rng))
    stripe = smoothstep(0.0, 0.35, wave + 0.6 * jag + rng.normal(0, 0.1))
    veins = smoothstep(0.25, 0.5, noise(body.points * [1, 1, 0.6], 7, rng, 4))
    pale = mix((168, 186, 110), (104, 146, 76), 0.8 * veins)
    colour = mix(pale, shade((38, 80, 40), 1 + 0.3 * jag), stripe)
    colour = mix(colour, (196, 180, 96), 0.7 * dots(body, rng, 2, 0.45))
    return [
        body.part(colour, 0.35, WAXY),
        stalk(rng, 0.85, rng.uniform(1.15, 1.4), 0.045, (104, 112, 56), 0.9, 1.5, tip=BROWN),
    ]


def kiwi(rng):
    """A kiwi: an egg of brown fuzz with a hard little knob at each end."""
    body = Surface(
        [(0, 1.06), (0.12, 1.08), (0.36, 1.02), (0.74, 0.6), (0.84, 0), (0.76, -0.6)]
        + [(0.4, -1.0), (0.14, -1.08), (0, -1.06)]
    )
    body.points[..., 1] *= rng.uniform(0.88, 1)
    body.lump(rng, 0.06)
    grain = noise(body.points * [1, 1, 0.35], 26, rng, 2)
    patches = noise(body.points, 1.2, rng, 3)
    colour = mix((142, 106, 68), (118, 86, 52), smoothstep(-0.4, 0.6, patches))
    colour = shade(colour, 1 + 0.3 * grain)
    ends = np.maximum(pole(body, 0.2), pole(body, 0.16, top=False))
    colour = mix(colour, DARK, 0.8 * ends)
    places = body.scatter(rng, 7000)
    way = unit(body.normals()[places] + [0, 0, -0.8])
    fuzz = hairs(rng, body.points[places], way, 0.05, 0.01, (164, 124, 80), 1.0)
    return [
        body.part(colour, 0.85, Skin(0.05, 0.0, 0.3)),
        fuzz,
        stalk(rng, 1.0, 1.15, 0.07, DARK, lean=0.1),
        rosette(rng, -1.06, 8, 0.16, 0.06, DARK, rise=-0.9, curl=-0.4),
    ]


def walnut(rng):
    """A walnut in its shell: wrinkled, with a raised seam and a small point."""
    body = Surface(
        [(0, 1.02), (0.06, 0.98), (0.3, 0.9), (0.72, 0.6), (0.88, 0), (0.75, -0.55)]
        + [(0.4, -0.85), (0, -0.92)],
        260,
        320,
    )
    across = np.abs(np.sin(body.turn))
    seam = np.exp(-((across / 0.1) ** 2))
    body.swell(1 + 0.1 * seam)
    body.lump(rng, 0.06)
    warp = np.stack([noise(body.points, 2.5, rng, 2) for _ in range(3)], -1)
    ridges = np.abs(noise((body.points + 0.22 * warp) * [1, 1, 0.55], 5.5, rng, 2))
    valley = smoothstep(0.2, 0.0, ridges) * (1 - 0.7 * seam)
    body.push(-0.06 * valley + 0.04 * noise(body.points, 5, rng, 2))
    patches = noise(body.points, 2, rng, 4)
    colour = mix((186, 138, 88), (152, 106, 62), smoothstep(-0.4, 0.5, patches))
    colour = mix(colour, (112, 72, 42), 0.5 * valley)
    colour = mix(colour, (110, 72, 42), 0.6 * np.exp(-(((across - 0.12) / 0.05) ** 2)))
    return [body.part(colour, 0.6, Skin(0.05, 0.05, 0.0, 0.2, 14))]


# --- the table -----------------------------------------------------------------------------------

FRUITS = {
    "Apple Golden 1": partial(
        apple, ground=(222, 192, 84), blush=(206, 190, 92), cover=0.0, russet=0.3
    ),
    "Apple Granny Smith": partial(
        apple, ground=(172, 192, 82), blush=(138, 168, 58), cover=0.0, width=1.02, waist=0.78
    ),
    "Apple Red 1": partial(
        apple, ground=(208, 160, 84), blush=(158, 26, 34), cover=0.42, waist=0.74
    ),
    "Apricot": partial(
        stone_fruit, ground=(238, 150, 48), blush=(222, 92, 40), cover=-0.35, height=1.05,
        depth=0.07, velvet=0.15, speckle=0.6,
    ),
    "Banana": banana,
    "Blueberry": blueberry,
    "Cantaloupe 1": cantaloupe,
    "Carrot": carrot,
    "Cherry 1": cherry,
    "Corn": corn,
    "Cucumber Ripe": cucumber,
    "Eggplant": eggplant,
    "Kiwi": kiwi,
    "Lemon": partial(
        citrus, profile=LEMON, ground=(238, 208, 58), patch=(230, 192, 54), amount=-0.1, pores=0.45
    ),
    "Limes": partial(
        citrus, profile=LIME, ground=(84, 128, 44), patch=(160, 176, 70), amount=-0.05, scars=5
    ),
    "Onion Red": partial(
        onion, colours=((118, 36, 62), (148, 66, 86), (150, 104, 92)), line=(86, 22, 46)
    ),
    "Onion White": partial(
        onion, colours=((214, 160, 82), (188, 116, 48), (206, 166, 104)), line=(168, 104, 44)
    ),
    "Orange": partial(
        citrus, profile=ROUND, ground=(236, 128, 20), patch=(240, 150, 36), amount=-0.2, pores=0.5
    ),
    "Peach": partial(
        stone_fruit, ground=(234, 164, 74), blush=(168, 36, 40), cover=0.15, height=1.0,
        depth=0.06, velvet=0.2,
    ),
    "Pear": partial(pear, ground=(182, 180, 78), blush=(206, 186, 84), cover=0.0, freckles=420),
    "Pepper Green": partial(pepper, colour=(42, 88, 28), second=(66, 112, 36)),
    "Pepper Red": partial(pepper, colour=(186, 16, 22), second=(160, 12, 22)),
    "Pineapple": pineapple,
    "Plum": partial(
        stone_fruit, ground=(92, 30, 52), blush=(52, 24, 52), cover=0.1, height=1.12,
        depth=0.05, bloom=0.42,
    ),
    "Potato White": partial(potato, ground=(206, 172, 108), second=(186, 146, 88)),
    "Raspberry": raspberry,
    "Strawberry": strawberry,
    "Tomato 1": tomato,
    "Walnut": walnut,
    "Watermelon": watermelon,
}  # fmt: skip


def build(name: str, rng: np.random.Generator) -> list[Part]:
    """The parts of one individual of a class, centred, with its own proportions and shade."""
    parts = FRUITS[name](rng)
    stretch = np.exp(rng.normal(0, [0.04, 0.04, 0.07]))
    gain = np.exp(rng.normal(0, 0.08) + rng.normal(0, 0.03, 3))
    everything = np.concatenate([part.vertices for part in parts])
    centre = (everything.min(axis=0) + everything.max(axis=0)) / 2
    reach = np.linalg.norm((everything - centre) * stretch, axis=1).max()
    return [
        make_part(
            (part.vertices - centre) * stretch * 1.2 / reach,
            part.faces,
            part.colour * gain,
            part.rough,
            part.skin,
        )
        for part in parts
    ]
