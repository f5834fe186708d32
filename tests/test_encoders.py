"""cliphelpers.encoders against the loaders and transforms of CLIP, timm and torchvision."""

import os
import pickle
import shutil
import urllib.request
from dataclasses import replace
from functools import partial
from pathlib import Path
from urllib.error import URLError

import clip
import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torchvision
from PIL import Image
from torch import nn
from torchvision import transforms as T

from cliphelpers.encoders import encoder as encoder_module
from cliphelpers.encoders.encoder import (
    Encoder,
    EncoderError,
    auto_precision,
    default_device,
    encode_batch,
    encode_text,
    fingerprint,
    joint,
    random_twin,
    raw_pixels,
    to_joint,
)
from cliphelpers.encoders.load import absolute, is_clip, load_clips, load_encoder, load_encoders
from cliphelpers.encoders.preprocess import Preprocess
from cliphelpers.images import read_image

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.load` is deprecated")  # of CLIP's own

SHARED = Path(__file__).parents[2] / "shared"
SIZES = [(100, 100), (64, 64), (37, 91), (300, 120), (65, 201), (225, 224), (224, 225), (500, 333)]
TEXTS = ["a photo of a red apple.", "banana", "", "Äpfel & 🍌, déjà vu!"]


def size_of(encoder):
    """D, the length of an encoder's feature vectors."""
    side = encoder.preprocess.size
    return encode_batch(encoder, np.zeros((1, side, side, 3), np.uint8)).shape[1]


def needs(path):
    return pytest.mark.skipif(not path.exists(), reason=f"there is no {path}")


@pytest.fixture
def paths(tmp_path):
    """Pictures of several sizes and shapes, smooth ones with noise, each of another colour."""
    rng, made = np.random.default_rng(5), []
    for number, size in enumerate(SIZES):
        picture = Image.fromarray(rng.integers(0, 256, (4, 5, 3), np.uint8)).resize(size)
        noisy = np.asarray(picture) + rng.normal(0, 10, (size[1], size[0], 3))
        made.append(tmp_path / f"{number}.png")
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(made[-1])
    return made


def encode(encoder, paths):
    return encode_batch(encoder, np.stack([encoder.preprocess(read_image(p)) for p in paths]))


def cosines(A, B):
    return (A * B).sum(1) / np.linalg.norm(A, axis=1) / np.linalg.norm(B, axis=1)


def unit(X):
    return X / np.linalg.norm(X, axis=1, keepdims=True)


def assert_same(ours, reference):
    """Cosine of each picture at least 0.9999, also about the mean picture, and equal length."""
    reference = np.asarray(reference)
    assert ours.dtype == np.float32 and ours.shape == reference.shape
    assert cosines(ours, reference).min() >= 0.9999
    mean = reference.mean(0)
    assert cosines(ours - mean, reference - mean).min() >= 0.9999
    np.testing.assert_allclose(ours, reference, rtol=1e-3, atol=1e-3 * reference.std())


# ------------------------------------------------------------------------------- CLIP


@torch.no_grad()
def clip_reference(file, paths):
    model, preprocess = clip.load(str(file), device="cpu")
    pictures = torch.stack([preprocess(Image.open(path)) for path in paths])
    texts = model.encode_text(clip.tokenize(TEXTS))
    per_image = model(pictures, clip.tokenize(TEXTS))[0]
    images, scale = model.encode_image(pictures), model.logit_scale.exp().item()
    return scale, images.numpy(), texts.numpy(), per_image.numpy()


def assert_as_clip(file, paths):
    scale, images, texts, logits = clip_reference(file, paths)
    encoder = load_encoder(f"clip:{file}")
    ours = to_joint(encoder, encode(encoder, paths))
    assert_same(ours, scale * unit(images))
    assert_same(encode_text(encoder, TEXTS), texts)
    scores = ours @ unit(encode_text(encoder, TEXTS)).T
    np.testing.assert_allclose(scores, logits, atol=1e-3)
    assert (scores.argmax(1) == logits.argmax(1)).all()
    return encoder


@pytest.mark.parametrize("kind", ["clip_vit", "clip_rn"])
def test_clip_equals_its_own_loader(request, paths, kind):
    encoder = assert_as_clip(request.getfixturevalue(kind), paths)
    assert (encoder.preprocess.size, encoder.features) == (64, "pre-projection")
    assert size_of(encoder) == {"clip_vit": 64, "clip_rn": 256}[kind]  # E is 32


@needs(SHARED / "weights" / "clip-mini-vit.pt")
def test_a_real_clip_equals_its_own_loader_on_photographs(paths):
    photographs = sorted((SHARED / "data" / "fruits-360" / "Test").glob("*/*.jpg"))[::700][:12]
    encoder = assert_as_clip(SHARED / "weights" / "clip-mini-vit.pt", photographs or paths)
    assert (encoder.name, encoder.preprocess.size) == ("CLIP clip-mini-vit", 224)


def test_features_before_the_projection_are_the_paper_s(clip_vit, paths):
    model, preprocess = clip.load(str(clip_vit), device="cpu")
    model.visual.proj = None  # CLIP's code then returns the class token after ln_post
    with torch.no_grad():
        expected = model.visual(torch.stack([preprocess(Image.open(path)) for path in paths]))
    assert_same(encode(load_encoder(f"clip:{clip_vit}"), paths), expected)


def test_texts_do_not_depend_on_their_batch(clip_vit):
    encoder = load_encoder(f"clip:{clip_vit}")
    many = encode_text(encoder, [f"a photo of number {i}" for i in range(300)])
    few = encode_text(encoder, [f"a photo of number {i}" for i in (0, 255, 256, 299)])
    np.testing.assert_allclose(many[[0, 255, 256, 299]], few, atol=1e-5)


def test_texts_are_read_no_further_than_the_longest_of_them(clip_vit, monkeypatch):
    encoder, read = load_encoder(f"clip:{clip_vit}"), []
    whole = encoder.text.encode_text(clip.tokenize(TEXTS)).detach()
    seen = encoder.text.encode_text
    monkeypatch.setattr(encoder.text, "encode_text", lambda t: read.append(t.shape[1]) or seen(t))
    np.testing.assert_allclose(encode_text(encoder, TEXTS), whole, atol=1e-5)
    assert read == [int((clip.tokenize(TEXTS) != 0).sum(1).max())] and read[0] < 77


def test_a_text_with_too_many_tokens_is_named(clip_vit):
    encoder = load_encoder(f"clip:{clip_vit}")
    fits, too_long = " ".join(["pear"] * 75), " ".join(["plum"] * 76)  # and start and end
    assert encode_text(encoder, [fits]).shape == (1, 32)
    with pytest.raises(EncoderError, match="more than 77 tokens: 'plum plum"):
        encode_text(encoder, ["short", too_long, fits])


def test_without_a_text_side_there_is_no_joint_embedding():
    for call in (joint, lambda encoder: encode_text(encoder, ["x"])):
        with pytest.raises(EncoderError, match="10x10 raw pixels has no text side"):
            call(raw_pixels())


@pytest.mark.parametrize("kind", ["clip_vit", "clip_rn"])
def test_the_joint_embedding_is_of_the_same_encoder(request, kind):
    """The same key: what has been computed for one is not computed again for the other."""
    encoder = load_encoder(f"clip:{request.getfixturevalue(kind)}")
    made = joint(encoder)
    assert (made.joint, made.features, made.name) == (True, "joint", encoder.name)
    assert (encoder.joint, encoder.features) == (False, "pre-projection")
    assert made.key == encoder.key


# ------------------------------------------------------------------------------- timm, torchvision


@torch.no_grad()
def timm_reference(model, paths):
    model.eval()
    config = timm.data.resolve_data_config({}, model=model)
    transform = timm.data.create_transform(**config)
    batch = torch.stack([transform(Image.open(path)) for path in paths])
    return model.forward_head(model.forward_features(batch), pre_logits=True)


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("test_vit", ".pt"),
        ("test_vit", ".safetensors"),
        ("test_convnext", ".pt"),
        ("test_efficientnet", ".safetensors"),
        ("levit_128s", ".pt"),  # its head has a batch norm
    ],
)
def test_timm_equals_its_own_transform_and_model(tmp_path, paths, name, suffix):
    model, file = timm.create_model(name), tmp_path / f"weights{suffix}"
    save = safetensors.torch.save_file if suffix == ".safetensors" else torch.save
    save(model.state_dict(), file)
    encoder = load_encoder(f"timm:{name}@{file}")
    some = paths if name.startswith("test_") else paths[::3]  # fewer for large models
    assert_same(encode(encoder, some), timm_reference(model, some))
    assert (encoder.name, encoder.features) == (name, "penultimate")


@needs(SHARED / "weights" / "deit_tiny_patch16_224.safetensors")
def test_deit_tiny_equals_timm(paths):
    file = SHARED / "weights" / "deit_tiny_patch16_224.safetensors"
    model = timm.create_model("deit_tiny_patch16_224", checkpoint_path=str(file))
    encoder = load_encoder(f"timm:deit_tiny_patch16_224@{file}")
    assert_same(encode(encoder, paths[::3]), timm_reference(model, paths[::3]))


def test_timm_models_that_squash_pictures_get_them_squashed(tmp_path, paths, monkeypatch):
    model, file = timm.create_model("test_vit"), tmp_path / "weights.pt"
    torch.save(model.state_dict(), file)
    model.pretrained_cfg["crop_mode"] = "squash"
    resolve = timm.data.resolve_model_data_config
    monkeypatch.setattr(
        timm.data, "resolve_model_data_config", lambda m: resolve(m) | {"crop_mode": "squash"}
    )
    encoder = load_encoder(f"timm:test_vit@{file}")
    assert_same(encode(encoder, paths), timm_reference(model, paths))


@pytest.mark.parametrize(
    "change", [{"crop_mode": "border"}, {"input_size": (3, 160, 96)}, {"input_size": (1, 28, 28)}]
)
def test_timm_models_with_another_preprocessing_are_refused(timm_spec, monkeypatch, change):
    resolve = timm.data.resolve_model_data_config
    monkeypatch.setattr(timm.data, "resolve_model_data_config", lambda m: resolve(m) | change)
    with pytest.raises(EncoderError, match="test_vit wants pictures prepared in a way"):
        load_encoder(timm_spec)


def test_names_as_timm_s_hub_has_them(timm_spec, monkeypatch):
    file = timm_spec.partition("@")[2]
    config = timm.get_pretrained_cfg("test_vit")

    def from_hub(name, **_):
        assert name == "someone/my_vit"
        return config, "test_vit", {}

    monkeypatch.setattr(timm.models._factory, "load_model_config_from_hf", from_hub)
    plain = load_encoder(timm_spec)
    for name, called in (
        ("timm/test_vit", "test_vit"),
        ("test_vit.r160_in1k", "test_vit.r160_in1k"),
        ("timm/test_vit.r160_in1k", "test_vit.r160_in1k"),
        ("hf-hub:someone/my_vit", "my_vit"),
    ):
        encoder = load_encoder(f"timm:{name}@{file}")
        assert (encoder.name, encoder.key) == (called, plain.key)


def test_an_interpolation_that_pillow_lacks_is_refused_at_once():
    for name in ("area", "random", "BICUBIC", ""):
        with pytest.raises(ValueError, match=f"Unknown interpolation '{name}': use one of nearest"):
            Preprocess(interpolation=name)


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "shufflenet_v2_x0_5"])
def test_torchvision_equals_its_own_transform_and_model(tmp_path, paths, name):
    model = torchvision.models.get_model(name).eval()
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    weights = torchvision.models.get_model_weights(name).DEFAULT
    batch = torch.stack([weights.transforms()(Image.open(path)) for path in paths])
    seen = []
    last = [layer for layer in model.modules() if isinstance(layer, nn.Linear)][-1]
    last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model(batch)
    encoder = load_encoder(f"torchvision:{name}@{tmp_path / 'weights.pth'}")
    assert_same(encode(encoder, paths), seen[0])


# ------------------------------------------------------------------------------- of one's own


class Small(nn.Module):
    def __init__(self, stride=2):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride)

    def forward(self, x):
        return self.conv(x).relu().mean((2, 3))


def small(stride=2, **more):
    torch.manual_seed(0)
    return Encoder("small", Small(stride), Preprocess(32, 40, "bilinear"), device="cpu", **more)


def test_a_module_of_one_s_own(paths):
    encoder = small()
    transform = T.Compose(
        [
            T.Resize(40),
            T.CenterCrop(32),
            T.ToTensor(),
            T.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    batch = torch.stack([transform(Image.open(path)) for path in paths])
    with torch.no_grad():
        assert_same(encode(encoder, paths), encoder.module(batch))
    assert size_of(encoder) == 8


MODULE = """
from pathlib import Path

from torch import nn
from cliphelpers import Encoder, Preprocess

SCALE = 2

class Mine(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 16)

    def forward(self, x):
        return SCALE * self.conv(x).flatten(1)  # a name of this file, used after it has been read

def encoder(file="none"):
    assert Path(__file__).is_absolute()
    return Encoder(f"mine of {file}", Mine(), Preprocess(16, 16))
"""


@pytest.mark.parametrize("kind", ["clip:", "timm:x@", "module:", "module:my@e.py@", "srgan@", ""])
@pytest.mark.parametrize("file", ["w.pt", "we@k/m.pt"])
def test_a_file_s_name_may_have_an_at_sign(tmp_path, kind, file):
    for path in (tmp_path / file, tmp_path / "my@e.py"):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    if kind == "module:my@e.py@":  # the first @ ends the name, for the loader, too
        assert absolute(f"{kind}{file}", tmp_path) == f"{kind}{file}"
    else:
        assert absolute(f"{kind}{file}", tmp_path) == f"{kind}{tmp_path / file}"


SEEDED = "super().__init__()\n        import torch\n        torch.manual_seed(0)"


def test_a_python_file_of_one_s_own(tmp_path, monkeypatch):
    (tmp_path / "my encoder.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    file = "my encoder.py"
    encoder = load_encoder(f"module:{file}", precision="bf16", device="cpu")
    assert (encoder.name, size_of(encoder), encoder.precision) == ("mine of none", 5, "bf16")
    assert load_encoder(f"module:{file}@weights.pt").name == "mine of weights.pt"


@pytest.mark.parametrize("text", ["", "def encoder():\n    return 3\n"])
def test_a_python_file_without_an_encoder(tmp_path, text):
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(EncoderError, match="mine.py needs a function encoder.. that returns an"):
        load_encoder(f"module:{tmp_path / 'mine.py'}")


def test_an_edited_python_file_is_another_encoder(tmp_path):
    """What its code does, weights and layers do not tell."""
    keys = []
    for text in (MODULE, MODULE.replace("SCALE = 2", "SCALE = 3"), MODULE):
        (tmp_path / "mine.py").write_text(text.replace("super().__init__()", SEEDED))
        keys.append(load_encoder(f"module:{tmp_path / 'mine.py'}").key)
    assert keys[0] == keys[2] != keys[1]


@pytest.mark.parametrize(
    ("gives", "words"),
    [
        (lambda x: x.mean((2, 3)) * float("nan"), "numbers that are not finite, in fp32"),
        (lambda x: x, r"give \(B, D\) numbers, D a picture, not \(5, 3, 32, 32\)"),
        (lambda x: x.mean((2, 3))[:3], r"D a picture, not \(3, 3\)"),
        (lambda x: (x.mean((2, 3)),), "D a picture, not tuple"),
        (lambda x: {"features": x}, "D a picture, not dict"),
    ],
)
def test_an_encoder_that_gives_no_features_is_named(gives, words):
    module = small().module
    module.forward = gives
    encoder = replace(small(), module=module)
    with pytest.raises(EncoderError, match=f"small .*{words}"):
        encode_batch(encoder, np.zeros((5, 32, 32, 3), np.uint8))


def test_a_resize_that_would_leave_a_border_is_refused():
    with pytest.raises(ValueError, match="resize 224 is less than size 384"):
        Preprocess(384)


def test_raw_pixels_by_hand():
    blocks = np.random.default_rng(0).integers(0, 256, (2, 2, 3), np.uint8)
    picture = Image.fromarray(blocks.repeat(10, 0).repeat(10, 1))
    encoder = raw_pixels(2)
    # Pillow's bilinear filter, shrinking by 10: a triangle of half width 10 about the centre.
    weights = np.array([1 - abs(i + 0.5 - 5) / 10 for i in range(15)])
    inner = weights[:10].sum() / weights.sum()
    mix = np.array([[inner, 1 - inner], [1 - inner, inner]])
    expected = np.einsum("ai,bj,ijc->cab", mix, mix, blocks / 255).reshape(1, -1)
    features = encode_batch(encoder, encoder.preprocess(picture)[None])
    np.testing.assert_allclose(features, expected, atol=1.5 / 255)
    assert (encoder.name, encoder.features, size_of(encoder)) == (
        "2x2 raw pixels", "pixels", 12,
    )  # fmt: skip


# ------------------------------------------------------------------------------- fingerprints


def test_the_fingerprint_is_that_of_the_weights_not_of_the_file(clip_vit, tmp_path):
    copy = shutil.copy(clip_vit, tmp_path / "another name.pt")
    one, other = load_encoder(f"clip:{clip_vit}"), load_encoder(f"clip:{copy}")
    assert fingerprint(one.module) == fingerprint(other.module) and one.key == other.key
    assert one.name != other.name


def test_the_fingerprint_changes_with_a_single_weight():
    one, other = small(), small()
    other.module.conv.weight.data[0, 0, 0, 0] += 1e-6
    assert fingerprint(one.module) == fingerprint(small().module) != fingerprint(other.module)


def test_the_fingerprint_changes_with_a_stride():
    assert fingerprint(small(stride=2).module) != fingerprint(small(stride=1).module)


@pytest.mark.parametrize(
    "change",
    [
        {"precision": "bf16"},
        {"preprocess": Preprocess(32, 41, "bilinear")},
        {"preprocess": Preprocess(32, 40, "bicubic")},
        {"preprocess": Preprocess(32, 40, "bilinear", mean=(0.5, 0.5, 0.5))},
        {"preprocess": Preprocess(32, 40, "bilinear", std=(0.5, 0.5, 0.5))},
        {"preprocess": Preprocess(32, 40, "bilinear", squash=True)},
    ],
)
def test_the_key_changes_with_preprocessing_and_precision(change):
    encoder = small()
    other = replace(encoder, **change)
    assert other.key != encoder.key and fingerprint(other.module) == fingerprint(encoder.module)
    assert replace(encoder, name="another").key == encoder.key


@pytest.mark.parametrize("kind", ["clip_vit", "clip_rn", "timm_spec", "own"])
def test_bf16_keeps_the_direction_of_features(request, paths, kind):
    """What precision "auto" chooses where a device computes it natively; elsewhere it is slow."""
    spec = "" if kind == "own" else str(request.getfixturevalue(kind))
    load = (
        small if kind == "own" else partial(load_encoder, spec if "@" in spec else f"clip:{spec}")
    )
    exact, rounded = encode(load(precision="fp32"), paths), encode(load(precision="bf16"), paths)
    assert cosines(exact, rounded).min() >= 0.999
    assert np.abs(exact - rounded).max() > 0


def test_auto_chooses_bf16_where_it_is_native(timm_spec, monkeypatch):
    units = dict.fromkeys(["_is_avx512_bf16_supported", "_is_amx_tile_supported"], False)

    def of(device, ampere=False, **more):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: ampere)
        for unit, there in (units | more).items():
            monkeypatch.setattr(torch.cpu, unit, lambda there=there: there)
        return auto_precision(device)

    assert [of("cpu"), of("cpu", ampere=True), of("cuda"), of("mps", ampere=True)] == ["fp32"] * 4
    assert [of("cuda", ampere=True), of("cuda:1", ampere=True)] == ["bf16"] * 2
    assert [of("cpu", **{unit: True}) for unit in units] == ["bf16"] * 2
    assert load_encoder(timm_spec).precision == "fp32"
    monkeypatch.setattr(encoder_module, "auto_precision", lambda device: "bf16")
    chosen = load_encoder(timm_spec, "auto")
    assert chosen.precision == "bf16" and chosen.key == load_encoder(timm_spec, "bf16").key
    assert chosen.key != load_encoder(timm_spec, "fp32").key
    assert load_encoders([timm_spec], "auto")[0].precision == "bf16"


@pytest.mark.parametrize(
    ("precision", "said"), [("fp32", ""), ("auto", ""), ("bf16", ", bf16"), ("fp16", ", fp16")]
)
def test_results_say_a_precision_other_than_fp32(clip_vit, timm_spec, precision, said):
    specs = [f"clip:{clip_vit}", timm_spec]
    whole, other = load_encoders(specs, precision)
    assert whole.features == f"pre-projection{said}" and other.features == f"penultimate{said}"
    both = [joint(whole), *load_clips(specs, precision, joint=True)]
    assert [one.features for one in both] == [f"joint{said}"] * 2
    assert random_twin(other).features == other.features


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_gpu_is_taken_where_there_is_one(monkeypatch, device):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert default_device() == "cpu"
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device(device))
    assert default_device() == device


@pytest.mark.parametrize("kind", ["clip_vit", "clip_rn", "timm_spec"])
def test_a_random_twin_depends_on_its_seed_alone(request, kind):
    spec = str(request.getfixturevalue(kind))
    encoder = load_encoder(spec if spec.startswith("timm") else f"clip:{spec}")
    before = {key: value.clone() for key, value in encoder.module.state_dict().items()}
    torch.manual_seed(11)
    state = torch.get_rng_state()
    twin = random_twin(encoder, 1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(12)
    assert fingerprint(random_twin(encoder, 1).module) == fingerprint(twin.module)
    assert fingerprint(random_twin(encoder, 2).module) != fingerprint(twin.module)
    assert (twin.name, twin.text) == (f"{encoder.name} (random weights)", None)
    assert twin.preprocess == encoder.preprocess
    assert size_of(twin) == size_of(encoder)
    for key, value in encoder.module.state_dict().items():
        assert torch.equal(value, before[key])
        if value.ndim > 1:
            drawn = twin.module.state_dict()[key]
            assert abs(np.corrcoef(drawn.flatten(), value.flatten())[0, 1]) < 0.5, key


# ------------------------------------------------------------------------------- several encoders


def saved(folder, names, state):
    """The same state dict in several files."""
    files = [folder / name for name in names]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(state, file)
    return files


@pytest.mark.parametrize(
    ("kind", "names", "labels"),
    [
        ("clip:", ["runA/model.pt", "runB/model.pt"], ["runA", "runB"]),
        ("clip:", ["a/x/model.pt", "a/y/model.pt", "b/x/model.pt"], ["a/x", "y", "b/x"]),
        ("clip:", ["a/best/model.pt", "b/last/model.pt"], ["best", "last"]),
        ("timm:test_vit@", ["one.pt", "two.pt"], ["one.pt", "two.pt"]),
        ("timm:test_vit@", ["x/epoch_3.pt", "y/z/epoch_3.pt"], ["x", "z"]),
        ("torchvision:shufflenet_v2_x0_5@", ["1/a.pth", "2/a.pth"], ["1", "2"]),
    ],
)
def test_encoders_of_one_name_are_told_apart_by_the_shortest_part(
    tmp_path, weights, kind, names, labels
):
    """Results are told apart by names: the last would have replaced the others without a word."""
    files = saved(tmp_path, names, torch.load(weights[kind]))
    specs = [f"{kind}{file}" for file in files]
    name = load_encoder(specs[0]).name
    loaded = load_encoders([specs[0], "module:" + str(module(tmp_path)), *specs[1:]])
    assert loaded.pop(1).name == "mine of none"
    assert [one.name for one in loaded] == [f"{name} ({label})" for label in labels]


def module(folder, name="my encoder.py"):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(MODULE)
    return folder / name


def test_encoders_of_several_kinds_can_have_one_name(tmp_path):
    specs = [f"module:{module(tmp_path, name)}" for name in ("a/mine.py", "b/mine.py")]
    specs += [f"module:{module(tmp_path, 'a/mine.py')}@none"]
    names = [one.name for one in load_encoders(specs)]
    assert names == [
        "mine of none (a/mine.py)",
        "mine of none (b/mine.py)",
        "mine of none (none)",
    ]
    net = torchvision.models.resnet18().state_dict()
    (file,) = saved(tmp_path, ["net.pth"], net)
    names = [
        one.name for one in load_encoders([f"{k}:resnet18@{file}" for k in ("timm", "torchvision")])
    ]
    assert names == ["resnet18 (timm)", "resnet18 (torchvision)"]


def test_the_same_encoder_twice_is_refused(clip_vit, timm_spec, monkeypatch):
    monkeypatch.chdir(clip_vit.parent)
    same = [f"clip:{clip_vit.name}", f"clip:./{clip_vit.name}"]
    for specs in ([timm_spec, timm_spec], same, [*same[:1], timm_spec, *same[:1]]):
        with pytest.raises(EncoderError, match="The same encoder twice: "):
            load_encoders(specs)


def test_a_list_of_encoders_goes_to_notebooks_that_need_clips(clip_vit, clip_rn, timm_spec):
    specs = [f"clip:{clip_vit}", timm_spec, f"clip:{clip_rn}"]
    assert [one.name for one in load_clips(specs)] == ["CLIP tiny-vit", "CLIP tiny-rn"]
    assert [one.joint for one in load_clips(specs[:1], joint=True)] == [True]
    assert [is_clip(spec) for spec in [*specs, "openclip:x", "module:clip:x"]] == [
        True, False, True, True, False,
    ]  # fmt: skip
    with pytest.raises(EncoderError, match="There is no CLIP .* among the encoders .'timm:"):
        load_clips([timm_spec])


# ------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "Unknown encoder '': begin with clip, openclip, timm, torchvision"),
        ("clip", "Unknown encoder 'clip'"),
        ("clip:", "Unknown encoder 'clip:'"),
        ("clop:RN50", "Unknown encoder 'clop:RN50'"),
        ("clip:RN51", "clip has no model 'RN51': did you mean RN50"),
        ("clip:vit-b/32", r"clip has no model 'vit-b/32': did you mean ViT-B/32\?$"),
        ("clip:zzzz", "clip has no model 'zzzz', nor one of a similar name"),
        ("timm:my_own_network", "timm has no model 'my_own_network', nor one of a similar name"),
        ("timm:resnet50.foo", "no weights 'resnet50.foo', only a1_in1k, .*is timm:resnet50@FILE"),
        (
            "timm:test_vit.x@y.pt",
            "timm has no weights 'test_vit.x', only r160_in1k; a file is timm",
        ),
        ("timm:timm/test_vit.x", "timm has no weights 'test_vit.x', only r160_in1k"),
        ("timm:deit_tini_patch16_224", "did you mean deit_tiny_patch16_224"),
        ("timm:test_vit9@x.pt", "timm has no model 'test_vit9': did you mean test_vit"),
        ("torchvision:resnet51", "did you mean .*resnet50"),
        ("torchvision:ResNet50", "did you mean resnet50"),
        ("clip:absent.pt", "There is no file absent.pt"),
        ("timm:test_vit@absent.pt", "There is no file absent.pt"),
        ("torchvision:resnet18@absent.pth", "There is no file absent.pth"),
        ("module:absent.py", "There is no file absent.py"),
    ],
)
def test_unknown_names_and_missing_files(spec, message):
    with pytest.raises(EncoderError, match=message):
        load_encoder(spec)


def test_an_unknown_precision(timm_spec):
    with pytest.raises(EncoderError, match="Unknown precision 'fp8': use auto, fp32, bf16, fp16"):
        load_encoder(timm_spec, precision="fp8")


def test_torchvision_models_whose_last_layer_is_not_linear():
    with pytest.raises(EncoderError, match="SqueezeNet has no linear layer"):
        load_encoder("torchvision:squeezenet1_0@x.pth")


KINDS = ["clip:", "timm:test_vit@", "torchvision:shufflenet_v2_x0_5@"]


@pytest.fixture(scope="session")
def whole_files(tmp_path_factory, clip_vit, timm_spec):
    """A whole file of weights for each kind of KINDS."""
    shuffle = tmp_path_factory.mktemp("weights") / "shuffle.pth"
    torch.save(torchvision.models.shufflenet_v2_x0_5().state_dict(), shuffle)
    return [clip_vit, timm_spec.partition("@")[2], shuffle]


@pytest.fixture
def weights(tmp_path, whole_files):
    """The same in a folder of the test's own."""
    copies = [Path(shutil.copy(file, tmp_path)) for file in whole_files]
    return dict(zip(KINDS, copies, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_truncated_weights(weights, kind):
    file = weights[kind]
    load_encoder(f"{kind}{file}")
    content = file.read_bytes()
    for share in (0, 0.001, 0.5, 0.999):
        file.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(EncoderError, match=f"{file.name} holds no .*damaged"):
            load_encoder(f"{kind}{file}")


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_another_architecture(weights, kind, tmp_path):
    for other in [weights[name] for name in KINDS if name != kind]:
        with pytest.raises(EncoderError, match="does not fit|holds no CLIP") as caught:
            load_encoder(f"{kind}{other}")
        assert str(other) in str(caught.value) and len(str(caught.value)) < 600


def test_a_wider_model_s_weights_do_not_fit(tmp_path):
    torch.save(torchvision.models.shufflenet_v2_x1_0().state_dict(), tmp_path / "wide.pth")
    with pytest.raises(EncoderError, match="wide.pth does not fit torchvision:shufflenet_v2_x0_5"):
        load_encoder(f"torchvision:shufflenet_v2_x0_5@{tmp_path / 'wide.pth'}")


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_holds_no_state_dict(weights, kind):
    torch.save([1, 2], weights[kind])
    with pytest.raises(EncoderError, match="holds no (CLIP|state dict)"):
        load_encoder(f"{kind}{weights[kind]}")


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        ("clip:", "visual.conv1.weight"),
        ("clip:", "visual.proj"),
        ("clip:", "token_embedding.weight"),
        ("timm:test_vit@", "patch_embed.proj.weight"),
        ("torchvision:shufflenet_v2_x0_5@", "conv1.1.running_var"),
    ],
)
def test_weights_that_are_not_finite(weights, kind, key):
    state = torch.load(weights[kind])
    state[key].view(-1)[-1] = float("nan")
    torch.save(state, weights[kind])
    with pytest.raises(EncoderError, match="are not finite numbers"):
        load_encoder(f"{kind}{weights[kind]}")


class Bomb:
    """Its unpickling makes a folder, as it could do anything else."""

    def __init__(self, place):
        self.place = str(place)

    def __reduce__(self):
        return os.mkdir, (self.place,)


def save_pickle(content, file):
    file.write_bytes(pickle.dumps(content))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("save", [torch.save, save_pickle])
def test_pickled_code_is_not_executed(tmp_path, kind, save):
    file, place = tmp_path / "weights.pt", tmp_path / "executed"
    save({"conv1.weight": Bomb(place)}, file)
    with pytest.raises(EncoderError, match="pickled code, which is not executed"):
        load_encoder(f"{kind}{file}")
    assert not place.exists()
    torch.load(file, weights_only=False) if save is torch.save else pickle.loads(file.read_bytes())
    assert place.exists()  # so the file was dangerous


def offline(*_, **__):
    raise URLError("Name or service not known")


@pytest.mark.parametrize(
    ("spec", "advice"),
    [
        ("clip:ViT-B/32", "Fetch https://.*ViT-B-32.pt .* use clip:FILE"),
        ("timm:deit_tiny_patch16_224", "use timm:deit_tiny_patch16_224@FILE"),
        ("torchvision:resnet18", "use torchvision:resnet18@FILE"),
    ],
)
def test_without_internet_the_error_says_what_to_do(tmp_path, monkeypatch, spec, advice):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(urllib.request, "urlopen", offline)
    monkeypatch.setattr(torch.hub, "urlopen", offline)
    monkeypatch.setattr(timm.models._builder, "load_state_dict_from_hf", offline)
    with pytest.raises(EncoderError, match=f"{spec} could not be downloaded.*{advice}"):
        load_encoder(spec)
