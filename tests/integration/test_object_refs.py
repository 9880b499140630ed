"""ObjectRefs in payloads: objects live while a process refers to them, and no longer."""

from __future__ import annotations

import asyncio
import gc

import numpy as np
import pytest
import ray
from ray.dag import InputNode, MultiOutputNode

import async_adag
from async_adag.channels.ring import HOLDS
from tests.actors import AsyncWorker

SIZE = 50_000  # elements of 8 bytes: in the object store, so that it is gone when its owner lets go of it
PATIENCE = 20  # seconds that `ray.get` waits for an object that was lost


def value_of(number):
    return np.full(SIZE, number)


def put(number):
    return ray.put(value_of(number))


def get(ref):
    """The number in an object, read once more from the object store."""
    return int(ray.get(ref, timeout=PATIENCE)[-1])


def is_referenced(ref_id: str) -> bool:
    """Whether this process knows an object. Its owner does for as long as the object is to live: the object store
    may have what was freed for a second more.
    """
    return ref_id in referenced()


def referenced() -> set[str]:
    """The objects that this process knows."""
    known = ray._private.worker.global_worker.core_worker.get_all_reference_counts()
    return {key.decode() if isinstance(key, bytes) else key for key in known}


@ray.remote(num_cpus=0)
class Keeper:
    """Keeps refs, and lends them. Takes numbers too, as executions that carry no ref."""

    def __init__(self):
        self.kept = []

    def get(self, refs):
        return [get(ref) for ref in refs] if isinstance(refs, list) else refs

    def echo(self, refs):
        return refs

    def keep(self, refs):
        if isinstance(refs, list):
            self.kept += refs
        return len(self.kept)

    def keep_and_echo(self, refs):
        self.keep(refs)
        return refs

    def look(self):
        return [get(ref) for ref in self.kept]

    def drop(self):
        self.kept.clear()

    def make(self, number):
        """A ref to a new object of this actor's, and its id, where the number is not negative."""
        if number < 0:
            return number
        ref = put(number)
        return [ref], ref.hex()

    def is_referenced(self, ref_id):
        return is_referenced(ref_id)

    def store(self, refs):
        """Keep refs within an object of this actor's, and echo them."""
        if isinstance(refs, list):
            self.kept.append(ray.put(refs))
        return refs

    def look_into(self):
        return [get(ref) for outer in self.kept for ref in ray.get(outer)]

    def keep_inner(self, refs):
        """Keep what the objects contain, not the objects."""
        if isinstance(refs, list):
            for ref in refs:
                self.kept += ray.get(ref)
        return len(self.kept)

    def lend(self, refs, other):
        if isinstance(refs, list):
            ray.get(other.keep.remote(refs))
        return len(refs) if isinstance(refs, list) else refs


@pytest.fixture(scope="module")
def three_keepers(cluster):
    made = [Keeper.remote() for _ in range(3)]
    yield made
    for keeper in made:
        ray.kill(keeper)


@pytest.fixture
def keepers(three_keepers):
    """Three actors that keep nothing. Each test has refs of its own: what became of others does not matter."""
    ray.get([keeper.drop.remote() for keeper in three_keepers])
    return three_keepers


def compile_one(method):
    with InputNode() as x:
        dag = method.bind(x)
    return async_adag.compile(dag)


def run_until(compiled, condition):
    """Executions that carry no ref, until ``condition`` holds."""
    while not condition():
        compiled.execute(-1).get()


def run_many(compiled):
    for _ in range(300):
        compiled.execute(-1).get()


def run_until_gone(compiled, *ref_ids):
    run_until(compiled, lambda: referenced().isdisjoint(ref_ids))


def test_an_object_is_gone_when_the_driver_has_dropped_it_and_the_actor_has_used_it(keepers):
    with compile_one(keepers[0].get) as compiled:
        for number in range(5):
            ref = put(number)
            assert compiled.execute([ref]).get() == [number]
            ref_id = ref.hex()
            assert is_referenced(ref_id)
            del ref
            run_until_gone(compiled, ref_id)


