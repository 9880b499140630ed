"""What can be told of the GPU side without one: reasons, the C function, spans, and what is exported."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import subprocess
import sys
import tempfile
import textwrap
from types import SimpleNamespace

import pytest

from async_adag.actor import gpu_edges
from async_adag.gpu import arrays, cuda, pool
from async_adag.gpu.host_function import build, ring_address
from async_adag.gpu.interface import CannotNotify, DeviceError, Span
from async_adag.gpu.pool import Allocations
from async_adag.graph.plan import GpuMove


def run(program):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# The C function


def test_the_c_function_adds_one_to_an_eventfd():
    ring = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(ring_address())
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    try:
        for _ in range(3):
            ring(fd)
        assert os.eventfd_read(fd) == 3
    finally:
        os.close(fd)


def test_the_c_function_is_compiled_once_and_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    build(("cc", "gcc", "clang"))
    assert list(tmp_path.iterdir()) == []
    assert ring_address() == ring_address()


def test_without_a_compiler_the_reason_names_those_that_were_looked_for(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CannotNotify, match=r"no C compiler is here \(cc, gcc, clang\)"):
        build(("cc", "gcc", "clang"))


@pytest.mark.parametrize(
    ("does", "said"), [("echo no such header >&2; exit 1", "no such header"), ("exit 0", "that loads")]
)
def test_a_compiler_that_does_not_work_is_a_reason_too(monkeypatch, tmp_path, does, said):
    compiler = tmp_path / "cc"
    compiler.write_text(f"#!/bin/sh\n{does}\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CannotNotify, match=said):
        build(("cc",))


def test_the_reason_for_no_c_function_is_told_each_time(tmp_path):
    said = run(f"""
        import os
        os.environ["PATH"] = {str(tmp_path)!r}
        from async_adag.gpu.host_function import ring_address
        for _ in range(2):
            try:
                ring_address()
            except Exception as error:
                print(type(error).__name__, error)
        """)
    assert said.splitlines() == ["CannotNotify no C compiler is here (cc, gcc, clang)"] * 2


# Why there is no device


def test_without_cupy_both_extras_are_named():
    said = run("""
        import sys
        sys.modules["cupy"] = None  # as if it were not installed
        from async_adag.gpu.cuda import find_device
        from async_adag.gpu.interface import DeviceError
        try:
            find_device()
        except DeviceError as error:
            print(error)
        """)
    assert said.startswith("cupy is not installed: async-adag[gpu]")
    assert "async-adag[gpu13]" in said


@pytest.mark.parametrize(
    ("status", "driver", "visible", "said"),
    [
        (35, 0, None, "there is no NVIDIA driver"),
        (35, 11040, None, "made for CUDA 11.4, which is too old"),
        (100, 12080, "", "CUDA_VISIBLE_DEVICES is ''.*give the actor num_gpus"),
        (100, 12080, None, "CUDA_VISIBLE_DEVICES is not set.*give the actor num_gpus"),
        (46, 12080, "0", "CUDA cannot be used: cudaErrorDevicesUnavailable"),
    ],
)
def test_the_reason_says_what_is_missing(status, driver, visible, said):
    with pytest.raises(DeviceError, match=said):
        raise DeviceError(cuda.why_none(status, driver, visible, "cudaErrorDevicesUnavailable: busy"))


@pytest.mark.skipif(importlib.util.find_spec("cupy") is None, reason="cupy is not installed")
def test_cupy_without_a_gpu_gives_a_reason():
    said = run("""
        import os
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        from async_adag.gpu.cuda import find_device
        from async_adag.gpu.interface import DeviceError
        try:
            find_device()
        except DeviceError as error:
            print(error)
        """)
    assert "no GPU is visible" in said or "no NVIDIA driver" in said


def test_no_part_of_the_gpu_floor_imports_a_gpu_library():
    said = run("""
        import sys
        from importlib import import_module
        from pkgutil import iter_modules
        import ray  # may look at what is installed
        before = set(sys.modules)
        import async_adag.gpu
        for part in iter_modules(async_adag.gpu.__path__):
            import_module(f"async_adag.gpu.{part.name}")
        new = {name.partition(".")[0] for name in set(sys.modules) - before}
        print(sorted(new & {"cupy", "cupy_backends", "torch", "jax"}))
        """)
    assert said == "[]"


# Arrays


class Torch:
    """A stream of torch's has this attribute, and one of cupy's the other."""

    cuda_stream = 7


class Cupy:
    ptr = 9


def test_a_stream_is_known_by_its_number():
    assert [arrays.handle_of(stream) for stream in (Torch(), Cupy(), 0, 5)] == [7, 9, 0, 5]
    for wrong in (True, "0", None, 1.0):
        with pytest.raises(TypeError, match="no stream of torch or cupy"):
            arrays.handle_of(wrong)


def test_what_is_not_on_a_gpu_has_no_span():
    numpy = pytest.importorskip("numpy")
    assert arrays.library_of(numpy.zeros(3)) == ""
    with pytest.raises(ValueError, match="ndarray is no array of torch or cupy that is on a GPU"):
        arrays.span_of(numpy.zeros(3))


def test_a_torch_tensor_in_host_memory_has_no_span():
    torch = pytest.importorskip("torch")
    with pytest.raises(ValueError, match="no array of torch or cupy that is on a GPU"):
        arrays.span_of(torch.zeros(3))


def test_an_array_is_no_larger_than_what_arrived():
    assert arrays.extent(Span(0, 24), 4, (2, 3)) == 24
    assert arrays.extent(Span(0, 24), 8, ()) == 8
    assert arrays.extent(Span(0, 0), 8, (3, 0)) == 0
    with pytest.raises(ValueError, match=r"shape \(2, 4\) needs 32 bytes, and 24 bytes have arrived"):
        arrays.extent(Span(0, 24), 4, (2, 4))


def test_other_libraries_are_refused():
    with pytest.raises(ValueError, match="'numpy' is no library"):
        arrays.wrap(None, "numpy", "<f4", (), 0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'numpy' has no current stream"):
        arrays.current_stream("numpy", 0)


# What is exported


class Memory:
    def __init__(self, span):
        self.span = span
        self.closed = 0

    def close(self):
        self.closed += 1


class Maker:
    """Allocates downwards, so that later allocations lie below earlier ones."""

    def __init__(self):
        self.made = []

    def allocate(self, nbytes):
        at = self.made[-1].span.address if self.made else 1 << 40
        self.made.append(Memory(Span(at - 4096, nbytes)))
        return self.made[-1]


@pytest.fixture
def maker():
    return Maker()


@pytest.fixture
def allocations(maker):
    return Allocations(maker)


def test_an_allocation_is_found_by_any_part_of_it(allocations):
    spans = dict(allocations.add(1024) for _ in range(3))
    for number, (address, nbytes) in spans.items():
        assert allocations.find(Span(address, nbytes)) == (number, 0)
        assert allocations.find(Span(address + 24, 1000)) == (number, 24)
        assert allocations.find(Span(address + 1024, 0)) == (number, 1024)
        assert allocations.memory(number).span == (address, nbytes)


def test_what_does_not_lie_whole_in_one_is_not_found(allocations):
    assert allocations.find(Span(4096, 1)) is None
    (_, first), (_, second) = allocations.add(1024), allocations.add(1024)
    assert allocations.find(Span(first.address + 24, 1001)) is None
    assert allocations.find(Span(second.address - 1, 2)) is None
    assert allocations.find(Span(second.address + 2048, 1)) is None


def test_what_was_never_exported_is_freed_once_it_is_dropped(allocations, maker):
    number, span = allocations.add(1024)
    allocations.drop(number)
    assert allocations.find(span) is None
    assert [memory.closed for memory in maker.made] == [1]


def test_what_was_exported_stays_until_no_reader_has_it_open(allocations, maker):
    number, span = allocations.add(1024)
    allocations.find(span)
    allocations.drop(number)
    assert len(allocations) == 1
    assert maker.made[0].closed == 0
    allocations.close()
    assert maker.made[0].closed == 1
    assert len(allocations) == 0


def test_what_is_used_at_closing_is_freed_as_it_is_dropped(allocations, maker):
    number, span = allocations.add(1024)
    allocations.find(span)
    allocations.close()
    assert maker.made[0].closed == 0
    assert allocations.find(span) is None
    allocations.drop(number)
    assert maker.made[0].closed == 1


# The allocator of an actor


class CupysPool:
    """Stands for ``cupy.cuda.MemoryPool``: asks for each array anew."""

    def __init__(self, allocate):
        self.malloc = allocate


class Unowned:
    def __init__(self, address, nbytes, owner, ordinal):
        self.ptr, self.nbytes, self.owner = address, nbytes, owner


def test_what_an_actors_allocator_has_made_is_found_by_the_senders_of_its_edges(monkeypatch, maker):
    cuda = SimpleNamespace(
        MemoryPool=CupysPool, UnownedMemory=Unowned, Memory=bytearray, MemoryPointer=lambda memory, _: memory
    )
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=cuda))
    maker.ordinal = 0
    monkeypatch.setattr(pool, "find_device", lambda: maker)
    monkeypatch.setattr(pool, "_pools", {})
    assert pool.exportable_allocations(maker) is None
    allocate = pool.exportable_allocator()
    assert pool.exportable_allocator() == allocate
    made, small = allocate(pool.SMALL), allocate(100)
    assert isinstance(small, bytearray), "copied, as what is small is not exported"
    found = pool.exportable_allocations(maker)
    assert found.find(Span(made.ptr + 64, 1000)) == (0, 64)
    assert pool.exportable_allocations(Maker()) is None
    senders = []
    monkeypatch.setattr(gpu_edges, "IpcSender", lambda *args, **options: senders.append(args))
    gate = SimpleNamespace(device=maker)
    gpu_edges._sender(GpuMove(1, "an edge", "ipc", 1, None), gate, memoryview(b""), (), 2, True)
    assert senders[0][-1] is found
    del made
    assert len(found) == 1, "a reader may have it open"
