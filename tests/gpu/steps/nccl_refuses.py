"""The control of all steps with NCCL: as one host, two processes cannot be ranks on one GPU."""

from __future__ import annotations

from typing import Any

from tests.gpu.nccl_environment import look_like_one_host
from tests.gpu.peers import Line, peer
from tests.gpu.step import Figures, run


def join(identity: tuple[int, ...], rank: int) -> str:
    """What NCCL says when this process wants to be that rank; "" when it agrees."""
    from cupy.cuda import nccl

    try:
        nccl.NcclCommunicator(2, identity, rank).abort()
    except nccl.NcclError as error:
        return str(error)
    return ""


def second(line: Line) -> None:
    look_like_one_host()
    line.put("ready")
    line.put(join(line.get(), 1))


def nccl_refuses(figures: Figures) -> dict[str, Any]:
    look_like_one_host()
    from cupy.cuda import nccl

    with peer(second) as line:
        assert line.get() == "ready"
        identity = nccl.get_unique_id()
        line.put(identity)
        said = [join(identity, 0), line.get()]
    for rank, text in enumerate(said):
        figures.add(f"rank {rank}, without the environment", said=text or "was taken")
    return {"refused": [bool(text) for text in said], "said": said}


if __name__ == "__main__":
    run(nccl_refuses)
