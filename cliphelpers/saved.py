"""A classifier to take along: saved in a folder by a study, loaded again for new pictures.

The folder holds ``card.json``, which says what it is, what it was learnt from and how good it was,
and ``weights.safetensors``. Neither can hold code.
"""

import hashlib
import json
import re
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import safetensors.torch
import torch
from scipy.special import softmax
from sklearn.metrics import pairwise_distances_argmin_min

from cliphelpers import classifiers
from cliphelpers.cache import kept, key_of, write_atomically
from cliphelpers.classifiers import Linear, candidate_names, fit_candidate
from cliphelpers.encoders.encoder import Encoder, EncoderError, fingerprint, joint, normalize
from cliphelpers.encoders.load import absolute, load_encoder
from cliphelpers.encoders.weights import explained
from cliphelpers.features import extract_features
from cliphelpers.index import classes, targets
from cliphelpers.looks import group_of
from cliphelpers.upsampling import with_upsampling

CARD, WEIGHTS = "card.json", "weights.safetensors"
UNLIKE = "unlike anything seen"
DESCRIBED = ["path", "class", "probability", "second", "cosine", "note"]
_DATA = Path(__file__).parents[1] / "data"
PACKAGES = ["torch", "torchvision", "timm", "clip-anytorch", "open_clip_torch"]
_KINDS = {name: kind for name, kind in vars(classifiers).items() if hasattr(kind, "scores")}
_FORMAT = "1"  # part of the key of what is kept: raise it when the fit on all pictures changes

# ------------------------------------------------------------------------------- saving


def save_classifier(folder, classifier, encoder, index, words, rows, answers, row):
    """Fit a classifier with the candidate that most folds chose, and write it into a folder.

    Parameters
    ----------
    folder : Path
    classifier : NearestMean, TipAdapter, Ridge, Logistic or Linear
    encoder : Encoder
        With a ``spec``.
    index : DataFrame
    words : list of str, length C
    rows : int array, shape (M,)
        Positions of the pictures to fit it on.
    answers : Answers
        To the same question in a study, with scores, whose temperature is the classifier's.
    row : dict
        That question's row of results.
    """
    X, y, labels = extract_features(encoder, index, rows)[rows], targets(index), classes(index)
    names, groups = candidate_names(classifier), group_of(index)[rows]
    best = max(range(len(names)), key=lambda number: answers.chosen.count(names[number]))

    def fit():
        fitted, seen = fit_candidate(classifier, best, X, y[rows], len(labels)), normalize(X)
        return _arrays(fitted) | {"seen": seen.astype(np.float16), "least": _least(seen, groups)}

    parts = (_FORMAT, type(classifier).__name__, classifier, key_of(X), y[rows], groups, best)
    state = {name: torch.as_tensor(one) for name, one in kept("classifiers", parts, fit).items()}
    least = state.pop("least").item()
    if encoder.tuned:
        state |= {name: value.cpu() for name, value in _network(encoder).state_dict().items()}
    weights = safetensors.torch.save({name: one.contiguous() for name, one in state.items()})
    card = {key: row[key] for key in ("experiment", "dataset", "method", "encoder", "features")}
    card |= _describe(encoder) | {
        "classes": labels,
        "names": words,
        "pictures": len(rows),
        "chosen": names[best] if len(names) > 1 else row["chosen"],
        "judged": {key: row[key] for key in ("split", "n", "value", "low", "high", "balanced")},
        "head": _settings(classifier, best),
        "temperature": answers.temperature,
        "threshold": least,
        "sha256": hashlib.sha256(weights).hexdigest(),
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": {package: version(package) for package in PACKAGES},
    }
    text = json.dumps(card, indent=2, ensure_ascii=False, default=lambda value: value.item())
    write_atomically(folder / WEIGHTS, weights)
    write_atomically(folder / CARD, text.encode())


