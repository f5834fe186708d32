"""What can be tried by hand in the notebooks: small functions on arrays, then ipywidgets on them.

Widgets work on features that the notebook has computed, so that a change shows at once. They
appear in a live front end alone (see :func:`live`), after the figures that need none. Wrong input
is one red line in the widget.
"""

import base64
import html
import io
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import ipywidgets
import numpy as np
from IPython import get_ipython
from PIL import Image

from cliphelpers.cache import kept
from cliphelpers.classifiers import Ridge, normalize, text_weights
from cliphelpers.data import classes as class_names
from cliphelpers.data import clip_of, few_shot, targets, test_rows
from cliphelpers.encoders import encode_batch, to_joint
from cliphelpers.evaluation import bootstrap
from cliphelpers.images import ImageError, read_image
from cliphelpers.plots import COLOURS, RIGHT, WRONG

SHOWN = 12  # pictures in a grid
WIDE = "460px"  # a control that holds a prompt
SIDE = 112  # pixels of a picture in it
BLOCK = 2048  # pictures whose scores with all strengths are in memory at once
STRENGTHS = tuple(float(f"{10**power:.1e}") for power in np.linspace(-6, 1, 29))
MOST = 5000  # pictures to classify again at each change
HARDEST = 10  # classes in a matrix of buttons
MINUS = "\N{MINUS SIGN}"


def live():
    """Whether a person can answer: a widget is then worth showing.

    A front end (JupyterLab, Jupyter Notebook, VS Code) sends each cell with ``allow_stdin`` true.
    nbclient, and so papermill, nbconvert and this package's runner, sends it with false; without
    a kernel there is no message. Widgets that nobody sees would be saved in executed notebooks.
    """
    kernel = getattr(get_ipython(), "kernel", None)
    if kernel is None:
        return False
    return bool(kernel.get_parent("shell").get("content", {}).get("allow_stdin", False))


# ------------------------------------------------------------------------------- HTML


@lru_cache(4096)
def thumbnail(path, side=SIDE):
    """A small JPEG of a picture as a data URI: str. Its longer side has ``side`` pixels."""
    return data_uri(read_image(path), side)


def data_uri(picture, side):
    """An RGB picture, its longer side brought to ``side`` pixels, as a JPEG in a data URI: str."""
    scale = side / max(picture.size)
    size = [max(1, round(length * scale)) for length in picture.size]
    buffer = io.BytesIO()
    picture.resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def gallery(paths, captions, right, side=SIDE):
    """Pictures with captions below, ticked green or crossed orange: HTML.

    Parameters
    ----------
    paths : list of str, length N
    captions : list of str
        Lines are separated by newlines; markup is shown as it is.
    right : list of bool or None
        None draws no mark.
    side : int
        Pixels.
    """
    cells = [
        f'<figure style="width:{side + 24}px;margin:0 0 10px;text-align:center">'
        f'<div style="height:{side}px;display:flex;align-items:center;justify-content:center">'
        f'<img src="{thumbnail(path, side)}" style="margin:0"></div>'
        f'<figcaption style="font-size:12px;line-height:1.25;overflow-wrap:anywhere;'
        f'{_mark_style(ok)}">{_mark(ok)}{_lines(caption)}</figcaption></figure>'
        for path, caption, ok in zip(paths, captions, right, strict=True)
    ]
    width = SHOWN // 2 * (side + 24)
    return (
        f'<div style="display:flex;flex-wrap:wrap;max-width:{width}px;line-height:1.25">'
        f"{''.join(cells) or 'no pictures'}</div>"
    )


def _mark(ok):
    return "" if ok is None else ("✓ " if ok else "✗ ")


def _mark_style(ok):
    return "" if ok is None else f"color:{_hex(RIGHT if ok else WRONG)}"


def _lines(text):
    return html.escape(text).replace("\n", "<br>")


def _hex(colour):
    return "#" + "".join(f"{round(255 * value):02x}" for value in colour)


def _red(text):
    """One line in red: HTML."""
    text = html.escape(" ".join(str(text).split()))
    return f'<span style="color:var(--jp-error-color1, #c62828)">{text}</span>'


def points(difference, unit=" points"):
    """A difference of accuracies in percentage points: "+3.3 points"."""
    sign = "+" if difference > 0 else (MINUS if difference < 0 else "±")
    return f"{sign}{abs(difference) * 100:.1f}{unit}"


