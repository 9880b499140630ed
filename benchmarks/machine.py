"""What ran here: the machine and the versions."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from async_adag.protocol import ring

PACKAGES = ("ray", "async-adag", "uvloop", "numpy", "pyzmq")


def describe() -> dict[str, str]:
    """Names and values, in the order in which a reader wants them."""
    load = ", ".join(f"{figure:.2f}" for figure in os.getloadavg())
    return {
        "CPU": f"{_cpu_model()}, {len(os.sched_getaffinity(0))} of {os.cpu_count()} cores ours",
        "kernel": f"{platform.system()} {platform.release()}",
        "load before": load,
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        **{name: _version(name) for name in PACKAGES},
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def _version(name: str) -> str:
    try:
        compiled = name == "async-adag" and not ring.__file__.endswith(".py")
        return f"{version(name)}{', compiled' if compiled else ''}"
    except PackageNotFoundError:
        return "not installed"
