"""Why a graph ended, in words: a reason makes the error of an execution, or, for -1, of a call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ray.exceptions import PendingCallsLimitExceeded, RayActorError

from async_adag.actor.control import LoopSnapshot, LoopState
from async_adag.driver.supervision import Departure, Left
from async_adag.errors import ActorDied, AdagError, CompileActorDied, GraphBroken, GraphClosed, GraphError
from async_adag.graph.plan import DRIVER, Channel, Plan
from async_adag.graph.planner import host_of

Reason = Callable[[int], AdagError]


def departure(plan: Plan, left: Left, snapshot: LoopSnapshot) -> Reason:
    """An actor has left; ``snapshot`` is what its loop did last."""
    actor = plan.actors[left.actor]
    doing = {
        LoopState.COMPUTING: f"in {snapshot.node} of execution {snapshot.execution}",
        LoopState.SENDING: f"while it sent tensors of {snapshot.node} in execution {snapshot.execution}",
        LoopState.RECEIVING: "while it received tensors",
    }.get(snapshot.state, "between nodes")
    host = host_of(plan.graph, left.actor)
    where = "" if host is None else f" on {host}"
    if left.how is Departure.DIED:
        if snapshot.age:
            doing += f" when it was last heard of, {snapshot.age:.2f} s before"
        nodes = ", ".join(task.label for task in actor.tasks)
        return lambda seq: ActorDied(
            f"the process of {actor.name} died, {doing}; it ran {nodes}{where}; {_outcome(seq)}"
        )
    said = "its loop ended" if left.how is Departure.GOODBYE else left.text
    return lambda seq: GraphBroken(f"{actor.name} left the graph, {doing}{where}: {said}; {_outcome(seq)}")


def in_the_midst() -> RuntimeError:
    """A call of a graph came while the same thread was in the middle of a step of it."""
    return RuntimeError(
        "this graph was called in the middle of another call of it on the same thread: by a signal's handler, a "
        "finalizer, or code that runs while a value is unpickled. Have it set an event, and call the graph then"
    )


def dead_at_compile(name: str, nodes: str, error: RayActorError) -> CompileActorDied:
    """An actor cannot take part, as it is dead; ``error`` is what Ray says of it."""
    why = ""
    if error.actor_init_failed:
        raised = str(error).rstrip().splitlines()[-1]  # the end of a traceback
        why = f" (its __init__ raised {raised})"
    return CompileActorDied(f"{name} is dead{why}, so the graph cannot be compiled: it was to run {nodes}")


@contextmanager
def calling(name: str, nodes: str) -> Iterator[None]:
    """What is raised in here is that Ray does not take a call of an actor: a `GraphError` that says why."""
    try:
        yield
    except PendingCallsLimitExceeded as error:
        raise GraphError(
            f"{name}, which is to run {nodes}, has as many calls waiting as its max_pending_calls lets it: "
            "compile again when it is free"
        ) from error
    except Exception as error:
        if "Can't find actor" in str(error):  # Ray has no class for it
            raise CompileActorDied(
                f"Ray does not know {name}, which was to run {nodes}: its handle is from before a ray.shutdown(). "
                "Make the actor anew with .remote(), or get it by its name, and bind its methods again"
            ) from error
        raise GraphError(f"Ray takes no call of {name}, which was to run {nodes}: {error}") from error


def lost_edge(plan: Plan, left: Left) -> Reason:
    """A process has lost the connection of an edge to another host, and neither end's process has died."""
    number, _, words = left.text.partition(" ")
    channel = plan.channels[int(number)]
    writer, *readers = (name_of(plan, process) for process in (channel.writer, *channel.readers))
    return lambda seq: GraphBroken(
        f"the edge from {channel.edge} is lost: {words}, as {name_of(plan, left.actor)} finds; it joins {writer} "
        f"and {', '.join(readers)}; {_outcome(seq)}"
    )


def name_of(plan: Plan, process: int) -> str:
    """A process in words, with its host where there are several."""
    name = "the driver" if process == DRIVER else plan.actors[process].name
    host = host_of(plan.graph, process)
    return name if host is None else f"{name} on {host}"


def channel_failure(plan: Plan, channel: Channel, text: str) -> Reason:
    """What lies in a channel of the driver's is no frame, or no place for one."""
    actors = [process for process in (channel.writer, *channel.readers) if process != DRIVER]
    peers = ", ".join(name_of(plan, actor) for actor in actors)
    return lambda seq: GraphBroken(
        f"the channel from {channel.edge} failed: {text}; its other side is {peers}; {_outcome(seq)}"
    )


def broken_off(error: BaseException) -> Reason:
    """Something was raised where half a step would put the channels out of step with the books."""
    return lambda seq: GraphBroken(f"{error!r} was raised in the middle of a step of the graph; {_outcome(seq)}")


def torn_down(seq: int) -> AdagError:
    """Its owner wanted it."""
    if seq < 0:
        return GraphClosed("the graph was torn down: compile the DAG again to go on")
    return GraphClosed(f"the graph was torn down before execution {seq} arrived")


def forked(parent: int, child: int) -> AdagError:
    """This process was forked from the one that compiled the graph."""
    return GraphClosed(
        f"this graph was compiled in another process ({parent}), from which this one ({child}) was forked: use it "
        "there; to run it here, spawn this process instead of forking it (multiprocessing's 'spawn'), and compile "
        "the DAG here"
    )


def _outcome(seq: int) -> str:
    return f"execution {seq} had not arrived" if seq >= 0 else "the graph is broken"
