"""The pictures that can be had of a graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from async_adag.graph.plan import Plan
from async_adag.observe.dot import draw_dot
from async_adag.observe.picture import Picture, Transport, make_picture
from async_adag.observe.shares import Shares, describe_shares
from async_adag.observe.svg import draw_svg
from async_adag.observe.text import draw_text

Format = Literal["text", "dot", "svg"]

_DRAWINGS: dict[str, Callable[[Picture], str]] = {"text": draw_text, "dot": draw_dot, "svg": draw_svg}


def draw(plan: Plan, transport: Callable[[int], Transport], form: str, shares: Shares | None = None) -> str:
    """Draw a plan.

    Args:
        plan: the plan.
        transport: what moves the frames of a channel.
        form: "text", "dot" or "svg".
        shares: where time goes, for "dot" and "svg" to show.

    Raises:
        ValueError: another form; lists those there are. Or shares for "text", which is the same each time.
    """
    if form not in _DRAWINGS:
        raise ValueError(f"format must be one of {', '.join(map(repr, _DRAWINGS))}, not {form!r}")
    picture = make_picture(plan, transport)
    if shares is None:
        return _DRAWINGS[form](picture)
    if form == "text":
        raise ValueError('the text is the same each time, so it has no times: use format="svg" or "dot"')
    return _DRAWINGS[form](replace(picture, times=describe_shares(shares, map(str, plan.graph.actors))))
