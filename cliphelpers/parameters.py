"""What the notebooks' parameters can be, checked before anything is computed."""

import math
import warnings

from cliphelpers.encoders.encoder import EncoderError, tokenize
from cliphelpers.encoders.load import LOADERS
from cliphelpers.index import classes, index_images, prompt_names
from cliphelpers.splits import SPLITS


class ParameterError(ValueError):
    """A value that a parameter cannot have. The message names the parameter and what it can be."""


def _count(value):
    return type(value) is int and value >= 1


def _number(value):
    return type(value) in (int, float) and 0 <= value < math.inf


def _encoder(value):
    return isinstance(value, str) and value.partition(":")[0] in LOADERS


def _template(value):
    return isinstance(value, str) and value.count("{}") == 1


_LISTS = {  # what the items of each list can be
    "encoders": (_encoder, f"texts that begin with {', '.join(LOADERS)} and a colon"),
    "splits": (lambda value: value in list(SPLITS), f"some of {', '.join(SPLITS)}"),
    "seeds": (lambda value: type(value) is int and value >= 0, "whole numbers from 0 on"),
    **dict.fromkeys(["shots", "sides"], (_count, "whole numbers from 1 on")),
    **dict.fromkeys(["strengths", "alphas", "betas"], (_number, "numbers from 0 on")),
    "templates": (_template, "texts, each with one {} where the class name goes"),
    "interpolations": (lambda value: isinstance(value, str), "names of ways to enlarge pictures"),
    "wise_alphas": (lambda value: _number(value) and value <= 1, "numbers from 0 to 1"),
}
_COUNTS = ["train_shots", "tested", "folds", "epochs"]
_COUNTS += ["train_frames", "test_frames", "quarter", "compared"]  # whole numbers from 1 on


def begin(parameters):
    """The first step of a notebook: check its parameters, set the style of its figures.

    Parameters
    ----------
    parameters : dict of str to value
        The notebook's ``globals()``.

    Raises
    ------
    ParameterError
        As :func:`check_parameters`.
    """
    from cliphelpers.plots import set_style  # here, since the command draws nothing

    check_parameters(parameters)
    set_style()


def check_parameters(parameters):
    """Refuse what cannot be computed, before anything is.

    Parameters
    ----------
    parameters : dict of str to value
        Those of a notebook; names without a rule are passed over.

    Raises
    ------
    ParameterError
        A list is empty or has an impossible item, a count is none, or a prompt has more than 77
        tokens.
    """
    for name in [name for name in _LISTS if name in parameters]:
        values, (allowed, words) = parameters[name], _LISTS[name]
        must = f"The parameter {name} must be a list of {words}"
        if not isinstance(values, list) or not values:
            raise ParameterError(f"{must}, not {values!r}")
        if wrong := [value for value in values if not allowed(value)]:
            raise ParameterError(f"{must}: {wrong[0]!r} is none")
    for name in [name for name in _COUNTS if name in parameters]:
        if not _count(parameters[name]):
            raise ParameterError(
                f"The parameter {name} must be a whole number from 1 on, not {parameters[name]!r}"
            )
    if "templates" in parameters:
        _check_prompts(**{name: parameters[name] for name in ("data", "names", "templates")})


def _check_prompts(data, names, templates):
    with warnings.catch_warnings():  # the notebook itself will give them
        warnings.simplefilter("ignore")
        words = prompt_names(classes(index_images(data)), names)
    try:
        tokenize(template.replace("{}", word) for template in templates for word in words)
    except EncoderError as error:
        raise ParameterError(f"The parameter templates gives too long a prompt. {error}") from None
