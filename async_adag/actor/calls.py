"""What both kinds of loop share: arguments from registers, results into them, and errors in their place."""

from __future__ import annotations

from typing import Any

from async_adag.actor.promises import keep_promises
from async_adag.actor.ray_runtime import plain_method
from async_adag.channels.codec import Encoded
from async_adag.channels.failures import annotate, encode_failure, traceback_of
from async_adag.channels.interface import Failure, Reader, Writer
from async_adag.collectives.part import part
from async_adag.graph.plan import ActorPlan, Pack, Task
from async_adag.protocol.frame import ChannelError, FrameError

_NO_KWARGS: dict[str, Any] = {}


class ChannelFailed(ChannelError):
    """A channel cannot go on: what was found there is no frame, or no place for one."""

    def __init__(self, edge: str, seq: int, error: FrameError) -> None:
        super().__init__(f"the channel from {edge} failed in execution {seq}: {error}")


class Call:
    """One task of the plan, bound to the actor's instance and the channel ends it uses.

    Attributes:
        is_method: whether it calls a method of the actor, rather than being a part of a collective operation.
        took: nanoseconds that it took the last time.
        writes: of each frame the channel, its writing end, the registers of its values, and those that nobody
            needs any more once it is encoded.
        only: the register of its one argument, where that is all that it takes; else -1.
    """

    __slots__ = (
        "args",
        "is_method",
        "kwargs",
        "label",
        "method",
        "number",
        "only",
        "packs",
        "reads",
        "results",
        "took",
        "writes",
    )

    def __init__(
        self,
        number: int,
        task: Task,
        instance: object,
        readers: dict[int, Reader],
        writers: dict[int, Writer],
        done: list[tuple[int, ...]],
    ) -> None:
        self.number = number
        self.took = 0
        self.label = task.label
        self.is_method = task.collective is None
        self.method = part(task.collective) if task.collective else plain_method(instance, task.method)
        self.packs = task.packs
        self.args = task.args
        self.kwargs = task.kwargs
        self.only = task.args[0] if len(task.args) == 1 and not task.kwargs and not task.packs else -1
        self.results = task.results
        self.reads = [(read.channel, readers[read.channel], read.registers) for read in task.reads]
        self.writes = [
            (write.channel, keep_promises(writers[write.channel], write.promises), write.registers, registers)
            for write, registers in zip(task.writes, done, strict=True)
        ]

    def take_over(self, other: Call) -> None:
        """Be bound as another call is."""
        self.number = other.number
        self.took = other.took
        self.label = other.label
        self.is_method = other.is_method
        self.method = other.method
        self.packs = other.packs
        self.args = other.args
        self.kwargs = other.kwargs
        self.only = other.only
        self.results = other.results
        self.reads = other.reads
        self.writes = other.writes

    def arguments(self, registers: list[Any]) -> tuple[list[Any], dict[str, Any]] | Failure:
        """The arguments, or the first failure among them."""
        if self.only >= 0:
            value = registers[self.only]
            return value if type(value) is Failure else ([value], _NO_KWARGS)
        for pack in self.packs:
            parts = [registers[part] for part in pack.parts]
            try:
                registers[pack.register] = packed(pack, parts)
            except Exception as error:
                annotate(error, f"async_adag: an argument of {self.label} could not be made")
                registers[pack.register] = self.failure(error)
        args = [registers[register] for register in self.args]
        if not self.kwargs:
            for value in args:
                if type(value) is Failure:
                    return value
            return args, _NO_KWARGS
        kwargs = {name: registers[register] for name, register in self.kwargs}
        for value in args:
            if type(value) is Failure:
                return value
        for value in kwargs.values():
            if type(value) is Failure:
                return value
        return args, kwargs

    def store(self, registers: list[Any], result: Any) -> None:
        """Put what the method returned, or a `Failure`, into the registers of the results."""
        results = self.results
        if len(results) == 1:
            registers[results[0]] = result
            return
        if type(result) is not Failure and not (isinstance(result, (tuple, list)) and len(result) == len(results)):
            got = f"{len(result)} values" if isinstance(result, (tuple, list)) else type(result).__name__
            result = self.failure(
                ValueError(f"{self.label} is to return {len(results)} values (num_returns); it returned {got}")
            )
        for position, register in enumerate(results):
            registers[register] = result if type(result) is Failure else result[position]

    def failure(self, error: BaseException) -> Failure:
        """What downstream gets in place of a value when ``error`` was raised."""
        frames = traceback_of(error)
        if frames is not None and frames.tb_next is not None:
            BaseException.with_traceback(error, frames.tb_next)  # without the loop's own frame
        return Failure(encode_failure(error, self.label))

    def unreadable(self, error: BaseException) -> Failure:
        """What the call gets in place of an argument that could not be unpickled."""
        annotate(error, f"async_adag: an argument of {self.label} could not be unpickled")
        return self.failure(error)

    def encode(
        self, writer: Writer, registers: list[Any], sources: tuple[int, ...], done: tuple[int, ...]
    ) -> Encoded:
        """The frame of these registers; a failure's where one of them is, or where they cannot be pickled.

        Those that are ``done`` are emptied: what was read into shared memory is the writer's again before the
        frame is there, and whoever sends the next execution for it finds that memory free, and warm.
        """
        if len(sources) == 1:
            value = registers[sources[0]]
        else:
            value = tuple(registers[source] for source in sources)
            value = next((part for part in value if type(part) is Failure), value)
        for register in done:
            registers[register] = None
        try:
            return writer.encode(value)
        except ChannelError:
            raise  # what is to carry the tensors cannot go on
        except BaseException as error:  # of the user's, whatever it is: nothing else is raised on this thread
            annotate(error, f"async_adag: the result of {self.label} could not be pickled")
            return writer.encode(self.failure(error))

    def stage(self, writer: Writer, encoded: Encoded) -> None:
        """Stage a frame; a failure in its place where there is no memory for it."""
        try:
            writer.stage(encoded)
        except (OSError, MemoryError) as error:
            writer.unstage()
            annotate(error, f"async_adag: the result of {self.label} could not be sent")
            short = type(error)(*error.args)  # without the traceback, so that it fits a slot in any case
            try:
                writer.stage(writer.encode(self.failure(error)))
            except (OSError, MemoryError):
                writer.stage(writer.encode(self.failure(short)))


