"""The run as a table in Markdown, and the summary page of a GitHub workflow that it is appended to."""

import os
from pathlib import Path

from ckptool.report import Report
from ckptool.report_page import cell
from ckptool.sanitize.words import changes, counted, parity, what_it_is, worth
from ckptool.text import size

VARIABLE = "GITHUB_STEP_SUMMARY"
MOST = 1_000_000
"""GitHub takes 1 MiB of each step, and shows nothing of a longer one."""


def append_summary(done: list[Report], passed_over: int) -> None:
    """Where the workflow says that there is such a page."""
    path = os.environ.get(VARIABLE)
    if path:
        with Path(path).open("ab") as file:
            file.write(table(done, passed_over).encode("utf-8", "backslashreplace"))


def table(done: list[Report], passed_over: int) -> str:
    """The worst files first, cut where it would become too long."""
    over = f", {passed_over:,} other files passed over" if passed_over else ""
    lines = [f"### ckptool sanitize: {counted(done)}{over}", "", "| result | file | what it is | size | changes |"]
    lines.append("| --- | --- | --- | --- | --- |")
    order = ("crashed", "refused", "quarantined", "disarmed", "clean")
    left = MOST - sum(map(len, lines))
    ranked = sorted(done, key=lambda report: (order.index(worth(report)), str(report["path"])))
    for number, report in enumerate(ranked):
        line = "| " + " | ".join(cell(text) for text in row(report)) + " |"
        left -= len(line.encode("utf-8", "backslashreplace")) + 1
        if left < 0:
            lines.append(f"| … | {len(ranked) - number:,} more | | | |")
            break
        lines.append(line)
    return "\n".join(lines) + "\n\n"


def row(report: Report) -> tuple[str, str, str, str, str]:
    if report.get("error"):
        return worth(report), str(report["path"]), "", "", str(report["error"]["message"])
    told = "; ".join([*changes(report), parity(report)])
    return worth(report), str(report["path"]), what_it_is(report), size(report["output"]["bytes"]), told
