"""The negative control: a writer that does not wait for its reader's device overwrites what that still reads.

The reader's host is done with each message at once, while its device takes long to come to it. There are two
slots, so every message but the first two is put where another is being read. With our sender all are right; with
one whose streams do not wait for the reader's acks, the check on the device finds that they are not.
"""

from __future__ import annotations

from typing import Any

from async_adag.gpu.acks import acks_size
from async_adag.gpu.ipc_receiver import IpcReceiver
from async_adag.gpu.ipc_sender import IpcSender
from tests.gpu.control import Heedless
from tests.gpu.hand_over import Pooled, Reader, Writer
from tests.gpu.mailbox import Mailbox, Page
from tests.gpu.peers import Line, peer
from tests.gpu.step import Figures, run

MESSAGES = 20
SIZE = 1 << 20
SLOTS = 2
SLOW = 20e-3  # seconds before the reader's device gets to a message: several turns of two processes on one GPU


def reader(line: Line, page: Page, inbox: Mailbox) -> None:
    end = Reader(MESSAGES)
    receiver = IpcReceiver(end.device, page.memory, 0, SLOTS)
    end.kernels.spin(end.compute, 0)
    end.wrong()
    line.put("ready")
    for number in range(MESSAGES):
        arrived = receiver.receive(inbox.get(), [SIZE], end.stream)
        end.kernels.spin(end.compute, SLOW)
        end.check(number, arrived, [SIZE])
        del arrived
    line.put(end.wrong())
    receiver.close()


def wrong_where(heedless: bool) -> list[int]:
    """The messages that were not right."""
    page, inbox = Page(acks_size(SLOTS, 1)), Mailbox()
    with peer(reader, page, inbox) as line:
        end = Writer(Pooled())
        sender = IpcSender(Heedless(end.device) if heedless else end.device, page.memory, 1, SLOTS)
        line.get()
        for number in range(MESSAGES):
            spans, owners = end.make(number, [SIZE])
            inbox.put(sender.announce(spans, owners, end.stream), room=1)
            sender.send()
        wrong: list[int] = line.get()
        sender.close()
    return wrong


def ipc_no_acks(figures: Figures) -> dict[str, Any]:
    with_acks, without = wrong_where(heedless=False), wrong_where(heedless=True)
    figures.add("with the reader's acks", target="0 wrong", messages=MESSAGES, wrong=len(with_acks))
    figures.add("without them", target="detected", messages=MESSAGES, wrong=len(without))
    return {"with": with_acks, "without": without}


if __name__ == "__main__":
    run(ipc_no_acks)
