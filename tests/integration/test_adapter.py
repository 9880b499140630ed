"""Programs that were written for Ray's compiled graph: the same code on Ray's own and on ours."""

from __future__ import annotations

import asyncio
import contextlib
import gc

import pytest
import ray
from ray.dag import DAGContext, DAGNode, InputNode, MultiOutputNode
from ray.exceptions import ActorDiedError, RayCgraphCapacityExceeded, RayChannelError, RayChannelTimeoutError

import async_adag
from async_adag import GraphRef
from tests.actors import Worker, wait_until_dead
from tests.scripts import start, wait_until_over
from tests.threads import in_thread
from tests.turns import turns

RAYS, OURS = DAGNode.experimental_compile, async_adag.experimental_compile
rays_one_host = pytest.mark.one_host(reason="between nodes, tearing down Ray's own graph may end a raylet")
both = pytest.mark.parametrize(
    "compile_dag", [pytest.param(RAYS, marks=rays_one_host), OURS], ids=["ray", "async_adag"]
)


@pytest.fixture(scope="module")
def crew(cluster):
    """Two stages of two workers, for this module alone: Ray's own graphs leave threads behind."""
    workers = [Worker.remote() for _ in range(4)]
    yield [workers[:2], workers[2:]]
    for worker in workers:
        ray.kill(worker)


@pytest.fixture(scope="module")
def dag(workers):
    with InputNode() as x:
        return workers[0].hold_or_echo.bind(x)


@pytest.fixture(scope="module")
def pair(workers):
    with InputNode() as x:
        return MultiOutputNode([workers[0].echo.bind(x), workers[1].add.bind(x)])


@contextlib.contextmanager
def tearing_down(compile_dag):
    """Gives what compiles as ``compile_dag``; what it compiled is torn down at the end, whatever happens."""
    made = []

    def compile_and_keep(dag, **options):
        made.append(compile_dag(dag, **options))
        return made[-1]

    try:
        yield compile_and_keep
    finally:
        for compiled in made:
            compiled.teardown()


@pytest.fixture
def torn_down():
    with tearing_down(OURS) as compile_dag:
        yield compile_dag


# -- the same program on both


def forward(rank, batch):
    """One stage of a model: takes a batch and what the stage before made of it, passes both on."""
    tokens, made = batch
    return tokens, (made or 0) + sum(tokens) + rank


class Executor:
    """Drives tensor-parallel stages as vLLM's Ray executor does."""

    def __init__(self, compile_dag, stages):
        self.compile_dag = compile_dag
        self.stages = stages
        self.graph = None

    def submit(self, tokens, grammar=None):
        if self.graph is None:
            with InputNode() as batch:
                outputs = [batch for _ in self.stages[0]]
                for stage in self.stages:
                    outputs = [
                        worker.call.bind(forward, rank, output)
                        for rank, (worker, output) in enumerate(zip(stage, outputs, strict=True))
                    ]
            self.graph = self.compile_dag(
                MultiOutputNode(outputs), enable_asyncio=False, _overlap_gpu_communication=False
            )
        return self.graph.execute((tokens, grammar))

    def call_all(self, value):
        return ray.get([worker.echo.remote(value) for stage in self.stages for worker in stage], timeout=100)

    def shutdown(self):
        if self.graph is not None:
            self.graph.teardown()

    def __del__(self):
        self.shutdown()


@pytest.mark.one_host(reason="Ray's own graph is made beside it")
@both
def test_an_executor_of_tensor_parallel_stages(compile_dag, crew):
    executor = Executor(compile_dag, crew)
    for step in range(15):  # more than may be in flight, the other ranks' results never fetched
        assert executor.submit([step, 1])[0].get() == ([step, 1], 2 * step + 2)
    assert executor.call_all("ready") == ["ready"] * 4
    first, second = executor.submit([1])[0], executor.submit([2], 10)[0]  # two batches under way
    assert executor.call_all("still ready") == ["still ready"] * 4
    assert first.get() == ([1], 2)
    assert ray.get(second, timeout=100) == ([2], 14)
    assert ray.get(executor.submit([3]), timeout=100) == [([3], 6), ([3], 8)]
    executor.shutdown()
    assert executor.call_all("free") == ["free"] * 4
    del executor
    gc.collect()


def tuple_argument(compile_dag, workers):
    with InputNode() as x:
        dag = workers[1].join.bind(workers[0].echo.bind(x), 1)
    compiled = compile_dag(dag)
    return [compiled.execute((n, {"n": n})).get() for n in range(3)]


def parts_of_the_input(compile_dag, workers):
    with InputNode() as x:
        dag = workers[0].join.bind(x[0], workers[1].echo.bind(x[1]), x.key, named=4)
    compiled = compile_dag(dag)
    return compiled.execute(1, 2, key=3).get()


