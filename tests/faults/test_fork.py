"""Forks: a child of a graph's driver cannot use it, and the parent goes on as if the child were not there."""

from __future__ import annotations

import pytest
import ray
from ray.dag import InputNode

import async_adag
from tests.actors import AsyncWorker, Worker
from tests.scripts import start, wait_until_over

COMPILE = """
import gc, multiprocessing, traceback
import numpy as np

worker = ray.get_actor(sys.argv[2])
path = sys.argv[3]
with InputNode() as x:
    dag = worker.hold_or_echo.bind(x)
compiled = async_adag.compile(dag)

def in_child(work, end=os._exit):
    child = os.fork()
    if child:
        return child
    try:
        work()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(3)
    sys.stdout.flush()
    end(0)

def wait(child):
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

def refuses(call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except async_adag.GraphClosed as error:
        assert f"another process ({os.getppid()})" in str(error), error
        assert f"({os.getpid()})" in str(error) and "spawn" in str(error), error
    else:
        raise AssertionError(f"{call} worked")
"""


@pytest.fixture(scope="module")
def names(cluster):
    """A synchronous actor and an asynchronous one, by name."""
    made = {name: kind.options(name=name).remote() for name, kind in (("forked", Worker), ("async", AsyncWorker))}
    yield list(made)
    for actor in made.values():
        ray.kill(actor)


def run(cluster, args, *parts) -> None:
    program = start(cluster, COMPILE, *parts, args=args)
    output, errors = wait_until_over(program)
    assert (program.returncode, output, errors) == (0, "done\n", "")


@pytest.fixture
def args(names, gate):
    return ["forked", gate.path]


def test_every_use_in_a_child_is_refused_and_the_parent_goes_on(cluster, args):
    run(
        cluster,
        args,
        """
        arrived, held = compiled.execute(1), compiled.execute(path)
        assert arrived.get() == 1
        over = async_adag.compile(dag)
        over.teardown()

        async def iterate():
            async for _ in compiled.map([1]):
                pass

        async def call(function, *args):
            await function(*args)

        def use():
            assert arrived.get() == 1
            for _ in range(2):
                refuses(compiled.execute, 1)
                refuses(held.get)
                refuses(held.get, timeout=0)
                refuses(compiled.stats)
                refuses(compiled.teardown)
                refuses(compiled.options(timeout=1).execute, 1)
                for function, *args in (compiled.execute_async, 1), (compiled, 1), (compiled.aclose,), (iterate,):
                    refuses(asyncio.run, call(function, *args))
            assert "closed" in repr(compiled)
            over.teardown()

        def leave_and_drop():
            global compiled, held
            compiled.__exit__(None, None, None)
            compiled.__exit__(ValueError, ValueError(), None)
            del compiled, held
            gc.collect()

        for work in use, leave_and_drop:
            wait(in_child(work))
        context = multiprocessing.get_context("fork")
        for work in use, leave_and_drop:
            child = context.Process(target=work)
            child.start()
            child.join()
            assert child.exitcode == 0
        with open(path, "w") as gate:
            gate.write("held")
        assert held.get() == "held"
        assert [compiled.execute(n).get() for n in range(100)] == list(range(100))
        assert compiled.stats().in_flight == 0
        compiled.teardown()
        print("done")
        """,
    )


def test_compiling_leaves_nothing_of_rays_to_a_childs_garbage_collector(cluster, args):
    """Ray takes locks as it lets go of a ref, which a thread of the parent may have held at the fork."""
    run(
        cluster,
        args,
        """
        from ray.actor import ActorHandle

        def of_ray():
            gc.set_debug(gc.DEBUG_SAVEALL)
            gc.collect()
            gc.set_debug(0)
            found = [one for one in gc.garbage if isinstance(one, (ray.ObjectRef, ActorHandle))]
            gc.garbage.clear()
            return found

        gc.disable()
        gc.collect()
        async def main():
            async with await async_adag.compile_async(dag) as awaited:
                await awaited(1)
        for _ in range(2):
            asyncio.run(main())
            with async_adag.compile(dag) as graph:
                graph.execute(1).get()
            del graph
            assert of_ray() == []
        occupied = worker.hold_or_echo.remote(path)
        try:
            async_adag.compile(dag, compile_timeout=0.2)
        except async_adag.GraphError:
            pass
        else:
            raise AssertionError("the actor was free")
        assert of_ray() == []
        with open(path, "w") as gate:
            gate.write("held")
        ray.get(occupied)
        print("done")
        """,
    )


