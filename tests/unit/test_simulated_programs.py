"""Random programs on the simulated device, judged by a sequential model and by trying every order.

A program is a list of kernels, each on a stream, that read and write cells of memory. Synchronised by
construction, each kernel waits for every earlier one on another stream that has a cell in common with it, if one
of the two writes it. Then a wait is taken out: whether it was needed is found by walking through all states that
the streams can reach together, which knows nothing of clocks.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from async_adag.gpu.interface import Span
from async_adag.gpu.simulated import Race, Simulation, explore

CELLS = 3
CELL = 16  # bytes
STREAMS = 3  # the last one is another process's


class Step(NamedTuple):
    """A kernel of a program."""

    stream: int
    reads: frozenset[int]
    writes: frozenset[int]

    def conflicts(self, other: Step) -> bool:
        return bool(self.writes & (other.reads | other.writes) or other.writes & self.reads)


cells = st.frozensets(st.integers(0, CELLS - 1), max_size=2)
programs = st.lists(st.builds(Step, st.integers(0, STREAMS - 1), cells, cells), min_size=2, max_size=6)
Waits = list[tuple[int, int]]  # which kernel waits for which


def waits_of(program: list[Step]) -> Waits:
    return [
        (later, earlier)
        for later in range(len(program))
        for earlier in range(later)
        if program[later].stream != program[earlier].stream and program[later].conflicts(program[earlier])
    ]


def value(number: int, read: list[bytes]) -> bytes:
    return hashlib.blake2b(b"".join([bytes([number]), *read]), digest_size=CELL).digest()


def modelled(program: list[Step]) -> list[bytes]:
    """What the cells hold when the kernels run one after the other."""
    memory = [bytes(CELL)] * CELLS
    for number, step in enumerate(program):
        result = value(number, [memory[cell] for cell in sorted(step.reads)])
        for cell in step.writes:
            memory[cell] = result
    return memory


def simulated(program: list[Step], waits: Waits, choose) -> list[bytes]:
    """What the cells hold when the streams run as chosen; the last stream is of another process."""
    simulation = Simulation(choose=choose)
    writer, reader = simulation.process(), simulation.process()
    memory = writer.allocate(CELLS * CELL)
    writer.write(memory.span, bytes(CELLS * CELL))
    reader.hear(writer.tell())
    mapping = reader.open(writer.export(memory.span).handle)
    device = [*[writer] * (STREAMS - 1), reader]
    base = [*[memory.span.address] * (STREAMS - 1), mapping.span.address]
    streams = [each.stream() for each in device]
    page = mmap.mmap(-1, mmap.PAGESIZE)
    words = {each: each.words(memoryview(page)[: 8 * len(program)]) for each in (writer, reader)}
    events = []
    for number, step in enumerate(program):
        at = step.stream
        for later, earlier in waits:
            if later == number:
                owner, event = events[earlier]
                if owner is device[at]:
                    streams[at].wait(event)
                else:
                    words[device[at]].wait(streams[at], earlier, 1)

        def compute(reads, writes, number=number) -> None:
            result = value(number, [bytes(read) for read in reads])
            for write in writes:
                write[:] = result

        device[at].kernel(
            streams[at],
            reads=[Span(base[at] + cell * CELL, CELL) for cell in sorted(step.reads)],
            writes=[Span(base[at] + cell * CELL, CELL) for cell in sorted(step.writes)],
            transform=compute,
        )
        events.append((device[at], device[at].event()))
        streams[at].record(events[-1][1])
        words[device[at]].store(streams[at], number, 1)
    simulation.run()
    return [writer.peek(Span(memory.span.address + cell * CELL, CELL)) for cell in range(CELLS)]


def races(program: list[Step], waits: Waits) -> bool:
    """Whether two kernels in conflict can run in either order: by all states that can be reached."""
    lanes = [[number for number, step in enumerate(program) if step.stream == lane] for lane in range(STREAMS)]
    needs = {number: [earlier for later, earlier in waits if later == number] for number in range(len(program))}
    start = (0,) * STREAMS
    states, stack = {start}, [start]
    while stack:
        state = stack.pop()
        done = {number for lane, at in zip(lanes, state, strict=True) for number in lane[:at]}
        for lane in range(STREAMS):
            if state[lane] < len(lanes[lane]) and done.issuperset(needs[lanes[lane][state[lane]]]):
                following = (*state[:lane], state[lane] + 1, *state[lane + 1 :])
                if following not in states:
                    states.add(following)
                    stack.append(following)
    before = set()
    for state in states:
        done = {number for lane, at in zip(lanes, state, strict=True) for number in lane[:at]}
        before |= {(one, other) for one in done for other in range(len(program)) if other not in done}
    return any(
        (one, other) in before and (other, one) in before and program[one].conflicts(program[other])
        for one in range(len(program))
        for other in range(one)
    )


def chooser(data: st.DataObject):
    return lambda ready: data.draw(st.integers(0, len(ready) - 1)) if len(ready) > 1 else 0


@given(programs, st.data())
@settings(max_examples=150)
def test_programs_synchronised_by_construction_never_race_and_compute_what_the_model_does(program, data):
    waits = waits_of(program)
    assert not races(program, waits)
    assert simulated(program, waits, chooser(data)) == modelled(program)
    assert simulated(program, waits, None) == modelled(program)


@given(programs.filter(waits_of), st.data())
@settings(max_examples=300)
def test_a_wait_left_out_is_found_if_it_was_needed_and_only_then(program, data):
    waits = waits_of(program)
    waits.remove(data.draw(st.sampled_from(waits)))
    if races(program, waits):
        for choose in (chooser(data), None):
            with pytest.raises(Race):
                simulated(program, waits, choose)
    else:
        assert simulated(program, waits, chooser(data)) == modelled(program)


def test_both_outcomes_of_a_wait_left_out_occur():
    needed = [Step(0, frozenset(), frozenset({0})), Step(1, frozenset({0}), frozenset())]
    assert waits_of(needed) == [(1, 0)]
    assert races(needed, [])
    chain = [*needed, Step(2, frozenset({0}), frozenset({0}))]
    assert waits_of(chain) == [(1, 0), (2, 0), (2, 1)]
    assert not races(chain, [(1, 0), (2, 1)])
    assert races(chain, [(1, 0), (2, 0)])


# A ring of slots between two processes, whose words are stored again and again


def ring(choose, count: int, slots: int, *, ready: bool = True, ack: bool = True) -> list[int]:
    """The writer fills a slot, the reader reads it in place; words of each slot go both ways, hosts run ahead."""
    simulation = Simulation(choose=choose)
    writer, reader = simulation.process(name="writer"), simulation.process(name="reader")
    memory = writer.allocate(slots)
    reader.hear(writer.tell())
    mapping = reader.open(writer.export(memory.span).handle)
    sending, using = writer.stream(), reader.stream()
    page = mmap.mmap(-1, mmap.PAGESIZE)
    there, here = writer.words(memoryview(page)), reader.words(memoryview(page))
    seen: list[int] = []

    def put(number: int):
        def fill(_, writes) -> None:
            writes[0][0] = number

        return fill

    def look(reads, _) -> None:
        seen.append(reads[0][0])

    for number in range(count):
        slot, turn = number % slots, number // slots
        if ack:
            there.wait(sending, slots + slot, turn)
        writer.kernel(sending, writes=[Span(memory.span.address + slot, 1)], transform=put(number))
        there.store(sending, slot, turn + 1)
        if ready:
            here.wait(using, slot, turn + 1)
        reader.kernel(using, reads=[Span(mapping.span.address + slot, 1)], transform=look)
        here.store(using, slots + slot, turn + 1)
    simulation.run()
    return seen


@pytest.mark.parametrize("slots", [1, 2])
def test_a_ring_of_slots_is_right_in_every_order(slots):
    def run(choose) -> None:
        assert ring(choose, 3, slots) == [0, 1, 2]

    assert explore(run, limit=5000) >= (1 if slots == 1 else 10)


@given(st.data(), st.integers(1, 3), st.integers(2, 8))
@settings(max_examples=50)
def test_a_ring_without_its_acks_or_its_ready_words_is_found_in_any_order(data, slots, count):
    assert ring(chooser(data), count, slots) == [*range(count)]
    # A reader that is through with all before the writer begins has raced with nobody, and seen nothing.
    with contextlib.suppress(Race):
        assert ring(chooser(data), count, slots, ready=False) != [*range(count)]
    if count > slots:
        with pytest.raises(Race):
            ring(chooser(data), count, slots, ack=False)
    else:
        assert ring(chooser(data), count, slots, ack=False) == [*range(count)]
