"""Set report.pdf from report.typ, the tables of committed runs and the figures.

    python report/build.py

before which a run's results/*.csv and run.json have been copied to report/results/NAME. What is
not there is told as missing in the report. The same files and the same version of Typst give the
same PDF, byte for byte: no font and no date of the system is used.
"""

import json
from pathlib import Path

import typst

ROOT = Path(__file__).parents[1]


def compiler(root=ROOT):
    """A Typst compiler for the report of a checkout.

    Typst cannot ask whether a file exists, so it is told the tables, records and figures.
    """
    found = [*root.glob("report/results/*/*.csv"), *root.glob("report/results/*/*.json")]
    found += root.glob("pics/**/*.jpg")
    files = sorted(path.relative_to(root).as_posix() for path in found)
    return typst.Compiler(
        str(root / "report" / "report.typ"),
        root=str(root),
        ignore_system_fonts=True,
        sys_inputs={"files": json.dumps(files)},
    )


if __name__ == "__main__":
    compiler().compile(output=str(ROOT / "report.pdf"))
