"""Programs that end without teardown: status 0, and not a word."""

from __future__ import annotations

import os

import pytest
import ray

from tests.actors import Worker
from tests.belongings import take_stock
from tests.scripts import start, wait_until_over

OPEN = """
worker = ray.get_actor(sys.argv[2])
path = sys.argv[3]
with InputNode() as x:
    dag = worker.echo.bind(x)
with InputNode() as x:
    waiting = worker.hold.bind(x)
compiled = async_adag.compile(dag)
assert compiled.execute(1).get() == 1
"""

ENDINGS = {
    "open": "",
    "results in flight": """
        stuck = async_adag.compile(waiting)
        refs = [stuck.execute(path) for _ in range(5)]
    """,
    "its loop closed": """
        async def main():
            for n in range(20):
                await compiled.execute_async(n)
            stuck = async_adag.compile(waiting, max_inflight=1)
            await stuck.execute_async(path)
            globals()["kept"] = stuck, asyncio.ensure_future(stuck(path))
        asyncio.run(main())
    """,
    "exit within async with": """
        async def main():
            async with async_adag.compile(waiting) as stuck:
                await stuck.execute_async(path)
                sys.exit(0)
        asyncio.run(main())
    """,
    "a loop that is never closed": """
        import warnings
        warnings.simplefilter("ignore", ResourceWarning)  # that of the loop itself
        loop = asyncio.new_event_loop()
        stuck = async_adag.compile(waiting)
        async def main():
            await compiled(1)
            await stuck.execute_async(path)
        loop.run_until_complete(main())
    """,
    "sys.exit in a task": """
        async def leave():
            await asyncio.sleep(0)
            sys.exit(0)
        async def main():
            stuck = async_adag.compile(waiting)
            future = await stuck.execute_async(path)
            await asyncio.create_task(leave())
        asyncio.run(main())
    """,
    "uvloop": """
        import uvloop
        async def main():
            stuck = async_adag.compile(waiting, max_inflight=1)
            await stuck.execute_async(path)
            globals()["kept"] = stuck, asyncio.ensure_future(stuck(path)), await compiled.execute_async(1)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())
    """,
    "os._exit": """
        stuck = async_adag.compile(waiting)
        ref = stuck.execute(path)
        os._exit(0)
    """,
    "Ray shut down first": "ray.shutdown()",
    "the actor killed first": """
        @ray.remote(num_cpus=0)
        class Victim:
            def echo(self, value):
                return value
        victim = Victim.remote()
        with InputNode() as x:
            broken = async_adag.compile(victim.echo.bind(x))
        assert broken.execute(1).get() == 1
        ray.kill(victim)
    """,
    "a thread that waits": """
        stuck = async_adag.compile(waiting)
        began = threading.Event()
        def wait():
            ref = stuck.execute(path)
            began.set()
            try:
                ref.get()
            except async_adag.GraphClosed:
                pass
        threading.Thread(target=wait, daemon=True).start()
        began.wait()
    """,
    "a cycle": """
        class Holder: pass
        holder = Holder()
        holder.itself, holder.graph = holder, compiled
        holder.array = compiled.execute(bytes(5_000_000)).get()
    """,
}


FAILURES = {
    "the main thread": """
        stuck = async_adag.compile(waiting)
        refs = [stuck.execute(path) for _ in range(3)]
        raise KeyError("the program's own")
    """,
    "a task": """
        async def fail():
            await asyncio.sleep(0)
            raise KeyError("the program's own")
        async def main():
            stuck = async_adag.compile(waiting)
            future = await stuck.execute_async(path)
            async with asyncio.TaskGroup() as group:
                group.create_task(fail())
                group.create_task(stuck(path))
        asyncio.run(main())
    """,
    "within async with": """
        async def main():
            async with async_adag.compile(waiting) as stuck:
                future = await stuck.execute_async(path)
                raise KeyError("the program's own")
        asyncio.run(main())
    """,
}


@pytest.fixture(scope="module")
def named(cluster):
    """An actor that outlives its drivers."""
    actor = Worker.options(name="of programs", lifetime="detached").remote()
    yield actor
    ray.kill(actor)


@pytest.fixture
def freed(named, gate):
    """Checks that no graph is left in the actor once the method at the gate has returned."""
    yield
    gate.force()
    for _ in range(300):  # looks, not seconds
        left = ray.get(named.call.remote(take_stock)).of_graphs()
        if not left:
            return
    pytest.fail(f"left in the actor: {left}")


@pytest.fixture
def args(named, gate):
    return ["of programs", gate.path]


def in_shared_memory() -> set[str]:
    # Those of Ray's own object store and channels come and go.
    return {name for name in os.listdir("/dev/shm") if not name.startswith(("plasma", "sem.", "ray"))}


@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS)
def test_exit_without_teardown(cluster, args, freed, ending):
    before = in_shared_memory()
    program = start(cluster, OPEN, ending, args=args)
    output, errors = wait_until_over(program)
    assert (program.returncode, output, errors) == (0, "", "")
    assert in_shared_memory() <= before


