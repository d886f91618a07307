"""`--max-shard-size` writes shards and an index in the names and the form that transformers reads."""

import hashlib
import json
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ckptool.convert.read import read
from ckptool.convert.shards import split
from ckptool.convert.writer import write_shards
from ckptool.errors import Truncated
from tests.convert.converting import Tensors, ckptool, conventional, equal, header_of, random

TENSORS: Tensors = {f"layer.{i}": random(torch.float32, (100,), i) for i in range(7)} | {
    "big": random(torch.uint8, (3000,)),
    "b": random(torch.float16, (8,)).t(),
    "empty": torch.empty(0),
}


def sharded(folder: Path, size: str, *options: str) -> dict[str, Any]:
    torch.save({"state_dict": TENSORS, "epoch": 1}, folder / "m.ckpt")
    ran = ckptool("convert", folder / "m.ckpt", folder / "out.safetensors", "--max-shard-size", size, *options)
    assert ran.code == 0, ran.err
    index: dict[str, Any] = json.loads((folder / "out.safetensors.index.json").read_text())
    return index


def test_all_tensors_are_in_the_files_that_the_index_names(tmp_path: Path) -> None:
    index = sharded(tmp_path, "1KB")
    assert index["weight_map"].keys() == TENSORS.keys()
    for name, file in index["weight_map"].items():
        assert equal(load_file(tmp_path / file)[name], TENSORS[name].contiguous())


def test_names_count_the_files(tmp_path: Path) -> None:
    files = set(sharded(tmp_path, "1KB")["weight_map"].values())
    assert files == {f"out-{i:05d}-of-{len(files):05d}.safetensors" for i in range(1, len(files) + 1)}
    assert set(os.listdir(tmp_path)) == files | {"m.ckpt", "out.safetensors.index.json"}


def test_no_shard_is_larger_than_asked_but_for_one_large_tensor(tmp_path: Path) -> None:
    index = sharded(tmp_path, "1KB")
    for file in set(index["weight_map"].values()):
        held = load_file(tmp_path / file)
        total = sum(tensor.nbytes for tensor in held.values())
        assert total <= 1000 or [t.numel() for t in held.values() if t.numel()] == [3000]


def test_the_index_states_the_total_size(tmp_path: Path) -> None:
    assert sharded(tmp_path, "1KB")["metadata"]["total_size"] == sum(tensor.nbytes for tensor in TENSORS.values())


def test_each_shard_is_as_safetensors_writes_it_with_the_metadata(tmp_path: Path) -> None:
    index = sharded(tmp_path, "1KB")
    for file in set(index["weight_map"].values()):
        held = {name: TENSORS[name] for name, where in index["weight_map"].items() if where == file}
        assert (tmp_path / file).read_bytes() == conventional(held, {"epoch": "1"})


def test_a_sharded_model_converts_back_to_the_whole(tmp_path: Path) -> None:
    sharded(tmp_path, "1KB")
    assert ckptool("convert", tmp_path / "out.safetensors.index.json", tmp_path / "back.safetensors").code == 0
    assert (tmp_path / "back.safetensors").read_bytes() == conventional(TENSORS, {"epoch": "1"})


@pytest.mark.parametrize("size", ["5GB", "1 MiB", "10000000", "0.5gb", "10kb"])
def test_a_model_that_fits_is_one_file(size: str, tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "m.ckpt")
    assert ckptool("convert", tmp_path / "m.ckpt", "--max-shard-size", size).code == 0
    assert set(os.listdir(tmp_path)) == {"m.ckpt", "m.safetensors"}


@pytest.mark.parametrize("size", ["", "0", "-1", "x", "5 apples", "1e3", "0.1B", "NaN", "GB"])
def test_a_size_that_makes_no_sense_is_a_usage_error(size: str, tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "m.ckpt")
    assert ckptool("convert", tmp_path / "m.ckpt", f"--max-shard-size={size}").code == 2
    assert os.listdir(tmp_path) == ["m.ckpt"]


def test_the_report_lists_the_files(tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "m.ckpt")
    ran = ckptool("convert", tmp_path / "m.ckpt", "--max-shard-size", "1KB", "--json")
    output = json.loads(ran.out)["output"]
    assert output["path"] == str(tmp_path / "m.safetensors.index.json")
    for file in output["files"]:
        data = Path(file["path"]).read_bytes()
        assert (file["bytes"], file["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    paths = [Path(file["path"]).name for file in output["files"]]
    assert {*paths, "m.ckpt", "m.safetensors.index.json"} == set(os.listdir(tmp_path))
    total = sum(path.stat().st_size for path in tmp_path.iterdir() if path.name != "m.ckpt")
    assert output["bytes"] == total


@pytest.mark.parametrize(
    "taken", ["m.safetensors.index.json", "m-00001-of-00006.safetensors", "m-00006-of-00006.safetensors"]
)
def test_nothing_is_written_when_one_of_the_names_is_taken(taken: str, tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "m.ckpt")
    ran = ckptool("convert", tmp_path / "m.ckpt", "--max-shard-size", "1KB", "--dry-run", "--json")
    assert len(json.loads(ran.out)["output"]["files"]) == 6
    (tmp_path / taken).write_text("mine")
    ran = ckptool("convert", tmp_path / "m.ckpt", "--max-shard-size", "1KB")
    assert ran.code == 2
    assert set(os.listdir(tmp_path)) == {"m.ckpt", taken}
    assert (tmp_path / taken).read_text() == "mine"
    assert ckptool("convert", tmp_path / "m.ckpt", "--max-shard-size", "1KB", "--force", "-q").code == 0


def test_a_sharded_source_is_never_touched(tmp_path: Path) -> None:
    sharded(tmp_path, "1KB")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for size in ("1KB", "2KB"):
        ran = ckptool("convert", tmp_path / "out.safetensors.index.json", "--max-shard-size", size, "--force")
        assert ran.code == 2, ran
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_wrong_checksum_in_the_last_shard_leaves_none(tmp_path: Path) -> None:
    tensors = {f"t{i}": random(torch.uint8, (100_000,), i) for i in range(4)}
    torch.save(tensors, tmp_path / "m.ckpt")
    data = bytearray((tmp_path / "m.ckpt").read_bytes())
    at = data.index(tensors["t3"].numpy().tobytes())
    data[at + 99_999] ^= 1
    (tmp_path / "m.ckpt").write_bytes(data)
    ran = ckptool("convert", tmp_path / "m.ckpt", "--max-shard-size", "100KB")
    assert ran.code == 3
    assert "data/3" in ran.err
    assert os.listdir(tmp_path) == ["m.ckpt"]


def test_a_source_that_changes_meanwhile_leaves_no_shard(tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "m.ckpt")
    with ExitStack() as stack:
        plan = read(tmp_path / "m.ckpt", stack)
        shards = split(plan, tmp_path / "out.safetensors", 1000)
        assert shards is not None
        (tmp_path / "m.ckpt").open("ab").write(b"x")
        with pytest.raises(Truncated, match="changed"):
            write_shards(shards)
    assert os.listdir(tmp_path) == ["m.ckpt"]


def test_a_header_names_only_the_tensors_of_its_shard(tmp_path: Path) -> None:
    index = sharded(tmp_path, "1KB", "-q")
    for file in set(index["weight_map"].values()):
        names = header_of((tmp_path / file).read_bytes()).keys() - {"__metadata__"}
        assert names == {name for name, where in index["weight_map"].items() if where == file}