def one_output_and_two(compile_dag, workers):
    with InputNode() as x:
        one = MultiOutputNode([workers[0].echo.bind(x)])
    with InputNode() as x:
        left, right = workers[1].split.bind(x)
        two = MultiOutputNode([right, workers[0].add.bind(left, 5)])
    results = []
    for dag in (one, two):  # one after the other: Ray's own share no actor
        compiled = compile_dag(dag)
        refs = compiled.execute(7)
        results.append((type(refs), ray.get(refs)))
        compiled.teardown()
    return results


def fetched_out_of_order(compile_dag, workers):
    with InputNode() as x:
        dag = workers[0].add.bind(x, 1)
    compiled = compile_dag(dag)
    refs = [compiled.execute(n) for n in range(8)]
    last = ray.get(refs.pop(), timeout=100)
    results = [last, ray.get(refs[1]), ray.get(refs[0], timeout=100)]
    del refs
    gc.collect()
    results.append(compiled.execute(100).get(timeout=100))
    return results


def fail(value):
    if value < 0:
        raise LookupError(f"no {value}")
    return value


def a_failure_in_the_middle(compile_dag, workers):
    with InputNode() as x:
        dag = workers[1].echo.bind(workers[0].call.bind(fail, x))
    compiled = compile_dag(dag)
    results = []
    for value in (1, -1, 2):
        try:
            results.append(compiled.execute(value).get())
        except LookupError as error:
            results.append("no -1" in str(error))
    return results


@pytest.mark.one_host(reason="Ray's own graph is made beside it")
@pytest.mark.parametrize(
    "program",
    [
        tuple_argument,
        parts_of_the_input,
        one_output_and_two,
        fetched_out_of_order,
        a_failure_in_the_middle,
    ],
)
def test_the_same_program_gives_the_same_on_both(program, crew):
    with tearing_down(RAYS) as compile_dag:
        expected = program(compile_dag, crew[0])
    assert expected
    with tearing_down(OURS) as compile_dag:
        assert program(compile_dag, crew[0]) == expected


async def awaited(compile_dag, workers):
    with InputNode() as x:
        dag = MultiOutputNode([workers[0].add.bind(x, 1), workers[1].call.bind(fail, x)])
    with InputNode() as x:
        single = workers[0].add.bind(x, 2)
    compiled = compile_dag(dag, enable_asyncio=True)
    pairs = [await compiled.execute_async(n) for n in range(5)]
    results = [[await future for future in pair] for pair in pairs]
    failed = await compiled.execute_async(-1)
    try:
        await failed[1]
    except LookupError as error:
        results.append("no -1" in str(error))
    compiled.teardown()
    compiled = compile_dag(single, enable_asyncio=True)
    results.append(await (await compiled.execute_async(1)))
    return [type(pairs[0]), *results]


async def the_wrong_side(compile_dag, workers):
    results = []
    for asynchronous in (False, True):
        with InputNode() as x:
            dag = workers[0].echo.bind(x)
        compiled = compile_dag(dag, enable_asyncio=asynchronous)
        try:
            compiled.execute(1) if asynchronous else await compiled.execute_async(1)
        except ValueError as error:
            results.append(("execute" in str(error), "enable_asyncio" in str(error)))
        compiled.teardown()
        compiled.teardown()
    return results


@pytest.mark.one_host(reason="Ray's own graph is made beside it")
@pytest.mark.parametrize("program", [awaited, the_wrong_side])
async def test_the_same_awaiting_program_gives_the_same_on_both(program, crew):
    with tearing_down(RAYS) as compile_dag:
        expected = await program(compile_dag, crew[0])
    assert expected
    with tearing_down(OURS) as compile_dag:
        assert await program(compile_dag, crew[0]) == expected


@both
def test_an_actor_that_dies(compile_dag, make_actor, gate):
    actor = make_actor()
    with InputNode() as x:
        dag = actor.hold_or_echo.bind(x)
    with tearing_down(compile_dag) as compile_dag:
        compiled = compile_dag(dag)
        assert compiled.execute(1).get() == 1
        ref = compiled.execute(gate.path)
        gate.entered()
        ray.kill(actor)
        with pytest.raises(ActorDiedError):
            ref.get(timeout=100)
        with pytest.raises(RayChannelError):
            compiled.execute(2)


# -- ours


async def test_kinds_of_results(torn_down, dag, pair):
    assert type(torn_down(dag).execute(1)) is GraphRef
    refs = torn_down(pair).execute(1)
    assert type(refs) is list
    assert [type(ref) for ref in refs] == [GraphRef] * 2
    assert isinstance(await torn_down(dag, enable_asyncio=True).execute_async(1), asyncio.Future)
    futures = await torn_down(pair, enable_asyncio=True).execute_async(1)
    assert type(futures) is list
    assert await asyncio.gather(*futures) == [1, 2]


