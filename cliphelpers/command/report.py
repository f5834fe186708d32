"""The answer of a run on one page: what to take, what it costs, and what it rests on."""

import base64
import json
import os
import shlex
import timeit
import warnings
from pathlib import Path

import jinja2
import numpy as np
import pandas as pd

from cliphelpers import plots
from cliphelpers.answers import MARGIN, comparable, judge, read_answers, recommend
from cliphelpers.cache import write_atomically, write_table
from cliphelpers.command.check import check
from cliphelpers.command.compare import RunError, read_record, table_files
from cliphelpers.command.run import NOTEBOOKS, find_notebooks, read_defaults
from cliphelpers.encoders.encoder import PRECISIONS, encode_batch
from cliphelpers.encoders.load import absolute, load_encoder
from cliphelpers.srgan import upscale
from cliphelpers.study import of_seeds_the_mean, read_results
from cliphelpers.upsampling import upsampled

COSTS = ["milliseconds", "parameters", "megabytes", "numbers"]
_BATCH, _ROUNDS = 16, 3  # encoders are timed in turn, since a machine has slow moments


def report(output, pdf=False):
    """Write ``index.html`` of a run, one file that needs no internet, and what it links to.

    Beside it are then ``notebooks/*.html``, ``results/costs.csv`` and ``results/predictions.csv``:
    for each test picture its true class, and what the recommended way (else the best seen) and
    zero-shot say, with calibrated probabilities of ways without shots; of several seeds the first.

    Parameters
    ----------
    output : str or Path
        The ``--output`` of a ``cliphelpers run``.
    pdf : bool
        Whether to set the same as ``index.pdf``, too, by Typst.

    Returns
    -------
    Path
        Of ``index.html``, or of ``index.pdf``.

    Raises
    ------
    RunError
        It is no run, or has no tables yet.
    """
    output = Path(output)
    record, tables = read_record(output), table_files(output)
    if not tables:
        raise RunError(f"{output} has no tables of results yet: run a notebook first")
    rows = pd.concat(map(read_results, sorted(tables, key=os.path.getmtime)))
    rows = rows[rows.dataset == rows.dataset.iloc[-1]]  # what was run last
    rows["encoder"] = list(map(_seen_by, rows.encoder, rows.features))
    ways, index = read_answers(output, rows.dataset.iloc[-1], [file.stem for file in tables])
    for way in ways:
        way.encoder = _seen_by(way.encoder, way.features)
    split, costs = judge({way.split for way in ways if way.spec}), _costs(ways)
    write_table(output / "results" / "costs.csv", costs, float_format="%.3f")
    own = comparable(ways, split)
    for way in own:
        way.cost = costs.set_index("encoder").milliseconds[way.encoder]
    found = recommend(own) if own else None
    if found:
        write_table(output / "results" / "predictions.csv", _predictions(found, own, index))
    names = [path.stem for path in find_notebooks()]
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), trim_blocks=True,
        autoescape=jinja2.select_autoescape(["html"]),
    )  # fmt: skip
    templates.filters["uri"] = _uri
    words = templates.get_template("words.txt").module
    margin = f"{100 * MARGIN:.0f} points"
    page = {
        "answer": words.answer(found, own, split, margin),
        "asked": words.asked(own, _left_out(ways, own, split), names, record["notebooks"]),
        "said": words.leaks(_pairs(ways, split), split) + words.changes(_changes(rows)),
        "made": words.made(record),
        "title": rows.dataset.iloc[0],
        "margin": margin,
        "table": _table(rows, costs),
        "picture": _figure(own, found, output) if found else None,
        "troubles": _troubles(record),
        "files": [path.resolve().as_posix() for path in sorted(output.glob("pics/*.jpg"))],
        "notebooks": _notebooks(output),
        "command": _command(record["notebooks"]),
    }
    html = templates.get_template("index.html").render(page)
    write_atomically(output / "index.html", html.encode())
    return _pdf(page, output) if pdf else output / "index.html"


