"""Edges over links, one promise at a time, and NCCL's link without NCCL; `test_gpu_graphs` has the rest."""

from __future__ import annotations

import pickle
import sys
import threading
from types import SimpleNamespace

import pytest

from async_adag.gpu import buffers
from async_adag.gpu import links as module
from async_adag.gpu.interface import DeviceError, Span
from async_adag.gpu.links import LinkReceiver, LinkSender
from async_adag.gpu.nccl import NcclLink
from async_adag.gpu.simulated import Simulation
from tests.gpu_edges import Pool, filling, wait_in_virtual_time


class Edge:
    def __init__(self, **options) -> None:
        self.simulation = Simulation()
        self.writer = self.simulation.process(0)
        self.reader = self.simulation.process(1)
        self.links = [self.simulation.link(self.writer, self.reader)]
        self.links.append(pickle.loads(pickle.dumps(self.links[0])))
        for rank, link in enumerate(self.links):
            link.initialize(rank)
        self.pool = Pool(self.writer)
        self.sender = LinkSender(self.writer, [self.links[0]])
        self.receiver = LinkReceiver(self.reader, self.links[1], **options)
        self.compute = self.writer.adopt(0)
        self.use = self.reader.adopt(0)

    def announce(self, *sizes: int):
        tensors = [self.pool.make(size) for size in sizes]
        self.writer.kernel(self.compute, writes=[tensor.span for tensor in tensors])
        return self.sender.announce([tensor.span for tensor in tensors], tensors, self.compute), sizes

    def send(self, *sizes: int):
        frame = self.announce(*sizes)
        self.sender.send()
        return frame

    def receive(self, frame):
        return self.receiver.receive(*frame, self.use)


@pytest.fixture
def make_edge(monkeypatch):
    def make(**options) -> Edge:
        edge = Edge(**options)
        wait_in_virtual_time(monkeypatch, edge.simulation)
        return edge

    return make


def test_owners_are_held_until_all_of_it_was_sent_and_no_longer(make_edge):
    edge = make_edge()
    frame = edge.send(100, 200)
    assert edge.pool.free == []
    edge.receive(frame)
    edge.simulation.run()
    edge.announce(1)  # looks at what was sent, and has made its own before
    assert len(edge.pool.free) == 2
    edge.sender.withdraw()
    assert len(edge.pool.free) == 3
    edge.sender.send()
    assert edge.simulation.settle() == []


def test_buffers_are_used_again_when_they_have_been_read(make_edge):
    edge = make_edge()
    addresses = set()
    for _ in range(10):
        (arrived,) = edge.receive(edge.send(1 << 20))
        addresses.add(arrived.span.address)
        del arrived
        edge.simulation.run()
    assert len(addresses) <= 2


def test_small_ones_share_memory(make_edge):
    edge = make_edge()
    kept = [edge.receive(edge.send(100)) for _ in range(100)]
    assert len({part.span.address for (part,) in kept}) == 100
    assert len(edge.receiver._buffers._slabs) == 1


def test_only_so_many_that_nobody_uses_are_kept(make_edge):
    edge = make_edge()
    kept = [edge.receive(edge.send(1 << 20)) for _ in range(100)]
    edge.simulation.run()
    kept.clear()
    for _ in range(80):
        edge.receive(edge.send(1 << 20))
        edge.simulation.run()
    assert len(edge.receiver._buffers._large) <= edge.receiver._buffers.KEPT + 1


@pytest.mark.parametrize(("backlog", "beside"), [(1, 1), (2, 2), (16, 5)])
def test_receiving_waits_for_what_uses_older_buffers_only_when_there_are_many(make_edge, backlog, beside):
    edge = make_edge(backlog=backlog)
    for _ in range(5):
        (arrived,) = edge.receive(edge.send(1 << 20))
        edge.reader.kernel(edge.use, reads=[arrived.span], seconds=1.0)
        del arrived
    edge.simulation.run()
    ends = [done.end for done in edge.simulation.history if done.kind == "receive"]
    assert sum(end < 1.0 for end in ends) == beside


def test_what_comes_out_of_order_is_refused(make_edge):
    edge = make_edge()
    first, second = edge.send(10), edge.send(10)
    edge.receive(second)
    with pytest.raises(DeviceError, match="number 1 came behind number 2"):
        edge.receive(first)


