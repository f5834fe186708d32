"""One training loop: its parts against formulas, interruption, repeatability, and what is kept."""

import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from cliphelpers import finetuning
from cliphelpers.classifiers import Logistic, fit_chosen, text_weights
from cliphelpers.data import by_clip, index_images, targets
from cliphelpers.encoders import Encoder, load_encoder
from cliphelpers.evaluation import Results
from cliphelpers.features import extract_features
from cliphelpers.finetuning import (
    FineTuneError,
    Recipe,
    Training,
    augment,
    contrastive_loss,
    embed,
    fine_tune,
    fine_tune_all,
    interpolate,
    parameter_groups,
    save_curves,
    warm_cosine,
    wise_ft_curve,
)

SLOW = Recipe(epochs=3, batch=8, rate=1e-4, head_rate=1e-3)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPHELPERS_CACHE", str(tmp_path / "cache"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as fine_tune_all does
    yield tmp_path / "cache"
    torch.set_num_threads(threads)


@pytest.fixture
def index(fruits):
    return index_images(fruits)


@pytest.fixture
def start(index, clip_vit):
    """ML of the tiny CLIP from text weights, on one fold by clip."""
    fold, encoder = by_clip(index)[0], load_encoder(f"clip:{clip_vit}")
    weights = text_weights(encoder, ["apple", "banana", "fig", "kiwi"], ["{}"]).T
    head = (weights, np.zeros(4, np.float32))
    return Training(encoder, index, fold.train, fold.val, SLOW, 0, head)


def same(first, second):
    """Whether two results are equal to the last bit."""
    states = [
        one.encoder.module.state_dict() | {"chosen": torch.tensor(one.epoch)}
        for one in (first, second)
    ]
    heads = zip(first.head or (), second.head or (), strict=True)
    return (
        states[0].keys() == states[1].keys()
        and all(torch.equal(value, states[1][name]) for name, value in states[0].items())
        and all(np.array_equal(*pair) for pair in heads)
        and first.curves.equals(second.curves)
    )


def empty(cache):
    for path in [*cache.glob("fine-tuned/*"), *cache.glob("checkpoints/*")]:
        path.unlink()


# ------------------------------------------------------------------------------- its parts


def test_the_contrastive_loss_is_the_written_out_formula():
    rng = np.random.default_rng(0)
    Z, y = rng.normal(size=(9, 5)), np.array([0, 1, 0, 2, 1, 0, 3, 2, 1])  # the 3 is alone
    z = Z / np.linalg.norm(Z, axis=1, keepdims=True)
    losses = []
    for i in range(9):
        others = [a for a in range(9) if a != i]
        below = sum(math.exp(z[i] @ z[a] / 0.1) for a in others)
        same = [p for p in others if y[p] == y[i]]
        terms = [math.log(math.exp(z[i] @ z[p] / 0.1) / below) for p in same]
        losses += [-sum(terms) / len(same)] if same else []
    found = contrastive_loss(torch.from_numpy(Z), torch.from_numpy(y)).item()
    assert found == pytest.approx(np.mean(losses))


def test_the_contrastive_loss_of_strangers_is_0_with_a_gradient_of_0():
    Z = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = contrastive_loss(Z, torch.arange(3))
    loss.backward()
    assert loss.item() == 0 and not Z.grad.any()


def test_only_the_wanted_rows_are_read_and_embedded(index, clip_vit):
    encoder, rows = load_encoder(f"clip:{clip_vit}"), np.array([5, 2])
    others = np.delete(np.arange(len(index)), rows)
    unreadable = index.assign(path=index.path.mask(index.index.isin(others), "missing.jpg"))
    some = embed(encoder, unreadable, rows)
    assert some.shape[0] == len(index) and np.isnan(some[others]).all()
    np.testing.assert_allclose(some[rows], embed(encoder, index)[rows], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("steps", [1, 2, 30, 157])
def test_the_learning_rate_rises_in_a_line_and_falls_as_torch_s_cosine(steps):
    factors = [warm_cosine(step, steps) for step in range(steps)]
    warm = max(round(steps / 10), 1)
    assert factors[:warm] == pytest.approx([(step + 1) / warm for step in range(warm)])
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps - warm, 1))
    for factor in factors[warm:]:
        assert factor == pytest.approx(cosine.get_last_lr()[0])
        optimizer.step()
        cosine.step()


