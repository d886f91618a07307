"""What the report for people in Markdown shows of `verify`, and which page is made for browsers."""

from collections.abc import Iterable

from ckptool.report import Report, Sections
from ckptool.report_page import cell
from ckptool.verify.page import Evidence, to_page
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


def markdown(report: Report) -> Iterable[str]:
    yield f"- {cell(verdict(report))}"
    yield from (f"- {cell(line.strip())}" for line in (*bars(report), *told(report), *settings(report)))
    found = rows(report)
    if found:
        yield from ("", f"| {' | '.join(HEAD)} |", "| --- | --- | --- | --- |")
        yield from ("| " + " | ".join(cell(text) for text in row) + " |" for row in found)


def sections(evidence: Evidence) -> Sections:
    return Sections(verdict, markdown, page=lambda reports: to_page(reports[0], evidence))
