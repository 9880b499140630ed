"""The writer's end of an edge between processes on one GPU. How it works is told in `ipc`."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

from async_adag.gpu.acks import CLOSED, OPEN, Acks
from async_adag.gpu.buffers import Events, lay_out, size_class, wait_until
from async_adag.gpu.held import Held
from async_adag.gpu.interface import Device, DeviceError, Event, Export, Memory, Span, Stream
from async_adag.gpu.ipc import Note, Place


class Pool(Protocol):
    """Memory that readers may open where it is, rather than have it copied; for one, `pool.Allocations`."""

    def find(self, span: Span) -> tuple[int, int] | None:
        """The number of the allocation in which it lies, and where; None: it is none of this.

        Whoever owns the allocation keeps it until all senders that have asked are closed.
        """

    def memory(self, number: int) -> Memory:
        """An allocation that `find` has told of."""


class _Allocation:
    """Memory that readers open.

    Attributes:
        known: a note that had its handle has been received by all readers.
        memory: None if it is somebody else's.
    """

    __slots__ = ("handle", "known", "memory", "number", "offset", "size")

    def __init__(self, number: int, export: Export, memory: Memory | None) -> None:
        self.number = number
        self.handle = export.handle
        self.offset = export.offset
        self.memory = memory
        self.size = 0 if memory is None else memory.span.nbytes
        self.known = False


class _Slot:
    """One slot, as its writer sees it.

    Attributes:
        turn: its present generation, 0 before the first.
        ready: fires when it has been filled; recorded on the send stream only.
        acks: each reader's event, once it was opened.
        staging: where tensors of this turn were copied to.
        owners: of what readers use where it is.
        shown: allocations whose handles went into the note of this turn.
        introduced: the ready event is known to all readers.
    """

    __slots__ = ("acks", "handle", "introduced", "number", "owners", "ready", "shown", "staging", "turn")

    def __init__(self, number: int, ready: Event) -> None:
        self.number = number
        self.ready = ready
        self.handle = ready.export()
        self.turn = 0
        self.acks: list[Event] = []
        self.staging: _Allocation | None = None
        self.owners: list[Any] = []
        self.shown: list[_Allocation] = []
        self.introduced = False


class IpcSender:
    """The writer's end: a `transfer.Sender`."""

    SMALLEST = 2 << 20
    """What is allocated at least, in bytes: CUDA shares nothing smaller."""

    def __init__(
        self,
        device: Device,
        page: Any,
        readers: int,
        slots: int,
        pool: Pool | None = None,
        *,
        overlap: bool = True,
        patience: float = 10.0,
        linger: float = 5.0,
    ) -> None:
        """Begin an edge.

        Args:
            device: where it is.
            page: of `acks_size` bytes, shared with the readers, zeros.
            readers: how many there are.
            slots: as many as the readers were told (`slots_for`).
            pool: what is in it stays where it is (None: all is copied).
            overlap: whether the stream of the tensors goes on while they are copied.
            patience: how long to wait for a slot, in seconds, where readers do not keep to the rules.
            linger: how long `close` waits for the readers and the device, each, in seconds.
        """
        self._device = device
        self._pages = [self._open_page(page, reader, slots) for reader in range(readers)]
        self._pool = pool
        self._overlap = overlap
        self._patience = patience
        self._linger = linger
        self._stream = device.stream()
        self._produced = device.event()
        self._events = Events(device)
        self._held = Held(self._events)
        self._slots = slots
        self._made: list[_Slot] = []
        self._idle: list[_Slot] = []  # the device is done with them
        self._sent: list[_Slot] = []  # not all readers are done with them
        self._acked: deque[_Slot] = deque()  # all readers are, but maybe not yet the device
        self._last: _Slot | None = None
        self._generation = 0
        self._allocations = 0
        self._spare: list[_Allocation] = []
        self._ours: list[_Allocation] = []
        self._found: dict[int, _Allocation] = {}
        self._stranded: list[Any] = []
        self._closed = False
        self._freed = False

    def _open_page(self, page: Any, reader: int, slots: int) -> Acks:
        return Acks(page, reader, slots)

    def announce(self, spans: Sequence[Span], owners: Sequence[Any], stream: Stream) -> Note:
        """As `transfer.Sender.announce`: what has to be copied is, and the rest stays where it is."""
        self._check_open()
        self._collect()
        found = [None if self._pool is None else self._pool.find(span) for span in spans]
        staged = [index for index, place in enumerate(found) if place is None]
        offsets, total = lay_out(spans[index].nbytes for index in staged)
        slot = self._take()
        try:
            if staged:
                self._stage(slot, total)
            stream.record(self._produced)
            self._stream.wait(self._produced)
            places = self._fill(slot, spans, found, dict(zip(staged, offsets, strict=True)))
            self._stream.record(slot.ready)
            if not self._overlap:
                stream.wait(slot.ready)
        except BaseException:
            # The edge is of no more use, but what was issued may be under way all the same.
            self._stranded.append((owners, slot.owners))
            raise
        copied = [owners[index] for index in staged] + slot.owners  # the latter are of the slot's last turn
        if copied:
            done = self._events.take()
            self._stream.record(done)
            self._held.add([done], copied)
        slot.owners = [owners[index] for index, place in enumerate(found) if place is not None]
        self._generation += 1
        slot.turn = self._generation
        self._sent.append(slot)
        self._last = slot
        news = [(allocation.number, allocation.handle) for allocation in slot.shown]
        return slot.number, slot.turn, b"" if slot.introduced else slot.handle, news, places

    def withdraw(self) -> None:
        """As `transfer.Sender.withdraw`: the next copy into the slot is behind this one on the send stream."""
        slot = self._last
        if slot is None:
            return
        self._last = None
        self._sent.remove(slot)
        self._retire(slot)

    def send(self) -> None:
        """As `transfer.Sender.send`: nothing is left to be done."""
        self._last = None

    def close(self) -> None:
        """As `transfer.Sender.close`.

        Memory goes back to the device when all readers have unmapped it, or have ended. Where one has not within
        ``linger`` seconds, as somebody there still refers to what has arrived, or its device does not go on, it is
        kept; closing again later gives it back, once that is over.
        """
        if self._freed:
            return
        if not self._closed:
            self._closed = True
            self._last = None
            for page in self._pages:
                page.close_writer()
        wait_until(lambda: all(page.state != OPEN or page.reader_is_gone for page in self._pages), self._linger)
        self._held.close(self._linger)
        if self._is_quiet() and all(page.state == CLOSED or page.reader_is_gone for page in self._pages):
            self._free()

    @property
    def is_free(self) -> bool:
        """Whether all has been let go of: no reader has anything of this edge open."""
        return self._freed

    def _free(self) -> None:
        self._freed = True
        for slot in self._made:
            slot.owners = []
            for event in (slot.ready, *slot.acks):
                event.close()
            slot.acks = []
        for allocation in self._ours:
            if allocation.memory is not None:
                allocation.memory.close()
        self._events.close()
        self._produced.close()
        self._stream.close()
        for page in self._pages:
            page.close()

    def _is_quiet(self) -> bool:
        """Whether the device is done with the send stream, or will never be: it may be closed."""
        try:
            last = self._events.take()
            self._events.give_back(last)
            self._stream.record(last)
            return wait_until(last.query, self._linger)
        except DeviceError:
            return True

    def _check_open(self) -> None:
        if self._closed:
            raise DeviceError("this edge was closed")

    def _collect(self) -> None:
        """Take in what readers have told and the device has done."""
        self._held.release()
        for number, page in enumerate(self._pages):
            if page.state != OPEN:
                raise DeviceError(f"reader {number} has closed its end")
        waiting = []
        for slot in self._sent:
            if slot is not self._last and self._is_acked(slot):
                self._acked.append(slot)
            else:
                waiting.append(slot)
        self._sent = waiting
        for slot in list(self._acked):
            if all(event.query() for event in slot.acks):
                self._acked.remove(slot)
                self._retire(slot)

    def _is_acked(self, slot: _Slot) -> bool:
        """Whether all readers have told that they are done with it; then their events can be waited for."""
        for page in self._pages:
            if page.done_with(slot.number) != slot.turn:
                return False
        while len(slot.acks) < len(self._pages):
            handle = self._pages[len(slot.acks)].event(slot.number)
            if handle is None:
                return False
            slot.acks.append(self._device.open_event(handle))
        slot.introduced = True
        for allocation in slot.shown:
            allocation.known = True
        slot.shown = []
        return True

    def _retire(self, slot: _Slot) -> None:
        """Nobody needs the contents of a slot any more, and the next copy into it finds it read."""
        slot.owners = []
        slot.shown = []
        self._give_up_staging(slot)
        self._idle.append(slot)

    def _give_up_staging(self, slot: _Slot) -> None:
        if slot.staging is not None:
            self._spare.append(slot.staging)
            slot.staging = None

    def _take(self) -> _Slot:
        """A slot that no reader uses: rather one that the device is done with, so that the copy need not wait."""
        slot = self._try_take()
        if slot is None:
            wait_until(self._has_free_slot, self._patience)
            self._check_open()
            slot = self._try_take()
        if slot is None:
            late = {
                number: sum(page.done_with(slot.number) != slot.turn for slot in self._sent)
                for number, page in enumerate(self._pages)
            }
            raise DeviceError(
                f"no slot of {self._slots} came free in {self._patience:g} s: by reader, "
                + ", ".join(f"{number} is not done with {count}" for number, count in late.items())
            )
        return slot

    def _has_free_slot(self) -> bool:
        self._collect()
        return self._closed or bool(self._idle or self._acked)

    def _try_take(self) -> _Slot | None:
        if self._idle:
            return self._idle.pop()
        if len(self._made) < self._slots:
            slot = _Slot(len(self._made), self._device.event(shared=True))
            self._made.append(slot)
            return slot
        if not self._acked:
            return None
        slot = self._acked.popleft()
        for event in slot.acks:
            self._stream.wait(event)
        return slot

    def _stage(self, slot: _Slot, nbytes: int) -> None:
        """Give a slot memory for ``nbytes``.

        All of it is filled on the send stream, and only after its readers, so it may go from slot to slot. The
        smallest that fits is taken. None is freed: readers have it mapped.
        """
        self._give_up_staging(slot)
        fitting = [allocation for allocation in self._spare if allocation.size >= nbytes]
        if fitting:
            slot.staging = min(reversed(fitting), key=lambda allocation: allocation.size)
            self._spare.remove(slot.staging)
            return
        memory = self._device.allocate(max(size_class(nbytes), self.SMALLEST))
        slot.staging = self._new(self._device.export(memory.span), memory)

    def _new(self, export: Export, memory: Memory | None) -> _Allocation:
        allocation = _Allocation(self._allocations, export, memory)
        self._allocations += 1
        self._ours.append(allocation)
        return allocation

    def _fill(
        self,
        slot: _Slot,
        spans: Sequence[Span],
        found: Sequence[tuple[int, int] | None],
        offsets: dict[int, int],
    ) -> list[Place]:
        places = []
        for index, (span, place) in enumerate(zip(spans, found, strict=True)):
            if place is not None:
                number, offset = place
                allocation = self._in_pool(number)
            else:
                assert slot.staging is not None
                assert slot.staging.memory is not None
                allocation, offset = slot.staging, offsets[index]
                target = Span(slot.staging.memory.span.address + offset, span.nbytes)
                self._device.copy(target, span, self._stream)
            places.append((allocation.number, allocation.offset + offset))
            if not allocation.known and allocation not in slot.shown:
                slot.shown.append(allocation)
        return places

    def _in_pool(self, number: int) -> _Allocation:
        allocation = self._found.get(number)
        if allocation is None:
            assert self._pool is not None
            export = self._device.export(self._pool.memory(number).span)
            allocation = self._found[number] = self._new(export, None)
        return allocation
