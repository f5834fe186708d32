"""Classifiers on features: from text, from class means, from a cache of shots, linear probes.

Features X are float32 (N, D), targets y are class numbers (N,), scores are float32 (N, C) with
the predicted class at their maximum. A classifier with a hyper-parameter fits all its candidates
in one ``fit``; ``scores`` then gives them all, (S, N, C), and :func:`fit_chosen` lets validation
choose among them. ``grid`` is the shape of its candidates, such as (alphas, betas).

One of your own needs ``candidates`` (a list; [None] if nothing is to be chosen, and ``grid`` is
then ()), ``learns`` (whether it learns from pictures), ``fit(X, y, classes)``, which returns
itself, and ``scores(X)``. A study asks it anew each time and does not save it: its code can change.
"""

import copy
import warnings

import numpy as np
import scipy.linalg
import scipy.optimize
import torch
from threadpoolctl import threadpool_limits

from cliphelpers.encoders.encoder import encode_text, normalize


def text_weights(encoder, names, templates):
    """Class weights from texts: for each class the mean direction of its prompts.

    As in CLIP's own notebook: the embedding of each prompt is normalised, their mean over the
    templates is taken and normalised again (Radford et al. 2021, section 3.1.4).

    Parameters
    ----------
    encoder : Encoder
        With a text side.
    names : list of str, length C
    templates : list of str
        Each with {} where the name goes.

    Returns
    -------
    float32 array, shape (C, E)
        Rows of length 1; scores are ``normalize(X) @ weights.T``.
    """
    if not templates:
        raise ValueError("No templates: give at least one, such as 'a photo of a {}.'")
    for template in templates:
        if template.count("{}") != 1:
            raise ValueError(f"The template {template!r} needs one {{}} where the name goes")
    prompts = [template.replace("{}", name) for template in templates for name in names]
    embeddings = normalize(encode_text(encoder, prompts))
    return normalize(embeddings.reshape(len(templates), len(names), -1).mean(0))


class Linear:
    """Heads that are known already, such as those from texts: ``fit`` learns nothing.

    Parameters
    ----------
    *heads : tuples (W, b), float32 (D, C) and (C,) or 0
        Candidates; scores are ``X @ W + b``. With ``text_weights(...).T`` and 0 this is zero-shot
        classification of the joint embedding: see :func:`cliphelpers.encoders.encoder.joint`.
    names : list of str, optional
        What ``chosen_`` calls the candidates, such as their prompts.
    """

    learns, grid = False, ()

    def __init__(self, *heads, names=None):
        self.candidates = self.heads_ = list(heads)
        self.names = names

    def fit(self, X, y, classes):
        self.heads_ = self.candidates
        return self

    def scores(self, X):
        return np.stack([(X @ W + b).astype(np.float32) for W, b in self.heads_])


class NearestMean:
    """The class whose mean of normalised features has the largest cosine similarity.

    A prototypical network without training (Snell et al., Prototypical networks for few-shot
    learning, 2017, section 2.3). It has no hyper-parameter, so S = 1.
    """

    learns, grid = True, ()
    candidates = (None,)

    def fit(self, X, y, classes):
        self.means_ = normalize(np.eye(classes, dtype=np.float32)[y].T @ normalize(X))
        return self

    def scores(self, X):
        return (normalize(X) @ self.means_.T)[None]


class _Neighbours:
    """Labelled pictures that are kept as they are; scores are computed block by block."""

    learns = True

    def fit(self, X, y, classes):
        self.keys_, self.labels_ = normalize(X), np.eye(classes, dtype=np.float32)[y]
        return self

    def scores(self, X):
        starts = range(0, len(X), self.block)
        blocks = [self._scores(normalize(X[start : start + self.block])) for start in starts]
        return np.concatenate(blocks, axis=1)


class KNearest(_Neighbours):
    """The class with the most votes of the k most similar pictures, the nearer the louder.

    Similar is a large cosine, a vote weighs exp(cosine / 0.07) (Wu et al., Unsupervised feature
    learning via non-parametric instance discrimination, 2018, section 3.4; Caron et al., Emerging
    properties in self-supervised vision transformers, 2021, appendix F.1). All votes are divided
    by exp(1 / 0.07), so that none is above 1. Of fewer pictures than k all vote.
    """

    candidates, grid, block = (1, 5, 10, 20), (4,), 512

    def _scores(self, X):
        most = min(max(self.candidates), len(self.keys_))
        cosine, near = torch.from_numpy(X @ self.keys_.T).topk(most)
        votes = np.exp((cosine.numpy() - 1) / 0.07)[..., None] * self.labels_[near.numpy()]
        return np.stack([votes[:, :k].sum(1) for k in self.candidates])


