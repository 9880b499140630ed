"""A child that a node forked, and that comes back from the node: it would go on as the loop, beside its parent."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from async_adag.channels import forks


class Origin:
    """Tells a loop whether it is still in the process in which it began."""

    __slots__ = ("__weakref__", "left")

    def __init__(self) -> None:
        self.left = False
        forks.watch(self)

    def leave_to_parent(self) -> None:
        """See `forks.Holder`."""
        self.left = True


def end_child(label: str, leaving: SystemExit | None = None) -> NoReturn:
    """End this process, a child, which has returned from the node ``label`` or wanted to leave by ``leaving``."""
    status = 1
    if leaving is None:
        sys.stderr.write(f"async_adag: a process that {label} had forked returned from it, and is ended\n")
    else:
        status = leaving.code if isinstance(leaving.code, int) else 1 if leaving.code else 0
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)
