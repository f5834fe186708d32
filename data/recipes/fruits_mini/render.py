"""Render the pictures of data/fruits-mini with Blender's Cycles (PyPI package `bpy`).

    python render.py --out ../../fruits-mini

Each class has several clips; each clip is another individual, posed another way and turned once
around in front of the camera, as in Fruits-360. Pictures that exist already are skipped, so that a
stopped run goes on where it was.
"""

import argparse
import math
import os
import sys
import tempfile
import time
import zlib
from contextlib import contextmanager
from pathlib import Path

import bpy
import numpy as np
from fruits import FRUITS, build
from mathutils import Matrix
from PIL import Image

NUMBERS_A_TURN = 324  # Fruits-360 numbers the pictures of a clip: about 0 to 327 in one turn
TILTS = (10, 90, 50)  # degrees between the fruit's axis and the turntable's, clip by clip
DISTANCE = 9.0


def parse_arguments(argv=None):
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of Training/ and Test/")
    parser.add_argument("--classes", nargs="+", choices=list(FRUITS), default=list(FRUITS))
    parser.add_argument("--clips", type=int, default=3, help="individuals a class (default: 3)")
    parser.add_argument("--frames", type=int, default=36, help="pictures a turn (default: 36)")
    parser.add_argument("--samples", type=int, default=8, help="light paths a pixel (default: 8)")
    parser.add_argument("--size", type=int, default=112, help="rendered pixels (default: 112)")
    parser.add_argument("--threads", type=int, default=1, help="threads to render on (default: 1)")
    return parser.parse_args(argv)


def picture_path(out, name, clip, frame, frames):
    """Where a picture goes: every fourth is for the test, the names are Fruits-360's."""
    number = round(frame * NUMBERS_A_TURN / frames)
    split = "Test" if number // 9 % 4 == 2 else "Training"
    prefix = ("", "r_")[clip] if clip < 2 else f"r{clip}_"
    return out / split / name / f"{prefix}{number}_100.jpg"


# --- the scene -----------------------------------------------------------------------------------


