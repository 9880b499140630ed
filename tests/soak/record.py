"""The record of a run, as JSON, and its plot."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine
from tests.soak.outcomes import Tally
from tests.soak.sampling import Sample, peaks
from tests.soak.verdict import MEGABYTE, Finding

PANELS = (
    ("executions", "executions", 1),
    ("pss", "memory (PSS), MB", MEGABYTE),
    ("memory_files", "memory files, MB", MEGABYTE),
    ("fds", "descriptors", 1),
    ("threads", "threads", 1),
    ("mappings", "mappings", 1),
)


def as_json(
    facts: dict[str, Any], tally: Tally, samples: Sequence[Sample], findings: Sequence[Finding]
) -> dict[str, Any]:
    """Everything that is known about a run."""
    return {
        "run": facts,
        "machine": machine.describe(),
        "outcomes": {str(outcome): count for outcome, count in sorted(tally.outcomes.items())},
        "events": dict(sorted(tally.events.items())),
        "wrong": tally.wrong,
        "slowest failure after a kill, s": round(tally.slowest_failure, 4),
        "memory at most and at last, bytes": peaks(samples),
        "findings": [dataclasses.asdict(finding) | {"flat": finding.flat} for finding in findings],
        "samples": [dataclasses.asdict(sample) for sample in samples],
    }


def write(path: Path, record: dict[str, Any]) -> None:
    """Write the record."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")


def plot(path: Path, title: str, samples: Sequence[Sample]) -> bool:
    """Draw the samples; False where matplotlib is not installed."""
    try:
        import matplotlib as mpl
    except ModuleNotFoundError:
        return False
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    settings = {"svg.fonttype": "none", "svg.hashsalt": "async_adag", "font.size": 8, "axes.spines.top": False}
    with plt.rc_context(settings):
        figure, axes = plt.subplots(2, 3, figsize=(9, 4.6), layout="constrained", sharex=True)
        for axis, (name, label, unit) in zip(axes.flat, PANELS, strict=True):
            processes = list(dict.fromkeys(sample.process for sample in samples))
            for process in processes[:1] if name == "executions" else processes:
                own = [sample for sample in samples if sample.process == process]
                values = [getattr(sample, name) / unit for sample in own]
                axis.plot([sample.at for sample in own], values, linewidth=1, label=process)
            axis.set_title(label, fontsize=8, loc="left")
            axis.set_ylim(bottom=0)
        for axis in axes[-1]:
            axis.set_xlabel("seconds")
        axes.flat[1].legend(frameon=False, fontsize=7)
        figure.suptitle(title, fontsize=9, x=0.01, ha="left")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)
    return True
