"""The table that ends a run: versions, then every step with its figures, as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tests.gpu.runner import RAN, Outcome

HEAD = ("step", "what", "value", "unit", "target")


def table(outcomes: Iterable[Outcome]) -> list[str]:
    """The lines of one table of all steps."""
    return align([HEAD, *(row for outcome in outcomes for row in rows(outcome))])


def rows(outcome: Outcome) -> list[Sequence[str]]:
    """What one step adds: how it went, then its figures."""
    reason = outcome.reason.strip().partition("\n")[0]
    how = "ran" if outcome.status == RAN else f"{outcome.status.upper()}: {reason}"
    first = (outcome.step, how, number(outcome.seconds), "s", "")
    return [first, *(("", row["name"], values(row), row["unit"], row["target"]) for row in outcome.figures)]


def values(row: dict[str, Any]) -> str:
    return ", ".join(f"{name} {number(value)}".replace("value ", "") for name, value in row["values"].items())


def number(value: Any) -> str:
    """Three digits, or all of those before the point."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}"


def align(lines: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table whose columns are as wide as they have to be."""
    cells = [[cell.replace("|", "/") for cell in line] for line in lines]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    drawn = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in cells
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return [drawn[0], rule, *drawn[1:]]
