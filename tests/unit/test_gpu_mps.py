"""The Multi-Process Service of the hardware suite, by a program that stands for its control."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.gpu.mps import CONTROL, CannotShareError, shared_by_mps

NOTES = """#!/bin/sh
echo "$@" $(test "$1" = -d || cat) in "$CUDA_MPS_PIPE_DIRECTORY" >> {notes}
exit {status}
"""


@pytest.fixture
def notes(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path / "notes"


def install(notes: Path, status: int = 0) -> None:
    control = notes.parent / CONTROL
    control.write_text(NOTES.format(notes=notes, status=status))
    control.chmod(0o755)


def test_a_daemon_of_its_own_is_started_and_ended(notes):
    install(notes)
    with shared_by_mps() as environment:
        folder = environment["CUDA_MPS_PIPE_DIRECTORY"]
        assert Path(folder).is_dir()
        assert notes.read_text() == f"-d in {folder}\n"
    assert notes.read_text() == f"-d in {folder}\nquit -t 5 in {folder}\n"
    assert not Path(folder).exists()


def test_it_ends_also_where_what_runs_by_it_fails(notes):
    install(notes)
    with pytest.raises(KeyError), shared_by_mps():
        raise KeyError
    assert "quit" in notes.read_text()


def test_a_machine_without_it_says_so(notes):
    with pytest.raises(CannotShareError, match=f"there is no {CONTROL} here"), shared_by_mps():
        pass
    assert not notes.exists()


def test_one_that_does_not_start_says_so(notes):
    install(notes, status=1)
    with pytest.raises(CannotShareError, match=r"does not start.*exit status 1"), shared_by_mps():
        pass
