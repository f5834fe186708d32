"""Encoders of open_clip: OpenCLIP, MetaCLIP, DFN, MobileCLIP2, SigLIP, PE-Core and others.

open_clip is imported by the functions that use it, since most runs do not.
"""

from functools import cache
from pathlib import Path

from torch import nn

from cliphelpers.encoders.encoder import Encoder, EncoderError
from cliphelpers.encoders.preprocess import Preprocess
from cliphelpers.encoders.pretrained import before_projection, check_name, choice, downloading
from cliphelpers.encoders.weights import explained, read_state


def load_openclip(rest):
    """The encoder of ``openclip:MODEL[/PRETRAINED][@FILE]``, ``hf-hub:NAME`` or ``local-dir:FOLDER``.

    PRETRAINED says of a file, too, how pictures are prepared and which GELU is meant. Without it
    the only one that there is says the first, and MODEL's name the second.
    """  # noqa: E501
    import open_clip

    name, tag, file = _parts(rest)
    tags = [tag] if tag else open_clip.list_pretrained_tags_by_model(name)
    published = [open_clip.get_pretrained_cfg(name, one) for one in tags]
    with _having(name, tag):
        model = open_clip.create_model(
            name, None if file else tag, require_pretrained=not file, pretrained_text=False,
            force_quick_gelu=bool(tag) and published[0].get("quick_gelu", False),
            force_preprocess_cfg=published[0] if len(tags) == 1 else None,
        )  # fmt: skip
    if file:
        _load_file(model, file, name)
    model.visual.output_tokens = False  # of CoCa
    preprocess = _preprocess(model.visual.preprocess_cfg, rest)
    module, projection = before_projection(model.visual)
    model.visual = None  # what is left is the text side
    label = Path(name.rpartition(":")[2]).absolute().name if ":" in name else rest.partition("@")[0]
    features = "embedding" if isinstance(projection, nn.Identity) else "pre-projection"
    scale, bias = model.logit_scale.exp().item(), model.logit_bias
    return Encoder(
        label, module, preprocess, features, model, openclip_tokenizer(rest), projection, scale,
        0.0 if bias is None else bias.item(),
    )  # fmt: skip


def openclip_tokenizer(rest):
    """The tokenizer of :func:`load_openclip`'s encoder, which is fetched when it is first used."""
    name = _parts(rest)[0]
    return lambda texts, context_length=None: _tokenizer(name)(texts, context_length)


@cache
def _tokenizer(name):
    import open_clip

    place = "openclip:local-dir:FOLDER with its files beside the weights"
    with explained(f"The tokenizer of {name} cannot be had. Without internet use {place}"):
        return open_clip.get_tokenizer(name)


def _parts(rest):
    """What a text says: MODEL, PRETRAINED and FILE, of which the last two can be empty."""
    import open_clip

    if rest.startswith(("hf-hub:", "local-dir:")):
        return rest, "", ""
    which, _, file = rest.partition("@")
    names = open_clip.list_models() + ["/".join(pair) for pair in open_clip.list_pretrained()]
    check_name("openclip", which, names, "/")
    name, _, tag = which.partition("/")
    tags = open_clip.list_pretrained_tags_by_model(name)
    if not tag and not file:
        if len(tags) != 1:
            known = choice("openclip", name, names, "/")
            raise EncoderError(f"openclip:{name} does not say which weights: {known}")
        tag = tags[0]
    return name, tag, file


def _having(name, tag):
    if ":" in name:
        offline = "without internet use openclip:local-dir:FOLDER with what the hub has"
        return explained(f"openclip:{name} cannot be had; {offline}")
    return downloading(f"openclip:{name}" + f"/{tag}" * bool(tag))


def _load_file(model, file, name):
    import open_clip

    state = read_state(file, model.state_dict())
    with explained(f"{file} does not fit openclip:{name}"):
        state = open_clip.convert.convert_state_dict(model, state)  # Apple's names
        if hasattr(model, "text"):  # OpenAI's names
            state = open_clip.convert_to_custom_text_state_dict(state)
        model.load_state_dict(state)


def _preprocess(config, rest):
    size, mode = config["size"], config["resize_mode"]
    sides = {size} if isinstance(size, int) else {*size}
    if len(sides) > 1 or mode not in ("shortest", "squash"):
        wanted = f"pictures of {size} pixels, brought there by {mode}"
        raise EncoderError(f"openclip:{rest} wants {wanted}: that is not supported")
    side, way = sides.pop(), "bilinear" if config["interpolation"] == "bilinear" else "bicubic"
    mean, std = (tuple(config[name]) for name in ("mean", "std"))
    return Preprocess(side, side, way, mean, std, mode == "squash")
