"""`receipt verify` over folders that somebody made to deceive it: each thing is told, and nothing is waited for."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.convert.converting import ckptool
from tests.sanitize.sanitizing import embedding, evil, sanitize, write

PAPER = "a.safetensors.receipt.json"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    up = write(tmp_path / "up", {"a.pt": embedding(), "a.yaml": b"model: {}\n", "evil.pt": evil()})
    assert sanitize(up, tmp_path / "out", "--dangerous", "quarantine").ran.code == 1
    assert problems(tmp_path / "out") == {}
    return tmp_path / "out"


def problems(out: Path) -> dict[str, str]:
    """What is told, by the names of the files."""
    ran = ckptool("receipt", "verify", out, "--json")
    found = {os.path.relpath(item["path"], out): item["problem"] for item in json.loads(ran.out)["problems"]}
    assert ran.code == (1 if found else 0)
    return found


def forge(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    found = json.loads(path.read_bytes())
    change(found)
    path.write_text(json.dumps(found))


def sums(out: Path) -> None:
    """What somebody who changes a folder can do as well: the right sums of what lies there."""
    files = sorted(path for path in out.rglob("*") if path.suffix in (".safetensors", ".yaml", ".ckpt", ".pt"))
    text = "".join(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.relative_to(out)}\n" for file in files)
    (out / "SHA256SUMS").write_text(text)


@pytest.mark.parametrize("name", ["../up/a.yaml", "..", ".", "", "SHA256SUMS", "\ud800", "a\0", PAPER, "a.safetensors"])
def test_a_receipt_names_no_other_file_as_its_sidecar(name: str, out: Path) -> None:
    forge(out / PAPER, lambda found: found["output"]["sidecar"].update(name=name))
    assert PAPER in problems(out)


@pytest.mark.parametrize("sha256", ["\ud800", "0" * 63, "A" * 64, f"{'0' * 64}  x\n{'0' * 64}"])
def test_a_hash_is_64_digits_so_that_it_adds_no_line_to_the_sums(sha256: str, out: Path) -> None:
    forge(out / PAPER, lambda found: found["output"].update(sha256=sha256))
    assert problems(out)[PAPER] == "is no receipt"
    up = write(out.parent / "more", {"b.pt": embedding()})
    sanitize(up, out)
    assert len((out / "SHA256SUMS").read_text().splitlines()) == 2


@pytest.mark.parametrize("name", [".receipt.json", "b.ckpt.receipt.json", "a.yaml.receipt.json"])
def test_receipts_are_for_models_alone(name: str, out: Path) -> None:
    own = name.removesuffix(".receipt.json")
    (out / "b.ckpt").write_bytes(evil())
    found = json.loads((out / PAPER).read_bytes())
    found["output"] |= {"name": own, "sha256": hashlib.sha256(evil()).hexdigest(), "sidecar": None}
    (out / name).write_text(json.dumps(found))
    sums(out)
    assert problems(out)[name] == "is the receipt of another file"


@pytest.mark.parametrize("name", ["b.ckpt", "B.SAFETENSORS", "sub/b.bin", "quarantine/evil.yaml"])
def test_a_model_or_its_settings_without_a_receipt_are_told(name: str, out: Path) -> None:
    write(out, {name: evil()})
    assert problems(out) == {name: "has no receipt"}


@pytest.mark.parametrize("name", [PAPER, "SHA256SUMS", "a.safetensors", "a.yaml"])
@pytest.mark.parametrize("what", ["pipe", "link", "endless", "large"])
def test_only_regular_files_of_their_size_are_read(name: str, what: str, out: Path) -> None:
    path = out / name
    data = path.read_bytes()
    path.unlink()
    match what:
        case "pipe":
            os.mkfifo(path)
        case "link":
            (out / "elsewhere").write_bytes(data)
            path.symlink_to("elsewhere")
        case "endless":
            path.symlink_to("/dev/zero")
        case "large":
            path.touch()
            os.truncate(path, 1 << 28)
    assert name in problems(out)


def test_a_file_out_of_the_quarantine_is_told(out: Path) -> None:
    for name in ("evil.safetensors", "evil.safetensors.receipt.json"):
        (out / "quarantine" / name).rename(out / name)
    sums(out)
    assert problems(out) == {"evil.safetensors": "lies where nothing lies that was quarantined"}


def test_a_link_to_a_folder_hides_nothing(out: Path) -> None:
    write(out.parent / "more", {"b.ckpt": evil()})
    (out / "sub").symlink_to(out.parent / "more")
    assert problems(out) == {"sub": "is a link to a folder, which was not looked into"}


def test_a_folder_that_lies_too_deep_hides_nothing(out: Path) -> None:
    before = os.getcwd()
    try:
        os.chdir(out)
        for _ in range(20):  # beyond what one path may be long
            os.mkdir("d" * 250)
            os.chdir("d" * 250)
        Path("b.ckpt").write_bytes(evil())
    finally:
        os.chdir(before)
    assert [problem.partition(":")[0] for problem in problems(out).values()] == ["cannot be looked into"]


def test_receipts_and_sums_that_are_links_or_pipes_stop_no_run(out: Path, tmp_path: Path) -> None:
    for name in (PAPER, "b.safetensors.receipt.json"):
        (out / name).unlink(missing_ok=True)
        os.mkfifo(out / name)
    done = sanitize(tmp_path / "up", out, "--dangerous", "quarantine")
    assert done.actions == {"a.pt": "released", "evil.pt": "skipped"}
    assert set(problems(out)) == {"b.safetensors.receipt.json"}
