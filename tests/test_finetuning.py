"""One training loop: its parts against formulas, interruption, repeatability, and what is kept."""

import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from cliphelpers.classifiers import Ridge, fit_chosen, text_weights
from cliphelpers.encoders.encoder import Encoder, encode_batch, fingerprint, joint
from cliphelpers.encoders.load import load_encoder
from cliphelpers.encoders.preprocess import Preprocess
from cliphelpers.features import extract_features
from cliphelpers.finetuning import augmentation, model, training
from cliphelpers.finetuning.augmentation import AUGMENTATIONS, choose_augmentation, photo, turntable
from cliphelpers.finetuning.model import contrastive_loss, interpolate
from cliphelpers.finetuning.training import (
    FineTuneError,
    Recipe,
    Training,
    augmented_features,
    fine_tune,
)
from cliphelpers.index import index_images, targets
from cliphelpers.splits import make_splits
from cliphelpers.study import Study

SLOW = Recipe(epochs=3, batch=8, rate=1e-4, head_rate=1e-3)
NONE = np.array([], int)


def size_of(encoder):
    """D, the length of an encoder's feature vectors."""
    side = encoder.preprocess.size
    return encode_batch(encoder, np.zeros((1, side, side, 3), np.uint8)).shape[1]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPHELPERS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def index(fruits):
    return index_images(fruits)


@pytest.fixture(scope="module")
def fold(index):
    """24 training pictures, 8 of a class each, and 24 for validation, by clip."""
    return make_splits(index, ["by_group"])["by_group"][0]


@pytest.fixture(scope="module")
def encoders(clip_vit, clip_rn, timm_spec):
    """Encoders by name; of the CLIPs with the joint embedding."""
    clips = {"vit": clip_vit, "rn": clip_rn}
    loaded = {name: joint(load_encoder(f"clip:{file}")) for name, file in clips.items()}
    return loaded | {"timm": load_encoder(timm_spec)}


@pytest.fixture(scope="module")
def start(index, fold, encoders):
    """ML of the tiny CLIP from text weights."""
    weights = text_weights(encoders["vit"], ["apple", "banana", "fig", "kiwi"], ["{}"]).T
    return Training(encoders["vit"], fold, index, SLOW, (weights, np.zeros(4, np.float32)))


@pytest.fixture(scope="module")
def whole(start, tmp_path_factory):
    """What comes of ``start`` and of CS from there, never interrupted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPHELPERS_CACHE", str(tmp_path_factory.mktemp("whole")))
        return dict(zip(["ML", "CS"], fine_tune([start, replace(start, head=None)]), strict=True))


def tune(one):
    (tuned,) = fine_tune([one])
    return tuned


def weights(tuned):
    """All weights of a result, its head's too."""
    parts = nn.ModuleList(filter(None, [tuned.encoder.module, tuned.encoder.projection]))
    return [*parts.state_dict().values(), *map(torch.as_tensor, tuned.head or ())]


def same(first, second):
    """Whether two results are equal to the last bit."""
    pairs = zip(weights(first), weights(second), strict=True)
    return all(torch.equal(*pair) for pair in pairs) and first.curves.equals(second.curves)


# ------------------------------------------------------------------------------- its parts


def test_the_contrastive_loss_is_the_written_out_formula():
    rng = np.random.default_rng(0)
    Z, y = rng.normal(size=(9, 5)), np.array([0, 1, 0, 2, 1, 0, 3, 2, 1])  # the 3 is alone
    z = Z / np.linalg.norm(Z, axis=1, keepdims=True)
    losses = []
    for i in range(9):
        others = [a for a in range(9) if a != i]
        below = sum(math.exp(z[i] @ z[a] / 0.1) for a in others)
        alike = [p for p in others if y[p] == y[i]]
        terms = [math.log(math.exp(z[i] @ z[p] / 0.1) / below) for p in alike]
        losses += [-sum(terms) / len(alike)] if alike else []
    found = contrastive_loss(torch.from_numpy(Z), torch.from_numpy(y)).item()
    assert found == pytest.approx(np.mean(losses))


