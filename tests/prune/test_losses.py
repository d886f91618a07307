"""What other pruners lose or damage stays, to the bit."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from fixtures.models import hypernetwork, state_dict
from fixtures.tensors import noise, of
from fixtures.torchfile import save_zip
from tests.convert.converting import ckptool
from tests.prune.pruning import EMPTY, checkpoint, prune, same, same_bytes, saved

MARKERS = {name: of("F32", (0,), b"") for name in ("v_pred", "ztsnr")}


@pytest.mark.parametrize("architecture", ["sdxl-base", "sd1"])
def test_markers_without_a_value_stay(architecture: str, tmp_path: Path) -> None:
    path, tensors = checkpoint(tmp_path, architecture, **MARKERS)
    pruned = prune(path)
    same_bytes(pruned, tensors, same(tensors))
    assert pruned.report["dropped"] == []


def test_both_text_encoders_of_sdxl_stay(tmp_path: Path) -> None:
    path, tensors = checkpoint(tmp_path, "sdxl-base")
    pruned = prune(path)
    for encoder in ("conditioner.embedders.0.", "conditioner.embedders.1."):
        assert any(name.startswith(encoder) for name in pruned.tensors)
    same_bytes(pruned, tensors, same(tensors))


def test_integers_stay_integers(tmp_path: Path) -> None:
    tracked = {"first_stage_model.n.num_batches_tracked": of("I64", (), (1 << 40).to_bytes(8, "little"))}
    path, tensors = checkpoint(tmp_path, "sd1", **tracked)
    pruned = prune(path, "--threshold", "5")
    ids = "cond_stage_model.transformer.text_model.embeddings.position_ids"
    assert pruned.tensors[ids].dtype == torch.int64
    for name in (ids, *tracked):
        assert pruned.bytes_of(name) == tensors[name].tobytes()


def test_schedule_buffers_and_unknown_tensors_stay(tmp_path: Path) -> None:
    unknown = {name: noise("F32", (2, 2), name) for name in ("something.else", "model.extra", "cond_stage_model.x")}
    path, tensors = checkpoint(tmp_path, "sd2-eps", **unknown)
    pruned = prune(path)
    assert {"betas", "alphas_cumprod", "cond_stage_model.model.logit_scale", *unknown} <= pruned.tensors.keys()
    same_bytes(pruned, tensors, same(tensors))


def test_metadata_stay(tmp_path: Path) -> None:
    metadata = {
        "format": "pt",
        "ss_base_model_version": "sd_1.5",
        "modelspec.title": "Ä",
        "custom": json.dumps({"a": 1}),
    }
    path = saved({"layer.weight": torch.ones(2), "loss.x": torch.ones(2)}, tmp_path, metadata)
    prune(path)
    with safe_open(path.with_name("out.safetensors"), "pt") as file:
        assert file.metadata() == metadata


def test_a_stated_hash_is_that_of_what_was_written(tmp_path: Path) -> None:
    path = saved({"layer.weight": torch.ones(2), "loss.x": torch.ones(2)}, tmp_path, {"sshs_model_hash": "0" * 64})
    prune(path)
    data = path.with_name("out.safetensors").read_bytes()
    with safe_open(path.with_name("out.safetensors"), "pt") as file:
        from hashlib import sha256

        assert file.metadata()["sshs_model_hash"] == sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest()


def test_values_that_are_no_tensors_do_not_hurt(tmp_path: Path) -> None:
    others = {
        "none": None,
        "number": 3,
        "text": "x",
        "list": [1, 2],
        "dict": {},
        "flag": True,
        "float": np.float64(1.5),
    }
    torch.save({**others, "layer.weight": torch.ones(2), "model_ema.layerweight": torch.ones(2)}, tmp_path / "m.ckpt")
    assert list(prune(tmp_path / "m.ckpt").tensors) == ["layer.weight"]


def test_a_file_without_anything_to_prune_comes_out_as_it_is(tmp_path: Path) -> None:
    tensors = {"a.weight": torch.randn(3, 3), "b": EMPTY, "c": torch.tensor(float("nan"))}
    path = saved(tensors, tmp_path, {"format": "pt"})
    prune(path)
    assert path.with_name("out.safetensors").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("name", ["loha", "locon-dora", "lokr"])
def test_adapters_keep_every_part(name: str, tmp_path: Path) -> None:
    path, tensors = checkpoint(tmp_path, f"lycoris-{name}-sd1", 16)
    same_bytes(prune(path), tensors, same(tensors))


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_a_hypernetwork_stays_one(ending: str, tmp_path: Path) -> None:
    value = {key: part for key, part in hypernetwork().items() if key not in (768, 1280)}
    save_zip(value, tmp_path / "h.pt")
    ran = ckptool("prune", tmp_path / "h.pt", tmp_path / f"clean{ending}")
    assert ran.code == 0, ran.err
    if ending == ".pt":
        loaded = torch.load(tmp_path / "clean.pt", weights_only=True)
        assert (set(loaded), loaded["layer_structure"]) == (set(value), [1, 2, 1])


def test_a_hypernetwork_without_some_of_its_tensors(tmp_path: Path) -> None:
    value = {key: part for key, part in hypernetwork().items() if key not in (768, 1280)}
    save_zip(value, tmp_path / "h.pt")
    ran = ckptool("prune", tmp_path / "h.pt", tmp_path / "clean.pt", "--drop", "640.*", "--json")
    assert ran.code == 0, ran.err
    loaded = torch.load(tmp_path / "clean.pt", weights_only=True)
    assert (dict(loaded[640][0]), len(loaded[320][0])) == ({}, len(value[320][0]))  # type: ignore[index]
    assert "640.0.linear.0.weight" in {item["name"] for item in json.loads(ran.out)["dropped"]}


def test_pruning_what_was_pruned_changes_nothing(tmp_path: Path) -> None:
    path, _ = checkpoint(tmp_path, "sd1-full-ema")
    prune(path)
    first = path.with_name("out.safetensors").rename(tmp_path / "first.safetensors")
    prune(first)
    assert first.read_bytes() == (tmp_path / "out.safetensors").read_bytes()


def test_state_dicts_are_the_same_from_every_container(tmp_path: Path) -> None:
    tensors = state_dict("textual-inversion-sdxl")
    save_zip(tensors, tmp_path / "a.pt")
    same_bytes(prune(tmp_path / "a.pt"), tensors, same(tensors))
