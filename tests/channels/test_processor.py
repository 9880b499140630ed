"""Fences, and the number of the CPU."""

from __future__ import annotations

import os
import threading

import pytest

from async_adag.channels import processor
from async_adag.channels.processor import current_cpu, make_fence


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_a_fence_can_be_passed_by_many_threads_each_with_its_own(machine, monkeypatch):
    monkeypatch.setattr(processor.platform, "machine", lambda: machine)

    def cross(fence):
        for _ in range(1000):
            with fence:
                pass

    threads = [threading.Thread(target=cross, args=(make_fence(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_where_the_kernel_does_not_tell_all_is_one_cpu(monkeypatch):
    class Refusing:
        def sched_getcpu(self):
            return -1

    monkeypatch.setattr(processor.ctypes, "PyDLL", lambda name: Refusing())
    assert processor._find_cpu()() == 0


def test_the_cpu_is_the_one_that_this_thread_is_tied_to():
    before = os.sched_getaffinity(0)
    try:
        for cpu in sorted(before):
            os.sched_setaffinity(0, {cpu})
            assert current_cpu() == cpu
    finally:
        os.sched_setaffinity(0, before)
