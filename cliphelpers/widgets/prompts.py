"""Notebook 1 by hand: other prompts, their weights, a temperature, more classes, own pictures."""

from functools import lru_cache

import ipywidgets
import numpy as np
import pandas as pd
from scipy.special import softmax

from cliphelpers.classifiers import text_weights
from cliphelpers.encoders.encoder import encode_batch, normalize, to_joint
from cliphelpers.evaluation import interval
from cliphelpers.images import ImageError, read_image
from cliphelpers.index import classes, targets
from cliphelpers.looks import group_of
from cliphelpers.widgets import parts

_MOST = 5000  # pictures to classify again at each change


def prompt_widget(clips, features, weights, index, words, templates, rows):
    """Other words, their weights, another temperature, further classes, a picture of one's own.

    Parameters
    ----------
    clips : list of Encoder
        With a text side.
    features : dict of str to float32 array, shape (N, E)
        For each CLIP's name the joint embeddings of the index's pictures, of any length.
    weights : dict of (str, str) to float32 array, shape (C, E)
        For each CLIP's name and template the :func:`cliphelpers.classifiers.text_weights` of this
        template alone.
    index : DataFrame
    words : list of str, length C
        The classes' names in prompts.
    templates : list of str
        The first is the starting prompt.
    rows : int array
        The pictures to classify; of more than 5000 so many are drawn at random. Those of the
        training part, since a prompt that is chosen by looking at its test accuracy flatters
        itself.

    Returns
    -------
    ipywidgets.Widget
    """
    rows = np.sort(np.random.default_rng(0).permutation(rows)[:_MOST])
    part, y, labels = index.iloc[rows], targets(index)[rows], classes(index)
    groups = np.unique(group_of(part), return_inverse=True)[1]  # numbers sort faster
    by_name, words = {clip.name: clip for clip in clips}, tuple(words)
    X = {name: normalize(features[name][rows]) for name in by_name}

    @lru_cache
    def embedded(encoder, template, names):
        if names == words and (encoder, template) in weights:
            return weights[encoder, template]
        return text_weights(by_name[encoder], names, [template])

    @lru_cache(2)  # the starting prompt, and the ones at hand for another temperature
    def classifier(encoder, prompts, extra=()):
        """Class weights (C, E), the mean of the prompts' embeddings, and the cosines (M, C)."""
        if not prompts:
            raise ValueError("All weights are 0: give at least one template a weight")
        mean = 0
        for template, share in prompts:
            texts = [embedded(encoder, template, names) for names in (words, extra) if names]
            mean = mean + share * np.vstack(texts)
        W = normalize(mean)
        return W, X[encoder] @ W.T

    @lru_cache
    def own(encoder, name, content):
        """An uploaded picture as HTML and its joint embedding (1, E), of length 1."""
        picture = read_image(name, content)
        pixels = by_name[encoder].preprocess(picture)[None]
        picture.thumbnail((140, 140))
        features = to_joint(by_name[encoder], encode_batch(by_name[encoder], pixels))
        return parts.image(picture.save, "jpeg", "margin-right:16px"), normalize(features)

    def own_page(encoder, name, content, told, temperature, names):
        """An uploaded picture with the five likeliest classes."""
        try:
            shown, x = own(encoder, name, content)
        except ImageError as problem:
            return parts.red(problem)
        shares = softmax(x @ told.T / temperature, axis=1)[0]
        likeliest = pd.DataFrame({parts.escaped(name): names, "share": shares}).nlargest(5, "share")
        return parts.beside(shown, parts.table(likeliest))

    def show(encoder, factor, extra, only, seed, upload, **fields):
        extra, prompts = _listed(extra), _weighted(*fields.values())
        names, (told, cosines) = [*labels, *extra], classifier(encoder, prompts, extra)
        _, before = classifier(encoder, ((templates[0], 1.0),))
        temperature = factor / by_name[encoder].logit_scale
        among = _among(y, labels, _listed(only) or [""])
        shares, true = softmax(cosines[among] / temperature, axis=1), y[among]
        sure, best = shares.max(1), shares.argmax(1)
        gain = (best == true).astype(int) - (before[among].argmax(1) == true)
        change, low, high = map(parts.points, interval(gain, true, groups[among])[:3])
        title = (
            f"<b>accuracy {np.mean(best == true):.1%}</b> of {len(among)} pictures, "
            f"<b>{change} points</b> ({low} to {high}) against the starting prompt; "
            f"mean confidence {sure.mean():.1%} at temperature {temperature:.4f}"
        )
        some, captions = _drawn(true, seed), []
        for i in some:
            caption = f"{names[best[i]]}\n({labels[true[i]]})\n{sure[i]:.0%}"
            captions.append(parts.marked(best[i] == true[i], caption))
        page = parts.gallery(title, part.path.iloc[among[some]], captions, side=112)
        for file in upload:
            picture = encoder, file["name"], bytes(file["content"])
            page = own_page(*picture, told, temperature, names) + page
        return page

    fields = {}
    for number, template in enumerate(templates):
        weight = {"value": float(not number), "max": 1, "step": 0.05}
        fields[f"prompt {number}"] = _text("prompt", value=template)
        fields[f"weight {number}"] = parts.control(ipywidgets.FloatSlider, "weight", **weight)
    return parts.interactive(
        show,
        encoder=parts.choice("encoder", by_name),
        factor=parts.control(ipywidgets.FloatLogSlider, "temperature ×", min=-2, max=2, step=0.05),
        **fields,
        extra=_text("extra classes", placeholder="a tennis ball, a red balloon"),
        only=_text("only classes", placeholder="apple, pear (all if empty)"),
        seed=parts.control(ipywidgets.IntSlider, "other pictures", max=99),
        upload=ipywidgets.FileUpload(accept="image/*", description="Own picture"),
    )


def _text(label, **more):
    return parts.control(ipywidgets.Text, label, continuous_update=False, **more)


def _weighted(*fields):
    """The prompts that have a weight, with it: tuple of pairs."""
    pairs = zip(fields[::2], fields[1::2], strict=True)
    return tuple((template.strip(), share) for template, share in pairs if share)


def _listed(text):
    """The words of a text between commas, without blanks and repetitions."""
    return tuple(dict.fromkeys(filter(None, (word.strip() for word in text.split(",")))))


def _among(y, labels, wanted):
    """Positions of the pictures whose class has one of the wanted texts in its name."""
    hits = np.array([[word.lower() in label.lower() for label in labels] for word in wanted])[:, y]
    for word, hit in zip(wanted, hits, strict=True):
        if not hit.any():
            raise ValueError(f"No picture is of a class with {word!r} in its name")
    return np.flatnonzero(hits.any(0))


def _drawn(y, seed):
    """Positions of pictures drawn at random, of as many classes as possible."""
    mixed = np.random.default_rng(seed).permutation(len(y))
    again = pd.Series(y[mixed]).duplicated()
    return mixed[np.argsort(again, kind="stable")][: parts.SHOWN]
