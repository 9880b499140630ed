"""The DAGs that are compiled, and what must come of a parcel in each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from ray.dag import InputNode, MultiOutputNode

from async_adag import RemoteError
from tests.soak.parcels import FAILURES, Parcel, Refused

INPUT = ""


@dataclass(frozen=True)
class Stage:
    """A node: its name, the seat of its actor, and what it takes (`INPUT`, or names of stages)."""

    name: str
    seat: int
    takes: tuple[str, ...] = (INPUT,)


@dataclass(frozen=True)
class Failing:
    """What must come of an output in place of a parcel: an error of this type, whose text has this in it."""

    type: type[BaseException]
    text: str = ""

    def fits(self, error: BaseException) -> bool:
        return type(error) is self.type and self.text in str(error)


@dataclass(frozen=True)
class Shape:
    """A DAG over seats."""

    name: str
    stages: tuple[Stage, ...]
    outputs: tuple[str, ...]

    @property
    def seats(self) -> int:
        """How many actors it takes."""
        return 1 + max(stage.seat for stage in self.stages)

    @property
    def stage_names(self) -> tuple[str, ...]:
        return tuple(stage.name for stage in self.stages)

    @property
    def multi(self) -> bool:
        """Whether an execution gives a list."""
        return len(self.outputs) > 1

    def bind(self, actors: Sequence[Any]) -> Any:
        """The Ray DAG, on these actors."""
        with InputNode() as given:
            made: dict[str, Any] = {INPUT: given}
            for stage in self.stages:
                actor = actors[stage.seat]
                made[stage.name] = actor.work.bind(stage.name, *(made[taken] for taken in stage.takes))
            ends = [made[output] for output in self.outputs]
            return MultiOutputNode(ends) if self.multi else ends[0]

    def expect(self, parcel: Parcel) -> list[Parcel | Failing]:
        """What must come of each output."""
        made: dict[str, Parcel | Failing] = {INPUT: parcel}
        for stage in self.stages:
            made[stage.name] = _expect(stage, [made[taken] for taken in stage.takes])
        return [made[output] for output in self.outputs]


def _expect(stage: Stage, taken: list[Parcel | Failing]) -> Parcel | Failing:
    for value in taken:
        if isinstance(value, Failing):
            return value
    first = taken[0]
    assert isinstance(first, Parcel)
    order = first.orders.get(stage.name)
    if order in FAILURES:
        who = f"{stage.name} of {first.number}"
        return {
            "fail": Failing(Refused, who),
            "fail deep": Failing(Refused, who),
            "fail beyond rebuilding": Failing(RemoteError, who),
            "return a lock": Failing(TypeError, "pickle"),
        }[order]
    return first.passed(stage.name)


SHAPES = (
    Shape("one", (Stage("a", 0),), ("a",)),
    Shape("chain", (Stage("a", 0), Stage("b", 1, ("a",)), Stage("c", 2, ("b",))), ("c",)),
    Shape("there and back", (Stage("a", 0), Stage("b", 1, ("a",)), Stage("c", 0, ("b",))), ("c",)),
    Shape("join", (Stage("a", 0), Stage("b", 1), Stage("c", 2, ("a", "b"))), ("c",)),
    Shape("two ends", (Stage("a", 0), Stage("b", 1, ("a",)), Stage("c", 2, ("a",))), ("b", "c")),
    Shape("end within", (Stage("a", 0), Stage("b", 1, ("a",)), Stage("c", 2, ("b",))), ("c", "a")),
)


def any_shape(rng: Random) -> Shape:
    """One of the shapes."""
    return rng.choice(SHAPES)
