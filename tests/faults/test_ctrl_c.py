"""Ctrl-C and SIGTERM, as a terminal and a supervisor send them, to programs that wait."""

from __future__ import annotations

import signal
import subprocess

import pytest
import ray

from tests.actors import Worker
from tests.belongings import take_stock
from tests.scripts import start, wait_until_over, wait_until_ready

COMPILE = """
import signal
worker = ray.get_actor(sys.argv[2])
path = sys.argv[3]
with InputNode() as x:
    dag = worker.hold_or_echo.bind(x)

def ready():
    print("ready", flush=True)

def at_the_gate(compiled):
    # Before that, a graph that is torn down would not begin the execution, and nobody would come to the gate.
    while not compiled._engine.deployment.computing():
        os.sched_yield()

def goes_on(compiled):
    assert [compiled.execute(n).get() for n in range(20)] == list(range(20))
    assert (compiled.stats().in_flight, compiled.stats().waiting) == (0, 0)

def release():
    with open(path, "w") as gate:
        gate.write("held")
"""


@pytest.fixture(scope="module")
def named(cluster):
    actor = Worker.options(name="interrupted").remote()
    yield actor
    ray.kill(actor)


@pytest.fixture
def args(named, gate):
    return ["interrupted", gate.path]


def interrupt(program: subprocess.Popen[str], number: int = signal.SIGINT) -> tuple[int, str, str]:
    """Send the signal once the program waits; how it ends."""
    wait_until_ready(program)
    program.send_signal(number)
    output, errors = wait_until_over(program)
    return program.returncode, output, errors


# Each waits for a node that stands at a gate; after KeyboardInterrupt the graph is used again.
WAITS = {
    "get": """
        compiled = async_adag.compile(dag)
        held, behind = compiled.execute(path), compiled.execute(1)
        try:
            ready()
            held.get()
        except KeyboardInterrupt:
            release()
            assert (held.get(), behind.get()) == ("held", 1)
            goes_on(compiled)
            print("done")
    """,
    "get behind another thread": """
        compiled = async_adag.compile(dag)
        held = compiled.execute(path)
        thread = threading.Thread(target=held.get)
        thread.start()
        while not compiled._engine.blocking._leader:
            os.sched_yield()
        try:
            ready()
            held.get()
        except KeyboardInterrupt:
            release()
            assert held.get() == "held"
            thread.join()
            goes_on(compiled)
            print("done")
    """,
    "execute": """
        compiled = async_adag.compile(dag, max_inflight=1)
        held = compiled.execute(path)
        try:
            ready()
            compiled.execute(1)
        except KeyboardInterrupt:
            assert compiled.stats().waiting == 0
            release()
            assert held.get() == "held"
            goes_on(compiled)
            assert compiled.stats().executions == 21
            print("done")
    """,
    "compile": """
        busy = worker.hold.remote(path)
        try:
            ready()
            async_adag.compile(dag)
        except KeyboardInterrupt:
            release()
            assert ray.get(busy) == "held"
            with async_adag.compile(dag) as compiled:
                goes_on(compiled)
            print("done")
    """,
    "leaving the block": """
        try:
            with async_adag.compile(dag) as compiled:
                held = compiled.execute(path)
                at_the_gate(compiled)
                ready()
        except KeyboardInterrupt:
            release()
            try:
                held.get()
            except async_adag.GraphClosed:
                with async_adag.compile(dag) as again:
                    goes_on(again)
                print("done")
    """,
}


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_ctrl_c_ends_a_wait_and_the_graph_goes_on(cluster, args, wait):
    assert interrupt(start(cluster, COMPILE, wait, args=args)) == (0, "done\n", "")


@pytest.mark.parametrize("wait", ["get", "get behind another thread", "execute"])
def test_a_ctrl_c_that_another_thread_gets(cluster, args, wait):
    """The system call that the main thread waits in goes on then, as after one that comes just before it."""
    mask = """
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    """
    assert interrupt(start(cluster, COMPILE, mask, WAITS[wait], args=args)) == (0, "done\n", "")


LOOPS = {"asyncio": "asyncio.new_event_loop", "uvloop": "__import__('uvloop').new_event_loop"}
AWAITING = """
async def main():
    async with async_adag.compile(dag, max_inflight=3) as compiled:
        futures = [await compiled.execute_async(path) for _ in range(3)]
        waiting = [asyncio.ensure_future(compiled(n)) for n in range(3)]
        asyncio.get_running_loop().call_later(0, ready)
        await asyncio.gather(*futures, *waiting)
"""


