"""The report of `ckptool inspect` as a part of an HTML page, and of a Markdown one."""

from collections.abc import Iterable, Iterator
from html import escape

from ckptool.identify.inspect_words import (
    count,
    fact_lines,
    folder_lines,
    hash_lines,
    headline,
    inspect_lines,
    saving_lines,
)
from ckptool.report import Report
from ckptool.text import escape as plain
from ckptool.text import size

STYLE = """
.kind { font-size: 1.1rem; margin: .3rem 0 1rem; }
.bars { display: grid; grid-template-columns: max-content 1fr max-content; gap: .35rem .8rem; align-items: center; }
.bars svg { width: 100%; height: .9rem; display: block; border-radius: .2rem; background: #8883; }
.bars rect { fill: #3b82c4; } .bars .ema, .bars .training { fill: #b7791f; } .bars .other { fill: #888; }
.bars small { color: #777; grid-column: 2 / 4; margin-top: -.3rem; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(19rem, 1fr)); gap: 0 2rem; }
h3 { font-size: .95rem; margin: 1.2rem 0 .3rem; } .facts ul, .plain { margin: 0; padding-left: 1.1rem; }
li { overflow-wrap: anywhere; }
.scroll td:last-child { white-space: nowrap; }
.problems li { color: #b42318; } summary { cursor: pointer; margin-top: 1rem; }
@media (prefers-color-scheme: dark) { .problems li { color: #ff9b8f; } .bars small { color: #aaa; } }
@media (max-width: 40rem) {
  .bars { grid-template-columns: 1fr max-content; grid-auto-flow: dense; }
  .bars svg, .bars small { grid-column: 1 / 3; } .bars .size { grid-column: 2; }
  .facts { grid-template-columns: 1fr; } body { margin: 1rem auto; }
}
"""
# At most so many lines of a kind: a file can hold metadata and evidence without end.
SHOWN = 200
LEAST = 0.3
"""Per cent of a bar for a component that has any bytes."""


def page_section(report: Report) -> str:
    """What stands between the heading and the findings of one source."""
    evidence = [plain(line, 600) for line in report["evidence"]]
    metadata = [f"{plain(key, 120)}: {plain(value, 2000)}" for key, value in report["metadata"].items()]
    groups = (
        ("Facts", list(fact_lines(report))),
        ("Savings", list(saving_lines(report))),
        ("Goes to", list(folder_lines(report, True))),
        ("Hashes", list(hash_lines(report["hashes"]))),
    )
    parts = [
        f'<p class="kind">{escape(headline(report))}</p>',
        listed("Problems", [plain(line, 1000) for line in report["problems"]], "problems"),
        f'<div class="bars">{"".join(bars(report))}</div>',
        f'<div class="facts">{"".join(listed(name, lines) for name, lines in groups)}</div>',
        listed("Told from", evidence),
        folded(f"Metadata ({len(metadata):,})", metadata),
    ]
    return "".join(parts)


def bars(report: Report) -> Iterator[str]:
    """A row for each component, its bar as wide as its share of the bytes. The page allows no style attributes."""
    components = report["components"]
    total = sum(component["bytes"] for component in components.values())
    for name, component in components.items():
        share = 100 * component["bytes"] / total if total else 0.0
        seen = max(share, LEAST if component["bytes"] else 0.0)
        yield (
            f"<span>{escape(name)}</span>"
            f'<svg viewBox="0 0 100 10" preserveAspectRatio="none" role="img" aria-label="{share:.1f} %">'
            f'<rect class="{escape(name)}" width="{seen:.2f}" height="10"/></svg>'
            f'<span class="size">{size(component["bytes"])}</span>'
            f"<small>{component['tensors']:,} tensors, {count(component['params'])} parameters, "
            f"{escape(', '.join(component['dtypes']))}</small>"
        )


def listed(heading: str, lines: list[str], style: str = "plain") -> str:
    if not lines:
        return ""
    return f"<div><h3>{escape(heading)}</h3><ul class='{style}'>{items(lines)}</ul></div>"


def folded(heading: str, lines: list[str]) -> str:
    return f"<details><summary>{escape(heading)}</summary><ul>{items(lines)}</ul></details>" if lines else ""


def items(lines: list[str]) -> str:
    more = [f"… and {len(lines) - SHOWN:,} more"] if len(lines) > SHOWN else []
    return "".join(f"<li>{escape(line)}</li>" for line in [*lines[:SHOWN], *more])


def markdown_lines(report: Report) -> Iterable[str]:
    """The tree of the terminal as a block of text. A fence of many backticks, so that no name in the file ends it."""
    return ["", FENCE + "text", *inspect_lines(report, False), FENCE]


FENCE = "`" * 12
