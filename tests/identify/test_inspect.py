"""`ckptool inspect`: what it says of real files, in every form, and of those that it cannot read."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from fixtures.models import hypernetwork, lightning, state_dict, textual_inversion
from fixtures.tensors import of
from fixtures.torchfile import save_legacy, save_zip
from tests.convert.converting import ckptool
from tests.identify.fitting import stored, tensors
from tests.identify.inspecting import inspected, written

KEYS = {
    "path", "format", "kind", "algorithm", "base", "variant", "prediction", "components", "ema", "native_size",
    "compatible_with", "folders", "precision", "savings", "metadata", "hashes", "evidence", "problems",
    "schema_version",
}  # fmt: skip


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Lightning checkpoint of SD1 with EMA and training state."""
    path = tmp_path_factory.mktemp("full") / "full.ckpt"
    save_zip(lightning(state_dict("sd1-full-ema", 16)), path)
    return path


def test_the_report_has_every_key_of_the_design(full: Path) -> None:
    report = inspected(full)
    assert report.keys() >= KEYS
    assert report["prediction"].keys() == {"type", "evidence"}
    assert report["ema"].keys() >= {"present", "complete", "relative_distance"}
    assert report["components"]["unet"].keys() == {"tensors", "params", "bytes", "dtypes"}
    assert (report["kind"], report["base"], report["native_size"]) == ("checkpoint", "sd1", 512)
    assert report["folders"]["a1111"] == "models/Stable-diffusion"
    assert "invokeai" in report["not_for"]
    assert report["metadata"]["epoch"] == "23"


def test_components_add_up_and_ema_is_measured(full: Path) -> None:
    report = inspected(full)
    plain = state_dict("sd1-full-ema", 16)
    assert sum(part["tensors"] for part in report["components"].values()) == len(plain)
    assert sum(part["bytes"] for part in report["components"].values()) == sum(len(t.tobytes()) for t in plain.values())
    assert (report["ema"]["present"], report["ema"]["complete"], report["ema"]["useless"]) == (True, True, False)
    # Two independent normal tensors of the same size are √2 apart.
    assert report["ema"]["relative_distance"] == pytest.approx(2**0.5, abs=0.05)
    assert 0 < report["ema"]["sampled_values"] * 8 <= 256 * 1024


def test_savings_are_those_of_what_is_dropped_and_cast(full: Path) -> None:
    report = inspected(full)
    parts, savings = report["components"], report["savings"]
    assert savings["ema"] == parts["ema"]["bytes"]
    assert savings["training"] == full.stat().st_size - sum(part["bytes"] for part in parts.values())
    positions = 77 * 8
    floats = sum(parts[name]["bytes"] for name in ("unet", "vae", "text_encoder")) - positions
    assert savings["fp16"] == floats // 2
    assert savings["bytes_after"] == savings["bytes"] - savings["ema"] - savings["training"] - savings["fp16"]


@pytest.fixture(scope="module")
def sd1() -> dict[str, torch.Tensor]:
    return tensors("sd1", 64)


def test_an_average_equal_to_the_weights_is_useless(tmp_path: Path, sd1: dict[str, torch.Tensor]) -> None:
    own = {name: tensor for name, tensor in sd1.items() if name.startswith("model.")}
    twins = {"model_ema." + name.removeprefix("model.").replace(".", ""): t.clone() for name, t in own.items()}
    report = inspected(written(tmp_path, sd1 | twins))
    assert (report["ema"]["complete"], report["ema"]["relative_distance"], report["ema"]["useless"]) == (
        True,
        0.0,
        True,
    )
    assert any("EMA useless: equal" in problem for problem in report["problems"])


def test_an_average_that_was_never_updated_is_useless(tmp_path: Path) -> None:
    made = tensors("sd1-full-ema", 64)
    made["model_ema.num_updates"] = torch.tensor(0, dtype=torch.int32)
    report = inspected(written(tmp_path, made))
    assert report["ema"]["useless"]
    assert any("never updated" in problem for problem in report["problems"])


def test_an_incomplete_average_is_a_problem(tmp_path: Path) -> None:
    made = tensors("sd1-full-ema", 64)
    made.pop(next(name for name in made if name.startswith("model_ema.diffusion")))
    report = inspected(written(tmp_path, made))
    assert (report["ema"]["present"], report["ema"]["complete"], report["ema"]["missing"]) == (True, False, 1)
    assert any("EMA incomplete: 1 weights" in problem for problem in report["problems"])


