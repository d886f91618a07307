"""Reports as SARIF 2.1.0, for code scanning services.

Sources: https://docs.oasis-open.org/sarif/sarif/v2.1.0/os/sarif-v2.1.0-os.html, and for what GitHub asks beyond it
https://docs.github.com/en/code-security/reference/code-scanning/sarif-files/sarif-support.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Any
from urllib.parse import quote

from ckptool import __version__
from ckptool.text import plural

Report = dict[str, Any]
Result = dict[str, Any]

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
LEVELS = ("error", "warning", "note")
MOST = 25_000
"""Results of a run: GitHub takes no file with more."""
ADDRESS = re.compile(r"((?:hf|https?|s3)://[^/?]*)([^?]*)")
"""Host and path of an address; its query is never shown."""


@dataclass(frozen=True, slots=True)
class Rule:
    level: str
    text: str
    advice: str
    score: str = ""
    """How bad it is, from 0 to 10, for services that sort by it."""


SAFETENSORS = "Load only the converted safetensors: nothing in it is executed."
LOOK = "Ask whoever made the file what it is for; a converted file is without it."
RULES: dict[str, Rule] = {
    "dangerous-call": Rule(
        "error", "The pickle calls something that executes, reads, writes or connects.", SAFETENSORS, "9.5"
    ),
    "dangerous-name": Rule(
        "error", "The pickle names something that executes, reads, writes or connects.", SAFETENSORS, "9.0"
    ),
    "unknown-call": Rule("warning", "The pickle calls something whose effect is not known.", LOOK, "6.0"),
    "unknown-name": Rule("warning", "The pickle names something whose effect is not known.", LOOK, "5.0"),
    "harmless-call": Rule("note", "The pickle makes a known training object.", "Nothing needs to be done."),
    "harmless-name": Rule("note", "The pickle names a known training class.", "Nothing needs to be done."),
    "trailing-data": Rule("note", "Bytes that no loader reads follow the end of the data.", LOOK),
    "no-checksums": Rule("note", "The archive was written without checksums.", "A damaged byte would go unseen."),
    "unusable-tensor": Rule(
        "warning", "A tensor is described in a way that cannot be right or cannot be converted.", LOOK
    ),
    "problem": Rule("warning", "The file contradicts itself, lacks something, or holds what would surprise.", LOOK),
    "more-findings": Rule("warning", "There are more findings than are listed.", "The JSON report counts them."),
    "does-not-fit": Rule(
        "warning",
        "An addon does not fit the checkpoint, or it cannot be told whether it does.",
        "`ckptool inspect` of both says what they are for.",
    ),
    "no-parity": Rule(
        "error", "A changed model was not shown to be the same.", "Do not use the changed model in its place."
    ),
    "refused": Rule(
        "error",
        "The file cannot be read, so nothing is known about the rest of it.",
        "Do not load it; get it again from where it came from.",
        "7.0",
    ),
    "crashed": Rule(
        "error",
        "The process that read the file broke or went beyond a limit.",
        "Do not load it with anything that executes pickles.",
        "8.0",
    ),
}
INDEX = {rule: number for number, rule in enumerate(RULES)}


def to_sarif(reports: list[Report]) -> str:
    """One run over all files; a refused file is a result too, so that it is never taken for clean."""
    run = {
        "tool": {"driver": driver()},
        "columnKind": "unicodeCodePoints",
        "results": within(MOST, [result for report in reports for result in results_of(report)]),
    }
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2) + "\n"


def driver() -> dict[str, Any]:
    return {
        "name": "ckptool",
        "semanticVersion": __version__,
        "informationUri": "https://pypi.org/project/ckptool/",
        "rules": [descriptor(name, rule) for name, rule in RULES.items()],
    }


def descriptor(name: str, rule: Rule) -> dict[str, Any]:
    severity = {"security-severity": rule.score} if rule.score else {}
    return {
        "id": name,
        "shortDescription": {"text": rule.text},
        "fullDescription": {"text": rule.text},
        "help": {"text": f"{rule.text} {rule.advice}"},
        "defaultConfiguration": {"level": rule.level},
        "properties": {"tags": ["security"] if rule.score else [], **severity},
    }


def results_of(report: Report) -> Iterator[Result]:
    """What one file gives, each with a fingerprint that stays from run to run."""
    seen: Counter[str] = Counter()
    for result in told(report):
        facts = [result[key] for key in ("ruleId", "message", "locations")]
        mark = sha256(json.dumps(facts).encode()).hexdigest()[:16]
        seen[mark] += 1
        yield result | {"partialFingerprints": {"primaryLocationLineHash": f"{mark}:{seen[mark]}"}}


def told(report: Report) -> Iterator[Result]:
    error = report.get("error")
    if error:
        rule = "crashed" if report.get("action") == "crashed" else "refused"
        yield result_of(rule, "error", f"{error['message']} ({error['hint']})", report)
    elif report.get("parity") is False:
        problems = report.get("problems") or ["parity was not shown"]
        yield result_of("no-parity", "error", "; ".join(problems), report)
    for finding in report.get("findings", ()):
        what = f"{finding['call'] or finding['reference']} {finding['message']}".strip() or finding["rule"]
        where = f"{finding['entry']} " if finding["entry"] else ""
        text = f"{what} ({where}byte {finding['offset']}, {finding['action']})"
        keys = ("entry", "pickle", "offset", "opcode", "reference", "call", "action")
        properties = {key: plain(finding[key]) for key in keys}
        yield result_of(finding["rule"], finding["severity"], text, report) | {"properties": properties}


def result_of(rule: str, level: str, text: str, report: Report) -> Result:
    return {
        "ruleId": rule if rule in RULES else "problem",
        "ruleIndex": INDEX.get(rule, INDEX["problem"]),
        "level": level if level in LEVELS else "error",
        "message": {"text": unlinked(plain(text))},
        "locations": [location(str(report.get("path") or report.get("source") or ""))],
    }


def within(most: int, results: list[Result]) -> list[Result]:
    """The worst `most` results, in their order; what is left out is told in the last of them."""
    if len(results) <= most:
        return results
    worst = sorted(range(len(results)), key=lambda number: LEVELS.index(results[number]["level"]))
    kept, left = sorted(worst[: most - 1]), [results[number] for number in worst[most - 1 :]]
    text = f"{plural(len(left), 'result')} more than a code scanning service takes; the JSON report has them"
    more = left[0] | {
        "ruleId": "more-findings",
        "ruleIndex": INDEX["more-findings"],
        "message": {"text": text},
        "partialFingerprints": {"primaryLocationLineHash": "more-findings:1"},
    }
    more.pop("properties", None)
    return [*(results[number] for number in kept), more]


def plain(value: Any) -> Any:
    """A text without lone surrogates, which JSON can spell and most readers of it refuse."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def unlinked(text: str) -> str:
    """`[words](address)` would be a link and `{0}` a place for an argument, and the words are the file's."""
    return re.sub(r"\{(?=\d)", "{ ", text.replace("](", "] ("))


def location(path: str) -> dict[str, Any]:
    return {"physicalLocation": {"artifactLocation": {"uri": uri_of(path)}}}


def uri_of(path: str) -> str:
    """The address as it is; a path from the current folder as a relative reference, any other as a file's URI."""
    if address := ADDRESS.match(path):
        host, rest = (quote(part, "/:@!$&'()*+,;=%[]", errors="backslashreplace") for part in address.groups())
        rest = rest.replace("[", "%5B").replace("]", "%5D")
        return re.sub(r"%(?![0-9A-Fa-f]{2})", "%25", host + rest)
    path = os.path.normpath(path or ".")
    absolute = path.startswith("/") or path.split("/")[0] == ".."
    try:
        data = os.fsencode(os.path.abspath(path) if absolute else path)
    except UnicodeEncodeError:  # no path of this system: a report was made up
        data = path.encode("utf-8", "backslashreplace")
    return "file://" * absolute + quote(re.sub(rb"^/+", b"/", data))
