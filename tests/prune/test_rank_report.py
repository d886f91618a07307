"""What is told of a lowered rank: the error of the bytes written, the file's metadata, and lines for people."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ckptool.prune.rank import rank_lines
from tests.convert.converting import ckptool
from tests.prune.ranks import done, lora, random, relative, update, with_values

VALUES = [8.0, 4.0, 2.0, 1.0, 0.5, 0.25, 0.125, 0.0625]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("rank", [2, 7])
def test_the_error_reported_is_that_of_what_is_written(tmp_path: Path, dtype: torch.dtype, rank: int) -> None:
    tensors = lora("x", *with_values([0.3**n for n in range(8)], 96, 64), 8.0, dtype)
    made = done(tmp_path, tensors, rank=rank)
    measured = relative(update(made.tensors, "x"), update(tensors, "x"))
    assert made.report["rank"]["x"]["relative_error"] == pytest.approx(measured, rel=0.02)


def test_metadata_follow_the_ranks(tmp_path: Path) -> None:
    linear = lora("lora_unet_a", *with_values(VALUES, 96, 64), 4.0)
    up, down = with_values(VALUES, 40, 20 * 9)
    conv = lora("lora_unet_b", up.reshape(40, 8, 1, 1), down.reshape(8, 20, 3, 3), 8.0)
    args = json.dumps({"conv_dim": "8", "conv_alpha": "8", "dropout": None})
    stated = {"ss_network_dim": "8", "ss_network_alpha": "4.0", "ss_network_args": args, "ss_tag": "x"}
    metadata = done(tmp_path, linear | conv, stated, rank=2).plan.metadata
    assert metadata["ss_network_dim"] == "2"
    assert metadata["ss_network_alpha"] == "1.0"
    assert json.loads(metadata["ss_network_args"]) == {"conv_dim": "2", "conv_alpha": "2.0", "dropout": None}
    assert metadata["ss_tag"] == "x"
    dynamic = linear | lora("lora_unet_c", *with_values(VALUES[:2], 96, 64), 4.0)
    assert done(tmp_path, dynamic, stated, energy=0.99).plan.metadata["ss_network_dim"] == "Dynamic"
    assert done(tmp_path, linear, stated, rank=8).plan.metadata == {**stated, "format": "pt"}
    assert "ss_network_dim" not in done(tmp_path, linear, {"ss_tag": "x"}, rank=2).plan.metadata


@pytest.mark.parametrize("text", ["{", "[]", "null", "[" * 100_000, '{"conv_dim": {}}'])
def test_arguments_that_cannot_be_read_stay(tmp_path: Path, text: str) -> None:
    tensors = lora("x", *with_values(VALUES, 96, 64), 4.0)
    metadata = {"ss_network_args": text, "ss_network_dim": "8"}
    assert done(tmp_path, tensors, metadata, rank=2).plan.metadata == {
        **metadata, "ss_network_dim": "2", "format": "pt",
    }  # fmt: skip


def test_lines_name_the_worst_module_first(tmp_path: Path) -> None:
    tensors = lora("good", *with_values([8, 1e-3, 1e-4], 96, 64), 4.0)
    tensors |= lora("bad\x1b", *with_values([8, 7, 6], 96, 64), 4.0)
    lines = list(rank_lines(done(tmp_path, tensors, rank=1).report, True))
    assert lines[0] == "  rank: 3 -> 1, 2 modules of 2 changed"
    assert lines[2].startswith("    bad\\x1b: 3 -> 1, off by 75.")
    assert lines[3].startswith("    good: 3 -> 1")


def test_lines_give_each_reason_once(tmp_path: Path) -> None:
    tensors = {f"n{number}.w_norm": random(4) for number in range(30)} | lora("x", random(9, 2), random(2, 9), 1.0)
    report = done(tmp_path, tensors, rank=2).report
    assert list(rank_lines(report, False)) == [
        "  rank: no module changed",
        "  rank not lowered in 30 modules: norm has no rank that can be lowered",
        "    n0",
    ]
    assert len(list(rank_lines(report, True))) == 32


def test_the_command_reports_ranks(tmp_path: Path) -> None:
    save_file(
        {n: t.contiguous() for n, t in lora("x", *with_values(VALUES, 96, 64), 8.0).items()}, tmp_path / "x.safetensors"
    )
    ran = ckptool("prune", tmp_path / "x.safetensors", tmp_path / "y.safetensors", "--rank", "3", "--json")
    assert ran.code == 0, ran.err
    report = json.loads(ran.out)
    assert report["rank"]["x"]["to"] == 3
    assert report["rank"]["x"]["energy"] == pytest.approx(84 / 85.33203125)
    assert report["ranks"]["bytes_after"] < report["ranks"]["bytes_before"]
    assert load_file(tmp_path / "y.safetensors")["x.lora_up.weight"].shape == (96, 3)
