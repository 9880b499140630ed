"""Whole graphs over simulated GPUs, in any order of steps, with failures: right bytes, no race, nothing left."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from async_adag.gpu.buffers import Buffers
from async_adag.gpu.links import LinkReceiver, LinkSender
from async_adag.gpu.simulated import Race, Simulation
from tests.gpu_edges import (
    Graph,
    Node,
    Run,
    SimulatedReceiver,
    SimulatedSender,
    run_hosts,
    wait_in_virtual_time,
)

SIZES = [1, 100, 5000, 70_000, 700_000]


@st.composite
def graphs(draw: st.DrawFn, kinds: tuple[str, ...] = ("ipc", "link")) -> Graph:
    processes = draw(st.integers(2, 3))
    nodes = []
    for index in range(draw(st.integers(2, 6))):
        earlier = draw(st.sets(st.integers(0, index - 1), max_size=3)) if index else set()
        nodes.append(Node(draw(st.integers(0, processes - 1)), sorted(earlier)))
    return Graph(
        nodes,
        window=draw(st.sampled_from([1, 2, 3, 8])),
        kinds=[draw(st.sampled_from(kinds)) for _ in nodes],
        devices=[0] * processes,
    )


def any_sizes(random: Random):
    chosen: dict[tuple[int, int], list[int]] = {}

    def sizes(node: int, execution: int) -> list[int]:
        number = random.choice([1, 1, 2, 4])
        return chosen.setdefault((node, execution), [random.choice(SIZES) for _ in range(number)])

    return sizes


def any_order(random: Random) -> Simulation:
    return Simulation(reuse_addresses=True, choose=lambda works: random.randrange(len(works)))


seeded = st.integers(0, 1 << 32).map(Random)  # draws that are too many for Hypothesis to note each
many = settings(
    max_examples=60,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@many
@given(graph=graphs(), random=seeded, data=st.data())
def test_any_graph_gives_the_right_bytes_without_a_race_and_frees_everything(monkeypatch, graph, random, data):
    simulation = any_order(random)
    with monkeypatch.context() as patch:
        wait_in_virtual_time(patch, simulation)
        run = Run(
            graph,
            simulation,
            random,
            executions=data.draw(st.sampled_from([1, 4, 15, 30]), label="executions"),
            sizes=any_sizes(random),
            keeping=data.draw(st.sampled_from([0.0, 0.3, 1.0]), label="keeping"),
            withdrawing=data.draw(st.sampled_from([0.0, 0.2]), label="withdrawing"),
            pools=sorted(data.draw(st.sets(st.integers(0, 2)), label="pools")),
        )
        run_hosts(run, random)
        assert not run.errors
        run.close()
        assert run.belongings() == []
        assert simulation.waiting() == []


@many
@given(graph=graphs(), random=seeded, data=st.data())
def test_when_something_fails_all_hosts_end_and_the_living_have_nothing_left(monkeypatch, graph, random, data):
    simulation = any_order(random)
    victim = data.draw(st.integers(0, len(graph.devices) - 1), label="victim")
    kind = data.draw(st.sampled_from(["kill", "device"]), label="kind")
    with monkeypatch.context() as patch:
        wait_in_virtual_time(patch, simulation)
        run = Run(
            graph,
            simulation,
            random,
            executions=15,
            sizes=any_sizes(random),
            keeping=0.3,
            pools=sorted(data.draw(st.sets(st.integers(0, 2)), label="pools")),
        )
        name = run.processes[victim].device.host.name
        how = {
            "kill": lambda: run.kill(victim),
            "device": lambda: simulation.fail(lambda work: work.process == name),
        }
        run_hosts(run, random, events=[how[kind], run.stop])
        run.close()
        assert run.belongings() == []
        assert simulation.waiting() == []


class ForgetfulSender(LinkSender):
    def _hold(self, sent, owners):
        pass


class Careless(Buffers):
    SLAB = 0

    def _wait(self, stream, buffer):
        pass


class CarelessReceiver(LinkReceiver):
    @staticmethod
    def _make_buffers(device, backlog):
        return Careless(device, 1)


class EarlyReceiver(SimulatedReceiver):
    """Its acks are not behind what it has issued."""

    def _ack(self, slot, generation, stream):
        super()._ack(slot, generation, self._device.stream())


class UnwaitingSender(SimulatedSender):
    """Takes slots whose acks were issued, without having its stream wait for them."""

    def _try_take(self):
        if self._issued:
            self._idle.append(self._issued.popleft())
        return super()._try_take()


class ForgetfulCopying(SimulatedSender):
    """Does not hold what it copies from."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self._held.add = lambda events, owners: None


def hasty(sender):
    """A sender that does not wait for the stream on which tensors are made."""

    class Hasty(sender):
        def announce(self, spans, owners, stream):
            return super().announce(spans, owners, stream_of_its_own(self))

    return Hasty


def impatient(receiver):
    """A receiver that does not have the stream wait on which tensors are used."""

    class Impatient(receiver):
        def receive(self, note, sizes, stream, others=()):
            return super().receive(note, sizes, stream_of_its_own(self), others)

    return Impatient


def stream_of_its_own(end):
    device = end._device if hasattr(end, "_device") else end._events._device
    return device.stream()


