"""`prune --threshold auto` and `--max-error`: the commands hold what they write to the reference step."""

import json
import re
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file

from tests.convert.converting import ckptool
from tests.verify.models import ran, save, tensors

ERROR = 2e-3
ARCHITECTURES = {"sd1": "model.diffusion_model.", "sdxl-base": "conditioner."}


def source(folder: Path, architecture: str = "sd1", only: str = "model.diffusion_model.") -> Path:
    """One component, which makes a run short."""
    return save(tensors(architecture, only=only), folder / "model.safetensors")


def written(*args: object) -> tuple[Path, dict[str, Any]]:
    result = ckptool(*args, "--json", "--force")
    assert result.code == 0, (result.out, result.err)
    report: dict[str, Any] = json.loads(result.out)
    return Path(report["output"]["path"]), report


def moved(original: Path, candidate: Path) -> float:
    from ckptool.verify.denoise import Settings

    return max(result.relative_l2 for result in ran(original, candidate, Settings()).values())


@pytest.mark.parametrize(("architecture", "only"), ARCHITECTURES.items())
def test_the_threshold_found_keeps_the_error_and_half_as_much_again_does_not(
    tmp_path: Path, architecture: str, only: str
) -> None:
    path = source(tmp_path, architecture, only)
    output, report = written("prune", path, "--threshold", "auto", "--max-error", ERROR)
    found = report["threshold"]
    assert moved(path, output) == pytest.approx(report["max_error"]["reached"], rel=1e-4)
    assert 0 < report["max_error"]["reached"] <= ERROR == report["max_error"]["asked"]
    assert report["max_error"]["component"] in report["max_error"]["components"]
    more, _ = written("prune", path, "--threshold", found * 1.5)
    assert moved(path, more) > ERROR


def test_a_run_finds_the_same_as_the_last_and_writes_the_same_bytes(tmp_path: Path) -> None:
    path = source(tmp_path, only="cond_stage_model.")
    output, report = written("prune", path, "--threshold", "auto")
    first = output.read_bytes()
    assert written("prune", path, "--threshold", "auto")[1] == report
    assert output.read_bytes() == first
    assert report["max_error"]["asked"] == 0.001


def test_a_threshold_that_costs_more_than_is_allowed_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    path = source(tmp_path, only="cond_stage_model.")
    before = sorted(tmp_path.iterdir())
    result = ckptool("prune", path, "--threshold", "1e-2", "--max-error", "1e-3")
    assert result.code == 4
    assert re.search(r"moves the denoise step of text_encoder by [\d.]+, more than 0.001", result.err)
    assert "--threshold auto" in result.err
    assert sorted(tmp_path.iterdir()) == before


def test_a_threshold_within_the_error_says_what_it_reached(tmp_path: Path) -> None:
    path = source(tmp_path, only="cond_stage_model.")
    output, report = written("prune", path, "--threshold", "1e-4", "--max-error", "0.1")
    assert report["threshold"] == 1e-4
    assert moved(path, output) == pytest.approx(report["max_error"]["reached"], rel=1e-4)


def test_when_no_threshold_keeps_the_error_nothing_is_written(tmp_path: Path) -> None:
    values = tensors("sd1", only="cond_stage_model.")
    values["cond_stage_model.transformer.text_model.encoder.layers.3.mlp.fc1.weight"] *= 1e-6
    path = save(values, tmp_path / "model.safetensors")
    before = sorted(tmp_path.iterdir())
    result = ckptool("prune", path, "--threshold", "auto", "--max-error", "1e-12")
    assert (result.code, sorted(tmp_path.iterdir())) == (4, before)
    assert "even a threshold of 1e-07" in result.err


def test_what_a_trial_made_zero_is_not_counted(tmp_path: Path) -> None:
    path = source(tmp_path, only="cond_stage_model.")
    output, report = written("prune", path, "--threshold", "auto")
    before, after = load_file(path), load_file(output)
    zeroed = sum(int(((after[name] == 0) & (before[name] != 0)).sum()) for name in before)
    assert report["zeroed"]["text_encoder"]["values"] == zeroed > 0


def test_a_dry_run_searches_and_writes_nothing(tmp_path: Path) -> None:
    path = source(tmp_path, only="cond_stage_model.")
    report = json.loads(ckptool("prune", path, "--threshold", "auto", "--dry-run", "--json").out)
    assert report["threshold"] == written("prune", path, "--threshold", "auto")[1]["threshold"]


