"""What the reports for people show of `sanitize`."""

from collections.abc import Iterable

from ckptool.report import Report, Sections
from ckptool.report_page import cell
from ckptool.sanitize.page import to_page
from ckptool.sanitize.words import changes, parity, what_it_is, worth


def sections() -> Sections:
    return Sections(html=lambda _: "", markdown=markdown, page=to_page)


def markdown(report: Report) -> Iterable[str]:
    yield f"- {worth(report)}: {cell(what_it_is(report))}"
    yield from (f"- {cell(line)}" for line in (*changes(report), parity(report)))