POSITIONS = "cond_stage_model.transformer.text_model.embeddings.position_ids"


def test_float_position_ids_are_reported_with_the_indices_that_are_off(
    tmp_path: Path, sd1: dict[str, torch.Tensor]
) -> None:
    merged = torch.arange(77, dtype=torch.float32)[None]
    merged[0, 76], merged[0, 41] = 75.9975, 40.5
    (problem,) = (p for p in inspected(written(tmp_path, sd1 | {POSITIONS: merged}))["problems"] if "position" in p)
    assert "F32 instead of I64" in problem
    assert "2 off by up to 0.5: 41 is 40.5, 76 is 75.9975" in problem


def test_position_ids_of_many_encoders_are_looked_at_a_few_times(tmp_path: Path) -> None:
    made = {f"t{number}.embeddings.position_ids": torch.ones(1, 3) for number in range(100)}
    problems = inspected(written(tmp_path, made))["problems"]
    assert len(problems) < 20
    assert any("84 more text encoders" in problem for problem in problems)


def test_position_ids_that_are_right_are_no_problem(tmp_path: Path, sd1: dict[str, torch.Tensor]) -> None:
    assert not any("position" in p for p in inspected(written(tmp_path, sd1))["problems"])
    half = sd1 | {POSITIONS: torch.arange(77, dtype=torch.float16)[None]}
    assert any("F16 instead of I64, though none is off" in p for p in inspected(written(tmp_path, half))["problems"])


@pytest.mark.parametrize(
    ("prefix", "words"),
    [
        ("cond_stage_model.", "no text encoder: A1111 would keep the last one loaded"),
        ("first_stage_model.", "no VAE"),
        ("model.", "no UNet"),
    ],
)
def test_missing_components_are_problems(tmp_path: Path, sd1: dict[str, torch.Tensor], prefix: str, words: str) -> None:
    left = {name: tensor for name, tensor in sd1.items() if not name.startswith(prefix)}
    report = inspected(written(tmp_path, left))
    assert report["kind"] == "checkpoint"
    assert any(words in problem for problem in report["problems"])


def test_a_whole_checkpoint_has_no_problem(tmp_path: Path, sd1: dict[str, torch.Tensor]) -> None:
    assert inspected(written(tmp_path, sd1))["problems"] == []


@pytest.mark.parametrize(
    ("architecture", "size"),
    [("sd1", 512), ("sd2-eps", 512), ("sdxl-base", 1024), ("lora-kohya-sdxl", 1024), ("vae", None)],
)
def test_native_sizes_are_in_pixels(tmp_path: Path, architecture: str, size: int | None) -> None:
    assert inspected(stored(architecture, tmp_path / "model.safetensors", 64))["native_size"] == size


def test_a_model_of_768_pixels_is_told_by_what_it_predicts(tmp_path: Path) -> None:
    made = tensors("sd2.1-v", 64)
    path = written(tmp_path, made)
    (tmp_path / "model.yaml").write_text('model:\n  params:\n    parameterization: "v"\n')
    report = inspected(path)
    assert (report["prediction"]["type"], report["native_size"]) == ("v", 768)
    assert "not below 768" in report["size_advice"]


def test_precision_is_that_of_the_weights(tmp_path: Path, sd1: dict[str, torch.Tensor]) -> None:
    assert inspected(written(tmp_path, sd1))["precision"] == "F32"
    halved = {n: t.half() if n.startswith("model.") else t for n, t in sd1.items()}
    assert inspected(written(tmp_path, halved))["precision"] in ("F16 + F32", "F32 + F16")


def test_a_quantised_file_has_nothing_to_cast(tmp_path: Path, sd1: dict[str, torch.Tensor]) -> None:
    report = inspected(written(tmp_path, sd1 | {"scaled_fp8": torch.empty(0)}))
    assert report["savings"]["fp16"] == 0
    assert any("already quantised" in problem for problem in report["problems"])


