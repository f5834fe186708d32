"""Weights between two models."""

import copy
from dataclasses import replace


def interpolate(start, end, alpha):
    """Weights between two models of one architecture, encoder and head alike (WiSE-FT).

    ``(1 - alpha) start + alpha end`` for every weight (Wortsman et al., Robust fine-tuning of
    zero-shot models, 2022, section 3).

    Parameters
    ----------
    start, end : tuple of (Encoder, head)
        Zero-shot and fine-tuned; a head is a tuple (W, b), float32 (D, C) and (C,).
    alpha : float
        0 gives the start, 1 the end.

    Returns
    -------
    tuple of (Encoder, head)
    """
    (encoder, head), (tuned, tuned_head) = start, end
    mixed = copy.deepcopy((encoder.module, encoder.projection))
    for module, other in zip(mixed, (tuned.module, tuned.projection), strict=True):
        if module is not None:
            other = other.state_dict()
            for name, value in module.state_dict().items():
                if value.is_floating_point():
                    value.copy_((1 - alpha) * value + alpha * other[name])
    pairs = zip(head, tuned_head, strict=True)
    head = tuple((1 - alpha) * first + alpha * second for first, second in pairs)
    return replace(encoder, module=mixed[0], projection=mixed[1]), head