def bar_list(labels, values, best):
    """A few shares in [0, 1] as bars with labels, one of them in bold: HTML."""
    rows = "".join(
        f'<tr style="{"font-weight:bold" if number == best else ""}">'
        f'<td style="text-align:left;padding:1px 8px 1px 0;white-space:nowrap">{_lines(label)}</td>'
        f'<td style="min-width:180px;padding:1px"><div style="width:{100 * value:.1f}%;height:12px;'
        f'background:{_hex(COLOURS[0])}"></div></td>'
        f'<td style="padding:1px 0 1px 8px">{value:.1%}</td></tr>'
        for number, (label, value) in enumerate(zip(labels, values, strict=True))
    )
    return f'<table style="font-size:13px;border-spacing:0">{rows}</table>'


def line_chart(x, curves, place, ticks, width=500, height=200):
    """Accuracies against a number, with the number that is chosen as an upright line: SVG.

    Parameters
    ----------
    x : array, shape (S,)
        Rising.
    curves : dict of str to array, shape (S,)
        Accuracies in [0, 1]; the names stand at the lines' right ends.
    place : int
        Position in ``x`` of the upright line.
    ticks : dict of str to float
        Labels of the horizontal axis and where they stand.
    width, height : int
        Pixels.
    """
    left, top, bottom = 44, 8, height - 24
    right = width - 55 - 7 * max(map(len, curves))
    x = np.asarray(x, float)

    def across(value):
        return left + (right - left) * (value - x[0]) / ((x[-1] - x[0]) or 1)

    def up(value):
        return bottom - (bottom - top) * value

    parts = [
        f'<line x1="{left}" x2="{right}" y1="{up(level):.1f}" y2="{up(level):.1f}" '
        f'stroke="currentColor" opacity="0.2"/><text x="{left - 6}" y="{up(level) + 4:.1f}" '
        f'text-anchor="end">{level:.0%}</text>'
        for level in (0, 0.25, 0.5, 0.75, 1)
    ]
    parts += [
        f'<text x="{across(value):.1f}" y="{height - 6}" text-anchor="middle">{_lines(text)}</text>'
        for text, value in ticks.items()
    ]
    at = across(x[place])
    parts.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{top}" y2="{bottom}" '
                 'stroke="currentColor" stroke-dasharray="4 3"/>')  # fmt: skip
    names = _apart({name: up(values[-1]) for name, values in curves.items()}, 15, bottom)
    for number, (name, values) in enumerate(curves.items()):
        colour = _hex(COLOURS[number % len(COLOURS)])
        line = " ".join(f"{across(a):.1f},{up(b):.1f}" for a, b in zip(x, values, strict=True))
        parts.append(
            f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>'
            f'<circle cx="{at:.1f}" cy="{up(values[place]):.1f}" r="4" fill="{colour}"/>'
            f'<text x="{right + 6}" y="{names[name] + 4:.1f}" fill="{colour}">{_lines(name)} '
            f"{values[place]:.1%}</text>"
        )
    return (
        f'<svg width="{width}" height="{height}" font-size="12" fill="currentColor" '
        f'font-family="sans-serif">{"".join(parts)}</svg>'
    )


def _apart(heights, gap, bottom):
    """Heights of labels, in pixels from the top, moved up so that none lies on another."""
    last, moved = bottom + gap, {}
    for name, height in sorted(heights.items(), key=lambda pair: -pair[1]):
        last = moved[name] = min(height, last - gap)
    return moved


# ------------------------------------------------------------------------------- 01: prompts


class Texts:
    """Embeddings of a CLIP's prompts, each encoded once.

    Parameters
    ----------
    clip : Encoder
        With a text side.
    """

    def __init__(self, clip):
        self.clip, self.known = clip, {}

    def add(self, template, names, embeddings):
        """Take embeddings that are known already: float32 (C, E), rows of length 1."""
        keys = [(template, name) for name in names]
        self.known.update(zip(keys, embeddings, strict=True))

    def embed(self, template, names):
        """Embeddings of a template with each name in it: float32 (C, E), rows of length 1.

        Raises
        ------
        ValueError
            The template has no {}, or a prompt has too many tokens.
        """
        new = [name for name in dict.fromkeys(names) if (template, name) not in self.known]
        if new:
            self.add(template, new, text_weights(self.clip, new, [template]))
        return np.stack([self.known[template, name] for name in names])


def ensemble(embeddings, shares):
    """Class weights from the weighted mean of several templates' embeddings.

    With equal shares this is :func:`cliphelpers.classifiers.text_weights`.

    Parameters
    ----------
    embeddings : sequence of float32 arrays, shape (C, E)
        For each template, rows of length 1.
    shares : sequence of float
        Not negative; only their ratios count.

    Returns
    -------
    float32 array, shape (C, E)
        Rows of length 1.
    """
    if not len(shares) or min(shares) < 0 or sum(shares) == 0:
        raise ValueError("All weights are 0: give at least one template a weight")
    shares = np.asarray(shares, np.float32) / sum(shares)
    return normalize(np.tensordot(shares, np.stack(embeddings), 1))


