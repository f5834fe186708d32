"""Step 2: draw the augmented views, once, so that teacher and students see exactly the same.

    python data/recipes/clip_mini/views.py [--work FOLDER] [--scale 1.0]

Four kinds of view: `cutout` (emoji, clip-art and stamps turned, scaled and put on a background),
`photo` (random crops of the grocery photographs), `patch` (a crop of a grocery photograph inside
a fruit-like outline on white) and `bridge` (made-up colours and textures inside such an outline,
without a caption). `patch` and `bridge` imitate the look of Fruits-360 - one thing on white,
filling the frame - without any picture of it. Writes views.npy and views.tsv.
"""

import argparse
import time

import numpy as np
from common import SIDE, add_work, read_table, write_table
from PIL import Image, ImageEnhance

COPIES = {"cutout": 1, "food cutout": 9, "photo": 3, "package photo": 1, "patch": 5}
BRIDGES = 8000
AXIS = (np.arange(SIDE, dtype=np.float32) + 0.5) / SIDE * 2 - 1
X, Y = np.meshgrid(AXIS, AXIS)
ANGLE, RADIUS = np.arctan2(Y, X), np.hypot(X, Y)
CIRCLE = np.linspace(-np.pi, np.pi, 256)


def outline(rng):
    """Every pixel's distance from the middle over the radius of a random fruit-like shape."""
    turn = rng.uniform(-np.pi, np.pi)
    stretch = rng.choice([1.0, rng.uniform(1, 1.3), rng.uniform(1, 3)])
    edge = 1 / np.hypot(np.cos(CIRCLE - turn), stretch * np.sin(CIRCLE - turn))
    for order in range(1, 6):
        edge *= 1 + rng.normal(0, 0.08) / order * np.cos(order * CIRCLE + rng.uniform(0, 6.3))
    reach = max(np.abs(edge * np.cos(CIRCLE)).max(), np.abs(edge * np.sin(CIRCLE)).max())
    edge *= rng.uniform(0.9, 1.0) / reach
    return RADIUS / np.interp(ANGLE, CIRCLE, edge).astype(np.float32)


def shade(colour, rho, rng):
    """Light a flat picture as if it lay on a round body, and cut the outline out on white."""
    z = np.sqrt(np.clip(1 - rho ** 2, 0, 1))
    flat = np.sqrt(np.clip(1 - z ** 2, 0, 1)) / np.maximum(RADIUS, 1e-3)
    light = np.array([rng.uniform(-0.6, 0.6), rng.uniform(-0.9, 0.2), 1.0])
    light /= np.linalg.norm(light)
    facing = np.clip(X * flat * light[0] + Y * flat * light[1] + z * light[2], 0, 1)
    dark = rng.uniform(0.3, 0.8)
    lit = colour * (dark + (1.05 - dark) * facing)[..., None]
    lit += 255 * rng.uniform(0, 0.6) * facing[..., None] ** rng.uniform(20, 80)
    alpha = np.clip((1 - rho) * 40, 0, 1)[..., None]
    return np.clip(alpha * lit + (1 - alpha) * 255, 0, 255).astype(np.uint8)


def noise(rng, cells, channels=1):
    """Smooth random values of about unit range, `cells` bumps across and down."""
    grid = rng.random((cells[1] + 1, cells[0] + 1, channels)).astype(np.float32)
    planes = [Image.fromarray(grid[..., c]).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
              for c in range(channels)]
    return np.stack([np.asarray(plane) for plane in planes], -1)


def bridge(rng):
    """A made-up thing: one to three colours blended by smooth noise, streaks and speckles."""
    hue = rng.choice([rng.uniform(-0.05, 0.35), rng.uniform(0, 1)], p=[0.8, 0.2])
    colours = []
    for _ in range(3):
        hsv = [(hue + rng.normal(0, 0.05)) % 1, rng.uniform(0.15, 1), rng.uniform(0.2, 1)]
        colours.append(Image.new("HSV", (1, 1), tuple(int(255 * v) for v in hsv)))
    first, second, third = (np.float32(c.convert("RGB").getpixel((0, 0))) for c in colours)
    blend = np.clip(3 * noise(rng, (rng.integers(1, 5), rng.integers(1, 5))) - 1, 0, 1)
    picture = first + (second - first) * blend
    if rng.random() < 0.6:
        cells = rng.integers(2, 60, 2)
        streaks = np.clip(6 * noise(rng, cells) - rng.uniform(2, 4.5), 0, 1)
        picture += (third - picture) * streaks * rng.uniform(0.2, 1)
    picture *= 1 + rng.uniform(0, 0.25) * (noise(rng, (80, 80)) - 0.5)
    return degrade(shade(picture, outline(rng), rng), rng)


def patch(picture, rng):
    """A crop of a photograph, about the size of one fruit in it, in a made-up outline."""
    crop = random_crop(picture, rng, 0.2, 0.6).rotate(rng.choice([0, 90, 180, 270]))
    rho = outline(rng)
    flat = np.asarray(jitter(crop, rng), np.float32)
    mix = rng.uniform(0.2, 0.9)
    return degrade((mix * shade(flat, rho, rng) + (1 - mix) * cut(flat, rho)).astype(np.uint8),
                   rng)


