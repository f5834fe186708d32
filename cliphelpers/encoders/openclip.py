"""Encoders of open_clip: OpenCLIP, MetaCLIP, DFN, MobileCLIP2, SigLIP, PE-Core and others.

open_clip is imported by the functions that use it, since most runs do not.
"""

import logging
from functools import cache
from pathlib import Path

from cliphelpers.encoders.encoder import EncoderError
from cliphelpers.encoders.preprocess import Preprocess
from cliphelpers.encoders.pretrained import check_name, clip_encoder
from cliphelpers.encoders.weights import explained, read_state

# it logs, as root, that a model is random, also where its file is read a moment later
logging.getLogger().addFilter(lambda record: "open_clip" not in record.pathname)


def load_openclip(rest):
    """The encoder of ``openclip:MODEL[/PRETRAINED][@FILE]``, of a hub's name or of a folder.

    PRETRAINED says of a file, too, how pictures are prepared and which GELU is meant. Without it
    the only one that there is says the first, and MODEL's name the second.
    """
    import open_clip

    name, tag, file = _parts(rest)
    tags = [tag] if tag else open_clip.list_pretrained_tags_by_model(name)
    published = [open_clip.get_pretrained_cfg(name, one) for one in tags]
    with _having(rest):
        model = open_clip.create_model(
            name, None if file else tag, require_pretrained=not file, pretrained_text=False,
            force_quick_gelu=bool(tag) and published[0].get("quick_gelu", False),
            force_preprocess_cfg=published[0] if len(tags) == 1 else None,
        )  # fmt: skip
    if file:
        state = read_state(file, model.state_dict())
        with explained(f"{file} does not fit openclip:{name}"):
            model.load_state_dict(open_clip.convert.convert_state_dict(model, state))
    look = open_clip.transform.PreprocessCfg(**model.visual.preprocess_cfg)
    height, side = open_clip.utils.to_2tuple(look.size)
    if height != side or look.resize_mode == "longest":
        way = f"pictures of {side}x{height}, resized by the {look.resize_mode} side"
        raise EncoderError(f"openclip:{rest} wants {way}, which is not supported")
    way = look.interpolation, tuple(look.mean), tuple(look.std), look.resize_mode == "squash"
    model.visual.output_tokens = False  # of CoCa
    label = Path(name.rpartition(":")[2]).absolute().name if ":" in name else rest.partition("@")[0]
    return clip_encoder(label, model, Preprocess(side, side, *way), openclip_tokenizer(rest))


def openclip_tokenizer(rest):
    """The tokenizer of :func:`load_openclip`'s encoder, which is fetched when it is first used."""
    name = _parts(rest)[0]
    return lambda texts, context_length=None: _tokenizer(name)(texts, context_length)


@cache
def _tokenizer(name):
    import open_clip

    with _having(f"{name}'s tokenizer"):
        return open_clip.get_tokenizer(name)


def _having(what):
    place = "openclip:MODEL/PRETRAINED@FILE or openclip:local-dir:FOLDER"
    return explained(f"openclip:{what} cannot be had; fetched on another machine it is {place}")


def _parts(rest):
    """What a text says: MODEL, PRETRAINED and FILE, of which the last two can be empty."""
    import open_clip

    if rest.startswith(("hf-hub:", "local-dir:")):
        return rest, "", ""
    which, _, file = rest.partition("@")
    name, mark, tag = which.partition("/")
    tags = open_clip.list_pretrained_tags_by_model(name)
    if not mark and not file:  # the only one
        tag = tags[0] if len(tags) == 1 else "?"
    names = open_clip.list_models() + ["/".join(pair) for pair in open_clip.list_pretrained()]
    check_name("openclip", f"{name}/{tag}" if tag else name, names, "/")
    return name, tag, file
