"""The forms in which `ckptool inspect` says what it says: a tree, JSON, a page; and a source that it cannot read."""

import json
import subprocess
import sys
import sysconfig
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch

from fixtures import manifests
from fixtures.assembler import Call, Global
from fixtures.models import lightning, state_dict
from fixtures.torchfile import save_zip
from tests.convert.converting import ckptool
from tests.identify.fitting import stored, tensors
from tests.identify.inspecting import inspected, written


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Lightning checkpoint of SD1 with EMA and training state."""
    path = tmp_path_factory.mktemp("full") / "full.ckpt"
    save_zip(lightning(state_dict("sd1-full-ema", 16)), path)
    return path


@pytest.fixture(scope="module")
def sd1() -> dict[str, torch.Tensor]:
    return tensors("sd1", 64)


def test_a_source_that_is_refused_stands_in_its_place(tmp_path: Path) -> None:
    good, bad = stored("vae", tmp_path / "good.safetensors", 64), tmp_path / "page.ckpt"
    bad.write_bytes(b"<!doctype html><title>Not found</title>")
    ran = ckptool("inspect", good, bad, good, "--json")
    assert ran.code == 3
    first, second, third = json.loads(ran.out)
    assert (first["kind"], third["kind"]) == ("vae", "vae")
    assert (second["path"], second["kind"]) == (str(bad), None)
    assert "HTML" in second["error"]["message"] or "page" in second["error"]["message"]
    assert second["error"]["message"] in ran.err


def test_a_folder_without_a_model_keeps_nothing_from_being_told(tmp_path: Path) -> None:
    good = stored("vae", tmp_path / "good.safetensors", 64)
    (tmp_path / "empty").mkdir()
    (tmp_path / "page.ckpt").write_bytes(b"<html>")
    ran = ckptool("inspect", tmp_path / "empty", good, "--json")
    assert (ran.code, [report["kind"] for report in json.loads(ran.out)]) == (2, [None, "vae"])
    assert ckptool("inspect", tmp_path / "empty", tmp_path / "page.ckpt", good).code == 3


def test_what_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    ran = ckptool("inspect", tmp_path / "nothing.ckpt")
    assert (ran.code, ran.out) == (2, "")


def test_words_go_to_stderr_beside_json_and_nowhere_when_quiet(full: Path) -> None:
    ran = ckptool("inspect", full, "--json")
    json.loads(ran.out)
    assert "checkpoint of Stable Diffusion 1" in ran.err
    assert ckptool("inspect", full, "-q").out == ""


def test_the_tree_shows_components_with_bars_and_where_the_file_goes(full: Path) -> None:
    out = ckptool("inspect", full).out
    assert "checkpoint of Stable Diffusion 1" in out.splitlines()[0]
    assert any("unet" in line and "█" in line and "686 tensors" in line for line in out.splitlines())
    for words in (
        "EMA: complete, relative distance",
        "not below 512",
        "a1111: models/Stable-diffusion",
        "attn2.to_k.weight",
        "together:",
    ):
        assert words in out


def test_verbose_shows_what_was_cut(tmp_path: Path) -> None:
    meta = {f"ss_tag_{number:03}": "x" * 300 for number in range(40)}
    path = written(tmp_path, {"emb_params": torch.zeros(4, 768)}, **meta)
    assert "more (-v shows all)" in ckptool("inspect", path).out
    verbose = ckptool("inspect", path, "-v").out
    assert "ss_tag_039" in verbose
    assert "x" * 300 in verbose


def test_findings_are_shown_the_harmless_ones_when_asked_for(tmp_path: Path, full: Path) -> None:
    assert "omegaconf" not in ckptool("inspect", full).out
    assert "note: omegaconf.dictconfig.DictConfig" in ckptool("inspect", full, "-v").out
    made = lightning(state_dict("lora-kohya-sd1", 64), Call(Global("posix", "system"), ("true",)))
    save_zip(made, tmp_path / "bad.ckpt")
    assert "error: posix.system('true')" in ckptool("inspect", tmp_path / "bad.ckpt").out


def test_texts_of_the_file_reach_the_terminal_escaped(tmp_path: Path) -> None:
    path = written(
        tmp_path, {"emb_params\x1b[2J": torch.zeros(2), "lora_unet_\x1b.alpha": torch.zeros(1)}, title="\x1b]0;x\x07"
    )
    for args in ((), ("-v",)):
        assert "\x1b" not in ckptool("inspect", path, *args).out


@pytest.mark.parametrize("ending", ["html", "md", "json", "sarif"])
def test_reports_are_written_in_every_form(tmp_path: Path, full: Path, ending: str) -> None:
    target = tmp_path / f"report.{ending}"
    assert ckptool("inspect", full, "--report", target).code == 0
    text = target.read_text()
    match ending:
        case "json":
            assert json.loads(text) == inspected(full)
        case "sarif":
            assert json.loads(text)["version"] == "2.1.0"
        case _:
            assert "checkpoint of Stable Diffusion 1" in text


def test_problems_are_results_for_code_scanning(tmp_path: Path, sd1: dict[str, torch.Tensor]) -> None:
    path = written(tmp_path, {n: t for n, t in sd1.items() if not n.startswith("cond_stage_model.")})
    assert ckptool("inspect", path, "--report", tmp_path / "r.sarif").code == 0
    run = json.loads((tmp_path / "r.sarif").read_text())["runs"][0]
    (result,) = run["results"]
    assert (result["ruleId"], result["level"]) == ("problem", "warning")
    assert "no text encoder" in result["message"]["text"]
    assert "problem" in {rule["id"] for rule in run["tool"]["driver"]["rules"]}


def test_the_page_loads_nothing_and_shows_texts_as_texts(tmp_path: Path, sd1: dict[str, torch.Tensor]) -> None:
    evil = "<script>alert(1)</script><img src=x onerror=y>"
    path = written(tmp_path, sd1 | {evil: torch.zeros(1)}, **{evil: evil})
    refused = tmp_path / "x.ckpt"
    refused.write_bytes(b"<html>")
    assert ckptool("inspect", path, refused, "--report", tmp_path / "r.html").code == 3
    page = (tmp_path / "r.html").read_text()
    assert "default-src 'none'" in page
    assert "&lt;script&gt;" in page
    for forbidden in ("<script", "<img", "http://", "https://", "url(", "@import", ' style="'):
        assert forbidden not in page
    assert page.count("<rect") == 4
    assert "refused" in page


def test_a_report_never_replaces_what_it_is_about(full: Path) -> None:
    before = full.read_bytes()
    target = full.with_suffix(".json")
    target.symlink_to(full)
    assert ckptool("inspect", full, "--report", target).code == 2
    assert full.read_bytes() == before


def test_neither_numpy_nor_torch_is_loaded(full: Path) -> None:
    command = [sys.executable, "-X", "importtime", Path(sysconfig.get_path("scripts"), "ckptool"), "inspect", full]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert "ckptool.identify.inspection" in loaded
    assert not loaded & {"numpy", "torch", "blake3"}


def test_tensors_are_not_read(tmp_path: Path) -> None:
    """A file of the size of a real one, whose tensors are a hole: reading them would take seconds."""
    header: dict[str, Any] = {}
    position = 0
    for name, (dtype, shape) in manifests.load("sdxl-base").items():
        length = prod(shape) * {"F32": 4, "I64": 8}[dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [position, position + length]}
        position += length
    data = json.dumps(header).encode()
    path = tmp_path / "sdxl.safetensors"
    with path.open("wb") as file:
        file.write(len(data).to_bytes(8, "little") + data)
        file.truncate(8 + len(data) + position)
    report = inspected(path)
    assert (report["kind"], report["base"]) == ("checkpoint", "sdxl")
    assert report["components"]["unet"]["params"] == 2_567_463_684
