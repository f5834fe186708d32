"""A study's answers and rows against the same questions put by hand."""

import numpy as np
import pandas as pd
import pytest

from cliphelpers.classifiers import Linear, NearestMean, Ridge, fit_chosen
from cliphelpers.encoders.encoder import raw_pixels
from cliphelpers.evaluation import bootstrap
from cliphelpers.features import extract_features
from cliphelpers.index import group_of, index_images
from cliphelpers.splits import few_shot_fold, make_splits
from cliphelpers.study import COLUMNS, Study

NAMES = ["official", "by_group"]


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPHELPERS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def index(fruits):
    return index_images(fruits)


@pytest.fixture(scope="module")
def splits(index):
    return make_splits(index, NAMES)


@pytest.fixture(scope="module")
def pixels():
    return raw_pixels(4)


@pytest.fixture(scope="module")
def X(pixels, index):
    return extract_features(pixels, index)


@pytest.fixture
def study(index, splits):
    return Study("03_some", index, splits, top=(1, 2))


# ------------------------------------------------------------------------------- asking


def test_answers_are_those_of_fitting_each_fold_by_hand(study, splits, pixels, X):
    ridge = Ridge([10.0, 0.1, 1e-3])
    study.ask("ridge", ridge, pixels)
    table = study.run()
    assert list(table.columns) == COLUMNS and list(table.metric) == ["top-1", "top-2"] * 2
    for split in NAMES:
        told = study.answers(split=split, method="ridge")
        by_hand = [
            fit_chosen(ridge, X, study.y, fold).scores(X[fold.test])[0] for fold in splits[split]
        ]
        scores = np.concatenate(by_hand)
        np.testing.assert_allclose(told.scores, scores, atol=1e-5)
        np.testing.assert_array_equal(told.rows, study.rows(split))
        np.testing.assert_array_equal(told.y, study.y[told.rows])
        np.testing.assert_array_equal(told.predicted, scores.argmax(1))
        np.testing.assert_array_equal(told.right, scores.argmax(1) == told.y)
        row = table[(table.split == split) & (table.metric == "top-1")].iloc[0]
        expected = bootstrap(told.right, group_of(study.index)[told.rows])
        assert (row.value, row.low, row.high) == expected and row.n == len(told.y)
        assert (row.encoder, row.features, row.experiment) == (pixels.name, "pixels", "03_some")
        second = np.sort(scores, axis=1)[:, -2]
        held = np.mean(scores[np.arange(len(told.y)), told.y] >= second)
        assert table[(table.split == split) & (table.metric == "top-2")].value.iloc[0] == held


def test_few_shot_answers_learn_from_the_draws_and_the_first_seed_chooses(study, splits, pixels, X):
    ridge = Ridge([1e-3, 100.0])
    study.ask("ridge", ridge, pixels, shots=[1, 2], seeds=[3, 4])
    table = study.run()
    assert list(zip(table.shots, table.seed, strict=True))[:4] == [(1, 3), (1, 4), (2, 3), (2, 4)]
    assert set(table.metric) == {"top-1"}
    for k in (1, 2):
        parts = {3: [], 4: []}
        for fold in splits["by_group"]:
            first = few_shot_fold(study.index, fold, k, 3)
            chosen = fit_chosen(ridge, X, study.y, first)
            parts[3].append(chosen.scores(X[fold.test])[0])
            other = few_shot_fold(study.index, fold, k, 4)
            again = Ridge(chosen.candidates).fit(X[other.fit], study.y[other.fit], 4)
            parts[4].append(again.scores(X[fold.test])[0])
        for seed in parts:
            told = study.answers(split="by_group", shots=k, seed=seed)
            expected = np.concatenate(parts[seed]).argmax(1)
            np.testing.assert_array_equal(told.predicted, expected)


def test_several_seeds_as_one_row_are_their_mean(index, splits, pixels):
    each, together = Study("x", index, splits), Study("x", index, splits)
    each.ask("mean", NearestMean(), pixels, shots=[1], seeds=range(3))
    together.ask("mean", NearestMean(), pixels, shots=[1], seeds=range(3), average=True)
    each.run()
    assert together.run().seed.isna().all() and len(together.run()) == 2
    for split in NAMES:
        mean = np.mean([each.answers(split=split, seed=seed).right for seed in range(3)], axis=0)
        np.testing.assert_allclose(together.answers(split=split).right, mean)


def test_a_split_has_its_row_once_all_of_its_folds_are_answered(study, splits, pixels):
    folds = splits["by_group"]
    for fold in folds[:0:-1]:  # from the last to the second
        study.ask("mean", NearestMean(), pixels, fold)
    assert study.run().empty
    study.ask("mean", NearestMean(), pixels, folds[0])
    assert set(study.run().split) == {"by_group"}
    np.testing.assert_array_equal(study.answers().rows, study.rows("by_group"))


def test_a_known_head_needs_only_the_features_of_test_pictures(study, splits, pixels, monkeypatch):
    seen = []

    def extract(encoder, index, rows):
        seen.append(rows)
        return extract_features(encoder, index, rows)

    monkeypatch.setattr("cliphelpers.study.extract_features", extract)
    head = (np.eye(48, 4, dtype=np.float32), 0)
    study.ask("known", Linear(head), pixels, splits["official"][0])
    study.run()
    np.testing.assert_array_equal(seen[0], np.sort(splits["official"][0].test))


