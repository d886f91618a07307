"""Writes results as a plain table for a terminal and as a Markdown page."""

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass

HEAD = ("", "median", "from – to", "CPU time", "figure", "peak memory", "target")

ABOUT = """# Benchmarks

`make bench` measures these side by side and prints them; `.venv/bin/python -m benchmarks.run --markdown
docs/benchmarks.md` writes this page too.

{how}

| | |
|---|---|
{machine}
"""


@dataclass(frozen=True, slots=True)
class Section:
    """A case that was measured: a heading, and for each contender the cells of HEAD."""

    title: str
    rows: list[tuple[str, ...]]


def text(section: Section) -> str:
    """Aligned columns, numbers to the right."""
    rows = [HEAD, *section.rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    return "\n".join((section.title, *(line(row, widths) for row in rows))) + "\n"


def line(row: tuple[str, ...], widths: list[int]) -> str:
    first, *middle, last = (
        cell.ljust(width) if column in (0, len(HEAD) - 1) else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(row, widths, strict=True))
    )
    return "  " + "   ".join((first, *middle, last)).rstrip()


def markdown(how: str, machine: dict[str, str], sections: Iterable[Section]) -> str:
    """The page that is kept in the repository."""
    about = ABOUT.format(
        how=textwrap.fill(how, 118), machine="\n".join(f"| {name} | {value} |" for name, value in machine.items())
    )
    return "\n".join((about, *map(table, sections)))


def table(section: Section) -> str:
    rows = (HEAD, ("---", *["---:"] * (len(HEAD) - 2), "---"), *section.rows)
    return f"## {section.title}\n\n" + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{value * 1e3:.0f} ms"


def mebibytes(value: int) -> str:
    return f"{value / 2**20:,.0f} MiB"


def size(value: int) -> str:
    return f"{value / 1e9:.1f} GB" if value >= 10**9 else f"{value / 1e6:.1f} MB"
