"""Programs that end without teardown: status 0, and not a word."""

from __future__ import annotations

import os

import pytest
import ray

from tests.actors import Worker
from tests.scripts import start

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


@pytest.fixture(scope="module")
def named(cluster):
    actor = Worker.options(name="of programs").remote()
    yield actor
    ray.kill(actor)


@pytest.fixture
def args(named, gate):
    return ["of programs", gate.path]


def in_shared_memory() -> set[str]:
    # Those of Ray's own object store and channels come and go.
    return {name for name in os.listdir("/dev/shm") if not name.startswith(("plasma", "sem.", "ray"))}


@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS)
def test_exit_without_teardown(cluster, args, ending):
    before = in_shared_memory()
    program = start(cluster, OPEN, ending, args=args)
    output, errors = program.communicate(timeout=50)
    assert (program.returncode, output, errors) == (0, "", "")
    assert in_shared_memory() <= before


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
    output, errors = program.communicate(timeout=50)
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
    output, errors = program.communicate(timeout=50)
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
    output, errors = program.communicate(timeout=50)
    assert errors == ""
    assert "ray.init()" in output
