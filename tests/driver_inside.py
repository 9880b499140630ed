"""The driver of tests in the first of two networks, of a Ray with a node in each.

Run as ``python -m tests.driver_inside FD``, where FD is the end of a connection: test bodies come by their names,
and what became of each goes back.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import subprocess
import sys
import time
import traceback
from functools import cached_property
from multiprocessing.connection import Connection
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from tests.actors import Worker
from tests.conftest import LIMIT, LOOPS
from tests.networks import Networks
from tests.nodes import host, node, on

# Ray gives up a node that has not answered for about 14 seconds, rather than for a minute. Most partitions here
# are over much earlier, also on a machine that has other things to do.
HEALTH = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 500,
    "health_check_failure_threshold": 14,
}
PASSED, SKIPPED, FAILED = "passed", "skipped", "failed"
PATIENCE = 100.0  # seconds for a node to come or to go


class Hosts:
    """A Ray of two nodes: this process's, and one on the other side.

    Attributes:
        networks: the two networks.
    """

    def __init__(self, networks: Networks) -> None:
        self.networks = networks
        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={**node(0), "node_ip_address": networks.sides[0].address, "_system_config": HEALTH},
        )
        self._second = self._start_second()
        ray.init(address=self._cluster.address, log_to_driver=False, logging_level="error")
        self._wait_for(2)

    def _start_second(self) -> subprocess.Popen[bytes]:
        side = self.networks.sides[1]
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
        options = {
            "address": self._cluster.address,
            "node-ip-address": side.address,
            "num-cpus": "2",
            "object-store-memory": str(100 << 20),
            "resources": f'{{"{host(1)}": 1000}}',
        }
        command += [f"--{name}={value}" for name, value in options.items()]
        return subprocess.Popen(side.inside(*command), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def alive(self) -> int:
        """How many nodes there are, for all that Ray knows."""
        return sum(each["Alive"] for each in ray.nodes())

    def _wait_for(self, count: int) -> None:
        deadline = time.monotonic() + PATIENCE
        while self.alive() != count:
            assert time.monotonic() < deadline, f"{self.alive()} nodes, and not {count}"
            time.sleep(0.05)

    def wait_until_ray_knows(self) -> None:
        """Wait until Ray has given up the second node."""
        self._wait_for(1)

    @cached_property
    def here(self) -> list[Any]:
        """Two actors on the driver's side."""
        return [Worker.options(**on(0)).remote() for _ in range(2)]

    @cached_property
    def there(self) -> list[Any]:
        """Two on the other side."""
        return [Worker.options(**on(1)).remote() for _ in range(2)]

    def resent(self) -> int:
        """How many segments this side's kernel has had to send again."""
        with open("/proc/self/net/snmp") as counters:
            names, values = (line.split() for line in counters if line.startswith("Tcp:"))
        return int(values[names.index("RetransSegs")])

    async def until_resent(self, count: int) -> None:
        """Wait until it has had to send so many more."""
        before = self.resent()
        while self.resent() < before + count:  # noqa: ASYNC110 - the kernel rings no bell
            await asyncio.sleep(0.02)

    def ready(self) -> None:
        """All as it was: a node that was lost is made again."""
        self.networks.mend()
        self.networks.until_calm()
        if self.alive() < 2:
            self._second.wait(PATIENCE)
            self.__dict__.pop("there", None)
            self._second = self._start_second()
            self._wait_for(2)


def main(fd: int) -> None:
    """Serve until the other side hangs up."""
    channel = Connection(fd)
    hosts = Hosts(channel.recv())
    while True:
        try:
            module, name, loop = channel.recv()
        except EOFError:
            return
        body = getattr(importlib.import_module(module), name).body
        channel.send(outcome(body, hosts, loop))


def outcome(body: Any, hosts: Hosts, loop: str) -> tuple[str, str]:
    """Run a test; what became of it, and the words for it."""

    async def run() -> None:
        async with asyncio.timeout(LIMIT):
            await body(hosts)

    try:
        hosts.ready()
        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            runner.run(run())
    except pytest.skip.Exception as reason:
        return SKIPPED, str(reason)
    except BaseException:
        return FAILED, traceback.format_exc()
    return PASSED, ""


if __name__ == "__main__":
    main(int(sys.argv[1]))
    os._exit(0)  # whoever asked kills all that is in both networks