def probabilities(cosines, temperature):
    """Softmax of cosine similarities over the classes: float32, shape (N, C).

    CLIP's own temperature is 1 / ``logit_scale``.
    """
    logits = cosines / np.float32(temperature)
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


def listed(text):
    """The words of a text between commas, without blanks and repetitions: list of str."""
    return list(dict.fromkeys(filter(None, (word.strip() for word in text.split(",")))))


def passing(labels, wanted):
    """Which labels hold one of the wanted words, whatever the case: bool array, shape (C,).

    Without any words all do.

    Raises
    ------
    ValueError
        A word is in no label.
    """
    labels = [label.lower() for label in labels]
    hits = np.array([[word.lower() in label for label in labels] for word in wanted], bool)
    for word, hit in zip(wanted, hits, strict=True):
        if not hit.any():
            raise ValueError(f"No class has {word!r} in its name")
    return hits.any(0) if len(wanted) else np.ones(len(labels), bool)


def drawn(y, among, count, seed):
    """Pictures drawn at random, of as many classes as possible: int array of positions.

    Parameters
    ----------
    y : int array, shape (N,)
    among : int array
        Positions to draw from.
    count, seed : int
    """
    mixed = np.random.default_rng(seed).permutation(among)
    first = np.sort(np.unique(y[mixed], return_index=True)[1])
    return np.concatenate([mixed[first], np.delete(mixed, first)])[:count]


@dataclass(frozen=True)
class Answer:
    """What a prompt says of the pictures.

    Attributes
    ----------
    labels : list of str, length C
        The classes and then the extra ones.
    among : int array, shape (M,)
        Positions of the pictures of the wanted classes.
    shares : float32 array, shape (M, C)
        Probabilities.
    right, right_before : bool arrays, shape (M,)
        Whether the prompt, and the starting prompt, tell each picture's class.
    """

    labels: list
    among: np.ndarray
    shares: np.ndarray
    right: np.ndarray
    right_before: np.ndarray


class Prompts:
    """Zero-shot classification of the same pictures with ever other prompts.

    Parameters
    ----------
    texts : Texts
    X : float32 array, shape (N, E)
        Joint embeddings of the pictures, rows of length 1.
    y : int array, shape (N,)
    labels, words : lists of str, length C
        The classes and their names in prompts.
    start : str
        The template that the others are compared with.
    """

    def __init__(self, texts, X, y, labels, words, start):
        self.texts, self.X, self.y, self.labels, self.words = texts, X, y, labels, words
        self.right_before = (X @ texts.embed(start, words).T).argmax(1) == y
        self._last = None, None, None

    def answer(self, templates, shares, temperature, extra=(), wanted=()):
        """Classify the pictures.

        Parameters
        ----------
        templates : list of str
        shares : list of float
            Weights of the templates.
        temperature : float
        extra : list of str
            Names of further classes; no picture is of them.
        wanted : list of str
            Only pictures whose class has one of these words in its name.

        Returns
        -------
        Answer
        """
        _, cosines = self.compare(templates, shares, extra)
        among = np.flatnonzero(passing(self.labels, wanted)[self.y])
        if not len(among):
            raise ValueError(f"There are no pictures of {', '.join(wanted)}")
        right = cosines[among].argmax(1) == self.y[among]
        return Answer(
            [*self.labels, *extra],
            among,
            probabilities(cosines[among], temperature),
            right,
            self.right_before[among],
        )

    def compare(self, templates, shares, extra=()):
        """Class weights, float32 (C, E), and the pictures' cosines with them, float32 (N, C).

        Those of the last prompt are at hand, for another temperature or filter.
        """
        used = [(text, share) for text, share in zip(templates, shares, strict=True) if share]
        key = (tuple(used), tuple(extra))
        if self._last[0] != key:
            names = [*self.words, *extra]
            embeddings = [self.texts.embed(template, names) for template, _ in used]
            weights = ensemble(embeddings, [share for _, share in used])
            self._last = key, weights, self.X @ weights.T
        return self._last[1:]


def verdict(right, right_before, clips):
    """Accuracy and the change against before, with its paired interval: HTML.

    Parameters
    ----------
    right, right_before : bool arrays, shape (M,)
    clips : int array, shape (M,)
        What belongs together: see :func:`cliphelpers.evaluation.bootstrap`.
    """
    change, low, high = bootstrap(right.astype(float) - right_before, clips)
    return (
        f"<b>accuracy {right.mean():.1%}</b> of {len(right)} pictures, <b>{points(change)}</b> "
        f"({points(low, '')} to {points(high, '')}) against the starting prompt"
    )


