"""What convert says: on stdout, as JSON, and in report files; and what it says nothing of."""

import hashlib
import json
import os
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import torch

from fixtures.assembler import Call, Global
from fixtures.models import state_dict as architecture
from fixtures.torchfile import save_zip
from tests.convert.converting import Ran, ckptool, state_dict
from tests.core.sarif import check

KEYS = {"schema_version", "source", "output", "kept", "dropped", "cast", "zeroed", "findings", "metadata"}
FINDING = {"rule", "severity", "entry", "pickle", "offset", "opcode", "reference", "call", "action"}


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    torch.save({"state_dict": state_dict(), "epoch": 3, "callbacks": {}}, tmp_path / "m.ckpt")
    return tmp_path / "m.ckpt"


@pytest.fixture
def armed(tmp_path: Path) -> Path:
    payload = Call(Global("posix", "system"), ("echo '<script>|`PWNED`' > /tmp/PWNED\n\x1b[31m",))
    value = {"state_dict": architecture("textual-inversion-a1111"), "p": payload, "q": Global("company", "Thing")}
    save_zip(value, tmp_path / "<b>m|.ckpt")
    return tmp_path / "<b>m|.ckpt"


def report(ran: Ran) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(ran.out)
    return data


def test_json_has_the_keys_of_the_schema(clean: Path) -> None:
    ran = ckptool("convert", clean, "--json")
    data = report(ran)
    assert ran.code == 0
    assert data.keys() >= KEYS
    assert data["schema_version"] == 1
    assert data["source"] == str(clean)
    target = clean.with_suffix(".safetensors")
    written = target.read_bytes()
    expected = {"path": str(target), "sha256": hashlib.sha256(written).hexdigest(), "bytes": len(written)}
    assert data["output"] == expected
    assert data["kept"] == len(state_dict())
    assert [item["name"] for item in data["dropped"]] == ["callbacks"]
    assert all(item.keys() == {"name", "reason"} and item["reason"] for item in data["dropped"])
    assert (data["cast"], data["zeroed"], data["findings"]) == ([], {}, [])
    assert data["metadata"] == {"format": "pt", "epoch": "3"}
    assert "m.safetensors" in ran.err


def test_json_of_findings(armed: Path) -> None:
    data = report(ckptool("convert", armed, "--json"))
    assert all(finding.keys() >= FINDING for finding in data["findings"])
    by_reference = {finding["reference"]: finding for finding in data["findings"]}
    system = by_reference["posix.system"]
    assert (system["severity"], system["action"], system["entry"], system["opcode"]) == (
        "error",
        "disarmed",
        "data.pkl",
        "REDUCE",
    )
    assert system["call"].startswith("posix.system(") or system["call"].startswith("os.system(")
    assert by_reference["company.Thing"]["severity"] == "warning"


def test_json_of_a_refusal(tmp_path: Path) -> None:
    (tmp_path / "m.ckpt").write_bytes(b"")
    ran = ckptool("convert", tmp_path / "m.ckpt", "--json", "--report", tmp_path / "r.json")
    assert ran.code == 3
    assert report(ran)["source"] == str(tmp_path / "m.ckpt")
    assert report(ran)["output"] is None
    assert "empty" in report(ran)["error"]["message"]
    assert json.loads((tmp_path / "r.json").read_text()) == report(ran)
    assert len(ran.err.splitlines()) == 2


def test_quiet_says_nothing_but_writes(armed: Path) -> None:
    ran = ckptool("convert", armed, "-q")
    assert (ran.code, ran.out, ran.err) == (0, "", "")
    assert armed.with_suffix(".safetensors").exists()


def test_quiet_still_says_errors(tmp_path: Path) -> None:
    (tmp_path / "m.ckpt").write_bytes(b"")
    ran = ckptool("convert", tmp_path / "m.ckpt", "-q")
    assert (ran.code, len(ran.err.splitlines())) == (3, 2)


def test_quiet_json_is_only_the_json(clean: Path) -> None:
    ran = ckptool("convert", clean, "-q", "--json")
    assert report(ran)["kept"] == len(state_dict())
    assert ran.err == ""


@pytest.mark.parametrize("name", ["armed", "clean"])
def test_fail_on_finding(name: str, request: pytest.FixtureRequest) -> None:
    source: Path = request.getfixturevalue(name)
    assert ckptool("convert", source, "--fail-on-finding").code == (1 if name == "armed" else 0)
    assert source.with_suffix(".safetensors").exists()
    assert ckptool("convert", source, "--force").code == 0


def test_a_dry_run_shows_the_tensors_and_writes_nothing(clean: Path) -> None:
    before = clean.stat()
    ran = ckptool("convert", clean, "--dry-run")
    assert ran.code == 0
    for name, tensor in state_dict().items():
        assert name in ran.out
        assert str(list(tensor.shape)) in ran.out
    data = report(ckptool("convert", clean, "--dry-run", "--json"))
    assert data["kept"] == len(state_dict())
    assert data["output"]["sha256"] is None
    assert os.listdir(clean.parent) == ["m.ckpt"]
    assert clean.stat().st_mtime_ns == before.st_mtime_ns


