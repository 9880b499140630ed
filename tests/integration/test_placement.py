"""`compile(placement=…)`: where the threads of loops are while a graph lives, and that all others stay free."""

from __future__ import annotations

import os
import threading

import pytest
import ray
from ray.dag import InputNode

import async_adag
from async_adag.driver.deployment import seats

TWO = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one CPU leaves no choice")


def cpus_of_this_thread(_=None):
    return os.sched_getaffinity(0)


def see_threads(_=None):
    """The CPUs of this thread, and of all other threads of the process, the main one among them."""
    mine = threading.get_native_id()
    others = {tid: os.sched_getaffinity(tid) for tid in map(int, os.listdir("/proc/self/task")) if tid != mine}
    return os.sched_getaffinity(0), list(others.values()), [thread.name for thread in threading.enumerate()]


def chain(actors, function):
    """Every actor adds what ``function`` sees there."""
    with InputNode() as x:
        dag = x
        for actor in actors:
            dag = actor.call.bind(_append, dag, function)
        return dag


def _append(seen, function):
    return [*seen, function()]


def everywhere(workers, function=cpus_of_this_thread):
    return ray.get([worker.call.remote(function) for worker in workers])


def test_together_they_share_a_cpu(workers):
    free = everywhere(workers)
    with async_adag.compile(chain(workers, cpus_of_this_thread), placement="together") as compiled:
        (cpu,) = first = compiled.execute([]).get()[0]
        assert compiled.execute([]).get() == [first] * 3
        assert cpu in free[0]
        assert everywhere(workers) == free  # other calls run where they ran
    assert everywhere(workers) == free


@TWO
def test_apart_they_take_turns_at_the_cpus(workers):
    free = sorted(os.sched_getaffinity(0))
    with async_adag.compile(chain(workers, cpus_of_this_thread), placement="apart") as compiled:
        seen = compiled.execute([]).get()
    assert all(len(cpus) == 1 for cpus in seen)
    assert len(set.union(*seen)) == min(3, len(free))


@TWO
def test_graphs_that_live_at_the_same_time_are_spread(workers):
    with async_adag.compile(chain(workers, cpus_of_this_thread), placement="together") as one:
        with async_adag.compile(chain(workers, cpus_of_this_thread), placement="together") as other:
            first, second = one.execute([]).get()[0], other.execute([]).get()[0]
            assert first != second
        with async_adag.compile(chain(workers, cpus_of_this_thread), placement="together") as third:
            assert third.execute([]).get()[0] == second


def test_nothing_but_the_thread_of_the_loop_is_tied(worker):
    free = os.sched_getaffinity(0)
    (theirs,) = everywhere([worker])
    with async_adag.compile(chain([worker], see_threads), placement="apart") as compiled:
        ((mine, others, names),) = compiled.execute([]).get()
        assert len(mine) == 1
        assert any(name.startswith("async_adag") for name in names)
        assert others
        assert all(cpus == theirs for cpus in others)
        assert os.sched_getaffinity(0) == free
    (after,) = everywhere([worker], see_threads)
    assert all(cpus == theirs for cpus in [after[0], *after[1]])


@TWO
@pytest.mark.one_host(reason="the driver places loops of its own host; others use what CPUs they have")
def test_an_actor_that_may_not_use_the_cpu_uses_its_own(make_actor):
    actor = make_actor()
    last = max(os.sched_getaffinity(0))
    ray.get(actor.call.remote(_restrict, {last}))
    with async_adag.compile(chain([actor], cpus_of_this_thread), placement="together") as compiled:
        assert compiled.execute([]).get() == [{last}]


def _restrict(cpus):
    for tid in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(tid), cpus)


def test_an_event_loop_is_never_tied(async_worker):
    (free,) = everywhere([async_worker])
    with async_adag.compile(chain([async_worker], cpus_of_this_thread), placement="together") as compiled:
        assert compiled.execute([]).get() == [free]


def test_by_default_nobody_is_tied(workers):
    with async_adag.compile(chain(workers, cpus_of_this_thread)) as compiled:
        assert compiled.execute([]).get() == everywhere(workers)


def test_seats_are_given_back_where_no_graph_came_of_it(make_actor, workers):
    before = +seats._taken
    dead = make_actor()
    ray.kill(dead)
    with pytest.raises(async_adag.GraphError):
        async_adag.compile(chain([*workers, dead], cpus_of_this_thread), placement="apart")
    assert +seats._taken == before
