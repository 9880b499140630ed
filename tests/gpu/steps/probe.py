"""What this machine has: versions, and for whatever steps may need, why it is not here."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from typing import Any

from tests.gpu.step import Figures, run

DISTRIBUTIONS = ("async-adag", "ray", "numpy", "torch", "jax", "uvloop")
CUPY = ("cupy-cuda12x", "cupy-cuda13x", "cupy")


def probe(figures: Figures) -> dict[str, Any]:
    versions = {"python": platform.python_version(), "linux": platform.release(), "cpus": str(os.cpu_count())}
    for name in (*DISTRIBUTIONS, *CUPY):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            pass
    lacks: dict[str, str] = {}
    for name, look in LOOKS.items():
        if name != "device" and name not in ("cc", "ray") and "device" in lacks:
            lacks[name] = lacks["device"]
            continue
        try:
            versions.update(look())
        except Exception as error:  # whatever goes wrong here is the reason why the steps cannot run
            lacks[name] = f"{error}" or type(error).__name__
    return {"versions": versions, "lacks": lacks}


class MissingError(Exception):
    """Something is not here."""


def look_for_device() -> dict[str, str]:
    try:
        import cupy
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "cupy":
            raise MissingError("cupy is not installed: async-adag[gpu], or [gpu13] for CUDA 13") from error
        raise
    runtime = cupy.cuda.runtime
    if not runtime.getDeviceCount():
        raise MissingError("no CUDA device")
    properties = runtime.getDeviceProperties(0)
    assert int(cupy.arange(4).sum()) == 6  # a kernel is compiled and runs
    return {
        "cupy": cupy.__version__,
        "gpu": properties["name"].decode(),
        "gpu memory": f"{properties['totalGlobalMem'] / 2**30:.0f} GiB",
        "compute capability": f"{properties['major']}.{properties['minor']}",
        "cuda runtime": cuda_version(runtime.runtimeGetVersion()),
        "cuda driver": f"{cuda_version(runtime.driverGetVersion())} ({driver_version()})",
    }


def look_for_nccl() -> dict[str, str]:
    from cupy.cuda import nccl

    if not nccl.available:
        raise MissingError("this cupy finds no NCCL: install nvidia-nccl-cu12, or -cu13")
    number = nccl.get_version()
    return {"nccl": f"{number // 10000}.{number // 100 % 100}.{number % 100}"}


def look_for_torch() -> dict[str, str]:
    try:
        import torch
    except ImportError as error:
        raise MissingError("torch is not installed") from error
    if not torch.cuda.is_available():
        raise MissingError(f"torch {torch.__version__} sees no GPU")
    assert int(torch.arange(4, device="cuda").sum()) == 6
    return {"torch": str(torch.__version__)}


def look_for_jax() -> dict[str, str]:
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    try:
        import jax
    except ImportError as error:
        raise MissingError("jax is not installed") from error
    if jax.default_backend() != "gpu":
        raise MissingError(f"jax {jax.__version__} sees no GPU, but {jax.default_backend()}")
    assert int(jax.numpy.arange(4).sum()) == 6
    return {"jax": jax.__version__}


def look_for_compiler() -> dict[str, str]:
    for name in ("cc", "gcc", "clang"):
        if path := shutil.which(name):
            return {"cc": path}
    raise MissingError("no C compiler (cc, gcc, clang)")


def look_for_ray() -> dict[str, str]:
    try:
        importlib.metadata.version("ray")
    except importlib.metadata.PackageNotFoundError:
        import ray  # put on the path, without its metadata

        return {"ray": ray.__version__}
    return {}


def cuda_version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def driver_version() -> str:
    try:
        with open("/proc/driver/nvidia/version") as file:
            words = file.readline().split()
    except OSError:
        return "unknown"
    return next((word for word in words if word[:1].isdigit() and "." in word), "unknown")


LOOKS = {
    "device": look_for_device,
    "nccl": look_for_nccl,
    "torch": look_for_torch,
    "jax": look_for_jax,
    "cc": look_for_compiler,
    "ray": look_for_ray,
}

if __name__ == "__main__":
    run(probe)
