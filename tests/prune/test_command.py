"""The command: what it reads, where it writes, and what it says."""

import json
import zipfile
from pathlib import Path
from struct import unpack_from

import pytest
import torch
from safetensors.torch import save_file

from fixtures.models import StateDict, lightning, state_dict
from fixtures.torchfile import save_legacy, save_zip
from tests.convert.converting import ckptool
from tests.prune.pruning import checkpoint, prune, refused, same, same_bytes, saved

LORA = "lora-kohya-sd1"


def kept_of(tensors: object) -> dict[str, str]:
    return same(name for name in tensors if not name.startswith("model_ema."))  # type: ignore[attr-defined]


def test_the_name_of_the_output(tmp_path: Path) -> None:
    path = saved({"a": torch.ones(1)}, tmp_path)
    assert ckptool("prune", path).code == 0
    assert (tmp_path / "m-pruned.safetensors").exists()
    assert ckptool("prune", path).code == 2
    assert ckptool("prune", path, "-f").code == 0


def test_the_source_is_never_replaced(tmp_path: Path) -> None:
    path = saved({"a": torch.ones(1)}, tmp_path)
    before = path.read_bytes()
    assert ckptool("prune", path, path, "--force").code == 2
    assert path.read_bytes() == before


@pytest.mark.parametrize("save", [save_zip, save_legacy])
def test_pickles(save: object, tmp_path: Path) -> None:
    tensors = state_dict("sd1-full-ema", 64)
    save(lightning(tensors), tmp_path / "m.ckpt")  # type: ignore[operator]
    same_bytes(prune(tmp_path / "m.ckpt"), tensors, kept_of(tensors))


def test_an_index_and_shards(tmp_path: Path) -> None:
    path, tensors = checkpoint(tmp_path, "sd1-full-ema")
    assert ckptool("convert", path, tmp_path / "s.safetensors", "--max-shard-size", "1MB").code == 0
    (index,) = tmp_path.glob("*.index.json")
    same_bytes(prune(index), tensors, kept_of(tensors))
    target = tmp_path / "again.safetensors"
    assert ckptool("prune", path, target, "--max-shard-size", "500kB").code == 0
    assert len(list(tmp_path.glob("again-*.safetensors"))) > 1


def test_a_diffusers_folder(tmp_path: Path) -> None:
    folder = tmp_path / "pipeline"
    for name in ("unet", "vae"):
        (folder / name).mkdir(parents=True)
        save_file({"conv_in.weight": torch.ones(2)}, folder / name / "diffusion_pytorch_model.safetensors")
    (folder / "model_index.json").write_text("{}")
    assert list(prune(folder, "--only", "vae").tensors) == ["conv_in.weight"]


@pytest.mark.parametrize("options", [["--ema", "use"], ["--only", "vae"], ["--drop", "*"], ["--rank", "4"]])
def test_a_refusal_names_the_file_once(tmp_path: Path, options: list[str]) -> None:
    path = saved({"a": torch.ones(1)}, tmp_path)
    ran = ckptool("prune", path, *options)
    assert ran.err.startswith(f"error: {path}: ")
    assert ran.err.count(str(path)) == 1


def test_the_sidecar_comes_along(tmp_path: Path) -> None:
    path = saved({"a": torch.ones(1)}, tmp_path)
    path.with_suffix(".yaml").write_text("model: {}\n")
    assert ckptool("prune", path).code == 0
    assert (tmp_path / "m-pruned.yaml").read_text() == "model: {}\n"


def test_a_dry_run_writes_nothing_and_says_the_same(tmp_path: Path) -> None:
    path, _ = checkpoint(tmp_path, "sd1-full-ema")
    ran = ckptool("prune", path, "--dry-run", "--json")
    assert [item.name for item in tmp_path.iterdir()] == [path.name]
    told, real = json.loads(ran.out), prune(path).report
    for key in ("kept", "dropped", "renamed", "removed", "bytes_before", "repaired", "zeroed", "metadata"):
        assert told[key] == real[key], key


