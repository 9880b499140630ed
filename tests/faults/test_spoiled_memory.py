"""Shared memory of a live graph is spoiled: that graph breaks, in words, and nothing else does."""

from __future__ import annotations

import asyncio
import os
import re
import select
import struct

import pytest
import ray
from ray.dag import InputNode, MultiOutputNode

import async_adag
from async_adag import ExecutionTimeout, GraphBroken
from async_adag.channels.processor import make_fence
from async_adag.channels.ring import SLOT
from async_adag.protocol.frame import BLOCK, HEADER_SIZE, INLINE, Header, Kind, pack_bare, pack_header
from tests.gate import wait_at
from tests.strangers import PATIENCE
from tests.turns import until

U64 = 2**64 - 1


def pass_gate(value):
    """Stands at a gate where the value is a path, which only strings are; on an async actor, so does its loop."""
    return wait_at(value) if isinstance(value, str) else value


def single(actor):
    with InputNode() as x:
        return actor.call.bind(pass_gate, x)


def chain(first, second):
    with InputNode() as x:
        return second.echo.bind(first.call.bind(pass_gate, x))


class Ring:
    """One channel of the driver's, as whoever can write its memory sees it."""

    def __init__(self, end, bell):
        self.end = end
        self.bell = bell
        self.layout = end._pool._layout if hasattr(end, "_pool") else end._layout
        self.words = end._memory[: self.layout.words * 8].cast("Q")

    def header(self, seq):
        at = self.end._slots_begin + seq % self.layout.slots * SLOT
        return self.end._memory[at : at + HEADER_SIZE]

    def await_frames(self, count):
        """Sleeps as the reader does, until the writer rings."""
        head, parked = self.layout.head, self.layout.parked[0]
        while self.words[head] < count:
            self.bell.silence()
            self.words[parked] = 1
            with make_fence():
                pass
            if self.words[head] < count:
                assert select.select([self.bell.fd], [], [], PATIENCE)[0], "no frame came"
        self.bell.ring()  # of the reader, who may sleep there too


def into(compiled, number=0):
    ends = compiled._engine.deployment.ends
    return Ring(list(ends.writers.values())[number], ends.doorbell)


def out_of(compiled):
    ends = compiled._engine.deployment.ends
    (end,) = ends.readers.values()
    return Ring(end, ends.doorbell)


def another_magic(ring, seq):
    ring.header(seq)[0] ^= 0xFF


def another_version(ring, seq):
    ring.header(seq)[0] += 1


def one_too_early(ring, seq):
    pack_bare(ring.header(seq), 0, Kind.NONE, seq - 1, 0)


def one_too_late(ring, seq):
    pack_bare(ring.header(seq), 0, Kind.NONE, seq + 1, 0)


def no_kind(ring, seq):
    pack_bare(ring.header(seq), 0, 77, seq, 0)


def too_long(ring, seq):
    pack_bare(ring.header(seq), 0, Kind.BYTES, seq, 1 << 40)


def too_many_buffers(ring, seq):
    pack_header(ring.header(seq), 0, Header(Kind.PICKLE, INLINE, 2**31, seq, 8, 8, 0, 0, 0))


def outside_the_file(ring, seq):
    pack_header(ring.header(seq), 0, Header(Kind.BYTES, BLOCK, 0, seq, 5000, 5000, 0, 1 << 40, 1))


def zeros(ring, seq):
    ring.header(seq)[:] = bytes(HEADER_SIZE)


def noise(ring, seq):
    ring.header(seq)[:] = b"\xff" * HEADER_SIZE


def head_far_ahead(ring, seq):
    ring.words[ring.layout.head] = U64
    zeros(ring, seq)


def head_far_behind(ring, seq):
    ring.words[ring.layout.head] = 0  # ``seq`` is more than the reader has taken, so this is less
    zeros(ring, seq)


SPOILT = [
    another_magic,
    another_version,
    one_too_early,
    one_too_late,
    no_kind,
    too_long,
    too_many_buffers,
    outside_the_file,
    zeros,
    noise,
    head_far_ahead,
    head_far_behind,
]
spoilt = pytest.mark.parametrize("spoil", SPOILT, ids=lambda function: function.__name__)


def name_of(actor):
    return f"({actor._actor_id.hex()[:6]})"


