"""cliphelpers.classifiers against scikit-learn, CLIP's own procedure and formulas by hand."""

from dataclasses import replace
from functools import partial

import clip
import numpy as np
import pandas as pd
import pytest
import scipy.optimize
import torch
from scipy.special import log_softmax, softmax
from sklearn import linear_model
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_info, threadpool_limits

from cliphelpers.classifiers import (
    KNearest,
    Linear,
    Logistic,
    NearestMean,
    Ridge,
    TipAdapter,
    fit_chosen,
    text_weights,
)
from cliphelpers.encoders.encoder import normalize
from cliphelpers.encoders.load import load_encoder
from cliphelpers.splits import Fold

STRENGTHS = [1e-3, 10.0, 0.1, 1.0, 1e-2]  # in no order
STRONGEST_FIRST = sorted(STRENGTHS, reverse=True)


def problem(n=90, size=12, classes=4, seed=0, noise=1.5):
    """Features of different scales and offsets around class centres, and their classes."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    X = rng.normal(size=(classes, size))[y] + noise * rng.normal(size=(n, size))
    return (X * rng.uniform(0.1, 20, size) + rng.normal(0, 5, size)).astype(np.float32), y


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """As a study fits; several get into each other's way where a step takes microseconds."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(threads)


@pytest.fixture
def train():
    return problem()


@pytest.fixture
def test():
    return problem(seed=0, n=50)[0] + 1


def standardised(X, *others):
    scaler = StandardScaler().fit(X.astype(np.float64))
    return [scaler.transform(one.astype(np.float64)) for one in (X, *others)]


# ------------------------------------------------------------------------------- neighbours


def neighbours(X, y, k, asked):
    """Shares of the votes by scikit-learn, in float64."""
    way = {"metric": "cosine", "weights": lambda distance: np.exp((1 - distance) / 0.07)}
    return KNeighborsClassifier(min(k, len(X)), **way).fit(X.astype(float), y).predict_proba(asked)


@pytest.mark.parametrize("n", [600, 13, 4])  # of which k are more than there are, at last
def test_k_nearest_neighbours_equal_scikit_learn_s(n):
    X, y = problem(n, noise=4)
    asked = problem(1100, seed=1, noise=4)[0]  # more than a block
    scores = KNearest().fit(X, y, 4).scores(asked)
    assert scores.shape == (4, 1100, 4) and scores.dtype == np.float32
    for k, ours in zip((1, 5, 10, 20), scores, strict=True):
        expected = neighbours(X, y, k, asked.astype(float))
        np.testing.assert_allclose(ours / ours.sum(1, keepdims=True), expected, atol=1e-3)


def test_validation_chooses_k_and_it_is_fitted_on_all():
    X, y = problem(300, noise=6)
    rows = np.random.default_rng(0).permutation(300)
    fold = Fold(rows[:100], rows[100:200], rows[200:])
    scores = KNearest().fit(X[fold.train], y[fold.train], 4).scores(X[fold.val])
    best = (1, 5, 10, 20)[(scores.argmax(2) == y[fold.val]).mean(1).argmax()]
    fitted = fit_chosen(KNearest(), X, y, fold)
    assert best > 1 and fitted.chosen_ == str(best) and fitted.at_edge_ == (best == 20)
    told = fitted.scores(X[fold.test])[0].argmax(1)
    expected = neighbours(X[fold.fit], y[fold.fit], best, X[fold.test].astype(float))
    np.testing.assert_array_equal(told, expected.argmax(1))


# ------------------------------------------------------------------------------- linear probes