def test_the_report_is_what_was_promised(tmp_path: Path) -> None:
    path, tensors = checkpoint(tmp_path, "sd1-full-ema")
    report = prune(path, "--report", tmp_path / "r.json").report
    assert json.loads((tmp_path / "r.json").read_text()) == report
    assert report["schema_version"] == 1
    assert report["kept"] == sum(not name.startswith("model_ema.") for name in tensors)
    assert report["output"]["bytes"] == (tmp_path / "out.safetensors").stat().st_size
    assert (report["cast"], report["zeroed"]) == ([], {})
    assert report["bytes_before"] == sum(len(tensor.tobytes()) for tensor in tensors.values())


def test_people_are_told_what_it_saved(tmp_path: Path) -> None:
    path, _ = checkpoint(tmp_path, "sd1-full-ema")
    words = prune(path).words
    assert "without EMA: 688 tensors" in words
    assert "before, " in words


def damage(path: Path, tensors: StateDict, name: str) -> None:
    """Flip a bit of a tensor's record, the number of which is that of its storage."""
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(f"archive/data/{list(tensors).index(name)}")
        assert archive.read(info) == tensors[name].tobytes()
    data = bytearray(path.read_bytes())
    names, extras = unpack_from("<HH", data, info.header_offset + 26)
    data[info.header_offset + 30 + names + extras] ^= 1
    path.write_bytes(data)


def test_bytes_that_are_left_out_are_not_read(tmp_path: Path) -> None:
    """Their checksum is wrong, and nobody sees it, unless they are asked for."""
    path, tensors = checkpoint(tmp_path, "sd1-full-ema", 16)
    damage(path, tensors, "model_ema.diffusion_modelinput_blocks11transformer_blocks0attn2to_kweight")
    same_bytes(prune(path), tensors, kept_of(tensors))
    refused(path, "--ema", "keep")
    refused(path, "--ema", "use")


def test_bytes_that_are_replaced_are_not_read(tmp_path: Path) -> None:
    path, tensors = checkpoint(tmp_path, "sd1-full-ema", 16)
    damage(path, tensors, "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight")
    refused(path)
    prune(path, "--ema", "use")


def test_a_lora_of_lower_rank(tmp_path: Path) -> None:
    path, tensors = checkpoint(tmp_path, LORA, 32)
    pruned = prune(path, "--rank", 2)
    assert pruned.tensors.keys() == tensors.keys()
    assert {min(t.shape) for n, t in pruned.tensors.items() if n.endswith("lora_down.weight") and t.dim() == 2} == {2}
    prune(path, "--rank-energy", 0.9)
    prune(path, "--rank", "auto")


def test_a_lycoris_file_becomes_plain_lora(tmp_path: Path) -> None:
    path, _ = checkpoint(tmp_path, "lycoris-loha-sd1", 64)
    pruned = prune(path, "--to-lora", "--rank", 4)
    assert not any("hada_" in name for name in pruned.tensors)


@pytest.mark.parametrize("rank", ["0", "-1", "x", "1.5", "²", "9999999999", ""])
def test_a_rank_that_means_nothing(rank: str, tmp_path: Path) -> None:
    path, _ = checkpoint(tmp_path, LORA, 64)
    refused(path, f"--rank={rank}", code=2)


def test_a_rank_of_something_else_is_refused(tmp_path: Path) -> None:
    refused(saved({"a": torch.ones(1)}, tmp_path), "--rank", 4)


def test_names_that_try_something_reach_no_terminal(tmp_path: Path) -> None:
    path = saved({"\x1b[31mloss": torch.ones(1), "loss.\x1b[31m": torch.ones(1), "a\n": torch.ones(1)}, tmp_path)
    for options in ((), ("--drop", "nothing"), ("--drop", "\x1b*"), ("-v",)):
        ran = ckptool("prune", path, "--force", *options)
        assert "\x1b" not in ran.out + ran.err
