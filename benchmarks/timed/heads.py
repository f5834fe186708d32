"""Linear probes: five strengths, one chosen on validation pictures, then fitted to all.

scikit-learn follows its penalties from the strongest on, too, each from the solution before
(``warm_start``), in float32, as ours does. Its features are standardised by the same numbers. With
its own tolerance, 1e-4, it stops at weak penalties where it starts; with 1e-6 it comes nearer to
the optimum, if not as near as ours, and is compared with that, too.
"""

from functools import partial

import numpy as np

from timed.comparison import Comparison, Contrast, Disagreement, Prepared, Side
from timed.inputs import clip_file, data_set

STRENGTHS = [1e-1, 1e-2, 1e-3, 1e-4, 1e-5]
RIDGE_STRENGTHS = [1e1, 1.0, 1e-1, 1e-2, 1e-3]
POINTS = 0.003  # accuracies are equal within so much


# ------------------------------------------------------------------------------- the sides


def _ours(classifier, file):
    import cliphelpers as ch
    from cliphelpers.splits import Fold

    data = np.load(file)
    X, y = data["X"], data["y"]
    fold = Fold(data["train"], data["val"], data["test"])

    def run():
        fitted = ch.fit_chosen(classifier, X, y, fold)
        W, b = fitted.heads_[0]
        return {"W": W, "b": b, "strength": fitted.candidates[0]}

    return run


def ours_logistic(file):
    """cliphelpers' sweep of logistic regression."""
    import cliphelpers as ch

    return _ours(ch.Logistic(STRENGTHS), file)


def ours_ridge(file):
    """cliphelpers' sweep of ridge regression."""
    import cliphelpers as ch

    return _ours(ch.Ridge(RIDGE_STRENGTHS), file)


def _sklearn_logistic(file, solver, tol=1e-4):
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    data = np.load(file)
    X, y, train, val = (data[name] for name in ("X", "y", "train", "val"))
    fit = np.union1d(train, val)

    def run():
        scaler = StandardScaler().fit(X[train])
        A, B = scaler.transform(X[train]), scaler.transform(X[val])
        model = LogisticRegression(solver=solver, warm_start=True, max_iter=3000, tol=tol)
        found = []
        for strength in STRENGTHS:
            model.set_params(C=1 / (len(train) * strength)).fit(A, y[train])
            found.append((model.score(B, y[val]), model.coef_.copy(), model.intercept_.copy()))
        best = int(np.argmax([accuracy for accuracy, *_ in found]))
        _, model.coef_, model.intercept_ = found[best]
        scaler.fit(X[fit])
        model.set_params(C=1 / (len(fit) * STRENGTHS[best]))
        model.fit(scaler.transform(X[fit]), y[fit])
        W = (model.coef_ / scaler.scale_).T
        return {"W": W, "b": model.intercept_ - scaler.mean_ @ W, "strength": STRENGTHS[best]}

    return run


def sklearn_lbfgs(file):
    """scikit-learn's LogisticRegression by L-BFGS."""
    return _sklearn_logistic(file, "lbfgs")


def sklearn_newton_cg(file):
    """scikit-learn's LogisticRegression by Newton's method with conjugate gradients."""
    return _sklearn_logistic(file, "newton-cg")


def sklearn_nearer(file):
    """The faster of both, and nearer to the optimum."""
    return _sklearn_logistic(file, "newton-cg", tol=1e-6)


def sklearn_ridge(file):
    """scikit-learn's RidgeClassifierCV on the same validation pictures."""
    from sklearn.linear_model import RidgeClassifierCV
    from sklearn.model_selection import PredefinedSplit
    from sklearn.preprocessing import StandardScaler

    data = np.load(file)
    X, y, train, val = (data[name] for name in ("X", "y", "train", "val"))
    fit = np.union1d(train, val)
    parts = PredefinedSplit(np.where(np.isin(fit, val), 0, -1))
    alphas = [len(fit) * strength for strength in RIDGE_STRENGTHS]

    def run():
        scaler = StandardScaler().fit(X[fit])
        model = RidgeClassifierCV(alphas, cv=parts).fit(scaler.transform(X[fit]), y[fit])
        W = (model.coef_ / scaler.scale_).T
        b = model.intercept_ - scaler.mean_ @ W
        return {"W": W, "b": b, "strength": model.alpha_ / len(fit)}

    return run


# ------------------------------------------------------------------------------- what is compared