@pytest.mark.parametrize("failing", FAILURES.values(), ids=FAILURES)
def test_exit_by_an_exception(cluster, args, freed, failing):
    """Status 1, and the program's own traceback alone."""
    program = start(cluster, OPEN, failing, args=args)
    output, errors = wait_until_over(program)
    assert (program.returncode, output) == (1, "")
    assert "the program's own" in errors
    assert "async_adag" not in errors
    assert "Exception ignored" not in errors


def test_python_finds_nothing_to_warn_of_in_its_development_mode(cluster, args, freed):
    """Graphs that are closed in every way, and one that is not."""
    program = start(
        cluster,
        OPEN,
        """
        async def main():
            async with async_adag.compile(dag) as graph:
                assert await graph(1) == 1
            torn_down = async_adag.compile(dag)
            future = await torn_down.execute_async(1)
            torn_down.teardown()
            await compiled(1)
        with async_adag.compile(dag) as graph:
            assert graph.execute(1).get() == 1
        dropped = async_adag.compile(dag)
        del dropped
        asyncio.run(main())
        stuck = async_adag.compile(waiting)
        ref = stuck.execute(path)
        """,
        args=args,
        options=["-X", "dev"],
    )
    output, errors = wait_until_over(program)
    assert (program.returncode, output) == (0, "")
    assert "adag" not in errors, errors
    assert not [line for line in errors.splitlines() if "unclosed" in line and "ray" not in line], errors


def test_exit_of_a_program_with_its_own_ray():
    program = start(
        "local",
        """
        @ray.remote
        class Worker:
            def echo(self, value):
                return value
        with InputNode() as x:
            dag = Worker.remote().echo.bind(x)
        compiled = async_adag.compile(dag)
        print(compiled.execute("done").get())
        compiled.execute(1)
        """,
    )
    output, errors = wait_until_over(program)
    assert (program.returncode, output) == (0, "done\n")
    assert "adag" not in errors
    assert "Traceback" not in errors


def test_classes_and_functions_of_a_program_itself(cluster, args):
    program = start(
        cluster,
        OPEN,
        """
        class OwnError(Exception):
            pass

        def fail(value):
            raise OwnError(value)

        with InputNode() as x:
            failing = worker.call.bind(fail, x)

        async def main():
            async with async_adag.compile(failing) as failed:
                try:
                    await failed("mine")
                except OwnError as error:
                    print("caught", error)
            error = await compiled(OwnError("there and back"))
            print(type(error) is OwnError, error)
            print((await compiled(lambda: OwnError))() is OwnError)

        asyncio.run(main())
        compiled.teardown()
        """,
        args=args,
    )
    output, errors = wait_until_over(program)
    assert errors == ""
    assert output.splitlines() == ["caught mine", "True there and back", "True"]


def test_compiling_where_ray_is_not_running(cluster, args):
    program = start(
        cluster,
        OPEN,
        """
        compiled.teardown()
        ray.shutdown()
        try:
            async_adag.compile(dag)
        except async_adag.GraphError as error:
            print(error)
        assert not ray.is_initialized()
        """,
        args=args,
    )
    output, errors = wait_until_over(program)
    assert errors == ""
    assert "ray.init()" in output


def test_an_actor_of_an_earlier_connection_to_ray(cluster):
    """Ray knows nothing of it: whoever asks it, or invites it, says so, and nothing is left of the graph."""
    program = start(
        cluster,
        """
        from ray.dag import MultiOutputNode
        from tests.belongings import take_stock

        @ray.remote(num_cpus=0)
        class Echo:
            def echo(self, value):
                return value

            def call(self, function):
                return function()

        old = Echo.remote()
        ray.get(old.echo.remote(1))
        with InputNode() as x:
            begun = old.echo.bind(x)  # here, as Ray aborts a process that binds such an actor later
        with InputNode() as y:
            asked = Echo.remote().echo.bind(old.echo.bind(y).with_tensor_transport("nccl"))
        ray.shutdown()
        ray.init(address=sys.argv[1], namespace="tests", log_to_driver=False, logging_level="error")
        new = Echo.remote()
        invited = MultiOutputNode([begun, new.echo.bind(x)])  # the new one first
        with InputNode() as x:
            good = new.echo.bind(x)
        with async_adag.compile(good) as compiled:
            compiled.execute(1).get()
        before = take_stock()
        for dag in (invited, asked):
            try:
                async_adag.compile(dag)
            except async_adag.GraphError as error:
                assert isinstance(error, ray.exceptions.ActorDiedError)
                assert "Echo(" in str(error) and ", which was to run echo on Echo(" in str(error), error
                assert "Make the actor anew" in str(error)
            else:
                raise AssertionError("compiled")
        assert not take_stock().more_than(before), take_stock().more_than(before)
        while ray.get(new.call.remote(take_stock)).of_graphs():
            pass
        with async_adag.compile(good) as compiled:
            assert compiled.execute(1).get() == 1
        """,
    )
    output, errors = wait_until_over(program)
    assert (program.returncode, output, errors) == (0, "", "")