def read_upload(name, content):
    """The RGB picture in the bytes of an uploaded file.

    Raises
    ------
    ImageError
        They are no picture; the message has the file's name.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"upload{Path(name).suffix[:8]}"
        path.write_bytes(content)
        try:
            return read_image(path)
        except ImageError as error:
            raise ImageError(str(error).replace(str(path), name)) from error


def embed_picture(clip, picture):
    """CLIP's joint embedding of an RGB picture: float32, shape (1, E), of length 1."""
    return normalize(to_joint(clip, encode_batch(clip, clip.preprocess(picture)[None])))


# ------------------------------------------------------------------------------- 03, 04: probes


def ridge_path(X, y, folds, strengths=STRENGTHS):
    """What ridge regression says with each of many strengths; kept on disk.

    Parameters
    ----------
    X : float32 array, shape (N, D)
    y : int array, shape (N,)
    folds : list of Fold
    strengths : sequence of float, length S

    Returns
    -------
    dict of str to array
        ``training`` and ``validation``: accuracies, float (S,), the latter empty without
        validation pictures; ``predicted``: classes of the test pictures of all folds, one fold
        after the other, int (S, M).
    """
    classes = int(y.max()) + 1

    def told(rows, of):
        ridge = Ridge(strengths).fit(X[rows], y[rows], classes)
        blocks = [of[start : start + BLOCK] for start in range(0, len(of), BLOCK)]
        return np.hstack([ridge.scores(X[block]).argmax(2) for block in blocks])

    def compute():
        fitted = [told(fold.fit, np.concatenate([fold.fit, fold.test])) for fold in folds]
        sizes = [len(fold.fit) for fold in folds]
        learnt = [
            one[:, :size] == y[fold.fit]
            for one, size, fold in zip(fitted, sizes, folds, strict=True)
        ]
        chosen = [told(fold.train, fold.val) == y[fold.val] for fold in folds if len(fold.val)]
        return {
            "training": np.hstack(learnt).mean(1),
            "validation": np.hstack(chosen).mean(1) if chosen else np.zeros(0),
            "predicted": np.hstack([one[:, n:] for one, n in zip(fitted, sizes, strict=True)]),
        }

    return kept("ridge-path", ("ridge path", X, y, folds, strengths), compute)


def hardest(y, predicted, most=HARDEST):
    """The classes with the lowest share of right answers, in their order: int array."""
    tested = np.unique(y)
    shares = np.bincount(y, predicted == y)[tested] / np.bincount(y)[tested]
    return np.sort(tested[np.argsort(shares, kind="stable")][:most])


def cell_counts(y, predicted, shown):
    """Confusions among the shown classes, and with all others in a last column.

    Returns
    -------
    int array, shape (len(shown), len(shown) + 1)
        Rows are the true classes.
    """
    counts = [[len(cell(y, predicted, shown, row, column)) for column in range(len(shown) + 1)]
              for row in range(len(shown))]  # fmt: skip
    return np.array(counts)


def cell(y, predicted, shown, row, column):
    """Pictures in one cell of :func:`cell_counts`: int array of positions."""
    told = predicted == shown[column] if column < len(shown) else ~np.isin(predicted, shown)
    return np.flatnonzero((y == shown[row]) & told)


# ------------------------------------------------------------------------------- 07: two pictures


def before_after(before, after, share, zoom=1, centre=(0.5, 0.5), side=480):
    """Two versions of one picture side by side, or rather: one at each side of a line.

    Parameters
    ----------
    before, after : uint8 arrays, shape (H, W, 3)
    share : float
        Of the width at which the line stands; left of it is ``before``.
    zoom : float
        At least 1; of the picture a part of 1 / zoom is shown.
    centre : pair of float
        Of that part, from the left and from above, in [0, 1].
    side : int
        Pixels of the result's longer side.

    Returns
    -------
    uint8 array, shape (h, w, 3)
        Enlarged without smoothing, so that nothing is seen that is not there.
    """
    if before.shape != after.shape:
        raise ValueError(f"The pictures differ in size: {before.shape} and {after.shape}")
    height, width = before.shape[:2]
    part = max(1, round(height / zoom)), max(1, round(width / zoom))
    left = round((width - part[1]) * centre[0])
    top = round((height - part[0]) * centre[1])
    scale = side / max(part)
    size = max(1, round(part[1] * scale)), max(1, round(part[0] * scale))
    box = (left, top, left + part[1], top + part[0])
    shown = [
        np.array(Image.fromarray(one).crop(box).resize(size, Image.Resampling.NEAREST))
        for one in (before, after)
    ]
    line = round(size[0] * share)
    result = np.concatenate([shown[0][:, :line], shown[1][:, line:]], axis=1)
    result[:, max(line - 1, 0) : line + 1] = (213, 94, 0)
    return result


