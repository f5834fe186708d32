"""The command ``cliphelpers``: run, report, predict, export, compare, check, extract, download."""

import io
import os
import sys

import click


def main(arguments=None):
    """The command's entry point.

    Parameters
    ----------
    arguments : list of str, optional
        By default those that were typed.

    Returns
    -------
    int
        The exit status: 1 after an error, which stderr tells, and where ``check`` found problems; 2
        if the arguments are no such ones.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be text
    try:
        return _commands.main(arguments, "cliphelpers", standalone_mode=False) or 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (ValueError, OSError, RuntimeError) as error:
        click.echo(f"cliphelpers: {str(error) or 'stopped'}", err=True)
        return 1


# What each does is imported when it is asked for, so that help comes at once.


@click.group()
def _commands():
    """Are CLIP's image features better than ImageNet's for my pictures? Seven notebooks."""


@_commands.command("run")
@click.argument("notebooks", nargs=-1)
@click.option("--data", metavar="DIR", help="Folder of pictures, or CSV manifest.")
@click.option(
    "-p", "parameters", nargs=2, multiple=True, metavar="NAME VALUE",
    help="Set a notebook parameter; VALUE is a Python literal, or a text as it is.",
)  # fmt: skip
@click.option("--output", default="output", show_default=True, metavar="DIR")
def _run(notebooks, data, parameters, output):
    """Execute notebooks: pictures in, tables and figures out.

    NOTEBOOKS are such as 01_zero_shot or 01; all if there are none.
    """
    from cliphelpers.command.run import parse_value, run

    given = {name: parse_value(value) for name, value in parameters}
    run(notebooks, given | ({} if data is None else {"data": data}), output)
    from cliphelpers.command.report import report  # not before: torch would take memory meanwhile

    page = report(os.path.realpath(output))  # as run resolves it, also "new/../other"
    click.echo(f"The answer, with tables, figures and executed notebooks, is {page}")


@_commands.command("report")
@click.argument("output")
@click.option("--pdf", is_flag=True, help="Set it as index.pdf, too.")
def _report(output, pdf):
    """Say on one page what a run recommends, and why. OUTPUT is what --output of the run was."""
    from cliphelpers.command.report import report

    print(report(output, pdf))


_file = click.Path(dir_okay=False, writable=True)
_encoder = click.option(
    "--encoder", metavar="TEXT",
    help="Where the encoder's weights are now. A module: text must be given: it executes the file.",
)  # fmt: skip


@_commands.command("predict")
@click.argument("folder")
@click.argument("pictures", nargs=-1, required=True)
@click.option(
    "--output", default="-", metavar="FILE", type=_file,
    help="A CSV file; by default standard output.",
)  # fmt: skip
@_encoder
def _predict(folder, pictures, output, encoder):
    """Tell pictures by a classifier that a run has saved.

    FOLDER is such as output/classifiers/STUDY/NAME; PICTURES are files, folders and CSV files.
    """
    from cliphelpers.cache import write_atomically
    from cliphelpers.command.predict import predict

    rows = predict(folder, pictures, encoder)
    rows = (some.encode("utf-8", "backslashreplace") for some in rows)  # of names that are no text
    if output == "-":
        for some in rows:
            click.echo(some, nl=False)
    else:  # all of it or nothing, so that no half replaces an earlier one
        write_atomically(output, b"".join(rows))


@_commands.command("export")
@click.argument("folder")
@click.option("--onnx", required=True, metavar="FILE", type=_file, help="The file to write.")
@_encoder
def _export(folder, onnx, encoder):
    """Write a classifier that a run has saved, its encoder and all, as one ONNX file."""
    from cliphelpers.command.export import export

    export(folder, onnx, encoder)
    click.echo(f"{onnx} takes what the encoder's preprocessing makes of pictures")


@_commands.command("compare")
@click.argument("runs", nargs=-1, required=True)
@click.option("--html", metavar="FILE", type=_file, help="Write them as a page, too.")
def _compare(runs, html):
    """Show in what several runs differ, and their tables side by side.

    RUNS are what --output of each was.
    """
    from cliphelpers.cache import write_atomically
    from cliphelpers.command.compare import compare, describe, to_html, what_differs

    table, captions, differing = compare(runs), [describe(one) for one in runs], what_differs(runs)
    if html:
        write_atomically(html, to_html(table, captions, differing).encode())
    print(*captions, "In what they differ:", differing.to_string(), "What came out:", sep="\n")
    print(table.to_string(float_format="{:.3f}".format, na_rep="–"))


@_commands.command("check")
@click.argument("data")
def _check(data):
    """Show what is understood of pictures, and what is wrong with them, before anything runs.

    DATA is a folder, or a CSV manifest.
    """
    from cliphelpers.command.check import check

    return 1 if check(data) else 0


@_commands.command("extract")
@click.option("--data", required=True, metavar="PLACE", help="Folder, manifest or shards.")
@click.option("--encoder", required=True, metavar="TEXT", help="Such as clip:ViT-B/32.")
@click.option("--output", required=True, metavar="PLACE", help="Where the features go.")
@click.option("--address", metavar="ray://…", help="Of a Ray cluster; by default this machine.")
def _extract(data, encoder, output, address):
    """Compute features on many machines, once for all that will use them.

    A PLACE is a local path, or an address such as s3://bucket/folder. Notebooks take the features
    if the environment variable CLIPHELPERS_FEATURES is what --output was.
    """
    from cliphelpers.cluster import extract

    count, errors = extract(data, encoder, output, address)
    click.echo(f"{count} pictures have got features; {len(errors)} have none")
    for error in errors[:5]:
        click.echo(error, err=True)
    return 1 if errors else 0


@_commands.command("download")
@click.argument("dataset", type=click.Choice(["fruits-360"]))
@click.option("--to", default="fruits-360", show_default=True, metavar="DIR")
def _download(dataset, to):
    """Fetch a data set."""
    from cliphelpers.download import download_fruits_360

    print(f"The pictures are in {download_fruits_360(to)}")
