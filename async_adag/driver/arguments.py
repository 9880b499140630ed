"""An execution's arguments: checked against what the graph reads, and sorted by the channel that carries them."""

from __future__ import annotations

from typing import Any

from async_adag.graph.model import InputKey
from async_adag.graph.plan import Plan, input_key


class Arguments:
    """What the executions of one plan take."""

    __slots__ = ("_bare", "_groups", "_keywords", "_positional")

    def __init__(self, plan: Plan) -> None:
        signature = plan.graph.signature
        self._positional = signature.positional
        self._keywords = frozenset(signature.keywords)
        self._groups = [[input_key(value) for value in channel.values] for channel in plan.inputs()]
        # The common case: one argument, which one channel carries as it is.
        self._bare = self._positional == 1 and not self._keywords and [len(group) for group in self._groups] == [1]

    def check(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Check the arguments of one execution.

        Raises:
            TypeError: too many, too few, or unknown; says what the graph takes.
        """
        if len(args) == self._positional and (kwargs.keys() == self._keywords if kwargs else not self._keywords):
            return
        count = self._positional
        takes = [f"{count} positional argument{'' if count == 1 else 's'}"] if count or not self._keywords else []
        takes += [f"{name}=" for name in sorted(self._keywords)]
        given = [f"{len(args)} positional"] + [f"{name}=" for name in sorted(kwargs)]
        raise TypeError(f"this graph takes {', '.join(takes)}; it was given {', '.join(given)}")

    def values(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        """What each input channel carries: one value as it is, several as a tuple, None for a trigger."""
        if self._bare:
            return [args[0]]
        return [self._value(group, args, kwargs) for group in self._groups]

    def _value(self, group: list[InputKey], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        values = [part(key, args, kwargs) for key in group]
        return values[0] if len(values) == 1 else tuple(values) or None


def part(key: InputKey, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The argument that ``key`` names."""
    return args[0] if key is None else args[key] if isinstance(key, int) else kwargs[key]
