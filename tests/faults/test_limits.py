"""Limits of a driver or an actor at work: an error that names the limit, a graph alive; and thousands at once."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import signal

import numpy as np
import pytest
import ray
from ray.dag import InputNode, MultiOutputNode

import async_adag
from async_adag import GraphError
from tests.actors import AsyncWorker, Worker
from tests.belongings import take_stock
from tests.limits import MB, array_of, has_array_of, lower, lowered, undo, use_up_descriptors
from tests.scripts import start


def chain(first, second):
    with InputNode() as x:
        return second.echo.bind(first.echo.bind(x))


def call(actor, function, *args):
    return ray.get(actor.call.remote(function, *args))


def name_of(actor):
    return f"({actor._actor_id.hex()[:6]})"


# -- descriptors

AS_DESCRIPTORS_RUN_OUT = """
from async_adag import GraphError
from ray.dag import MultiOutputNode
from tests.belongings import take_stock
from tests.limits import undo, use_up_descriptors
first, second = (ray.get_actor(name) for name in sys.argv[2:4])
with InputNode() as x:
    dag = second.echo.bind(first.echo.bind(x))
with async_adag.compile(dag) as compiled:  # Ray opens what it needs to reach them
    compiled.execute(0).get()
del compiled

async def compile_async():
    return await async_adag.compile_async(dag)

before = take_stock()
tried = 0
while True:
    running = asyncio.new_event_loop()  # takes descriptors of its own
    use_up_descriptors(tried)
    try:
        compiled = running.run_until_complete(compile_async()) if tried % 2 else async_adag.compile(dag)
        break
    except GraphError as error:
        text = str(error)
        assert "the driver cannot make" in text, text
        assert "RLIMIT_NOFILE is" in text and "ulimit -n" in text, text
        tried += 1
    finally:
        undo()
        running.close()
    left = take_stock().fds - before.fds
    assert not left, (tried, left)
    if tried % 4 == 0:
        with async_adag.compile(dag) as again:  # the actors are free
            assert again.execute(tried).get() == tried
with compiled:
    assert compiled.execute(tried).get() == tried
left = take_stock().fds - before.fds
assert not left, left
print(tried)
"""


def test_a_driver_that_has_too_few_descriptors_to_compile(cluster, make_actor):
    """However few are left, each number of them: the error names the limit, and nothing is left behind."""
    names = ["of few first", "of few second"]
    actors = [make_actor(kind, name=name) for kind, name in zip((Worker, AsyncWorker), names, strict=True)]
    before = [call(actor, take_stock).fds for actor in actors]
    driver = start(cluster, AS_DESCRIPTORS_RUN_OUT, args=names)
    output, errors = driver.communicate()
    assert driver.returncode == 0, errors
    assert int(output) >= 10
    assert not [fds for actor, then in zip(actors, before, strict=True) if (fds := graphs_of(actor) - then)]


def graphs_of(actor):
    """What graphs hold in an actor, once their loops have ended, which takes them a few looks."""
    for _ in range(100):
        held = call(actor, take_stock).of_graphs()
        if not held:
            break
    return held


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_an_actor_that_has_too_few_descriptors_to_join(workers, async_worker, kind):
    victim = workers[0] if kind == "sync" else async_worker
    dag = chain(victim, workers[1])
    with async_adag.compile(dag) as compiled:
        assert compiled.execute(1).get() == 1
    del compiled
    before = [take_stock().fds, *(call(actor, take_stock).fds for actor in (victim, workers[1]))]
    for leave in range(30):
        call(victim, use_up_descriptors, leave)
        try:
            compiled = async_adag.compile(dag)
        except GraphError as error:
            message = str(error)
            assert name_of(victim) in message
            assert "RLIMIT_NOFILE is" in message
            assert "ulimit -n" in message
        else:
            break
        finally:
            call(victim, undo)
        graphs_of(workers[1])
        after = [take_stock().fds, *(call(actor, take_stock).fds for actor in (victim, workers[1]))]
        assert not [extra for now, then in zip(after, before, strict=True) if (extra := now - then)]
    assert leave >= 6
    with compiled:
        assert compiled.execute(2).get() == 2


@pytest.fixture
def descriptors_used_up(workers, async_worker):
    """A graph whose processes, the driver's too, may not open a single descriptor more."""
    array = np.ones(3)
    with InputNode() as x:
        dag = workers[1].echo.bind(async_worker.echo.bind(workers[0].call.bind(make_or_divide, x)))
    with async_adag.compile(dag, max_inflight=4) as compiled:
        assert np.array_equal(compiled.execute(array).get(), array)  # what an import opens
        with pytest.raises(ZeroDivisionError):
            compiled.execute(0).get()
        actors = [*workers[:2], async_worker]
        for actor in actors:
            call(actor, use_up_descriptors)
        use_up_descriptors()
        try:
            yield compiled
        finally:
            undo()
            for actor in actors:
                call(actor, undo)


