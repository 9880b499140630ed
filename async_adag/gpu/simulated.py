"""A device that is simulated: the same code runs on it as on CUDA, and the races in that code are found.

A `Simulation` is a world of devices and processes, in one Python process and without threads. Work that is issued
is done when the simulation is stepped, in virtual time. Each access of memory must have happened after the last
write of each byte, and each write after all earlier reads: by the order of streams, by events, by the order in
which a process issues and learns things, by words that streams store and wait for (`SimulatedDevice.words`), and
by what processes tell one another (`SimulatedDevice.tell`). Whatever is not ordered so is a `Race`, also when it
went well this time.

Limits: each process has one thread; all streams of a device run at the same time, however many; `allocate` and
`Memory.close` do not wait for the device, as the real calls may.
"""

from __future__ import annotations

from async_adag.gpu.simulated_clocks import Deadlock, Misuse, Race
from async_adag.gpu.simulated_device import SimulatedDevice, World
from async_adag.gpu.simulated_link import Pairing, SimulatedLink
from async_adag.gpu.simulated_memory import SimulatedMapping, SimulatedMemory
from async_adag.gpu.simulated_pool import Block, SimulatedPool
from async_adag.gpu.simulated_schedule import Choose, explore
from async_adag.gpu.simulated_streams import SimulatedEvent, SimulatedStream
from async_adag.gpu.simulated_words import SimulatedWords
from async_adag.gpu.simulated_work import Done, Host, Work

__all__ = [
    "Block",
    "Deadlock",
    "Done",
    "Misuse",
    "Race",
    "SimulatedDevice",
    "SimulatedEvent",
    "SimulatedLink",
    "SimulatedMapping",
    "SimulatedMemory",
    "SimulatedPool",
    "SimulatedStream",
    "SimulatedWords",
    "Simulation",
    "Work",
    "explore",
]


class Simulation(World):
    """A world: `process` makes processes, `link` joins two; then `run`, `step`, `settle` or `advance`."""

    def __init__(
        self,
        *,
        choose: Choose | None = None,
        memory: int = 1 << 30,
        bandwidth: float = 1e12,
        can_notify: bool = True,
        reuse_addresses: bool = False,
        transfers_at_once: int | None = None,
    ) -> None:
        """A world without processes.

        Args:
            choose: the index of what is done next, of those pieces of work that can be (None: what ends first).
            memory: of each device, in bytes.
            bandwidth: of copies, in bytes per second.
            can_notify: whether `Device.notify` works on this machine.
            reuse_addresses: whether freed memory is what the next allocation of that length gets.
            transfers_at_once: how many transfers a device holds that have begun or wait for their peer, as they
                take multiprocessors that then nobody else has (None: any number).
        """
        super().__init__(choose, memory, bandwidth, can_notify, reuse_addresses, transfers_at_once)
        self._pairings: list[Pairing] = []
        self._devices: list[SimulatedDevice] = []

    def process(self, device: int = 0, name: str | None = None) -> SimulatedDevice:
        """A new process, which sees that device."""
        host = Host(next(self.numbers), name or f"process {len(self.hosts)}", device, self.addresses)
        self.hosts.append(host)
        self._devices.append(SimulatedDevice(self, host))
        return self._devices[-1]

    def link(
        self,
        sender: SimulatedDevice | None = None,
        receiver: SimulatedDevice | None = None,
        *,
        latency: float = 10e-6,
        bandwidth: float = 25e9,
    ) -> SimulatedLink:
        """A link, to be pickled to each of its processes, or copied, and initialized there.

        Args:
            sender: the process of rank 0 (None: the one that first sends, and its death before that goes unseen).
            receiver: the process of rank 1, likewise.
            latency: of each transfer, in seconds.
            bandwidth: in bytes per second.
        """
        hosts = [None if device is None else device.host for device in (sender, receiver)]
        self._pairings.append(Pairing(self, latency, bandwidth, *hosts))
        return SimulatedLink(self._pairings[-1])

    def belongings(self) -> list[str]:
        """What living processes have made or opened and not closed, but for streams that were adopted."""
        found = [thing for device in self._devices if device.host.alive for thing in device.belongings()]
        for pairing in self._pairings:
            for rank in (0, 1):
                host = pairing.hosts[rank]
                if pairing.initialized[rank] and not pairing.destroyed[rank] and (host is None or host.alive):
                    found.append(f"{pairing} at rank {rank}")
        return found