def _pdf(page, output):
    import typst  # here, since few ask for it

    source, inputs = Path(__file__).with_name("index.typ"), {"page": json.dumps(page)}
    pdf = typst.compile(source, root="/", sys_inputs=inputs)
    write_atomically(output / "index.pdf", pdf)
    return output / "index.pdf"


def _pairs(ways, split):
    """Ridge at random and on the split that decides, the most flattered first: pairs of ways."""
    own = [way for way in ways if way.method == "ridge" and not way.shots and way.spec]
    at = {(way.split, way.encoder): way for way in own}
    both = [name for where, name in at if where == "random" and (split, name) in at]
    pairs = [(at["random", name], at[split, name]) for name in both if split != "random"]
    return sorted(pairs, key=lambda pair: pair[1].right.mean() - pair[0].right.mean())


def _left_out(ways, own, split):
    """Ways of the split that decides which were asked fewer pictures than those of the choice."""
    return [way for way in ways if way.split == split and way.spec and way not in own]


def _changes(rows):
    """How often which verdict is given of what a notebook changes: Series by its number."""
    other = ("fine-tuned ML", "probe, augmented")  # encoders; what augmentation alone changes
    rows = rows[(rows.metric == "top-1 difference") & ~rows.method.str.endswith(other)]
    rows = rows[~rows.experiment.str.startswith("07") | rows.features.str.contains("srgan")]
    return rows.groupby(rows.experiment.str[:2]).verdict.value_counts()


# ------------------------------------------------------------------------------- tables, figures


def _costs(ways):
    """What each encoder costs on this device: a row each."""
    specs = {way.encoder: (way.spec, way.features) for way in ways if way.spec}
    rounds = [
        cost_of(*spec) | {"encoder": name} for _ in range(_ROUNDS) for name, spec in specs.items()
    ]
    costs = pd.DataFrame(rounds, columns=["encoder", *COSTS])
    return costs.groupby("encoder", sort=False, as_index=False).min()


def _seen_by(encoder, features):
    """An encoder's name, with the way to enlarge its pictures where that is not the usual one."""
    way = str(features).split(", ")[-1]
    return f"{encoder}, {way}" if way.startswith(("bilinear", "lanczos", "srgan")) else encoder


def cost_of(spec, features="features"):
    """Milliseconds a picture (batches of 16, the network alone), millions of parameters, megabytes
    of weights, and numbers a picture, of the encoder that a text names.

    What ``features`` are called in results says in what precision they were computed, and whether
    SRGAN enlarged the pictures: its network counts, too, with pictures of 100x100.
    """
    words = features.split(", ")
    precision = max(set(words) & set(PRECISIONS), default="fp32")
    encoder = load_encoder(absolute(spec, NOTEBOOKS), precision)
    weights = [*encoder.module.parameters(), *encoder.module.buffers()]
    pictures = np.zeros((_BATCH, *[encoder.preprocess.size] * 2, 3), np.uint8)
    size = encode_batch(encoder, pictures).shape[1]
    seconds = min(timeit.repeat(lambda: encode_batch(encoder, pictures), number=1, repeat=5))
    seconds /= _BATCH
    if words[-1].startswith("srgan"):
        generator = upsampled(encoder.preprocess, words[-1]).generator
        small = np.zeros((100, 100, 3), np.uint8)
        seconds += min(timeit.repeat(lambda: upscale(generator, small), number=1, repeat=2))
    parameters = sum(weight.numel() for weight in encoder.module.parameters()) / 1e6
    megabytes = sum(weight.nbytes for weight in weights) / 1e6
    return dict(zip(COSTS, (1000 * seconds, parameters, megabytes, size), strict=True))