def check(error, *words):
    assert type(error) is GraphBroken, repr(error)
    assert "Traceback" not in str(error)
    for word in words:
        assert word in str(error)


@pytest.fixture
def graphs(workers, async_worker):
    """Compiles two graphs: one of a single actor, to be spoiled, and one of that actor and a second."""
    opened = []

    def compile_(first=workers[0], **options):
        opened.append(async_adag.compile(single(first), **options))
        opened.append(async_adag.compile(chain(first, workers[1])))
        return opened[-2:]

    yield compile_
    for graph in opened:
        graph.teardown()


@spoilt
def test_a_frame_for_an_actor_sync(workers, graphs, gate, spoil):
    spoilt, other = graphs()
    assert spoilt.execute(0).get() == 0
    held, fine, bad, behind = (spoilt.execute(x) for x in (gate.path, 2, 3, 4))
    gate.entered()
    spoil(into(spoilt), 3 if "head" not in spoil.__name__ else 2)
    gate.open("held")
    for seq, ref in ((3, bad), (4, behind)):
        with pytest.raises(GraphBroken) as caught:
            ref.get()
        edge = f"from the driver to call on Worker{name_of(workers[0])}"
        check(caught.value, edge, "failed in execution", f"execution {seq} had not arrived")
    assert held.get() == "held"  # had arrived, and stays
    if "head" not in spoil.__name__:
        assert fine.get() == 2
        assert "failed in execution 3" in str(caught.value)
    with pytest.raises(GraphBroken, match="the graph is broken"):
        spoilt.execute(5)
    assert other.execute(6).get() == 6
    with async_adag.compile(chain(workers[0], workers[1])) as again:
        assert again.execute(7).get() == 7


@spoilt
async def test_a_frame_for_an_async_actor(async_worker, graphs, gate, spoil):
    spoilt, other = graphs(async_worker)
    assert await spoilt(0) == 0
    held = await spoilt.execute_async(gate.path)
    gate.entered()
    futures = [await spoilt.execute_async(n) for n in (2, 3, 4)]
    spoil(into(spoilt), 2)
    gate.open("held")
    for seq, result in enumerate(await asyncio.gather(*futures, return_exceptions=True), 2):
        edge = f"from the driver to call on AsyncWorker{name_of(async_worker)}"
        check(result, edge, "failed in execution 2", f"execution {seq} had not arrived")
    # The loop ends at once: what it had read and not yet written goes with it.
    if held.exception() is None:
        assert await held == "held"
    with pytest.raises(GraphBroken):
        await spoilt(5)
    assert await other(6) == 6


@spoilt
async def test_a_result(workers, graphs, gate, spoil):
    spoilt, other = graphs()
    first = [await spoilt.execute_async(n) for n in (0, 1)]
    assert await asyncio.gather(*first) == [0, 1]
    futures = [await spoilt.execute_async(n) for n in (gate.path, 3, 4)]
    gate.open("held")  # nothing is awaited from here on, so nobody takes in what comes
    out_of(spoilt).await_frames(5)
    spoil(out_of(spoilt), 3 if "head" not in spoil.__name__ else 2)
    results = await asyncio.gather(*futures, return_exceptions=True)
    if "head" not in spoil.__name__:
        assert results.pop(0) == "held"  # lay before it
    for seq, result in enumerate(reversed(results)):
        edge = f"from call on Worker{name_of(workers[0])} to the driver failed"
        check(result, edge, f"execution {4 - seq} had not arrived")
    assert await asyncio.gather(*first) == [0, 1]
    with pytest.raises(GraphBroken):
        await spoilt(5)
    assert await other(6) == 6
    async with async_adag.compile(chain(workers[0], workers[1])) as again:
        assert await again(7) == 7


def test_a_result_for_a_thread(workers, graphs):
    spoilt, other = graphs()
    assert spoilt.execute(0).get() == 0
    refs = [spoilt.execute(n) for n in (1, 2, 3)]
    out_of(spoilt).await_frames(4)
    noise(out_of(spoilt), 2)
    for _ in range(2):
        with pytest.raises(GraphBroken) as caught:
            refs[1].get()
        check(caught.value, f"call on Worker{name_of(workers[0])}", "execution 2 had not arrived")
    assert refs[0].get() == 1
    with pytest.raises(GraphBroken):
        ray.get(refs[2])
    assert other.execute(6).get() == 6


