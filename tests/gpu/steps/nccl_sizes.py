"""What comes through an NCCL edge is what was sent: every byte, by size, of one tensor and of several."""

from __future__ import annotations

from typing import Any

from async_adag.gpu.links import LinkReceiver, LinkSender
from async_adag.gpu.nccl import NcclLink
from tests.gpu.hand_over import Pooled, Reader, Writer
from tests.gpu.mailbox import Mailbox
from tests.gpu.nccl_environment import look_like_a_host
from tests.gpu.peers import Line, peer
from tests.gpu.step import Figures, run

SIZES = [
    1,
    2,
    3,
    4,
    5,
    63,
    64,
    65,
    255,
    257,
    1000,
    4095,
    4096,
    4097,
    65_537,
    1 << 20,
    1_048_577,
    16_777_213,
    1 << 26,
]
SHAPES = [[size] for size in SIZES] + [[1, 1, 1], [3, 1 << 20, 5], [1000] * 8, [1 << 22, 7]]
ROUNDS = 3
IN_FLIGHT = 8


def reader(line: Line, inbox: Mailbox) -> None:
    end = Reader(ROUNDS * len(SHAPES))
    look_like_a_host(1)
    link = NcclLink(line.get())
    link.initialize(1)
    receiver = LinkReceiver(end.device, link)
    for number in range(ROUNDS * len(SHAPES)):
        sizes, note = inbox.get()
        arrived = receiver.receive(note, sizes, end.stream)
        end.check(number, arrived, sizes)
        del arrived
    line.put(end.wrong())
    receiver.close()


def nccl_sizes(figures: Figures) -> dict[str, Any]:
    inbox = Mailbox()
    with peer(reader, inbox) as line:
        end = Writer(Pooled())
        look_like_a_host(0)
        identity = NcclLink.new_id()
        line.put(identity)
        link = NcclLink(identity)
        link.initialize(0)
        sender = LinkSender(end.device, [link])
        for number in range(ROUNDS * len(SHAPES)):
            sizes = SHAPES[number % len(SHAPES)]
            spans, owners = end.make(number, sizes)
            inbox.put((sizes, sender.announce(spans, owners, end.stream)), room=IN_FLIGHT)
            sender.send()
            del owners
        wrong = line.get()
        sender.close()
    figures.add("1 B to 64 MiB", target="0 wrong", messages=ROUNDS * len(SHAPES), wrong=len(wrong))
    return {"wrong": wrong}


if __name__ == "__main__":
    run(nccl_sizes)
