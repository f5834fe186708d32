"""Encoders of open_clip against open_clip's own models, transforms, tokenizers and classifiers."""

import json
import re
from dataclasses import replace

import numpy as np
import open_clip
import pytest
import torch
from huggingface_hub import errors
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch.nn.functional import normalize as to_unit
from transformers import PreTrainedTokenizerFast

from cliphelpers.classifiers import text_weights
from cliphelpers.encoders.encoder import (
    EncoderError,
    encode_batch,
    encode_text,
    joint,
    normalize,
    random_twin,
    to_joint,
)
from cliphelpers.encoders.load import load_clips, load_encoder, tokenizer_of
from cliphelpers.images import read_image

TEXTS = ["a photo of a red apple.", "banana!", "", "Äpfel & déjà vu"]
NAMES, TEMPLATES = ["apple", "golden pear", "fig"], ["a photo of a {}.", "{}", "art of {}!"]
TEXT = {"context_length": 20, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
VIT = {"image_size": 64, "layers": 1, "width": 64, "patch_size": 16}
TIMM = {"image_size": 160, "timm_pool": "", "timm_proj": "linear"}
SIGLIP = {"no_causal_mask": True, "proj_bias": True, "pool_type": "last"}
CONFIGS = {  # small ones of the kinds that open_clip's own configurations have
    "tiny-vit": {"vision_cfg": VIT},
    "tiny-vit-quickgelu": {"vision_cfg": VIT, "quick_gelu": True},
    "tiny-rn": {"vision_cfg": VIT | {"layers": [1, 1, 1, 1], "width": 16, "patch_size": None}},
    "tiny-clipa": {
        "vision_cfg": VIT | {"no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True}
    },
    "tiny-coca": {
        "vision_cfg": VIT | {"attentional_pool": True, "output_tokens": True},
        "text_cfg": TEXT | {"embed_cls": True, "output_tokens": True},
        "multimodal_cfg": TEXT | {"attn_pooler_heads": 2},
        "custom_text": True,
    },
    "tiny-convnext": {"vision_cfg": TIMM | {"timm_model_name": "test_convnext"}},
    "tiny-mlp": {"vision_cfg": TIMM | {"timm_model_name": "test_resnet", "timm_proj": "mlp"}},
    "tiny-eva": {
        "vision_cfg": TIMM | {"timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": ""},
        "custom_text": True,
    },
    "tiny-mobile": {
        "vision_cfg": TIMM
        | {"timm_model_name": "test_efficientnet", "timm_pool": "avg", "timm_proj": None},
        "custom_text": True,
    },
    "tiny-sigmoid": {
        "vision_cfg": TIMM
        | {"timm_model_name": "test_vit3", "timm_pool": "map", "timm_proj": "none"},
        "text_cfg": TEXT | SIGLIP | {"width": 96, "context_length": 12},
        "embed_dim": 96, "init_logit_bias": -10, "custom_text": True,
    },
}  # fmt: skip
WIDTHS = {  # of the features before the projection
    "tiny-vit": 64, "tiny-vit-quickgelu": 64, "tiny-rn": 512, "tiny-clipa": 64, "tiny-coca": 24,
    "tiny-convnext": 64, "tiny-mlp": 96, "tiny-eva": 64, "tiny-mobile": 256, "tiny-sigmoid": 96,
}  # fmt: skip
CONFIGS = {name: {"embed_dim": 24, "text_cfg": TEXT} | one for name, one in CONFIGS.items()}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A file of random weights for each of the configurations, which open_clip then knows."""
    folder, made = tmp_path_factory.mktemp("openclip"), {}
    for name, config in CONFIGS.items():
        (folder / f"{name}.json").write_text(json.dumps(config))
        made[name] = folder / f"{name}.pt"
    open_clip.add_model_config(folder)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(7)
        for name, file in made.items():
            model = open_clip.create_model(name)
            for weight in model.parameters():
                weight.add_(torch.randn_like(weight) / 8)
            for layer in model.modules():
                if isinstance(layer, torch.nn.BatchNorm2d):
                    layer.momentum = 1
            side = CONFIGS[name]["vision_cfg"]["image_size"]
            model.train().visual(torch.randn(16, 3, side, side))  # statistics of batch norms
            torch.save(model.state_dict(), file)
    yield made
    open_clip.factory._MODEL_CONFIG_PATHS.remove(folder)
    for name in CONFIGS:
        del open_clip.factory._MODEL_CONFIGS[name]


@pytest.fixture
def paths(tmp_path):
    rng, made = np.random.default_rng(5), []
    for number, size in enumerate([(100, 100), (37, 91), (300, 120), (225, 224)]):
        colours = Image.fromarray(rng.integers(0, 256, (4, 5, 3), np.uint8)).resize(size)
        made.append(tmp_path / f"{number}.png")
        colours.save(made[-1])
    return made


@torch.no_grad()
def assert_as_openclip(encoder, model, transform, tokenizer, paths):
    """Pictures, texts, scores and zero-shot weights are open_clip's own to 1e-6."""
    model.eval()
    pictures = to_unit(model.encode_image(torch.stack([transform(Image.open(p)) for p in paths])))
    texts = to_unit(model.encode_text(tokenizer(TEXTS)))
    before = encode_batch(encoder, np.stack([encoder.preprocess(read_image(p)) for p in paths]))
    ours, words = to_joint(encoder, before), normalize(encode_text(encoder, TEXTS))
    scores = model.logit_scale.exp() * pictures @ texts.T
    np.testing.assert_allclose(ours / encoder.logit_scale, pictures, atol=1e-6)
    np.testing.assert_allclose(words, texts, atol=1e-6)
    np.testing.assert_allclose(ours @ words.T, scores, atol=1e-4)
    classifier = open_clip.build_zero_shot_classifier(model, tokenizer, NAMES, TEMPLATES)
    np.testing.assert_allclose(text_weights(encoder, NAMES, TEMPLATES), classifier.T, atol=1e-6)
    assert np.ptp(pictures.numpy(), axis=0).max() > 1e-3  # pictures do differ
    return before


@pytest.mark.parametrize("name", CONFIGS)
def test_every_kind_of_tower_is_open_clip_s_own(files, paths, name):
    model, _, transform = open_clip.create_model_and_transforms(name, str(files[name]))
    encoder = load_encoder(f"openclip:{name}@{files[name]}")
    before = assert_as_openclip(encoder, model, transform, open_clip.get_tokenizer(name), paths)
    seen = {key for key in encoder.text.state_dict() if key.startswith("visual.")}
    assert encoder.name == name and seen <= {"visual.conv1.weight"}  # the token embedding
    assert before.shape[1] == WIDTHS[name]
    side, rounded = encoder.preprocess.size, replace(encoder, precision="bf16")
    pictures = np.stack([encoder.preprocess(read_image(path)) for path in paths])
    low = encode_batch(rounded, pictures)
    cosines = (low * before).sum(1) / np.linalg.norm(low, axis=1) / np.linalg.norm(before, axis=1)
    assert cosines.min() >= 0.999 and (low != before).any()
    twin = encode_batch(random_twin(encoder), np.zeros((1, side, side, 3), np.uint8))
    assert twin.shape == (1, WIDTHS[name]) and np.isfinite(twin).all()


def save_siglip(folder, files, **preprocess):
    """A folder as open_clip publishes one; its tokenizer ends and pads with 1, as SigLIP's."""
    words = f"<pad> </s> <unk> {' '.join(TEXTS + NAMES + TEMPLATES)} red".split()
    words = dict.fromkeys(re.sub(r"[.!{}]", "", word) for word in words)
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        "$A </s>", special_tokens=[("</s>", 1)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="</s>", eos_token="</s>", unk_token="<unk>"
    )
    fast.save_pretrained(folder)
    config = CONFIGS["tiny-sigmoid"]
    text = config["text_cfg"] | {
        "hf_tokenizer_name": "unused",
        "tokenizer_kwargs": {"clean": "lower"},
    }
    whole = {"model_cfg": config | {"text_cfg": text}, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(whole))
    torch.save(torch.load(files["tiny-sigmoid"]), folder / "open_clip_pytorch_model.bin")
    return f"local-dir:{folder}"


@pytest.mark.parametrize(
    "preprocess",
    [
        {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"},
        {
            "mean": [0.0] * 3,
            "std": [1.0] * 3,
            "interpolation": "bilinear",
            "resize_mode": "shortest",
        },
    ],
)
def test_a_folder_has_its_own_preprocessing_and_tokenizer(files, tmp_path, paths, preprocess):
    name = save_siglip(tmp_path, files, **preprocess)
    (encoder,) = load_clips(["timm:x", f"openclip:{name}"], joint=True)
    model, transform = open_clip.create_model_from_pretrained(name)
    assert_as_openclip(encoder, model, transform, open_clip.get_tokenizer(name), paths)
    assert (encoder.name, encoder.joint) == (tmp_path.name, True)


def test_a_text_that_is_longer_than_the_encoder_reads_is_refused(files, tmp_path):
    siglip, tiny = (
        f"openclip:{save_siglip(tmp_path, files)}",
        f"openclip:tiny-vit@{files['tiny-vit']}",
    )
    for spec, length, ends in (
        (siglip, 12, 1),
        (tiny, 20, 2),
        ("openclip:PE-Core-T-16-384", 32, 2),
    ):
        tokenizer = tokenizer_of(spec)
        fits = " ".join(["red"] * (length - ends))
        assert tokenizer([fits]).shape == (1, length)
        if "PE" not in spec:  # whose weights are not here
            encoder = load_encoder(spec)
            assert encode_text(encoder, [fits]).shape[0] == 1
            for text in (f"{fits} red", f"{fits} " * 5):
                with pytest.raises(EncoderError, match=f"more than {length} tokens: 'red red"):
                    encode_text(encoder, ["short", text, fits])


def test_pictures_that_are_no_squares_are_refused_by_name(files, tmp_path, monkeypatch):
    wide = CONFIGS["tiny-vit"] | {"vision_cfg": VIT | {"image_size": [64, 96]}}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny-wide", wide)
    torch.save(open_clip.create_model("tiny-wide").state_dict(), tmp_path / "wide.pt")
    with pytest.raises(EncoderError, match="tiny-wide@.* wants pictures of 96x64.*not supported"):
        load_encoder(f"openclip:tiny-wide@{tmp_path / 'wide.pt'}")


def test_padding_to_a_square_is_refused_by_name(files, tmp_path):
    name = save_siglip(tmp_path, files, resize_mode="longest")
    with pytest.raises(EncoderError, match="160x160, resized by the longest side, which is not s"):
        load_encoder(f"openclip:{name}")


# ------------------------------------------------------------------------------- what a name says


@pytest.fixture
def tags(monkeypatch):
    """tiny-vit has two published weights of different preparation, tiny-eva one."""
    grey = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "resize_mode": "squash"}
    table = open_clip.pretrained._PRETRAINED
    monkeypatch.setitem(table, "tiny-vit", {"openai": {"quick_gelu": True}, "grey": grey})
    monkeypatch.setitem(table, "tiny-eva", {"only": grey | {"quick_gelu": True}})


def activations(encoder):
    return {type(layer.mlp.gelu).__name__ for layer in encoder.text.transformer.resblocks}


@pytest.mark.parametrize(
    ("name", "activation", "mean"),
    [
        ("tiny-vit", "GELU", 0.48145466),  # as the name says, and open_clip's own preparation
        ("tiny-vit-quickgelu", "QuickGELU", 0.48145466),
        ("tiny-vit/openai", "QuickGELU", 0.48145466),  # as the published weights were trained
        ("tiny-vit/grey", "GELU", 0.5),
    ],
)
def test_a_name_says_activation_and_preparation(files, tags, name, activation, mean):
    encoder = load_encoder(f"openclip:{name}@{files['tiny-vit']}")
    assert (activations(encoder), encoder.preprocess.mean[0]) == ({activation}, mean)
    assert encoder.name == name


def test_a_file_is_prepared_for_as_the_only_published_weights_are(files, tags):
    encoder = load_encoder(f"openclip:tiny-eva@{files['tiny-eva']}")
    assert (encoder.preprocess.mean, encoder.preprocess.squash) == ((0.5,) * 3, True)
    layers = encoder.text.text.transformer.resblocks
    assert type(layers[0].mlp.gelu).__name__ == "GELU"  # as the name says


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        ("tiny-vid@x.pt", "openclip has no model 'tiny-vid': did you mean tiny-vit"),
        ("zzzz", "openclip has no model 'zzzz', nor one of a similar name"),
        ("vit-b-32/openai", "did you mean ViT-B-32"),
        ("tiny-vit/foo", "openclip has no weights 'tiny-vit/foo', only openai, grey; a file is op"),
        ("tiny-vit", "no weights 'tiny-vit/.', only openai, grey; a file is openclip:tiny-vit@FIL"),
        ("tiny-rn", "openclip has no weights 'tiny-rn/.', only none at all; a file is openclip:ti"),
        ("tiny-rn@absent.pt", "There is no file absent.pt"),
        ("local-dir:absent", "openclip:local-dir:absent cannot be had.*not found: absent"),
    ],
)
def test_what_cannot_be_made_says_what_can(files, tags, rest, message):
    with pytest.raises(EncoderError, match=message):
        load_encoder(f"openclip:{rest}")


