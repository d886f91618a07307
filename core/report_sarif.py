"""Reports as SARIF 2.1.0, for code scanning services.

Source: https://docs.oasis-open.org/sarif/sarif/v2.1.0/os/sarif-v2.1.0-os.html.
"""

import json
from typing import Any
from urllib.parse import quote

from ckptool import __version__

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"

RULES: dict[str, str] = {
    "dangerous-call": "The pickle calls something that executes, reads, writes or connects.",
    "dangerous-name": "The pickle names something that executes, reads, writes or connects.",
    "unknown-call": "The pickle calls something whose effect is not known.",
    "unknown-name": "The pickle names something whose effect is not known.",
    "harmless-call": "The pickle makes a known training object.",
    "harmless-name": "The pickle names a known training class.",
    "trailing-data": "Bytes that no loader reads follow the end of the data.",
    "no-checksums": "The archive was written without checksums.",
    "unusable-tensor": "A tensor is described in a way that cannot be right or cannot be converted.",
    "problem": "The file contradicts itself, lacks something, or holds what would surprise.",
    "more-findings": "There are more findings than are listed.",
    "does-not-fit": "An addon does not fit the checkpoint, or it cannot be told whether it does.",
    "refused": "The file cannot be read, so nothing is known about the rest of it.",
}


def to_sarif(reports: list[dict[str, Any]]) -> str:
    """One run over all files; a refused file is a result too, so that it is never taken for clean."""
    results = [result(report, finding) for report in reports for finding in report.get("findings", ())]
    results += [refusal(report) for report in reports if report.get("error")]
    driver = {
        "name": "ckptool",
        "semanticVersion": __version__,
        "informationUri": "https://pypi.org/project/ckptool/",
        "rules": [{"id": rule, "shortDescription": {"text": text}} for rule, text in RULES.items()],
    }
    log = {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}],
    }
    return json.dumps(log, indent=2) + "\n"


def result(report: dict[str, Any], finding: dict[str, Any]) -> dict[str, Any]:
    what = finding["call"] or finding["reference"]
    text = f"{what} {finding['message']}".strip()
    where = f"{finding['entry']} " if finding["entry"] else ""
    return {
        "ruleId": finding["rule"],
        "level": finding["severity"],
        "message": {"text": unlinked(f"{text} ({where}byte {finding['offset']}, {finding['action']})")},
        "locations": [location(report)],
        "properties": {
            key: finding[key] for key in ("entry", "pickle", "offset", "opcode", "reference", "call", "action")
        },
    }


def unlinked(text: str) -> str:
    """`[words](address)` in a message would be a link, and the words are the file's."""
    return text.replace("](", "] (")


def refusal(report: dict[str, Any]) -> dict[str, Any]:
    error = report["error"]
    return {
        "ruleId": "refused",
        "level": "error",
        "message": {"text": unlinked(f"{error['message']} ({error['hint']})")},
        "locations": [location(report)],
    }


def location(report: dict[str, Any]) -> dict[str, Any]:
    path = report.get("path") or report.get("source") or ""
    return {"physicalLocation": {"artifactLocation": {"uri": quote(path.replace("\\", "/"), errors="surrogateescape")}}}
