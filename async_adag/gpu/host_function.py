"""A C function for CUDA to call when a stream gets there: it adds 1 to an eventfd.

CUDA calls it on a thread of its own, so it has to be plain C: a Python function would wait for the GIL there, and
hold up the stream meanwhile. It is compiled when it is first needed, by each process for itself, in a directory
that nobody else may enter and that is gone again before this returns: no file is left that another user could
have put there or changed.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path

from async_adag.gpu.interface import CannotNotify

_SOURCE = """\
#include <stdint.h>
#include <unistd.h>

void async_adag_ring(void *fd) {
    uint64_t one = 1;
    ssize_t written = write((int)(intptr_t)fd, &one, sizeof one);
    (void)written;
}
"""
_COMPILERS = ("cc", "gcc", "clang")
_TIMEOUT_S = 30.0

_lock = threading.Lock()
_outcome: int | CannotNotify | None = None
_library: ctypes.CDLL | None = None


def ring_address() -> int:
    """The address of ``void ring(void *fd)``, which adds 1 to the eventfd that its argument is the number of.

    May take a tenth of a second the first time.

    Raises:
        CannotNotify: there is no C compiler, or none that works; the same each time.
    """
    global _outcome, _library
    if not isinstance(_outcome, int):
        with _lock:
            if _outcome is None:
                try:
                    _library = build(_COMPILERS)
                    _outcome = ctypes.cast(_library.async_adag_ring, ctypes.c_void_p).value
                except CannotNotify as error:
                    _outcome = error
    if isinstance(_outcome, int):
        return _outcome
    raise CannotNotify(str(_outcome))


def build(compilers: tuple[str, ...]) -> ctypes.CDLL:
    """Compile the function, with the first of ``compilers`` that is here, and load it.

    Raises:
        CannotNotify: none is here, or it fails; says what it said.
    """
    compiler = next(filter(None, map(shutil.which, compilers)), None)
    if compiler is None:
        raise CannotNotify(f"no C compiler is here ({', '.join(compilers)})")
    try:
        with tempfile.TemporaryDirectory(prefix="async-adag-") as folder:  # made with mode 0700
            library = Path(folder, "ring.so")
            command = [compiler, "-shared", "-fPIC", "-O2", "-x", "c", "-", "-o", str(library)]
            done = subprocess.run(
                command, input=_SOURCE, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S
            )
            if done.returncode:
                raise CannotNotify(f"{compiler} cannot build a shared library: {done.stderr.strip()[-500:]}")
            return ctypes.CDLL(str(library))
    except (OSError, subprocess.SubprocessError) as error:
        raise CannotNotify(f"{compiler} cannot build a shared library that loads: {error}") from error
