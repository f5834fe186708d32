"""What the notebooks' parameters can be, checked before anything is computed."""

import math
import os
import warnings
from pathlib import Path

import pandas as pd

from cliphelpers.encoders.encoder import PRECISIONS, EncoderError, tokenize
from cliphelpers.encoders.load import LOADERS, is_clip, tokenizer_of
from cliphelpers.finetuning.augmentation import AUGMENTATIONS
from cliphelpers.index import classes, index_images, prompt_names
from cliphelpers.progress import say_warnings
from cliphelpers.splits import SPLITS
from cliphelpers.upsampling import INTERPOLATIONS


class ParameterError(ValueError):
    """A value that a parameter cannot have. The message names the parameter and what it can be."""


def _path(value):
    return isinstance(value, (str, os.PathLike)) and os.path.exists(value)


def _file(value):
    return isinstance(value, (str, os.PathLike)) and os.path.isfile(value)


def _whole(value):
    return type(value) is int and value >= 0


def _number(value):
    return type(value) in (int, float) and 0 <= value < math.inf


def _encoder(value):
    return isinstance(value, str) and value.partition(":")[0] in LOADERS


def _template(value):
    return isinstance(value, str) and value.count("{}") == 1


def _enlarges(value):
    return value in INTERPOLATIONS or isinstance(value, str) and value.partition("@")[0] == "srgan"


def _one_of(names):
    return lambda value: value in names, f"one of {', '.join(names)}"


_COUNT = (lambda value: _whole(value) and value > 0, "a whole number from 1 on")
_NUMBER = (_number, "a number from 0 on")
_POSITIVE = (lambda value: _number(value) and value > 0, "a number above 0")
_LISTS = {  # what each item of a list can be
    "encoders": (_encoder, f"a text that begins with {', '.join(LOADERS)} and a colon"),
    "splits": _one_of(list(SPLITS)),
    "seeds": (_whole, "a whole number from 0 on"),
    **dict.fromkeys(["shots", "sides"], _COUNT),
    **dict.fromkeys(["ridge_strengths", "alphas", "betas"], _NUMBER),
    "strengths": _POSITIVE,
    "wise_alphas": (lambda value: _number(value) and value <= 1, "a number from 0 to 1"),
    "interpolations": (_enlarges, f"one of {', '.join(INTERPOLATIONS)}, srgan or srgan@FILE"),
    "templates": (_template, "a text with one {} where the class name goes"),
}
_RULES = _LISTS | {
    "data": (_path, "a folder or CSV file that exists"),
    "names": (lambda value: value is None or _file(value), "a CSV file that exists"),
    "output": (lambda value: isinstance(value, (str, os.PathLike)), "the path of a folder"),
    **dict.fromkeys(["train_shots", "tested", "folds", "epochs"], _COUNT),
    **dict.fromkeys(["train_frames", "test_frames", "compared"], _COUNT),
    "batch": (lambda value: _whole(value) and value > 1, "a whole number from 2 on"),
    "quarter": (lambda value: _whole(value) and value > 2, "a whole number from 3 on, for SSIM"),
    "rate": _POSITIVE,
    "augmentation": _one_of(["auto", *AUGMENTATIONS]),
    "precision": _one_of(["auto", *PRECISIONS]),
}


def begin(parameters):
    """The first step of a notebook: check its parameters, set how it warns, tables and figures.

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
    say_warnings()
    pd.set_option("display.html.use_mathjax", False, "styler.html.mathjax", False)  # $ is a dollar
    labels = _named(parameters["data"])[0] if "data" in parameters else []
    set_style("".join(map(str, [*labels, parameters.get("encoders"), parameters.get("templates")])))


def check_parameters(parameters):
    """Refuse what cannot be computed, before anything is.

    Parameters
    ----------
    parameters : dict of str to value
        Those of a notebook; names without a rule are passed over.

    Raises
    ------
    ParameterError
        A value is impossible, a list is empty or has an impossible item or one twice, the output
        lies among the pictures, a training would get fp16, or a prompt has more tokens than an
        encoder can read, such as 77.
    """
    for name in [name for name in _RULES if name in parameters]:
        value, (allowed, words) = parameters[name], _RULES[name]
        must = f"The parameter {name} must be {'a list, each ' if name in _LISTS else ''}{words}"
        if name in _LISTS and (not isinstance(value, list) or not value):
            raise ParameterError(f"{must}, not {value!r}")
        for item in value if name in _LISTS else [value]:
            if not allowed(item):
                raise ParameterError(f"{must}: {item!r} is none")
            if name in _LISTS and value.count(item) > 1:
                raise ParameterError(f"The parameter {name} has {item!r} twice: give it once")
    data, output = (Path(parameters.get(name, "")).resolve() for name in ("data", "output"))
    if {"data", "output"} <= set(parameters) and data.is_dir() and output.is_relative_to(data):
        words = f"The output {output} lies in {data}, as if it were pictures"
        raise ParameterError(f"{words}: choose another output")
    if "epochs" in parameters and parameters.get("precision") == "fp16":  # notebooks 5 and 6
        why = "in which small gradients vanish: use auto, bf16 or fp32"
        raise ParameterError(f"The parameter precision must not be fp16, {why}")
    if "templates" in parameters:
        _check_prompts(parameters)


def _check_prompts(parameters):
    words = _named(parameters["data"], parameters["names"])[1]
    prompts = [one.replace("{}", word) for one in parameters["templates"] for word in words]
    for spec in filter(is_clip, parameters["encoders"]):
        try:
            tokenize(tokenizer_of(spec), prompts)
        except EncoderError as error:
            fault = f"The parameter templates does not go with {spec}. {error}"
            raise ParameterError(fault) from None


def _named(data, names=None):
    """The class names of a data set, and their words in prompts: two lists of str."""
    with warnings.catch_warnings():  # the notebook itself will give them
        warnings.simplefilter("ignore")
        labels = classes(index_images(data))
        return labels, prompt_names(labels, names)
