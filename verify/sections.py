"""What the reports for people show of `verify`: the groups of the terminal, and a table of what is unexplained."""

from collections.abc import Iterable
from html import escape

from ckptool.report import Report, Sections
from ckptool.report_page import cell
from ckptool.verify.words import bars, happened, metadata_lines, overflow_lines, told_value, verdict

HEAD = ("component", "tensor", "why", "first difference")


def told(report: Report) -> list[str]:
    """Every sentence but those on single tensors, none of them cut short."""
    found = [
        *happened(report["tensors"], True), *metadata_lines(report["metadata"], True),
        *overflow_lines(report["overflow"], True), *report["problems"],
    ]  # fmt: skip
    return [line.strip() for line in found]


def rows(report: Report) -> list[tuple[str, str, str, str]]:
    return [
        (item["component"], item["name"], item["why"], first(item["first_difference"]))
        for item in report["tensors"]["unexplained"]
    ]


def first(found: Report | None) -> str:
    if found is None:
        return ""
    values = f"{told_value(found['original'])} -> {told_value(found['candidate'])}"
    return f"{found['index']}: {values} ({found['differing']:,} of {found['of']:,} differ)"


def settings(report: Report) -> Iterable[str]:
    return (f"{name}: {value}" for name, value in report["settings"].items() if value not in (None, [], False))


def html(report: Report) -> str:
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(text)}</td>' for text in row)}</tr>" for row in rows(report)
    )  # fmt: skip
    head = "".join(f"<th>{title}" for title in HEAD)
    table = f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>' if body else ""
    bar = escape("\n".join(bars(report)))
    lines = "".join(f"<li>{escape(line)}</li>" for line in (*told(report), *settings(report)))
    return f"<p>{escape(verdict(report))}</p><pre>{bar}</pre><ul>{lines}</ul>{table}"


def markdown(report: Report) -> Iterable[str]:
    yield f"- {cell(verdict(report))}"
    yield from (f"- {cell(line.strip())}" for line in (*bars(report), *told(report), *settings(report)))
    found = rows(report)
    if found:
        yield from ("", f"| {' | '.join(HEAD)} |", "| --- | --- | --- | --- |")
        yield from ("| " + " | ".join(cell(text) for text in row) + " |" for row in found)


SECTIONS = Sections(html, markdown, "pre { overflow-x: auto; }")