def set_up_scene(samples, size, threads):
    """An empty scene with a camera, an even world light and Cycles on the processor."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    scene.render.engine = "CYCLES"
    scene.cycles.device = "CPU"
    scene.cycles.samples = samples
    scene.cycles.use_adaptive_sampling = False
    scene.cycles.use_denoising = True
    scene.cycles.denoiser = "OPENIMAGEDENOISE"
    scene.cycles.denoising_prefilter = "FAST"
    scene.cycles.max_bounces = 3
    scene.cycles.caustics_reflective = False
    scene.render.threads_mode = "FIXED"
    scene.render.threads = threads
    scene.render.use_persistent_data = True
    scene.render.film_transparent = True
    scene.render.resolution_x = scene.render.resolution_y = size
    scene.render.image_settings.file_format = "PNG"
    scene.render.image_settings.color_mode = "RGBA"
    scene.view_settings.view_transform = "Standard"
    scene.world = bpy.data.worlds.new("world")
    scene.world.use_nodes = True
    scene.camera = bpy.data.objects.new("camera", bpy.data.cameras.new("camera"))
    scene.collection.objects.link(scene.camera)
    return scene


def add_lamp(scene, place, size, power):
    """A square soft light that shines at the origin."""
    data = bpy.data.lights.new("lamp", "AREA")
    data.size, data.energy = size, power
    lamp = bpy.data.objects.new("lamp", data)
    lamp.location = place
    lamp.rotation_euler = lamp.location.to_track_quat("Z", "Y").to_euler()
    scene.collection.objects.link(lamp)
    return lamp


def light_clip(scene, rng):
    """The light of one clip: a window at the side, a weaker one opposite, a bright room."""
    side = rng.choice([-1, 1])
    bright = rng.uniform(0.85, 1.15)
    place = (side * rng.uniform(2, 4), -rng.uniform(3, 5), rng.uniform(3, 5))
    lamps = [
        add_lamp(scene, place, rng.uniform(1.5, 3), 430 * bright),
        add_lamp(scene, (-side * 5, -3, 1), 3, 70 * bright),
    ]
    warmth = rng.normal(0, 0.03)
    background = scene.world.node_tree.nodes["Background"]
    background.inputs["Color"].default_value = (1 + warmth, 1, 1 - warmth, 1)
    background.inputs["Strength"].default_value = 0.36 * bright
    return lamps


def linear(colour):
    """Colours of 0 to 255 (sRGB) as the linear light that Cycles works with."""
    colour = np.clip(colour / 255, 0, 1)
    return np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)


def make_material(skin):
    """A Principled shader whose colour and roughness come from the mesh."""
    material = bpy.data.materials.new("skin")
    material.use_nodes = True
    nodes, links = material.node_tree.nodes, material.node_tree.links
    shader = nodes["Principled BSDF"]
    for attribute, output, target in (
        ("colour", "Color", "Base Color"),
        ("rough", "Fac", "Roughness"),
    ):
        node = nodes.new("ShaderNodeAttribute")
        node.attribute_name = attribute
        links.new(node.outputs[output], shader.inputs[target])
    shader.inputs["Subsurface Weight"].default_value = skin.subsurface
    shader.inputs["Subsurface Scale"].default_value = 0.08
    shader.inputs["Coat Weight"].default_value = skin.coat
    shader.inputs["Coat Roughness"].default_value = 0.08
    shader.inputs["Sheen Weight"].default_value = skin.sheen
    if skin.bump:
        texture, bump = nodes.new("ShaderNodeTexNoise"), nodes.new("ShaderNodeBump")
        place = nodes.new("ShaderNodeTexCoord")
        texture.inputs["Scale"].default_value = skin.bump_scale
        bump.inputs["Strength"].default_value = skin.bump
        bump.inputs["Distance"].default_value = 0.05
        links.new(place.outputs["Object"], texture.inputs["Vector"])
        links.new(texture.outputs["Fac"], bump.inputs["Height"])
        links.new(bump.outputs["Normal"], shader.inputs["Normal"])
    return material


def add_part(scene, part):
    """A part of a fruit as a Blender object."""
    mesh = bpy.data.meshes.new("part")
    mesh.from_pydata(part.vertices, [], part.faces.tolist())
    mesh.shade_smooth()
    colour = mesh.attributes.new("colour", "FLOAT_COLOR", "POINT")
    rgba = np.concatenate([linear(part.colour), np.ones((len(part.colour), 1))], axis=1)
    colour.data.foreach_set("color", rgba.astype(np.float32).ravel())
    rough = mesh.attributes.new("rough", "FLOAT", "POINT")
    rough.data.foreach_set("value", part.rough.astype(np.float32))
    mesh.materials.append(make_material(part.skin))
    thing = bpy.data.objects.new("part", mesh)
    scene.collection.objects.link(thing)
    return thing


def clear(things):
    """Remove objects with their meshes, lamps and materials."""
    for thing in things:
        bpy.data.objects.remove(thing)
    bpy.data.orphans_purge()


# --- pose and framing ----------------------------------------------------------------------------


def turn_about(axis, degrees):
    """A 3x3 rotation about x (0), y (1) or z (2)."""
    angle = math.radians(degrees)
    first, second = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.eye(3)
    matrix[first, first] = matrix[second, second] = math.cos(angle)
    matrix[second, first] = math.sin(angle)
    matrix[first, second] = -math.sin(angle)
    return matrix


def clip_pose(rng, clip):
    """How the fruit of a clip sits on the turntable."""
    tilt = TILTS[clip] if clip < len(TILTS) else rng.uniform(0, 180)
    tilt += rng.normal(0, 7)
    spin, start = rng.uniform(0, 360, 2)
    return turn_about(2, start) @ turn_about(0, tilt) @ turn_about(2, spin)


def aim_camera(scene, elevation):
    """Put the camera in front of the origin, `elevation` degrees up; return its rotation."""
    rotation = turn_about(0, 90 - elevation)
    camera = scene.camera
    camera.rotation_euler = (math.radians(90 - elevation), 0, 0)
    camera.location = rotation @ [0, 0, DISTANCE]
    return rotation


def frame_fruit(scene, rotation, vertices):
    """Zoom and shift the camera so that the vertices just fill the picture."""
    seen = vertices @ rotation - [0, 0, DISTANCE]
    flat = seen[:, :2] / -seen[:, 2:]
    low, high = flat.min(axis=0), flat.max(axis=0)
    width = (high - low).max() * 1.04
    data = scene.camera.data
    data.lens = data.sensor_width / width
    data.shift_x, data.shift_y = (low + high) / 2 / width


def to_picture(rendered):
    """Cut out by the alpha channel, fill 100x100 pixels, lay on white."""
    box = rendered.getchannel("A").point(lambda a: 255 * (a > 25)).getbbox()
    white = Image.new("RGBA", rendered.size, "white")
    cut = Image.alpha_composite(white, rendered).convert("RGB").crop(box)
    factor = 100 / max(cut.size)
    cut = cut.resize([max(1, round(side * factor)) for side in cut.size], Image.LANCZOS)
    picture = Image.new("RGB", (100, 100), "white")
    picture.paste(cut, ((100 - cut.width) // 2, (100 - cut.height) // 2))
    return picture


# --- the run -------------------------------------------------------------------------------------


@contextmanager
def quiet():
    """Keep Blender's own lines, which Python does not see, off the standard output."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def render_picture(scene, folder):
    """Render the scene as it stands."""
    scene.render.filepath = str(Path(folder) / "frame.png")
    with quiet():
        bpy.ops.render.render(write_still=True)
    with Image.open(scene.render.filepath) as image:
        return to_picture(image.convert("RGBA"))


