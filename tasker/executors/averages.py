"""How long steps take: moving averages per step of a template, on their way to ``named_steps.expected_ms``."""

from __future__ import annotations

import threading

SAMPLES_FOR_A_FIRST_REPORT = 1
"""An unknown duration counts as a whole claim's budget, so that such a step is claimed alone. In a wide workflow, where
each step has its own average and runs once per task, waiting for more would keep whole tasks at one step a claim."""

WEIGHT = 0.1
"""Of a new sample, once the average rests on enough of them."""

CHANGE_WORTH_REPORTING = 0.2
"""Smaller relative changes stay here: each report is a write of a row that all executors read."""

FLOOR_MS = 0.01

StepOfTemplate = tuple[int, int]
"""named_task_id, position."""


class _Average:
    __slots__ = ("ms", "reported_ms", "samples")

    def __init__(self, reported_ms: float | None) -> None:
        self.ms = 0.0
        self.samples = 0
        self.reported_ms = reported_ms


class DurationAverages:
    """What one executor observed. ``_lock`` owns all of it; the runners record, the heartbeat's thread reports."""

    def __init__(self, max_entries: int = 4096) -> None:
        self._lock = threading.Lock()
        self._averages: dict[StepOfTemplate, _Average] = {}
        self._max_entries = max_entries

    def record(self, step: StepOfTemplate, milliseconds: float, known_ms: float | None) -> tuple[float | None, bool]:
        """Add a sample.

        Args:
            step: which step of which template.
            milliseconds: how long the executor was occupied by it.
            known_ms: what the database gave as ``expected_ms``, if anything.

        Returns:
            The average, ``None`` before it rests on enough samples; and whether it is unknown to the database and has
            just become worth an early heartbeat.
        """
        with self._lock:
            average = self._averages.get(step)
            if average is None:
                if len(self._averages) >= self._max_entries:
                    self._averages.pop(next(iter(self._averages)))
                average = self._averages[step] = _Average(known_ms)
            average.samples += 1
            # The plain mean at first, so that one slow first run (imports, caches) does not rule for long.
            weight = max(WEIGHT, 1 / average.samples)
            average.ms += (max(milliseconds, FLOOR_MS) - average.ms) * weight
            if average.samples < SAMPLES_FOR_A_FIRST_REPORT:
                return None, False
            return average.ms, average.reported_ms is None and average.samples == SAMPLES_FOR_A_FIRST_REPORT

    def take_report(self) -> dict[StepOfTemplate, float]:
        """Averages that rest on enough samples and differ from what was last reported; they count as reported now."""
        report: dict[StepOfTemplate, float] = {}
        with self._lock:
            for step, average in self._averages.items():
                if average.samples < SAMPLES_FOR_A_FIRST_REPORT:
                    continue
                last = average.reported_ms
                if last is None or abs(average.ms - last) > CHANGE_WORTH_REPORTING * max(last, FLOOR_MS):
                    report[step] = round(average.ms, 3)
                    average.reported_ms = average.ms
        return report

    def report_lost(self, report: dict[StepOfTemplate, float]) -> None:
        """The heartbeat that carried ``report`` failed: report again."""
        with self._lock:
            for step in report:
                average = self._averages.get(step)
                if average is not None:
                    average.reported_ms = None
