"""Reports as JUnit XML, for CI services that show tests: a case for each file."""

import re
from xml.sax.saxutils import escape, quoteattr

from ckptool.report import Report
from ckptool.report_page import status
from ckptool.text import escape as printable

LIMIT = 2000
"""Characters of one text."""
SHOWN = 50
"""Findings of one file."""
BAD = ("unknown", "dangerous", "refused", "no parity", "does not fit", "ambiguous")


def to_junit(reports: list[Report]) -> str:
    """What would be an exit code beside 0 is a failure; a file whose process broke is an error."""
    cases = [case(report) for report in reports]
    failures = sum("<failure" in text for text in cases)
    errors = sum("<error" in text for text in cases)
    counts = f'tests="{len(cases)}" failures="{failures}" errors="{errors}"'
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n'
        f'<testsuites {counts}><testsuite name="ckptool" {counts}>\n{"".join(cases)}</testsuite></testsuites>\n'
    )


def case(report: Report) -> str:
    name = quoteattr(plain(str(report.get("path") or report.get("source") or "")))
    word = status(report)
    action = str(report.get("action", ""))
    bad = word in BAD or "error" in report or action in ("quarantined", "crashed")
    if not bad:
        return f'<testcase classname="ckptool" name={name}/>\n'
    tag = "error" if action == "crashed" else "failure"
    told = quoteattr(plain(message(report, word)))
    kind = quoteattr(plain(action or word))
    return (
        f'<testcase classname="ckptool" name={name}><{tag} type={kind} message={told}>'
        f"{escape(plain(details(report), newlines=True))}</{tag}></testcase>\n"
    )


def message(report: Report, word: str) -> str:
    error = report.get("error")
    return str(error["message"]) if error else f"{word}: {len(report.get('findings', ())):,} findings"


def details(report: Report) -> str:
    error = report.get("error")
    lines = [f"hint: {error['hint']}"] if error else []
    for finding in report.get("findings", ())[:SHOWN]:
        what = finding["call"] or finding["reference"]
        lines.append(f"{finding['severity']} {what} {finding['message']} ({finding['action']})")
    return "\n".join(plain(line) for line in lines)


def plain(text: str, newlines: bool = False) -> str:
    """Text that XML can hold; control characters are as escapes already, lone surrogates too."""
    if newlines:
        return "\n".join(plain(line) for line in text.split("\n"))
    return re.sub(r"[\ufffe\uffff]", "", printable(text, LIMIT))
