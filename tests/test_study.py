"""A study's answers and rows against the same questions put by hand."""

import json
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score

import cliphelpers as ch
from cliphelpers.classifiers import Linear, NearestMean, Ridge, fit_chosen
from cliphelpers.encoders.encoder import raw_pixels
from cliphelpers.evaluation import interval
from cliphelpers.features import extract_features
from cliphelpers.index import index_images
from cliphelpers.looks import group_of
from cliphelpers.splits import Fold, few_shot_fold, make_splits
from cliphelpers.study import COLUMNS, Study

NAMES = ["official", "by_group"]


pytestmark = pytest.mark.usefixtures("own_cache")


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


ENDS = ["value", "low", "high", "p", "low_classes", "high_classes"]


def told_by(row):
    return [float("nan" if getattr(row, name) is None else getattr(row, name)) for name in ENDS]


def ends(study, values, rows):
    """The two intervals that a row should have, and p, by the named groups and by the classes."""
    groups = np.unique(group_of(study.index), return_inverse=True)[1][rows]
    mean, low, high, p = interval(values, study.y[rows], groups)
    _, wide_low, wide_high, _ = interval(values, np.zeros(len(rows), int), study.y[rows])
    return [mean, low, high, p, wide_low, wide_high]


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
        np.testing.assert_array_equal(told.rows, ch.test_rows(study.splits[split]))
        np.testing.assert_array_equal(told.y, study.y[told.rows])
        np.testing.assert_array_equal(told.predicted, scores.argmax(1))
        np.testing.assert_array_equal(told.right, scores.argmax(1) == told.y)
        row = table[(table.split == split) & (table.metric == "top-1")].iloc[0]
        expected = ends(study, told.predicted == told.y, told.rows)
        np.testing.assert_array_equal(told_by(row), expected)
        assert row.n == len(told.y) and pd.isna(row.verdict)
        assert row.balanced == pytest.approx(balanced_accuracy_score(told.y, told.predicted))
        assert (row.encoder, row.features, row.experiment) == (pixels.name, "pixels", "03_some")
        second = np.sort(scores, axis=1)[:, -2]
        held = np.mean(scores[np.arange(len(told.y)), told.y] >= second)
        assert table[(table.split == split) & (table.metric == "top-2")].value.iloc[0] == held


def test_few_shot_answers_learn_from_the_draws_and_the_first_seed_chooses(study, splits, pixels, X):
    ridge = Ridge([1e-3, 100.0])
    study.ask("ridge", ridge, pixels, shots=[1, 2], seeds=[3, 4])
    study.run()
    table = study.table(every_seed=True, split="official")
    assert table.shots.tolist() == [1, 1, 1, 2, 2, 2] and set(table.metric) == {"top-1"}
    assert table.seed.tolist()[::3] == [3, 3] and table.seed.isna().sum() == 2
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
            assert told.scores is None


def test_the_row_of_several_seeds_is_of_their_mean(study, pixels):
    study.ask("mean", NearestMean(), pixels, shots=[1, 2], seeds=range(3))
    table = study.run()
    assert len(table) == 4 and table.seed.isna().all()
    every = study.table(every_seed=True)
    assert len(every) == 16 and every.seed.dropna().tolist() == [0, 1, 2] * 4
    for row in table.itertuples():
        at = {"split": row.split, "shots": row.shots}
        told = [study.answers(**at, seed=seed) for seed in range(3)]
        expected = ends(study, np.stack([one.right for one in told]), told[0].rows)
        np.testing.assert_array_equal(told_by(row), expected)
        single = every[(every.split == row.split) & (every.shots == row.shots)].dropna(
            subset="seed"
        )
        assert row.value == pytest.approx(single.value.mean())
        for seed, one in zip(range(3), single.itertuples(), strict=True):
            expected = ends(study, told[seed].right, told[seed].rows)
            np.testing.assert_array_equal(told_by(one), expected)


def test_a_single_seed_keeps_its_row(study, pixels):
    study.ask("mean", NearestMean(), pixels, shots=[2], seeds=[7])
    table = study.run()
    assert table.seed.tolist() == [7, 7]
    pd.testing.assert_frame_equal(table, study.table(every_seed=True))


