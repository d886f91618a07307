"""A receipt means done: what it says is held against what is there, with the sources and without."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from fixtures.models import textual_inversion
from tests.convert.converting import ckptool
from tests.sanitize.sanitizing import embedding, evil, files_in, packed, sanitize, trained, write


@pytest.fixture
def up(tmp_path: Path) -> Path:
    return write(tmp_path / "up", {"a.pt": embedding(), "evil.pt": evil()})


@pytest.fixture
def out(up: Path, tmp_path: Path) -> Path:
    assert sanitize(up, tmp_path / "out", "--dangerous", "quarantine").ran.code == 1
    return tmp_path / "out"


def again(up: Path, out: Path) -> dict[str, Any]:
    return sanitize(up, out, "--dangerous", "quarantine").actions


def receipt(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.with_name(path.name + ".receipt.json").read_bytes())
    return found


def test_a_receipt_says_what_was_made_of_what(tmp_path: Path) -> None:
    up = write(tmp_path / "up", {"t.ckpt": trained()})
    sanitize(up, tmp_path / "out", "--dtype", "fp16")
    output = tmp_path / "out/t.safetensors"
    found = receipt(output)
    assert found["input"]["sha256"] == hashlib.sha256(trained()).hexdigest()
    assert found["output"]["sha256"] == hashlib.sha256(output.read_bytes()).hexdigest()
    assert (found["kind"], found["base"], found["action"]) == ("checkpoint", "sd1", "released")
    assert found["changed"]["removed"]["EMA"]["tensors"] == 688
    assert found["changed"]["cast"] == [{"from": "F32", "to": "F16", "tensors": 1130}]
    assert found["parity"] is True
    assert (found["verify"]["level"], found["verify"]["cast"], found["verify"]["unexplained"]) == ("tensors", 1130, 0)
    assert sanitize(up, tmp_path / "out", "--verify", "none").reports["t.ckpt"]["parity"] is None
    assert found["policy"]["settings"]["dtype"] == "fp16"
    assert found["source"] == "t.ckpt"
    assert str(tmp_path) not in json.dumps(found)


def test_what_has_a_receipt_is_skipped_and_still_counts_as_what_it_was(up: Path, out: Path) -> None:
    before = {name: (out / name).stat().st_ino for name in files_in(out) - {"SHA256SUMS"}}
    done = sanitize(up, out, "--dangerous", "quarantine")
    assert done.actions == {"a.pt": "skipped", "evil.pt": "skipped"}
    assert done.ran.code == 1
    assert {name: (out / name).stat().st_ino for name in before} == before


def test_a_source_with_another_time_is_skipped_by_its_hash(up: Path, out: Path) -> None:
    os.utime(up / "a.pt", (1, 1))
    assert again(up, out)["a.pt"] == "skipped"


@pytest.mark.parametrize(
    "what", ["source", "same size", "output", "output cut", "receipt", "receipt broken", "sidecar"]
)
def test_what_is_not_as_the_receipt_says_is_done_again(what: str, up: Path, out: Path) -> None:
    output = out / "a.safetensors"
    match what:
        case "source":
            (up / "a.pt").write_bytes(evil())
        case "same size":
            other = packed({**textual_inversion(), "step": 2001})
            assert len(other) == len(embedding())
            (up / "a.pt").write_bytes(other)
        case "output":
            output.unlink()
        case "output cut":
            os.truncate(output, 100)
        case "receipt":
            (out / "a.safetensors.receipt.json").unlink()
        case "receipt broken":
            (out / "a.safetensors.receipt.json").write_bytes(b'{"receipt": 1')
        case "sidecar":
            (up / "a.yaml").write_text("model: {}\n")
    assert again(up, out) == {"a.pt": "quarantined" if what == "source" else "released", "evil.pt": "skipped"}
    assert ckptool("receipt", "verify", out).code == 0
    assert again(up, out) == {"a.pt": "skipped", "evil.pt": "skipped"}


def test_a_receipt_is_read_in_no_more_memory_than_it_has(up: Path, out: Path) -> None:
    for path in up.iterdir():
        os.utime(path, (1, 1))
    done = sanitize(up, out, "--dangerous", "quarantine", "--max-memory", "40MiB")
    assert set(done.actions.values()) == {"skipped"}


def test_the_same_run_gives_the_same_receipt(up: Path, out: Path) -> None:
    before = (out / "a.safetensors.receipt.json").read_bytes()
    sanitize(up, out, "--dangerous", "quarantine", "--force")
    assert (out / "a.safetensors.receipt.json").read_bytes() == before


def test_settings_beside_a_source_are_carried_along(tmp_path: Path) -> None:
    up = write(tmp_path / "up", {"a.pt": embedding(), "a.yaml": b"model: {}\n"})
    sanitize(up, tmp_path / "out")
    assert (tmp_path / "out/a.yaml").read_bytes() == b"model: {}\n"
    assert "a.yaml" in (tmp_path / "out/SHA256SUMS").read_text()
    assert ckptool("receipt", "verify", tmp_path / "out").code == 0
    (tmp_path / "out/a.yaml").write_bytes(b"model: []\n")
    assert ckptool("receipt", "verify", tmp_path / "out").code == 1


@pytest.mark.parametrize("what", ["changed", "gone", "link", "stranger", "broken", "forged", "sums"])
def test_outputs_that_were_touched_are_told(what: str, up: Path, out: Path) -> None:
    assert ckptool("receipt", "verify", out).code == 0
    output, paper = out / "a.safetensors", out / "a.safetensors.receipt.json"
    match what:
        case "changed":
            data = bytearray(output.read_bytes())
            data[-1] ^= 1
            output.write_bytes(data)
        case "gone":
            output.unlink()
        case "link":
            output.rename(out.parent / "elsewhere")
            output.symlink_to(out.parent / "elsewhere")
        case "stranger":
            (out / "b.safetensors").write_bytes(output.read_bytes())
        case "broken":
            paper.write_bytes(b"[" * 100_000)
        case "forged":
            output.write_bytes(b"other")
            found = json.loads(paper.read_bytes())
            found["output"]["name"] = "../../up/a.pt"
            paper.write_text(json.dumps(found))
        case "sums":
            (out / "SHA256SUMS").write_text("")
    ran = ckptool("receipt", "verify", out, "--json")
    assert ran.code == 1
    assert json.loads(ran.out)["problems"]


def test_a_folder_without_receipts_was_not_verified(tmp_path: Path) -> None:
    assert ckptool("receipt", "verify", tmp_path).code == 2
    assert ckptool("receipt", "verify", tmp_path / "none").code == 2
