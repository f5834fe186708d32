"""Pictures, and networks with random weights, that comparisons run on; made once, below build/."""

from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
PHOTOGRAPHS = ROOT.parent / "shared" / "data" / "fruits-360"  # where they are
WEIGHTS = ROOT / "data" / "weights"
SHAPES = {  # of OpenAI's models: embedding, input, layers, width, patch, text width, heads, layers
    "ViT-B/32": (512, 224, 12, 768, 32, 77, 49408, 512, 8, 12),
    "RN50": (1024, 224, (3, 4, 6, 3), 64, None, 77, 49408, 512, 8, 12),
}


def data_set():
    """The folder of the photographs, else of the embedded pictures."""
    return PHOTOGRAPHS if PHOTOGRAPHS.is_dir() else ROOT / "data" / "fruits-mini"


def some_pictures(count):
    """Paths of so many pictures, spread over all classes; fewer if there are no more: list."""
    import cliphelpers as ch

    paths = ch.index_images(data_set()).path
    places = np.linspace(0, len(paths) - 1, min(count, len(paths))).astype(int)
    return [str(Path(path).resolve()) for path in paths.iloc[places]]


def linked(paths, folder):
    """Links to pictures in a new folder, so that nothing is remembered of them: list of paths."""
    folder.mkdir(parents=True)
    links = [folder / f"{number}{Path(path).suffix}" for number, path in enumerate(paths)]
    for link, path in zip(links, paths, strict=True):
        link.symlink_to(path)
    return [str(link) for link in links]


def clip_file(name, folder):
    """The file of a CLIP: an embedded one, or one of OpenAI's shapes with random weights."""
    if name not in SHAPES:
        return str(WEIGHTS / f"{name}.pt")
    file = folder / f"{name.replace('/', '-')}.pt"
    if not file.exists():
        import torch

        from cliphelpers.encoders.pretrained import clip

        torch.manual_seed(0)
        model = clip.model.CLIP(*SHAPES[name])
        for layer in model.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):  # else a block's output is 0 times it, and
                layer.weight.data.fill_(1)
                layer.momentum = 1  # its statistics are those of the next batch
        with torch.no_grad():
            model.train().visual(torch.randn(8, 3, 1, 1) + torch.randn(8, 3, 224, 224) / 2)
        clip.model.convert_weights(model)
        torch.save(model.state_dict(), file)
    return str(file)


def timm_file(name, folder):
    """The file of one of timm's models with random weights."""
    file = folder / f"{name}.pt"
    if not file.exists():
        import timm
        import torch

        torch.manual_seed(0)
        torch.save(timm.create_model(name).state_dict(), file)
    return str(file)


def flops(module, size):
    """Floating-point operations of a network for one picture; attention, too, is counted."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        module(torch.zeros(1, 3, size, size))
    return counter.get_total_flops()
