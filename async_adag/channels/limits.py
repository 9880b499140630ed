"""Limits in words: which limit of the process or the system an errno speaks of, and what to do about it."""

from __future__ import annotations

import errno
import sys

if sys.platform == "linux":  # elsewhere the package can be imported, and compile() says what is missing
    import resource

EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EFBIG, errno.ETOOMANYREFS})


def advice(code: int | None) -> str:
    """The limit behind ``code``, as it is now, and what to do; "" where no limit is known to be behind it."""
    if code == errno.EMFILE:
        return f"RLIMIT_NOFILE is {_soft(resource.RLIMIT_NOFILE)}: close some, or raise it (ulimit -n)"
    if code == errno.ENFILE:
        return "fs.file-max of the system is reached: close some, or raise it (sysctl)"
    if code == errno.ETOOMANYREFS:
        return (
            f"RLIMIT_NOFILE is {_soft(resource.RLIMIT_NOFILE)}, for those on their way too: raise it (ulimit -n)"
        )
    if code == errno.EFBIG:
        return f"RLIMIT_FSIZE is {_soft(resource.RLIMIT_FSIZE)} bytes: send less at once, or raise it (ulimit -f)"
    if code == errno.ENOSPC:
        return "the system's shared memory is used up: send less at once, or keep fewer results"
    if code == errno.ENOMEM:
        if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
            return f"RLIMIT_AS is {_soft(resource.RLIMIT_AS)} bytes: send less at once, or raise it (ulimit -v)"
        return (
            "memory is used up, or vm.max_map_count is reached: send less at once, keep fewer results, or lower "
            "max_inflight"
        )
    return ""


def explain(error: OSError) -> str:
    """What ``error`` says, with `advice`."""
    text = error.strerror or str(error)
    what = advice(error.errno)
    return text if not what or what in text else f"{text}: {what}"


def _soft(which: int) -> str:
    soft, _ = resource.getrlimit(which)
    return "unlimited" if soft == resource.RLIM_INFINITY else str(soft)
