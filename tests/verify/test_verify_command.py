"""`ckptool verify`: exit codes, what it prints, and what it needs."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.convert.converting import ckptool
from tests.verify.verifying import Tensors, changed, checkpoint, made, plain, verify

KEYS = {"parity", "tensors", "denoise", "overflow", "settings"}
TENSORS = {"identical", "cast", "zeroed", "dropped", "unexplained"}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plain(tmp_path_factory.mktemp("original") / "vae.safetensors", "vae")


def test_the_report_has_the_keys_of_the_contract(original: Path) -> None:
    _, report = verify(original, original)
    assert set(report) >= KEYS
    assert set(report["tensors"]) >= TENSORS
    assert report["parity"] is True
    assert report["tensors"]["unexplained"] == []


def test_both_levels_of_an_exact_copy_show_no_difference(original: Path) -> None:
    ran, report = verify(original, original, both=True)
    assert ran.code == 0, ran.err
    (found,) = report["denoise"].values()
    assert found["max_abs"] == 0
    assert found["relative_l2"] == 0
    assert found["tolerance"] == 0


def test_what_a_cast_does_to_outputs_is_allowed_and_no_more(original: Path, tmp_path: Path) -> None:
    target, _ = made("fp16", original, tmp_path / "h.safetensors")
    ran, report = verify(original, target, both=True)
    assert ran.code == 0, ran.err
    assert 0 < report["denoise"]["vae"]["relative_l2"] < report["denoise"]["vae"]["tolerance"]
    ran, report = verify(original, target, "--max-error", "1e-9", both=True)
    assert ran.code == 4
    assert not report["tensors"]["unexplained"]
    assert not report["denoise"]["vae"]["within"]


@pytest.mark.parametrize("options", [("--ema", "use"), ("--only", "unet"), ("--only", "te")])
def test_outputs_are_those_of_the_tensors_that_it_was_made_from(tmp_path: Path, options: tuple[str, str]) -> None:
    source = checkpoint(tmp_path / "a.ckpt", "sd1-full-ema" if "--ema" in options else "sd1")
    target, _ = made("prune", source, tmp_path / "p.safetensors", *options)
    ran, report = verify(source, target, "--steps", "1", "--size", "8", both=True)
    assert ran.code == 0, ran.err
    assert all(item["relative_l2"] == 0 for item in report["denoise"].values())


def test_the_verdict_stands_first_and_the_exit_code_says_it(original: Path, tmp_path: Path) -> None:
    ran = ckptool("verify", original, original, "--tensors-only")
    assert ran.code == 0
    assert ran.out.startswith("parity: ")

    def change(tensors: Tensors) -> None:
        tensors["quant_conv.weight"].view(-1)[7] += 1

    damaged = changed(original, tmp_path / "d.safetensors", change)
    ran = ckptool("verify", original, damaged, "--tensors-only")
    assert ran.code == 4
    assert ran.out.startswith("no parity: 1 tensor ")
    assert "quant_conv.weight: its values differ; first at [0, 7, 0, 0]" in ran.out
    assert ckptool("verify", original, damaged, "--tensors-only", "-q").out == ""


@pytest.mark.parametrize("ending", ["json", "html", "md", "sarif"])
def test_reports_are_written_in_every_form(original: Path, tmp_path: Path, ending: str) -> None:
    damaged = changed(original, tmp_path / "d.safetensors", lambda t: t.update({"quant_conv.bias": torch.ones(8)}))
    report = tmp_path / f"r.{ending}"
    assert ckptool("verify", original, damaged, "--tensors-only", "--report", report).code == 4
    text = report.read_text().replace("\\", "")
    assert ending == "sarif" or "quant_conv.bias" in text
    if ending == "json":
        assert json.loads(text)["parity"] is False


def test_differences_of_metadata_are_told_and_are_no_difference(original: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    other = tmp_path / "m.safetensors"
    save_file(load_file(original), other, metadata={"format": "pt", "author": "me\x1b[31m"})
    ran, report = verify(original, other)
    assert ran.code == 0
    assert report["metadata"]["author"] == [None, "me\x1b[31m"]
    assert "\x1b[31m" not in ckptool("verify", original, other, "--tensors-only", "-v").out


def test_an_input_that_cannot_be_read_is_refused(original: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.safetensors"
    page.write_text("<html>")
    ran, report = verify(original, page)
    assert ran.code == 3
    assert report["parity"] is False
    assert report["error"]["message"]
    assert ckptool("verify", original, tmp_path / "none.ckpt", "--tensors-only").code == 2


def test_a_damaged_archive_is_refused_and_not_compared(original: Path, tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "a.ckpt", "vae")
    data = bytearray(source.read_bytes())
    data[len(data) // 2] ^= 1
    source.write_bytes(data)
    ran, report = verify(source, original)
    assert ran.code == 3
    assert "wrong CRC" in report["error"]["message"]


@pytest.mark.parametrize(
    "options",
    [
        ("--relative",), ("--threshold", "nan"), ("--threshold", "0"), ("--max-error", "-1"), ("--steps", "0"),
        ("--tensors-only", "--base", "x"), ("--report", "x.txt"), ("--device", "tpu"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_a_usage_error(original: Path, options: tuple[str, ...]) -> None:
    assert ckptool("verify", original, original, *options).code == 2


def test_a_report_never_replaces_a_model(original: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    made("convert", original, tmp_path / "c.safetensors")
    report.write_bytes((tmp_path / "c.json").read_bytes())
    ran = ckptool("verify", original, original, "--tensors-only", "--expect", report, "--report", report)
    assert ran.code == 2


def without_torch(*args: object) -> subprocess.CompletedProcess[str]:
    """The command where neither torch nor diffusers can be imported."""
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('torch', 'diffusers', 'transformers')));"
        "from ckptool.cli import main; main()"
    )
    command = [sys.executable, "-c", code, "verify", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_tensors_alone_need_no_torch(original: Path, tmp_path: Path) -> None:
    ran = without_torch(original, original, "--tensors-only", "--report", tmp_path / "r.html")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("parity: ")


def test_without_its_extra_it_says_which_command_installs_it(original: Path) -> None:
    ran = without_torch(original, original)
    assert ran.returncode == 2
    assert "pip install 'ckptool[verify]'" in ran.stderr


def test_help_imports_neither_numpy_nor_torch() -> None:
    command = Path(sysconfig.get_path("scripts"), "ckptool")
    environment = os.environ | {"PYTHONPROFILEIMPORTTIME": "1"}
    ran = subprocess.run([command, "verify", "--help"], env=environment, capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in ran.stderr.splitlines()}
    assert "click" in imported
    assert not imported & {"numpy", "torch", "diffusers", "transformers"}


def test_hostile_names_reach_no_terminal(tmp_path: Path) -> None:
    one, other = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_file({"a\x1b[2J\nparity: all well": torch.ones(3), "b": torch.ones(3)}, one)
    save_file({"a\x1b[2J\nparity: all well": torch.zeros(3), "c\x07": torch.ones(2)}, other)
    ran = ckptool("verify", one, other, "--tensors-only", "-v")
    assert ran.code == 4
    assert not {"\x1b", "\x07"} & set(ran.out)
    assert not any(line.startswith("parity") for line in ran.out.splitlines())