async def test_a_frame_in_a_map(workers, graphs, gate):
    """What comes before it is yielded; it is raised in its place, and ends the iteration."""
    spoilt, other = graphs()
    results = spoilt.map([gate.path, 1, 2, 3], window=4)
    first = asyncio.ensure_future(anext(results))
    await until(lambda: spoilt.stats().executions == 4)
    gate.entered()
    noise(into(spoilt), 2)
    gate.open("held")
    assert await first == "held"
    assert await anext(results) == 1
    with pytest.raises(GraphBroken) as caught:
        await anext(results)
    check(caught.value, "from the driver to call", "failed in execution 2")
    assert [result async for result in results] == []
    assert [result async for result in other.map([4, 5])] == [4, 5]


async def test_a_frame_for_an_async_actor_in_a_map(async_worker, graphs, gate):
    """Its loop ends at once, so that what it had read and not written is missing too."""
    spoilt, other = graphs(async_worker)

    async def items():
        yield gate.path
        await asyncio.to_thread(gate.entered)  # its loop stands there, and reads nothing more
        for n in (1, 2, 3):
            yield n

    results = spoilt.map(items(), window=4)
    got = [asyncio.ensure_future(anext(results))]
    await until(lambda: spoilt.stats().executions == 4)
    noise(into(spoilt), 2)
    gate.open("held")
    await asyncio.wait(got)
    while got[-1].exception() is None:
        got.append(asyncio.ensure_future(anext(results)))
        await asyncio.wait(got)
    check(got.pop().exception(), "from the driver to call", "failed in execution 2")
    assert [future.result() for future in got] == ["held", 1][: len(got)]
    assert [result async for result in results] == []
    assert [result async for result in other.map([4, 5])] == [4, 5]


def test_a_graph_that_is_full_when_it_is_spoiled(workers, graphs):
    """Whoever waits for a place, or asks for one, is told."""
    spoilt, other = graphs(max_inflight=2)
    refs = [spoilt.execute(n) for n in range(2)]
    out_of(spoilt).await_frames(2)
    noise(out_of(spoilt), 0)
    with pytest.raises(GraphBroken):
        spoilt.execute(2)
    for ref in refs:
        with pytest.raises(GraphBroken):
            ref.get()
    assert other.execute(6).get() == 6


async def test_a_full_graph_that_is_awaited(workers, graphs, gate):
    spoilt, other = graphs(max_inflight=2)
    futures = [await spoilt.execute_async(n) for n in (gate.path, 1)]
    gate.open("held")  # as above
    out_of(spoilt).await_frames(2)
    noise(out_of(spoilt), 0)
    for result in await asyncio.gather(spoilt(2), *futures, spoilt(3), return_exceptions=True):
        check(result, "the driver failed")
    assert await other(6) == 6


async def test_a_graph_that_is_spoiled_while_no_event_loop_watches(workers, graphs):
    """The loop that comes next takes in what has arrived, and learns of it."""
    spoilt, other = graphs()
    ref = spoilt.execute(0)
    out_of(spoilt).await_frames(1)
    noise(out_of(spoilt), 0)
    with pytest.raises(GraphBroken):
        await spoilt(1)
    with pytest.raises(GraphBroken):
        ref.get()
    assert await other(6) == 6


async def test_a_graph_that_is_spoiled_while_it_drains(workers, graphs, gate):
    spoilt, other = graphs()
    held = await spoilt.execute_async(gate.path)
    future = await spoilt.execute_async(1)
    gate.entered()
    noise(into(spoilt), 1)
    closing = asyncio.ensure_future(spoilt.aclose())
    await asyncio.sleep(0)
    gate.open("held")
    await closing
    assert await held == "held"
    with pytest.raises(GraphBroken):
        await future
    assert await other(6) == 6


# -- words


@pytest.mark.parametrize("tail", [7, 2**63, U64, 0], ids=["one ahead", "far ahead", "last number", "far behind"])
@pytest.mark.parametrize("way", ["execute", "await"])
def test_how_far_an_actor_has_read(workers, graphs, tail, way):
    """The driver would write over frames that were not read, or wait for ever."""
    spoilt, other = graphs(max_inflight=2)
    for n in range(6):
        assert spoilt.execute(n).get() == n
    ring = into(spoilt)
    ring.words[ring.layout.tails[0]] = tail
    with pytest.raises(GraphBroken) as caught:
        spoilt.execute(6) if way == "execute" else asyncio.run(spoilt(6))
    check(caught.value, "from the driver to call", "frames where 6 were written", name_of(workers[0]))
    assert other.execute(6).get() == 6