class TipAdapter(_Neighbours):
    """Zero-shot scores plus a cache of the shots, without training.

    ``scale * x W' + alpha * exp(-beta (1 - x F')) L`` with the text weights W, the features F of
    the shots and their one-hot labels L (Zhang et al., Tip-Adapter: training-free adaption of
    CLIP for few-shot classification, 2022, equations 3 to 6).

    Parameters
    ----------
    weights : float32 array, shape (C, E)
        Of :func:`text_weights`.
    scale : float
        CLIP's logit scale.
    alphas, betas : sequences of float
        Candidates are all pairs: the cache's share and its sharpness.
    """

    block = 1024

    def __init__(self, weights, scale, alphas, betas):
        self.weights, self.scale = weights, scale
        self.candidates = [(alpha, beta) for alpha in alphas for beta in betas]
        self.grid = len(alphas), len(betas)

    def _scores(self, X):
        text = self.scale * X @ self.weights.T
        distance = 1 - X @ self.keys_.T
        betas = {beta for _, beta in self.candidates}
        cached = {beta: np.exp(-beta * distance) @ self.labels_ for beta in betas}
        return np.stack([text + alpha * cached[beta] for alpha, beta in self.candidates])


class _Penalised(Linear):
    """Candidates from the strongest on: of two that are equally accurate the stronger is chosen."""

    learns = True

    def __init__(self, strengths):
        self.candidates = sorted(map(float, strengths), reverse=True)
        if not self.candidates or not all(0 <= one < np.inf for one in self.candidates):
            raise ValueError(f"Strengths must be numbers of at least 0, not {strengths}")
        self.grid = (len(self.candidates),)


class Ridge(_Penalised):
    """Linear least squares on one-hot targets, all strengths from one eigendecomposition.

    Minimises ``mean |y - xW - b|^2 + strength |W|^2`` on standardised features; with the principal
    axes V and the variances v along them, ``W = V (v + strength)^-1 V' X'Y / N``.

    Parameters
    ----------
    strengths : sequence of float
        Candidates, put in order from the strongest on; not negative.
    """

    def fit(self, X, y, classes):
        mean, std = _moments(X)
        X = (X - mean) / std
        onehot = np.eye(classes, dtype=np.float32)[y]
        bias = onehot.mean(0)
        variances, axes = _principal_axes(X)
        cross = axes.T @ (X.T @ (onehot - bias)) / len(X)
        shrunk = [cross / (variances[:, None] + s + 1e-7) for s in self.candidates]
        coefs = [axes @ one / std[:, None] for one in shrunk]
        self.heads_ = [(coef, bias - mean @ coef) for coef in coefs]
        return self