def test_the_contrastive_loss_of_strangers_is_0_with_a_gradient_of_0():
    Z = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = contrastive_loss(Z, torch.arange(3))
    loss.backward()
    assert loss.item() == 0 and not Z.grad.any()


@pytest.mark.parametrize("steps", [1, 2, 30, 157])
def test_the_learning_rate_rises_in_a_line_and_falls_as_half_a_cosine(steps):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    schedule = training.warm_up_and_cosine(optimizer, steps)
    warm, rates = max(round(steps / 10), 1), []
    for _ in range(steps):
        rates += schedule.get_last_lr()
        optimizer.step()
        schedule.step()
    line = [(step + 1) / warm for step in range(warm)]
    falls = steps - warm
    cosine = [(1 + math.cos(math.pi * step / falls)) / 2 for step in range(falls)]
    assert rates == pytest.approx(0.5 * np.array(line + cosine))


@pytest.mark.parametrize("kind", ["vit", "rn", "timm"])
def test_weight_decay_is_for_linear_layers_and_convolutions_alone(kind, encoders):
    encoder, recipe = encoders[kind], Recipe(rate=1e-5, head_rate=0.5)
    rng = np.random.default_rng(0)
    head = rng.normal(0, 3, (7, 4)).astype(np.float32), np.zeros(4, np.float32)
    network = model.Model(encoder, head).requires_grad_(True)
    decays = set()
    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            decays.add(id(layer.weight))
        elif isinstance(layer, nn.MultiheadAttention):
            decays |= {id(layer.in_proj_weight), id(layer.out_proj.weight)}
    groups = training._parameter_groups(network, recipe)
    decayed = {id(value) for group in groups if group["weight_decay"] for value in group["params"]}
    assert decayed == decays
    all_ = [id(value) for group in groups for value in group["params"]]
    assert sorted(all_) == sorted(map(id, network.parameters()))
    size, of_head = np.sqrt(np.mean(head[0] ** 2)), set(map(id, network.head.parameters()))
    for group in groups:
        ours = of_head.issuperset(map(id, group["params"]))
        assert group["lr"] == pytest.approx(0.5 * size if ours else 1e-5)