async def test_what_ray_gives_once_is_given_again(torn_down, dag):
    ref = torn_down(dag).execute(1)
    assert await asyncio.to_thread(ref.get) == 1
    assert ray.get(ref) == 1
    assert ray.get([ref, ref], timeout=0) == [1, 1]
    future = await torn_down(dag, enable_asyncio=True).execute_async(2)
    assert [await future, await future] == [2, 2]


def test_a_full_graph_that_may_not_wait_raises_as_rays_does(torn_down, dag, gate):
    compiled = torn_down(dag, _submit_timeout=0, _max_inflight_executions=2)
    held, other = compiled.execute(gate.path), compiled.execute(1)
    with pytest.raises(RayCgraphCapacityExceeded):
        compiled.execute(2)
    gate.open("held")
    assert [other.get(), held.get()] == [1, "held"]
    assert compiled.execute(3).get() == 3


def test_a_full_graph_is_waited_for_for_ever_where_told_so(torn_down, dag, gate):
    compiled = torn_down(dag, _submit_timeout=-1, _max_inflight_executions=1)
    compiled.execute(gate.path)
    thread = in_thread(compiled.execute, 1)
    while not compiled.graph.stats().waiting:
        assert not thread.done()
    gate.open()
    assert thread.result().get() == 1


async def test_a_full_graph_is_awaited(torn_down, dag, gate):
    compiled = torn_down(dag, enable_asyncio=True, _submit_timeout=0, _max_inflight_executions=1)
    await compiled.execute_async(gate.path)
    waiting = asyncio.ensure_future(compiled.execute_async(1))
    await turns()
    assert compiled.graph.stats().waiting == 1
    gate.open()
    assert await (await waiting) == 1


def test_get_waits_as_long_as_rays_context_says_and_a_timeout_consumes_nothing(torn_down, dag, gate, monkeypatch):
    monkeypatch.setattr(DAGContext.get_current(), "get_timeout", 0.01)
    ref = torn_down(dag).execute(gate.path)
    with pytest.raises(RayChannelTimeoutError):
        ray.get(ref)
    with pytest.raises(TimeoutError):
        ray.get(ref, timeout=0)
    gate.open("held")
    assert ray.get(ref, timeout=100) == "held"


def test_teardown_leaves_the_actors_unless_told_to_kill_them(make_actor):
    actors = [make_actor(), make_actor()]
    with InputNode() as x:
        dag = actors[1].echo.bind(actors[0].echo.bind(x))
    compiled = OURS(dag)
    assert compiled.execute(1).get() == 1
    compiled.teardown()
    assert ray.get([actor.echo.remote(2) for actor in actors]) == [2, 2]
    compiled = OURS(dag)  # the same DAG once more, which Ray's own refuses
    assert compiled.execute(3).get() == 3
    compiled.teardown(kill_actors=True)
    for actor in actors:
        wait_until_dead(actor)
    compiled.teardown(kill_actors=True)


def test_a_graph_that_is_dropped_frees_its_actors(make_actor):
    with InputNode() as x:
        dag = make_actor().echo.bind(x)
    compiled = OURS(dag)
    graph = compiled.graph
    ref = compiled.execute(1)
    del compiled
    gc.collect()
    assert ref.get() == 1
    assert "open" in repr(graph)
    engine = graph._engine
    del graph, ref
    gc.collect()
    assert not engine.life.is_open()


def test_the_picture(torn_down, dag, capsys):
    compiled = torn_down(dag)
    text = compiled.visualize(format="ascii")
    assert "hold_or_echo" in text
    assert text == compiled.visualize() == compiled.graph.visualize()
    assert capsys.readouterr().out == ""
    assert compiled.visualize("unused", "ascii", True) == text
    assert capsys.readouterr().out == text + "\n"
    assert compiled.visualize(format="svg").startswith("<svg")
    assert compiled.visualize(format="dot").startswith("digraph")
    with pytest.raises(ValueError, match="png"):
        compiled.visualize(format="png")


@pytest.mark.parametrize("ending", ["", "executor.shutdown()", "ray.shutdown()"])
def test_the_last_teardown_is_called_by_a_finalizer_at_exit(cluster, ending):
    program = start(
        cluster,
        """
        @ray.remote(num_cpus=0)
        class Worker:
            def echo(self, value):
                return value

        class Executor:
            def __init__(self):
                self.worker = Worker.remote()
                with InputNode() as x:
                    self.graph = async_adag.experimental_compile(self.worker.echo.bind(x))

            def shutdown(self):
                self.graph.teardown()

            def __del__(self):
                self.shutdown()

        executor = Executor()
        executor.itself = executor
        print(executor.graph.execute(1).get())
        executor.graph.execute(2)
        """,
        ending,
    )
    assert wait_until_over(program) == ("1\n", "")
    assert program.returncode == 0