def _describe(encoder):
    """All that :func:`load_classifier` needs to make the encoder again, and what people ask."""
    way = re.search(r", ((bilinear|bicubic|lanczos|srgan)(@.*)?)$", encoder.features)
    look = {name: value for name, value in vars(encoder.preprocess).items() if name != "generator"}
    texts = [file.read_text(encoding="utf-8") for file in _DATA.glob("README.md")]
    name = f"`weights/{Path(encoder.spec).name}`"
    ours = [line for line in "".join(texts).splitlines() if name in line]
    own = {name: getattr(encoder, name) for name in ("precision", "joint", "tuned")}
    return own | {
        "spec": absolute(encoder.spec, Path()),
        "licence": ours[0].split("|")[3].strip() if ours else "see where the weights came from",
        "fingerprint": _fingerprint(encoder),
        "upsampling": way and way[1],
        "preprocessing": look,
    }


def _fingerprint(encoder):
    """SHA-256 of all that features depend on but the picture."""
    scale = f"{encoder.logit_scale:.6g}" if encoder.joint else ""
    text = f"{encoder.key} {fingerprint(_network(encoder))} {scale}"
    return hashlib.sha256(text.encode()).hexdigest()


def _network(encoder):
    """All that lies between a picture and its features."""
    names = ["module", "projection"] if encoder.joint else ["module"]
    return torch.nn.ModuleDict({name: getattr(encoder, name) for name in names})


def _arrays(fitted):
    """The arrays of a fitted classifier."""
    if isinstance(fitted, Linear):
        ((W, b),) = fitted.heads_
        return {"W": W.astype(np.float32), "b": np.full(W.shape[1], b, np.float32)}
    return {name: value for name, value in vars(fitted).items() if isinstance(value, np.ndarray)}


def _settings(classifier, best):
    """What kind of classifier it is, and all else that its scores depend on."""
    if isinstance(classifier, Linear):
        return {"kind": "Linear"}
    own = vars(classifier) | {"candidates": [classifier.candidates[best]]}
    own = {name: value for name, value in own.items() if not isinstance(value, np.ndarray)}
    return own | {"kind": type(classifier).__name__}


def _least(seen, groups):
    """The cosine to the nearest picture of another group that 1 % of the pictures do not reach.

    A new picture is of another group, too. The nearest of all others can be a frame of the same
    video clip, and no new picture comes as near.
    """
    some, groups = np.linspace(0, len(seen) - 1, 1000).astype(int), pd.factorize(groups)[0]
    cosines = seen[some] @ seen.T
    cosines[groups[some, None] == groups] = -1
    return np.quantile(cosines.max(1), 0.01)


# ------------------------------------------------------------------------------- loading


@dataclass(eq=False)
class SavedClassifier:
    """A classifier for new pictures, with scikit-learn's names.

    Pictures are paths, one or several, or a DataFrame with the column ``path``.

    Attributes
    ----------
    classes_ : array of str, shape (C,)
    card : dict
        What it is, what it was learnt from and how good it was.
    encoder : Encoder
    head : NearestMean, TipAdapter or Linear
        Fitted.
    seen : float32 array, shape (M, D)
        Features of the pictures that it was learnt from, each of length 1.
    """

    classes_: np.ndarray
    card: dict
    encoder: Encoder
    head: object
    seen: np.ndarray

    def predict(self, pictures):
        """The class of each picture: array of str, shape (N,).

        Raises
        ------
        ImageError
            A picture cannot be read; the message names it.
        """
        return self.classes_[self.predict_proba(pictures).argmax(1)]

    def predict_proba(self, pictures):
        """Calibrated probabilities: float array, shape (N, C). Raises as :meth:`predict` does."""
        return self._probabilities(extract_features(self.encoder, _index(pictures)))

    def describe(self, pictures):
        """What is said of each picture, and how sure that is. Raises as :meth:`predict` does.

        Returns
        -------
        DataFrame
            Columns path, class, probability, second (the second class, "" where several are
            equally likely), cosine (to the nearest picture that it was learnt from) and note:
            "unlike anything seen", or "".
        """
        index = _index(pictures)
        X = extract_features(self.encoder, index)
        P = self._probabilities(X)
        distances = pairwise_distances_argmin_min(X, self.seen, metric="cosine")[1]
        order = np.argsort(-P, axis=1, kind="stable")[:, :3]  # of equals the first, as predict
        ranked, (first, second) = np.take_along_axis(P, order, 1), self.classes_[order[:, :2]].T
        second = np.where(ranked[:, 1] == ranked[:, 2:].max(1, initial=-1), "", second)
        told = [index.path, first, ranked[:, 0], second, 1 - distances, ""]
        table = pd.DataFrame(dict(zip(DESCRIBED, told, strict=True)))
        table.loc[table.cosine < self.card["threshold"], "note"] = UNLIKE
        return table

    def _probabilities(self, X):
        return softmax(self.head.scores(X)[0].astype(float) / self.card["temperature"], axis=1)