@pytest.mark.parametrize(
    ("made", "kind", "base"),
    [
        (hypernetwork(), "hypernetwork", "sd1"),
        (textual_inversion(), "textual-inversion", "sd1"),
        (textual_inversion(True), "textual-inversion", "sd1"),
        ({"<style>": of("F32", (1024,), bytes(4096))}, "textual-inversion", "sd2"),
    ],
)
@pytest.mark.parametrize("save", [save_zip, save_legacy])
def test_small_pickles_are_known(tmp_path: Path, made: Any, kind: str, base: str, save: Any) -> None:
    save(made, tmp_path / "file.pt")
    report = inspected(tmp_path / "file.pt")
    assert (report["kind"], report["base"]) == (kind, base)


def test_an_ip_adapter_of_nested_dicts_is_known(tmp_path: Path) -> None:
    layer = {
        "1.to_k_ip.weight": of("F16", (4, 2048), bytes(16384)),
        "139.to_k_ip.weight": of("F16", (4, 2048), bytes(16384)),
    }
    save_zip({"image_proj": {"proj.weight": of("F16", (4, 4), bytes(32))}, "ip_adapter": layer}, tmp_path / "ip.bin")
    report = inspected(tmp_path / "ip.bin")
    assert (report["kind"], report["base"]) == ("ip-adapter", "sdxl")


def test_what_a_pickle_would_run_is_a_problem(tmp_path: Path) -> None:
    from fixtures.assembler import Call, Global

    payload = Call(Global("posix", "system"), ("touch PWNED",))
    save_zip(lightning(state_dict("lora-kohya-sd1", 64), payload), tmp_path / "bad.ckpt")
    report = inspected(tmp_path / "bad.ckpt")
    assert report["verdict"] == "dangerous"
    assert any("posix" in problem and "dangerous" in problem for problem in report["problems"])
    assert not Path("PWNED").exists()


def folder(tmp_path: Path, **settings: str) -> Path:
    """A diffusers folder of SD2, as it is downloaded."""
    for part, architecture in (
        ("unet", "diffusers-unet-sd2"),
        ("vae", "diffusers-vae"),
        ("text_encoder", "diffusers-te-sd2"),
    ):
        (tmp_path / part).mkdir()
        name = "model.safetensors" if part == "text_encoder" else "diffusion_pytorch_model.safetensors"
        save_file(tensors(architecture, 64), tmp_path / part / name)
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": settings["pipeline"]}))
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps({"prediction_type": settings["predicts"]}))
    return tmp_path


def test_a_diffusers_folder_is_one_checkpoint(tmp_path: Path) -> None:
    path = folder(tmp_path, pipeline="StableDiffusionPipeline", predicts="v_prediction")
    report = inspected(path, "--hash")
    assert (report["kind"], report["base"], report["prediction"]["type"]) == ("checkpoint", "sd2", "v")
    assert (report["native_size"], report["problems"]) == (768, [])
    assert any("StableDiffusionPipeline" in line for line in report["evidence"])
    assert len(report["hashes"]["files"]) == 3


def test_a_folder_of_another_pipeline_is_a_conflict(tmp_path: Path) -> None:
    report = inspected(folder(tmp_path, pipeline="StableDiffusionXLPipeline", predicts="epsilon"))
    assert report["base"] == "ambiguous"
    assert any("StableDiffusionXLPipeline" in problem for problem in report["problems"])


@pytest.mark.parametrize("text", ["[]", "{", '{"_class_name": 3}', "[" * 100_000, "\0"])
def test_settings_that_are_no_settings_are_passed_over(tmp_path: Path, text: str) -> None:
    path = folder(tmp_path, pipeline="x", predicts="x")
    (path / "scheduler" / "scheduler_config.json").write_text(text)
    (path / "model_index.json").write_text(text)
    assert inspected(path)["base"] == "sd2"


def test_every_tensor_is_listed_when_all_is_asked_for(tmp_path: Path) -> None:
    path = written(tmp_path, {f"layer.{n}.weight": torch.zeros(2, n) for n in range(40)})
    assert "tensors" not in inspected(path)
    listed = inspected(path, "-v")["tensors"]
    assert listed[3] == {"name": "layer.11.weight", "dtype": "F32", "shape": [2, 11]}
    lines = ckptool("inspect", path, "-v").out
    assert all(f"layer.{n}.weight  F32 [2, {n}]" in lines for n in range(40))
    assert "layer.11.weight" not in ckptool("inspect", path).out