def test_a_service_that_passes_refs_keeps_none_and_pins_none(keepers):
    with compile_one(keepers[0].get) as compiled:
        ids = []
        for number in range(3 * HOLDS):
            ref = ray.put(number)
            ids.append(ref.hex())
            compiled.execute([ref])
            del ref
        run_until_gone(compiled, *ids)


def test_an_object_that_an_actor_keeps_stays_until_the_actor_drops_it(keepers):
    with compile_one(keepers[0].keep) as compiled:
        ref = put(7)
        ref_id = ref.hex()
        compiled.execute([ref]).get()
        del ref
        others = []
        for number in range(2 * HOLDS):
            compiled.execute(number).get()
            ref = ray.put(number)
            others.append(ref.hex())
            compiled.execute([ref]).get() if number % 4 == 0 else compiled.execute(ref).get()
            del ref
        assert is_referenced(ref_id)
        assert get_first(keepers[0]) == 7
        ray.get(keepers[0].drop.remote())
        run_until_gone(compiled, ref_id, *others)


def get_first(keeper):
    return ray.get(keeper.__ray_call__.remote(lambda self: get(self.kept[0])))


def test_an_object_of_the_actors_stays_until_the_driver_drops_it(keepers):
    actor = keepers[0]
    with compile_one(actor.make) as compiled:
        refs, ref_id = compiled.execute(3).get()
        run_many(compiled)
        gc.collect()
        assert ray.get(actor.is_referenced.remote(ref_id))
        assert get(refs[0]) == 3
        del refs
        run_until(compiled, lambda: not ray.get(actor.is_referenced.remote(ref_id)))


def test_a_ref_that_comes_back_does_not_keep_itself_alive(keepers):
    with InputNode() as x:
        dag = keepers[1].echo.bind(keepers[0].echo.bind(x))
    with async_adag.compile(dag) as compiled:
        ref = put(1)
        ref_id = ref.hex()
        for _ in range(10):
            (back,) = compiled.execute([ref]).get()
            assert back == ref
        assert get(back) == 1
        del ref, back
        run_until_gone(compiled, ref_id)


def test_a_ref_that_goes_back_and_forth_between_actors_does_not_keep_itself_alive(keepers):
    first, second, _ = keepers
    with InputNode() as x:
        dag = first.get.bind(second.echo.bind(first.echo.bind(x)))
    with async_adag.compile(dag) as compiled:
        ref = put(1)
        ref_id = ref.hex()
        assert compiled.execute([ref]).get() == [1]
        del ref
        run_until_gone(compiled, ref_id)


def test_a_ref_of_rays_own_that_comes_back_does_not_keep_itself_alive(keepers):
    """The actor has the ref from an ordinary call before it sends it through the graph."""
    first, second, _ = keepers
    with InputNode() as x:
        dag = first.get.bind(second.echo.bind(first.__ray_call__.bind(send_kept, x)))
    with async_adag.compile(dag) as compiled:
        ref = put(1)
        ref_id = ref.hex()
        ray.get(first.keep.remote([ref]))
        del ref
        assert compiled.execute([]).get() == [1]
        ray.get(first.drop.remote())
        run_until_gone(compiled, ref_id)


def send_kept(self, value):
    return list(self.kept) if isinstance(value, list) else value


def test_refs_deep_in_a_value_beside_arrays(keepers):
    class Box:
        def __init__(self, content):
            self.content = content

    with compile_one(keepers[0].echo) as compiled:
        for size in (10, 10_000, 1_000_000):
            refs = [put(number) for number in range(3)]
            ids = [ref.hex() for ref in refs]
            value = {"a": [refs[0], (refs[1], {"b": Box(refs[2])})], "again": refs[0], "array": np.arange(size)}
            back = compiled.execute(value).get()
            assert back["a"][0] is back["again"]
            assert [get(ref) for ref in (back["again"], back["a"][1][0], back["a"][1][1]["b"].content)] == [
                0,
                1,
                2,
            ]
            assert back["array"][-1] == size - 1
            del refs, value, back
            run_until_gone(compiled, *ids)


