"""The meeting: every actor of a graph is invited, comes in, is handed its descriptors, and says it is ready.

An actor that waits for others before it is ready, as those with edges to other hosts do, is busy meanwhile: an
invitation to another graph waits behind it. So that no two graphs wait for one another's actors, whichever drivers
compile them, such actors are invited one after another, in the order of their ids, each when the one before has
come in: whoever waits for an actor holds none that comes behind it.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayActorError, RayTaskError

from async_adag._version import __version__
from async_adag.actor.install import APART, READY, install
from async_adag.actor.ray_runtime import call_in_actor
from async_adag.channels.limits import EXHAUSTED
from async_adag.channels.processes import has_ended, peer_pidfd
from async_adag.channels.reception import Reception
from async_adag.channels.rendezvous import receive_text, send_fds, send_text
from async_adag.channels.stream import Stream
from async_adag.driver.abroad import Abroad
from async_adag.driver.reasons import calling, dead_at_compile
from async_adag.driver.supervision import Supervision
from async_adag.errors import CompileActorDied, GraphError
from async_adag.graph.plan import ActorPlan, Plan
from async_adag.options import Options


class Apart(Exception):
    """An actor cannot share memory with others on its node, as it turns out; its number is told."""

    def __init__(self, actor: int, words: str) -> None:
        super().__init__(words)
        self.actor = actor


LOOK_AGAIN = 0.05  # seconds between looks at what Ray knows
DYING = 5.0  # seconds within which a process that has hung up ends, if it does: it frees its memory in between


class Cancelled(Exception):
    """The deployment was given up by whoever asked for it."""


@dataclass(slots=True)
class _Guest:
    """An actor that has been invited, with its share, pickled."""

    number: int
    share: bytes
    ref: Any = None  # of the call; None as long as it is not its turn
    connection: socket.socket | None = None
    pidfd: int = -1
    introduced: bool = False  # others were told of it
    ready: bool = False


class Meeting:
    """Owns the connections and pidfds of the actors, until they are handed on.

    Args:
        plan: the plan.
        handles: by actor.
        options: the options.
        fds_of: the descriptors that an actor is handed, by its number; they stay with whoever made them.
        abroad: where there are other hosts.
        welcome: makes a socket of a connection by which an actor has come in from another host.
        deadline: when all have to be ready, on `time.monotonic` (None: ``compile_timeout`` from now).
    """

    def __init__(
        self,
        plan: Plan,
        handles: tuple[Any, ...],
        options: Options,
        fds_of: Callable[[int], list[int]],
        abroad: Abroad | None,
        welcome: Callable[[int, Stream], socket.socket],
        deadline: float | None = None,
    ) -> None:
        self._plan = plan
        self._handles = handles
        self._options = options
        self._fds_of = fds_of
        self._abroad = abroad
        self._welcome = welcome
        self._deadline = time.monotonic() + options.compile_timeout if deadline is None else deadline
        self._cancelled: Callable[[], bool] = lambda: False
        self._guests: dict[int, _Guest] = {}
        self._known: dict[int, _Guest] = {}
        self._in_turn: list[_Guest] = []  # to be called one after another: the first was, or is next
        self._epoll = select.epoll()
        try:
            self._reception = Reception(self._epoll)
            if abroad is not None:
                self._epoll.register(abroad.gate.fileno(), select.EPOLLIN)
        except BaseException:
            self._epoll.close()
            raise

    def invite(self, actor: ActorPlan, share: bytes, waits: bool) -> None:
        """Call `install` in an actor, with its pickled `Share`; all are invited before `wait` is called.

        Args:
            actor: the actor's plan.
            share: its share, pickled.
            waits: whether `install` waits for other actors: then it is called when it is this one's turn.

        Raises:
            GraphError: Ray does not take the call; names the actor.
        """
        guest = self._guests[actor.actor] = _Guest(actor.actor, share)
        if waits:
            self._in_turn.append(guest)
        else:
            guest.ref = self._call(guest)

    def _call_next(self) -> None:
        """Call those whose turn it is."""
        while self._in_turn:
            first = self._in_turn[0]
            if first.ref is None:
                first.ref = self._call(first)
            if first.connection is None:
                return
            del self._in_turn[0]

    def _call(self, guest: _Guest) -> Any:
        address, timeout = self._reception.address, self._options.compile_timeout
        with calling(*self._named(guest)):
            return call_in_actor(self._handles[guest.number], install, __version__, address, guest.share, timeout)

    def _named(self, guest: _Guest) -> tuple[str, str]:
        """An actor, and its nodes, in words."""
        actor = self._plan.actors[guest.number]
        return actor.name, ", ".join(task.label for task in actor.tasks)

    def wait(self, cancelled: Callable[[], bool]) -> None:
        """Wait until every actor is ready.

        Raises:
            GraphError: an actor is dead, did not answer in time, or cannot run its share; names it.
            Cancelled: ``cancelled`` said so.
            Apart: an actor cannot share memory with others on its node.
            OSError: a limit of this process is reached.
        """
        self._cancelled = cancelled
        self._in_turn.sort(key=lambda guest: self._plan.graph.actors[guest.number].id)
        looked = time.monotonic()
        while not self._is_complete():
            self._call_next()
            if cancelled():
                raise Cancelled
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise self._too_late()
            events = self._epoll.poll(min(left, LOOK_AGAIN))
            for fd, _ in events:
                if fd in self._known:
                    self._hear(self._known[fd])
                elif self._reception.handles(fd):
                    arrived = self._reception.hear(fd)
                    if arrived is not None:
                        self._admit(*arrived)
            if self._abroad is not None:
                self._look_abroad(self._abroad)
            if time.monotonic() - looked >= LOOK_AGAIN:
                # A loop that is ready says so on its connection; only failures are learned from Ray.
                self._check_failures()
                looked = time.monotonic()

    def _is_complete(self) -> bool:
        ready = all(guest.ready for guest in self._guests.values())
        return ready and (self._abroad is None or self._abroad.is_connected())

    def _look_abroad(self, abroad: Abroad) -> None:
        for number, stream in abroad.step():
            guest = self._guests.get(number)
            if guest is None or guest.connection is not None or not abroad.is_away(number):
                stream.close()
            else:
                self._know(guest, self._welcome(number, stream))
        unsaid, abroad.outbox = abroad.outbox, []
        for number, text in unsaid:
            connection = self._guests[number].connection
            if connection is None:
                abroad.outbox.append((number, text))
            else:
                send_text(connection, text)
                self._guests[number].introduced = True
        if failure := abroad.failure():
            raise GraphError(f"the driver cannot connect to an actor on another host: {failure}")

    def hand_on(self, supervision: Supervision) -> None:
        """Have every actor supervised from now on."""
        self._reception.refuse_silent()
        for guest in self._guests.values():
            assert guest.connection is not None
            self._epoll.unregister(guest.connection.fileno())
            away = self._abroad is not None and self._abroad.is_away(guest.number)
            connection, guest.connection = guest.connection, None
            pidfd, guest.pidfd = guest.pidfd, -1
            supervision.watch(guest.number, None if away else pidfd, connection, away)

    def close(self) -> None:
        """Let go of what was not handed on."""
        self._reception.close()
        for guest in self._guests.values():
            if guest.connection is not None:
                guest.connection.close()
            if guest.pidfd >= 0:
                os.close(guest.pidfd)
        self._epoll.close()
        # Nothing of Ray's is left to the garbage collector: a forked child runs it too, and Ray would take locks
        # there that other threads may have held as it was forked.
        self._guests.clear()
        self._known.clear()
        self._in_turn.clear()
        self._handles = ()

    def _admit(self, number: int, connection: socket.socket) -> None:
        guest = self._guests.get(number)
        if guest is None or guest.connection is not None:
            self._reception.refuse(connection, f"the graph waits for no actor {number}")
            return
        self._know(guest, connection)
        try:
            guest.pidfd = self._reception.with_room(lambda: peer_pidfd(connection))
            left = max(0.0, self._deadline - time.monotonic())
            send_fds(connection, self._fds_of(guest.number), left)
        except OSError as error:
            if error.errno in EXHAUSTED:
                raise
            self._check_failures()

    def _know(self, guest: _Guest, connection: socket.socket) -> None:
        fd = connection.fileno()
        self._epoll.register(fd, select.EPOLLIN)
        guest.connection = connection
        self._known[fd] = guest

    def _hear(self, guest: _Guest) -> None:
        assert guest.connection is not None
        text = receive_text(guest.connection)
        if text == READY:
            guest.ready = True
        elif text and self._abroad is not None and self._abroad.hear(guest.number, text):
            guest.introduced = True
        elif text is not None:
            # It hung up, or its loop broke at once; Ray has the reason, or will in a moment.
            self._check_failures(guest, text)
            self._let_go(guest)  # only now: by its pidfd one sees whether it has died

    def _let_go(self, guest: _Guest) -> None:
        """Forget a connection that ended; Ray may restart its actor, which then connects again."""
        assert guest.connection is not None
        fd = guest.connection.fileno()
        self._epoll.unregister(fd)
        del self._known[fd]
        guest.connection.close()
        guest.connection = None
        pidfd, guest.pidfd = guest.pidfd, -1
        if pidfd >= 0:
            os.close(pidfd)

    def _check_failures(self, guest: _Guest | None = None, text: str = "") -> None:
        called = [g for g in self._guests.values() if g.ref is not None and not g.ready]
        guests = [guest] if guest is not None else called
        for one in guests:
            if not self._has_answer(one, 0.0 if guest is None else self._deadline):
                continue
            try:
                reason = ray.get(one.ref)
            except ActorUnavailableError as error:
                # Ray is restarting it, or cannot reach it just now: ask again until the deadline.
                if one.introduced:
                    raise self._gone(one, str(error)) from error
                one.ref = self._call(one)
                continue
            except Exception as error:
                raise self._refused(one, error) from error
            if reason and reason.startswith(APART):
                raise Apart(one.number, reason)
            if reason or guest is not None:
                raise self._gone(one, reason or text)

    def _has_answer(self, guest: _Guest, until: float) -> bool:
        """Whether Ray has the answer of an actor, by then (`time.monotonic`)."""
        while True:
            left = max(0.0, until - time.monotonic())
            done, _ = ray.wait([guest.ref], timeout=min(left, LOOK_AGAIN))
            if done or not left:
                return bool(done)
            if self._cancelled():
                raise Cancelled

    def _refused(self, guest: _Guest, error: Exception) -> GraphError:
        name, nodes = self._named(guest)
        if isinstance(error, RayActorError):
            return dead_at_compile(name, nodes, error)
        cause = error.cause if isinstance(error, RayTaskError) else error  # without the remote traceback
        if isinstance(cause, ModuleNotFoundError) and "async_adag" in str(cause):
            return GraphError(
                f"the process of {name} cannot import async_adag: install async-adag where the workers run "
                "(runtime_env={'pip': ['async-adag']} does it)"
            )
        return GraphError(f"{name} cannot run its share of the graph ({nodes}): {cause}")

    def _gone(self, guest: _Guest, words: str) -> GraphError:
        """What an actor that has left makes of this; ``words`` is what it said, if it did."""
        name = self._plan.actors[guest.number].name
        left = max(0.0, min(DYING, self._deadline - time.monotonic()))
        if not words and guest.pidfd >= 0 and has_ended(guest.pidfd, left):
            return CompileActorDied(f"the process of {name} died while the graph was being compiled")
        return GraphError(f"{name} left while the graph was being compiled: {words or 'it hung up'}")

    def _too_late(self) -> GraphError:
        late = [
            f"{self._plan.actors[guest.number].name} (for {self._plan.actors[guest.number].tasks[0].label})"
            for guest in self._late()
        ]
        return GraphError(
            f"no answer within compile_timeout={self._options.compile_timeout:g} s from {', '.join(late)}: busy "
            "with another call (or with a communicator's initialize), or not started yet. Compile again when it "
            f"is free; no graph was left behind{self._unreachable()}"
        )

    def _late(self) -> list[_Guest]:
        """Those who keep the others waiting."""
        if self._in_turn:
            absent = [guest for guest in self._guests.values() if guest.ref is not None and not guest.connection]
            return absent or self._in_turn[:1]
        return [guest for guest in self._guests.values() if not guest.ready]

    def _unreachable(self) -> str:
        """What may keep those that are late, where there are other hosts."""
        late = self._late()
        if self._abroad is None or not late:
            return ""
        return self._abroad.unreachable(late[0].number, late[0].connection is not None)