def save(picture, path):
    """Write a JPEG whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    picture.save(partial, "JPEG", quality=92)
    os.replace(partial, path)


def render_clip(scene, out, name, clip, frames, folder):
    """Render the missing pictures of one individual; return how many were made."""
    paths = [picture_path(out, name, clip, frame, frames) for frame in range(frames)]
    if all(path.exists() for path in paths):
        return 0
    seed = [zlib.crc32(name.encode()), clip]
    parts = build(name, np.random.default_rng(seed))
    rng = np.random.default_rng([*seed, 1])
    pose, rotation = clip_pose(rng, clip), aim_camera(scene, rng.uniform(5, 18))
    things, lamps = [add_part(scene, part) for part in parts], light_clip(scene, rng)
    vertices = np.concatenate([part.vertices for part in parts])
    made = 0
    for frame, path in enumerate(paths):
        if path.exists():
            continue
        matrix = turn_about(2, 360 * frame / frames) @ pose
        for thing in things:
            thing.matrix_world = Matrix(matrix.tolist()).to_4x4()
        frame_fruit(scene, rotation, vertices @ matrix.T)
        save(render_picture(scene, folder), path)
        made += 1
    clear(things + lamps)
    return made


def main(argv=None):
    """Render what the command line asks for and print what there is now."""
    arguments = parse_arguments(argv)
    start, made = time.time(), 0
    scene = set_up_scene(arguments.samples, arguments.size, arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.classes:
            for clip in range(arguments.clips):
                made += render_clip(scene, arguments.out, name, clip, arguments.frames, folder)
            print(f"{name}: {made} pictures so far, {time.time() - start:.0f} s", flush=True)
    pictures = list(arguments.out.glob("T*/*/*.jpg"))
    classes = {path.parent.name for path in pictures}
    size = sum(path.stat().st_size for path in pictures) / 1e6
    print(
        f"{made} pictures made in {time.time() - start:.0f} s; {arguments.out} holds "
        f"{len(pictures)} pictures of {len(classes)} classes, {size:.1f} MB"
    )


if __name__ == "__main__":
    main()