def test_what_was_chosen_and_whether_at_an_edge(study, splits, pixels, X):
    ridge = Ridge([1e3, 1.0, 1e-3])
    study.ask("ridge", ridge, pixels)
    study.ask("one", Ridge([1.0]), pixels)
    study.ask("said", NearestMean(), pixels, chosen="three prompts")
    table = study.run()
    for split in NAMES:
        chosen = [fit_chosen(ridge, X, study.y, fold) for fold in splits[split]]
        rows = table[(table.split == split) & (table.method == "ridge")]
        assert set(rows.chosen) == {"; ".join(dict.fromkeys(one.chosen_ for one in chosen))}
        assert (rows.at_edge == np.mean([one.at_edge_ for one in chosen])).all()
    assert table[table.method == "one"][["chosen", "at_edge"]].isna().all(axis=None)
    said = table[table.method == "said"]
    assert set(said.chosen) == {"three prompts"} and said.at_edge.isna().all()


@pytest.mark.parametrize(("top", "metrics"), [((1, 3), 2), ((1, 4), 1), ((1, 5), 1)])
def test_the_best_of_as_many_classes_as_there_are_say_nothing(index, splits, pixels, top, metrics):
    study = Study("x", index, splits, top=top)
    study.ask("mean", NearestMean(), pixels)
    assert study.run().metric.nunique() == metrics


# ------------------------------------------------------------------------------- how many shots


def test_a_k_beyond_a_class_is_left_out_with_one_warning(study, pixels):
    """Every class has 12 pictures to learn from, in every fold."""
    with pytest.warns(UserWarning, match="A class has 12 pictures to learn from in a fold") as told:
        study.ask("mean", NearestMean(), pixels, shots=[4, 11, 16, 32], seeds=range(2))
    assert len(told) == 1 and told[0].filename == __file__
    table = study.run()
    assert set(table.shots) == {4, 11} and len(table) == 4


@pytest.mark.parametrize("shots", [[13], [16, 64]])
def test_no_k_that_every_class_has_is_an_error(study, pixels, shots):
    words = "A class has 12 pictures to learn from: lower k"
    with pytest.raises(ValueError, match=words):
        study.ask("mean", NearestMean(), pixels, shots=shots)


def test_the_smallest_class_of_the_folds_that_are_asked_counts(study, splits, pixels):
    fold = splits["official"][0]
    bananas = fold.fit[study.index.label.iloc[fold.fit] == "Banana"]
    less = splits["official"][0].__class__(
        np.setdiff1d(fold.train, bananas[:9]), np.setdiff1d(fold.val, bananas[:9]), fold.test,
        split="official",
    )  # fmt: skip
    with pytest.warns(UserWarning, match="A class has 3 pictures to learn"):
        study.ask("mean", NearestMean(), pixels, [less], shots=[2, 3, 4])
    assert set(study.run().shots) == {2, 3}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        study.ask("mean", NearestMean(), pixels, [fold], shots=[2, 3, 4])


def test_a_k_that_is_all_of_a_fold_is_a_point_of_a_curve(study, splits, pixels, X):
    study.ask("mean", NearestMean(), pixels, shots=[12], seeds=[5])
    table = study.run()
    assert (table.shots == 12).all() and set(table.metric) == {"top-1"}
    for fold, told in zip(splits["official"], [study.answers(split="official")], strict=True):
        by_hand = NearestMean().fit(X[fold.fit], study.y[fold.fit], 4).scores(X[fold.test])[0]
        np.testing.assert_array_equal(told.predicted, by_hand.argmax(1))


# ------------------------------------------------------------------------------- once


def test_folds_of_one_s_own_say_which_they_are(index, splits, pixels):
    own = [replace(fold, split="days") for fold in splits["by_group"]]
    study = Study("own", index, {"days": own})
    study.ask("mean", NearestMean(), pixels)
    assert set(study.run().split) == {"days"}
    alike = [replace(fold, number=0) for fold in own]
    plain = [Fold(fold.train, fold.val, fold.test) for fold in own]
    for folds in (splits["by_group"], alike, plain):
        with pytest.raises(ValueError, match="Folds of the split 'days' do not say which they"):
            Study("own", index, {"days": folds})


def test_a_split_has_its_row_once_all_of_its_folds_are_answered(study, splits, pixels, tmp_path):
    folds = splits["by_group"]
    for fold in folds[:0:-1]:  # from the last to the second
        study.ask("mean", NearestMean(), pixels, [fold])
    assert study.run().empty
    with pytest.warns(
        UserWarning, match="1 questions have no rows: some folds of a split were not"
    ):
        study.save(tmp_path)
    study.ask("mean", NearestMean(), pixels, folds[:1])
    assert set(study.run().split) == {"by_group"}
    study.save(tmp_path)
    np.testing.assert_array_equal(study.answers().rows, ch.test_rows(study.splits["by_group"]))


