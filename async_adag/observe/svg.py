"""A graph as SVG: self-contained, to be shown in a page, a notebook or a viewer."""

from __future__ import annotations

import html

from async_adag.observe.layout import LABEL_GAP, LINE, PAD, Box, Layout, Route, lay_out, text_width
from async_adag.observe.picture import Picture

FONT = "ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace"  # of which the layout knows the width
INK, GREY, PAPER, LANE = "#1e293b", "#526075", "#ffffff", "#eef2f7"
BUSY = "#fb923c"
DASHES = {"local": "6 4", "hand-over": "2 3"}
SAMPLE = 36  # the length of a line in the legend
HEAD = 7  # the length of an arrow's head


def escape(text: str) -> str:
    """Text as XML has it. Not that of `xml.sax`, whose import reads an environment variable."""
    return html.escape(text, quote=False)


def draw_svg(picture: Picture) -> str:
    """The graph as SVG: a lane for the driver and one for each actor, columns by depth in the flow of data.

    The paper is painted, so that the picture is as readable on a dark page. No style sheet and no ids: in a
    notebook they would reach into the page and into other pictures.
    """
    layout = lay_out(picture)
    legend = picture.legend()
    caption = picture.times.caption if picture.times is not None else ""
    texts = [SAMPLE + PAD + text_width(str(transport)) for transport in legend]
    width = 2 * PAD + max([layout.width, text_width(caption), *texts])
    height = 3 * PAD + layout.height + LINE * (len(legend) + bool(caption))
    title = f"{len(picture.actors)} actors, {len(picture.calls)} nodes"
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="img" font-family="{escape(FONT)}" font-size="12" fill="{INK}">',
        f"<title>{title}</title>",
        f'<rect width="{width}" height="{height}" rx="8" fill="{PAPER}"/>',
        f'<g transform="translate({PAD} {PAD})">',
        *_lanes(layout, picture),
        *(_arrow(route) for route in layout.routes),
        *(_box(box, _fill(picture, box)) for box in layout.boxes),
        "</g>",
    ]
    for number, transport in enumerate(legend):
        y = 2 * PAD + layout.height + LINE * number + LINE // 2
        lines.append(
            f'<g class="legend"><title>{escape(str(transport))}</title>'
            f'<path d="M{PAD} {y}H{PAD + SAMPLE}" {_stroke(transport.short)}/>'
            f'<text x="{2 * PAD + SAMPLE}" y="{y + 4}">{escape(str(transport))}</text></g>'
        )
    if caption:
        y = 2 * PAD + layout.height + LINE * len(legend) + LINE // 2 + 4
        lines.append(f'<text class="times" x="{PAD}" y="{y}">{escape(caption)}</text>')
    return "\n".join([*lines, "</svg>"])


def _lanes(layout: Layout, picture: Picture) -> list[str]:
    lines = []
    for lane, name in zip(layout.lanes, ("driver", *picture.actors), strict=True):
        y = lane.y + lane.height // 2 + 4
        note = f'<text x="{PAD}" y="{y + LINE // 2}">{escape(lane.note)}</text>' if lane.note else ""
        lines.append(
            f'<g class="lane"><title>{escape(name)}</title>'
            f'<rect y="{lane.y}" width="{layout.width}" height="{lane.height}" rx="6" fill="{LANE}"/>'
            f'<text x="{PAD}" y="{y - LINE // 2 if note else y}" font-weight="bold">{escape(lane.name)}</text>'
            f"{note}</g>"
        )
    return lines


def _fill(picture: Picture, box: Box) -> str:
    """The colour of a box: the more of the time a node runs, the more of `BUSY`."""
    times = picture.times
    share = times.calls[box.number][1] if times is not None and box.number in times.calls else 0.0
    share = min(1.0, max(0.0, share))
    mixed = [round(a + (b - a) * share) for a, b in zip(_rgb(PAPER), _rgb(BUSY), strict=True)]
    return "#" + "".join(f"{part:02x}" for part in mixed)


def _rgb(colour: str) -> list[int]:
    return [int(colour[at : at + 2], 16) for at in (1, 3, 5)]


def _box(box: Box, fill: str) -> str:
    x, y = box.x + box.width // 2, box.middle - (len(box.lines) - 1) * LINE // 2 + 4
    lines = "".join(
        f'<text x="{x}" y="{y + LINE * number}" text-anchor="middle">{escape(line)}</text>'
        for number, line in enumerate(box.lines)
    )
    return (
        f'<g class="node"><title>{escape(box.title)}</title>'
        f'<rect x="{box.x}" y="{box.y}" width="{box.width}" height="{box.height}" rx="7" '
        f'fill="{fill}" stroke="{INK}"/>{lines}</g>'
    )


def _arrow(route: Route) -> str:
    carrier = route.arrow.carrier
    way = " L".join(f"{x} {y}" for x, y in route.points)
    x, y = route.points[-1]
    return (
        f'<g class="arrow"><title>{escape(str(carrier))}</title>'
        f'<path d="M{way}" {_stroke(carrier.transport.short)}/>'
        f'<path d="M{x} {y}l{-HEAD} -4v8z" fill="{GREY}"/>'
        f'<text x="{x - LABEL_GAP}" y="{y - 3}" text-anchor="end" font-size="10" fill="{GREY}">'
        f"{escape(carrier.label)}</text></g>"
    )


def _stroke(short: str) -> str:
    dash = f' stroke-dasharray="{DASHES[short]}"' if short in DASHES else ""
    return f'fill="none" stroke="{GREY}" stroke-width="1.3" stroke-linejoin="round"{dash}'