def test_modules_of_a_lora_go_as_long_as_the_error_is_kept(tmp_path: Path) -> None:
    values = tensors("lora-kohya-sd1", 8)
    few = [name for name in values if "down_blocks_0" in name or "text_model_encoder_layers_0_" in name]
    for name in few[:9]:
        values[name] = values[name] * 1e-3 if "alpha" not in name else values[name]
    path = save(values, tmp_path / "lora.safetensors")
    output, report = written("prune", path, "--threshold", "auto", "--max-error", "1e-3")
    assert 0 < len(load_file(output)) < len(values)
    assert report["max_error"]["reached"] <= 1e-3


@pytest.mark.parametrize("threshold", ["auto", "1e-3"])
def test_where_no_weight_is_safe_to_zero_nothing_is_run(tmp_path: Path, threshold: str) -> None:
    path = save(tensors("textual-inversion-sdxl"), tmp_path / "style.safetensors")
    output, report = written("prune", path, "--threshold", threshold, "--max-error", "0.1")
    assert report["max_error"]["components"] == {}
    assert load_file(output).keys() == load_file(path).keys()
    assert "no weights in this file are safe to zero" in ckptool("prune", path, "--threshold", threshold, "-f").out


def test_an_error_without_a_threshold_asks_for_one() -> None:
    result = ckptool("prune", "model.safetensors", "--max-error", "0.1")
    assert result.code == 2
    assert "--threshold auto" in result.err


@pytest.mark.parametrize("error", ["0", "-1", "nan", "inf"])
@pytest.mark.parametrize("command", [("prune", "--threshold", "auto"), ("fp16",)])
def test_an_error_that_means_nothing_is_refused(command: tuple[str, ...], error: str) -> None:
    assert ckptool(command[0], "model.safetensors", *command[1:], "--max-error", error).code == 2


def test_as_little_stays_wide_as_keeps_the_error_of_a_cast(tmp_path: Path) -> None:
    path = source(tmp_path, only="cond_stage_model.")
    whole, free = written("fp16", path, "--max-error", "1")
    error = free["max_error"]["reached"]
    assert "block" not in json.dumps(free["kept_wide"])
    output, report = written("fp16", path, "--max-error", error / 2)
    kept = {item["name"] for item in report["kept_wide"] if "moves the denoise step by" in item["reason"]}
    assert moved(path, output) == pytest.approx(report["max_error"]["reached"], rel=1e-4)
    assert 0 < report["max_error"]["reached"] <= error / 2
    wide = {name for name, tensor in load_file(output).items() if tensor.dtype is torch.float32}
    assert kept == wide
    assert 0 < len(kept) < len(free["cast"])
    assert moved(path, whole) <= error * 1.0001


def test_an_error_that_no_cast_keeps_leaves_the_component_as_it_is(tmp_path: Path) -> None:
    path = source(tmp_path, only="cond_stage_model.")
    output, report = written("bf16", path, "--max-error", "1e-12")
    assert report["max_error"]["reached"] == 0
    assert {t.dtype for name, t in load_file(output).items() if name.endswith(".weight")} == {torch.float32}


@pytest.mark.slow  # each of the UNet's blocks is cast alone
def test_scales_of_fp8_go_with_their_weights(tmp_path: Path) -> None:
    path = source(tmp_path)
    _, free = written("fp8", path, "--scale", "--max-error", "10")
    output, report = written("fp8", path, "--scale", "--max-error", free["max_error"]["reached"] / 2)
    held = load_file(output)
    scaled = {name.removesuffix("scale_weight") + "weight" for name in held if name.endswith("scale_weight")}
    assert scaled
    assert {held[name].dtype for name in scaled} == {torch.float8_e4m3fn}
    assert moved(path, output) <= report["max_error"]["asked"]


def test_a_value_that_does_not_fit_stays_wide_in_the_search_too(tmp_path: Path) -> None:
    values = tensors("sd1", only="cond_stage_model.")
    name = "cond_stage_model.transformer.text_model.encoder.layers.3.mlp.fc1.weight"
    values[name][0, 0] = 1e6
    path = save(values, tmp_path / "model.safetensors")
    _, report = written("fp16", path, "--max-error", "0.1")
    assert "beyond the range" in {item["name"]: item["reason"] for item in report["kept_wide"]}[name]


def test_without_the_extra_the_command_that_installs_it_is_named() -> None:
    with patch.dict(sys.modules, {"diffusers": None}):
        for args in (("prune", "--threshold", "auto"), ("fp16", "--max-error", "1")):
            result = ckptool(args[0], "model.safetensors", *args[1:])
            assert result.code == 2
            assert "pip install 'ckptool[verify]'" in result.err
