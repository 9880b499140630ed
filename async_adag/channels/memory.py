"""Memory files: anonymous, sealed against shrinking, mapped piece by piece.

A memory file has no name in any file system, so nothing is left behind however its processes end. It is sparse:
address space in it costs nothing, pages cost when touched.

The standard `mmap` module keeps a duplicate of the file descriptor for each mapping until Python 3.13, which
would cost a descriptor per block; so pieces are mapped through the C library here.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import sys
import weakref
from collections.abc import Callable
from functools import cache
from typing import Any

from async_adag.channels.limits import explain

PAGE = mmap.PAGESIZE

if sys.platform == "linux":  # elsewhere the package can be imported, and compile() says what is missing
    import fcntl

    _libc = ctypes.CDLL(None, use_errno=True)
    _libc.mmap.restype = ctypes.c_void_p
    _libc.mmap.argtypes = [
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int64,
    ]
    _libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    _libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    _libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_MAP_FAILED = ctypes.c_void_p(-1).value
_FALLOC_FL_KEEP_SIZE = 1
_FALLOC_FL_PUNCH_HOLE = 2
_MADV_REMOVE = 9
_MADV_POPULATE_WRITE = 23  # since Linux 5.14


def create_file(name: str, size: int) -> int:
    """A new memory file of ``size`` bytes that can grow and never shrink; returns its descriptor.

    Raises:
        OSError: no descriptor is left, or ``size`` is over the file-size limit (``RLIMIT_FSIZE``).
    """
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        grow(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    except BaseException:
        os.close(fd)
        raise
    return fd


def grow(fd: int, size: int) -> None:
    """Make a memory file ``size`` bytes long.

    Raises:
        OSError: that is over the file-size limit (``RLIMIT_FSIZE``), or the file may not grow.
    """
    try:
        os.ftruncate(fd, size)
    except OSError as error:
        raise OSError(error.errno, f"a memory file of {size} bytes: {explain(error)}") from None


def is_sealed(fd: int) -> bool:
    """Whether ``fd`` is a memory file that cannot shrink, so that touching what is mapped cannot fault."""
    try:
        return bool(fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK)
    except OSError:
        return False


def punch(fd: int, offset: int, length: int) -> None:
    """Give the pages of a range back to the system; it reads as zeros from now on."""
    # A failure only means that the memory stays: the range is free and will be overwritten.
    _libc.fallocate(fd, _FALLOC_FL_KEEP_SIZE | _FALLOC_FL_PUNCH_HOLE, offset, length)


def kept(words: memoryview) -> memoryview:
    """What these 64-bit words are now, in memory of this process alone, for whoever lets go of theirs."""
    return memoryview(bytearray(words)).cast("Q")


class Mapping:
    """A mapped piece of a memory file, unmapped when the last view into it is gone.

    Attributes:
        view: the bytes, writable.
        length: how many.
    """

    __slots__ = ("_address", "length", "view")

    def __init__(self, fd: int, offset: int, length: int) -> None:
        """Map ``length`` bytes at ``offset`` (a multiple of the page size).

        Raises:
            OSError: the address space is exhausted or limited (``RLIMIT_AS``), or too many mappings exist.
        """
        address = _libc.mmap(None, length, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, fd, offset)
        if address == _MAP_FAILED:
            error = OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            raise OSError(error.errno, f"cannot map {length} bytes of shared memory: {explain(error)}")
        array: Any = (ctypes.c_char * length).from_address(address)
        # The view keeps the array alive, and so the mapping: nobody can be left with a dangling address.
        weakref.finalize(array, _libc.munmap, address, length).atexit = False
        self._address = address
        self.length = length
        self.view = memoryview(array).cast("B")

    def words(self, count: int) -> memoryview:
        """The first ``count`` 64-bit words; storing or loading one is a single aligned access."""
        return self.view[: count * 8].cast("Q")

    def populate(self, offset: int) -> None:
        """Ask for all pages from ``offset`` on (a multiple of the page size), where a refusal is an error.

        Raises:
            OSError: there is no memory for them.
        """
        if _libc.madvise(self._address + offset, self.length - offset, _MADV_POPULATE_WRITE):
            code = ctypes.get_errno()
            if code != errno.EINVAL:  # which an older kernel says; the pages come when they are touched
                raise OSError(code, f"{self.length - offset} bytes of shared memory: {os.strerror(code)}")

    def give_back(self, offset: int) -> None:
        """Give all pages from ``offset`` on back to the system; they read as zeros from now on."""
        _libc.madvise(self._address + offset, self.length - offset, _MADV_REMOVE)  # else the memory stays

    def lease(self, end: Callable[[], None]) -> memoryview:
        """A read-only view of all of it. ``end`` is called when that and the last view made from it are gone."""
        lease = _lease_of(self.length).from_buffer(self.view)
        lease.end = end
        return memoryview(lease).cast("B").toreadonly()


class _Lease:
    """The object behind a leased view. A finalizer of `weakref` would take as long as all the rest of a lease."""

    __slots__ = ()

    end: Callable[[], None]

    def __del__(self) -> None:
        self.end()


@cache  # of lengths that are powers of two, as those of blocks are
def _lease_of(length: int) -> Any:
    return type("Lease", (_Lease, ctypes.c_char * length), {"__slots__": ("end",)})