@pytest.mark.parametrize("tail", [2**63, 0], ids=["far ahead", "far behind"])
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_how_far_the_driver_has_read(workers, async_worker, tail, kind):
    last = workers[1] if kind == "sync" else async_worker
    dags = []
    for _ in range(2):
        with InputNode() as x:
            dags.append(last.echo.bind(x))
    spoilt, other = (async_adag.compile(dag, max_inflight=2) for dag in dags)
    with spoilt, other:
        for n in range(6):
            assert spoilt.execute(n).get() == n
        ring = out_of(spoilt)
        ring.words[ring.layout.tails[0]] = tail
        with pytest.raises(GraphBroken) as caught:
            spoilt.execute(6).get()
        check(caught.value, f"{name_of(last)} to the driver failed in execution 6", "where 6 were written")
        assert other.execute(6).get() == 6


def test_blocks_that_nobody_gives_back(workers, graphs):
    """Each of more large payloads than readers can hold takes a block: an error, not an endless search."""
    spoilt, other = graphs(max_inflight=2)
    ring = into(spoilt)
    for _ in range(ring.layout.blocks):
        assert spoilt.execute(bytes(2000)).get() == bytes(2000)
        for block in range(ring.layout.blocks):
            ring.words[ring.layout.returned[0] + block] = U64
    with pytest.raises(GraphBroken) as caught:
        spoilt.execute(bytes(2000))
    check(caught.value, "from the driver to call", f"any of {ring.layout.blocks} blocks")
    assert other.execute(6).get() == 6


def test_the_input_whose_blocks_nobody_gives_back_is_named(workers):
    first, second = workers[:2]
    with InputNode() as x:
        dag = MultiOutputNode([first.echo.bind(x[0]), second.echo.bind(x[1])])
    with async_adag.compile(dag) as compiled:
        ring = into(compiled, 0)
        for _ in range(ring.layout.blocks):
            assert compiled.execute(bytes(2000), 1).get() == [bytes(2000), 1]
            for block in range(ring.layout.blocks):
                ring.words[ring.layout.returned[0] + block] = U64
        with pytest.raises(GraphBroken, match=rf"its other side is .*{re.escape(name_of(first))}"):
            compiled.execute(bytes(2000), 1)


def test_a_control_page(workers, graphs):
    """All that the driver reads there may be anything; what it says may be wrong, and nothing else."""
    spoilt, other = graphs()
    assert spoilt.execute(0).get() == 0
    control = spoilt._engine.deployment.controls[0]
    for number in range(1, len(control.words)):  # all but the word that ends the loop
        control.words[number] = U64
    assert "calls=" in repr(spoilt.stats())
    assert "CompiledGraph" in repr(spoilt)
    assert spoilt._engine.describe_computing() == "; no actor is computing"
    with pytest.raises(GraphBroken, match=r"left the graph"):
        spoilt.execute(1).get()
    assert other.execute(6).get() == 6


def test_the_word_that_ends_a_loop(workers, graphs):
    spoilt, other = graphs()
    assert spoilt.execute(0).get() == 0
    spoilt._engine.deployment.controls[0].words[0] = U64
    with pytest.raises(GraphBroken, match="its loop ended"):
        spoilt.execute(1).get()
    assert other.execute(6).get() == 6


# -- what the frames carry