def cut(colour, rho):
    """The outline cut out on white, without any shading."""
    alpha = np.clip((1 - rho) * 40, 0, 1)[..., None]
    return alpha * colour + (1 - alpha) * 255


def degrade(view, rng):
    """Half of the views get the softness of a picture of 100 px."""
    if rng.random() < 0.5:
        return view
    small = Image.fromarray(view).resize((100, 100), Image.Resampling.BILINEAR)
    return np.asarray(small.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def random_crop(picture, rng, low, high):
    """A random square of the picture, `low` to `high` of its side, enlarged to full size."""
    side = int(SIDE * rng.uniform(low, high))
    left, top = rng.integers(0, SIDE - side + 1, 2)
    box = (left, top, left + side, top + side)
    image = Image.fromarray(picture[..., :3])
    return image.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=box)


def photo(picture, rng):
    """A random crop of a photograph, mirrored half of the time."""
    crop = random_crop(picture, rng, 0.6, 1.0)
    if rng.random() < 0.5:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(jitter(crop, rng))


def cutout(picture, rng, backgrounds, food):
    """A cut-out turned, scaled and moved, on white or, more rarely, on a colour or a photo."""
    image = jitter(Image.fromarray(picture), rng)
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    turn = rng.uniform(-180, 180) if food and rng.random() < 0.6 else rng.uniform(-15, 15)
    image = image.rotate(turn, Image.Resampling.BILINEAR, expand=True)
    image = image.crop(image.getchannel("A").getbbox())
    size = SIDE * rng.uniform(0.85, 1.0) if rng.random() < 0.6 else SIDE * rng.uniform(0.5, 0.9)
    factor = size / max(image.size)
    image = image.resize([max(1, int(factor * side)) for side in image.size],
                         Image.Resampling.BILINEAR)
    canvas = background(rng, backgrounds, 0.85 if food else 0.7)
    spare = [SIDE - side for side in image.size]
    place = tuple(int(s * rng.uniform(0.3, 0.7)) for s in spare)
    canvas.paste(image, place, image)
    return degrade(np.asarray(canvas), rng)


def background(rng, photos, white):
    """White with probability `white`, else a plain colour or a blurred photograph."""
    draw = rng.random()
    if draw < white:
        return Image.new("RGB", (SIDE, SIDE), "white")
    if draw < (1 + white) / 2 or not len(photos):
        return Image.new("RGB", (SIDE, SIDE), tuple(rng.integers(0, 256, 3).tolist()))
    image = Image.fromarray(photos[rng.integers(len(photos))][..., :3])
    return image.resize((20, 20)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def jitter(image, rng):
    """Slightly other brightness, contrast and saturation."""
    for enhancer in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = enhancer(image).enhance(rng.uniform(0.8, 1.2))
    return image


def plan(rows, scale, bridges):
    """The list of views to draw, as table rows (picture -1: a bridge)."""
    views = []
    for row in rows:
        food, is_photo = row["food"] == "1", row["photo"] == "1"
        kind = "photo" if is_photo else "cutout"
        key = f"food {kind}" if food and not is_photo else kind
        key = "package photo" if is_photo and not food else key
        kinds = [kind] * max(1, round(scale * COPIES[key]))
        if is_photo and food:
            kinds += ["patch"] * max(1, round(scale * COPIES["patch"]))
        views += [{"picture": row["index"], "kind": k, "split": row["split"],
                   "food": row["food"]} for k in kinds]
    return views + [{"picture": -1, "kind": "bridge", "split": "train", "food": "1"}
                    for _ in range(max(1, round(scale * bridges)))]


def draw(view, pictures, rng, backgrounds):
    """Draw one view of the plan."""
    if view["kind"] == "bridge":
        return bridge(rng)
    picture = pictures[int(view["picture"])]
    if view["kind"] == "cutout":
        return cutout(picture, rng, backgrounds, view["food"] == "1")
    return (photo if view["kind"] == "photo" else patch)(picture, rng)


def main():
    """Draw all views into the work folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_work(parser)
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of views")
    args = parser.parse_args()

    start = time.time()
    pictures = np.load(args.work / "pictures.npy", mmap_mode="r")
    rows = read_table(args.work / "pictures.tsv")
    photos = [int(r["index"]) for r in rows if r["photo"] == "1" and r["split"] == "train"]
    backgrounds = pictures[photos]
    views = plan(rows, args.scale, BRIDGES)
    order = np.random.default_rng(0).permutation(len(views))
    views = [views[i] for i in order]
    out = np.lib.format.open_memmap(args.work / "views.npy", "w+", np.uint8,
                                    (len(views), SIDE, SIDE, 3))
    for n, view in enumerate(views):
        out[n] = draw(view, pictures, np.random.default_rng(n), backgrounds)
    out.flush()
    write_table(args.work / "views.tsv", views)
    print(f"{len(views)} views in {time.time() - start:.0f} s")


if __name__ == "__main__":
    main()
