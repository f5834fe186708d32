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

from cliphelpers import classifiers
from cliphelpers.cache import kept, key_of
from cliphelpers.classifiers import Linear, candidate_names, fit_candidate
from cliphelpers.encoders.encoder import (
    Encoder,
    EncoderError,
    encode_batch,
    fingerprint,
    joint,
    normalize,
    to_joint,
)
from cliphelpers.encoders.load import absolute, load_encoder
from cliphelpers.encoders.weights import explained
from cliphelpers.evaluation import fit_temperature
from cliphelpers.features import extract_features
from cliphelpers.index import classes, prompt_names, targets
from cliphelpers.looks import group_of
from cliphelpers.upsampling import with_upsampling

CARD, WEIGHTS = "card.json", "weights.safetensors"
UNLIKE = "unlike anything seen"
_DATA = Path(__file__).parents[1] / "data"
_PACKAGES = ["torch", "torchvision", "timm", "clip-anytorch", "open_clip_torch"]
_KINDS = {name: kind for name, kind in vars(classifiers).items() if hasattr(kind, "scores")}
_QUANTILE, _MOST, _BLOCK = 0.01, 2000, 256

# ------------------------------------------------------------------------------- saving


def save_classifier(folder, classifier, encoder, index, rows, answers, row):
    """Fit a classifier with the candidate that most folds chose, and write it into a folder.

    Parameters
    ----------
    folder : str or Path
    classifier : NearestMean, TipAdapter, Ridge, Logistic or Linear
    encoder : Encoder
        With a ``spec``.
    index : DataFrame
    rows : int array, shape (M,)
        Positions of the pictures to fit it on.
    answers : Answers
        To the same question in a study, with scores: its temperature is fitted on them. See
        :func:`cliphelpers.evaluation.fit_temperature`.
    row : dict
        That question's row of results.
    """
    X, y, labels = extract_features(encoder, index, rows)[rows], targets(index), classes(index)
    names, groups = candidate_names(classifier), group_of(index)[rows]
    best = max(range(len(names)), key=lambda number: answers.chosen.count(names[number]))

    def compute():
        fitted = fit_candidate(classifier, best, X, y[rows], len(labels))
        seen = normalize(X).astype(np.float16)
        return _arrays(fitted) | {"seen": seen, "threshold": _threshold(seen, groups)}

    parts = (type(classifier).__name__, classifier, key_of(X), y[rows], groups, best)
    arrays = kept("classifiers", parts, compute)
    threshold = float(arrays.pop("threshold"))
    tensors = {name: torch.from_numpy(value) for name, value in arrays.items()}
    if encoder.tuned:
        for part, module in _parts(encoder).items():
            state = module.state_dict(prefix=f"{part}.")
            tensors |= {name: value.cpu().clone() for name, value in state.items()}
    tensors = {name: value.contiguous() for name, value in tensors.items()}
    folder.mkdir(parents=True, exist_ok=True)
    weights = safetensors.torch.save(tensors)
    (folder / WEIGHTS).write_bytes(weights)
    card = {key: row[key] for key in ("experiment", "dataset", "method", "encoder", "features")}
    card |= _encoder_card(encoder) | {
        "classes": labels,
        "names": prompt_names(labels, next(_DATA.glob("prompt_names.csv"), None)),
        "pictures": len(rows),
        "chosen": names[best] if len(names) > 1 else row["chosen"],
        "judged": {"split": row["split"], "pictures": row["n"], "accuracy": row["value"]}
        | {key: row[key] for key in ("low", "high", "balanced")},
        "head": {"kind": _kind(classifier), "settings": _settings(classifier, best)},
        "temperature": fit_temperature(answers.scores, answers.y),
        "threshold": threshold,
        "sha256": hashlib.sha256(weights).hexdigest(),
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": {package: version(package) for package in _PACKAGES},
    }
    text = json.dumps(card, indent=2, ensure_ascii=False, default=lambda value: value.item())
    (folder / CARD).write_text(text, encoding="utf-8")


def _encoder_card(encoder):
    way = re.search(r", ((bilinear|bicubic|lanczos|srgan(@.*)?))$", encoder.features)
    look = {name: value for name, value in vars(encoder.preprocess).items() if name != "generator"}
    return {
        "spec": absolute(encoder.spec, Path()),
        "licence": _licence(encoder.spec),
        "fingerprint": _fingerprint(encoder),
        "precision": encoder.precision,
        "joint": encoder.joint,
        "tuned": encoder.tuned,
        "upsampling": way and way[1],
        "preprocessing": look,
    }


def _licence(spec):
    """What data/README.md says of the weights in data/."""
    file = Path(re.split("[:@]", spec)[-1]).resolve()
    if file.parent == _DATA / "weights":
        for line in (_DATA / "README.md").read_text(encoding="utf-8").splitlines():
            if f"`weights/{file.name}`" in line:
                return line.split("|")[3].strip()
    return "see where the weights came from"


