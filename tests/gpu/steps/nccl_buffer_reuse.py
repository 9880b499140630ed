"""A buffer that is filled again while another stream still reads it.

The reader's host drops each message at once, so its buffer is free, while its device takes long to come to it.
The receiver has one such buffer only, and takes it for the next message: behind the event of its last use, so
that all are right. The control does not wait for that event, and the check on the device finds what it overwrote.
"""

from __future__ import annotations

from typing import Any

from async_adag.gpu.buffers import Buffer, Buffers
from async_adag.gpu.interface import Device, Stream
from async_adag.gpu.links import LinkReceiver, LinkSender
from async_adag.gpu.nccl import NcclLink
from tests.gpu.hand_over import Pooled, Reader, Writer
from tests.gpu.mailbox import Mailbox
from tests.gpu.nccl_environment import look_like_a_host
from tests.gpu.peers import Line, peer
from tests.gpu.step import Figures, run

MESSAGES = 20
SIZE = 1 << 20
SLOW = 20e-3  # seconds before the reader's device gets to a message, which by then has been followed by the next


class CarelessBuffers(Buffers):
    def _wait(self, stream: Stream, buffer: Buffer) -> None:
        pass


class CarelessReceiver(LinkReceiver):
    @staticmethod
    def _make_buffers(device: Device, backlog: int) -> Buffers:
        return CarelessBuffers(device, backlog)


def reader(line: Line, inbox: Mailbox, careless: bool) -> None:
    end = Reader(MESSAGES)
    look_like_a_host(1)
    link = NcclLink(line.get())
    link.initialize(1)
    receiver = (CarelessReceiver if careless else LinkReceiver)(end.device, link, backlog=1)
    end.kernels.spin(end.compute, 0)
    end.wrong()
    line.put("ready")
    places = set()
    for number in range(MESSAGES):
        arrived = receiver.receive(inbox.get(), [SIZE], end.stream)
        places.add(arrived[0].span.address)
        end.kernels.spin(end.compute, SLOW)
        end.check(number, arrived, [SIZE])
        del arrived
    line.put((end.wrong(), len(places)))
    receiver.close()


def wrong_where(careless: bool) -> tuple[list[int], int]:
    """The messages that were not right, and in how many buffers all of them were."""
    inbox = Mailbox()
    with peer(reader, inbox, careless) as line:
        end = Writer(Pooled())
        look_like_a_host(0)
        identity = NcclLink.new_id()
        line.put(identity)
        link = NcclLink(identity)
        link.initialize(0)
        sender = LinkSender(end.device, [link])
        line.get()
        for number in range(MESSAGES):
            spans, owners = end.make(number, [SIZE])
            inbox.put(sender.announce(spans, owners, end.stream))
            sender.send()
        wrong, buffers = line.get()
        sender.close()
    return wrong, buffers


def nccl_buffer_reuse(figures: Figures) -> dict[str, Any]:
    results = {}
    for name, target, careless in (("guarded", "0 wrong", False), ("not guarded", "detected", True)):
        wrong, buffers = wrong_where(careless)
        figures.add(name, target=target, messages=MESSAGES, wrong=len(wrong), buffers=buffers)
        results[name] = {"wrong": wrong, "buffers": buffers}
    return results


if __name__ == "__main__":
    run(nccl_buffer_reuse)