def test_what_is_answered_is_not_computed_again(study, index, splits, pixels, monkeypatch):
    study.ask("ridge", Ridge([0.5]), pixels)
    expected = study.run()
    monkeypatch.setattr("cliphelpers.study.fit_chosen", None)
    again = Study("03_some", index, splits, top=(1, 2))
    again.ask("ridge", Ridge([0.5]), pixels)
    pd.testing.assert_frame_equal(again.run(), expected)
    other = Study("03_some", index, splits)
    other.ask("ridge", Ridge([0.25]), pixels)
    with pytest.raises(TypeError):
        other.run()


@pytest.mark.parametrize("where", [{}, {"split": "official", "encoder": "another"}])
def test_answers_must_be_told_apart(study, pixels, where):
    study.ask("mean", NearestMean(), pixels)
    study.run()
    with pytest.raises(KeyError, match="[02] answers of 03_some are to"):
        study.answers(**where)


# ------------------------------------------------------------------------------- rows


def test_an_added_row_has_the_interval_of_its_clips(study):
    rows = np.array([0, 1, 2, 30, 31])
    values = np.array([1, 1, 1, 0, 0])
    study.add("sharpness", values, rows, split="official", shots=4, seed=1)
    row = study.table().iloc[0].dropna().to_dict()
    mean, low, high = bootstrap(values, group_of(study.index)[rows])
    assert row == {
        "experiment": "03_some", "dataset": "tiny-fruits", "split": "official", "shots": 4,
        "seed": 1, "metric": "sharpness", "value": mean, "low": low, "high": high, "n": 5,
    }  # fmt: skip


def test_an_unknown_column_is_refused(study):
    with pytest.raises(TypeError, match="No column 'shot' in results"):
        study.add("top-1", np.ones(1), np.array([0]), shot=1)


def test_a_table_of_some_rows(study):
    for split in NAMES:
        for seed in (0, 1):
            study.add("top-1", np.ones(2), np.array([0, 1]), split=split, seed=seed)
    assert list(study.table(split="by_group", seed=1).index) == [0]
    assert study.table(metric="top-5").empty


def test_differences_are_taken_picture_by_picture(study, pixels):
    for method, strength in [("one", 1e-3), ("other", 10.0), ("same", 1e-3)]:
        study.ask(method, Ridge([strength]), pixels)
    study.run()
    study.differences("method", ["one", "other", "same"])
    table = study.table(metric="top-1 difference")
    assert list(table.method) == ["one − other"] * 2 + ["one − same"] * 2 + ["other − same"] * 2
    assert (table[table.method == "one − same"][["value", "low", "high"]] == 0).all(axis=None)
    for row in table[table.method == "one − other"].itertuples():
        one, other = (study.answers(split=row.split, method=name) for name in ("one", "other"))
        by_hand = bootstrap(one.right - other.right, group_of(study.index)[one.rows])
        assert (row.value, row.low, row.high) == by_hand and row.features == "pixels"


def test_encoders_with_other_features_are_compared_too(study, pixels):
    study.ask("mean", NearestMean(), pixels)
    study.ask("mean", NearestMean(), raw_pixels(2))
    study.run()
    names = ["4x4 raw pixels", "2x2 raw pixels"]
    study.differences("encoder", names, method="mean")
    table = study.table(metric="top-1 difference")
    assert list(table.encoder) == ["4x4 raw pixels − 2x2 raw pixels"] * 2
    assert table.features.isna().all() and list(table.split) == NAMES


def test_the_same_results_are_the_same_file(index, splits, tmp_path):
    def save(folder):
        study = Study("x", index, splits)
        for k in (1, 2):
            values = np.random.default_rng(k).random(20) < 1 / 3
            study.add("top-1", values, np.arange(20), encoder="tiny – ü", shots=k)
        study.save(tmp_path / folder)
        return tmp_path / folder / "results" / "x.csv"

    one, other = save("one"), save("two")
    assert one.read_bytes() == other.read_bytes() and b"\r" not in one.read_bytes()
    table = pd.read_csv(one)
    assert list(table.columns) == COLUMNS and table.encoder[0] == "tiny – ü"
    assert (table.low <= table.value).all() and (table.value <= table.high).all()


def test_curves_stand_beside_the_results(study, tmp_path):
    curves = pd.DataFrame(
        {"split": "official", "encoder": "E", "features": "joint", "method": "fine-tuned ML",
         "shots": 2, "seed": 0, "fold": 1, "chosen": 1, "epoch": [0, 1], "part": "train",
         "loss": [0.5, 0.25], "accuracy": [0.1, 1 / 3]}
    )  # fmt: skip
    study.save(tmp_path, curves)
    text = (tmp_path / "results" / "03_some_curves.csv").read_text()
    head = "experiment,dataset,split,encoder,features,method,shots,seed,fold,chosen,epoch,part"
    assert text.splitlines()[0] == f"{head},loss,accuracy"
    assert text.splitlines()[2].startswith("03_some,tiny-fruits,official,E,joint,fine-tuned ML,2,0")
