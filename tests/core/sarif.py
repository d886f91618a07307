"""What a SARIF file must be: valid by the schema of the format, and what GitHub's code scanning asks beyond it.

sarif-2.1.0.json is the schema of OASIS (github.com/oasis-tcs/sarif-spec, sarif-2.1/schema/sarif-schema-2.1.0.json)
without its texts for people, so that the rules of the format alone are left.
"""

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from jsonschema import Draft4Validator, FormatChecker

FORMATS = FormatChecker(())
SCHEMA = json.loads(Path(__file__).with_name("sarif-2.1.0.json").read_bytes())
VALIDATOR = Draft4Validator(SCHEMA, format_checker=FORMATS)
REFERENCE = re.compile(r"(?:[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*")
MOST = 25_000
LONGEST = 1024
"""Characters of a rule's descriptions."""


@FORMATS.checks("uri-reference", raises=ValueError)
def is_reference(text: Any) -> bool:
    """RFC 3986: the characters of it, and no colon that would make a scheme of a file's name."""
    if not isinstance(text, str):
        return True
    parts = urlsplit(text)
    _ = parts.port  # raises ValueError for one that is no number
    if parts.scheme in ("", "file"):
        scheme = parts.scheme
    else:
        scheme = parts.scheme if re.match(r"[a-z0-9]+://[^/]", text) else "?"
    first = text.partition("/")[0]
    named = not scheme and ":" in first
    return bool(REFERENCE.fullmatch(text)) and scheme != "?" and not named


@FORMATS.checks("uri", raises=ValueError)
def is_uri(text: Any) -> bool:
    return not isinstance(text, str) or (is_reference(text) and bool(urlsplit(text).scheme))


def check(text: str | bytes) -> list[dict[str, Any]]:
    """The results of a SARIF file, which has to be a valid one that GitHub takes."""
    log = json.loads(text)
    VALIDATOR.validate(log)
    (run,) = log["runs"]
    rules = run["tool"]["driver"]["rules"]
    for rule in rules:
        for key in ("shortDescription", "fullDescription", "help"):
            assert 0 < len(rule[key]["text"]) <= LONGEST
    assert len({rule["id"] for rule in rules}) == len(rules)
    assert len(run["results"]) <= MOST
    for result in run["results"]:
        check_result(result, rules)
    marks = [(uri_of(result), result["partialFingerprints"]["primaryLocationLineHash"]) for result in run["results"]]
    assert len(set(marks)) == len(marks)
    json.dumps(log, ensure_ascii=False).encode()  # no lone surrogate
    results: list[dict[str, Any]] = run["results"]
    return results


def check_result(result: dict[str, Any], rules: list[dict[str, Any]]) -> None:
    assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
    assert result["level"] in ("note", "warning", "error")
    text = result["message"]["text"]
    assert text.strip()
    assert not re.search(r"\]\(|\{\d", text)
    assert all(c.isprintable() for c in text)
    assert uri_of(result)
    (place,) = result["locations"]
    assert all(value >= 0 for value in place["physicalLocation"].get("region", {}).values())


def uri_of(result: dict[str, Any]) -> str:
    return str(result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"])
