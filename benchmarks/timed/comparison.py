"""What a comparison is, and how two results of it agree."""

import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

LIMIT = "sgemm"  # the peer that is the machine itself


class Disagreement(ValueError):
    """The two sides computed different things: their times say nothing."""


@dataclass(frozen=True)
class Side:
    """One of those that are compared.

    Attributes
    ----------
    call : str
        "module:function" below ``timed``. The function gets :attr:`Prepared.setup` and returns
        another, which gets a job and is timed.
    python : str
        Its interpreter.
    needs : tuple of str
        Modules without which it is left out.
    """

    call: str
    python: str = sys.executable
    needs: tuple = ()


@dataclass(frozen=True)
class Contrast:
    """Two sides whose ratio is a row of bench.csv.

    Attributes
    ----------
    work : str
        What both do; with ``peer`` it names the row.
    ours, peer : str
        Names of sides. The peer LIMIT is the machine's, which is measured in each pair.
    bar : float or None
        What the median of the ratios must reach.
    check : function, optional
        Gets both results; raises :class:`Disagreement`.
    """

    work: str
    ours: str
    peer: str
    bar: float | None
    check: Callable = lambda ours, peer: None


@dataclass
class Prepared:
    """A comparison's inputs.

    Attributes
    ----------
    setup : dict
        Arguments of each side's function, JSON.
    job : function
        From the number of a pair and an empty folder to the arguments of all sides' runs. Pair -1
        is a small one, which is run before all others and not counted; None if there is none.
    amount : float
        How much work a run does, in the comparison's unit.
    flops : float, optional
        Floating-point operations of one picture, if the share of the limit is to be told.
    """

    setup: dict
    job: Callable
    amount: float = 1
    flops: float | None = None


@dataclass(frozen=True)
class Comparison:
    """Several sides that do the same work in turn.

    Attributes
    ----------
    name : str
        By which bench.py is asked for it.
    unit : str
        "s" for seconds a run, "GiB" for what a run itself returns, else an amount a second.
    sides : dict of str to Side
        Run in this order, and in the next pair in the opposite one unless ``in_order``.
    prepare : function
        From a folder to work in and whether all is to be small, to :class:`Prepared`.
    pairs : int
        The least number of pairs that decides.
    in_order : bool
        Whether a side needs what the one before it has left.
    """

    name: str
    unit: str
    sides: dict
    contrasts: list
    prepare: Callable
    pairs: int = 5
    in_order: bool = False


def agree(ours, peer, tolerance, what):
    """No number of one array may differ from that of the other by more than the tolerance."""
    if np.shape(ours) != np.shape(peer):
        raise Disagreement(f"{what}: shapes {np.shape(ours)} and {np.shape(peer)}")
    far = np.abs(np.asarray(ours, float) - np.asarray(peer, float)).max()
    if not far <= tolerance:  # not a number is not equal
        raise Disagreement(f"{what} differ by {far:.2g}, more than {tolerance:g}")
