"""What a file says stands in reports as text: it is no link, calls nobody, and turns nothing around."""

import json
from typing import Any

import pytest

from ckptool.report_junit import to_junit
from ckptool.report_lines import lines_section
from ckptool.report_page import to_html, to_markdown
from ckptool.report_sarif import to_sarif

CALL = "x('@maintainers [click](https://evil.example) www.evil.example <b>')"


def report(path: str, call: str) -> dict[str, Any]:
    finding = {
        "rule": "unknown-call", "severity": "warning", "message": "would be called", "entry": "data.pkl", "pickle": 0,
        "offset": 7, "opcode": "REDUCE", "reference": "x", "call": call, "action": "reported",
    }  # fmt: skip
    return {"path": path, "format": "torch-zip", "verdict": "unknown", "findings": [finding]}


def test_markdown_links_to_nothing_and_mentions_nobody() -> None:
    text = to_markdown([report("https://evil.example/@all.ckpt", CALL)])
    assert not [word for word in ("://", "@m", "@a", "www.", "<b>") if word in text]
    assert "\\[click\\](" in text


def test_a_page_shows_what_turns_text_around_as_an_escape() -> None:
    text = to_html([report("a\u202egpj.ckpt", "x('\u202e')")])
    assert "\u202e" not in text
    assert "a\\u202egpj.ckpt" in text


def test_a_page_of_several_files_says_how_many_came_out_how() -> None:
    assert "2 files: 2 unknown" in to_html([report("a", "x()"), report("b", "x()")])
    assert "files:" not in to_html([report("a", "x()")])


def test_a_message_of_sarif_holds_no_link() -> None:
    log = json.loads(to_sarif([report("a", CALL)]))
    assert "](" not in log["runs"][0]["results"][0]["message"]["text"]


@pytest.mark.parametrize("verdict", ["no parity", "does not fit", "ambiguous"])
def test_what_would_not_exit_0_is_a_failure_of_junit(verdict: str) -> None:
    assert 'failures="1"' in to_junit([{"path": "a", "verdict": verdict}])
    assert 'failures="0"' in to_junit([{"path": "a", "verdict": "parity"}, {"path": "b", "verdict": "fits"}])


def test_what_a_command_tells_stands_in_both_reports_as_text_and_in_its_order() -> None:
    def lines(_: dict[str, Any], verbose: bool) -> list[str]:
        return ["  cast <b>", "    kept: [x](y)", *(["    all"] if verbose else []), "  done"]

    sections = lines_section(lines)
    page = to_html([report("a", "x()")], sections)
    assert "<ul><li>cast &lt;b&gt;</li><ul><li>kept: [x](y)</li><li>all</li></ul><li>done</li></ul>" in page
    assert "- cast \\<b\\>\n  - kept: \\[x\\](y)\n  - all\n- done\n" in to_markdown([report("a", "x()")], sections)
