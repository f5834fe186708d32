"""Notebook 5 by hand: between the zero-shot and the fine-tuned weights."""

from cliphelpers.widgets import parts


def alpha_widget(table):
    """How much of the fine-tuned weights, how much of the zero-shot ones.

    Parameters
    ----------
    table : DataFrame
        Columns encoder, split, alpha, value, low and high: what the weights at alpha, from 0
        (zero-shot) to 1 (fine-tuned), reach on the split's test pictures.

    Returns
    -------
    ipywidgets.Widget
    """

    def show(encoder, alpha):
        part, page = table[table.encoder == encoder], ""
        for split, line in part.groupby("split", sort=False):
            values = line.set_index("alpha").value.sort_index()
            ends = [
                f"{parts.points(values[alpha] - values[end])} points against {name(end)}"
                for end in values.index[[0, -1]]
            ]
            accuracy = f"<b>accuracy {values[alpha]:.1%}</b>"
            page += f"{parts.escaped(split)}: {', '.join([accuracy, *ends])}<br>"
        label = "alpha, from zero-shot (0) to fine-tuned (1)"
        return page + parts.lines(part, "alpha", "split", alpha, xlabel=label)

    def name(alpha):
        return {0: "zero-shot", 1: "fine-tuned"}.get(alpha, f"alpha {alpha:g}")

    alphas = sorted(set(table.alpha))
    options = [(f"{alpha:.2f}", alpha) for alpha in alphas]
    encoder = parts.choice("encoder", table.encoder.unique())
    slider = parts.steps("alpha", options, value=alphas[len(alphas) // 2])
    return parts.interactive(show, encoder=encoder, alpha=slider)