def make_or_divide(value):
    return 1 // value if isinstance(value, int) else value


def test_executions_take_no_descriptors_sync(descriptors_used_up):
    compiled = descriptors_used_up
    for size in (1, 10_000, MB, 2 * MB):
        array = np.full(size, size)
        assert np.array_equal(compiled.execute(array).get(), array)
        assert compiled.execute(bytes(size)).get() == bytes(size)
    with pytest.raises(ZeroDivisionError):
        compiled.execute(0).get()
    refs = [compiled.execute(1) for _ in range(20)]  # waits for places
    assert [ref.get(timeout=100) for ref in refs] == [1] * 20


def test_executions_take_no_descriptors_async(workers, async_worker):
    """On both event loops, which are made before the descriptors are used up."""
    array = np.arange(MB)
    actors = [*workers[:2], async_worker]

    async def main():
        dag = chain(async_worker, workers[0])
        async with async_adag.compile(dag, max_inflight=4) as compiled:
            assert np.array_equal(await compiled(array), array)
            for actor in actors:
                await actor.call.remote(use_up_descriptors)
            use_up_descriptors()
            try:
                assert np.array_equal(await compiled(array), array)
                assert await asyncio.gather(*(compiled(n) for n in range(50))) == list(range(50))
                assert [n async for n in compiled.map(range(50))] == list(range(50))
            finally:
                undo()
                for actor in actors:
                    await actor.call.remote(undo)

    asyncio.run(main())


# -- memory


SMALL, LARGE = 100_000, 96 * MB  # bytes: within every limit here, and over
ROOM = 32 * MB  # of the file size, or of the address space beyond what is in use


LIMITS = {
    "file size": (resource.RLIMIT_FSIZE, f"RLIMIT_FSIZE is {ROOM} bytes", "ulimit -f"),
    "address space": (resource.RLIMIT_AS, "RLIMIT_AS is ", "ulimit -v"),
}
limits = pytest.mark.parametrize(("which", "limit", "remedy"), LIMITS.values(), ids=LIMITS)


@pytest.fixture
def maker(workers):
    """A graph whose first actor gives an array of the size that it is told, and has all of them already."""
    for size in (SMALL, LARGE):
        assert call(workers[0], has_array_of, size)
    with InputNode() as size:
        dag = workers[1].call.bind(len, workers[0].call.bind(array_of, size))
    with async_adag.compile(dag) as compiled:
        assert compiled.execute(SMALL).get() == SMALL
        yield compiled


@pytest.fixture
def measurer(workers):
    """A graph whose actor says how long its input is."""
    with InputNode() as x:
        dag = workers[0].call.bind(len, x)
    with async_adag.compile(dag) as compiled:
        assert compiled.execute(array_of(SMALL)).get() == SMALL
        yield compiled


@limits
def test_an_input_over_a_limit_of_the_driver_sync(measurer, which, limit, remedy):
    large, small = array_of(LARGE), array_of(SMALL)
    with lowered(which, ROOM):
        for _ in range(3):
            with pytest.raises(OSError, match=limit) as caught:
                measurer.execute(large)
            assert remedy in str(caught.value)
            assert "no execution was started" in caught.value.__notes__[0]
            assert measurer.execute(small).get() == SMALL
    assert measurer.stats().in_flight == 0
    assert measurer.execute(large[: 40 * MB]).get() == 40 * MB


@limits
async def test_an_input_over_a_limit_of_the_driver_async(measurer, which, limit, remedy):
    large, small = array_of(LARGE), array_of(SMALL)
    with lowered(which, ROOM):
        with pytest.raises(OSError, match=limit):
            await measurer(large)
        futures = [await measurer.execute_async(small) for _ in range(3)]
        with pytest.raises(OSError, match=remedy):
            await measurer.execute_async(large)
        assert await asyncio.gather(*futures) == [SMALL] * 3


