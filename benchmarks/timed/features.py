"""From files of pictures to features: ours, and the loops that people write.

The peers are OpenAI's own loop (the linear probe of CLIP's README: batches of 100), the same with
four loading processes, and clip-benchmark's (batches of 64, four processes, open_clip's model, its
``--no_amp``: all sides compute in fp32).
"""

from functools import partial

import numpy as np

from timed.comparison import LIMIT, Comparison, Contrast, Prepared, Side, agree
from timed.inputs import clip_file, flops, linked, some_pictures, timm_file

PICTURES = {"ViT-B/32": 192, "RN50": 128, "clip-mini-rn": 1600, "clip-mini-vit": 1600}
PICTURES["deit_tiny_patch16_224"] = 512
SMALL = 12


# ------------------------------------------------------------------------------- the sides


def ours(spec, file):
    """cliphelpers.extract_features, of CLIPs the joint embedding."""
    import pandas as pd

    import cliphelpers as ch

    (encoder,) = ch.load_encoders([spec])
    encoder = ch.joint(encoder) if encoder.text else encoder

    def run(paths, cache):
        return ch.extract_features(encoder, pd.DataFrame({"path": paths}), cache=cache)

    return run


def clip_loop(spec, file, workers=0):
    """OpenAI's loop."""
    import clip

    model, preprocess = clip.load(file, device="cpu")
    return _loop(model, preprocess, 100, workers)


def clip_loader(spec, file):
    """The same loop, pictures loaded by four processes."""
    return clip_loop(spec, file, workers=4)


def clip_benchmark_loop(spec, file):
    """clip-benchmark's featurizer and loader."""
    import open_clip
    from clip_benchmark.metrics.linear_probe import Featurizer

    model = open_clip.load_openai_model(file, "fp32", "cpu").eval()
    look = {"mean": model.visual.image_mean, "std": model.visual.image_std}
    transform = open_clip.image_transform(model.visual.image_size, is_train=False, **look)
    featurizer = Featurizer(model, normalize=True)
    featurizer.encode_image = featurizer.forward
    return _loop(featurizer, transform, 64, workers=4)


def _loop(model, transform, batch, workers):
    import torch
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset

    class Pictures(Dataset):
        def __init__(self, paths):
            self.paths = paths

        def __len__(self):
            return len(self.paths)

        def __getitem__(self, number):
            return transform(Image.open(self.paths[number]))

    def run(paths, cache):
        loader = DataLoader(Pictures(paths), batch_size=batch, num_workers=workers)
        with torch.no_grad():
            return torch.cat([model.encode_image(images) for images in loader]).numpy()

    return run


# ------------------------------------------------------------------------------- what is compared


def same_directions(ours, peer):
    """Features of CLIP, whatever their length.

    With random weights a ResNet magnifies rounding: both sides are up to 6e-5 from float64.
    """
    agree(*[X / np.linalg.norm(X, axis=1, keepdims=True) for X in (ours, peer)], 3e-4, "features")


def same_features(ours, peer):
    """Features that are read from the disk are those that were computed."""
    agree(ours, peer, 1e-4 * np.abs(peer).max(), "features")


def prepare(name, folder, small, kept=False):
    """Paths, and the network's file; of kept features no network's limit is told."""
    import cliphelpers as ch

    kind = "timm" if name.startswith("deit") else "clip"
    file = (timm_file if kind == "timm" else clip_file)(name, folder)
    spec = f"timm:{name}@{file}" if kind == "timm" else f"clip:{file}"
    (encoder,) = ch.load_encoders([spec])
    paths = some_pictures(SMALL if small else PICTURES[name])

    def job(number, place):
        some = linked(paths[:SMALL] if number < 0 else paths, place / f"pair {number}")
        return {"paths": some, "cache": str(place / f"cache {number}")}

    work = None if kept else flops(encoder.module, encoder.preprocess.size)
    return Prepared({"spec": spec, "file": file}, job, len(paths), work)


def _files_to_features(name, bar):
    sides = {
        "ours": Side("features:ours"),
        "clip loop": Side("features:clip_loop"),
        "clip loop, 4 loaders": Side("features:clip_loader"),
        "clip-benchmark": Side("features:clip_benchmark_loop", needs=("clip_benchmark",)),
    }
    work = f"files to features, {name}"
    contrasts = [Contrast(work, "ours", peer, bar, same_directions) for peer in list(sides)[1:]]
    made = partial(prepare, name)
    return Comparison(f"features-{_short(name)}", "pictures/s", sides, contrasts, made)


def _share(name):
    contrast = Contrast(f"share of the limit, {name}", "ours", LIMIT, 0.95)
    side, made = {"ours": Side("features:ours")}, partial(prepare, name)
    return Comparison(f"share-{_short(name)}", "pictures/s", side, [contrast], made)


def _second_run(name):
    sides = {"first run": Side("features:ours"), "second run": Side("features:ours")}
    work = f"second run, features kept, {name}"
    contrast = Contrast(work, "second run", "first run", 50, same_features)
    made = partial(prepare, name, kept=True)
    key = f"kept-{_short(name)}"
    return Comparison(key, "pictures/s", sides, [contrast], made, in_order=True)


def _short(name):
    return name.lower().replace("/", "").removesuffix("_patch16_224").replace("_", "-")


COMPARISONS = [
    _files_to_features("ViT-B/32", 1.1),
    _files_to_features("RN50", 1.7),
    _files_to_features("clip-mini-rn", 2.5),
    _files_to_features("clip-mini-vit", 1.6),
    _share("ViT-B/32"),
    _share("deit_tiny_patch16_224"),
    _second_run("clip-mini-rn"),
    _second_run("clip-mini-vit"),
]