def test_more_refs_than_can_be_held_are_pinned_and_stay_valid(keepers):
    count = HOLDS + 20
    with compile_one(keepers[0].keep) as compiled:
        ids = []
        for number in range(count):
            ref = ray.put(np.full(20_000, number))
            ids.append(ref.hex())
            compiled.execute([ref])
            del ref
        assert compiled.execute(-1).get() == count
        assert ray.get(keepers[0].look.remote()) == list(range(count))
        ray.get(keepers[0].drop.remote())
        run_until_gone(compiled, *ids[:HOLDS])
        assert referenced().issuperset(ids[HOLDS:])


def test_a_ref_of_a_call_that_has_not_ended(keepers, gate):
    with compile_one(keepers[0].get) as compiled:
        ref = keepers[1].__ray_call__.remote(
            lambda self, path: (gate_opened(path), np.full(SIZE, 5))[1], gate.path
        )
        ref_id = ref.hex()
        result = compiled.execute([ref])
        del ref
        gate.open()
        assert result.get() == [5]
        run_until_gone(compiled, ref_id)


def gate_opened(path):
    with open(path) as gate:
        return gate.read()


def test_a_value_that_cannot_be_unpickled_holds_nothing(keepers):
    class Spoiled:
        def __init__(self, ref):
            self.ref = ref

        def __reduce__(self):
            return refuse, (self.ref,)

    with compile_one(keepers[0].echo) as compiled:
        ref = put(1)
        ref_id = ref.hex()
        with pytest.raises(ZeroDivisionError):
            compiled.execute([Spoiled(ref)]).get()
        del ref
        run_until_gone(compiled, ref_id)


def refuse(ref):
    return 1 // 0


def test_an_input_that_cannot_be_pickled_holds_nothing(keepers):
    with compile_one(keepers[0].echo) as compiled:
        ref = put(1)
        ref_id = ref.hex()
        with pytest.raises(TypeError):
            compiled.execute([ref, (number for number in [])])
        del ref
        run_until_gone(compiled, ref_id)


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_two_actors_of_a_chain_keep_a_ref_and_drop_it_one_by_one(keepers, order):
    with InputNode() as x:
        dag = keepers[2].keep.bind(keepers[1].keep_and_echo.bind(keepers[0].echo.bind(x)))
    with async_adag.compile(dag) as compiled:
        ref = put(4)
        ref_id = ref.hex()
        compiled.execute([ref]).get()
        del ref
        for number in order:
            run_many(compiled)
            assert is_referenced(ref_id)
            assert ray.get(keepers[number].look.remote()) == [4]
            ray.get(keepers[number].drop.remote())
        run_until_gone(compiled, ref_id)


def test_of_two_readers_one_keeps_the_ref(keepers):
    first, second, _ = keepers
    with InputNode() as x:
        dag = MultiOutputNode([first.keep.bind(x), second.get.bind(x)])
    with async_adag.compile(dag) as compiled:
        ref = put(4)
        ref_id = ref.hex()
        refs = compiled.execute([ref])
        assert [part.get() for part in refs] == [1, [4]]
        del ref

        def once():
            return [part.get() for part in compiled.execute(-1)]

        for _ in range(300):
            once()
        assert is_referenced(ref_id)
        assert ray.get(first.look.remote()) == [4]
        ray.get(first.drop.remote())
        while is_referenced(ref_id):
            once()


def test_a_ref_that_is_kept_when_its_graph_is_torn_down_stays_valid(keepers):
    compiled = compile_one(keepers[0].keep)
    ref = put(6)
    ref_id = ref.hex()
    compiled.execute([ref]).get()
    del ref
    compiled.teardown()
    gc.collect()
    assert is_referenced(ref_id)
    assert ray.get(keepers[0].look.remote()) == [6]


def test_a_result_that_outlives_its_graph_stays_valid(keepers):
    compiled = compile_one(keepers[0].make)
    refs, ref_id = compiled.execute(6).get()
    compiled.teardown()
    gc.collect()
    assert ray.get(keepers[0].is_referenced.remote(ref_id))
    assert get(refs[0]) == 6


def test_what_is_not_read_any_more_when_a_graph_is_torn_down_is_gone(keepers, gate):
    with InputNode() as x:
        dag = keepers[0].__ray_call__.bind(stand_or_drop, x)
    compiled = async_adag.compile(dag)
    compiled.execute(gate.path)
    ref = put(6)
    ref_id = ref.hex()
    compiled.execute([ref])
    del ref
    gate.entered()
    assert is_referenced(ref_id)
    gate.open()
    compiled.teardown()
    assert not is_referenced(ref_id)


