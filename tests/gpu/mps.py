"""NVIDIA's Multi-Process Service: with it, processes compute on one GPU at the same time, instead of taking turns.

Its daemon is this suite's own, at a place of its own; whoever is not told of that place takes turns as ever.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

CONTROL = "nvidia-cuda-mps-control"


class CannotShareError(Exception):
    """There is no such daemon here, or it does not start."""


@contextmanager
def shared_by_mps() -> Iterator[dict[str, str]]:
    """The environment in which processes share the GPU so.

    Raises:
        CannotShareError: says why not.
    """
    if shutil.which(CONTROL) is None:
        raise CannotShareError(f"there is no {CONTROL} here")
    with tempfile.TemporaryDirectory(prefix="mps-", ignore_cleanup_errors=True) as folder:
        environment = {"CUDA_MPS_PIPE_DIRECTORY": folder, "CUDA_MPS_LOG_DIRECTORY": folder}
        try:
            _control(["-d"], environment)
        except subprocess.SubprocessError as error:
            raise CannotShareError(f"{CONTROL} does not start: {error}") from error
        try:
            yield environment
        finally:
            _control([], environment, "quit -t 5\n")


def _control(arguments: list[str], environment: dict[str, str], said: str = "") -> None:
    subprocess.run(
        [CONTROL, *arguments],
        env=os.environ | environment,
        input=said,
        text=True,
        check=True,
        timeout=20,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