MAPPING = """
async def main():
    async with async_adag.compile(dag, max_inflight=3) as compiled:
        asyncio.get_running_loop().call_later(0, ready)
        async for _ in compiled.map([path] * 5):
            pass
"""
mains = pytest.mark.parametrize("main", [AWAITING, MAPPING], ids=["await", "map"])


@mains
@pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)
def test_ctrl_c_under_asyncio_run(cluster, args, loop, main):
    """The main task is cancelled, the block is left by that, and the program ends as any that is interrupted."""
    run = f"""
        try:
            with asyncio.Runner(loop_factory={loop}) as runner:
                runner.run(main())
        except KeyboardInterrupt:
            print("interrupted", flush=True)
            raise
    """
    status, output, errors = interrupt(start(cluster, COMPILE, main, run, args=args))
    assert (status, output) == (-signal.SIGINT, "interrupted\n")
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert errors.count("Traceback") <= 2, errors  # the cancellation, and the interrupt that it became
    assert "never retrieved" not in errors


@pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)
def test_ctrl_c_in_a_loop_that_does_not_see_to_it(cluster, args, loop):
    """`run_until_complete` lets it raise anywhere; the graph can be used from the loop again."""
    run = f"""
        loop = {loop}()
        compiled = async_adag.compile(dag)
        async def wait():
            future = await compiled.execute_async(path)
            loop.call_later(0, ready)
            await asyncio.shield(future)
        async def use():
            assert await compiled(1) == 1
            await compiled.aclose()
        try:
            loop.run_until_complete(wait())
        except KeyboardInterrupt:
            release()
            loop.run_until_complete(use())
            print("done", flush=True)
            for task in asyncio.all_tasks(loop):
                task.cancel()
                loop.run_until_complete(asyncio.wait([task]))
            loop.close()
    """
    assert interrupt(start(cluster, COMPILE, run, args=args)) == (0, "done\n", "")


TERMS = {
    "with one that leaves": (
        """
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(4))
        compiled = async_adag.compile(dag)
        """,
        4,
        "",
    ),
    "with one that leaves the block": (
        """
        def leave(number, frame):
            release()
            print("leaving", flush=True)
            sys.exit(4)
        signal.signal(signal.SIGTERM, leave)
        """,
        4,
        "leaving\n",
    ),
}


@pytest.mark.parametrize(("prepare", "status", "output"), TERMS.values(), ids=TERMS)
def test_sigterm_while_a_result_is_waited_for(cluster, args, named, prepare, status, output):
    block = "with async_adag.compile(dag) as compiled:" if output else "if True:"
    waiting = f"{block}\n    held = compiled.execute(path)\n    ready()\n    held.get()"
    program = start(cluster, COMPILE, prepare, waiting, args=args)
    assert interrupt(program, signal.SIGTERM) == (status, output, "")


@mains
@pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)
def test_sigterm_with_a_handler_on_the_loop(cluster, args, loop, main):
    """As services do it: the handler cancels the main task, and the block is left."""
    run = f"""
        async def guarded():
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGTERM, asyncio.current_task().cancel)
            try:
                await main()
            except asyncio.CancelledError:
                print("cancelled", flush=True)
        with asyncio.Runner(loop_factory={loop}) as runner:
            runner.run(guarded())
    """
    program = start(cluster, COMPILE, main, run, args=args)
    assert interrupt(program, signal.SIGTERM) == (0, "cancelled\n", "")


def test_sigterm_without_a_handler(cluster, args):
    """The process ends at once, by the handler that Ray has set: with words of its own, and none of ours."""
    wait = "held = async_adag.compile(dag).execute(path)\nready()\nheld.get()"
    status, output, errors = interrupt(start(cluster, COMPILE, wait, args=args), signal.SIGTERM)
    assert abs(status) == signal.SIGTERM
    assert output == ""
    assert "adag" not in errors
    assert "Traceback" not in errors


def test_an_actor_is_free_after_its_driver_was_interrupted(cluster, args, named, gate):
    wait = "held = async_adag.compile(dag).execute(path)\nready()\nheld.get()"
    status, _, errors = interrupt(start(cluster, COMPILE, wait, args=args))
    assert status == -signal.SIGINT
    assert errors.rstrip().endswith("KeyboardInterrupt")
    gate.force()
    for _ in range(300):  # looks, not seconds
        if not ray.get(named.call.remote(take_stock)).of_graphs():
            return
    pytest.fail("the loop is still there")
