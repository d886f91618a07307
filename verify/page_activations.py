"""The largest number that each layer gives, against what half precision can hold."""

from collections.abc import Mapping

from ckptool.report_page import escape
from ckptool.verify.charts import INSET, Log, block, levels, line, log_of, number, svg, words
from ckptool.verify.probe import ADVICE, HALF_MAX

Activations = tuple[tuple[str, float], ...]
TOP, BOTTOM, HEIGHT = 22.0, 200.0, 222
COLUMNS = 1500
"""More layers than this share columns."""
NAMED = 5
"""Layers with the largest values that are named where none overflows."""


def activations_section(found: Mapping[str, Activations]) -> str:
    """A chart for each component that was run; empty where none was."""
    shown = {name: layers for name, layers in found.items() if layers}
    if not shown:
        return ""
    scale = log_of([HALF_MAX * 10, *(value for layers in shown.values() for _, value in layers)])
    scale = Log(max(scale.low, -4), scale.high)
    charts = "".join(card(name, layers, scale) for name, layers in shown.items())
    return (
        '<section id="activations"><h2>Activations against half precision</h2><p class="lead">The largest absolute value '
        "that each layer gives when all is computed in F32, over all steps and both files. F16 ends at 65,504: a layer "
        "that gives more is infinite in half precision, and the picture goes black. Weights do not show this.</p>"
        f'<div class="cards">{charts}</div></section>'
    )


def card(name: str, layers: Activations, scale: Log) -> str:
    over = sorted((item for item in layers if item[1] > HALF_MAX), key=lambda item: -item[1])
    named = over or sorted(layers, key=lambda item: -item[1])[:NAMED]
    rows = "".join(
        f'<li><span class="name">{escape(layer)}</span><span class="value">{number(value)}</span></li>'
        for layer, value in named
    )
    if over:
        count = f"{len(over):,} of {len(layers):,} layers overflow"
        said = f'<p class="bad"><b>{count}:</b> {escape(ADVICE.get(name, "keep it in F32"))}.</p>'
        listed = f"<details class='more'{' open' if len(over) <= NAMED else ''}><summary>Which layers</summary>{{}}</details>"
    else:
        room = HALF_MAX / max((value for _, value in layers), default=1.0) if named[0][1] else float("inf")
        said = f'<p class="quiet">None of {len(layers):,} layers overflows; the largest leaves room for a factor of {number(room)}.</p>'
        listed = '<details class="more"><summary>The largest</summary>{}</details>'
    table = listed.replace("{}", f'<ol class="layers">{rows}</ol>')
    return f'<div class="card"><h3>{escape(name)}</h3>{chart(layers, scale)}{said}{table}</div>'


def chart(layers: Activations, scale: Log) -> str:
    """A column for each layer, in the order that they run."""
    share = -(-len(layers) // COLUMNS)
    columns = [max(layers[at : at + share], key=lambda item: item[1]) for at in range(0, len(layers), share)]
    width = (100 - INSET) / len(columns)
    marks = [*levels(scale, TOP, BOTTOM)]
    for at, (layer, value) in enumerate(columns):
        height = max((BOTTOM - TOP) * scale.share(value), 1.0)
        kind = "over" if value > HALF_MAX else "bar"
        marks.append(block(INSET + at * width, BOTTOM - height, width * 0.8, height, kind, f"{layer}: {number(value)}"))
    limit = BOTTOM - (BOTTOM - TOP) * scale.share(HALF_MAX)
    marks.append(line(0, BOTTOM, 100, BOTTOM, "base"))
    marks.append(line(0, limit, 100, limit, "limit"))
    marks.append(words(100, limit - 5, "65,504: F16 ends here", "said", "end"))
    marks.append(words(0, BOTTOM + 16, "input", "tick", "start"))
    marks.append(words(100, BOTTOM + 16, "output", "tick", "end"))
    return svg(HEIGHT, marks, "largest activation of each layer")
