"""Weights as people save them: unwrapped without executing anything, or refused with a reason."""

import argparse
import shutil

import clip
import numpy as np
import open_clip
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file

from cliphelpers.encoders.encoder import EncoderError, encode_text, fingerprint
from cliphelpers.encoders.load import load_encoder
from cliphelpers.encoders.weights import read_state

KINDS = ["clip:", "openclip:ViT-S-32-alt@", "timm:test_vit@", "torchvision:shufflenet_v2_x0_5@"]


@pytest.fixture(scope="module")
def states(clip_vit, timm_spec):
    """A state dict for each kind of KINDS."""
    small = {"layers": 1, "width": 64, "heads": 1}
    with pytest.MonkeyPatch.context() as patch:
        config = open_clip.get_model_config("ViT-S-32-alt")
        config["vision_cfg"] |= {"layers": 1}
        config["text_cfg"] |= small
        patch.setitem(open_clip.factory._MODEL_CONFIGS, "ViT-S-32-alt", config)
        models = open_clip.create_model("ViT-S-32-alt"), torchvision.models.shufflenet_v2_x0_5()
        states = torch.load(clip_vit), torch.load(timm_spec.partition("@")[2])
        made = states[0], models[0].state_dict(), states[1], models[1].state_dict()
        yield dict(zip(KINDS, made, strict=True))


def other(state):
    """The same names with other values."""
    return {name: torch.zeros_like(value) for name, value in state.items()}


def prefixed(prefix, state):
    return {prefix + name: value for name, value in state.items()}


SAVED = {  # how trainings wrap a state dict, and where the weights are then said to be taken from
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "model": lambda state: {"model": state, "optimizer": {"state": {0: {"exp": torch.ones(3)}}}},
    "net.module": lambda state: {"net": prefixed("module.", state), "acc": np.float64(0.9)},
    "module": lambda state: prefixed("module.", state),
    "_orig_mod.module": lambda state: prefixed("_orig_mod.module.", state),
    "state_dict.model": lambda state: {  # Lightning
        "state_dict": prefixed("model.", state) | {"loss.weight": torch.ones(2)},
        "hyper_parameters": argparse.Namespace(lr=1e-3),
    },
    "state_dict_ema": lambda state: {"state_dict": other(state), "state_dict_ema": state},
    "model_ema.module": lambda state: {
        "model": prefixed("module.", other(state)),
        "model_ema": prefixed("module.", state),
    },
    "ema": lambda state: other(state) | prefixed("ema.", state),
}


def of_everything(encoder):
    """The fingerprints of an encoder's parts."""
    parts = filter(None, (encoder.module, encoder.projection, encoder.text))
    return [fingerprint(part) for part in parts]


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_found_wherever_a_training_saved_them(states, tmp_path, kind):
    file = tmp_path / "weights.pt"
    torch.save(states[kind], file)
    plain = of_everything(load_encoder(f"{kind}{file}"))
    for place, save in SAVED.items():
        torch.save(save(states[kind]), file)
        with pytest.warns(UserWarning, match=f"weights.pt: the weights are taken from {place}$"):
            assert of_everything(load_encoder(f"{kind}{file}")) == plain


def test_timm_s_own_training_checkpoint(tmp_path):
    """With the arguments as an object, the optimizer, and averages, which timm takes, too."""
    model, averaged = timm.create_model("test_vit"), timm.create_model("test_vit")
    averages = timm.utils.ModelEmaV3(averaged)
    saver = timm.utils.CheckpointSaver(
        model, torch.optim.AdamW(model.parameters()), model_ema=averages, checkpoint_dir=tmp_path,
        args=argparse.Namespace(model="test_vit", lr=1e-3, betas=(0.9, 0.99)), max_history=1,
    )  # fmt: skip
    saver.save_checkpoint(epoch=1, metric=0.5)
    file = tmp_path / "last.pth.tar"
    with pytest.warns(UserWarning, match="taken from state_dict_ema"):
        encoder = load_encoder(f"timm:test_vit@{file}")
    averaged.reset_classifier(0)
    expected = averaged.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    assert fingerprint(encoder.module) == fingerprint(expected)


def test_of_several_models_none_is_chosen(states, tmp_path):
    state, file = states["timm:test_vit@"], tmp_path / "dino.pt"
    for names in (("student", "teacher"), ("a.b", "a.c"), ("d_ema", "g_ema")):
        torch.save({name: other(state) for name in names}, file)
        with pytest.raises(EncoderError, match=rf"several models \({names[0]}., {names[1]}.\)"):
            load_encoder(f"timm:test_vit@{file}")