def png(pixels):
    """A uint8 array, shape (h, w, 3), as the bytes of a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


# ------------------------------------------------------------------------------- widgets


def _on_change(update, widgets, error):
    """Call ``update`` now and whenever a widget's value changes; what is wrong goes to ``error``.

    The last good state stays beside the red line.
    """

    def run(_=None):
        try:
            update()
            error.value = ""
        except ValueError as problem:
            error.value = _red(problem)

    for widget in widgets:
        widget.observe(run, "value")
    run()
    return run


def _control(kind, label, value="", width="340px", **more):
    style, layout = {"description_width": "100px"}, ipywidgets.Layout(width=width, flex="0 0 auto")
    return kind(value=value, description=label, style=style, layout=layout, **more)


def _choice(label, options, value=None, width="340px"):
    options = list(options)
    value = options[0] if value is None else value
    return _control(ipywidgets.Dropdown, label, value, width, options=options)


def _beside(controls, other):
    """Controls on the left, which keep their width, and one widget on their right."""
    layout = ipywidgets.Layout(flex="0 0 auto")
    return ipywidgets.HBox([ipywidgets.VBox(controls, layout=layout), other])


def prompt_widget(clips, pictures, weights, index, words, templates, rows, seed=0):
    """Notebook 1: other words, their weights, another temperature, further classes, own pictures.

    Parameters
    ----------
    clips : list of Encoder
    pictures : dict of str to float32 array, shape (N, E)
        For each CLIP's name the joint embeddings of the index's pictures, rows of length 1.
    weights : dict of (str, str) to float32 array, shape (C, E)
        For each CLIP's name and template the :func:`text_weights` of this template alone.
    index : DataFrame
    words : list of str, length C
    templates : list of str
        The first is the starting prompt.
    rows : int array
        The pictures to classify; of more than 5000 so many are drawn at random. Those of the
        training part, since a prompt that is chosen by looking at its test accuracy flatters
        itself.
    seed : int

    Returns
    -------
    ipywidgets.Widget
    """
    rows = np.sort(np.random.default_rng(seed).permutation(rows)[:MOST])
    part, y = index.iloc[rows], targets(index)[rows]
    labels, groups = class_names(index), np.unique(clip_of(part), return_inverse=True)[1]
    by_name = {clip.name: clip for clip in clips}

    @lru_cache
    def prompts(name):
        texts = Texts(by_name[name])
        for template in templates:
            texts.add(template, words, weights[name, template])
        return Prompts(texts, pictures[name][rows], y, labels, words, templates[0])

    encoder = _choice("encoder", by_name, width=WIDE)
    fields = [
        _control(ipywidgets.Text, "prompt", text, WIDE, continuous_update=False)
        for text in templates
    ]
    sliders = [
        ipywidgets.FloatSlider(
            float(not number), min=0, max=1, step=0.05, description="weight", readout_format=".2f"
        )
        for number in range(len(templates))
    ]
    temperature = _control(
        ipywidgets.FloatLogSlider, "temperature", 1 / clips[0].logit_scale, WIDE,
        min=-3, max=0, step=0.05, readout_format=".4f",
    )  # fmt: skip
    more, only = (
        _control(ipywidgets.Text, label, "", WIDE, placeholder=hint, continuous_update=False)
        for label, hint in [
            ("extra classes", "a tennis ball, a red balloon"),
            ("only classes", "apple, pear (all if empty)"),
        ]
    )
    other = ipywidgets.Button(description="Other pictures", icon="random")
    upload = ipywidgets.FileUpload(
        accept="image/*", description="Your own picture", layout=ipywidgets.Layout(width="auto")
    )
    line, grid, own, error = (ipywidgets.HTML() for _ in range(4))
    state = {"seed": seed, "own": None}  # own: file's name, picture, its embedding by encoder

    def prompt():
        return [field.value.strip() for field in fields], [slider.value for slider in sliders]

    def update():
        model, extra = prompts(encoder.value), listed(more.value)
        answer = model.answer(*prompt(), temperature.value, extra, listed(only.value))
        sure = answer.shares.max(1)
        chosen = drawn(y, answer.among, SHOWN, state["seed"])
        places = np.searchsorted(answer.among, chosen)
        best = answer.shares[places].argmax(1)
        captions = [
            f"{answer.labels[told]}\n({labels[true]})\n{share:.0%}"
            for told, true, share in zip(best, y[chosen], sure[places], strict=True)
        ]
        grid.value = gallery(part.path.iloc[chosen], captions, best == y[chosen])
        own.value = "" if state["own"] is None else own_picture(model, answer.labels, extra)
        line.value = (
            f"{verdict(answer.right, answer.right_before, groups[answer.among])}; "
            f"mean confidence {sure.mean():.1%}"
        )

    def own_picture(model, names, extra):
        """The uploaded picture with the five likeliest classes."""
        file, picture, embedded = state["own"]
        if encoder.value not in embedded:
            embedded[encoder.value] = embed_picture(by_name[encoder.value], picture)
        weights = model.compare(*prompt(), extra)[0]
        shares = probabilities(embedded[encoder.value] @ weights.T, temperature.value)[0]
        five = np.argsort(-shares)[:5]
        return (
            f'<div style="display:flex;gap:16px;align-items:center"><figure style="margin:0">'
            f'<img src="{data_uri(picture, 140)}" style="margin:0"><figcaption '
            f'style="font-size:12px">{_lines(file)}</figcaption></figure>'
            f"{bar_list([names[i] for i in five], shares[five], 0)}</div>"
        )

    def take(_):
        if upload.value:
            file = upload.value[0]
            try:
                picture = read_upload(file["name"], bytes(file["content"]))
            except ImageError as problem:
                error.value = _red(problem)
                return
            state["own"] = file["name"], picture, {}
            run()

    def draw_again(_):
        state["seed"] += 1
        run()

    def own_temperature(_):
        temperature.value = 1 / by_name[encoder.value].logit_scale

    inputs = [encoder, *fields, *sliders, temperature, more, only]
    run = _on_change(update, inputs, error)
    encoder.observe(own_temperature, "value")
    upload.observe(take, "value")
    other.on_click(draw_again)
    pairs = [ipywidgets.HBox(pair) for pair in zip(fields, sliders, strict=True)]
    buttons = ipywidgets.HBox([other, upload])
    controls = [encoder, *pairs, temperature, more, only, buttons]
    return ipywidgets.VBox([*controls, error, line, grid, own])


def shots_widget(right, zero_shot, index, folds, shots, seeds):
    """Notebook 2: k, seed and method, the pictures that taught and the pictures that were asked.

    Parameters
    ----------
    right : function
        From an encoder's name, a split and k to a dict of method to bool array, shape (seeds,
        M): whether each test picture of the split's folds, one after the other, is told right.
    zero_shot : dict of (str, str) to float
        Accuracy for each encoder's name and split.
    index : DataFrame
    folds : dict of str to list of Fold
    shots, seeds : lists of int

    Returns
    -------
    ipywidgets.Widget
    """
    labels, y, known = class_names(index), targets(index), lru_cache(right)
    encoder = _choice("encoder", dict.fromkeys(name for name, _ in zero_shot))
    split = _choice("split", folds)
    methods = list(known(encoder.value, split.value, shots[0]))
    method, label = _choice("method", methods), _choice("pictures of", labels)
    k = _control(ipywidgets.SelectionSlider, "k", shots[0], options=shots)
    seed = _control(ipywidgets.SelectionSlider, "seed", seeds[0], options=seeds)
    line, bars, taught, asked, error = (ipywidgets.HTML() for _ in range(5))

    def update():
        told = known(encoder.value, split.value, k.value)
        place, zero = seeds.index(seed.value), zero_shot[encoder.value, split.value]
        values = {name: told[name].mean(1) for name in methods}
        mine = values[method.value]
        line.value = (
            f"<b>{html.escape(method.value)}, k = {k.value}, seed {seed.value}: accuracy "
            f"{mine[place]:.1%}</b>, {points(mine[place] - zero)} against zero-shot; over the "
            f"seeds {mine.min():.1%} to {mine.max():.1%}"
        )
        shares = [values[name][place] for name in methods]
        bars.value = bar_list([*methods, "zero-shot"], [*shares, zero], methods.index(method.value))
        fold, number = folds[split.value][0], labels.index(label.value)
        learnt = fold.fit[y[fold.fit] == number]
        learnt = learnt[few_shot(index.iloc[learnt], k.value, seed.value)[0]]
        test = np.flatnonzero(y[fold.test] == number)
        taught.value = shown(f"{len(learnt)} to learn from", learnt, [None] * len(learnt))
        answers = told[method.value][place][test]  # the first fold's come first
        title = f"{answers.sum()} of {len(test)} test pictures right"
        asked.value = shown(title, fold.test[test], answers)

    def shown(title, rows, marks):
        more = f", the first {SHOWN}" if len(rows) > SHOWN else ""
        rows = rows[:SHOWN]
        pictures = gallery(index.path.iloc[rows], [""] * len(rows), marks[:SHOWN], 64)
        fold = " (first fold)" if len(folds[split.value]) > 1 else ""
        return f"<b>{html.escape(label.value)}{fold}: {title}{more}</b>{pictures}"

    _on_change(update, [encoder, split, method, k, seed, label], error)
    top = _beside([encoder, split, k, seed, method, label], bars)
    return ipywidgets.VBox([top, error, line, taught, asked])


def probe_widget(features, index, folds):
    """Notebooks 3 and 4: the strength of the penalty, and the pictures behind each confusion.

    Parameters
    ----------
    features : dict of str to float32 array, shape (N, D)
        For each encoder's name.
    index : DataFrame
    folds : dict of str to list of Fold

    Returns
    -------
    ipywidgets.Widget
    """
    labels, y = class_names(index), targets(index)
    encoder = _choice("encoder", features)
    split = _choice("split", folds, list(folds)[-1])
    strength = _control(
        ipywidgets.SelectionSlider, "strength", STRENGTHS[0],
        options=[(f"{value:.1e}", value) for value in STRENGTHS],
    )  # fmt: skip
    line, chart, grid, error = (ipywidgets.HTML() for _ in range(4))
    matrix = Matrix(labels)

    @lru_cache
    def path(encoder, split):
        """The path, its test rows, the best strength's place, and the hardest classes with it."""
        found, rows = ridge_path(features[encoder], y, folds[split]), test_rows(folds[split])
        scores = found["validation"] if len(found["validation"]) else found["training"]
        best = int(scores.argmax())
        return found, rows, best, hardest(y[rows], found["predicted"][best])

    def update():
        found, rows, best, shown = path(encoder.value, split.value)
        place = STRENGTHS.index(strength.value)
        curves = {"training": found["training"], "validation": found["validation"]}
        curves["test"] = (found["predicted"] == y[rows]).mean(1)
        curves = {name: values for name, values in curves.items() if len(values)}
        powers = np.log10(STRENGTHS)
        ticks = {f"{10.0**power:g}": power for power in np.arange(-6, 2)}
        chart.value = line_chart(powers, curves, place, ticks)
        judge = "validation" if len(found["validation"]) else "training (no validation here)"
        line.value = (
            f"<b>ridge, strength {strength.value:.1e}: accuracy {curves['test'][place]:.1%}</b> "
            f"of {len(rows)} test pictures; {judge} would choose {STRENGTHS[best]:.1e}"
        )
        matrix.fill(y[rows], found["predicted"][place], shown)
        browse()

    def browse():
        _, rows, _, _ = path(encoder.value, split.value)
        true, told, places = matrix.chosen_pictures()
        more = f", the first {SHOWN}" if len(places) > SHOWN else ""
        places = places[:SHOWN]
        captions = [f"{labels[n]}\n({true})" for n in matrix.predicted[places]]
        pictures = gallery(index.path.iloc[rows[places]], captions, [true == told] * len(places))
        grid.value = f"<b>{html.escape(true)} taken for {html.escape(told)}{more}</b>{pictures}"

    def to_best(_=None):
        strength.value = STRENGTHS[path(encoder.value, split.value)[2]]

    matrix.on_choose = browse
    to_best()
    _on_change(update, [encoder, split, strength], error)
    for widget in (encoder, split):
        widget.observe(to_best, "value")
    top = _beside([encoder, split, strength], chart)
    return ipywidgets.VBox([top, error, line, matrix.widget, grid])