class Logistic(_Penalised):
    """Multinomial logistic regression by L-BFGS, from the strongest to the weakest penalty.

    Minimises ``mean cross-entropy(x (prior + V) + b, y) + strength / 2 |V|^2``; each candidate
    starts at the solution of the one before. scikit-learn's C is 1 / (N strength), with two
    classes 2 / (N strength).

    Parameters
    ----------
    strengths : sequence of float
        Candidates, put in order from the strongest on; positive.
    prior : float32 array, shape (D, C), optional
        The weights that the penalty pulls to, such as ``scale * text_weights.T``; features are
        then used as they are. Without it the prior is 0.
    standardize : bool
        Whether to bring each feature to mean 0 and variance 1 first; not with a prior.
    rtol : float
        How far above its minimum a loss may end, as a share of it or of what was gained over V = 0
        and b = 0, whichever is less.

    Warns
    -----
    UserWarning
        A candidate did not come as near in five rounds of 3,000 steps.

    Notes
    -----
    L-BFGS goes along the principal axes of the features, in units in which the second derivative is
    about 1: c v + strength with the variance v along an axis and a class's mean c of p (1 - p).
    Half the squared gradient is then about the distance from the minimum; where pictures differ in
    p (1 - p) it is smaller. So it must fall to a thirtieth of rtol, by the units of the
    end: else another round goes on in these.
    """

    on_the_way = ()  # stronger candidates to go through first, whose heads are not kept

    def __init__(self, strengths, prior=None, standardize=True, rtol=1e-4):
        super().__init__(strengths)
        if self.candidates[-1] == 0:
            raise ValueError("Strengths of logistic regression must be above 0")
        self.prior, self.standardize = prior, standardize and prior is None
        self.rtol = rtol
        self.device = "cuda" if torch.cuda.is_available() else "cpu"  # MPS has no float64

    @threadpool_limits.wrap(1, user_api="blas")  # SciPy's, whose threads would wait for torch's
    def fit(self, X, y, classes):
        mean, std = _moments(X)
        std = std if self.standardize else np.ones(1, np.float32)
        X = (X - mean) / std
        none = np.zeros((X.shape[1], classes), np.float32)
        prior = none if self.prior is None else self.prior.astype(np.float32)
        variances, axes = _principal_axes(X)
        Z = np.pad(X @ axes, [(0, 0), (0, 1)], constant_values=1)  # the last column is the bias
        data = [Z, prior.T @ X.T, np.eye(classes, dtype=np.float32)[:, y], np.append(variances, 1)]
        data = [torch.from_numpy(one).to(self.device) for one in data]
        W, self.heads_ = np.zeros((classes, Z.shape[1])), []
        for strength in [*self.on_the_way, *self.candidates]:
            rtol = self.rtol if strength in self.candidates else _loosely(self.rtol)
            W, near = _minimise(W, strength, rtol, *data)
            if not near:
                words = f"Logistic regression of strength {strength:g} stopped before its minimum"
                words += f", with {len(y)} pictures: leave it out of strengths"
                warnings.warn(words, stacklevel=2)
            coef = ((prior + axes @ W[:, :-1].T) / std[:, None]).astype(np.float32)
            self.heads_.append((coef, W[:, -1].astype(np.float32) - mean @ coef))
        self.heads_ = self.heads_[len(self.on_the_way) :]
        return self


def _loosely(rtol):
    """For candidates that are compared, or on the way to the chosen one."""
    return max(rtol, min(300 * rtol, 0.03))


def _minimise(W, strength, rtol, *data):
    """From weights (C, R + 1), bias last, to those of the least loss, and whether they are near."""
    for dtype in 3 * [torch.float32] + 2 * [torch.float64]:  # where rounding hides the way
        W, near = _descend(W, strength, rtol, *(one.to(dtype) for one in data))
        if near:
            return W, True
    return W, False


def _descend(W, strength, rtol, Z, offset, right, variances):
    """The weights themselves and True if they are near, else L-BFGS' way from them on and False."""
    y, p = right.argmax(0), torch.softmax(offset + torch.from_numpy(W).to(Z) @ Z.T, dim=0)
    scale = ((p * (1 - p)).mean(1)[:, None] * variances + strength).rsqrt()
    nothing = -torch.log_softmax(offset, dim=0).gather(0, y[None]).double().mean().item()
    units, last = scale.double().cpu().numpy(), np.zeros(W.size)
    least = torch.finfo(Z.dtype).eps * nothing  # where features say nothing there is no gain

    def loss_and_gradient(flat):
        W = torch.from_numpy(flat).to(Z).view(scale.shape) * scale
        log_p = torch.log_softmax(torch.addmm(offset, W, Z.T), dim=0)
        loss = strength / 2 * W[:, :-1].double().square().sum()
        loss -= log_p.gather(0, y[None]).double().mean()
        gradient = log_p.exp_().sub_(right).div_(len(y)) @ Z
        gradient[:, :-1] += strength * W[:, :-1]
        last[:] = (gradient * scale).double().cpu().numpy().ravel()
        return loss.item(), last.copy()

    def near(loss):
        return last @ last / 2 <= rtol / 30 * max(min(loss, nothing - loss), least)

    def stop(intermediate_result):
        if near(intermediate_result.fun):
            raise StopIteration

    start = (W / units).ravel()
    if near(loss_and_gradient(start)[0]):
        return W, True
    found = scipy.optimize.minimize(
        loss_and_gradient, start, method="L-BFGS-B", jac=True, callback=stop,
        options={"maxiter": 3000, "maxfun": 10_000, "gtol": 0, "ftol": 0},
    )  # fmt: skip
    return found.x.reshape(W.shape) * units, False