def _table(rows, costs):
    """Accuracies by split, a row for each encoder and method: columns, and rows of texts."""
    rows = rows[(rows.metric == "top-1") & ~rows.method.str.startswith("WiSE-FT")]
    rows = of_seeds_the_mean(rows)
    tuned = rows.experiment.str[:2].isin(["05", "06"])
    rows = rows[(rows.shots.isna() | tuned) & ~rows.experiment.str.startswith("07")]
    few = [f"{k:.0f} a class" if k > 0 else "all" for k in rows.shots]
    asked = np.where(rows.chosen.isna(), "none", "its prompt")
    rows = rows.assign(learnt=np.where(rows.method == "zero-shot", asked, few))
    shares = 100 * rows[["value", "low", "high", "balanced"]]
    rows["told"] = ["{:.1f} ({:.1f} to {:.1f}) {:.1f}".format(*row) for row in shares.values]
    key = ["encoder", "method", "learnt"]
    rows = rows.sort_values(["n", "experiment"], kind="stable")  # as of answers the last stands
    table = rows.pivot_table("told", key, "split", aggfunc="last")
    table = table.reset_index().merge(costs, "left", "encoder")
    table = table.sort_values(["milliseconds", "encoder", "method"], kind="stable")
    for name, digits in zip(COSTS, (1, 1, 0, 0), strict=True):
        table[name] = [f"{value:.{digits}f}" if value >= 0 else "–" for value in table[name]]
    return [list(table), *table.fillna("–").to_numpy().tolist()]


def _figure(own, found, output):
    plots.set_style()
    figure = plots.costs([way for way in own if not way.shots] or own, found.taken)
    plots.save_fig(figure, output, "accuracy-and-cost")
    plots.plt.close(figure)
    return (output / "pics" / "accuracy-and-cost.jpg").resolve().as_posix()


def _uri(path):
    return "data:image/jpeg;base64," + base64.b64encode(Path(path).read_bytes()).decode()


def _predictions(found, own, index):
    """A row for each test picture of the deciding split: DataFrame."""
    way = found.taken or found.best
    table = pd.DataFrame({"path": index.path[way.rows], "label": index.label[way.rows]})
    names = np.array(sorted(set(index.label)))
    zero = [one for one in own if one.method == "zero-shot"]
    best = max(zero, key=lambda one: one.right.mean(), default=None)
    for word, one in (("recommended" if found.taken else "best_seen", way), ("zero_shot", best)):
        if one is not None:
            table[word] = names[one.predicted[0]]
            table[f"{word}_probability"] = one.probability
    return table


def _notebooks(output):
    from nbconvert import HTMLExporter  # here, since it takes a second to import

    paths = sorted(output.glob("notebooks/*.ipynb"))
    for path in paths:
        html, _ = HTMLExporter().from_filename(str(path))
        write_atomically(path.with_suffix(".html"), html.encode())
    return [path.stem for path in paths]


# ------------------------------------------------------------------------------- the record


def _troubles(record):
    """What ``check`` prints of the pictures, and the warnings of the run: a text."""
    runs = [*record["notebooks"].values()]
    said = [words for one in runs for words in one.get("warnings", [])]
    pictures = runs[-1].get("pictures")
    if not pictures or not os.path.exists(pictures):
        gone = f"{pictures or 'What the run was on'} is not there any more"
        return "\n".join([*dict.fromkeys(said), gone])
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the notebooks have said them
        try:
            check(pictures, found.append)
        except (OSError, ValueError) as error:  # it was changed after the run
            found.append(str(error))
    text = "\n".join([*found, "", *dict.fromkeys(said)])
    return text.encode("utf-8", "backslashreplace").decode()  # names of files need not be text


def _command(notebooks):
    """What repeats a run, with the parameters that are not the notebooks' own: a line for each
    command that it takes."""
    commands = {}
    for path in [path for path in find_notebooks() if path.stem in notebooks]:
        own, given = read_defaults(path), []
        for name, value in notebooks[path.stem]["parameters"].items():
            text = value if isinstance(value, str) else repr(value)
            option = [f"--{name}"] if name in ("data", "output") else ["-p", name]
            given += [*option, text] if value != own.get(name) else []
        commands.setdefault(shlex.join(given), []).append(path.stem[:2])
    lines = [f"cliphelpers run {' '.join(some)} {given}" for given, some in commands.items()]
    return "\n".join(lines)
