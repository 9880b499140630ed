"""Two network namespaces of this machine, joined by a link that tests cut, spoil and slow down.

Each is a machine of its own, as far as TCP knows.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

PREFIX = "adag"
LINK = "wire"  # what both ends of the link are called
NOBODY = "02:00:00:00:00:ff"  # the address of no end: what is sent there is lost, and the sender is not told
PATIENCE = 50.0  # seconds for a command


class CannotBeMade(Exception):
    """There can be no such networks here, or no such link; says why."""


@dataclass(frozen=True)
class Side:
    """One of the two.

    Attributes:
        name: of the namespace.
        number: 0 or 1.
    """

    name: str
    number: int

    @property
    def address(self) -> str:
        """The IP address."""
        return f"198.18.0.{self.number + 1}"

    @property
    def mac(self) -> str:
        """The address on the link."""
        return f"02:00:00:00:00:0{self.number + 1}"

    def inside(self, *command: str) -> list[str]:
        """The command that runs ``command`` there."""
        return ["ip", "netns", "exec", self.name, *command]

    def is_resending(self) -> bool:
        """Whether its kernel sends again on an established connection, as there was no answer."""
        _, *lines = run(*self.inside("cat", "/proc/self/net/tcp")).splitlines()
        return any(line.split()[3] == "01" and int(line.split()[6], 16) for line in lines)

    def pids(self) -> list[int]:
        """Who runs there."""
        return [int(pid) for pid in run("ip", "netns", "pids", self.name).split()]


@dataclass(frozen=True)
class Networks:
    """Both sides, and what tests do to the link between them. `mend` undoes all of it."""

    sides: tuple[Side, Side]

    def cut(self) -> None:
        """The link is down: nothing gets through, and both sides' kernels know."""
        run("ip", "-n", self.sides[1].name, "link", "set", LINK, "down")

    def lose(self, to: Side) -> None:
        """What is sent to this side is lost on the way, and nobody is told."""
        self._teach(self.sides[1 - to.number], to, NOBODY)

    def shape(self, *discipline: str) -> None:
        """Have both directions go through this queueing discipline of tc's."""
        for side in self.sides:
            run("tc", "-n", side.name, "qdisc", "replace", "dev", LINK, "root", *discipline)

    def mend(self) -> None:
        """The link is as it was."""
        for side in self.sides:
            run("ip", "-n", side.name, "link", "set", LINK, "up")
            self._teach(side, self.sides[1 - side.number], self.sides[1 - side.number].mac)
            self._plain(side)

    def until_calm(self) -> None:
        """Wait until nothing is sent again any more, for a while at most."""
        deadline = time.monotonic() + PATIENCE
        while any(side.is_resending() for side in self.sides) and time.monotonic() < deadline:
            time.sleep(0.02)

    def _plain(self, side: Side) -> None:
        """No queueing discipline but the kernel's own; harmless where there is none."""
        command = ["tc", "-n", side.name, "qdisc", "delete", "dev", LINK, "root"]
        subprocess.run(command, capture_output=True, timeout=PATIENCE, check=False)

    def _teach(self, side: Side, other: Side, mac: str) -> None:
        run(
            *("ip", "-n", side.name, "neigh", "replace", other.address),
            *("lladdr", mac, "dev", LINK, "nud", "permanent"),
        )

    def has(self, *discipline: str) -> bool:
        """Whether the kernel has this queueing discipline."""
        try:
            self.shape(*discipline)
        except CannotBeMade:
            return False
        self.mend()
        return True


@contextmanager
def two_networks() -> Iterator[Networks]:
    """Make them; in the end everything that runs there is killed, and they are gone.

    Raises:
        CannotBeMade: not here.
    """
    if shutil.which("ip") is None or shutil.which("tc") is None:
        raise CannotBeMade("there are no ip and tc here")
    _remove_left_behind()
    sides = tuple(Side(f"{PREFIX}-{os.getpid()}-{number}", number) for number in (0, 1))
    here, there = sides
    networks = Networks((here, there))
    try:
        for side in sides:
            run("ip", "netns", "add", side.name)
            run("ip", "-n", side.name, "link", "set", "lo", "up")
        ends = [("name", LINK, "address", side.mac, "netns", side.name) for side in sides]
        run("ip", "link", "add", *ends[0], "type", "veth", "peer", *ends[1])
        for side in sides:
            run("ip", "-n", side.name, "address", "add", f"{side.address}/24", "dev", LINK)
        networks.mend()
        yield networks
    finally:
        for side in sides:
            _remove(side)


def _remove_left_behind() -> None:
    """Those of a process that was killed."""
    for number, name in enumerate(re.findall(rf"^{PREFIX}-\d+-\d\b", run("ip", "netns", "list"), re.MULTILINE)):
        if not os.path.exists(f"/proc/{name.split('-')[1]}"):
            _remove(Side(name, number))


def _remove(side: Side) -> None:
    if not os.path.exists(f"/run/netns/{side.name}"):
        return
    while pids := side.pids():  # those that were starting others just now have left some
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
    run("ip", "netns", "delete", side.name)


def run(*command: str) -> str:
    """Run a command; what it says.

    Raises:
        CannotBeMade: it failed.
    """
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    if done.returncode:
        raise CannotBeMade(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout
