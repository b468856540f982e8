"""Put a soak into the documentation: ``python -m benchmarks.soak.publish build/soak.json``.

The figures of docs/explanation/soak.md stand between two comments and are never edited by hand; the picture is drawn
anew.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.reading import NOTHING, markdown
from benchmarks.soak.looks import Look, Sizes
from benchmarks.soak.series import Series, series_of, trend

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "explanation" / "soak.md"
PICTURE = ROOT / "docs" / "images" / "soak.svg"
BEGIN = "<!-- Made by `python -m benchmarks.soak.publish` from a run; soak again, do not edit. -->"
END = "<!-- end of what was measured -->"
QUARTERS = 4


def looks_of(run: Mapping[str, Any]) -> list[Look]:
    """What was seen, as it was kept."""
    return [
        Look(**{**look, "tables": {name: Sizes(**sizes) for name, sizes in look["tables"].items()}})
        for look in run["looks"]
    ]


def with_figures(page: str, run: Mapping[str, Any]) -> str:
    """The page with this run's figures in place of those it had.

    :raises ValueError: the page has no place for them.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page lacks the comments between which figures stand: {BEGIN} and {END}")
    looks = looks_of(run)
    picture = "![A soak: rate, latency, memory, rows, sizes and tasks over time](../images/soak.svg)"
    parts = [origin(run, looks), picture, figures(run, looks), outcome(run)]
    return f"{before}{BEGIN}\n\n" + "\n\n".join(part.strip() for part in parts) + f"\n\n{END}{after}"


def origin(run: Mapping[str, Any], looks: Sequence[Look]) -> str:
    """Where the figures are from."""
    about, plan = run["about"], run["plan"]
    machine, loads = about["machine"], [look.load for look in looks]
    server = about["servers"].get("PostgreSQL", {}).get("server_version", "")
    minutes = run["seconds"] / 60
    early = f", ended after {minutes:.0f} minutes" if minutes < 0.99 * plan["minutes"] else ""
    return (
        f"`python -m benchmarks.soak --minutes {plan['minutes']:g} --rate {plan['rate']:g}`{early};"
        f" {about['date'][:10]}, revision {about['revision']}{' with changes' if about['changed'] else ''};"
        f" {machine['cores']} cores ({machine['processor']}), {machine['memory_gb']} GB; Python {about['python']},"
        f" PostgreSQL {server}. Finished tasks were kept for {plan['keep_minutes']:g} minutes. The machine's load was"
        f" {statistics.median(loads):.0f} in the middle and {max(loads):.0f} at most; what ran here accounts for about"
        f" {_cores(looks):.1f} cores, the rest is others'."
    )


def figures(run: Mapping[str, Any], looks: Sequence[Look]) -> str:
    """Each figure's median by quarter, and how fast it rose over the second half."""
    rows = []
    for series in series_of(looks):
        rise = trend(series, run["seconds"] / 2, run["seconds"])
        share = NOTHING if rise is None or rise.share_per_hour is None else f"{rise.share_per_hour:+.1%}"
        slope = NOTHING if rise is None else _brief(rise.per_hour, "+")
        rows.append([series.name, *_quarters(series, run["seconds"]), slope, share])
    head = ["figure", *(f"quarter {number + 1}" for number in range(QUARTERS)), "per hour", "share"]
    return markdown(("Medians, and the rise over the second half", head, rows))


def outcome(run: Mapping[str, Any]) -> str:
    """What became of the tasks."""
    verdict = run["verdict"]
    tally, legal = verdict["tally"], verdict["verify"].get("is_legal")
    back = ", ".join(f"{count:,} {reason}" for reason, count in verdict["given_back"].items()) or "none"
    return (
        f"{tally['created']:,} tasks were created, {tally['pruned']:,} of them had ended and were pruned,"
        f" {tally['finished']:,} had ended and were still kept, {tally['open']} were open, {tally['vanished']} gone"
        f" without an end; {tally['complete']:,} ended as complete and {tally['error']:,} in error, as they had to."
        f" Runs of steps taken back from executors, and run again: {back}."
        f" `tasker db verify`: {'every rule holds' if legal else 'violations'}."
    )


def _quarters(series: Series, seconds: float) -> list[str]:
    groups: list[list[float]] = [[] for _ in range(QUARTERS)]
    for at, figure in series.points:
        if at <= seconds:
            groups[min(QUARTERS - 1, int(at / seconds * QUARTERS))].append(figure)
    return [_brief(statistics.median(group)) if group else NOTHING for group in groups]


def _brief(figure: float, sign: str = "") -> str:
    return format(figure, f"{sign},.0f" if abs(figure) >= 100 else f"{sign},.1f")


def _cores(looks: Sequence[Look]) -> float:
    first, last = looks[0], looks[-1]
    return (sum(last.cpu.values()) - sum(first.cpu.values())) / (last.at - first.at)


def main() -> None:
    """Write the page and the picture."""
    from benchmarks.soak.picture import draw

    (path,) = sys.argv[1:]
    run = json.loads(Path(path).read_text())
    PAGE.write_text(with_figures(PAGE.read_text(encoding="utf-8"), run), encoding="utf-8")
    draw(looks_of(run), PICTURE)
    print(f"{PAGE.relative_to(ROOT)} and {PICTURE.relative_to(ROOT)} show {path}")


if __name__ == "__main__":
    main()