def test_a_known_head_needs_only_the_features_of_test_pictures(study, splits, pixels, monkeypatch):
    seen = []

    def extract(encoder, index, rows):
        seen.append(rows)
        return extract_features(encoder, index, rows)

    monkeypatch.setattr("cliphelpers.study.extract_features", extract)
    head = (np.eye(48, 4, dtype=np.float32), 0)
    study.ask("known", Linear(head), pixels, splits["official"])
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


@pytest.mark.parametrize("kind", [bool, int, float])
def test_an_added_row_has_the_interval_of_its_groups_and_that_of_its_classes(study, kind):
    rows, values = np.array([0, 1, 9, 30, 31, 70]), np.array([1, 1, 0, 0, 1, 1]).astype(kind)
    study.add("sharpness", values, rows, split="official", shots=4, seed=1)
    row = study.table().iloc[0].dropna().to_dict()
    mean, low, high, _, wide_low, wide_high = ends(study, values, rows)
    assert row == {
        "experiment": "03_some", "dataset": "tiny-fruits", "split": "official", "shots": 4,
        "seed": 1, "metric": "sharpness", "value": mean, "low": low, "high": high, "n": 6,
        "balanced": pd.Series(values.astype(float)).groupby(study.y[rows]).mean().mean(),
        "low_classes": wide_low, "high_classes": wide_high,
    }  # fmt: skip


def test_an_index_that_has_lost_its_attrs_is_refused_before_anything_is_computed(index, splits):
    once_more = pd.concat([index, index.assign(label="other " + index.label)])
    once_more.attrs = {}  # as merge leaves them
    with pytest.raises(ValueError, match=r"lost its attrs, .*: index.attrs = other.attrs"):
        Study("lost", once_more, splits)


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
    same = table[table.method == "one − same"]
    assert (same.value == 0).all() and (same.p == 1).all()
    assert (same.low < 0).all() and (same.high > 0).all() and set(same.verdict) == {"not decided"}
    for row in table[table.method == "one − other"].itertuples():
        one, other = (study.answers(split=row.split, method=name) for name in ("one", "other"))
        expected = ends(study, one.right.astype(int) - other.right, one.rows)
        np.testing.assert_array_equal(told_by(row), expected)
        assert row.features == "pixels"


def test_differences_of_several_seeds_are_of_their_means_seed_by_seed(study, pixels):
    for method, classifier in [("mean", NearestMean()), ("ridge", Ridge([1e-2]))]:
        study.ask(method, classifier, pixels, shots=[1, 2], seeds=range(3))
    study.run()
    study.differences("method", ["mean", "ridge"], name="better")
    table = study.table(metric="top-1 difference", every_seed=True)
    assert len(table) == 4 and table.seed.isna().all() and set(table.method) == {"better"}
    for row in table.itertuples():
        at = {"split": row.split, "shots": row.shots}
        less = [
            study.answers(method="mean", seed=seed, **at).right.astype(int)
            - study.answers(method="ridge", seed=seed, **at).right
            for seed in range(3)
        ]
        expected = ends(study, np.stack(less), ch.test_rows(study.splits[row.split]))
        np.testing.assert_array_equal(told_by(row), expected)


MINE = """
import numpy as np

class Mine:
    candidates, grid, learns = [None], (), True

    def fit(self, X, y, classes):
        self.means = np.stack([X[y == one].mean(0) for one in range(classes)])
        return self

    def scores(self, X):
        return {sign}((X[:, None] - self.means) ** 2).sum(2)[None]
"""


def test_an_own_classifier_is_asked_anew_when_its_code_changes(index, splits, pixels, tmp_path):
    accuracies = []
    for sign in ("-", "+"):
        place = {"__name__": "mine"}
        exec(MINE.format(sign=sign), place)
        study = Study("03_some", index, splits)
        study.ask("mine", place["Mine"](), replace(pixels, spec="module:pixels.py"))
        accuracies.append(study.run().value.mean())
        study.save(tmp_path)
    assert accuracies[0] > accuracies[1] + 0.2
    assert not list(tmp_path.glob("classifiers/*/*"))  # others could not read it