def test_ridge_equals_scikit_learn(train, test):
    X, y = train
    Z, Z_test = standardised(X, test)
    ours = Ridge(STRENGTHS).fit(X, y, 4)
    heads = zip(STRONGEST_FIRST, ours.heads_, ours.scores(test), strict=True)
    for strength, (coef, _), scores in heads:
        reference = linear_model.Ridge(alpha=len(X) * strength).fit(Z, np.eye(4)[y])
        np.testing.assert_allclose(
            coef * X.std(0)[:, None], reference.coef_.T, rtol=1e-3, atol=1e-5
        )
        np.testing.assert_allclose(scores, reference.predict(Z_test), atol=2e-4)
    assert ours.scores(test).dtype == np.float32


def test_ridge_with_fewer_pictures_than_features():
    X, y = problem(n=10, size=40)
    (Z,) = standardised(X)
    reference = linear_model.Ridge(alpha=10 * 0.1).fit(Z, np.eye(4)[y])
    scores = Ridge([0.1]).fit(X, y, 4).scores(X)[0]
    np.testing.assert_allclose(scores, reference.predict(Z), atol=1e-4)


@pytest.mark.parametrize("classes", [2, 4])
def test_logistic_equals_scikit_learn(classes, test):
    X, y = problem(classes=classes)
    Z, Z_test = standardised(X, test)
    ours = Logistic(STRENGTHS, rtol=1e-10).fit(X, y, classes)
    results = zip(STRONGEST_FIRST, ours.heads_, ours.scores(test), strict=True)
    for strength, (coef, _), scores in results:
        # Of two classes scikit-learn has the difference w of both vectors, which are +w/2 and
        # -w/2 here: their penalty is half of its own.
        C = (2 if classes == 2 else 1) / (len(X) * strength)
        reference = linear_model.LogisticRegression(C=C, tol=1e-10, max_iter=10_000).fit(Z, y)
        expected = reference.predict_proba(Z_test)
        np.testing.assert_allclose(softmax(scores, axis=1), expected, atol=1e-3)
        if classes > 2:
            np.testing.assert_allclose(coef * X.std(0)[:, None], reference.coef_.T, atol=3e-3)
    assert ours.scores(test).dtype == np.float32


def loss_of(Z, y, coef, intercept, strength):
    """Mean cross-entropy and penalty on standardised features, in float64."""
    log_p = log_softmax(Z @ coef + intercept, axis=1)
    return strength / 2 * np.sum(coef**2) - log_p[np.arange(len(y)), y].mean()


WEAK = [10.0**power for power in range(1, -7, -1)]


@pytest.mark.parametrize(("n", "size", "noise"), [(200, 30, 2), (400, 20, 6), (60, 90, 1)])
def test_logistic_reaches_scikit_learn_s_optimum_at_every_penalty(n, size, noise):
    """Also where classes are told apart (in the first and the last), and weights grow long."""
    X, y = problem(n=n, size=size, noise=noise)
    X = X * np.linspace(1, 100, size, dtype=np.float32)
    (Z,) = standardised(X)
    ours, std, mean = Logistic(WEAK).fit(X, y, 4), X.std(0, dtype=float), X.mean(0, dtype=float)
    newton = {"solver": "newton-cg", "tol": 1e-8, "max_iter": 1000}
    for strength, (coef, intercept) in zip(WEAK, ours.heads_, strict=True):
        reference = linear_model.LogisticRegression(C=1 / (n * strength), **newton).fit(Z, y)
        best = loss_of(Z, y, reference.coef_.T, reference.intercept_, strength)
        found = loss_of(Z, y, coef * std[:, None], intercept + mean @ coef, strength)
        assert best - 1e-7 <= found <= best * (1 + ours.rtol) + 1e-7
        answers = np.argmax(X @ coef + intercept, axis=1)
        assert np.mean(answers == reference.predict(Z)) > 0.99


def test_logistic_s_tolerance_is_how_near_the_optimum_is():
    X, y = problem(n=400, noise=4)
    (Z,) = standardised(X)
    std, mean = X.std(0, dtype=float), X.mean(0, dtype=float)
    losses = []
    for rtol in (1e-7, 1e-5, 1e-3, 1e-1):
        coef, intercept = Logistic([1e-2], rtol=rtol).fit(X, y, 4).heads_[0]
        losses.append(loss_of(Z, y, coef * std[:, None], intercept + mean @ coef, 1e-2))
        assert losses[-1] <= losses[0] * (1 + rtol)
    assert losses[3] > losses[1] * (1 + 1e-5)  # it does stop earlier