def test_a_folder_without_weights_is_not_taken_with_random_ones(files, tmp_path):
    save_siglip(tmp_path, files)
    (tmp_path / "open_clip_pytorch_model.bin").unlink()
    with pytest.raises(EncoderError, match="cannot be had; .*Required pretrained weights"):
        load_encoder(f"openclip:local-dir:{tmp_path}")


@pytest.mark.parametrize(
    "rest", ["ViT-B-32/laion2b_s34b_b79k", "ViT-B-16-SigLIP", "hf-hub:timm/ViT-B-16-SigLIP"]
)
def test_without_internet_the_error_says_what_to_do(monkeypatch, rest):
    def offline(*_, **__):
        raise errors.LocalEntryNotFoundError("Name or service not known")

    monkeypatch.setattr(open_clip.pretrained, "hf_hub_download", offline)
    monkeypatch.setattr(open_clip.pretrained, "_has_hf_hub", True)
    advice = "fetched on another machine it is openclip:MODEL/PRETRAINED@FILE or openclip:local-dir"
    with pytest.raises(EncoderError, match=f"openclip:{rest} cannot be had; {advice}"):
        load_encoder(f"openclip:{rest}")


def test_without_internet_a_tokenizer_is_missed_only_by_texts(files, tmp_path, monkeypatch, paths):
    """SigLIP's probes need none."""
    config = CONFIGS["tiny-sigmoid"]
    text = config["text_cfg"] | {"hf_tokenizer_name": str(tmp_path / "absent")}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny-far", config | {"text_cfg": text})
    encoder = load_encoder(f"openclip:tiny-far@{files['tiny-sigmoid']}")
    pictures = np.stack([encoder.preprocess(read_image(path)) for path in paths])
    assert encode_batch(encoder, pictures).shape == (4, 96)
    with pytest.raises(EncoderError, match="openclip:tiny-far's tokenizer cannot be had"):
        encode_text(encoder, ["apple"])


def test_a_joint_encoder_is_of_the_same_computation(files):
    for name, file in files.items():
        encoder = load_encoder(f"openclip:{name}@{file}")
        assert joint(encoder).key == encoder.key


def test_two_activations_have_two_keys(files):
    names = ["tiny-vit", "tiny-vit-quickgelu"]
    keys = {load_encoder(f"openclip:{name}@{files['tiny-vit']}").key for name in names}
    assert len(keys) == 2