def _fingerprint(encoder):
    """SHA-256 of all that features depend on but the picture, with the projection if it is used."""
    if not encoder.joint:
        return encoder.key
    parts = encoder.key, fingerprint(encoder.projection), f"{encoder.logit_scale:.6g}"
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _parts(encoder):
    """The networks between a picture and its features."""
    return {"module": encoder.module} | (
        {"projection": encoder.projection} if encoder.joint else {}
    )


def _kind(classifier):
    return "Linear" if isinstance(classifier, Linear) else type(classifier).__name__


def _arrays(fitted):
    """All arrays of a fitted classifier."""
    if isinstance(fitted, Linear):
        ((W, b),) = fitted.heads_
        return {"W": W.astype(np.float32), "b": np.full(W.shape[1], b, np.float32)}
    return {name: value for name, value in vars(fitted).items() if isinstance(value, np.ndarray)}


def _settings(classifier, best):
    """All else that its scores depend on."""
    if isinstance(classifier, Linear):
        return {}
    settings = vars(classifier) | {"candidates": [classifier.candidates[best]]}
    return {name: one for name, one in settings.items() if not isinstance(one, np.ndarray)}


def _threshold(seen, groups):
    """The cosine to the nearest picture of another group that 1 % of the pictures do not reach.

    A new picture is of another group, too. The nearest of all others would be a frame of the same
    video clip: on fruits-mini 15 to 60 % of the pictures of a new clip are less near than that.
    """
    some = np.unique(np.linspace(0, len(seen) - 1, _MOST).astype(int))
    return np.quantile(_nearest(seen[some], seen, groups[some, None] != groups), _QUANTILE)


def _nearest(X, seen, allowed=None):
    """The largest cosine of each row to those seen, of length 1 each: float32, shape (N,)."""
    seen, found = seen.astype(np.float32), []
    for start in range(0, len(X), _BLOCK):
        block = slice(start, start + _BLOCK)
        cosines = X[block].astype(np.float32) @ seen.T
        found.append(
            np.max(cosines, 1, where=True if allowed is None else allowed[block], initial=-1)
        )
    return np.concatenate(found)


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
    seen : float16 array, shape (M, D)
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
        return self._probabilities(self._features(_paths(pictures)))

    def describe(self, pictures):
        """What is said of each picture, and how sure that is. Raises as :meth:`predict` does.

        Returns
        -------
        DataFrame
            Columns path, class, probability, second (the second class), cosine (to the nearest
            picture that it was learnt from) and note: "unlike anything seen", or "".
        """
        paths = _paths(pictures)
        X = self._features(paths)
        P, cosines = self._probabilities(X), _nearest(normalize(X), self.seen)
        second, first = np.argsort(P, axis=1, kind="stable").T[-2:]
        columns = {"path": paths, "class": self.classes_[first], "probability": P.max(1)}
        columns |= {"second": self.classes_[second], "cosine": cosines}
        notes = np.where(cosines < self.card["threshold"], UNLIKE, "")
        return pd.DataFrame(columns | {"note": notes})

    def _features(self, paths):
        return extract_features(self.encoder, pd.DataFrame({"path": paths}))

    def _probabilities(self, X):
        return softmax(self.head.scores(X)[0].astype(float) / self.card["temperature"], axis=1)


def _paths(pictures):
    if isinstance(pictures, pd.DataFrame):
        return list(pictures.path)
    return [str(path) for path in np.atleast_1d(pictures)]


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
            raise ValueError(f"{WEIGHTS} is not the one that was saved")
        state, spec = safetensors.torch.load(weights), str(encoder or card["spec"])
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
            made.tuned = True
            for part, module in _parts(made).items():
                module.load_state_dict(
                    {name: state.pop(f"{part}.{name}") for name in module.state_dict()}
                )
        arrays = {name: value.numpy() for name, value in state.items()}
        saved = SavedClassifier(
            np.array(card["classes"]), card, made, _head(card, arrays), arrays["seen"]
        )
    if _fingerprint(made) != card["fingerprint"]:
        raise EncoderError(
            f"{spec} is not the encoder of {folder}: its weights, its preprocessing or its network "
            f"are others. It was made with {card['versions']}"
        )
    with explained(fault):
        _check(saved)
    return saved


def _head(card, arrays):
    if card["head"]["kind"] == "Linear":
        return Linear((arrays["W"], arrays["b"]))
    head = object.__new__(_KINDS[card["head"]["kind"]])
    vars(head).update(card["head"]["settings"] | arrays)
    return head


def _check(saved):
    """Try it on an empty picture: all that does not fit together is an error."""
    side = saved.encoder.preprocess.size
    X = encode_batch(saved.encoder, np.zeros((1, side, side, 3), np.uint8))
    X = to_joint(saved.encoder, X) if saved.encoder.joint else X
    P, cosines = saved._probabilities(X), _nearest(normalize(X), saved.seen)
    numbers = [P, cosines, saved.seen, saved.card["temperature"], saved.card["threshold"]]
    if P.shape != (1, len(saved.classes_)) or not all(np.isfinite(one).all() for one in numbers):
        raise ValueError("its numbers do not fit together")