@limits
async def test_an_input_over_a_limit_of_the_driver_in_a_map(measurer, which, limit, remedy):
    items = [array_of(SMALL), array_of(LARGE), array_of(SMALL)]
    with lowered(which, ROOM):
        sizes = measurer.map(items)
        assert await anext(sizes) == SMALL
        with pytest.raises(OSError, match=limit):
            await anext(sizes)
        assert [size async for size in sizes] == []
    assert [size async for size in measurer.map(items[::2])] == [SMALL] * 2


@limits
@pytest.mark.parametrize("way", ["execute", "await", "map"])
def test_a_result_over_a_limit_of_an_actor(workers, maker, which, limit, remedy, way):
    async def awaited(size):
        return await maker(size)

    async def mapped(size):
        (result,) = [result async for result in maker.map([size])]
        return result

    def run(size):
        if way == "execute":
            return maker.execute(size).get()
        return asyncio.run((awaited if way == "await" else mapped)(size))

    call(workers[0], lower, which, ROOM)
    try:
        for _ in range(2):
            with pytest.raises(OSError, match=limit) as caught:
                run(LARGE)
            assert remedy in str(caught.value)
            assert run(SMALL) == SMALL
    finally:
        call(workers[0], undo)
    assert run(SMALL) == SMALL


@limits
def test_a_result_over_a_limit_of_an_async_actor(workers, async_worker, which, limit, remedy):
    for size in (SMALL, LARGE):
        assert call(async_worker, has_array_of, size)
    with InputNode() as size:
        dag = workers[1].call.bind(len, async_worker.call.bind(array_of, size))
    with async_adag.compile(dag) as compiled:
        assert compiled.execute(SMALL).get() == SMALL
        call(async_worker, lower, which, ROOM)
        try:
            with pytest.raises(OSError, match=limit) as caught:
                compiled.execute(LARGE).get()
            assert remedy in str(caught.value)
            assert compiled.execute(SMALL).get() == SMALL
        finally:
            call(async_worker, undo)
        assert compiled.execute(LARGE).get() == LARGE


def test_an_argument_over_a_limit_of_the_actor_that_reads_it(workers, maker):
    """The second actor cannot map it: its node fails, with an error that names the limit."""
    call(workers[1], lower, resource.RLIMIT_AS, ROOM)
    try:
        with pytest.raises(OSError, match=r"RLIMIT_AS is \d+ bytes: .*ulimit -v"):
            maker.execute(LARGE).get()
        assert maker.execute(SMALL).get() == SMALL
    finally:
        call(workers[1], undo)
    assert maker.execute(LARGE).get() == LARGE


def test_a_result_over_a_limit_of_the_driver(workers):
    with InputNode() as size:
        dag = workers[0].call.bind(array_of, size)
    with async_adag.compile(dag) as compiled:
        assert len(compiled.execute(SMALL).get()) == SMALL
        with lowered(resource.RLIMIT_AS, ROOM):
            with pytest.raises(OSError, match=r"RLIMIT_AS is \d+ bytes: .*ulimit -v"):
                compiled.execute(LARGE).get()
            assert len(compiled.execute(SMALL).get()) == SMALL
        assert len(compiled.execute(LARGE).get()) == LARGE


def run_out_of_shared_memory():
    """From now on, this process gets no more pages than it has, as on a full system."""

    def full(fd, offset, length):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    os.had_fallocate, os.posix_fallocate = os.posix_fallocate, full


def have_shared_memory():
    os.posix_fallocate = os.had_fallocate
    del os.had_fallocate


@pytest.mark.parametrize("who", ["driver", "actor", "async actor"])
def test_shared_memory_that_is_used_up(workers, async_worker, who):
    """Memory files lie on a mount of the kernel's, which no test can fill: the refusal alone is made up."""
    said = "bytes of shared memory: No space left on device: the system's shared memory is used up"
    first = async_worker if who == "async actor" else workers[0]
    with async_adag.compile(chain(first, workers[1])) as compiled:
        assert compiled.execute(1).get() == 1
        run_out_of_shared_memory() if who == "driver" else call(first, run_out_of_shared_memory)
        try:
            for _ in range(3):
                with pytest.raises(OSError, match=said) as caught:
                    compiled.execute(bytes(MB)).get()
                assert caught.value.errno == errno.ENOSPC
                assert compiled.execute(2).get() == 2
        finally:
            have_shared_memory() if who == "driver" else call(first, have_shared_memory)
        assert compiled.execute(bytes(MB)).get() == bytes(MB)