def packed(pack: Pack, parts: list[Any]) -> Any:
    """A new container of these parts, or the first failure among them."""
    for value in parts:
        if type(value) is Failure:
            return value
    if pack.type is dict:
        return dict(zip(pack.keys, parts, strict=True))
    return pack.type._make(parts) if hasattr(pack.type, "_make") else pack.type(parts)


def unpack(registers: list[Any], targets: tuple[int, ...], value: Any) -> None:
    """Put what a frame carried into registers: one value as it is, several from a tuple.

    Raises:
        FrameError: there are not as many values in it.
    """
    if len(targets) == 1:
        registers[targets[0]] = value
    else:
        if targets and type(value) is not Failure and not (type(value) is tuple and len(value) == len(targets)):
            raise FrameError(f"no {len(targets)} values in it")
        for position, target in enumerate(targets):
            registers[target] = value if type(value) is Failure else value[position]


def calls_of(
    plan: ActorPlan, instance: object, readers: dict[int, Reader], writers: dict[int, Writer]
) -> list[Call]:
    """The plan's tasks, bound."""
    done = registers_done(plan)
    return [Call(number, task, instance, readers, writers, done[number]) for number, task in enumerate(plan.tasks)]


def registers_done(plan: ActorPlan) -> list[list[tuple[int, ...]]]:
    """For each frame of each task the registers, besides constants, that are needed no more once it is encoded."""
    last: dict[int, int] = {}  # register: the frame, counted through all tasks, by which it is used last
    frame = 0
    for task in plan.tasks:
        used = {*task.args, *(register for _, register in task.kwargs), *task.results}
        used.update(register for read in task.reads for register in read.registers)
        used.update(register for pack in task.packs for register in (pack.register, *pack.parts))
        last.update(dict.fromkeys(used, frame))
        for write in task.writes:
            last.update(dict.fromkeys(write.registers, frame))
            frame += 1
    done: list[list[int]] = [[] for _ in range(frame + 1)]
    for register, when in sorted(last.items()):
        if register >= len(plan.constants):
            done[when].append(register)
    frames = iter(done)
    return [[tuple(next(frames)) for _ in task.writes] for task in plan.tasks]


def first_registers(plan: ActorPlan) -> list[Any]:
    """The registers at the beginning of an execution: the constants, then nothing."""
    return [*plan.constants, *[None] * (plan.registers - len(plan.constants))]
