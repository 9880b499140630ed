"""What the steps share: how they say what they found, and how they say that they cannot run."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from tests.gpu.runner import MARK


class CannotRunError(Exception):
    """This step cannot run here; says why."""


class Figures:
    """The rows that a step adds to the table.

    Attributes:
        rows: each with a name, what it holds by name, their unit, and the target, "" where there is none.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def add(self, name: str, unit: str = "", target: str = "", **values: Any) -> None:
        """Add a row: ``values`` are numbers, or words where there is nothing to count."""
        self.rows.append({"name": name, "values": values, "unit": unit, "target": target})

    def latencies(self, name: str, seconds: Sequence[float], target: str = "") -> None:
        """Add a row of the median and the 99th percentile, in µs."""
        self.add(name, "µs", target, p50=percentile(seconds, 50) * 1e6, p99=percentile(seconds, 99) * 1e6)


def percentile(values: Sequence[float], percent: float) -> float:
    """The least of ``values`` that is no less than ``percent`` of them."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def run(step: Callable[[Figures], dict[str, Any]]) -> None:
    """Run a step, which adds figures and returns what its test checks; print the line that a step ends with."""
    figures = Figures()
    try:
        result: dict[str, Any] = {"checks": step(figures), "figures": figures.rows}
    except CannotRunError as reason:
        result = {"skipped": str(reason)}
    sys.stdout.flush()
    print(f"\n{MARK}{json.dumps(result)}", flush=True)
