"""Whether the process of the other side has ended, where that cannot be looked up."""

from __future__ import annotations

import errno
import mmap
import os
import subprocess
import sys
import textwrap

import pytest

from async_adag.gpu import acks as module
from async_adag.gpu.acks import Acks, Shared, acks_size
from async_adag.gpu.simulated import Simulation


@pytest.fixture
def acks():
    return Acks(Shared(Simulation().process(), mmap.mmap(-1, acks_size(1, 1))), 0, 1)


@pytest.fixture
def fail(monkeypatch):
    """Have looking up a process fail so."""

    def fail(number: int) -> None:
        def refuse(*_):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(module, "open", refuse, raising=False)

    return fail


@pytest.mark.parametrize(
    ("number", "ended"),
    [
        (errno.ENOENT, True),
        (errno.ESRCH, True),
        (errno.EMFILE, False),
        (errno.ENFILE, False),
        (errno.EACCES, False),
    ],
    ids=lambda value: errno.errorcode[value] if type(value) is int else None,
)
def test_a_side_that_cannot_be_looked_up_has_not_ended_unless_there_is_none(acks, fail, number, ended):
    acks.sign_in_reader()
    acks.sign_in_writer()
    fail(number)
    assert (acks.reader_has_ended, acks.reader_is_gone, acks.writer_has_ended) == (ended,) * 3


@pytest.mark.parametrize("side", ["reader", "writer"])
def test_a_side_signs_in_with_when_it_was_started_or_not_at_all(acks, fail, side):
    fail(errno.EMFILE)
    with pytest.raises(OSError, match="Too many open files"):
        getattr(acks, f"sign_in_{side}")()
    assert acks._words.tolist()[1:5] == [0] * 4


def test_a_process_without_descriptors_takes_nobody_for_ended():
    program = """
        import mmap, os, resource
        from async_adag.gpu.acks import Acks, Shared, acks_size
        from async_adag.gpu.simulated import Simulation
        acks = Acks(Shared(Simulation().process(), mmap.mmap(-1, acks_size(1, 1))), 0, 1)
        acks.sign_in_reader()
        acks.sign_in_writer()
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
        try:
            os.dup(0)
        except OSError as error:
            print(error.strerror, acks.reader_is_gone, acks.writer_has_ended)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], check=True, capture_output=True, text=True
    )
    assert done.stdout == "Too many open files False False\n"
