"""The actors, and the shapes of graph that are measured."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import ray
from ray.dag import InputNode, MultiOutputNode
from ray.dag.context import DAGContext


def set_ray_buffers(size: int) -> int:
    """Have channels of Ray's that begin in this process get buffers of so many bytes; returns how many before."""
    context = DAGContext.get_current()
    before, context.buffer_size_bytes = context.buffer_size_bytes, size
    return int(before)


class _Stage:
    """Does nothing at all, so that whatever is measured is the graph's own cost."""

    def __init__(self) -> None:
        self._zeros = np.zeros(0)

    def step(self, value: Any) -> Any:
        return value

    def zeros(self, kilobytes: int) -> np.ndarray:
        """Always the same array of this size."""
        if self._zeros.nbytes != 1000 * kilobytes:
            self._zeros = np.zeros(125 * kilobytes)
        return self._zeros

    def length(self, array: np.ndarray) -> int:
        return len(array)

    def pid(self) -> int:
        return os.getpid()

    def set_ray_buffers(self, size: int) -> None:
        set_ray_buffers(size)


Stage: Any = ray.remote(num_cpus=0)(_Stage)


class Shape(Protocol):
    """A graph over the first few of some actors."""

    def build(self, actors: list[Any]) -> Any:
        """A new DAG."""
        ...


@dataclass(frozen=True)
class Stages:
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


@dataclass(frozen=True)
class Allreduce:
    """Each of `ranks` actors makes an array of as many kilobytes as the input says, and gets the sum of all."""

    ranks: int

    def build(self, actors: list[Any]) -> Any:
        """A new DAG; its results stay with the actors but for one number of each."""
        from async_adag.collectives import allreduce  # here: `--backend ray` runs without it

        with InputNode() as kilobytes:
            parts = [actor.zeros.bind(kilobytes) for actor in actors[: self.ranks]]
            sums = allreduce.bind(parts)
            return MultiOutputNode([actor.length.bind(total) for actor, total in zip(actors, sums, strict=False)])


@dataclass(frozen=True)
class Readers:
    """`stages` actors get the same array, and each returns its length."""

    stages: int

    def build(self, actors: list[Any]) -> Any:
        """A new DAG over the first of `actors`."""
        with InputNode() as array:
            return MultiOutputNode([actor.length.bind(array) for actor in actors[: self.stages]])


def chain(actors: int) -> Stages:
    """A chain of so many actors."""
    return Stages("1 actor" if actors == 1 else f"chain of {actors}", actors)


ONE = chain(1)
CHAIN = chain(3)
FAN_OUT = Stages("fan-out of 3", 3, fan_out=True)
ALLREDUCE = Allreduce(2)


def start_actors(count: int) -> tuple[list[Any], list[int]]:
    """`count` actors that are up, and their process ids."""
    actors = [Stage.remote() for _ in range(count)]
    return actors, ray.get([actor.pid.remote() for actor in actors])
