"""Every command writes SARIF that is valid by the format's schema, whatever a file is called or holds."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import pytest
from jsonschema import ValidationError

from ckptool.report_sarif import RULES, to_sarif, uri_of
from fixtures.assembler import Call, Global
from fixtures.models import state_dict
from fixtures.torchfile import save_zip
from tests.convert.converting import ckptool
from tests.convert.hub_server import Server, serving
from tests.core.sarif import VALIDATOR, check, is_reference, is_uri
from tests.core.sarif import uri_of as uri_in
from tests.sanitize.sanitizing import embedding, evil, lora, odd, packed, sanitize, trained, write

NAMES = {
    "space": "my model.pt",
    "umlaut": "Größe 模型 😀.pt",
    "percent": "100%41%.pt",
    "colon": "a:b.pt",
    "scheme": "javascript:alert(1).pt",
    "mark": "a?b#c[d]{0}|<i>`\\x.pt",
    "control": "a\x1b[31m\n\x7f.pt",
    "surrogate": os.fsdecode(b"\xff\xfe\xed\xb0\x80.pt"),
    "link": "[a](http:b).pt",
    "long": "é" * 120 + ".pt",
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def sarif(*arguments: object, code: int) -> list[dict[str, Any]]:
    """The results of what a command writes."""
    ran = ckptool(*arguments, "--report", "r.sarif", "-q")
    assert ran.code == code, ran.err
    return check(Path("r.sarif").read_bytes())


def rules(results: list[dict[str, Any]]) -> set[str]:
    return {result["ruleId"] for result in results}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_any_name_is_a_reference_to_that_file(name: str, here: Path) -> None:
    write(here, {name: evil()})
    for given in (name, here / name):
        uri = uri_in(sarif("scan", given, code=1)[0])
        assert unquote_to_bytes(uri.removeprefix("file://")) == os.fsencode(given)
    assert uri.startswith("file:///")


ARMED: dict[str, tuple[str, ...]] = {
    "convert": (),
    "prune": (),
    "fp16": (),
    "bf16": (),
    "fp8": (),
    "place": ("--ui", "a1111", "--root", ".", "--convert"),
}


@pytest.mark.parametrize("command", ARMED)
def test_what_a_command_disarmed_is_a_result(command: str, here: Path) -> None:
    write(here, {"m.pt": evil(), "empty.pt": b"", "webui.py": b""})
    (here / "embeddings").mkdir()
    assert rules(sarif(command, "m.pt", *ARMED[command], code=0)) == {"dangerous-call"}
    assert rules(sarif(command, "empty.pt", *ARMED[command], code=3)) == {"refused"}


def test_scan_and_inspect_of_several_files(here: Path) -> None:
    write(here, {"a.pt": embedding(), "b.pt": evil(), "c.pt": odd(), "d.pt": b"", "e.ckpt": trained()})
    found = sarif("scan", *sorted(here.glob("*.*")), code=3)
    assert {"dangerous-call", "unknown-call", "refused"} <= rules(found)
    assert {"dangerous-call", "unknown-call", "refused"} <= rules(sarif("inspect", "b.pt", "c.pt", "d.pt", code=3))


def test_a_model_without_parity_is_a_result(here: Path) -> None:
    write(here, {"a.pt": embedding(), "b.pt": lora(), "c.pt": b""})
    assert sarif("verify", "a.pt", "a.pt", "--tensors-only", code=0) == []
    (result,) = sarif("verify", "a.pt", "b.pt", "--tensors-only", code=4)
    assert (result["ruleId"], uri_in(result)) == ("no-parity", "b.pt")
    assert rules(sarif("verify", "a.pt", "c.pt", "--tensors-only", code=3)) == {"refused"}


def test_an_addon_that_does_not_fit_is_a_result(here: Path) -> None:
    write(here, {"m.ckpt": packed(state_dict("sd1-full-ema", 64)), "l.pt": lora(), "bad.pt": b""})
    write(here, {"xl.pt": packed(state_dict("lora-kohya-sdxl", 64))})
    assert rules(sarif("compat", "m.ckpt", "xl.pt", code=1)) == {"does-not-fit"}
    assert rules(sarif("compat", "m.ckpt", "bad.pt", "xl.pt", code=3)) == {"does-not-fit", "refused"}
    assert rules(sarif("compat", "bad.pt", "l.pt", code=3)) == {"refused"}


@pytest.mark.parametrize("policy", ["disarm", "quarantine", "refuse"])
def test_sanitize_by_every_policy(policy: str, here: Path) -> None:
    files = {"clean.pt": embedding(), "odd.pt": odd(), "cut.ckpt": trained()[:9000], "l.pt": lora()}
    write(here / "up", files | {f"{name}/{text}": evil() for name, text in NAMES.items()})
    done = sanitize(Path("up"), Path("out"), "--dangerous", policy, "--unknown", policy, "--report", "r.sarif")
    assert done.ran.code == 3, done.ran.err
    found = check((here / "r.sarif").read_bytes())
    assert {"dangerous-call", "unknown-call", "refused"} <= rules(found)
    named = {unquote_to_bytes(uri_in(result)) for result in found if result["ruleId"] == "dangerous-call"}
    assert named == {os.fsencode(f"up/{name}/{text}") for name, text in NAMES.items()}
    again = sanitize(Path("up"), Path("out"), "--dangerous", policy, "--unknown", policy, "--report", "again.sarif")
    assert again.ran.code == 3
    assert check((here / "again.sarif").read_bytes()) == found, "the same files are the same alerts"


def test_a_crashed_file_is_a_result(here: Path) -> None:
    header = b'{"a":' + b"[" * 5_000_000
    write(here, {"up/big.safetensors": len(header).to_bytes(8, "little") + header, "up/fine.pt": embedding()})
    done = sanitize(Path("up"), Path("out"), "--max-memory", "1MiB", "--report", "r.sarif")
    assert "crashed" in done.actions.values()
    assert "crashed" in rules(check((here / "r.sarif").read_bytes()))


@pytest.fixture
def hub(here: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with serving() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        server.files["a b%.pt"] = evil()
        yield server


def test_an_address_stays_one_and_shows_no_query(hub: Server) -> None:
    (result,) = sarif("scan", "hf://owner/model@main/a b%.pt", code=1)
    assert uri_in(result) == "hf://owner/model@main/a%20b%25.pt"
    address = f"{hub.other}/owner/model/resolve/main/a%20b%25.pt"
    (result,) = sarif("scan", f"{address}?password=secret", code=1)
    assert uri_in(result) == address


def test_sanitize_of_a_repository(hub: Server, here: Path) -> None:
    ran = ckptool("sanitize", "hf://owner/model", "--out", "out", "--report", "r.sarif", "-q")
    assert ran.code == 1, ran.err
    (result,) = check((here / "r.sarif").read_bytes())
    assert result["ruleId"] == "dangerous-call"
    assert uri_in(result) == "hf://owner/model/a%20b%25.pt"


HOSTS = {
    "https://[::1]:8443/a[1].pt": "https://[::1]:8443/a%5B1%5D.pt",
    "https://example.org/ü#x?key=secret": "https://example.org/%C3%BC%23x",
    "s3://bucket/a b.pt": "s3://bucket/a%20b.pt",
    "//double//slash/../a.pt": "file:///double/a.pt",
    "./a/./b.pt": "a/b.pt",
}


@pytest.mark.parametrize("path", HOSTS)
def test_addresses_and_paths_as_references(path: str) -> None:
    assert uri_of(path) == HOSTS[path]
    assert is_reference(uri_of(path))


def finding(**changed: object) -> dict[str, Any]:
    texts = {"message": "", "entry": "", "opcode": "", "reference": "", "call": "", "action": "found"}
    return texts | {"rule": "unknown-call", "severity": "warning", "pickle": 0, "offset": 0} | changed


def test_findings_that_were_made_up_give_a_valid_file() -> None:
    """By a process that a file took over: any text may stand anywhere."""
    odd_ones = [
        finding(rule="my-rule", severity="fatal", message="\ud800"),
        finding(offset=-5, call="{0} [a](b)", entry="\udcff", reference="\udcff"),
        finding(),
        finding(),
    ]
    found = check(to_sarif([{"path": "\ud800\ud9ff.pt", "findings": odd_ones}]))
    assert [result["level"] for result in found] == ["error", "warning", "warning", "warning"]


def test_of_more_results_than_are_taken_the_worst_are_kept() -> None:
    many = [finding(message=str(number), severity="note", rule="harmless-call") for number in range(13_000)]
    last = {"path": "z.pt", "error": {"message": "z.pt: broken", "hint": "mend it"}}
    reports = [{"path": "a.pt", "findings": many}, {"path": "b.pt", "findings": many}, last]
    found = check(to_sarif(reports))
    assert len(found) == 25_000
    assert [result["ruleId"] for result in found[-2:]] == ["refused", "more-findings"]
    assert "1,002 results more" in found[-1]["message"]["text"]


def test_every_rule_that_is_named_anywhere_is_described() -> None:
    from tests.test_imports import ROOT, SOURCES

    sources = "".join((ROOT / path).read_text() for path in SOURCES if path != "core/report_sarif.py")
    for rule in RULES.keys() - {"no-parity", "crashed"}:
        assert f'"{rule}"' in sources or rule.endswith(("-call", "-name")), rule


BROKEN: dict[str, Callable[[dict[str, Any]], object]] = {
    "a version": lambda log: log.update(version="2.0"),
    "a tool": lambda log: log["runs"][0].pop("tool"),
    "a level": lambda log: log["runs"][0]["results"][0].update(level="fatal"),
    "a message": lambda log: log["runs"][0]["results"][0].pop("message"),
    "a key": lambda log: log["runs"][0]["results"][0].update(unknown=1),
    "an index": lambda log: log["runs"][0]["results"][0].update(ruleIndex=-2),
    "a uri": lambda log: log["runs"][0]["tool"]["driver"].update(informationUri="no uri"),
    "a reference": lambda log: log["runs"][0]["results"][0]["locations"][0]["physicalLocation"].update(
        artifactLocation={"uri": "a b%.pt"}
    ),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_the_schema_finds_what_is_broken(broken: str) -> None:
    log = json.loads(to_sarif([{"path": "a.pt", "findings": [finding()]}]))
    check(json.dumps(log))
    BROKEN[broken](log)
    with pytest.raises(ValidationError):
        check(json.dumps(log))


@pytest.mark.parametrize("text", ["a b", "a%", "%zz", "a:b.pt", "ü", "http://[x", "http://a:b/", "a\nb", 'a"b', "a\\b"])
def test_what_is_no_reference(text: str) -> None:
    checked = VALIDATOR.evolve(schema={"type": "string", "format": "uri-reference"})
    with pytest.raises(ValidationError):
        checked.validate(text)


def test_what_is_a_reference() -> None:
    assert all(map(is_reference, ("a%20b", "/a", "a/b:c", "file:///a", "hf://o/r@main/x", "../a", "")))
    assert is_uri("hf://o/r")
    assert not is_uri("a/b")


def test_calls_are_kept_apart_by_their_fingerprints(here: Path) -> None:
    calls = [Call(Global("posix", "system"), (f"echo {number}",)) for number in (1, 2, 2)]
    with (here / "m.pt").open("wb") as file:
        save_zip({"x": calls}, file)
    first, second = (sarif("scan", "m.pt", code=1) for _ in range(2))
    assert first == second
    assert len(first) >= 2
