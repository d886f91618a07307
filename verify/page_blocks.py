"""The error of each block along a network, a row for each, from the input to the output."""

from collections.abc import Iterator

from ckptool.report import Report
from ckptool.report_page import escape
from ckptool.verify.charts import Log, decibels, dot, finite, line, log_of, number, power, scientific, svg, words
from ckptool.verify.page_parts import cards, ordered, section

ROW, AXIS = 24, 22
"""Pixels."""
NOTHING = '<p class="quiet">No block differs: every one gives the same numbers from both files.</p>'


def blocks_section(report: Report) -> str:
    """A chart for each component that was run, all on one scale; empty where none was."""
    shown = {name: item for name, item in report["denoise"].items() if item["blocks"]}
    if not shown:
        return ""
    limits = [item["tolerance"] for item in shown.values()]
    errors = [finite(block["relative_l2"]) for item in shown.values() for block in item["blocks"]]
    scale = log_of([*limits, *errors])
    return section(
        "blocks",
        "Error along the network",
        "How far the output of each block is from the original's at the first step, |difference| / |original| "
        "(relative L2), from where the network begins to where it ends.",
        cards(chart(name, shown[name], scale) for name in ordered(shown)),
        [("limit", "what the component as a whole may be off by")],
    )


def chart(name: str, item: Report, scale: Log) -> str:
    blocks = [(str(block["name"]), finite(block["relative_l2"])) for block in item["blocks"]]
    head = f"<h3>{escape(name)}</h3>"
    if not any(error for _, error in blocks):
        return head + NOTHING + outputs(item)
    rows = "".join(row_lines(blocks, scale, item["tolerance"]))
    axis = f'<li class="axis"><span></span>{svg(AXIS, ticks(scale))}<span></span></li>'
    return f'{head}<ol class="blocks">{rows}{axis}</ol>{outputs(item)}'


def row_lines(blocks: list[tuple[str, float]], scale: Log, limit: float) -> Iterator[str]:
    places = [scale.percent(error) for _, error in blocks]
    for at, (name, error) in enumerate(blocks):
        marks = [
            line(scale.percent(10.0**decade), 0, scale.percent(10.0**decade), ROW, "grid") for decade in scale.decades
        ]
        if limit:
            marks.append(line(scale.percent(limit), 0, scale.percent(limit), ROW, "limit"))
        here, middle = places[at], ROW / 2
        if at:
            marks.append(line((places[at - 1] + here) / 2, 0, here, middle, "path"))
        if at + 1 < len(blocks):
            marks.append(line(here, middle, (here + places[at + 1]) / 2, ROW, "path"))
        kind = "none" if error == 0 else "over" if not error <= limit else "mark"
        marks.append(dot(here, middle, kind))
        yield (
            f'<li><span class="name" title="{escape(name)}">{escape(name)}</span>'
            f'{svg(ROW, marks)}<span class="value">{scientific(error)}</span></li>'
        )


def ticks(scale: Log) -> Iterator[str]:
    for decade in scale.labelled:
        yield words(scale.percent(10.0**decade), 15, power(decade))


def outputs(item: Report) -> str:
    """The figures of each output: of every timestep, of encoding and decoding, of each layer that is used."""
    rows = "".join(
        f"<tr><th>{escape(step['name'])}</th><td>{number(step['relative_l2'])}</td><td>{decibels(step['psnr'])}</td>"
        f"<td>{number(step['max_abs'])}</td></tr>"
        for step in item["steps"]
    )
    head = "<thead><tr><th>Output</th><th>Off by</th><th>PSNR</th><th>Largest error</th></tr></thead>"
    return (
        f'<details class="more"><summary>Its {len(item["steps"]):,} outputs</summary>'
        f'<table class="outputs">{head}{rows}</table></details>'
    )
