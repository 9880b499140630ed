"""The writer's end of an edge between processes on one GPU. How it works is told in `ipc`."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Protocol

from async_adag.gpu.acks import CLOSED, OPEN, Acks, Shared
from async_adag.gpu.buffers import Events, lay_out, size_class, wait_until
from async_adag.gpu.held import Held
from async_adag.gpu.interface import Device, DeviceError, Event, Export, Memory, Span, Stream
from async_adag.gpu.ipc import Note, Place
from async_adag.gpu.transfer import Marks


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
        staging: where tensors of this turn were copied to.
        owners: of what readers use where it is.
        shown: allocations whose handles went into the note of this turn.
    """

    __slots__ = ("number", "owners", "shown", "staging", "turn")

    def __init__(self, number: int) -> None:
        self.number = number
        self.turn = 0
        self.staging: _Allocation | None = None
        self.owners: list[Any] = []
        self.shown: list[_Allocation] = []


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
            page: of `acks_size` bytes, shared with the readers, zeros; at a multiple of the page size.
            readers: how many there are.
            slots: as many as the readers were told (`slots_for`).
            pool: what is in it stays where it is (None: all is copied).
            overlap: whether the stream of the tensors goes on while they are copied.
            patience: how long to wait for a slot, in seconds, where readers do not keep to the rules.
            linger: how long `close` waits for the readers and the device, each, in seconds.
        """
        self.marks: Marks | None = None
        self._device = device
        self._shared = Shared(device, page)
        self._pages = [self._open_part(reader, slots) for reader in range(readers)]
        for part in self._pages:
            part.sign_in_writer()
        self._pool = pool
        self._overlap = overlap
        self._patience = patience
        self._linger = linger
        self._stream = device.stream()
        self._behind = device.event()  # recorded, and waited for at once
        self._events = Events(device)
        self._held = Held(self._events)
        self._slots = slots
        self._made: list[_Slot] = []
        self._idle: list[_Slot] = []  # the device is done with them
        self._sent: list[_Slot] = []  # not all readers have issued their acks
        self._issued: deque[_Slot] = deque()  # all have, but maybe the device is not there yet
        self._last: _Slot | None = None
        self._generation = 0
        self._allocations = 0
        self._spare: list[_Allocation] = []
        self._ours: list[_Allocation] = []
        self._found: dict[int, _Allocation] = {}
        self._stranded: list[Any] = []
        self._closed = False
        self._freed = False

    def _open_part(self, reader: int, slots: int) -> Acks:
        return Acks(self._shared, reader, slots)

    def announce(self, spans: Sequence[Span], owners: Sequence[Any], stream: Stream) -> Note:
        """As `transfer.Sender.announce`: what has to be copied is, and the rest stays where it is."""
        self._check_open()
        found = [None if self._pool is None else self._pool.find(span) for span in spans]
        staged = [index for index, place in enumerate(found) if place is None]
        offsets, total = lay_out(spans[index].nbytes for index in staged)
        slot = self._take()
        try:
            if staged:
                self._stage(slot, total)
            stream.record(self._behind)
            self._stream.wait(self._behind)
            if self.marks is not None:
                self.marks.begin(self._stream)
            places = self._fill(slot, spans, found, dict(zip(staged, offsets, strict=True)))
            self._generation += 1
            for page in self._pages:
                page.store_ready(self._stream, slot.number, self._generation)
            if self.marks is not None:
                self.marks.end(self._stream)
            if not self._overlap:
                self._stream.record(self._behind)
                stream.wait(self._behind)
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
        slot.turn = self._generation
        self._sent.append(slot)
        self._last = slot
        news = [(allocation.number, allocation.handle) for allocation in slot.shown]
        return slot.number, slot.turn, news, places

    def check(self) -> None:
        """As `transfer.Sender.check`."""
        self._behind.query()

    def withdraw(self) -> None:
        """As `transfer.Sender.withdraw`: the next copy into the slot is behind this one on the send stream."""
        slot = self._last
        if slot is None:
            return
        self._last = None
        self._sent.remove(slot)
        self._retire(slot)

    def send(self) -> None:
        """As `transfer.Sender.send`: readers have the frame, so they do not wait for what is done here."""
        self._last = None
        self._collect()

    def check_readers(self) -> None:
        """Go on without the acks of readers that have ended, which will not come: nothing there reads any more.

        From any thread, again and again; harmless once this is closed.
        """
        with suppress(ValueError):  # it has been, meanwhile
            for page in self._pages:
                if page.reader_has_ended:
                    page.let_writer_go()

    def close(self) -> None:
        """As `transfer.Sender.close`.

        Memory goes back to the device when all readers have unmapped it, or have ended. Where one has not within
        ``linger`` seconds, as somebody there still refers to what has arrived, or its device does not go on, it is
        kept; closing again later gives it back, once that is over.
        """
        if self._freed:
            return
        self._closed = True
        wait_until(lambda: all(page.state != OPEN or page.reader_is_gone for page in self._pages), self._linger)
        self.check_readers()
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
        for allocation in self._ours:
            if allocation.memory is not None:
                allocation.memory.close()
        self._events.close()
        self._behind.close()
        self._stream.close()
        for page in self._pages:
            page.close()
        self._shared.close()

    def _is_quiet(self) -> bool:
        """Whether the device is done with the send stream, or will never be: it may be closed."""
        try:
            last = self._events.take()
            self._events.give_back(last)
            self._stream.record(last)
            return wait_until(lambda: self._has_passed(last), self._linger)
        except DeviceError:
            for page in self._pages:
                page.let_reader_go()  # the device has failed here: nothing more will become ready
            return True

    def _has_passed(self, last: Event) -> bool:
        self.check_readers()
        return last.query()

    def _check_open(self) -> None:
        if self._closed:
            raise DeviceError("this edge was closed")
        for number, page in enumerate(self._pages):
            if page.state != OPEN:
                raise DeviceError(f"reader {number} has closed its end")

    def _collect(self) -> None:
        """Take in what readers have told and the device has done."""
        self._held.release()
        waiting = []
        for slot in self._sent:
            if slot is not self._last and all(page.issued(slot.number) == slot.turn for page in self._pages):
                for allocation in slot.shown:
                    allocation.known = True
                self._issued.append(slot)
            else:
                waiting.append(slot)
        self._sent = waiting
        for slot in list(self._issued):
            if all(page.acked(slot.number) >= slot.turn for page in self._pages):
                self._issued.remove(slot)
                self._retire(slot)

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
        if not self._idle:
            self._collect()
        slot = self._try_take()
        if slot is None:
            wait_until(self._has_free_slot, self._patience)
            self._check_open()
            slot = self._try_take()
        if slot is None:
            late = {
                number: sum(page.issued(slot.number) != slot.turn for slot in self._sent)
                for number, page in enumerate(self._pages)
            }
            raise DeviceError(
                f"no slot of {self._slots} came free in {self._patience:g} s: by reader, "
                + ", ".join(f"{number} is not done with {count}" for number, count in late.items())
            )
        return slot

    def _has_free_slot(self) -> bool:
        self._check_open()
        self._collect()
        return self._closed or bool(self._idle or self._issued)

    def _try_take(self) -> _Slot | None:
        if self._idle:
            return self._idle.pop()
        if len(self._made) < self._slots:
            slot = _Slot(len(self._made))
            self._made.append(slot)
            return slot
        if not self._issued:
            return None
        slot = self._issued.popleft()
        for page in self._pages:
            page.wait_until_acked(self._stream, slot.number, slot.turn)
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