def test_a_dead_peer_is_found_and_closing_ends_what_waits_for_it(make_edge, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    edge = make_edge()
    edge.send(100)
    edge.reader.kill()
    now[0] = 1.0
    with pytest.raises(DeviceError, match="was killed"):
        edge.announce(100)
    assert edge.simulation.settle() != []
    edge.sender.close()
    assert edge.simulation.settle() == []
    with pytest.raises(DeviceError, match="closed"):
        edge.announce(100)


def test_links_are_not_asked_at_each_call(monkeypatch):
    now = [10.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    asked = []
    checked = module._Checked([SimpleNamespace(check=lambda: asked.append(now[0]))])
    for moment in (10.0, 10.001, 10.004, 10.006, 10.007):
        now[0] = moment
        checked.check()
    assert asked == [10.0, 10.006]


def test_what_failed_half_way_is_held_all_the_same(make_edge):
    edge = make_edge()
    link = edge.links[0]
    real = link.send
    calls = []

    def send(span, stream):
        calls.append(span)
        if len(calls) == 2:
            raise DeviceError("cable cut")
        real(span, stream)

    link.send = send
    edge.announce(100, 200)
    with pytest.raises(DeviceError, match="cable cut"):
        edge.sender.send()
    assert edge.pool.free == []


def test_closing_gives_everything_back_and_keeps_what_is_kept(make_edge):
    edge = make_edge()
    (kept,) = edge.receive(edge.send(1 << 20))
    edge.receive(edge.send(100))
    edge.simulation.run()
    edge.receiver.close()
    edge.sender.close()
    edge.pool.close()
    edge.reader.kernel(edge.use, reads=[kept.span])
    edge.simulation.run()
    del kept
    edge.receiver.close()
    assert edge.simulation.belongings() == []


@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize("first", ["reader", "writer"])
def test_what_is_kept_is_whole_though_the_device_was_still_receiving_as_both_ends_closed(
    make_edge, overlap, first
):
    edge = make_edge(overlap=overlap)
    data = [bytes([number]) * (1 << 20) for number in range(1, 4)]
    kept = []
    for part in data:
        tensor = edge.pool.make(len(part))
        edge.writer.kernel(edge.compute, writes=[tensor.span], seconds=0.1, transform=filling(part))
        note = edge.sender.announce([tensor.span], [tensor], edge.compute)
        edge.sender.send()
        edge.reader.kernel(edge.use, seconds=0.1)
        kept += edge.receive((note, [len(part)]))
        del tensor
    assert edge.simulation.history == []
    for end in (edge.receiver, edge.sender) if first == "reader" else (edge.sender, edge.receiver):
        end.close()
    edge.simulation.run()
    assert [edge.reader.peek(part.span) for part in kept] == data
    kept.clear()
    edge.receiver.close()
    edge.pool.close()
    assert edge.simulation.belongings() == []


def fail_the_device(edge):
    edge.reader.kernel(edge.reader.stream(), what="break")
    edge.simulation.fail(lambda work: work.what.startswith("break"))
    edge.simulation.settle()


ENDS = {
    "its writer was killed": lambda edge: edge.writer.kill(),
    "its writer has closed": lambda edge: edge.sender.close(),
    "the link was destroyed beneath it": lambda edge: edge.links[1].destroy(),
    "its device has failed": fail_the_device,
}


@pytest.mark.parametrize("end", ENDS)
def test_closing_does_not_wait_for_what_can_never_come(make_edge, end):
    edge = make_edge()
    kept = edge.receive(edge.announce(100))  # which is never sent
    ENDS[end](edge)
    began = buffers.monotonic()
    edge.receiver.close()
    assert buffers.monotonic() - began < 0.1
    del kept


READER_ENDS = {
    "one reader was killed before": lambda edge: edge.reader.kill(),
    "one reader has closed": lambda edge: edge.receiver.close(),
    "the link to it was destroyed": lambda edge: edge.links[0].destroy(),
}


@pytest.mark.parametrize("end", READER_ENDS)
def test_a_writer_that_closes_still_sends_to_the_others_and_does_not_wait_for_a_reader_that_has_ended(
    make_edge, end
):
    edge = make_edge()
    other = edge.simulation.process(2)
    link = edge.simulation.link(edge.writer, other)
    far = pickle.loads(pickle.dumps(link))
    link.initialize(0)
    far.initialize(1)
    edge.sender = LinkSender(edge.writer, [edge.links[0], link])
    receiver = LinkReceiver(other, far)
    data = b"\x07" * 1000
    tensor = edge.pool.make(len(data))
    edge.writer.kernel(edge.compute, writes=[tensor.span], seconds=0.1, transform=filling(data))
    note = edge.sender.announce([tensor.span], [tensor], edge.compute)
    edge.sender.send()
    (kept,) = receiver.receive(note, [len(data)], other.adopt(0))
    READER_ENDS[end](edge)
    began = buffers.monotonic()
    edge.sender.close()
    assert buffers.monotonic() - began < 0.2
    edge.simulation.run()
    assert other.peek(kept.span) == data
    del kept


def test_a_writer_that_closes_stops_waiting_as_the_reader_ends(make_edge, monkeypatch):
    edge = make_edge()
    edge.send(100)
    looked = []
    real = edge.links[0].check

    def check():
        looked.append(len(looked))
        if len(looked) == 3:
            edge.reader.kill()
        real()

    monkeypatch.setattr(edge.links[0], "check", check)
    edge.sender.close()
    assert len(looked) == 3


def test_closing_waits_only_so_long_for_a_writer_that_says_nothing(make_edge):
    edge = make_edge(linger=1.0)
    edge.receive(edge.announce(100))
    began = buffers.monotonic()
    edge.receiver.close()
    assert 1.0 <= buffers.monotonic() - began < 1.1
    assert edge.simulation.settle() == []


def test_whoever_drops_something_after_the_end_enters_the_device(make_edge, monkeypatch):
    edge = make_edge()
    kept = [edge.receive(edge.send(100)) for _ in range(3)]
    edge.simulation.run()
    entered: list[int | None] = []
    monkeypatch.setattr(edge.reader, "enter", lambda: entered.append(threading.get_ident()))
    kept.pop()
    edge.receiver._arrivals.collect()
    assert entered == []
    edge.receiver.close()
    entered.clear()
    thread = threading.Thread(target=kept.pop)
    thread.start()
    thread.join()
    assert entered == [thread.ident]


# NCCL's link: what is ours of it. NCCL itself is run by tests/gpu.


class Communicator:
    """What cupy's would be."""

    meeting = threading.Event()

    def __init__(self, ranks, identity, rank) -> None:
        assert (ranks, identity) == (2, b"id")
        Communicator.meeting.wait(100)
        self.calls: list = []
        self.error: Exception | None = None
        self.hook = lambda: None

    def send(self, *arguments) -> None:
        self.hook()
        self.calls.append(("send", *arguments))

    def recv(self, *arguments) -> None:
        self.calls.append(("recv", *arguments))

    def check_async_error(self) -> None:
        if self.error is not None:
            raise self.error

    def abort(self) -> None:
        self.calls.append(("abort",))


@pytest.fixture
def groups(monkeypatch):
    calls: list[str] = []
    nccl = SimpleNamespace(
        available=True,
        NCCL_UINT8=1,
        NcclCommunicator=Communicator,
        get_unique_id=lambda: b"id",
        groupStart=lambda: calls.append("start"),
        groupEnd=lambda: calls.append("end"),
    )
    cuda = SimpleNamespace(
        nccl=nccl,
        runtime=SimpleNamespace(getDevice=lambda: 3, setDevice=lambda number: calls.append(f"device {number}")),
        Memory=lambda nbytes: SimpleNamespace(ptr=64),
        Stream=lambda non_blocking: SimpleNamespace(ptr=5, synchronize=lambda: None),
    )
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=cuda))
    monkeypatch.setitem(sys.modules, "cupy.cuda", cuda)
    monkeypatch.setattr(Communicator, "meeting", threading.Event())
    return calls


