"""The command ``cliphelpers``: run, compare, check, download."""

import argparse
import sys
from pathlib import Path


def main(arguments=None):
    """The command's entry point.

    Parameters
    ----------
    arguments : list of str, optional
        By default those that were typed.

    Returns
    -------
    int
        The exit status: 1 after an error, which stderr tells, and where ``check`` found problems.
    """
    options = _parser().parse_args(arguments)
    try:
        return options.do(options) or 0
    except (ValueError, OSError, RuntimeError) as error:
        print(f"cliphelpers: {error}", file=sys.stderr)
        return 1


def _parser():
    parser = argparse.ArgumentParser(prog="cliphelpers", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="execute notebooks: pictures in, tables and figures out")
    run.add_argument("notebook", nargs="*", help="such as 01_zero_shot or 01 (default: all)")
    run.add_argument("--data", metavar="DIR", help="folder of pictures, or CSV manifest")
    run.add_argument(
        "-p", dest="parameters", nargs=2, action="append", metavar=("NAME", "VALUE"), default=[],
        help="set a notebook parameter; VALUE is a Python literal, or a text as it is",
    )  # fmt: skip
    run.add_argument("--output", default="output", metavar="DIR", help="default: %(default)s")
    run.set_defaults(do=_run)

    compare = commands.add_parser("compare", help="show the tables of several runs side by side")
    compare.add_argument("folders", nargs="+", metavar="RUN", help="--output of a run")
    compare.add_argument("--html", type=Path, metavar="FILE", help="write them as a page, too")
    compare.set_defaults(do=_compare)

    check = commands.add_parser("check", help="list unreadable and odd pictures of a folder")
    check.add_argument("folder", type=Path)
    check.set_defaults(do=_check)

    download = commands.add_parser("download", help="fetch a data set")
    download.add_argument("dataset", choices=["fruits-360"])
    download.add_argument("--to", type=Path, default=Path("fruits-360"), metavar="DIR")
    download.set_defaults(do=_download)
    return parser


# What each does is imported when it is asked for, so that help comes at once.


def _run(options):
    from cliphelpers.command.run import parse_value, run

    parameters = {name: parse_value(value) for name, value in options.parameters}
    if options.data:
        parameters["data"] = options.data
    run(options.notebook, parameters, options.output)
    print(f"Tables, figures and executed notebooks are in {options.output}")


def _compare(options):
    from cliphelpers.command.compare import compare, describe, to_html

    table, captions = compare(options.folders), [describe(folder) for folder in options.folders]
    if options.html:
        options.html.write_text(to_html(table, captions), encoding="utf-8")
    print(*captions, table.to_string(float_format="{:.3f}".format, na_rep="–"), sep="\n")


def _check(options):
    from cliphelpers.images import check_images, find_images

    paths = find_images(options.folder)
    problems = check_images(paths)
    for path, problem in zip(problems.path, problems.problem, strict=True):
        print(f"{path}: {problem}")
    print(f"{len(paths)} pictures, {len(problems)} with problems")
    return 1 if len(problems) else 0


def _download(options):
    from cliphelpers.download import download_fruits_360

    print(f"The pictures are in {download_fruits_360(options.to)}")