def _principal_axes(X):
    """Variances (R,) of centred features along orthonormal axes (D, R), R = min(N, D)."""
    if len(X) < X.shape[1]:
        span, _ = scipy.linalg.qr(X.T, mode="economic")
        variances, axes = _principal_axes(X @ span)
        return variances, span @ axes
    variances, axes = scipy.linalg.eigh(X.T @ X / len(X), driver="evd")
    return variances.clip(0), axes


def _moments(X):
    """Mean and standard deviation of each feature; a constant one keeps its scale.

    In float64, since features of a deep network with random weights can be as small as 1e-20.
    """
    mean, std = X.mean(0, dtype=np.float64), X.std(0, dtype=np.float64)
    varies = std > 1e-6 * np.abs(mean)
    return mean.astype(np.float32), np.where(varies, std, 1).astype(np.float32)


def fit_chosen(classifier, X, y, fold):
    """Let validation choose the candidate, then fit it alone on ``fold.fit``.

    Parameters
    ----------
    classifier : NearestMean, KNearest, TipAdapter, Ridge, Logistic or Linear
    X : float32 array, shape (N, D)
    y : int array, shape (N,)
        Every class occurs.
    fold : Fold
        All candidates are fitted on its ``train`` and the most accurate on ``val`` is chosen; of
        equals, and without any rows there, the first. One that learns nothing is chosen on all
        of ``fit``. Logistic's candidates are compared at 300 times its rtol, but no
        more than 0.03, since accuracy settles long before the loss; the chosen one is fitted to its
        own.

    Returns
    -------
    classifier
        A new one, with the chosen candidate alone. Its ``chosen_`` says which, and
        ``at_edge_`` whether that is at an end of the grid with validation better there than
        beside it: the best may lie further out.

    Raises
    ------
    ValueError
        A feature is not finite, as in the rows that ``extract_features`` was not asked for.
    """
    X, y = np.asarray(X), np.asarray(y)
    if classifier.learns and not np.isfinite(X[fold.fit]).all():
        raise ValueError("Features to learn from are no numbers: extract them for these rows, too")
    classes, best, chosen = int(y.max()) + 1, 0, copy.copy(classifier)
    val, chosen.at_edge_ = fold.val if classifier.learns else fold.fit, False
    if len(classifier.candidates) > 1 and len(val):
        quick = copy.copy(classifier)
        if isinstance(quick, Logistic):
            quick.rtol = _loosely(quick.rtol)
        scores = quick.fit(X[fold.train], y[fold.train], classes).scores(X[val])
        accuracy = (scores.argmax(2) == y[val]).mean(1)
        best = int(accuracy.argmax())
        chosen.at_edge_ = bool(classifier.grid) and _at_edge(accuracy.reshape(classifier.grid))
    chosen = fit_candidate(chosen, best, X[fold.fit], y[fold.fit], classes)
    chosen.chosen_ = candidate_names(classifier)[best]
    return chosen


def fit_candidate(classifier, number, X, y, classes):
    """A new classifier, fitted with one of the candidates alone: the one of this number."""
    fitted = copy.copy(classifier)
    fitted.on_the_way = classifier.candidates[:number]  # Logistic's path, as when it was chosen
    fitted.candidates = classifier.candidates[number : number + 1]
    fitted.fit(X, y, classes)
    return fitted


def candidate_names(classifier):
    """What the ``chosen_`` of :func:`fit_chosen` calls each candidate: list of str."""
    if not classifier.grid:
        numbers = range(1, len(classifier.candidates) + 1)
        return getattr(classifier, "names", None) or [f"candidate {number}" for number in numbers]
    values = map(np.atleast_1d, classifier.candidates)
    return [", ".join(f"{value:g}" for value in some) for some in values]


def _at_edge(accuracy):
    """Whether the best of a grid is at an end of an axis and better than its neighbour inwards."""
    best, sizes = np.unravel_index(accuracy.argmax(), accuracy.shape), accuracy.shape
    inwards = [{0: 1, n - 1: n - 2}.get(at, at) for at, n in zip(best, sizes, strict=True)]
    beside = [(*best[:axis], at, *best[axis + 1 :]) for axis, at in enumerate(inwards)]
    return any(accuracy[one] < accuracy.max() for one in beside)
