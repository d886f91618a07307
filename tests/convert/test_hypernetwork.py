"""A hypernetwork becomes safetensors, or a clean .pt that holds nothing but plain values and tensors."""

import os
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

from fixtures.assembler import Call, Global
from fixtures.models import hypernetwork
from fixtures.torchfile import save_legacy, save_zip
from tests.convert.converting import DTYPES, ckptool, contents, convert, equal, random


def same(some: Any, other: Any) -> bool:
    """Equal values of the same plain kinds; an OrderedDict may have become a dict."""
    if isinstance(some, torch.Tensor):
        return equal(some, other)
    if isinstance(some, dict):
        return list(some) == list(other) and all(same(some[key], other[key]) for key in some)
    if isinstance(some, list | tuple):
        return type(some) is type(other) and len(some) == len(other) and all(map(same, some, other))
    return type(some) is type(other) and (some == other or some != some)


def pair(dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    first, second = random(dtype, (4, 2), 1), random(dtype, (5, 4), 2)
    return OrderedDict({"linear.0.weight": first, "linear.0.bias": first[0]}), OrderedDict({"w": second.t()})


def small() -> dict[object, object]:
    """The smallest two widths of a real one."""
    return {key: value for key, value in hypernetwork().items() if key not in (768, 1280)}


def converted(value: Any, folder: Path, *options: str) -> Any:
    torch.save(value, folder / "h.pt")
    (folder / "clean").mkdir()
    ran = ckptool("convert", folder / "h.pt", folder / "clean" / "h.pt", *options)
    assert ran.code == 0, ran.err
    return torch.load(folder / "clean" / "h.pt", weights_only=True)


@pytest.mark.parametrize("save", [save_zip, save_legacy])
def test_to_safetensors(save: Any, tmp_path: Path) -> None:
    value = small()
    save(value, tmp_path / "h.pt")
    loaded = load(convert(tmp_path / "h.pt"))
    sides: dict[Any, Any] = {key: value for key, value in value.items() if isinstance(key, int)}
    expected = {
        f"{width}.{side}.{name}": tensor.tobytes()
        for width, both in sides.items()
        for side, layers in enumerate(both)
        for name, tensor in layers.items()
    }
    assert {name: contents(tensor) for name, tensor in loaded.items()} == expected


@pytest.mark.parametrize("save", [save_zip, save_legacy])
def test_to_a_clean_file_that_torch_loads_with_weights_only(save: Any, tmp_path: Path) -> None:
    save(small(), tmp_path / "h.pt")
    ran = ckptool("convert", tmp_path / "h.pt", tmp_path / "clean.pt")
    assert ran.code == 0, ran.err
    assert same(torch.load(tmp_path / "h.pt"), torch.load(tmp_path / "clean.pt", weights_only=True))


def test_every_plain_value_is_kept(tmp_path: Path) -> None:
    value = {
        320: pair(), 640: list(pair()), "layer_structure": [1, 2, 1], "empty": [], "nothing": None, "on": True,
        "off": False, "rate": 1e-300, "infinite": float("-inf"), "nan": float("nan"), "zero": -0.0,
        "name": "Stil é\u0301 😀",
        "": "", "tuple": (), "nested": {"a": (1, [2.0, {"b": None}])}, "dict": {}, "top": torch.ones(()),
        **{f"int{i}": i for i in (0, -1, 127, 128, 255, 256, -129, 2**31 - 1, 2**31, -(2**31), -(2**31) - 1)},
        **{f"long{i}": i for i in (2**63, -(2**63), 2**64 + 1, 2**200)},
    }  # fmt: skip
    clean = converted(value, tmp_path)
    assert same(value, clean)
    assert str(clean["zero"]) == "-0.0"


@pytest.mark.parametrize("dtype", DTYPES[:6] + DTYPES[6:10] + (torch.uint8,), ids=str)
def test_every_dtype_with_a_storage_of_its_own(dtype: torch.dtype, tmp_path: Path) -> None:
    value = {1: pair(dtype)}
    assert same(value, converted(value, tmp_path))


def test_a_dtype_without_one_is_refused(tmp_path: Path) -> None:
    torch.save({1: pair(torch.uint16)}, tmp_path / "h.pt")
    ran = ckptool("convert", tmp_path / "h.pt", tmp_path / "clean.pt")
    assert (ran.code, os.listdir(tmp_path)) == (3, ["h.pt"])


def test_what_is_not_plain_is_dropped_and_said(tmp_path: Path) -> None:
    value = small() | {"payload": Call(Global("posix", "system"), ("touch PWNED",)), "x": Global("a", "B")}
    save_zip(value, tmp_path / "h.pt")
    ran = ckptool("convert", tmp_path / "h.pt", tmp_path / "clean.pt")
    assert ran.code == 0
    assert "os.system('touch PWNED')" in ran.out or "posix.system('touch PWNED')" in ran.out
    data = (tmp_path / "clean.pt").read_bytes()
    assert b"system" not in data
    assert b"PWNED" not in data
    clean = torch.load(tmp_path / "clean.pt", weights_only=True)
    assert {"payload", "x"}.isdisjoint(clean)
    assert set(clean) == set(small())


def test_the_clean_file_is_a_sound_zip_with_aligned_records(tmp_path: Path) -> None:
    converted({1: pair(), 2: pair(torch.float16)}, tmp_path)
    with zipfile.ZipFile(tmp_path / "clean" / "h.pt") as archive:
        assert archive.testzip() is None
        for info in archive.infolist():
            archive.fp.seek(info.header_offset + 26)  # type: ignore[union-attr]
            lengths = archive.fp.read(4)  # type: ignore[union-attr]
            names, extras = lengths[0] + 256 * lengths[1], lengths[2] + 256 * lengths[3]
            assert (info.header_offset + 30 + names + extras) % 64 == 0


def test_a_clean_file_is_the_same_at_every_call_and_converts_again(tmp_path: Path) -> None:
    torch.save({1: pair(), "name": "x"}, tmp_path / "h.pt")
    for name in ("a/h.pt", "b/h.pt"):
        (tmp_path / name).parent.mkdir()
        assert ckptool("convert", tmp_path / "h.pt", tmp_path / name).code == 0
    first = (tmp_path / "a/h.pt").read_bytes()
    assert first == (tmp_path / "b/h.pt").read_bytes()
    (tmp_path / "c").mkdir()
    assert ckptool("convert", tmp_path / "a/h.pt", tmp_path / "c/h.pt").code == 0
    assert (tmp_path / "c/h.pt").read_bytes() == first
    assert ckptool("scan", tmp_path / "a/h.pt").code == 0


def test_only_a_hypernetwork_becomes_pt(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(1)}, tmp_path / "m.ckpt")
    ran = ckptool("convert", tmp_path / "m.ckpt", tmp_path / "m.pt")
    assert (ran.code, os.listdir(tmp_path)) == (2, ["m.ckpt"])


def test_tied_tensors_of_a_clean_file_are_all_there(tmp_path: Path) -> None:
    shared = torch.ones(2, 2)
    value = {1: (OrderedDict(a=shared), OrderedDict(a=shared))}
    assert same(value, converted(value, tmp_path, "--tied", "alias"))


def test_a_clean_file_is_not_cut_into_shards(tmp_path: Path) -> None:
    torch.save({1: pair(), 2: pair()}, tmp_path / "h.pt")
    ran = ckptool("convert", tmp_path / "h.pt", tmp_path / "clean.pt", "--max-shard-size", "10")
    assert ran.code in (0, 2), ran.err
    assert set(os.listdir(tmp_path)) <= {"h.pt", "clean.pt"}