@pytest.mark.parametrize("kind", KINDS)
def test_what_does_not_fit_says_which_names(states, tmp_path, kind):
    file, state = tmp_path / "weights.pt", dict(states[kind])
    inner = [name for name, value in state.items() if value.ndim > 1 and "0." in name]
    some = inner[len(inner) // 2]  # no layer from whose shape an architecture is told
    for change, message in (
        ({some: None}, some),
        ({"visual.more": torch.ones(2)}, "visual.more"),
        ({some: torch.ones(7, 7)}, some),
    ):
        changed = {key: value for key, value in (state | change).items() if value is not None}
        torch.save({"model": changed}, file)
        with pytest.warns(UserWarning, match="model$"), pytest.raises(EncoderError) as caught:
            load_encoder(f"{kind}{file}")
        assert message in str(caught.value) and "damaged" not in str(caught.value)


class Call:
    """Its unpickling calls something with a path."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def test_code_beside_weights_is_not_executed(states, tmp_path):
    file, kept = tmp_path / "weights.pt", tmp_path / "kept"
    kept.mkdir()
    state = states["timm:test_vit@"]
    for harm in (Call(shutil.rmtree, str(kept)), Call(exec, f"import os; os.rmdir({str(kept)!r})")):
        torch.save({"state_dict": state, "args": harm}, file)
        with pytest.warns(UserWarning, match="taken from state_dict"):
            load_encoder(f"timm:test_vit@{file}")
        assert kept.is_dir()
    torch.load(file, weights_only=False)
    assert not kept.exists()  # so it was dangerous


def test_a_whole_pickled_model_is_refused(tmp_path):
    torch.save(timm.create_model("test_vit"), tmp_path / "model.pt")
    with pytest.raises(EncoderError, match="model.pt holds no state dict"):
        load_encoder(f"timm:test_vit@{tmp_path / 'model.pt'}")


def test_without_names_all_tensors_are_read_with_theirs(tmp_path):
    torch.save({"a": {"b": torch.ones(2), "c": 3}, "d": torch.zeros(1)}, tmp_path / "x.pt")
    assert {name: len(value) for name, value in read_state(tmp_path / "x.pt").items()} == {
        "a.b": 2, "d": 1,
    }  # fmt: skip


# ------------------------------------------------------------------------------- GELU, QuickGELU


@pytest.fixture(scope="module")
def twins():
    """One CLIP's weights as OpenAI's code and as open_clip write them: in another order."""
    shape = {"layers": 1, "width": 64}
    image = shape | {"image_size": 32, "patch_size": 16}
    ours = clip.model.CLIP(16, 32, 1, 64, 16, 77, 49408, 64, 1, 1)
    clip.model.convert_weights(ours)
    theirs = open_clip.CLIP(16, image, shape | {"heads": 1})
    theirs.load_state_dict(ours.state_dict())
    config = {"embed_dim": 16, "vision_cfg": image, "text_cfg": shape | {"heads": 1}}
    with pytest.MonkeyPatch.context() as patch:
        for name, quick in (("twin", False), ("twin-quickgelu", True)):
            whole = config | {"quick_gelu": quick}
            patch.setitem(open_clip.factory._MODEL_CONFIGS, name, whole)
        yield ours.state_dict(), theirs.state_dict()


def activation(encoder):
    return type(encoder.text.transformer.resblocks[0].mlp.gelu).__name__


def save_tensors(state, file):
    save_file({name: value.contiguous() for name, value in state.items()}, file)


@pytest.mark.parametrize(
    ("save", "name"),
    [
        (torch.save, "plain.pt"),
        (lambda state, file: torch.save({"epoch": 3, "state_dict": state}, file), "epoch_3.pt"),
        (lambda state, file: torch.save(prefixed("module.", state), file), "parallel.pt"),
        (save_tensors, "model.safetensors"),  # which does not keep the order
    ],
)
@pytest.mark.filterwarnings("ignore:.*the weights are taken from")
def test_what_may_have_been_trained_with_gelu_is_not_run_with_quickgelu(
    twins, tmp_path, save, name
):
    openai, openclip = twins
    file = tmp_path / name
    save(openclip, file)
    with pytest.raises(EncoderError, match=f"{name} may have been trained with GELU.* openclip:MO"):
        load_encoder(f"clip:{file}")
    assert activation(load_encoder(f"openclip:twin@{file}")) == "GELU"
    quick = load_encoder(f"openclip:twin-quickgelu@{file}")
    assert activation(quick) == "QuickGELU"
    save(openai, file)
    if file.suffix == ".pt":
        encoder = load_encoder(f"clip:{file}")
        assert activation(encoder) == "QuickGELU"
        np.testing.assert_allclose(
            encode_text(encoder, ["an apple"]), encode_text(quick, ["an apple"]), atol=1e-5
        )
