"""Hostile files: nothing of theirs runs, whole tensors come out to the bit, the rest is refused in two lines."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors

import ckptool
from fixtures.hostile.base import EXPECTED
from fixtures.hostile.case import Case, Expected
from fixtures.hostile.corpus import CASES
from fixtures.hostile.fork import CPU_SECONDS, Ran
from fixtures.hostile.runner import Outcome, run_corpus

WORKERS = min(4, os.cpu_count() or 1)
MAX_MEMORY = 400 << 20
CODE = str(Path(ckptool.__file__).parents[1])
READABLE = (sys.prefix, sys.base_prefix, CODE, "/proc/self/", "/dev/null")
"""Where a command may read besides its own folder: Python, ckptool itself."""
IMPORTABLE = ("ckptool.", "encodings.", "tempfile")
"""What a command may still import after its start: its own modules, and what those put off."""
VERDICTS = ("clean", "harmless", "unknown", "dangerous", "refused")


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    return run_corpus("ckptool", tmp_path_factory.mktemp("hostile"), WORKERS)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_hostile(case: Case, outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes[case.name]
    assert not outcome["marks"], "the payload ran"
    assert outcome["unchanged"], "the source was changed"
    for ran in outcome["commands"].values():
        check_behaviour(ran, Path(outcome["folder"]) / "files")
    check_convert(case, outcome)
    check_scan(case, outcome)


def check_behaviour(ran: Ran, folder: Path) -> None:
    """Bounded work; nothing imported, run, connected or opened elsewhere; no traceback, no commands for terminals."""
    assert ran["code"] >= 0, f"killed by signal {-ran['code']} after {ran['seconds']:.1f} s"
    assert "Traceback" not in ran["err"], ran["err"][-2000:]
    assert ran["code"] in (0, 1, 3), ran["err"]
    assert ran["seconds"] < CPU_SECONDS
    assert ran["memory"] < MAX_MEMORY
    assert not [name for name in ran["modules"] if not name.startswith(IMPORTABLE)]
    for event in ran["events"]:
        kind, _, words = event.partition(" ")
        assert kind in ("read", "write"), event
        path = json.loads(words)
        inside = os.path.normpath(folder / path).startswith(str(folder))
        assert inside or (kind == "read" and path.startswith(READABLE)), event
    for line in (ran["out"] + ran["err"]).splitlines():
        assert line.isprintable() or not line, f"control characters: {line!r:.300}"


def check_convert(case: Case, outcome: Outcome) -> None:
    ran = outcome["commands"]["convert"]
    if case.expect != "either":
        assert ran["code"] == (3 if case.expect == "refused" else 0), ran["err"] or ran["out"][:2000]
    if ran["code"] == 3:
        assert outcome["left"] == []
        assert 1 <= len(ran["err"].splitlines()) <= 2
        assert ran["err"].startswith("error: ")
        assert set(json.loads(ran["out"])) >= {"schema_version", "source", "error"}
        return
    assert outcome["left"] == ["out.safetensors"]
    report = json.loads(ran["out"])
    expected = EXPECTED if case.tensors is None else case.tensors
    check_tensors(Path(outcome["folder"]) / "files" / "out.safetensors", expected)
    assert report["kept"] == len(expected)
    assert report["metadata"]["format"] == "pt", "loaders go by this word, so a file must not choose another"
    if case.fires:
        assert [finding for finding in report["findings"] if finding["severity"] != "note"], "nothing was reported"


def check_tensors(path: Path, expected: Expected) -> None:
    """Equal to the bit, by the format's own library."""
    found: dict[str, Any] = dict(safetensors.deserialize(path.read_bytes()))  # type: ignore[no-untyped-call]
    assert found.keys() == expected.keys()
    for name, (dtype, shape, data) in expected.items():
        tensor = found[name]
        assert (tensor["dtype"], tuple(tensor["shape"]), bytes(tensor["data"])) == (dtype, shape, data), name


def check_scan(case: Case, outcome: Outcome) -> None:
    ran = outcome["commands"]["scan"]
    assert len([line for line in ran["err"].splitlines() if line.startswith("error: ")]) == (ran["code"] == 3)
    reports = json.loads(ran["out"])
    findings, verdicts = [], []
    for report in reports if isinstance(reports, list) else [reports]:
        findings += report["findings"]
        verdicts.append(report["verdict"])
    assert set(verdicts) <= set(VERDICTS)
    alarming = {"unknown", "dangerous"} & set(verdicts)
    assert ran["code"] == (1 if alarming else 0) or ran["code"] == 3
    if case.fires:
        assert findings or ran["code"] == 3, "a file that runs code is called clean"
        assert alarming or "refused" in verdicts, "a file that runs code is called clean"
    if case.scan is not None:
        assert ran["code"] in case.scan
    elif case.expect == "disarmed" and case.fires:
        assert alarming
        assert findings