def test_no_room_for_a_file_of_the_size_that_compiling_asks_for(workers):
    before = take_stock().fds
    dag = chain(*workers[:2])
    with (
        lowered(resource.RLIMIT_FSIZE, 1 * MB),
        pytest.raises(GraphError, match=r"the driver cannot make .* RLIMIT_FSIZE is 1048576 bytes"),
    ):
        async_adag.compile(dag, max_inflight=5000)
    assert not take_stock().fds - before
    with async_adag.compile(dag) as compiled:
        assert compiled.execute(1).get() == 1


def ignores_sigxfsz():
    return signal.getsignal(signal.SIGXFSZ) is signal.SIG_IGN


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_file_over_its_limit_is_no_signal_in_a_worker(workers, async_worker, kind):
    """Python ignores SIGXFSZ, and Ray's workers leave it at that."""
    assert call(workers[0] if kind == "sync" else async_worker, ignores_sigxfsz)


# -- many


def resident():
    """Kilobytes that this process has in memory, its share of what others have too."""
    with open("/proc/self/smaps_rollup") as rollup:
        return next(int(line.split()[1]) for line in rollup if line.startswith("Pss:"))


MANY = 5000


@pytest.fixture
def wide(workers):
    """A chain of two with many places."""
    with InputNode() as x:
        dag = workers[1].echo.bind(workers[0].hold_or_echo.bind(x))
    with async_adag.compile(dag, max_inflight=MANY) as compiled:
        yield compiled


def test_thousands_in_flight_sync(workers, wide, make_gate):
    """All of them at once; and once more, with no more memory."""
    held = 0
    for _ in range(3):
        gate = make_gate()
        refs = [wide.execute(gate.path), *(wide.execute(n) for n in range(MANY - 1))]
        assert wide.stats().in_flight == MANY
        with pytest.raises(async_adag.CapacityExceeded):
            wide._admission.submit((0,), {}, wide, 0)
        gate.open("held")
        assert [ref.get() for ref in refs] == ["held", *range(MANY - 1)]
        before, held = held, resident() + sum(call(actor, resident) for actor in workers[:2])
    assert held - before < 10_000, "kilobytes, of which a ring has 5,000"


async def test_thousands_in_flight_async(wide, gate):
    futures = [await wide.execute_async(gate.path)]
    futures += [await wide.execute_async(n) for n in range(MANY - 1)]
    assert wide.stats().in_flight == MANY
    waiting = asyncio.ensure_future(wide(-1))
    gate.open("held")
    assert await asyncio.gather(*futures) == ["held", *range(MANY - 1)]
    assert await waiting == -1


async def test_thousands_in_flight_on_an_async_actor(workers, async_worker, gate):
    """All of them have begun there, but for those behind the ring that the held one stops."""
    with InputNode() as x:
        dag = async_worker.echo.bind(workers[0].hold_or_echo.bind(x))
    async with async_adag.compile(dag, max_inflight=MANY) as compiled:
        futures = [await compiled.execute_async(gate.path)]
        futures += [await compiled.execute_async(n) for n in range(MANY - 1)]
        assert compiled.stats().in_flight == MANY
        gate.open("held")
        assert await asyncio.gather(*futures) == ["held", *range(MANY - 1)]


async def test_thousands_in_flight_in_a_map(wide):
    assert [n async for n in wide.map(range(2 * MANY))] == list(range(2 * MANY))


def test_thousands_in_flight_that_are_dropped(wide):
    for n in range(2 * MANY):
        wide.execute(n)
    assert wide.execute(-1).get() == -1


def test_more_channels_than_descriptors_fit_one_message(workers):
    """260 results, each in a channel of its own, to a driver and an actor that are handed all of them."""
    count = 260
    with InputNode() as x:
        dag = MultiOutputNode([workers[0].add.bind(x, n) for n in range(count)])
    before = take_stock().fds
    with async_adag.compile(dag, max_inflight=2) as compiled:
        assert len(compiled._engine.plan.channels) == count + 1
        for x in (0, 1000):
            assert compiled.execute(x).get() == [x + n for n in range(count)]
    assert not take_stock().fds - before
