"""The largest number that each layer gives, against what half precision can hold."""

from collections.abc import Mapping

from ckptool.report_page import escape
from ckptool.verify.charts import INSET, Log, block, levels, line, log_of, number, plot, words
from ckptool.verify.page_parts import cards, ordered, section
from ckptool.verify.probe import ADVICE, HALF_MAX

Activations = tuple[tuple[str, float], ...]
TOP, BOTTOM, HEIGHT = 28.0, 206.0, 228
COLUMNS = 1500
"""More layers than this share columns."""
BAR, DENSE = 0.8, 200
"""What of a column is filled; of more columns than this, all of it."""
NAMED = 5
"""Layers with the largest values that are named where none overflows."""


def activations_section(found: Mapping[str, Activations]) -> str:
    """A chart for each component that was run; empty where none was."""
    shown = {name: layers for name, layers in found.items() if layers}
    if not shown:
        return ""
    scale = log_of([HALF_MAX * 10, *(value for layers in shown.values() for _, value in layers)])
    scale = Log(max(scale.low, -4), scale.high)
    return section(
        "activations",
        "Activations against half precision",
        "The largest absolute value that each layer gives when everything is computed in F32, over all steps and both "
        "files. F16 ends at 65,504: a layer that gives more is infinite in half precision, and the picture goes black. "
        "The weights do not show this.",
        cards(card(name, shown[name], scale) for name in ordered(shown)),
    )


def card(name: str, layers: Activations, scale: Log) -> str:
    largest = sorted(layers, key=lambda item: -item[1])
    over = [item for item in largest if item[1] > HALF_MAX]
    if over:
        count = f"{len(over):,} of {len(layers):,} layers overflow"
        said = f'<p class="bad"><b>{count}:</b> {escape(ADVICE.get(name, "keep it in F32"))}.</p>'
        listed = named("Which layers", over, len(over) <= NAMED)
    else:
        room = (
            f"; the largest value, {number(largest[0][1])}, is {number(HALF_MAX / largest[0][1])} times below the end"
            if largest[0][1]
            else ""
        )
        said = f'<p class="quiet">None of {len(layers):,} layers overflows{room}.</p>'
        listed = named("The largest", largest[:NAMED], False)
    return f"<h3>{escape(name)}</h3>{chart(layers, scale)}{said}{listed}"


def named(summary: str, layers: list[tuple[str, float]], unfolded: bool) -> str:
    rows = "".join(
        f'<li><span class="name">{escape(layer)}</span><span class="value">{number(value)}</span></li>'
        for layer, value in layers
    )
    return (
        f'<details class="more"{" open" if unfolded else ""}><summary>{summary}</summary>'
        f'<ol class="layers">{rows}</ol></details>'
    )


def chart(layers: Activations, scale: Log) -> str:
    """A column for each layer, in the order that they run."""
    share = -(-len(layers) // COLUMNS)
    columns = [max(layers[at : at + share], key=lambda item: item[1]) for at in range(0, len(layers), share)]
    width = (100 - INSET) / len(columns)
    marks = [*levels(scale, TOP, BOTTOM)]
    for at, (layer, value) in enumerate(columns):
        height = max((BOTTOM - TOP) * scale.share(value), 1.0)
        kind = "over" if value > HALF_MAX else "bar"
        marks.append(
            block(
                INSET + at * width,
                BOTTOM - height,
                width * (BAR if len(columns) < DENSE else 1),
                height,
                kind,
                f"{layer}: {number(value)}",
            )
        )
    limit = BOTTOM - (BOTTOM - TOP) * scale.share(HALF_MAX)
    marks.append(line(0, BOTTOM, 100, BOTTOM, "base"))
    marks.append(line(0, limit, 100, limit, "limit"))
    marks.append(words(100, TOP - 12, "F16 ends at 65,504", "said", "end"))
    marks.append(words(0, BOTTOM + 16, "input", "tick", "start"))
    marks.append(words(100, BOTTOM + 16, "output", "tick", "end"))
    return plot(HEIGHT, marks, "largest activation of each layer")
