"""The environment in which NCCL takes two processes on one GPU: each must look like another host.

It refuses two ranks of one host on one GPU, and between hosts it speaks through sockets, which may be those of the
loopback interface. That checks what is sent, in which order and for how long memory is held; it says nothing about
NVLink, peer copies or the bandwidth of a real edge.
"""

from __future__ import annotations

import os


def one_gpu_environment(rank: int) -> dict[str, str]:
    """What to set in the process of ``rank`` before its first call of NCCL."""
    return {
        "NCCL_HOSTID": f"rank{rank}",
        "NCCL_NET": "Socket",
        "NCCL_SOCKET_IFNAME": "=lo",
        "NCCL_IB_DISABLE": "1",
        "NCCL_MNNVL_ENABLE": "0",
        "NCCL_NVLS_ENABLE": "0",
        "NCCL_CUMEM_ENABLE": "0",
        "NCCL_CUMEM_HOST_ENABLE": "0",
        "NCCL_RAS_ENABLE": "0",
        "NCCL_MAX_CTAS": "2",
    }


def look_like_a_host(rank: int) -> None:
    """Set it in this process."""
    os.environ.update(one_gpu_environment(rank))


def look_like_one_host() -> None:
    """Take out whatever of it this process was started with."""
    for name in one_gpu_environment(0):
        os.environ.pop(name, None)