@pytest.mark.parametrize("lacks", ["candidates", "fit", "grid", "learns", "scores"])
def test_what_an_own_classifier_lacks_is_named(study, pixels, lacks):
    whole = {name: None for name in ("candidates", "fit", "grid", "learns", "scores")}
    del whole[lacks]
    with pytest.raises(TypeError, match=f"Mine has no {lacks}: see cliphelpers.classifiers"):
        study.ask("mine", type("Mine", (), whole)(), pixels)


def test_classifiers_whose_names_differ_in_signs_alone_are_both_saved(study, tmp_path):
    for side, name in ((2, "a b"), (3, "a-b"), (4, "a/b"), (5, "c")):
        encoder = replace(raw_pixels(side), name=name, spec=f"module:{side}.py")
        study.ask("ridge", Ridge([1.0]), encoder)
    study.run()
    study.save(tmp_path)
    cards = {
        card.parent.name: json.loads(card.read_text())["encoder"]
        for card in tmp_path.glob("classifiers/03_some/*/card.json")
    }
    names = {"ridge-a-b-pixels": "a b", "ridge-a-b-pixels-2": "a-b", "ridge-a-b-pixels-3": "a/b"}
    assert cards == names | {"ridge-c-pixels": "c"}


def test_what_learnt_from_no_shots_is_compared_with_each_k(study, pixels):
    study.ask("mean", NearestMean(), pixels, shots=[1, 2], seeds=range(2))
    study.ask("zero-shot", Linear((np.eye(48, 4, dtype=np.float32), 0)), pixels)
    study.run()
    study.differences("method", ["mean", "zero-shot"], split="official")
    table = study.table(metric="top-1 difference")
    assert table.shots.tolist() == [1, 2] and table.seed.isna().all()
    known = study.answers(method="zero-shot", split="official")
    for k in (1, 2):
        drawn = [study.answers(method="mean", split="official", shots=k, seed=s) for s in (0, 1)]
        expected = np.mean([one.right for one in drawn]) - known.right.mean()
        assert table[table.shots == k].value.item() == pytest.approx(expected)


def test_only_what_survives_holm_s_correction_is_called_better_or_worse(study):
    """Of some differences that are below 0.05 one by one."""
    rows, p = np.arange(72), {}
    for number, gains in enumerate([50, -50, 18, 16, 14, -14, 3, 0]):
        values = np.zeros(72, int)
        values[np.linspace(0, 71, abs(gains)).astype(int)] = np.sign(gains)
        study.add("top-1 difference", values, rows, method=f"{number}")
        p[f"{number}"] = np.sign(gains), ends(study, values, rows)[3]
    study.add("sharpness difference", values - 0.5, rows, method="alone")
    study.add("top-1", values > 0, rows, method="no difference")
    verdicts = study.table().set_index("method").verdict
    ranked = sorted(p, key=lambda name: p[name][1])
    survives, expected = True, {}
    for place, name in enumerate(ranked):
        survives = survives and p[name][1] < 0.05 / (len(p) - place)
        expected[name] = {1: "better", -1: "worse"}[p[name][0]] if survives else "not decided"
    assert verdicts[list(p)].to_dict() == expected
    assert {"better", "worse"} <= set(expected.values())
    assert any(one[1] < 0.05 and expected[name] == "not decided" for name, one in p.items())
    assert verdicts["alone"] == "worse"  # of another metric, and the only one
    assert pd.isna(verdicts["no difference"])


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


@pytest.mark.parametrize("shots", [[], [0], [2, 0], np.array([-1, 2])])
def test_a_k_below_one_does_not_mean_all_pictures(study, pixels, shots):
    with pytest.raises(ValueError, match="k must be from 1 on, but shots are"):
        study.ask("mean", NearestMean(), pixels, shots=shots)


def test_shots_can_be_an_array(study, pixels):
    study.ask("mean", NearestMean(), pixels, shots=np.array([1, 2]))
    assert set(study.run().shots) == {1, 2}


def test_a_mask_counts_the_pictures_that_it_picks(study):
    mask = np.arange(len(study.y)) < 8
    study.add("metric", np.arange(8.0), mask)
    study.add("same", np.arange(8.0), np.flatnonzero(mask))
    one, other = study.table()[["value", "low", "high", "n"]].to_numpy()
    assert one.tolist() == other.tolist() and one[-1] == 8
