"""Reports: plain data in the stable JSON form, and the files that it is written to."""

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ckptool.address import Address, Source
from ckptool.errors import UsageError
from ckptool.output import Output, write_at
from ckptool.tensor import Dropped, Finding, Plan

SCHEMA_VERSION = 1
Report = dict[str, Any]


def finding_data(finding: Finding) -> Report:
    return {
        "rule": finding.rule,
        "severity": finding.severity,
        "message": finding.message,
        "entry": finding.entry,
        "pickle": finding.pickle,
        "offset": finding.offset,
        "opcode": finding.opcode,
        "reference": finding.reference,
        "call": finding.call,
        "action": finding.action,
    }


def dropped_data(dropped: Dropped) -> Report:
    return {"name": dropped.name, "reason": dropped.reason}


def plan_data(source: str, plan: Plan, output: Report | None) -> Report:
    """The report of a command that turned `source` into `output` by way of `plan`."""
    return {
        "schema_version": SCHEMA_VERSION,
        "source": source,
        "format": plan.format,
        "output": output,
        "kept": len(plan.tensors),
        "dropped": [dropped_data(item) for item in plan.dropped],
        "cast": [],
        "zeroed": {},
        "findings": [finding_data(item) for item in plan.findings],
        "metadata": plan.metadata,
    }


def refusal_data(source: str, message: str, hint: str) -> Report:
    """The report of a file that was refused."""
    return {
        "schema_version": SCHEMA_VERSION,
        "source": source,
        "output": None,
        "error": {"message": message, "hint": hint},
    }


def to_json(reports: list[Report], single: bool) -> str:
    """One object for one source, a list for several. ASCII, so that no terminal or log is moved by a file's names."""
    return json.dumps(reports[0] if single and len(reports) == 1 else reports, indent=2)


def check_report(path: Path | None, others: Iterable[Source]) -> None:
    """Raises UsageError when the report would replace one of `others`: the sources and the output."""
    for other in others if path is not None else ():
        assert path is not None
        if isinstance(other, Address):
            continue
        same = path.exists() and other.exists() and os.path.samefile(path, other)
        if same or path.resolve() == other.resolve():
            raise UsageError(f"{path}: the report would replace a model", "give another name for the report")
    if path is not None and path.is_file() and not is_report(path):
        raise UsageError(f"{path}: exists, and is no report of ckptool", "give another name for the report")


def is_report(path: Path) -> bool:
    """An earlier report, which a new one may replace, or an empty file."""
    with path.open("rb") as file:
        head = file.read(4096)
    return not head or b"ckptool" in head or b'"schema_version"' in head


@dataclass(frozen=True, slots=True)
class Sections:
    """What a command shows of its own keys in the reports for people."""

    html: Callable[[Report], str]
    markdown: Callable[[Report], Iterable[str]]
    style: str = ""
    """Rules of CSS beside those of every page."""
    page: Callable[[list[Report]], str] | None = None
    """The whole HTML page, of a command that has one of its own."""


def write_report(path: Path, reports: list[Report], single: bool, sections: Sections | None = None) -> None:
    """Write the reports to `path` in the form that its ending names."""
    if path.suffix == ".json":
        text = to_json(reports, single) + "\n"
    elif path.suffix == ".sarif":
        from ckptool.report_sarif import to_sarif

        text = to_sarif(reports)
    elif path.suffix == ".xml":
        from ckptool.report_junit import to_junit

        text = to_junit(reports)
    elif path.suffix == ".html" and sections is not None and sections.page is not None:
        text = sections.page(reports)
    else:
        from ckptool.report_page import to_html, to_markdown

        text = (to_html if path.suffix == ".html" else to_markdown)(reports, sections)
    data = text.encode("utf-8", "backslashreplace")
    with Output(path, len(data), force=True) as output:
        write_at(output.fd, data, 0)