def test_the_default_tolerance_is_enough_for_the_same_predictions(train, test):
    X, y = train
    rough, exact = (Logistic(STRENGTHS[2:], rtol=t).fit(X, y, 4) for t in (1e-5, 1e-8))
    assert np.mean(rough.scores(test).argmax(2) == exact.scores(test).argmax(2)) > 0.99
    difference = softmax(rough.scores(test), axis=2) - softmax(exact.scores(test), axis=2)
    assert np.abs(difference).max() < 0.02


def test_without_standardisation_features_are_used_as_they_are(train):
    X, y = normalize(train[0]), train[1]
    ours = Logistic([0.01], standardize=False, rtol=1e-10).fit(X, y, 4)
    reference = linear_model.LogisticRegression(C=1 / (len(X) * 0.01), tol=1e-10, max_iter=10_000)
    expected = reference.fit(X, y).predict_proba(X)
    np.testing.assert_allclose(softmax(ours.scores(X)[0], axis=1), expected, atol=1e-3)


@pytest.mark.parametrize("strength", [1.0, 1e-3])
def test_a_minimum_that_is_not_reached_is_said(train, strength):
    with pytest.warns(UserWarning, match=f"strength {strength:g} stopped before its minimum"):
        Logistic([strength], rtol=1e-40).fit(*train, 4)
    Logistic([strength]).fit(*train, 4)  # without a word


@pytest.mark.parametrize("value", [0.0, 1.0, 1e4])
def test_features_that_say_nothing_have_their_minimum_at_once(value):
    ours = Logistic(STRENGTHS).fit(np.full((12, 5), value, np.float32), np.arange(12) % 3, 3)
    assert all(np.abs(coef).max() < 1e-6 for coef, _ in ours.heads_)  # and no warning