@pytest.mark.parametrize("kind", ["clip_vit", "clip_rn", "timm_spec"])
def test_weight_decay_is_for_linear_layers_and_convolutions_alone(kind, request):
    spec = request.getfixturevalue(kind)
    encoder = load_encoder(spec if kind == "timm_spec" else f"clip:{spec}")
    model = nn.ModuleDict({"tower": encoder.module, "head": nn.Linear(7, 4)})
    model.head = model["head"]
    weights = set()
    for layer in model.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            weights.add(id(layer.weight))
        elif isinstance(layer, nn.MultiheadAttention):
            weights |= {id(layer.in_proj_weight), id(layer.out_proj.weight)}
    groups = parameter_groups(model, Recipe(rate=1e-5, head_rate=0.5))
    decayed = {id(value) for group in groups if group["weight_decay"] for value in group["params"]}
    assert decayed == weights
    all_ = [id(value) for group in groups for value in group["params"]]
    assert sorted(all_) == sorted(map(id, model.parameters()))
    size = model.head.weight.square().mean().sqrt().item()
    for group in groups:
        ours = any(
            value is model.head.weight or value is model.head.bias for value in group["params"]
        )
        assert group["lr"] == pytest.approx(0.5 * size if ours else 1e-5)


def test_augmentation_is_of_the_generator_alone_and_keeps_white_white():
    rng = np.random.default_rng(0)
    pictures = np.full((6, 40, 40, 3), 255, np.uint8)
    pictures[:, 14:26, 12:28] = rng.integers(0, 200, (6, 12, 16, 3))
    pictures = torch.from_numpy(pictures)
    first, again, other = (
        augment(pictures, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert first.shape == (6, 3, 40, 40) and first.min() >= 0 and first.max() <= 1
    corners = first[:, :, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert torch.allclose(corners, torch.ones(())), "what comes from outside is white"
    ink = (1 - first).sum((1, 2, 3)) / (1 - pictures.permute(0, 3, 1, 2) / 255).sum((1, 2, 3))
    assert (ink > 0.7).all() and (ink < 2).all(), "the fruit is still there"


def test_augmentation_turns_and_mirrors():
    pictures = np.full((64, 20, 20, 3), 255, np.uint8)
    pictures[:, 5:15, 5:10] = 0  # the left half of the middle
    turned = 1 - augment(torch.from_numpy(pictures), torch.Generator().manual_seed(0))[:, 0]
    halves = torch.stack(
        [turned[:, :, :10].sum((1, 2)), turned[:, :, 10:].sum((1, 2)),
         turned[:, :10].sum((1, 2)), turned[:, 10:].sum((1, 2))]
    )  # fmt: skip
    assert set(halves.argmax(0).tolist()) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    "wrong",
    [{"epochs": 0}, {"batch": 1}, {"rate": 0.0}, {"head_rate": -1.0}, {"rate": math.nan}],
)
def test_an_impossible_recipe_is_refused(wrong):
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        Recipe(**wrong)


# ------------------------------------------------------------------------------- training


@pytest.mark.parametrize("kind", ["clip_vit", "clip_rn", "timm_spec"])
def test_training_begins_exactly_at_the_linear_probe(kind, request, index):
    spec = request.getfixturevalue(kind)
    encoder = load_encoder(spec if kind == "timm_spec" else f"clip:{spec}")
    fold, y, X = by_clip(index)[0], targets(index), embed(encoder, index)
    probe = fit_chosen(Logistic([1e-1, 1e-2]), X, y, fold.train, fold.val, fold.train)
    head = probe.coef_[0], probe.bias_[0]
    scores = probe.scores(X[fold.val])[0]
    recipe = replace(SLOW, epochs=1)
    first = fine_tune(Training(encoder, index, fold.train, fold.val, recipe, 0, head)).curves.iloc[
        0
    ]
    assert (first.epoch, first.part) == (0, "validation")
    assert first.accuracy == (scores.argmax(1) == y[fold.val]).mean()
    log_p = torch.log_softmax(torch.from_numpy(scores), 1).numpy()
    assert first.loss == pytest.approx(-log_p[range(len(log_p)), y[fold.val]].mean(), rel=1e-3)


@pytest.mark.parametrize("method", ["ML", "CS"])
def test_training_learns(method, index, timm_spec):
    encoder, y = load_encoder(timm_spec), targets(index)
    fold = by_clip(index)[0]
    head = (np.zeros((encoder.feature_size, 4), np.float32), np.zeros(4, np.float32))
    recipe = Recipe(epochs=8, batch=8 if method == "ML" else 24, rate=2e-4, head_rate=1e-2)
    before = encoder.fingerprint
    one = Training(
        encoder, index, fold.train, fold.val, recipe, 0, head if method == "ML" else None
    )
    tuned = fine_tune(one)
    train = tuned.curves[tuned.curves.part == "train"]
    assert train.epoch.tolist() == list(range(1, 9))
    assert train.loss.iloc[-3:].mean() < 0.8 * train.loss.iloc[:3].mean()
    val = tuned.curves[tuned.curves.part == "validation"]
    assert val.epoch.tolist() == list(range(9))
    best = val.sort_values(["accuracy", "loss"], ascending=[False, True]).iloc[0]
    assert tuned.epoch == best.epoch
    assert replace(encoder).fingerprint == before, "the encoder itself stays as it was"
    if method == "ML":
        assert val.accuracy.iloc[0] == 0.25 and val.accuracy.max() > 0.7
        scores = embed(tuned.encoder, index.iloc[fold.val]) @ tuned.head[0] + tuned.head[1]
        assert (scores.argmax(1) == y[fold.val]).mean() == best.accuracy
    else:
        assert tuned.head is None


def test_what_comes_out_is_an_encoder_like_any_other(start, index):
    tuned = fine_tune(start)
    assert isinstance(tuned.encoder, Encoder) and tuned.encoder.text is start.encoder.text
    assert not any(value.requires_grad for value in tuned.encoder.module.parameters())
    assert extract_features(tuned.encoder, index).shape == (len(index), 64)
    assert text_weights(tuned.encoder, ["a", "b"], ["{}"]).shape == (2, 32)
    if tuned.epoch:
        assert tuned.encoder.key != start.encoder.key


def test_batch_norms_keep_their_statistics_but_learn_their_scales(index, clip_rn):
    encoder = load_encoder(f"clip:{clip_rn}")
    fold, none = by_clip(index)[0], np.array([], int)
    tuned = fine_tune(Training(encoder, index, fold.fit, none, replace(SLOW, epochs=1)))
    old, new = encoder.module.state_dict(), tuned.encoder.module.state_dict()
    for name in old:
        if "running" in name:
            assert torch.equal(old[name], new[name]), name
    assert not torch.equal(old["bn1.weight"], new["bn1.weight"])


def test_without_validation_the_last_epoch_is_taken(start):
    tuned = fine_tune(replace(start, val=np.array([], int)))
    assert tuned.epoch == SLOW.epochs and set(tuned.curves.part) == {"train"}


def test_cs_needs_two_pictures_of_a_class(start):
    y = targets(start.index)[start.train]
    first = np.unique(y, return_index=True)[1]
    with pytest.raises(FineTuneError, match="give 2 a class or more"):
        fine_tune(replace(start, train=start.train[first], head=None))


def test_pictures_that_are_too_many_to_keep_are_decoded_again(start, cache, monkeypatch):
    read = []
    monkeypatch.setattr(
        finetuning,
        "read_image",
        lambda path, f=finetuning.read_image: (read.append(path), f(path))[1],
    )
    kept = fine_tune(start)
    count = len(start.train) + len(start.val)
    assert len(read) == count
    empty(cache)
    monkeypatch.setattr(finetuning, "IN_MEMORY", 0)
    assert same(fine_tune(start), kept)
    assert len(read) - count == SLOW.epochs * len(start.train) + (SLOW.epochs + 1) * len(start.val)


# ------------------------------------------------------------------------------- repeating


def test_a_second_run_trains_nothing_and_any_change_trains_anew(start, cache, monkeypatch):
    first = fine_tune(start)
    assert not list(cache.glob("checkpoints/*")), "optimizer state of finished trainings is gone"

    def refuse(*_):
        raise AssertionError("trained")

    monkeypatch.setattr(finetuning, "_train", refuse)
    assert same(fine_tune(start), first)
    fine_tune_all([start])
    changes = [
        {"seed": 1},
        {"recipe": replace(SLOW, rate=2e-4)},
        {"train": start.train[1:]},
        {"head": None},
        {"head": (start.head[0] + 1, start.head[1])},
    ]
    for change in changes:
        with pytest.raises(AssertionError, match="trained"):
            fine_tune(replace(start, **change))


def test_side_by_side_is_the_same_as_one_after_the_other(start, cache):
    trainings = [start, replace(start, head=None), replace(start, seed=1)]
    fine_tune_all(trainings)
    together = list(map(fine_tune, trainings))
    empty(cache)
    torch.rand(3)  # the state of torch's own random numbers does not matter
    alone = [fine_tune(one) for one in reversed(trainings)][::-1]
    assert all(map(same, together, alone))
    assert not same(together[0], together[2])


KILLED = """
import os, sys
import numpy as np
from cliphelpers import cache, finetuning
from cliphelpers.data import by_clip, index_images
from cliphelpers.encoders import load_encoder

index, encoder = index_images(sys.argv[1]), load_encoder(sys.argv[2])
fold, writes = by_clip(index)[0], []
write = finetuning.save_arrays

def save(path, arrays):
    write(path, arrays)
    writes.append(path)
    if len(writes) == 2:
        os._exit(9)  # no clean-up of any kind, as after kill -9

finetuning.save_arrays = save
import torch
torch.set_num_threads(1)
head = tuple(np.load(name) for name in sys.argv[3:5])
recipe = finetuning.Recipe(3, 8, 1e-4, 1e-3)
finetuning.fine_tune(finetuning.Training(encoder, index, fold.train, fold.val, recipe, 0, head))
"""


def test_a_killed_training_goes_on_and_ends_with_the_same_numbers(
    start, fruits, clip_vit, tmp_path, cache
):
    whole = fine_tune(start)
    empty(cache)
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
    assert same(fine_tune(start), whole)
    assert not checkpoint.exists()


@pytest.mark.parametrize("method", ["ML", "CS"])
def test_an_interrupt_loses_at_most_an_epoch(method, start, cache, monkeypatch):
    start = replace(start, head=start.head if method == "ML" else None)
    whole = fine_tune(start)
    empty(cache)
    turns = []

    def interrupt(pictures, generator):
        turns.append(len(pictures))
        if len(turns) == 5:  # in the middle of the second epoch, of 3 steps each
            raise KeyboardInterrupt
        return augment(pictures, generator)

    with monkeypatch.context() as patch:
        patch.setattr(finetuning, "augment", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fine_tune(start)
        assert len(list(cache.glob("checkpoints/*"))) == 1
        turns[:] = range(5)  # counts on, without another interrupt
        assert same(fine_tune(start), whole)
        assert len(turns) - 5 == 2 * 3, "two epochs were left"


def test_a_damaged_checkpoint_begins_anew(start, cache, monkeypatch):
    whole = fine_tune(start)
    empty(cache)
    with monkeypatch.context() as patch:
        patch.setattr(finetuning, "kept", lambda kind, parts, compute: compute())
        patch.setattr(finetuning.Path, "unlink", lambda *_, **__: None)
        fine_tune(start)
    (checkpoint,) = cache.glob("checkpoints/*")
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[: len(content) // 2])
    with pytest.warns(UserWarning, match="is damaged"):
        assert same(fine_tune(start), whole)


def test_a_loss_that_is_not_finite_is_one_clear_error_and_is_not_kept(start, cache):
    wild = replace(start, recipe=replace(SLOW, rate=1e30))
    with pytest.raises(FineTuneError, match=r"not finite in epoch 1: lower .*1e\+30, head 0.001"):
        fine_tune(wild)
    assert not list(cache.glob("fine-tuned/*"))


def test_a_loss_that_is_not_finite_leaves_the_last_checkpoint(start, cache, monkeypatch):
    entropy, calls = finetuning.functional.cross_entropy, []

    def broken(Z, y):
        calls.append(1)
        return entropy(Z, y) * (math.nan if len(calls) == 7 else 1)  # in the second epoch

    whole = fine_tune(start)
    empty(cache)
    with monkeypatch.context() as patch:
        patch.setattr(finetuning.functional, "cross_entropy", broken)
        with pytest.raises(FineTuneError, match="epoch 2"):
            fine_tune(start)
    assert len(list(cache.glob("checkpoints/*"))) == 1 and not list(cache.glob("fine-tuned/*"))
    assert same(fine_tune(start), whole)


def test_an_error_in_one_training_stops_the_others(start, cache):
    long = replace(start, recipe=replace(SLOW, epochs=10_000))
    wild = replace(start, recipe=replace(SLOW, rate=1e30))
    with pytest.raises(FineTuneError, match="not finite"):
        fine_tune_all([long, wild])


# ------------------------------------------------------------------------------- WiSE-FT


@pytest.mark.parametrize("kind", ["clip_vit", "clip_rn"])
def test_interpolation_ends_at_both_models_and_is_a_straight_line(kind, index, request):
    encoder = load_encoder(f"clip:{request.getfixturevalue(kind)}")
    zero = (text_weights(encoder, list("abcd"), ["{}"]).T, np.zeros(4, np.float32))
    none = np.array([], int)
    tuned = fine_tune(Training(encoder, index, by_clip(index)[0].fit, none, SLOW, 0, zero))
    end = tuned.encoder, tuned.head
    for alpha, (model, head) in {0: (encoder, zero), 1: end}.items():
        mixed, mixed_head = interpolate((encoder, zero), end, alpha)
        assert mixed.key == model.key
        assert all(map(np.array_equal, mixed_head, head))
        pairs = zip(mixed.projection.parameters(), model.projection.parameters(), strict=True)
        assert all(torch.equal(*pair) for pair in pairs)
    mixed, mixed_head = interpolate((encoder, zero), end, 0.25)
    states = [one.module.state_dict() for one in (encoder, tuned.encoder, mixed)]
    for name, value in states[2].items():
        if value.is_floating_point():
            assert torch.allclose(value, 0.75 * states[0][name] + 0.25 * states[1][name], atol=1e-7)
    assert np.allclose(mixed_head[0], 0.75 * zero[0] + 0.25 * tuned.head[0])
    assert encoder.key == load_encoder(f"clip:{request.getfixturevalue(kind)}").key


def test_alpha_0_is_zero_shot(index, start):
    tuned = fine_tune(start)
    encoder, head = interpolate((start.encoder, start.head), (tuned.encoder, tuned.head), 0)
    zero_shot = embed(start.encoder, index) @ start.head[0]
    assert np.array_equal(embed(encoder, index) @ head[0] + head[1], zero_shot)


def test_the_curve_of_wise_ft_is_read_from_result_rows():
    rows = [("WiSE-FT alpha=1", 0.8), ("linear probe", 0.1), ("WiSE-FT alpha=0.25", 0.6),
            ("WiSE-FT alpha=1", 0.6), ("WiSE-FT alpha=0", 0.2)]  # fmt: skip
    table = pd.DataFrame(rows, columns=["method", "value"]).assign(low=0.0, high=1.0)
    curve = wise_ft_curve(table)
    assert curve.index.tolist() == [0, 0.25, 1]
    assert curve.value.tolist() == pytest.approx([0.2, 0.6, 0.7])


def test_curves_are_written_as_tidy_rows(start, tmp_path):
    where = dict(
        split="by_clip", encoder="tiny", features="joint", method="ML", shots=4, seed=0, fold=0
    )
    tuned = fine_tune(start)
    results = Results("05", start.index)
    curves = [tuned.curves.assign(**where, chosen=tuned.epoch)]
    table = save_curves(curves, results, tmp_path)
    written = pd.read_csv(tmp_path / "results" / "05_curves.csv")
    assert list(written) == list(table) and len(written) == 2 * SLOW.epochs + 1
    assert set(written.dataset) == {"tiny-fruits"} and set(written.part) == {"train", "validation"}
    assert np.allclose(written.accuracy, tuned.curves.accuracy, atol=1e-6)