def _index(pictures):
    if isinstance(pictures, pd.DataFrame):
        return pictures.reset_index(drop=True)
    return pd.DataFrame({"path": [str(path) for path in np.atleast_1d(pictures)]})


def load_classifier(folder, encoder=None):
    """Load a classifier that a run has saved: ``load_classifier(folder).predict(pictures)``.

    Parameters
    ----------
    folder : str or Path
        Such as ``output/classifiers/03_linear_probe_clip/ridge-CLIP-clip-mini-vit-pre-projection``.
    encoder : str, optional
        Where its encoder's weights are now, a text as of
        :func:`cliphelpers.encoders.load.load_encoders`; by default where they were. Give
        ``module:FILE.py`` yourself, if you trust the file: it is executed. Nothing else is.

    Returns
    -------
    SavedClassifier

    Raises
    ------
    EncoderError
        The folder holds no classifier, or a damaged one; or the encoder cannot be made, or is
        not the same: its weights, its preprocessing or its network are others.
    """
    fault = f"{folder} holds no classifier, or is damaged: give OUTPUT/classifiers/STUDY/NAME"
    with explained(fault):
        card = json.loads(Path(folder, CARD).read_text(encoding="utf-8"))
        weights = Path(folder, WEIGHTS).read_bytes()
        if hashlib.sha256(weights).hexdigest() != card["sha256"]:
            raise ValueError(f"{WEIGHTS} is not what was saved")
        state = safetensors.torch.load(weights)
        spec = str(encoder or card["spec"])
    if not encoder and spec.startswith("module:"):
        raise EncoderError(
            f"{folder} needs {spec}, which executes that Python file: if you trust it, "
            "give this text as the encoder (--encoder)"
        )
    made = load_encoder(spec, card["precision"])
    with explained(fault):
        made = joint(made) if card["joint"] else made
        made = with_upsampling(made, card["upsampling"]) if card["upsampling"] else made
        if card["tuned"]:
            network = _network(made)
            network.load_state_dict({name: state.pop(name) for name in network.state_dict()})
        saved = _restore(card, {name: value.numpy() for name, value in state.items()}, made)
    if _fingerprint(made) != card["fingerprint"]:
        raise EncoderError(
            f"{spec} is not the encoder of {folder}: its weights, its preprocessing or its network "
            f"are others. Then there were {card['versions']}"
        )
    return saved


def _restore(card, arrays, encoder):
    """The classifier of a card and arrays; an error if they do not fit together."""
    seen, kind = arrays.pop("seen").astype(np.float32), _KINDS[card["head"]["kind"]]
    head = Linear((arrays["W"], arrays["b"])) if kind is Linear else object.__new__(kind)
    vars(head).update(card["head"] | arrays)
    saved = SavedClassifier(np.array(card["classes"]), card, encoder, head, seen)
    P = saved._probabilities(seen[:1])
    numbers = P, card["temperature"], card["threshold"], *arrays.values(), seen
    if P.shape != (1, len(set(card["classes"]))) or not all(np.isfinite(n).all() for n in numbers):
        raise ValueError("its numbers do not fit together")
    return saved
