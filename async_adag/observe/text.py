"""A graph as text."""

from __future__ import annotations

from async_adag.observe.picture import INPUT, Picture


def draw_text(picture: Picture) -> str:
    """In the order of flow: the input and its keys, actors with their nodes and channels, the output."""
    lines = [" ".join(["Input", *picture.keys]), *_carriers(picture, INPUT, "  ")]
    for number, actor in enumerate(picture.actors):
        lines.append(actor)
        for call in picture.calls:
            if call.actor == number:
                lines += [f"  {call.text}  #{call.number}", *_carriers(picture, call.number, "    ")]
    lines.append(f"Output {picture.output}")
    return "\n".join(lines)


def _carriers(picture: Picture, origin: int, indent: str) -> list[str]:
    return [f"{indent}{carrier}" for carrier in picture.carriers if carrier.origin == origin]
