"""Sharded indexes and diffusers folders: many files, one model."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.convert.converting import Tensors, ckptool, conventional, convert, header_of, random

PARTS: tuple[Tensors, ...] = (
    {"a.weight": random(torch.float32), "z": torch.empty(0)},
    {"b.weight": random(torch.float16).t()},
    {"c.weight": random(torch.int64, (2,))},
)
WHOLE: Tensors = {name: tensor for part in PARTS for name, tensor in part.items()}


def sharded(folder: Path, form: str, stem: str | None = None) -> Path:
    """A sharded model as transformers writes it; the path of its index."""
    stem = stem or {"bin": "pytorch_model", "safetensors": "model"}[form]
    weight_map = {}
    for number, part in enumerate(PARTS, 1):
        name = f"{stem}-{number:05d}-of-{len(PARTS):05d}.{form}"
        if form == "bin":
            torch.save(part, folder / name)
        else:
            save_file({n: t.contiguous() for n, t in part.items()}, folder / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, name)
    index = folder / f"{stem}.{form}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return index


@pytest.mark.parametrize("form", ["bin", "safetensors"])
def test_an_index_of_shards(form: str, tmp_path: Path) -> None:
    index = sharded(tmp_path, form)
    ran = ckptool("convert", index, tmp_path / "out.safetensors")
    assert ran.code == 0, ran.err
    assert (tmp_path / "out.safetensors").read_bytes() == conventional(WHOLE)


@pytest.mark.parametrize(("form", "name"), [("bin", "pytorch_model.safetensors"), ("safetensors", "model.safetensors")])
def test_the_output_of_an_index_is_named_by_its_stem(form: str, name: str, tmp_path: Path) -> None:
    index = sharded(tmp_path, form)
    before = set(os.listdir(tmp_path))
    assert ckptool("convert", index).code == 0
    assert set(os.listdir(tmp_path)) - before == {name}


@pytest.mark.parametrize("form", ["bin", "safetensors"])
def test_a_folder_with_an_index_in_it(form: str, tmp_path: Path) -> None:
    (tmp_path / "llm").mkdir()
    sharded(tmp_path / "llm", form)
    assert ckptool("convert", tmp_path / "llm").code == 0
    assert (tmp_path / "llm.safetensors").read_bytes() == conventional(WHOLE)


@pytest.mark.parametrize("name", ["model.safetensors", "diffusion_pytorch_model.bin", "pytorch_model.bin"])
def test_a_folder_with_one_file_of_weights(name: str, tmp_path: Path) -> None:
    (tmp_path / "vae").mkdir()
    target = tmp_path / "vae" / name
    save_file(PARTS[0], target) if name.endswith("safetensors") else torch.save(PARTS[0], target)
    assert ckptool("convert", tmp_path / "vae").code == 0
    assert (tmp_path / "vae.safetensors").read_bytes() == conventional(PARTS[0])


def diffusers(folder: Path) -> Tensors:
    """A pipeline of safetensors, pickles and shards, and components without weights."""
    for name in ("unet", "vae", "text_encoder", "tokenizer", "scheduler", ".cache"):
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text("{}")
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    sharded(folder / "unet", "safetensors", "diffusion_pytorch_model")
    save_file(PARTS[0], folder / "vae" / "diffusion_pytorch_model.safetensors")
    torch.save({"poison": torch.ones(1)}, folder / "vae" / "diffusion_pytorch_model.bin")
    torch.save(PARTS[1], folder / "text_encoder" / "pytorch_model.bin")
    expected = {f"unet.{name}": tensor for name, tensor in WHOLE.items()}
    expected |= {f"vae.{name}": tensor for name, tensor in PARTS[0].items()}
    return expected | {f"text_encoder.{name}": tensor for name, tensor in PARTS[1].items()}


def test_a_diffusers_folder_prefers_safetensors_and_names_components(tmp_path: Path) -> None:
    expected = diffusers(tmp_path / "sd")
    assert ckptool("convert", tmp_path / "sd").code == 0
    assert (tmp_path / "sd.safetensors").read_bytes() == conventional(expected)


def test_a_diffusers_folder_by_its_name_from_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = diffusers(tmp_path / "sd")
    monkeypatch.chdir(tmp_path / "sd")
    assert ckptool("convert", ".").code == 0
    assert (tmp_path / "sd.safetensors").read_bytes() == conventional(expected)


def test_findings_name_the_shard(tmp_path: Path) -> None:
    index = sharded(tmp_path, "bin")
    torch.save({"b.weight": PARTS[1]["b.weight"], "p": Path("x")}, tmp_path / "pytorch_model-00002-of-00003.bin")
    ran = ckptool("convert", index, "--json")
    assert ran.code == 0, ran.err
    entries = [finding["entry"] for finding in json.loads(ran.out)["findings"]]
    assert entries
    assert set(entries) == {"pytorch_model-00002-of-00003.bin/data.pkl"}


def broken(index: Path, change: Any) -> None:
    data = json.loads(index.read_text())
    index.write_text(json.dumps(change(data)))


BROKEN: dict[str, Any] = {
    "no weight_map": lambda data: {"metadata": {}},
    "an empty weight_map": lambda data: {"weight_map": {}},
    "a list": lambda data: [1],
    "a file that is no text": lambda data: {"weight_map": {"a": 1}},
    "a shard that is missing": lambda data: {"weight_map": data["weight_map"] | {"q": "nowhere.bin"}},
    "a tensor in no shard": lambda data: {"weight_map": data["weight_map"] | {"q": data["weight_map"]["a.weight"]}},
    "a shard in another folder": lambda data: {"weight_map": data["weight_map"] | {"q": "../x.bin"}},
    "a shard by its full path": lambda data: {"weight_map": data["weight_map"] | {"q": "/etc/passwd"}},
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_index_is_refused(what: str, tmp_path: Path) -> None:
    index = sharded(tmp_path, "bin")
    broken(index, BROKEN[what])
    before = set(os.listdir(tmp_path))
    ran = ckptool("convert", index, tmp_path / "out.safetensors")
    assert ran.code == 3
    assert len(ran.err.splitlines()) == 2
    assert set(os.listdir(tmp_path)) == before


def test_an_index_that_is_no_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.bin.index.json").write_text("{" + "[" * 100_000)
    assert ckptool("convert", tmp_path / "m.bin.index.json").code == 3


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    index = sharded(tmp_path, "bin")
    torch.save(PARTS[0] | PARTS[1], tmp_path / "pytorch_model-00002-of-00003.bin")
    ran = ckptool("convert", index)
    assert ran.code == 3
    assert "a.weight is in two files" in ran.err


def test_a_bad_shard_is_named(tmp_path: Path) -> None:
    index = sharded(tmp_path, "bin")
    (tmp_path / "pytorch_model-00003-of-00003.bin").write_text("version https://git-lfs.github.com/spec/v1\n")
    ran = ckptool("convert", index)
    assert ran.code == 3
    assert "pytorch_model-00003-of-00003.bin" in ran.err
    assert "git lfs pull" in ran.err


def test_a_folder_without_a_model_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    ran = ckptool("convert", tmp_path / "empty")
    assert (ran.code, len(ran.err.splitlines())) == (2, 2)


def test_the_source_of_a_metadata_key_is_one_of_the_shards(tmp_path: Path) -> None:
    sharded(tmp_path, "safetensors")
    for number, part in enumerate(PARTS, 1):
        metadata = {"format": "pt", "ss_sd_model_name": "x"}
        save_file(
            {n: t.contiguous() for n, t in part.items()},
            tmp_path / f"model-{number:05d}-of-00003.safetensors",
            metadata=metadata,
        )
    data = convert(tmp_path / "model.safetensors.index.json", tmp_path / "model.safetensors.index.safetensors")
    assert header_of(data)["__metadata__"] == {"format": "pt", "ss_sd_model_name": "x"}