class Matrix:
    """A confusion matrix of buttons: a click chooses a cell.

    Parameters
    ----------
    labels : list of str, length C
    """

    def __init__(self, labels):
        self.labels, self.on_choose = labels, None
        self.shown, self.chosen = None, (0, 0)
        self.widget = ipywidgets.GridBox()
        self.plain, self.framed = (
            ipywidgets.Layout(width="100%", height="26px", margin="0", padding="0", border=border)
            for border in ("1px solid transparent", f"3px solid {_hex(WRONG)}")
        )
        shades = [tuple(1 - level * (1 - np.array(COLOURS[0]))) for level in np.linspace(0, 1, 9)]
        self.styles = [
            ipywidgets.ButtonStyle(button_color=_hex(shade), text_color=ink)
            for shade, ink in zip(shades, ["black"] * 5 + ["white"] * 4, strict=True)
        ]

    def fill(self, y, predicted, shown):
        """Show the confusions of these classes; only what differs is sent to the browser."""
        self.y, self.predicted = y, predicted
        if self.shown is None or not np.array_equal(self.shown, shown):
            self.shown = shown
            self._build()
            errors = cell_counts(y, predicted, shown) * (1 - np.eye(len(shown), len(shown) + 1))
            self._choose(*np.unravel_index(errors.argmax(), errors.shape))
        counts = cell_counts(y, predicted, shown)
        shares = counts / counts.sum(1, keepdims=True).clip(1)
        for place, button in self.buttons.items():
            button.description = str(counts[place] or "")
            button.style = self.styles[int(np.ceil(8 * shares[place]))]

    def chosen_pictures(self):
        """The true class and the predicted one of the chosen cell, and its pictures' positions."""
        row, column = self.chosen
        places = cell(self.y, self.predicted, self.shown, row, column)
        return self._name(row), self._name(column), places

    def _name(self, place):
        return self.labels[self.shown[place]] if place < len(self.shown) else "others"

    def _build(self):
        size = len(self.shown)
        self.buttons = {
            (row, column): ipywidgets.Button(
                tooltip=f"{self._name(row)} taken for {self._name(column)}",
                layout=self.plain,
                style=self.styles[0],
            )
            for row in range(size)
            for column in range(size + 1)
        }
        for place, button in self.buttons.items():
            button.on_click(lambda _, place=place: self._click(place))
        upright = "writing-mode:vertical-rl;transform:rotate(180deg);line-height:1.2;font-size:12px"
        heads = [
            ipywidgets.HTML(f'<div style="{upright}">{html.escape(self._name(column))}</div>')
            for column in range(size + 1)
        ]
        children = [ipywidgets.HTML("<b>true ↓ &nbsp; predicted →</b>"), *heads]
        for row in range(size):
            name = f'<div style="text-align:right">{html.escape(self._name(row))}</div>'
            children.append(ipywidgets.HTML(name))
            children += [self.buttons[row, column] for column in range(size + 1)]
        self.widget.layout.grid_template_columns = f"200px repeat({size + 1}, 40px)"
        self.widget.layout.align_items = "flex-end"
        self.widget.children = children

    def _choose(self, row, column):
        if self.chosen in self.buttons:
            self.buttons[self.chosen].layout = self.plain
        self.chosen = int(row), int(column)
        self.buttons[self.chosen].layout = self.framed

    def _click(self, place):
        self._choose(*place)
        self.on_choose()