@pytest.mark.parametrize("loop", ["asyncio.new_event_loop", "__import__('uvloop').new_event_loop"])
def test_a_child_that_lives_on_steals_no_wake_up(cluster, args, loop):
    """From a running loop and beside a thread that waits; the child is there all the time."""
    run(
        cluster,
        args,
        f"new_loop = {loop}",
        """
        async def main():
            assert await compiled(0) == 0
            waiting = asyncio.to_thread(lambda: compiled.execute(path).get())
            waiting = asyncio.ensure_future(waiting)
            while not compiled.stats().in_flight:
                await asyncio.sleep(0)
            read, write = os.pipe()
            def stay():
                os.close(write)
                os.read(read, 1)
            children = [in_child(stay) for _ in range(3)]
            os.close(read)
            with open(path, "w") as gate:
                gate.write("held")
            assert await waiting == "held"
            for n in range(300):
                assert await compiled(n) == n
            assert await asyncio.gather(*(compiled(n) for n in range(100))) == list(range(100))
            for child in children:
                assert os.waitpid(child, os.WNOHANG) == (0, 0)
            os.close(write)
            for child in children:
                wait(child)
            await compiled.aclose()
            async with async_adag.compile(dag) as again:
                assert await again(1) == 1

        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(main())
        print("done")
        """,
    )


def test_arrays_of_the_parents_are_not_given_back_by_a_child(cluster, args):
    run(
        cluster,
        args,
        """
        held = [compiled.execute(np.full(50_000, n)).get() for n in range(20)]

        def drop():
            assert all((array == n).all() for n, array in enumerate(held))
            held.clear()
            gc.collect()

        wait(in_child(drop))
        for n in range(100):
            compiled.execute(np.full(50_000, -1)).get()
        assert all((array == n).all() for n, array in enumerate(held))
        compiled.teardown()
        print("done")
        """,
    )


def test_a_child_may_leave_the_block_and_need_not_wait_for_a_lock(cluster, args):
    """It ends with `os._exit`, as multiprocessing's do: Ray's own clean-up at exit hangs in a forked child."""
    run(
        cluster,
        args,
        """
        import signal

        try:
            with compiled:
                child = os.fork()
                if child == 0:
                    signal.alarm(30)
                    sys.exit(5)
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5
                assert compiled.execute(1).get() == 1
        except SystemExit as leaving:
            os._exit(leaving.code)

        compiled = async_adag.compile(dag)
        locked, unlock = threading.Event(), threading.Event()
        def lock():
            with compiled._engine.lock:
                locked.set()
                unlock.wait()
        thread = threading.Thread(target=lock)
        thread.start()
        locked.wait()
        def use():
            signal.alarm(30)
            refuses(compiled.execute, 1)
            refuses(compiled.stats)
            compiled.__exit__(None, None, None)
        wait(in_child(use))
        unlock.set()
        thread.join()
        assert compiled.execute(1).get() == 1
        compiled.teardown()
        print("done")
        """,
    )


def come_back(_):
    import os

    child = os.fork()
    if child == 0:
        return "from the child"
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def leave(status):
    import os
    import sys

    child = os.fork()
    if child == 0:
        sys.exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def fail(_):
    import os

    child = os.fork()
    if child == 0:
        raise ValueError("of the child")
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("kind", [Worker, AsyncWorker])
async def test_a_child_that_comes_back_from_its_node_ends_there(make_actor, kind):
    """It would write results of its own into the channels that it shares with its parent."""
    actor = make_actor(kind)
    for function, value, status in ((come_back, 0, 1), (leave, 7, 7), (fail, 0, 1), (leave, 0, 0)):
        with InputNode() as x:
            dag = actor.call.bind(function, x)
        async with async_adag.compile(dag) as compiled:
            assert await compiled(value) == status
            assert await compiled(value) == status