class Bomb:
    """Makes a directory wherever it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("spoil", [another_version, one_too_late], ids=lambda function: function.__name__)
def test_nothing_is_unpickled_from_a_refused_frame(workers, async_worker, graphs, gate, tmp_path, kind, spoil):
    spoilt, other = graphs(workers[0] if kind == "sync" else async_worker)
    assert spoilt.execute(Bomb(tmp_path / "unpickled")).get() is None
    assert (tmp_path / "unpickled").is_dir(), "the bomb is none"
    spoilt.execute(gate.path)
    gate.entered()
    bad = spoilt.execute(Bomb(tmp_path / "refused"))
    header = into(spoilt).header(2)
    if spoil is one_too_late:
        struct.pack_into("=Q", header, 8, 3)  # its number alone
    else:
        spoil(into(spoilt), 2)
    gate.open()
    with pytest.raises(GraphBroken):
        bad.get()
    assert not (tmp_path / "refused").exists()
    assert other.execute(6).get() == 6


def test_nothing_is_unpickled_in_the_driver_either(workers, tmp_path):
    with InputNode() as x:
        dag = workers[0].call.bind(Bomb, x)
    with async_adag.compile(dag) as compiled:
        assert compiled.execute(str(tmp_path / "unpickled")).get() is None
        assert (tmp_path / "unpickled").is_dir(), "the bomb is none"
        bad = compiled.execute(str(tmp_path / "refused"))
        out_of(compiled).await_frames(2)
        another_version(out_of(compiled), 1)
        with pytest.raises(GraphBroken):
            bad.get()
    assert not (tmp_path / "refused").exists()


def as_pickle(ring, seq, value):
    """A frame that is one in all but its meaning."""
    encoded = async_adag.channels.codec.dumps(value)
    at = ring.end._slots_begin + seq % ring.layout.slots * SLOT + HEADER_SIZE
    ring.end._memory[at : at + len(encoded)] = encoded
    pack_bare(ring.header(seq), 0, Kind.PICKLE, seq, len(encoded))


def as_stop(ring, seq, _):
    pack_bare(ring.header(seq), 0, Kind.STOP, seq, 0)


def as_error(ring, seq, _):
    pack_bare(ring.header(seq), 0, Kind.ERROR, seq, 3)


@pytest.mark.parametrize("value", [1, (1,), (1, 2, 3)], ids=str)
def test_another_number_of_values_than_there_are(workers, value):
    with InputNode() as x:
        left, right = workers[0].split.bind(x)
        dag = MultiOutputNode([left, right])
    with async_adag.compile(dag) as compiled:
        assert compiled.execute(1).get() == [1, -1]
        refs = compiled.execute(2)
        out_of(compiled).await_frames(2)
        as_pickle(out_of(compiled), 1, value)
        with pytest.raises(GraphBroken) as caught:
            refs.get()
        check(caught.value, "split on Worker", "another number of values")


@pytest.mark.parametrize("value", [1, (1,), (1, 2, 3)], ids=str)
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_another_number_of_arguments_than_there_are(workers, async_worker, gate, kind, value):
    first = workers[0] if kind == "sync" else async_worker
    with InputNode() as x:
        dag = first.call.bind(take_first, x[0], x[1])
    with async_adag.compile(dag) as compiled:
        assert compiled.execute(1, 2).get() == 1
        compiled.execute(gate.path, 0)
        gate.entered()
        bad = compiled.execute(3, 4)
        as_pickle(into(compiled), 2, value)
        gate.open()
        with pytest.raises(GraphBroken) as caught:
            bad.get()
        check(caught.value, "from the driver to call", "no 2 values in it")


def take_first(first, second):
    return pass_gate(first)


def test_a_stop_that_nobody_sent(workers, graphs):
    spoilt, other = graphs()
    bad = spoilt.execute(0)
    out_of(spoilt).await_frames(1)
    as_stop(out_of(spoilt), 0, None)
    with pytest.raises(GraphBroken, match="a stop that nobody sent"):
        bad.get()
    assert other.execute(6).get() == 6


def test_an_error_that_is_none(workers, graphs):
    """It cannot be unpickled: the execution fails, and the graph goes on."""
    spoilt, _ = graphs()
    bad = spoilt.execute(0)
    out_of(spoilt).await_frames(1)
    as_error(out_of(spoilt), 0, None)
    with pytest.raises(Exception, match=r".") as caught:
        bad.get(timeout=100)
    assert not isinstance(caught.value, (GraphBroken, ExecutionTimeout))
    assert "the error of a node could not be unpickled here" in caught.value.__notes__[0]
    assert spoilt.execute(1).get() == 1


def test_a_frame_that_no_execution_waits_for(workers, graphs):
    spoilt, other = graphs()
    assert spoilt.execute(0).get() == 0
    ring = out_of(spoilt)
    as_pickle(ring, 1, "forged")
    ring.words[ring.layout.head] = 2
    spoilt._engine.on_doorbell()
    with pytest.raises(GraphBroken, match="a frame that no execution waits for"):
        spoilt.execute(1)
    assert other.execute(6).get() == 6