def alpha_widget(alphas, accuracies, name="alpha"):
    """Notebook 5: how much of the fine-tuned weights, how much of the zero-shot ones.

    Parameters
    ----------
    alphas : sequence of float, length A
        Rising; 0 is zero-shot, 1 is fine-tuned.
    accuracies : dict of str to float array, shape (A,)
        For each test what the model with these weights reaches.
    name : str
        Of the slider.

    Returns
    -------
    ipywidgets.Widget
    """
    alphas = [float(alpha) for alpha in alphas]
    options = [(f"{alpha:.2f}", alpha) for alpha in alphas]
    known = {0: "zero-shot", 1: "fine-tuned"}
    ends = [known.get(alpha, f"{name} {alpha:g}") for alpha in (alphas[0], alphas[-1])]
    slider = _control(ipywidgets.SelectionSlider, name, alphas[len(alphas) // 2], options=options)
    line, chart, error = (ipywidgets.HTML() for _ in range(3))

    def update():
        place = alphas.index(slider.value)
        ticks = {f"{alpha:.2g}": alpha for alpha in (alphas[0], alphas[-1])}
        chart.value = line_chart(alphas, accuracies, place, ticks, width=800)
        line.value = "<br>".join(
            f"{html.escape(test)}: <b>accuracy {values[place]:.1%}</b>, "
            f"{points(values[place] - values[0])} against {ends[0]}, "
            f"{points(values[place] - values[-1])} against {ends[1]}"
            for test, values in accuracies.items()
        )

    _on_change(update, [slider], error)
    return ipywidgets.VBox([slider, error, line, chart])


def before_after_widget(versions, left, right):
    """Notebook 7: a line to draw over two versions of a picture, and a zoom.

    Parameters
    ----------
    versions : dict of str to dict of str to uint8 array, shape (H, W, 3)
        For each picture's name its versions, such as "bicubic" and "srgan".
    left, right : str
        The versions to start with.

    Returns
    -------
    ipywidgets.Widget
    """
    kinds = list(next(iter(versions.values())))
    picture = _choice("picture", versions)
    before, after = _choice("left", kinds, left), _choice("right", kinds, right)
    sliders = [
        _control(ipywidgets.FloatSlider, label, start, min=low, max=high, step=0.01)
        for label, start, low, high in [
            ("line", 0.5, 0, 1), ("zoom", 1.0, 1, 8), ("left to right", 0.5, 0, 1),
            ("top to bottom", 0.5, 0, 1),
        ]
    ]  # fmt: skip
    canvas, error = ipywidgets.Image(format="png"), ipywidgets.HTML()

    def update():
        line, zoom, *centre = [slider.value for slider in sliders]
        two = [versions[picture.value][kind.value] for kind in (before, after)]
        canvas.value = png(before_after(*two, line, zoom, centre))

    controls = [picture, before, after, *sliders]
    _on_change(update, controls, error)
    return _beside([*controls, error], canvas)
