"""Tasker's single figures, measured one after the other: ``python -m benchmarks.figures``.

They are put into a run of ``python -m benchmarks`` (the latest, unless another is named), in place of those that it
had, and are published with it; where there is none, they are kept by themselves. Ends with 1 if a program failed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.figures.programs import PROGRAMS, measure_into
from benchmarks.figures.sizes import FULL, SMALL, Sizes
from benchmarks.figures.tables import TABLES
from benchmarks.names import names_of
from benchmarks.reading import markdown
from benchmarks.servers import end_in_order

RESULTS = Path(__file__).parents[1] / "results"


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.figures",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--full", action="store_true", help="the sizes that bars speak of; else small ones, in minutes")
    parser.add_argument(
        "--only", type=names_of(list(PROGRAMS), "program"), metavar="A,B", help=f"of {', '.join(PROGRAMS)}"
    )
    parser.add_argument("--into", type=Path, metavar="RUN.json", help="the run that gets them")
    parser.add_argument("--database-url", help="a PostgreSQL on this machine; else an embedded one is started")
    for size in dataclasses.fields(Sizes):
        kind = float if size.type == "float" else int
        parser.add_argument(f"--{size.name.replace('_', '-')}", type=kind, help=size.metadata["help"])
    return parser.parse_args()


def sizes_of(given: argparse.Namespace) -> Sizes:
    """The form, and what the command line changes of it."""
    names = [size.name for size in dataclasses.fields(Sizes)]
    changed = {name: getattr(given, name) for name in names if getattr(given, name) is not None}
    return dataclasses.replace(FULL if given.full else SMALL, **changed)


def main() -> int:
    """Measure, keep, print."""
    end_in_order()
    given = arguments()
    latest = RESULTS / "latest.json"
    path = given.into or (latest if latest.exists() else RESULTS / "figures.json")
    run: dict[str, Any] = {}
    if given.into or path.exists():
        run = json.loads(path.read_text())
    path.parent.mkdir(parents=True, exist_ok=True)
    failed = measure_into(
        run,
        given.only or list(PROGRAMS),
        sizes_of(given),
        database_url=given.database_url,
        keep=lambda: path.write_text(json.dumps(run, indent=1)),
    )
    print("\n".join(part for part in (markdown(table(run)) for table in TABLES) if part))
    print(f"Kept in {path}")
    for name, reason in failed.items():
        print(f"FAILED: {name}: {reason}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