@pytest.mark.parametrize("kind", ["photo", "turntable"])
def test_augmentation_is_of_the_generator_alone(kind):
    pictures = torch.rand(6, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    before, made = pictures.clone(), []
    for seed in (0, 0, 1):
        torch.rand(3)  # the state of torch's own random numbers does not matter
        made.append(AUGMENTATIONS[kind](pictures, torch.Generator().manual_seed(seed)))
    first, again, other = made
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(pictures, before)
    assert first.shape == pictures.shape and first.min() >= 0 and first.max() <= 1
    assert first.is_contiguous(memory_format=torch.channels_last)


def test_no_augmentation_leaves_pictures_as_they_are():
    pictures = torch.rand(2, 3, 8, 8)
    assert torch.equal(AUGMENTATIONS["none"](pictures, None), pictures)


def test_photographs_are_cropped_inside_and_mirrored(monkeypatch):
    """Of a picture whose red is the column and whose green is the row, before it is changed."""
    monkeypatch.setattr(augmentation, "COLOUR", 0)
    across = torch.linspace(0, 1, 60).expand(60, 60)
    pictures = torch.stack([across, across.T, 0 * across]).expand(200, 3, 60, 60)
    made = photo(pictures, torch.Generator().manual_seed(0))
    red, green = made[:, 0], made[:, 1]
    assert torch.allclose(red, red[:, :1]) and torch.allclose(green, green[:, :, :1])
    width, height = red[:, 0, -1] - red[:, 0, 0], green[:, -1, 0] - green[:, 0, 0]
    assert 60 < (width < 0).sum() < 140 and (height > 0).all()
    area, ratio = width.abs() * height, width.abs() / height
    assert area.min() > 0.45 and area.max() > 0.9 and area.std() > 0.1
    assert ratio.max() < 1.36 and ratio.min() > 1 / 1.36 and ratio.std() > 0.1
    places = torch.minimum(red[:, 0, 0], red[:, 0, -1])
    assert places.std() > 0.03 and green[:, 0, 0].std() > 0.03


def test_colours_of_photographs_change_a_little():
    grey = torch.full((200, 3, 8, 8), 0.5)
    made = photo(grey, torch.Generator().manual_seed(0))[:, :, 0, 0]
    assert torch.allclose(made, made[:, :1]), "grey stays grey"
    assert made.min() >= 0.4 and made.max() <= 0.6 and 0.03 < made[:, 0].std() < 0.1
    red = grey * torch.tensor([1.6, 0.4, 0.4]).view(3, 1, 1)
    made = photo(red, torch.Generator().manual_seed(0))[:, :, 0, 0]
    assert (made[:, 0] / made[:, 1]).std() > 0.1, "more and less of a colour"


@pytest.mark.parametrize(
    ("white", "wanted", "told"),
    [(9, "auto", "turntable"), (8, "auto", "photo"), (10, "photo", "photo"), (0, "none", "none")],
)
def test_the_augmentation_is_told_from_the_corners(white, wanted, told, tmp_path):
    paths = []
    for number in range(10):
        pixels = np.full((20, 30, 3), 255, np.uint8)
        pixels[5:15, 5:25] = 20 * number
        if number >= white:
            pixels[0, 29] = 90  # one corner is enough
        paths.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(pixels).save(paths[-1])
    name, why = choose_augmentation(wanted, pd.Series(paths, range(5, 15)))
    assert name == told
    assert why == (f"{white}0% of 10 pictures, of training and validation, have white corners"
                   if wanted == "auto" else "as the parameter says")  # fmt: skip


def test_turntables_keep_white_white():
    rng = np.random.default_rng(0)
    pictures = torch.ones(6, 3, 40, 40)
    pictures[:, :, 14:26, 12:28] = torch.from_numpy(rng.uniform(0, 0.8, (6, 3, 12, 16))).float()
    first = turntable(pictures, torch.Generator().manual_seed(0))
    corners = first[:, :, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert torch.allclose(corners, torch.ones(())), "what comes from outside is white"
    ink = (1 - first).sum((1, 2, 3)) / (1 - pictures).sum((1, 2, 3))
    assert (ink > 0.7).all() and (ink < 2).all(), "the fruit is still there"


def test_turntables_turn_and_mirror():
    pictures = torch.ones(64, 3, 20, 20)
    pictures[:, :, 5:15, 5:10] = 0  # the left half of the middle
    turned = 1 - turntable(pictures, torch.Generator().manual_seed(0))[:, 0]
    halves = torch.stack(
        [turned[:, :, :10].sum((1, 2)), turned[:, :, 10:].sum((1, 2)),
         turned[:, :10].sum((1, 2)), turned[:, 10:].sum((1, 2))]
    )  # fmt: skip
    assert set(halves.argmax(0).tolist()) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    "wrong",
    [{"epochs": 0}, {"batch": 1}, {"rate": 0.0}, {"head_rate": -1.0}, {"rate": math.nan},
     {"head_rate": math.inf}],
)  # fmt: skip
def test_an_impossible_recipe_is_refused(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"at least 1 epoch, .*[(, ]{name}={value}"):
        Recipe(**wrong)


def test_an_unknown_augmentation_is_refused():
    known = "Unknown augmentation 'auto': use one of photo, turntable, none"
    with pytest.raises(ValueError, match=known):
        Recipe(augmentation="auto")  # that is for choose_augmentation


# ------------------------------------------------------------------------------- training


@pytest.mark.parametrize("kind", ["vit", "rn", "timm"])
def test_training_begins_exactly_at_the_linear_probe(kind, index, fold, encoders):
    encoder, y, X = encoders[kind], targets(index), extract_features(encoders[kind], index)
    probe = fit_chosen(Ridge([1e-1, 1e-2]), X, y, replace(fold, fit=fold.train))
    scores = probe.scores(X[fold.val])[0]
    one = Training(encoder, fold, index, replace(SLOW, epochs=1), probe.heads_[0])
    first = tune(one).curves.iloc[0]
    assert (first.epoch, first.part) == (0, "validation")
    assert first.accuracy == (scores.argmax(1) == y[fold.val]).mean()
    log_p = torch.log_softmax(torch.from_numpy(scores), 1).numpy()
    assert first.loss == pytest.approx(-log_p[range(len(log_p)), y[fold.val]].mean(), rel=1e-3)


@pytest.mark.parametrize("method", ["ML", "CS"])
def test_training_learns(method, index, fold, encoders):
    encoder, y = encoders["timm"], targets(index)
    head = (np.zeros((size_of(encoder), 4), np.float32), np.zeros(4, np.float32))
    recipe = Recipe(8, 8 if method == "ML" else 24, 2e-4, 1e-2, "turntable")
    before = fingerprint(encoder.module)
    tuned = tune(Training(encoder, fold, index, recipe, head if method == "ML" else None))
    train = tuned.curves[tuned.curves.part == "train"]
    assert train.epoch.tolist() == list(range(1, 9))
    assert train.loss.iloc[-3:].mean() < 0.8 * train.loss.iloc[:3].mean()
    val = tuned.curves[tuned.curves.part == "validation"]
    assert val.epoch.tolist() == list(range(9))
    best = val.sort_values(["accuracy", "loss"], ascending=[False, True]).iloc[0]
    assert set(tuned.curves.chosen) == {best.epoch}
    assert fingerprint(replace(encoder).module) == before, "the encoder itself stays as it was"
    if method == "ML":
        assert val.accuracy.iloc[0] == 0.25 and val.accuracy.max() > 0.7
        X = extract_features(tuned.encoder, index, fold.val)[fold.val]
        scores = X @ tuned.head[0] + tuned.head[1]
        assert (scores.argmax(1) == y[fold.val]).mean() == best.accuracy
    else:
        assert tuned.head is None


def test_what_comes_out_is_an_encoder_like_any_other(start, index, whole):
    tuned = whole["ML"]
    assert isinstance(tuned.encoder, Encoder) and tuned.encoder.text is start.encoder.text
    assert tuned.training is start and tuned.curves.chosen[0] > 0
    assert tuned.encoder.key != start.encoder.key
    assert not any(value.requires_grad for value in weights(tuned))
    assert extract_features(tuned.encoder, index).shape == (len(index), 32)
    assert text_weights(tuned.encoder, ["a", "b"], ["{}"]).shape == (2, 32)


def test_a_clip_trained_before_its_projection_keeps_it(start, index, fold):
    plain = replace(start.encoder, joint=False)
    head = np.ones((64, 4), np.float32), np.zeros(4, np.float32)
    tuned = tune(Training(plain, replace(fold, val=NONE), index, replace(SLOW, epochs=1), head))
    assert extract_features(tuned.encoder, index).shape == (len(index), 64)
    assert extract_features(joint(tuned.encoder), index).shape == (len(index), 32)
    mixed, _ = interpolate((plain, head), (tuned.encoder, tuned.head), 0.5)
    assert torch.equal(mixed.projection.weight, plain.projection.weight)


def test_batch_norms_keep_their_statistics_but_learn_their_scales(index, fold, encoders):
    encoder = encoders["rn"]
    tuned = tune(Training(encoder, replace(fold, val=NONE), index, replace(SLOW, epochs=1)))
    old, new = encoder.module.state_dict(), tuned.encoder.module.state_dict()
    for name in old:
        if "running" in name:
            assert torch.equal(old[name], new[name]), name
    assert not torch.equal(old["bn1.weight"], new["bn1.weight"])


def test_half_precision_learns_what_full_precision_does(index, fold, clip_vit, start, whole):
    encoder = joint(load_encoder(f"clip:{clip_vit}", "bf16"))
    half = tune(replace(start, encoder=encoder))
    assert half.curves.features.unique() == ["joint, bf16"]
    losses, full = half.curves.loss.to_numpy(), whole["ML"].curves.loss.to_numpy()
    np.testing.assert_allclose(losses, full, rtol=0.02)
    assert not np.array_equal(losses, full)
    assert {value.dtype for value in half.encoder.module.state_dict().values()} == {torch.float32}


def test_precisions_in_which_gradients_vanish_are_refused(start):
    with pytest.raises(ValueError, match="Small gradients vanish in fp16: fine-tune in bf16"):
        replace(start, encoder=replace(start.encoder, precision="fp16"))


def test_without_validation_the_last_epoch_is_taken(start, fold):
    curves = tune(replace(start, fold=replace(fold, val=NONE))).curves
    assert set(curves.chosen) == {SLOW.epochs} and set(curves.part) == {"train"}


def test_cs_needs_two_pictures_of_a_class(start, fold):
    first = np.unique(targets(start.index)[fold.train], return_index=True)[1]
    with pytest.raises(FineTuneError, match="give 2 a class or more"):
        fine_tune([replace(start, fold=replace(fold, train=fold.train[first]), head=None)])


def test_a_step_of_a_batch_in_parts_is_the_step_of_the_batch(start, whole, monkeypatch):
    monkeypatch.setattr(training, "PART", 100)
    monkeypatch.setattr(training, "FORMAT", "in one")
    at_once = tune(start)
    for one, other in zip(weights(at_once), weights(whole["ML"]), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-3)
    losses = at_once.curves.loss, whole["ML"].curves.loss
    np.testing.assert_allclose(*losses, atol=1e-4)


class Narrow(nn.Sequential):
    """A network on a device whose memory holds so many pictures when gradients are wanted."""

    most = 3

    def forward(self, x):
        if torch.is_grad_enabled() and len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return super().forward(x)


def narrow(start, most):
    torch.manual_seed(0)
    network = Narrow(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network.most = most
    encoder = Encoder("narrow", network, Preprocess(16, 16), device="cpu")
    return replace(start, encoder=encoder, head=(np.eye(4, dtype=np.float32), np.zeros(4)))


def test_a_step_that_does_not_fit_is_made_in_halves(start, monkeypatch):
    monkeypatch.setattr(training, "PART", 8)
    whole = tune(narrow(start, 8))
    monkeypatch.setattr(training, "FORMAT", "again")
    halves = tune(narrow(start, 3))
    np.testing.assert_allclose(halves.curves.loss, whole.curves.loss, rtol=1e-5)
    assert np.array_equal(halves.curves.accuracy, whole.curves.accuracy)


@pytest.mark.parametrize("head", ["ML", "CS"])
def test_a_step_that_never_fits_is_one_clear_error(start, head):
    one = narrow(start, 0)
    one = one if head == "ML" else replace(one, head=None)
    with pytest.raises(FineTuneError, match="memory of cpu does not hold a step of narrow: lower"):
        tune(one)


@pytest.mark.parametrize("name", ["none", "turntable"])
def test_augmented_features_are_those_of_the_pictures_that_training_sees(
    name, start, index, fold, monkeypatch
):
    seen, augment = [], AUGMENTATIONS[name]

    def noting(pictures, generator):
        seen.append(augment(pictures, generator))
        return seen[-1]

    monkeypatch.setitem(AUGMENTATIONS, name, noting)
    recipe = replace(SLOW, augmentation=name, epochs=2)
    one = replace(start, recipe=recipe)
    X, y, lesson = augmented_features(one)
    shown, count = torch.cat(seen), len(fold.val)
    seen.clear()
    tune(one)
    assert torch.equal(shown, torch.cat(seen)) and len(shown) == 2 * len(fold.train) == len(X) - 24
    pictures = (shown * 255).round().byte().permute(0, 2, 3, 1)
    alone = encode_batch(start.encoder, pictures) @ start.encoder.projection.weight.numpy().T
    alone *= start.encoder.logit_scale / np.linalg.norm(alone, axis=1, keepdims=True)
    np.testing.assert_allclose(X[lesson.train], alone, atol=0.05 * np.abs(alone).max())
    np.testing.assert_allclose(
        X[lesson.val], extract_features(start.encoder, index)[fold.val], rtol=1e-4, atol=1e-5
    )
    assert np.array_equal(y[:count], targets(index)[fold.val])
    assert np.array_equal(np.bincount(y[lesson.train]), 2 * np.bincount(targets(index)[fold.train]))
    if name == "none":  # every epoch the same pictures, in another order
        halves = X[lesson.train].reshape(2, len(fold.train), -1)
        assert not np.allclose(*halves)
        np.testing.assert_allclose(*(half[half[:, 0].argsort()] for half in halves), rtol=1e-4)
    probe = fit_chosen(Ridge([0.1, 1.0]), X, y, lesson)
    assert (probe.scores(X[lesson.val])[0].argmax(1) == y[lesson.val]).mean() > 0.3


def test_a_class_of_one_training_picture_leaves_none_to_choose_on(start, index, fold):
    """Then there is nothing to read of them, and the last epoch and first candidate are taken."""
    first = fold.train[np.unique(targets(index)[fold.train], return_index=True)[1]]
    one = replace(start, fold=replace(fold, train=first, val=first[:0], fit=first))
    X, y, lesson = augmented_features(one)
    assert len(X) == one.recipe.epochs * len(first) == len(y) and not len(lesson.val)
    assert len(fit_chosen(Ridge([0.1, 1.0]), X, y, lesson).heads_) == 1
    assert tune(one).curves.chosen.iloc[0] == one.recipe.epochs


def test_pictures_that_are_too_many_to_keep_are_decoded_again(start, whole, fold, monkeypatch):
    read, decode = [], training.read_image

    def noting(path):
        read.append(path)
        return decode(path)

    monkeypatch.setattr(training, "read_image", noting)
    tune(replace(start, recipe=replace(SLOW, epochs=2)))
    assert len(read) == len(fold.train) + len(fold.val)
    read.clear()
    monkeypatch.setattr(training, "IN_MEMORY", 0)
    assert same(tune(start), whole["ML"])
    assert len(read) == SLOW.epochs * len(fold.train) + (SLOW.epochs + 1) * len(fold.val)


# ------------------------------------------------------------------------------- repeating


def test_a_second_run_trains_nothing_and_any_change_trains_anew(start, fold, cache, monkeypatch):
    first = tune(start)
    assert not list(cache.glob("checkpoints/*")), "optimizer state of finished trainings is gone"

    def refuse(*_):
        raise AssertionError("trained")

    monkeypatch.setattr(training, "_train", refuse)
    assert same(tune(start), first)
    changes = [
        {"fold": replace(fold, seed=1)},
        {"fold": replace(fold, train=fold.train[1:])},
        {"recipe": replace(SLOW, rate=2e-4)},
        {"recipe": replace(SLOW, augmentation="turntable")},
        {"head": None},
        {"head": (start.head[0] + 1, start.head[1])},
    ]
    for change in changes:
        with pytest.raises(AssertionError, match="trained"):
            fine_tune([replace(start, **change)])


def test_before_and_behind_the_projection_are_two_trainings(start):
    behind = replace(
        start, head=None, recipe=replace(SLOW, epochs=1), fold=replace(start.fold, val=NONE)
    )
    before = replace(behind, encoder=replace(start.encoder, joint=False))
    for one, moves in ((behind, True), (before, False), (behind, True)):
        projection, first = tune(one).encoder.projection.weight, start.encoder.projection.weight
        assert torch.equal(projection, first) != moves


def test_side_by_side_is_the_same_as_one_after_the_other(start, fold, whole):
    trainings = [replace(start, fold=replace(fold, seed=1)), start]
    torch.rand(3)  # the state of torch's own random numbers does not matter
    other, alone = fine_tune(trainings)
    assert same(alone, whole["ML"]) and not same(other, alone)
    assert other.training is trainings[0]


KILLED = """
import os, sys
import numpy as np
from cliphelpers.encoders.encoder import joint
from cliphelpers.encoders.load import load_encoder
from cliphelpers.finetuning import training
from cliphelpers.index import index_images
from cliphelpers.splits import make_splits

index, encoder = index_images(sys.argv[1]), joint(load_encoder(sys.argv[2]))
fold, writes = make_splits(index, ["by_group"])["by_group"][0], []
write = training.save_arrays

def save(path, arrays):
    write(path, arrays)
    writes.append(path)
    if len(writes) == 2:
        os._exit(9)  # no clean-up of any kind, as after kill -9

training.save_arrays = save
head = tuple(np.load(name) for name in sys.argv[3:5])
recipe = training.Recipe(3, 8, 1e-4, 1e-3)
training.fine_tune([training.Training(encoder, fold, index, recipe, head)])
"""


def test_a_killed_training_goes_on_and_ends_with_the_same_numbers(
    start, whole, fruits, clip_vit, tmp_path, cache
):
    names = [tmp_path / "W.npy", tmp_path / "b.npy"]
    for name, value in zip(names, start.head, strict=True):
        np.save(name, value)
    arguments = [fruits, f"clip:{clip_vit}", *names]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", KILLED, *map(str, arguments)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 9, done.stderr
    (checkpoint,) = cache.glob("checkpoints/*")
    assert not list(cache.glob("fine-tuned/*"))
    assert same(tune(start), whole["ML"])
    assert not checkpoint.exists()


@pytest.fixture
def interrupted(monkeypatch):
    """A function that interrupts a training in its second epoch, of 3 steps; a list of steps."""
    steps = []

    def interrupt(pictures, generator):
        steps.append(len(pictures))
        if len(steps) == 5:
            raise KeyboardInterrupt
        return photo(pictures, generator)

    def run(one):
        monkeypatch.setitem(AUGMENTATIONS, SLOW.augmentation, interrupt)
        with pytest.raises(KeyboardInterrupt):
            fine_tune([one])
        return steps

    return run


@pytest.mark.parametrize("method", ["ML", "CS"])
def test_an_interrupt_loses_at_most_an_epoch(method, start, whole, cache, interrupted):
    one = replace(start, head=start.head if method == "ML" else None)
    steps = interrupted(one)
    assert len(list(cache.glob("checkpoints/*"))) == 1
    assert same(tune(one), whole[method])
    assert len(steps) - 5 == 2 * 3, "two epochs were left"


def test_a_damaged_checkpoint_begins_anew(start, whole, cache, interrupted):
    steps = interrupted(start)
    (checkpoint,) = cache.glob("checkpoints/*")
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[: len(content) // 2])
    with pytest.warns(UserWarning, match="is damaged"):
        assert same(tune(start), whole["ML"])
    assert len(steps) - 5 == 3 * 3, "all epochs were left"


def test_a_loss_that_is_not_finite_is_one_clear_error_and_is_not_kept(start, cache):
    wild = replace(start, recipe=replace(SLOW, rate=1e30))
    message = r"loss of CLIP tiny-vit, fine-tuned ML is not finite in epoch 1: lower .*rate=1e\+30"
    with pytest.raises(FineTuneError, match=message):
        fine_tune([wild])
    assert not list(cache.glob("fine-tuned/*"))


def test_a_loss_that_is_not_finite_leaves_the_last_checkpoint(start, whole, cache, monkeypatch):
    entropy, calls = model.functional.cross_entropy, []

    def broken(Z, y):
        calls.append(1)
        return entropy(Z, y) * (math.nan if len(calls) == 10 else 1)  # in the second epoch

    monkeypatch.setattr(model.functional, "cross_entropy", broken)
    with pytest.raises(FineTuneError, match="epoch 2"):
        fine_tune([start])
    assert len(list(cache.glob("checkpoints/*"))) == 1 and not list(cache.glob("fine-tuned/*"))
    assert same(tune(start), whole["ML"])


def test_an_error_in_one_training_stops_the_others(start):
    long = replace(start, recipe=replace(SLOW, epochs=10_000))
    wild = replace(start, recipe=replace(SLOW, rate=1e30))
    with pytest.raises(FineTuneError, match="not finite"):
        fine_tune([long, wild, long])


# ------------------------------------------------------------------------------- WiSE-FT


@pytest.mark.parametrize("kind", ["vit", "rn"])
def test_interpolation_ends_at_both_models_and_is_a_straight_line(kind, index, fold, encoders):
    encoder = encoders[kind]
    before = encoder.key
    text = text_weights(encoder, list("abcd"), ["{}"]).T, 0
    tuned = tune(Training(encoder, replace(fold, val=NONE), index, SLOW, text))
    start, end = (encoder, text), (tuned.encoder, tuned.head)
    for alpha, (wanted, head) in {0: start, 1: end}.items():
        mixed, mixed_head = interpolate(start, end, alpha)
        assert mixed.key == wanted.key
        assert np.array_equal(mixed_head[0], head[0]) and (mixed_head[1] == head[1]).all()
        assert torch.equal(mixed.projection.weight, wanted.projection.weight)
    mixed, mixed_head = interpolate(start, end, 0.25)
    states = [one.module.state_dict() for one in (encoder, tuned.encoder, mixed)]
    for name, value in states[2].items():
        if value.is_floating_point():
            assert torch.allclose(value, 0.75 * states[0][name] + 0.25 * states[1][name], atol=1e-7)
    assert np.allclose(mixed_head[0], 0.75 * text[0] + 0.25 * tuned.head[0])
    assert np.allclose(mixed_head[1], 0.25 * tuned.head[1])
    assert replace(encoder).key == before, "the encoder itself stays as it was"


def test_alpha_0_is_zero_shot(index, start, whole):
    tuned = whole["ML"]
    encoder, head = interpolate((start.encoder, start.head), (tuned.encoder, tuned.head), 0)
    zero_shot = extract_features(start.encoder, index) @ start.head[0]
    assert np.array_equal(extract_features(encoder, index) @ head[0] + head[1], zero_shot)


# ------------------------------------------------------------------------------- its curves


def test_curves_are_written_as_tidy_rows(start, index, fold, tmp_path):
    drawn = replace(fold, shots=4, seed=3)
    tuned = tune(replace(start, fold=drawn, recipe=replace(SLOW, epochs=1)))
    study = Study("05_tune", index, {"by_group": [fold]})
    study.save(tmp_path, tuned.curves)
    written = pd.read_csv(tmp_path / "results" / "05_tune_curves.csv")
    assert len(written) == 3 and set(written.part) == {"train", "validation"}
    row = dict(
        experiment="05_tune", dataset="tiny-fruits", split="by_group", encoder="CLIP tiny-vit",
        features="joint", method="fine-tuned ML", shots=4, seed=3, fold=0,
    )  # fmt: skip
    assert written[list(row)].drop_duplicates().to_dict("records") == [row]
    assert np.allclose(written.accuracy, tuned.curves.accuracy, atol=1e-6)
