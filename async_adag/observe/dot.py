"""A graph in DOT, the language of Graphviz: one cluster for each actor."""

from __future__ import annotations

from async_adag.observe.picture import INPUT, OUTPUT, Arrow, Call, Picture

CENTRED, LEFT = r"\n", r"\l"  # ends of lines, in labels
STYLES = {"local": "dashed", "hand-over": "dotted"}


def draw_dot(picture: Picture) -> str:
    """The graph in DOT. The caption says what the labels of the arrows stand for."""
    times = picture.times
    caption = [*map(str, picture.legend()), *([times.caption] if times is not None else [])]
    lines = [
        "digraph async_adag {",
        '  graph [rankdir=LR, newrank=true, labeljust=l, fontname="sans-serif", fontsize=10];',
        '  node [shape=box, style=rounded, fontname="sans-serif", fontsize=11];',
        '  edge [fontname="sans-serif", fontsize=9];',
        f"  label={_quote(*caption, left=True)};",
        f"  {_name(INPUT)} [label={_quote('Input', *picture.keys)}];",
    ]
    for number, actor in enumerate(picture.actors):
        label = [actor, times.actors[number]] if times is not None else [actor]
        lines += [f"  subgraph cluster_{number} {{", f"    label={_quote(*label, left=len(label) > 1)};"]
        lines += [
            f"    {_name(call.number)} [label={_quote(*_words(picture, call))}, "
            f"tooltip={_quote(f'{call.text} on {actor}')}];"
            for call in picture.calls
            if call.actor == number
        ]
        lines.append("  }")
    lines.append(f"  {_name(OUTPUT)} [label={_quote('Output')}, tooltip={_quote(picture.output)}];")
    lines += [_edge(arrow) for arrow in picture.arrows]
    return "\n".join([*lines, "}"])


def _words(picture: Picture, call: Call) -> list[str]:
    words = [f"{call.method} #{call.number}"]
    return words if picture.times is None else [*words, picture.times.calls[call.number][0]]


def _edge(arrow: Arrow) -> str:
    carrier = arrow.carrier
    style = STYLES.get(carrier.transport.short, "solid")
    tooltip = _quote(str(carrier))
    return (
        f"  {_name(arrow.origin)} -> {_name(arrow.target)} "
        f"[label={_quote(carrier.label)}, style={style}, tooltip={tooltip}, labeltooltip={tooltip}];"
    )


def _name(number: int) -> str:
    return {INPUT: "input", OUTPUT: "output"}.get(number, f"node_{number}")


def _quote(*lines: str, left: bool = False) -> str:
    """A quoted label. There a backslash begins an escape, and an ampersand an entity, as in HTML."""
    escaped = [line.replace("\\", r"\\").replace('"', r"\"").replace("&", "&amp;") for line in lines]
    text = LEFT.join([*escaped, ""]) if left else CENTRED.join(escaped)
    return f'"{text}"'
