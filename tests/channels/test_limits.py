"""Limits of a process, and memory that runs out: an `OSError` that says so, and a channel that goes on."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess

import numpy as np
import pytest


@pytest.mark.parametrize(
    "scenario",
    [
        "file_size",
        "file_size_with_a_larger_block_free",
        "file_size_at_creation",
        "address_space_of_the_writer",
        "address_space_of_the_writer_at_its_first_block",
        "address_space_of_the_reader",
        "descriptors",
    ],
)
def test_a_limit_of_the_process(start_script, scenario):
    process = start_script("limited.py", scenario, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    output, _ = process.communicate()
    assert process.returncode == 0, output


def test_when_memory_runs_out_the_error_says_so_and_the_channel_goes_on(ring, monkeypatch):
    array = np.ones(1 << 20, np.uint8)
    encoded = ring.writer.encode(array)

    def full(fd, offset, length):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        for _ in range(3):
            with pytest.raises(OSError, match="No space left on device") as caught:
                ring.writer.stage(encoded)
            assert caught.value.errno == errno.ENOSPC
            assert "bytes of shared memory" in str(caught.value)
            ring.writer.unstage()
            assert ring.pass_on("small") == "small"
    assert ring.writer.backed_bytes() == 0
    assert np.array_equal(ring.pass_on(array), array)


def test_a_file_that_may_not_grow_any_more_is_an_os_error_too(ring):
    assert np.array_equal(ring.pass_on(np.ones(50_000)), np.ones(50_000))
    fcntl.fcntl(ring.memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW)
    with pytest.raises(PermissionError):
        ring.send(np.ones(1 << 20))
    ring.writer.unstage()
    assert np.array_equal(ring.pass_on(np.ones(50_000)), np.ones(50_000))
    assert ring.pass_on(1) == 1