GUARDS = {
    "a sender drops what it still sends": ("link", {"link_sender": ForgetfulSender}),
    "a sender drops what it still copies": ("ipc", {"sender": ForgetfulCopying}),
    "what is not yet made is sent": ("link", {"link_sender": hasty(LinkSender)}),
    "what is not yet made is copied": ("ipc", {"sender": hasty(SimulatedSender)}),
    "what is not yet received is used": ("link", {"link_receiver": impatient(LinkReceiver)}),
    "what is not yet ready is used": ("ipc", {"receiver": impatient(SimulatedReceiver)}),
    "a buffer is filled while it is still read": ("link", {"link_receiver": CarelessReceiver}),
    "acks too early": ("ipc", {"receiver": EarlyReceiver}),
    "acks that nobody waits for": ("ipc", {"sender": UnwaitingSender}),
}


@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "unguarded"])
@pytest.mark.parametrize("guard", GUARDS)
def test_without_its_guard_a_pipeline_has_a_race(monkeypatch, guard, guarded):
    kind, ends = GUARDS[guard]
    graph = Graph([Node(0, []), Node(1, [0])], window=4, kinds=[kind, kind], devices=[0, 0])
    random = Random(1)
    simulation = Simulation()
    wait_in_virtual_time(monkeypatch, simulation)
    run = Run(
        graph,
        simulation,
        random,
        executions=40,
        sizes=lambda node, execution: [1000],
        **({} if guarded else ends),
    )
    if guarded:
        run_hosts(run, random)
        run.close()
        assert run.errors == []
        assert run.belongings() == []
    else:
        with pytest.raises((Race, AssertionError)) as caught:
            run_hosts(run, random)
        assert caught.type is Race or "these are not the bytes that were sent" in str(caught.value)


# The order in which transfers are issued. That each edge has streams of its own hides mistakes in it where the
# device has queues enough; so here all streams of a process are one, or hosts wait for the device at each step.

TO_ONE_ANOTHER = Graph([Node(0, []), Node(1, []), Node(0, [1]), Node(1, [0])], 1, ["link"] * 4, [0, 0])
DIAMOND = Graph([Node(0, []), Node(1, [0]), Node(2, [0]), Node(0, [1, 2])], 1, ["link"] * 4, [0, 0, 0])
FAN_OUT = Graph([Node(0, []), Node(1, [0]), Node(2, [0]), Node(1, [2]), Node(2, [1])], 1, ["link"] * 5, [0] * 3)
CROSSED = Graph([Node(0, []), Node(0, []), Node(1, [1]), Node(1, [0])], 1, ["link"] * 4, [0, 0])
MODES = {"streams": {}, "one queue": {"serial": True}, "waiting hosts": {"blocking": True, "serial": True}}


def outcomes(make, deepest: int) -> list[bool]:
    """Whether all hosts ended, for each order in which they can go on, as far as the first ``deepest`` choices."""
    ended = []
    orders: list[list[int]] = [[]]
    while orders:
        order = orders.pop()
        run = make()
        hosts = {number: run.host(number) for number in range(len(run.processes))}
        turn = 0
        asked: set[int] = set()  # since somebody last got on
        while not asked >= hosts.keys():
            # Whoever has just been found waiting is not asked before somebody has got on: that changes nothing.
            candidates = [number for number in hosts if number not in asked]
            if turn == len(order):
                if turn < deepest:
                    orders += [[*order, other] for other in range(1, len(candidates))]
                order = [*order, 0]
            number = candidates[order[turn]]
            turn += 1
            refused = run.refused
            steps = len(run.simulation.history)
            if next(hosts[number], StopIteration) is StopIteration:
                del hosts[number]
            run.simulation.settle()
            if run.refused != refused and len(run.simulation.history) == steps:
                asked.add(number)
            else:
                asked.clear()
        ended.append(not hosts and not run.simulation.waiting())
    return ended


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "graph", [TO_ONE_ANOTHER, DIAMOND, FAN_OUT, CROSSED], ids=["to one another", "diamond", "fan-out", "crossed"]
)
def test_in_the_order_of_the_plan_no_order_of_hosts_deadlocks(graph, mode):
    def make() -> Run:
        return Run(graph, Simulation(), Random(0), executions=2, sizes=lambda node, execution: [8], **MODES[mode])

    ended = outcomes(make, {2: 8, 3: 4}[len(graph.devices)])
    assert len(ended) > 50
    assert all(ended)


def test_receiving_where_a_result_is_needed_would_deadlock():
    def make() -> Run:
        return Run(
            CROSSED,
            Simulation(),
            Random(0),
            executions=2,
            sizes=lambda node, execution: [8],
            in_order=False,
            **MODES["waiting hosts"],
        )

    assert not any(outcomes(make, 2))


@many
@given(graph=graphs(kinds=("link", "link", "ipc")), random=seeded, mode=st.sampled_from(sorted(MODES)))
def test_any_graph_ends_in_the_order_of_the_plan(graph, random, mode):
    run = Run(graph, any_order(random), random, executions=6, sizes=any_sizes(random), **MODES[mode])
    run_hosts(run, random)
    run.simulation.run()
    assert not run.errors