class Judge:
    """Compares what two heads say of the test pictures, and how near their losses are.

    Parameters
    ----------
    file : path
        Of :func:`prepare`; read when it is first needed.
    """

    def __init__(self):
        self.file = None

    def _scores(self, head, part):
        data = np.load(self.file)
        rows = np.union1d(data["train"], data["val"]) if part == "fit" else data["test"]
        return data["X"][rows] @ head["W"] + head["b"], data["y"][rows]

    def right(self, head):
        """Which test pictures are told right: bool array."""
        scores, y = self._scores(head, "test")
        return scores.argmax(1) == y

    def loss(self, head):
        """What logistic regression minimises, in nats."""
        from scipy.special import logsumexp

        scores, y = self._scores(head, "fit")
        data = np.load(self.file)
        std = data["X"][np.union1d(data["train"], data["val"])].std(0, dtype=np.float64)
        V = head["W"] * np.where(std > 0, std, 1)[:, None]
        told = logsumexp(scores.astype(float), axis=1) - scores[np.arange(len(y)), y]
        return told.mean() + head["strength"] / 2 * np.square(V, dtype=float).sum()

    def equal(self, ours, peer):
        """Equal accuracy; of the same strength ours is as near the optimum."""
        self.not_worse(ours, peer)
        self.not_worse(peer, ours)
        if np.isclose(ours["strength"], peer["strength"]):
            one, other = self.loss(ours), self.loss(peer)
            if one > other * (1 + 1e-4):  # Logistic's own rtol
                raise Disagreement(f"ours ends at a loss of {one:.5f}, the peer's at {other:.5f}")

    def not_worse(self, ours, peer):
        """At least as accurate, within POINTS, or one picture where there are few."""
        one, other = self.right(ours), self.right(peer)
        if other.sum() - one.sum() > max(POINTS * len(one), 1):
            raise Disagreement(f"accuracies are {one.mean():.2%} and {other.mean():.2%}")

    def same_answers(self, ours, peer):
        """The same strength and nearly the same answers; refitted to more, strengths weigh more."""
        same = self._scores(ours, "test")[0].argmax(1) == self._scores(peer, "test")[0].argmax(1)
        if not np.isclose(ours["strength"], peer["strength"]) or same.mean() < 1 - POINTS:
            words = f"strengths are {ours['strength']:g} and {peer['strength']:g}"
            raise Disagreement(f"{words}, of the answers {same.mean():.2%} are equal")


def prepare(judge, folder, small):
    """Features of clip-mini-rn, 768 numbers a picture, and the first fold by groups: one file."""
    import cliphelpers as ch

    (encoder,) = ch.load_encoders([f"clip:{clip_file('clip-mini-rn', folder)}"])
    index = ch.index_images(data_set())
    if small:  # a few classes
        index = index[index.label.isin(ch.classes(index)[:8])].reset_index(drop=True)
    X, y = ch.extract_features(encoder, index, cache=folder / "kept"), ch.targets(index)
    fold = ch.make_splits(index, ["by_group"], 0)["by_group"][0]
    judge.file = folder / "probe.npz"
    np.savez(judge.file, X=X, y=y, train=fold.train, val=fold.val, test=fold.test)
    return Prepared({"file": str(judge.file)}, lambda number, place: None if number < 0 else {})


def _probes():
    judge, sides = Judge(), {"ours": Side("heads:ours_logistic")}
    sides["our ridge"] = Side("heads:ours_ridge")
    sides["scikit-learn, RidgeClassifierCV"] = Side("heads:sklearn_ridge")
    solvers = {"scikit-learn, L-BFGS": Side("heads:sklearn_lbfgs")}
    solvers["scikit-learn, newton-cg"] = Side("heads:sklearn_newton_cg")
    logistic, ridge = "logistic regression, 5 strengths", "ridge, 5 strengths"
    contrasts = [Contrast(logistic, "ours", peer, 3, judge.not_worse) for peer in solvers]
    nearer = "scikit-learn, newton-cg, tol=1e-6"
    sides[nearer] = Side("heads:sklearn_nearer")
    contrasts.append(Contrast(logistic, "ours", nearer, 3, judge.equal))
    contrasts += [Contrast(ridge, "our ridge", peer, 50, judge.not_worse) for peer in solvers]
    peer = "scikit-learn, RidgeClassifierCV"
    contrasts.append(Contrast(ridge, "our ridge", peer, None, judge.same_answers))
    return Comparison("probes", "s", sides | solvers, contrasts, partial(prepare, judge))


COMPARISONS = [_probes()]
