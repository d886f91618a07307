"""Every tensor by what happened to it: the unexplained ones first and in full, the others folded."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ckptool.identify.components import component_of
from ckptool.report import Report
from ckptool.report_page import escape
from ckptool.tensor import Tensor
from ckptool.text import plural
from ckptool.verify.charts import number
from ckptool.verify.page_parts import section
from ckptool.verify.words import told_value

# Group -> its heading and what it says.
GROUPS: dict[str, tuple[str, str]] = {
    "unexplained": ("Unexplained", "nothing that a conversion does makes these of the original"),
    "zeroed": ("Zeroed", "values near zero became 0, the others are as they were or rounded"),
    "cast": ("Cast", "each value is the exact rounding of what it was"),
    "rank": ("Lower rank", "modules as near to what they were as their rank allows"),
    "ema": ("Average (EMA)", "the average of the weight stands under its name"),
    "repaired": ("Repaired", "position ids are whole numbers again"),
    "renamed": ("Renamed", "the same values under another name"),
    "added": ("Added", "the original does not have them, and need not"),
    "dropped": ("Left out", "a known kind of loss"),
    "identical": ("Identical", "equal to the bit"),
}
OPEN = 12
"""A group of at most so many rows is unfolded; unexplained ones always are."""


@dataclass(frozen=True, slots=True)
class Row:
    """One tensor, or one module."""

    name: str
    component: str
    what: str
    detail: str = ""


def tensors_section(report: Report, tensors: tuple[Tensor, ...], made_zero: Mapping[str, int], kind: str) -> str:
    """`tensors` are those of the candidate, `made_zero` how many values of each became zero."""
    groups = {name: rows for name, rows in grouped(report["tensors"], tensors, made_zero, kind).items() if rows}
    counts = " · ".join(f"{len(rows):,} {GROUPS[name][0].lower()}" for name, rows in groups.items())
    field = (
        '<p class="filter" hidden><label for="filter">Only names with</label> '
        '<input id="filter" type="search" autocomplete="off" spellcheck="false" placeholder="attn2.to_v">'
        '<output id="found"></output></p>'
    )
    return section("tensors", "Tensors", counts, field + "".join(group(name, rows) for name, rows in groups.items()))


def grouped(data: Report, tensors: tuple[Tensor, ...], made_zero: Mapping[str, int], kind: str) -> dict[str, list[Row]]:
    """Group -> its rows, each tensor in the first group that it belongs to."""
    shapes = {tensor.name: shape_of(tensor) for tensor in tensors}
    casts = {item["name"]: item for item in data["cast"]}

    def row(name: str, what: str, detail: str = "") -> Row:
        return Row(name, component_of(name, kind), what, detail or shapes.get(name, ""))

    found: dict[str, list[Row]] = {
        "unexplained": [
            Row(item["name"], item["component"], item["why"], first(item["first_difference"]))
            for item in data["unexplained"]
        ],
        "zeroed": [row(name, zero_words(count, casts.get(name))) for name, count in made_zero.items()],
        "cast": [row(name, cast_words(item)) for name, item in casts.items()],
        "rank": [row(name, rank_words(item), "module") for name, item in data["rank"].items()],
        "ema": [row(item["name"], f"from {item['from']}") for item in data["ema"]],
        "repaired": [row(name, "whole numbers from 0") for name in data["repaired"]],
        "renamed": [row(item["to"], f"was {item['from']}") for item in data["renamed"]],
        "added": [row(item["name"], item["reason"]) for item in data["added"]],
        "dropped": [row(item["name"], item["reason"], "gone") for item in data["dropped"]],
    }
    taken: set[str] = set()
    for name, rows in found.items():
        if name != "dropped":
            found[name] = [row for row in rows if row.name not in taken]
            taken |= {row.name for row in found[name]}
    modules = tuple(f"{name}." for name in data["rank"])
    rest = [name for name in shapes if name not in taken and not (modules and name.startswith(modules))]
    found["identical"] = [row(name, "") for name in rest]
    return found


def shape_of(tensor: Tensor) -> str:
    return f"{tensor.dtype} {' × '.join(map(str, tensor.shape)) or 'single value'}"


def zero_words(count: int, cast: Any) -> str:
    return f"{plural(count, 'value')} became 0{', ' + cast_words(cast) if cast else ''}"


def cast_words(item: Report) -> str:
    words = f"{item['from']} → {item['to']}"
    if item.get("clamped"):
        words += f", {plural(item['clamped'], 'value')} held at the limit"
    return words + (f", scale {number(item['scale'])}" if "scale" in item else "")


def rank_words(item: Report) -> str:
    return f"rank {item['from']} → {item['to']}, off by {item['relative_error']:.2%} (at best {item['best']:.2%})"


def first(found: Report | None) -> str:
    """Where a tensor first differs, and how much of it does."""
    if found is None:
        return ""
    values = f"{told_value(found['original'])} → {told_value(found['candidate'])}"
    share = f"{found['differing']:,} of {found['of']:,} differ, by up to {number(found['max_abs'])}"
    return f"at {found['index']}: {values}; {share}"


def group(name: str, rows: list[Row]) -> str:
    heading, says = GROUPS[name]
    unfolded = " open" if name == "unexplained" or len(rows) <= OPEN else ""
    kind = " bad" if name == "unexplained" else ""
    body = "".join(table_rows(rows))
    return (
        f'<details class="group{kind}"{unfolded}><summary><b>{escape(heading)}</b> <span class="count">{len(rows):,}'
        f'</span> <small>{escape(says)}</small></summary><table class="tensors">{body}</table></details>'
    )


def table_rows(rows: list[Row]) -> Iterator[str]:
    for row in rows:
        cells = ((row.name, "name"), (row.component, "part"), (row.what, "what"), (row.detail, "detail"))
        yield f"<tr>{''.join(f'<td class={kind}>{escape(text)}</td>' for text, kind in cells)}</tr>"