def initialized(rank: int = 0) -> NcclLink:
    link = pickle.loads(pickle.dumps(NcclLink(NcclLink.new_id())))
    Communicator.meeting.set()
    link.initialize(rank)
    return link


def test_nccl_is_warmed_up_and_carries_bytes(groups):
    link = initialized(1)
    assert groups == ["device 3"]
    communicator = link._communicator
    assert communicator.calls == [("recv", 64, 256, 1, 0, 5)]
    with link.group():
        link.receive(Span(1000, 7), SimpleNamespace(handle=9))
    assert communicator.calls[1:] == [("recv", 1000, 7, 1, 0, 9)]
    assert groups[1:] == ["start", "end"]
    with pytest.raises(TypeError, match="belongs to its process"):
        pickle.dumps(link)


def test_nccl_ends_a_group_also_when_a_call_in_it_has_failed(groups):
    link = initialized()
    link._communicator.hook = lambda: (_ for _ in ()).throw(RuntimeError("NCCL_ERROR_INTERNAL_ERROR"))
    with pytest.raises(DeviceError, match="ncclSend: RuntimeError: NCCL_ERROR_INTERNAL_ERROR"), link.group():
        link.send(Span(0, 1), SimpleNamespace(handle=0))
    assert groups[-1] == "end"


def test_nccl_says_what_has_failed(groups):
    link = initialized()
    link.check()
    link._communicator.error = KeyError(8)  # a status that cupy has no name for
    with pytest.raises(DeviceError, match="KeyError: 8"):
        link.check()


def test_destroy_ends_the_waiting_for_a_rank_that_never_comes(groups):
    link = NcclLink(b"id")
    threading.Timer(0.01, link.destroy).start()
    with pytest.raises(DeviceError, match="before all ranks had met"):
        link.initialize(0)
    Communicator.meeting.set()  # it comes after all: the communicator is aborted by the thread that was left


def test_destroy_waits_for_a_call_and_aborts_beneath_one_that_does_not_return(groups):
    link = initialized()
    communicator = link._communicator
    entered, go_on = threading.Event(), threading.Event()

    def hook() -> None:
        entered.set()
        go_on.wait(100)

    communicator.hook = hook
    thread = threading.Thread(target=link.send, args=(Span(0, 1), SimpleNamespace(handle=0)))
    thread.start()
    entered.wait(100)
    link.ABORT_AFTER = 0.01
    link.destroy()
    assert communicator.calls[1:] == [("abort",)]
    go_on.set()
    thread.join()
    link.destroy()
    assert communicator.calls[1:] == [("abort",), ("send", 0, 1, 1, 1, 0)]
    with pytest.raises(DeviceError, match="destroyed"):
        link.check()


def test_without_cupy_nccl_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setitem(sys.modules, "cupy.cuda", None)
    with pytest.raises(DeviceError, match="cupy cannot be imported"):
        NcclLink.new_id()
