"""A safetensors file goes through unchanged: every dtype, its metadata, and our own output to the byte."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from tests.convert.converting import DTYPES, ckptool, conventional, convert_by_library, header_of, random, with_metadata


def handmade(header: str | bytes, data: bytes = b"\1") -> bytes:
    head = header.encode() if isinstance(header, str) else header
    return len(head).to_bytes(8, "little") + head + data


ONE = '"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}'


def again(data: bytes, folder: Path) -> bytes:
    (folder / "m.safetensors").write_bytes(data)
    ran = ckptool("convert", folder / "m.safetensors", folder / "out.safetensors", "--force")
    assert ran.code == 0, ran.err
    return (folder / "out.safetensors").read_bytes()


def test_every_dtype(tmp_path: Path) -> None:
    tensors = {f"{name}.{d}": random(d, (2, 3), i) for i, d in enumerate(DTYPES) for name in "ba"}
    tensors["F4"] = random(torch.uint8, (3, 2)).view(torch.float4_e2m1fn_x2)
    tensors |= {"scalar": torch.tensor(1.0), "empty": torch.empty(0, 3)}
    assert again(save(tensors, metadata={"format": "pt"}), tmp_path) == save(tensors, metadata={"format": "pt"})


@pytest.mark.parametrize("dtype", ["F6_E2M3", "F6_E3M2"])
def test_dtypes_that_torch_does_not_have(dtype: str, tmp_path: Path) -> None:
    data = handmade(
        '{"__metadata__":{"format":"pt"},"a":{"dtype":"F6","shape":[4],"data_offsets":[0,3]}}   '.replace("F6", dtype),
        b"abc",
    )
    written = again(data, tmp_path)
    assert header_of(written) == header_of(data)
    assert written[-3:] == b"abc"


def test_our_own_output_comes_out_the_same_to_the_byte(tmp_path: Path) -> None:
    torch.save(
        {"state_dict": {"w": torch.ones(3), "b": torch.zeros(2).half()}, "epoch": 1, "global_step": 2},
        tmp_path / "m.ckpt",
    )
    first = convert_by_library(tmp_path / "m.ckpt", tmp_path / "first.safetensors")
    assert again(first, tmp_path) == first
    assert again(first, tmp_path) == first


def test_metadata_are_kept_and_sorted(tmp_path: Path) -> None:
    metadata = {
        "ss_base_model_version": "sd_v1", "modelspec.architecture": "x", "": "", "format": "pt",
        "ключ": "é\u2028\n\"\\\x01",
        "ss_tag_frequency": json.dumps({"a": {"b": 1}}), "😀": "😀",
    }  # fmt: skip
    written = again(save({"a": torch.ones(1)}, metadata=metadata), tmp_path)
    assert list(header_of(written)["__metadata__"].items()) == sorted(metadata.items())
    assert written == conventional({"a": torch.ones(1)}, metadata)
    load(written)


def test_the_format_of_the_source_is_kept(tmp_path: Path) -> None:
    written = again(save({"a": torch.ones(1)}, metadata={"format": "mlx"}), tmp_path)
    assert header_of(written)["__metadata__"] == {"format": "mlx"}


def test_a_file_without_metadata_gets_its_format(tmp_path: Path) -> None:
    assert again(save({"a": torch.ones(1)}), tmp_path) == conventional({"a": torch.ones(1)})


def test_tensors_in_another_order_are_brought_into_the_conventional_one(tmp_path: Path) -> None:
    header = {
        "b": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]},
        "a": {"dtype": "F32", "shape": [1], "data_offsets": [2, 6]},
    }
    written = again(handmade(json.dumps(header, indent=1) + "\n  ", b"xy\0\0\x80\x3f"), tmp_path)
    assert written == conventional({"a": torch.ones(1), "b": torch.tensor([120, 121], dtype=torch.uint8)})


@pytest.mark.parametrize("length", [60, 0x3C20, 0x7B20, 0x2020, 0x0A0D, 0x8B1F, 0x5A4D, 0x3C0A, 0xFFD8, 0x5025, 0x80])
def test_any_length_of_the_header(length: int, tmp_path: Path) -> None:
    """Its low bytes come first in the file, and must not be taken for the first bytes of something else."""
    header = ("{" + ONE + "}").ljust(length)
    data = handmade(header)
    assert load(data)["a"].tolist() == [1]
    assert again(data, tmp_path) == conventional({"a": torch.tensor([1], dtype=torch.uint8)})


def test_an_empty_file_of_safetensors(tmp_path: Path) -> None:
    assert header_of(again(save({}, metadata={"format": "pt"}), tmp_path)) == {"__metadata__": {"format": "pt"}}


BAD: dict[str, bytes] = {
    "not JSON": handmade('{"a":'),
    "a list": handmade('["a"]'),
    "the same name twice": handmade("{" + ONE + "," + ONE + "}"),
    "an unknown dtype": handmade("{" + ONE.replace("U8", "U9") + "}"),
    "a size that does not match": handmade("{" + ONE.replace("[1]", "[2]") + "}"),
    "a negative size": handmade("{" + ONE.replace("[1]", "[-1]") + "}"),
    "a size that is true": handmade("{" + ONE.replace("[1]", "[true]") + "}"),
    "a size that is a float": handmade("{" + ONE.replace("[1]", "[1.0]") + "}"),
    "an end before the begin": handmade("{" + ONE.replace("[0,1]", "[1,0]") + "}"),
    "a hole": handmade("{" + ONE.replace("[0,1]", "[1,2]") + "}", b"xy"),
    "an overlap": handmade("{" + ONE + "," + ONE.replace('"a"', '"b"') + "}"),
    "an overlap that makes up for a hole": handmade("{" + ONE + "," + ONE.replace('"a"', '"b"') + "}", b"xy"),
    "bytes after the last tensor": handmade("{" + ONE + "}", b"xy"),
    "a byte missing": handmade("{" + ONE + "}", b""),
    "metadata that are no texts": handmade('{"__metadata__":{"a":1},' + ONE + "}"),
    "a header beyond the file": (10**6).to_bytes(8, "little") + b'{"a":1}',
    "a header beyond all limits": (2**62).to_bytes(8, "little") + b'{"a":1}',
    "a name that is no unicode": handmade("{" + ONE.replace('"a"', '"\\ud800"') + "}"),
    "metadata that are no unicode": handmade('{"__metadata__":{"x":"\\ud800"},' + ONE + "}"),
    "bytes that are no UTF-8": handmade(("{" + ONE + "}").encode().replace(b'"a"', b'"\xff"')),
    "deep nesting": handmade('{"a":' + "[" * 100_000 + "}"),
    "an endless number": handmade("{" + ONE.replace("[1]", "[" + "1" * 10_000 + "]") + "}"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_header_is_refused(what: str, tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(BAD[what])
    ran: Any = ckptool("convert", tmp_path / "m.safetensors")
    assert ran.code == 3, ran
    assert len(ran.err.splitlines()) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]


def test_a_metadata_key_that_sorts_before_all_is_no_trick(tmp_path: Path) -> None:
    data = with_metadata(save({"a": torch.ones(1)}), {"format": "pt", "\x00": "zero"})
    assert again(data, tmp_path) == data
