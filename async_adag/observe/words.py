"""Words for what is in a graph.

All of them are printable: whatever is not, in names and values that users chose, is written as an escape.
"""

from __future__ import annotations

from async_adag.graph.model import Const, FromInput, Graph, Packed, Source

_LONGEST_CONSTANT = 40


def describe_call(graph: Graph, number: int) -> str:
    """A node as a call with its arguments: ``method(input, #0, key=1)``."""
    node = graph.nodes[number]
    arguments = [describe(graph, source) for source in node.args]
    arguments += [f"{printable(name)}={describe(graph, source)}" for name, source in node.kwargs]
    return f"{printable(node.method)}({', '.join(arguments)})"


def describe(graph: Graph, source: Source) -> str:
    """Where an argument, or an output, comes from: ``input['key']``, ``#0``, or the value that was bound."""
    if isinstance(source, Const):
        return _constant(source.value)
    if isinstance(source, FromInput):
        return "input" if source.key is None else printable(f"input[{source.key!r}]")
    if isinstance(source, Packed):
        return _packed(graph, source)
    several = graph.nodes[source.node].returns > 1
    return f"#{source.node}[{source.index}]" if several else f"#{source.node}"


def _packed(graph: Graph, source: Packed) -> str:
    parts = [describe(graph, part) for part in source.parts]
    if source.type is dict:
        pairs = zip((_constant(key) for key in source.keys), parts, strict=True)
        return f"{{{', '.join(f'{key}: {part}' for key, part in pairs)}}}"
    if source.type is list:
        return f"[{', '.join(parts)}]"
    name = "" if source.type is tuple else printable(source.type.__name__)
    return f"{name}({', '.join(parts)})"


def _constant(value: object) -> str:
    try:
        text = " ".join(repr(value).split())
    except Exception:
        # The user's own code; a picture must not fail for it.
        text = f"<{type(value).__name__}>"
    return printable(shorten(text, _LONGEST_CONSTANT))


def shorten(text: str, length: int) -> str:
    """``text``, cut where it is longer."""
    return text if len(text) <= length else f"{text[: length - 3]}..."


def printable(text: str) -> str:
    """``text`` with an escape for every character that is not printable, line ends and lone surrogates too."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def counted(number: int, noun: str) -> str:
    """So many of something: ``1 caller``, ``2 callers``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def human_size(size: int) -> str:
    """A number of bytes as people write it: 1536 is 1.5 KiB."""
    scaled, units = float(size), ["B", "KiB", "MiB", "GiB", "TiB"]
    while round(scaled, 1) >= 1024 and len(units) > 1:
        scaled /= 1024
        units.pop(0)
    return f"{scaled:.1f}".removesuffix(".0") + f" {units[0]}"