def stand_or_drop(self, value):
    # No result with the ref: one that is on its way when its writer closes is pinned there.
    return gate_opened(value) if isinstance(value, str) else None


def test_a_ref_within_an_object_of_a_reader_is_kept_by_it(keepers):
    """The actor has no ref of its own left, and the echo is held: the object still refers to it."""
    with compile_one(keepers[0].store) as compiled:
        ref = put(8)
        ref_id = ref.hex()
        back = compiled.execute([ref]).get()
        del ref, back
        run_many(compiled)
        assert is_referenced(ref_id)
        assert ray.get(keepers[0].look_into.remote()) == [8]
        ray.get(keepers[0].drop.remote())
        run_until_gone(compiled, ref_id)


def test_a_ref_from_within_an_object_stays_valid_without_the_object(keepers):
    with compile_one(keepers[0].keep_inner) as compiled:
        inner = put(9)
        ref_id = inner.hex()
        outer = ray.put([inner])
        compiled.execute([outer]).get()
        del outer, inner
        run_many(compiled)
        assert is_referenced(ref_id)
        assert ray.get(keepers[0].look.remote()) == [9]


def test_a_ref_that_a_reader_lends_by_an_ordinary_call_stays_valid(keepers):
    first, second, _ = keepers
    with InputNode() as x:
        dag = first.lend.bind(x, second)
    with async_adag.compile(dag) as compiled:
        ref = put(2)
        ref_id = ref.hex()
        assert compiled.execute([ref]).get() == 1
        del ref
        run_many(compiled)
        assert is_referenced(ref_id)
        assert ray.get(second.look.remote()) == [2]


def test_two_graphs_that_bring_the_same_ref_to_one_actor(keepers):
    with compile_one(keepers[0].keep) as first:
        with compile_one(keepers[0].get) as second:
            ref = put(3)
            ref_id = ref.hex()
            second.execute([ref]).get()
            first.execute([ref]).get()
            del ref
            run_many(first)
            run_many(second)
            assert is_referenced(ref_id)
        run_many(first)
        assert is_referenced(ref_id)
        assert ray.get(keepers[0].look.remote()) == [3]


async def test_cancelled_executions_hold_nothing(keepers):
    with InputNode() as x:
        dag = keepers[1].get.bind(keepers[0].echo.bind(x))
    async with async_adag.compile(dag, max_inflight=3) as compiled:
        refs = [put(number) for number in range(6)]
        ids = [ref.hex() for ref in refs]
        tasks = [asyncio.ensure_future(compiled([ref])) for ref in refs]
        del refs
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results[::2])
        assert results[1::2] == [[1], [3], [5]]
        del tasks, task, results  # their tracebacks have the arguments
        gc.collect()
        while any(map(is_referenced, ids)):
            await compiled(-1)


async def test_async_actors_and_frames_that_wait_in_their_outboxes(make_actor):
    actor = make_actor(AsyncWorker)
    with InputNode() as x:
        dag = actor.call.bind(wait_or_make, x)
    async with async_adag.compile(dag, max_inflight=4) as compiled:
        slow = asyncio.ensure_future(compiled("slow"))
        quick = [asyncio.ensure_future(compiled(number)) for number in range(3)]
        await asyncio.wait(quick, timeout=0)
        actor.set.remote("slow")
        await slow
        made = await asyncio.gather(*quick)
        assert [get(ref) for ref, _ in made] == [0, 1, 2]
        ids = [ref_id for _, ref_id in made]
        del made, quick, slow
        while any(ray.get([actor.call.remote(is_referenced, ref_id) for ref_id in ids])):
            await compiled(-1)


def wait_or_make(value):
    if isinstance(value, str) or value < 0:
        return value
    ref = put(value)
    return ref, ref.hex()


async def test_awaited(keepers):
    async with compile_one(keepers[0].get) as compiled:
        ref = put(1)
        ref_id = ref.hex()
        assert await compiled([ref]) == [1]
        del ref
        while is_referenced(ref_id):
            await compiled(-1)
