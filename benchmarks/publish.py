"""Put a run into the documentation: ``python -m benchmarks.publish [run.json]``; ``results/latest.json`` otherwise.

The tables of docs/explanation/performance.md stand between two comments and are never edited by hand; the picture is
drawn anew.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from benchmarks.reading import Run, markdown
from benchmarks.report import TABLES, origin

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "explanation" / "performance.md"
IMAGES = ROOT / "docs" / "images"
BEGIN = "<!-- Made by `python -m benchmarks.publish` from a run; measure again, do not edit. -->"
END = "<!-- end of what was measured -->"


def with_figures(page: str, run: Run) -> str:
    """The page with this run's figures in place of those it had.

    :raises ValueError: the page has no place for them.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page lacks the comments between which figures stand: {BEGIN} and {END}")
    tables = "\n".join(part for part in (markdown(table(run)) for table in TABLES) if part)
    picture = "![Throughput and latency of all engines](../images/performance.svg)"
    return f"{before}{BEGIN}\n\n{origin(run)}\n\n{picture}\n\n{tables}\n{END}{after}"


def main() -> None:
    """Write the page and the picture."""
    from benchmarks import plots

    path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "results" / "latest.json"
    run = json.loads(path.read_text())
    PAGE.write_text(with_figures(PAGE.read_text(encoding="utf-8"), run), encoding="utf-8")
    plots.draw(run, IMAGES, forms=["svg"])
    print(f"{PAGE.relative_to(ROOT)} and docs/images/performance.svg show {path}")


if __name__ == "__main__":
    main()
