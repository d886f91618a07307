"""The forms that CI services read, and the page: hostile names stay text in all of them."""

import base64
import hashlib
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from ckptool.sanitize.page import to_page
from ckptool.sanitize.summary import table
from tests.core.sarif import check
from tests.sanitize.sanitizing import Sanitized, embedding, evil, sanitize, trained, write

NAME = "<img src=x onerror=alert(1)>|[a](http:b)`\x1b]0;\x07.pt"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reports")


@pytest.fixture(scope="module")
def done(folder: Path) -> Sanitized:
    up = write(folder / "up", {"clean.pt": embedding(), NAME: evil(), "cut.ckpt": trained()[:9000]})
    reports = [folder / f"r{ending}" for ending in (".json", ".sarif", ".html", ".md", ".junit.xml")]
    options = [word for path in reports for word in ("--report", path)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GITHUB_STEP_SUMMARY", str(folder / "summary.md"))
        (folder / "summary.md").write_text("before\n")
        return sanitize(up, folder / "out", *options)


def test_json_has_every_file_in_the_order_of_the_names(done: Sanitized, folder: Path) -> None:
    reports = json.loads((folder / "r.json").read_bytes())
    assert [Path(report["path"]).name for report in reports] == sorted(["clean.pt", NAME, "cut.ckpt"])


def test_sarif_names_the_findings_and_the_refusal(done: Sanitized, folder: Path) -> None:
    results = check((folder / "r.sarif").read_bytes())
    assert {"dangerous-call", "refused"} <= {result["ruleId"] for result in results}


def test_junit_has_a_case_for_each_file(done: Sanitized, folder: Path) -> None:
    root = ElementTree.fromstring((folder / "r.junit.xml").read_bytes())
    cases = {case.get("name", ""): [child.get("type") for child in case] for case in root.iter("testcase")}
    found = {Path(name).name: types for name, types in cases.items() if "onerror" not in name}
    assert found == {"clean.pt": [], "cut.ckpt": ["refused"]}
    assert root.get("tests") == "3"
    assert root.get("failures") == "2"


def test_the_summary_is_appended_and_its_cells_hold_no_markup(done: Sanitized, folder: Path) -> None:
    text = (folder / "summary.md").read_text()
    assert text.startswith("before\n### ckptool sanitize: 1 clean, 1 disarmed, 1 refused")
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 6 for line in rows)
    assert not re.search(r"(?<!\\)<img", text)


def test_a_summary_of_very_many_files_stays_within_what_is_shown(done: Sanitized) -> None:
    many = [dict(report) for report in done.reports.values()] * 3000
    text = table(many, 0)
    assert len(text.encode()) < 1 << 20
    assert "more" in text.splitlines()[-1] or "more" in text


def test_the_page_runs_its_own_script_alone(done: Sanitized, folder: Path) -> None:
    page = (folder / "r.html").read_text()
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page
    assert "<img" not in page
    assert "\x1b" not in page
    assert page.count("<details id=") == 3


def test_the_page_of_nothing_is_a_page() -> None:
    assert "0 files" in to_page([])


def test_a_skipped_file_is_reported_as_the_first_time(done: Sanitized, folder: Path) -> None:
    again = sanitize(folder / "up", folder / "out", "--report", folder / "again.html", "-v")
    assert again.ran.code == done.ran.code
    page = (folder / "again.html").read_text()
    assert "posix.system" in page
    assert "by an earlier run" in page


def test_a_report_of_another_form_is_a_usage_error(folder: Path, done: Sanitized) -> None:
    assert sanitize(folder / "up", folder / "out", "--report", folder / "r.xml").ran.code == 2