def test_a_dry_run_of_a_bad_file_is_refused(clean: Path) -> None:
    clean.write_bytes(clean.read_bytes()[:-30])
    assert ckptool("convert", clean, "--dry-run").code == 3


def test_verbose_shows_all_and_the_rest_is_counted(tmp_path: Path) -> None:
    value = {"state_dict": {f"t{i:02}": torch.ones(1) for i in range(15)}, **{f"dropped{i:02}": i for i in range(15)}}
    torch.save(value, tmp_path / "m.ckpt")
    short, long = ckptool("convert", tmp_path / "m.ckpt"), ckptool("convert", tmp_path / "m.ckpt", "--force", "-v")
    assert sum(f"dropped{i:02}" in short.out for i in range(15)) == 10
    assert "5 more" in short.out
    assert all(f"dropped{i:02}" in long.out for i in range(15))


def test_no_control_character_of_a_file_reaches_the_terminal(tmp_path: Path) -> None:
    nasty = "\x1b[2J\x07\r\u202e\u2066\x9b31m"
    torch.save({"state_dict": {nasty: torch.ones(1)}, nasty: {"a": nasty}, "n": Path(nasty)}, tmp_path / "m.ckpt")
    for options in ((), ("-v", "--force"), ("--dry-run", "-v"), ("--json", "--force")):
        ran = ckptool("convert", tmp_path / "m.ckpt", *options)
        assert ran.code == 0
        assert not set(nasty) - set("[2J31m") & set(ran.out + ran.err)


def test_report_as_json_is_that_of_stdout(armed: Path) -> None:
    ran = ckptool("convert", armed, "--json", "--report", armed.parent / "r.json")
    assert json.loads((armed.parent / "r.json").read_text()) == report(ran)


def test_report_as_sarif(armed: Path) -> None:
    assert ckptool("convert", armed, "--report", armed.parent / "r.sarif").code == 0
    results = check((armed.parent / "r.sarif").read_bytes())
    assert [result["level"] for result in results] == ["error", "warning"] or {r["level"] for r in results} == {
        "error",
        "warning",
    }
    (uri,) = {result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for result in results}
    assert unquote(uri) == f"file://{armed}"


def test_a_refusal_is_a_result_of_sarif_too(tmp_path: Path) -> None:
    (tmp_path / "m.ckpt").write_bytes(b"")
    assert ckptool("convert", tmp_path / "m.ckpt", "--report", tmp_path / "r.sarif").code == 3
    assert [result["ruleId"] for result in check((tmp_path / "r.sarif").read_bytes())] == ["refused"]


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.seen.add(tag)


def test_report_as_html_shows_markup_as_text(armed: Path) -> None:
    assert ckptool("convert", armed, "--report", armed.parent / "r.html").code == 0
    text = (armed.parent / "r.html").read_text()
    tags = Tags()
    tags.feed(text)
    assert not tags.seen & {"script", "b", "img", "iframe", "link"}
    assert "&lt;script&gt;" in text
    assert "default-src &#x27;none&#x27;" in text or "default-src 'none'" in text
    assert "http" not in text.replace("http-equiv", "")


def test_report_as_markdown_is_one_table_row_for_each_finding(armed: Path) -> None:
    assert ckptool("convert", armed, "--report", armed.parent / "r.md").code == 0
    lines = (armed.parent / "r.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 2 + 2
    assert all(row.replace("\\|", "").count("|") == 6 for row in rows)
    assert "<script>" not in "".join(lines).replace("\\<", "")


@pytest.mark.parametrize("name", ["r.txt", "r", "nowhere/r.json"])
def test_a_report_that_cannot_be_is_a_usage_error(name: str, clean: Path) -> None:
    assert ckptool("convert", clean, "--report", clean.parent / name).code == 2
    assert os.listdir(clean.parent) == ["m.ckpt"]


def test_a_report_never_replaces_the_source(tmp_path: Path) -> None:
    torch.save(state_dict(), tmp_path / "x")
    (tmp_path / "x").rename(tmp_path / "m.json")
    before = (tmp_path / "m.json").read_bytes()
    assert ckptool("convert", tmp_path / "m.json", "--report", tmp_path / "m.json").code == 2
    assert (tmp_path / "m.json").read_bytes() == before
    assert os.listdir(tmp_path) == ["m.json"]


@pytest.mark.parametrize("ending", ["json", "sarif", "html", "md"])
def test_a_report_replaces_an_earlier_one_and_nothing_else(ending: str, tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "m.ckpt")
    report = tmp_path / f"config.{ending}"
    for _ in range(2):
        assert ckptool("scan", tmp_path / "m.ckpt", "--report", report).code == 0
    report.write_text('{"_class_name": "UNet2DConditionModel"}')
    ran = ckptool("scan", tmp_path / "m.ckpt", "--report", report)
    assert ran.code == 2
    assert "is no report of ckptool" in ran.err
    assert report.read_text() == '{"_class_name": "UNet2DConditionModel"}'