def blas_threads():
    return {one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"}


def test_scipy_s_threads_do_not_wait_for_torch_s(train, monkeypatch):
    """Together they take up to 30 times as long for a small problem."""
    real, seen = scipy.optimize.minimize, []

    def minimize(*arguments, **more):
        seen.append(blas_threads())
        return real(*arguments, **more)

    monkeypatch.setattr(scipy.optimize, "minimize", minimize)
    with threadpool_limits(2, user_api="blas"):
        Logistic([1.0, 0.1]).fit(*train, 4)
        assert len(seen) >= 2 and {1} == set.union(*seen) and blas_threads() == {2}


@pytest.fixture
def prior():
    return np.random.default_rng(3).normal(size=(12, 4)).astype(np.float32)


def test_a_huge_strength_leaves_the_prior_and_a_bias(train, prior):
    X, y = normalize(train[0]), train[1]
    ours = Logistic([1e5], prior=prior, rtol=1e-10).fit(X, y, 4)
    coef, bias = ours.heads_[0]
    np.testing.assert_allclose(coef, prior, atol=1e-4)
    np.testing.assert_allclose(ours.scores(X)[0], X @ prior + bias, atol=1e-4)


@pytest.mark.parametrize("strength", [0.3, 0.01])
def test_a_penalty_that_pulls_to_the_prior_by_another_optimiser(train, prior, strength):
    X, y = (torch.tensor(one) for one in (normalize(train[0]).astype(np.float64), train[1]))
    P = torch.tensor(prior, dtype=torch.float64)
    W, b = P.clone().requires_grad_(), torch.zeros(4, dtype=torch.float64, requires_grad=True)
    options = {"max_iter": 500, "tolerance_grad": 1e-12, "tolerance_change": 0}
    optimiser = torch.optim.LBFGS([W, b], line_search_fn="strong_wolfe", **options)

    def closure():
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(X @ W + b, y)
        loss = loss + strength / 2 * ((W - P) ** 2).sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    assert W.grad.abs().max() < 1e-8
    ours = Logistic([strength], prior=prior, rtol=1e-10)
    ours.fit(normalize(train[0]), train[1], 4)
    coef, bias = ours.heads_[0]
    np.testing.assert_allclose(coef, W.detach(), atol=2e-3)
    same = bias - bias.mean()  # what all classes share decides nothing
    np.testing.assert_allclose(same, b.detach() - b.detach().mean(), atol=2e-3)
    assert np.abs(coef - prior).max() > 0.02


@pytest.mark.parametrize("make", [NearestMean, KNearest, partial(Ridge, [1.0])])
def test_features_that_are_no_numbers_are_refused(make, train):
    X, y = train
    X[7] = np.nan  # as a row that extract_features was not asked for
    with pytest.raises(ValueError, match="Features to learn from are no numbers"):
        fit_chosen(make(), X, y, Fold(np.arange(50), np.arange(50, 60), np.arange(60, 90)))


@pytest.mark.parametrize("make", [Ridge, Logistic])
def test_probes_with_a_constant_feature_and_a_class_without_pictures(make, train):
    X, y = train
    X[:, 3] = 7
    scores = make([0.1]).fit(X, y, 5).scores(X)
    assert np.isfinite(scores).all() and scores.shape == (1, 90, 5)
    assert not (scores.argmax(2) == 4).any()


@pytest.mark.parametrize("make", [Ridge, Logistic])
@pytest.mark.parametrize("strengths", [[], [0.1, -1.0], [np.nan], [1.0, np.inf], np.array([])])
def test_faulty_strengths(make, strengths):
    with pytest.raises(ValueError, match="Strengths must be numbers of at least 0, not"):
        make(strengths)


@pytest.mark.parametrize("make", [Ridge, Logistic])
@pytest.mark.parametrize("kind", [np.array, pd.Series, tuple])
def test_strengths_in_any_sequence(make, kind):
    assert make(kind([0.1, 10.0, 1.0])).candidates == [10.0, 1.0, 0.1]


def test_logistic_regression_needs_a_penalty():
    with pytest.raises(ValueError, match="Strengths of logistic regression must be above 0"):
        Logistic([0.1, 0])


@pytest.mark.parametrize("make", [Ridge, Logistic])
def test_the_same_input_gives_the_same_bits(make, train, test):
    one, other = (make(STRENGTHS).fit(*train, 4).scores(test) for _ in range(2))
    assert np.array_equal(one, other)


# ------------------------------------------------------------------------------- means and caches


def test_normalize():
    X = np.array([[3, 4], [0, 0], [-2, 0]], np.float32)
    np.testing.assert_allclose(normalize(X), [[0.6, 0.8], [0, 0], [-1, 0]])
    assert normalize(X).dtype == np.float32


def test_nearest_mean_by_hand():
    X = np.array([[2, 0], [0, 5], [0, 1], [-3, 0]], np.float32)
    ours = NearestMean().fit(X, np.array([0, 0, 1, 2]), 3)
    half = np.sqrt(0.5)  # the mean direction of (1, 0) and (0, 1), lengths do not count
    np.testing.assert_allclose(ours.means_, [[half, half], [0, 1], [-1, 0]], atol=1e-6)
    scores = ours.scores(np.array([[10, 10], [0, 0.1]], np.float32))
    np.testing.assert_allclose(scores, [[[1, half, -half], [half, 1, 0]]], atol=1e-6)


def test_nearest_mean_uses_the_mean_of_unit_vectors_not_of_raw_ones():
    X = np.array([[100, 0], [0, 1], [0, -1]], np.float32)
    ours = NearestMean().fit(X, np.array([0, 0, 1]), 2)
    np.testing.assert_allclose(ours.means_[0], [np.sqrt(0.5)] * 2, atol=1e-6)


@pytest.mark.parametrize("pictures", [7, 1024, 2500])
def test_tip_adapter_by_its_formula(pictures):
    rng = np.random.default_rng(0)
    shots, y = rng.normal(size=(12, 6)), np.arange(12) % 3
    X, W = rng.normal(size=(pictures, 6)), rng.normal(size=(3, 6))
    W /= np.linalg.norm(W, axis=1, keepdims=True)
    alphas, betas, scale = [0.5, 2.0], [1.0, 5.5, 30.0], 14.0
    ours = TipAdapter(W.astype("f"), scale, alphas, betas).fit(shots.astype("f"), y, 3)
    scores = ours.scores(X.astype("f"))
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    keys = shots / np.linalg.norm(shots, axis=1, keepdims=True)
    assert scores.dtype == np.float32 and len(scores) == len(ours.candidates) == 6
    for (alpha, beta), got in zip(ours.candidates, scores, strict=True):
        affinity = np.exp(-beta * (1 - unit @ keys.T))
        expected = scale * unit @ W.T + alpha * affinity @ np.eye(3)[y]
        np.testing.assert_allclose(got, expected, atol=2e-5)


# ------------------------------------------------------------------------------- text


@pytest.mark.filterwarnings("ignore:`torch.jit.load` is deprecated")
def test_text_weights_are_those_of_clip_s_notebook(clip_vit):
    names, templates = ["apple", "golden {} pear", "🍌"], ["a photo of a {}.", "{}", "art of {}!"]
    model, _ = clip.load(str(clip_vit), device="cpu")
    expected = []
    with torch.no_grad():  # as in "Prompt Engineering for ImageNet" of CLIP's repository
        for name in names:
            texts = clip.tokenize([template.replace("{}", name) for template in templates])
            embeddings = model.encode_text(texts)
            embeddings /= embeddings.norm(dim=-1, keepdim=True)
            embedding = embeddings.mean(dim=0)
            expected.append(embedding / embedding.norm())
    weights = text_weights(load_encoder(f"clip:{clip_vit}"), names, templates)
    np.testing.assert_allclose(weights, torch.stack(expected), atol=1e-5)
    assert weights.dtype == np.float32


@pytest.mark.parametrize(
    ("templates", "message"),
    [
        ([], "No templates: give at least one"),
        (["{}", "a photo"], "The template 'a photo' needs one {}"),
        (["{} and {}"], "The template '{} and {}' needs one {}"),
    ],
)
def test_faulty_templates(templates, message):
    with pytest.raises(ValueError, match=message):
        text_weights(None, ["apple"], templates)


# ------------------------------------------------------------------------------- choosing


class Remembering:
    """Candidates are tables of answers; notes which rows it was fitted on."""

    learns, grid = True, ()

    def __init__(self, *candidates):
        self.candidates = list(candidates)

    def fit(self, X, y, classes):
        self.rows_ = X[:, 0].astype(int).tolist()
        self.classes_ = classes
        return self

    def scores(self, X):
        answers = np.array(self.candidates)[:, X[:, 0].astype(int)]
        return np.eye(self.classes_, dtype=np.float32)[answers]


ROWS = np.arange(6.0)[:, None]
Y = np.array([0, 1, 0, 1, 0, 1])
FOLD = Fold(train=np.array([0, 1]), val=np.array([2, 3]), test=np.array([4, 5]))


def test_validation_chooses_though_the_test_would_choose_otherwise():
    bad, good_on_test, good_on_val = [1, 0, 1, 0, 1, 0], [0, 1, 1, 1, 0, 1], [0, 1, 0, 1, 1, 0]
    classifier = Remembering(bad, good_on_test, good_on_val)
    chosen = fit_chosen(classifier, ROWS, Y, FOLD)
    assert chosen.candidates == [good_on_val] and chosen.chosen_ == "candidate 3"
    assert chosen.rows_ == [0, 1, 2, 3]  # fitted again on both parts, never on the test
    assert len(classifier.candidates) == 3 and not hasattr(classifier, "rows_")


def test_of_equal_candidates_the_first_is_chosen():
    half, other_half = [0, 0, 0, 0, 1, 1], [1, 1, 1, 1, 0, 1]
    for candidates in ([half, other_half], [other_half, half]):
        chosen = fit_chosen(Remembering(*candidates), ROWS, Y, FOLD)
        assert chosen.candidates == [candidates[0]]


def test_without_validation_pictures_the_first_is_chosen():
    none = replace(FOLD, val=np.array([], int))
    chosen = fit_chosen(Remembering([1] * 6, Y), ROWS, Y, none)
    assert chosen.candidates == [[1] * 6] and chosen.rows_ == [0, 1, 2, 3]
    assert chosen.chosen_ == "candidate 1" and not chosen.at_edge_


@pytest.mark.parametrize("make", [Ridge, partial(Logistic, rtol=1e-8)])
def test_the_chosen_strength_is_that_of_trying_each(make):
    X, y = problem(n=200, noise=4)
    train, val, test = np.split(np.random.default_rng(0).permutation(200), [40, 120])
    fit = np.concatenate([train, val])
    strengths = [100.0, 1.0, 1e-2, 1e-4]
    tried = [make([s]).fit(X[train], y[train], 4).scores(X[val])[0].argmax(1) for s in strengths]
    accuracies = [np.mean(predicted == y[val]) for predicted in tried]
    assert len(set(accuracies)) > 1
    chosen = fit_chosen(make(strengths), X, y, Fold(train, val, test, fit))
    assert chosen.candidates == [strengths[int(np.argmax(accuracies))]]
    expected = make(chosen.candidates).fit(X[fit], y[fit], 4).scores(X[test])
    np.testing.assert_allclose(chosen.scores(X[test]), expected, atol=2e-3)


def test_logistic_is_fitted_again_along_the_path_that_chose():
    """Loosely on the way, so within its tolerance it is the path's own solution."""
    X, y = problem(n=200, noise=4)
    train, val = np.split(np.random.default_rng(0).permutation(200), [60])
    classifier = Logistic([10.0, 1.0, 0.1, 1e-2, 1e-3, 1e-4, 1e-5])
    path = Logistic(classifier.candidates).fit(X[train], y[train], 4)
    loose = Logistic(classifier.candidates, rtol=0.03).fit(X[train], y[train], 4)
    best = (loose.scores(X[val]).argmax(2) == y[val]).mean(1).argmax()
    assert 0 < best < 6
    chosen = fit_chosen(classifier, X, y, Fold(train, val, val, fit=train))
    assert chosen.chosen_ == f"{classifier.candidates[best]:g}"
    np.testing.assert_allclose(chosen.scores(X), path.scores(X)[[best]], atol=0.02)
    more = np.concatenate([train, val[:70]])
    chosen = fit_chosen(classifier, X, y, Fold(train, val, val, fit=more))
    longer = Logistic(classifier.candidates).fit(X[more], y[more], 4)
    np.testing.assert_allclose(chosen.scores(X), longer.scores(X)[[best]], atol=0.02)
    assert not hasattr(classifier, "heads_")


def test_what_learns_nothing_is_chosen_on_all_training_pictures_and_stays():
    bad, good = (np.array([[-1.0], [1.0]]).T, 0), (np.array([[1.0], [-1.0]]).T, 0)
    X = np.array([[1.0], [-1], [-1], [1], [1], [-1]], np.float32)  # validation alone would err
    chosen = fit_chosen(Linear(bad, good), X, Y, replace(FOLD, val=FOLD.val[:0], fit=FOLD.train))
    assert chosen.candidates == [good]
    np.testing.assert_array_equal(chosen.scores(X)[0], X @ good[0])


# Right answers of six pictures, of which all validate, for the candidates of a grid:
GRIDS = [
    ((3,), [1, 5, 4], 1, False),
    ((3,), [5, 4, 1], 0, True),
    ((3,), [1, 4, 5], 2, True),
    ((3,), [5, 5, 1], 0, False),  # no better there than beside it
    ((4,), [1, 4, 5, 5], 2, False),
    ((1,), [5], 0, False),
    ((2,), [5, 4], 0, True),
    ((2,), [4, 5], 1, True),
    ((2,), [5, 5], 0, False),
    ((3, 3), [0, 1, 0, 2, 5, 2, 0, 1, 0], 4, False),
    ((3, 3), [0, 1, 0, 5, 2, 1, 0, 1, 0], 3, True),  # inside the first axis, at the second's end
    ((3, 3), [0, 5, 0, 2, 4, 1, 0, 1, 0], 1, True),
    ((3, 3), [0, 1, 0, 2, 1, 1, 0, 4, 5], 8, True),
    ((3, 3), [5, 5, 1, 5, 2, 1, 0, 1, 0], 0, False),
    ((3, 3), [5, 5, 1, 4, 2, 1, 0, 1, 0], 0, True),  # it still rises along the first axis
    ((1, 3), [1, 5, 2], 1, False),
    ((1, 3), [1, 2, 5], 2, True),
    ((3, 1), [5, 2, 1], 0, True),
    ((1, 1), [5], 0, False),
    ((2, 2), [5, 5, 5, 4], 0, False),
    ((2, 2), [4, 4, 4, 5], 3, True),
    ((), [5, 4, 1], 0, False),  # candidates in no order
]


@pytest.mark.parametrize(("grid", "right", "best", "at_edge"), GRIDS)
def test_a_choice_at_the_edge_of_its_grid_says_so(grid, right, best, at_edge):
    answers = [[*Y[:count], *(1 - Y[count:])] for count in right]
    classifier = Remembering(*answers)
    classifier.grid = grid
    chosen = fit_chosen(classifier, ROWS, Y, replace(FOLD, val=np.arange(6)))
    assert chosen.candidates == [answers[best]] and chosen.at_edge_ == at_edge


def test_the_choice_in_words():
    y = np.arange(8) % 2
    X, fold = np.eye(2, 3, dtype=np.float32)[y], Fold(*np.arange(8).reshape(2, 4), np.arange(8))
    assert fit_chosen(Ridge([1e-3, 1e-5]), X, y, fold).chosen_ == "0.001"
    assert fit_chosen(Logistic([1e-3, 1e-5]), X, y, fold).chosen_ == "0.001"
    tip = TipAdapter(np.eye(2, 3, dtype=np.float32), 20.0, [0.5, 1.0], [3.0, 5.5])
    assert fit_chosen(tip, X, y, fold).chosen_ == "0.5, 3"
    wrong, known = np.eye(2, 3, dtype=np.float32)[::-1].T, np.eye(3, 2, dtype=np.float32)
    heads = (wrong, 0), (known, 0)
    assert fit_chosen(Linear(*heads), X, y, fold).chosen_ == "candidate 2"
    named = Linear(*heads, names=["a photo of a {}.", "{}"])
    assert fit_chosen(named, X, y, fold).chosen_ == "{}"


def test_classifiers_know_the_shape_of_their_grid():
    weights = np.eye(3, dtype=np.float32)
    tip = TipAdapter(weights, 20.0, [1.0, 2.0], [3.0, 4.0, 5.0])
    assert tip.grid == (2, 3) and tip.candidates[4] == (2.0, 4.0)
    assert Ridge([0.1, 1.0]).grid == Logistic([0.1, 1.0]).grid == (2,)
    assert NearestMean().grid == Linear((weights, 0)).grid == ()


def noisy(n=400):
    """Many noisy features, of which 40 pictures cannot learn without a penalty."""
    X, y = problem(n=n, size=60, noise=5)
    train, val = np.arange(40), np.arange(40, n)
    return X, y, Fold(train, val, val)


@pytest.mark.parametrize("make", [Ridge, Logistic])
def test_a_penalty_is_at_the_edge_until_its_grid_is_wide_enough(make):
    X, y, fold = noisy()
    wide = [10.0**power for power in range(4, -7, -1)]
    inside = fit_chosen(make(wide), X, y, fold)
    best = wide.index(float(inside.chosen_))
    assert not inside.at_edge_ and 0 < best < len(wide) - 1
    weak = fit_chosen(make(wide[best + 1 :]), X, y, fold)
    assert weak.at_edge_ and float(weak.chosen_) == wide[best + 1]
    strong = fit_chosen(make(wide[: best + 1]), X, y, fold)
    assert strong.at_edge_ and strong.chosen_ == inside.chosen_
    assert not fit_chosen(make(wide[-1:]), X, y, fold).at_edge_


@pytest.mark.parametrize(
    ("alphas", "betas", "at_edge"),
    [
        ([0.0, 1.0], [1.0], True),  # more of the cache would be better still
        ([0.0, 10.0, 1e3], [1.0], False),
        ([10.0], [1.0], False),
        ([3.0, 10.0, 30.0], [1.0, 5.0], True),  # inside its alphas, but not its betas
        ([10.0], [1.0, 5.0], True),
    ],
)
def test_tip_adapter_s_choice_at_an_edge(alphas, betas, at_edge):
    rng, y = np.random.default_rng(0), np.arange(400) % 4
    X = (np.eye(4, 20)[y] + 0.35 * rng.normal(size=(400, 20))).astype(np.float32)
    weights = np.eye(4, 20, dtype=np.float32)[[1, 0, 2, 3]]  # two texts are interchanged
    fold = Fold(np.arange(80), np.arange(80, 400), np.arange(80, 400))
    assert fit_chosen(TipAdapter(weights, 5.0, alphas, betas), X, y, fold).at_edge_ == at_edge


def test_heads_that_are_known_need_no_fit():
    W, b = np.eye(3, 2, dtype=np.float32), np.array([0.5, -1], np.float32)
    X = np.arange(6, dtype=np.float32).reshape(2, 3)
    scores = Linear((W, b), (2 * W, 0)).scores(X)
    np.testing.assert_allclose(scores, [[[0.5, 0], [3.5, 3]], [[0, 2], [6, 8]]])


# ------------------------------------------------------------------------------- tiny features


@pytest.mark.parametrize("make", [Ridge, Logistic])
def test_tiny_features_count_as_much_as_large_ones(make, train, test):
    """A deep network with random weights has features of 1e-20 that still tell classes apart."""
    X, y = train
    expected = make([0.1]).fit(X, y, 4).scores(test)
    tiny = np.float32(1e-20)
    np.testing.assert_allclose(
        make([0.1]).fit(X * tiny, y, 4).scores(test * tiny), expected, atol=1e-3
    )


@pytest.mark.parametrize("classifier", [NearestMean(), KNearest(), Ridge([1, 0.1])])
def test_targets_are_taken_by_position_whatever_index_they_have(classifier):
    rng = np.random.default_rng(0)
    y = np.arange(40) % 4
    X = rng.normal(size=(40, 8)).astype(np.float32) + 5 * np.eye(8, dtype=np.float32)[y]
    fold = Fold(np.arange(20), np.arange(20, 30), np.arange(30, 40))
    scores = fit_chosen(classifier, X, y, fold).scores(X[fold.test])
    odd = pd.Series(y, index=np.arange(40)[::-1])
    assert np.array_equal(fit_chosen(classifier, X, odd, fold).scores(X[fold.test]), scores)
    assert np.array_equal(
        fit_chosen(classifier, list(X), list(y), fold).scores(X[fold.test]), scores
    )
