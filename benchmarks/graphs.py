"""The actors, and the shapes of graph that are measured."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import ray
from ray.dag import InputNode, MultiOutputNode


class _Stage:
    """Does nothing at all, so that whatever is measured is the graph's own cost."""

    def step(self, value: Any) -> Any:
        return value

    def pid(self) -> int:
        return os.getpid()


Stage: Any = ray.remote(num_cpus=0)(_Stage)


@dataclass(frozen=True)
class Shape:
    """`stages` actors, one after the other or (`fan_out`) side by side on the same input."""

    name: str
    stages: int
    fan_out: bool = False

    def build(self, actors: list[Any]) -> Any:
        """A new DAG of this shape over the first of `actors`."""
        if self.fan_out:
            with InputNode() as value:
                return MultiOutputNode([actor.step.bind(value) for actor in actors[: self.stages]])
        with InputNode() as value:
            node = value
            for actor in actors[: self.stages]:
                node = actor.step.bind(node)
        return node

    def expected(self, value: Any) -> Any:
        """What the graph returns for `value`."""
        return [value] * self.stages if self.fan_out else value


ONE = Shape("1 actor", 1)
CHAIN = Shape("chain of 3", 3)
FAN_OUT = Shape("fan-out of 3", 3, fan_out=True)
LONG = Shape("8 actors", 8)


def start_actors(count: int) -> tuple[list[Any], list[int]]:
    """`count` actors that are up, and their process ids."""
    actors = [Stage.remote() for _ in range(count)]
    return actors, ray.get([actor.pid.remote() for actor in actors])
