"""What a command tells people of its own results, as a part of the reports that people read."""

from collections.abc import Callable, Iterable

from ckptool.report import Report, Sections

STEP = 2
"""Spaces by which a line stands further in than the one that it belongs to."""
Lines = Callable[[Report, bool], Iterable[str]]


def lines_section(lines: Lines) -> Sections:
    """The lines of a command as a list on a page and in Markdown: all of them, as with --verbose."""
    return Sections(lambda report: as_html(lines(report, True)), lambda report: as_markdown(lines(report, True)))


def as_html(lines: Iterable[str]) -> str:
    from ckptool.report_page import escape

    parts: list[str] = []
    depth = 0
    for line in lines:
        new = min(depth_of(line), depth + 1)
        parts.append("<ul>" * (new - depth) + "</ul>" * (depth - new) + f"<li>{escape(line.strip())}</li>")
        depth = new
    return "".join(parts) + "</ul>" * depth


def as_markdown(lines: Iterable[str]) -> list[str]:
    from ckptool.report_page import cell

    return [" " * STEP * (depth_of(line) - 1) + f"- {cell(line.strip())}" for line in lines]


def depth_of(line: str) -> int:
    """1 for a line that stands in by one step, as those under the name of a file do."""
    return max((len(line) - len(line.lstrip(" "))) // STEP, 1)
