"""Pictures of a record, as SVG. Needs matplotlib, which nothing else here does.

style.py      what they share: colours, names, the line at the foot that says where the figures are from
ratios.py     how many times better than Ray, how many times the floor
latencies.py  how round trips are distributed
curves.py     figures over what grows: throughput by window, time by payload, costs by actors and graphs
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.record import Record


def draw(record: Record, folder: Path) -> list[Path]:
    """Draws what the record has figures for; returns the files.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    from benchmarks.plots import curves, latencies, ratios, style

    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    with style.applied():
        for name, make in (
            ("ratios", ratios.draw),
            ("latencies", latencies.draw),
            ("throughput", curves.draw_throughput),
            ("payloads", curves.draw_payloads),
            ("scaling", curves.draw_scaling),
        ):
            figure = make(record)
            if figure is not None:
                drawn.append(folder / f"bench-{name}.svg")
                style.save(figure, record, drawn[-1])
    return drawn
