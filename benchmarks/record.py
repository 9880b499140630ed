"""The record of a run: all that it measured, and all that one has to know to read it, as JSON."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.suite import FLOOR, OURS, PARKED, Results

FORMAT = 2
FOLDER = Path("build/bench")
ROOT = Path(__file__).parents[1]

Record = dict[str, Any]
"""As `as_record` makes it, and `json` gives it back."""


class NoRecord(Exception):
    """There is no such record; the text says where it was looked for."""


@dataclass(frozen=True)
class Circumstances:
    """What has to be known of a run to read its figures. Made when it begins: the tree may change meanwhile."""

    machine: Mapping[str, str]
    options: Mapping[str, Any]
    began: datetime = field(default_factory=lambda: datetime.now(UTC))
    commit: str = field(default_factory=lambda: commit_of_tree())


def as_record(results: Results, of: Circumstances) -> Record:
    """All figures of all rounds, their medians and ratios, and how single times were distributed."""
    return {
        "format": FORMAT,
        "began": of.began.isoformat(timespec="seconds"),
        "commit": of.commit,
        "machine": dict(of.machine),
        "options": dict(of.options),
        "rows": [
            {
                "section": row.section,
                "label": row.label,
                "unit": row.unit,
                "x": row.x,
                "rival": row.rival,
                "gain": results.gain(row),
                "over_floor": results.over_floor(row),
                "medians": {who: results.median(row, who) for who in (row.rival, OURS, PARKED, FLOOR)},
                "rounds": {who: figures for (which, who), figures in results.figures.items() if which == row},
                "histograms": {
                    who: times.as_json() for (which, who), times in results.histograms.items() if which == row
                },
                "failures": [
                    {"who": who, "reason": reason, "times": times}
                    for (which, who, reason), times in results.failures.items()
                    if which == row
                ],
            }
            for row in results.rows
        ],
        "memory": [
            {"workload": workload, "who": who, **asdict(memory)}
            for (workload, who), memory in results.memory.items()
        ],
        "under_way": results.under_way,
    }


def save(record: Record, folder: Path) -> Path:
    """Writes the record under a name that tells when and what, over an earlier state of it; returns where."""
    when = datetime.fromisoformat(record["began"]).strftime("%Y%m%d-%H%M%S")
    path = folder / f"{when}-{record['commit'][:7]}{'-changed' if 'changed' in record['commit'] else ''}.json"
    folder.mkdir(parents=True, exist_ok=True)
    # Whoever is killed in the midst of this leaves the state before.
    half = path.with_suffix(".half")
    half.write_text(json.dumps(record, indent=1) + "\n")
    half.replace(path)
    return path


def load(path: Path) -> Record:
    """The record in this file.

    Raises:
        NoRecord: there is none in it that this version can read.
    """
    try:
        record: Record = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise NoRecord(f"{path} is no record: {error}") from None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise NoRecord(f"{path} is no record of format {FORMAT}")
    return record


def find(name: str, folder: Path) -> list[Record]:
    """The record in a file, or all records of a commit, given as git knows it.

    Raises:
        NoRecord: it is neither.
    """
    if Path(name).is_file():
        return [load(Path(name))]
    commit = _git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}") or name
    records = [load(path) for path in sorted(folder.glob("*.json"))]
    found = [record for record in records if record["commit"] == commit]
    if not found:
        known = sorted({record["commit"][:7] for record in records})
        raise NoRecord(
            f"{name} is no file, and {folder} has no record of an unchanged tree at commit {commit}; "
            f"it has records of {', '.join(known) or 'nothing'}"
        )
    return found


def commit_of_tree() -> str:
    """The commit that is measured; with " changed" behind it where files differ from it."""
    commit = _git("rev-parse", "HEAD")
    if not commit:
        return "unknown"
    return f"{commit} changed" if _git("status", "--porcelain", "--untracked-files=no") else commit


def _git(*arguments: str) -> str:
    try:
        run = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return ""  # there is no git here
    return run.stdout.strip() if run.returncode == 0 else ""
