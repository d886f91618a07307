"""Whatever torch saves comes out as the bytes that safetensors itself writes for the same tensors."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import Parameter

from tests.convert.converting import DTYPES, Tensors, conventional, convert, convert_by_library, random

SHAPES = ((), (0,), (1,), (7,), (2, 0, 3), (1, 5, 1), (2, 3, 4), (1, 1, 1, 2, 1, 3))
YOUNG = (torch.uint16, torch.uint32, torch.uint64)

Save = Callable[[Any, Path], None]


def save_zip(value: Any, path: Path) -> None:
    torch.save(value, path)


def save_legacy(value: Any, path: Path) -> None:
    torch.save(value, path, _use_new_zipfile_serialization=False)


def save_without_records(value: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(value, protocol=2))


SAVES: tuple[Save, ...] = (save_zip, save_legacy, save_without_records)


def check(tensors: Tensors, path: Path, save: Save) -> None:
    save(tensors, path)
    assert convert_by_library(path, path.with_suffix(".safetensors")) == conventional(tensors)


def views() -> Tensors:
    """Every way in which a tensor can lie in its storage, and tensors that share one."""
    base = random(torch.float32, (64, 48), 1)
    flat = random(torch.int16, (120,), 2)
    return {
        "whole": base,
        "tied": base,
        "transposed": base.t(),
        "row": base[3],
        "column": base[:, 5],
        "corner": base[10:20, 5:7],
        "steps": base[::3, ::5],
        "last_element": base[63, 47],
        "expanded": torch.tensor([1.5]).expand(7, 9),
        "expanded_rows": random(torch.float32, (5, 1), 3).expand(5, 6),
        "expanded_part": base[2:3, 4:8].expand(6, 4),
        "permuted": random(torch.bfloat16, (3, 4, 5, 6), 4).permute(3, 1, 0, 2),
        "scalar": torch.tensor(3.0),
        "empty": torch.empty(0, 5),
        "empty_view": base[5:5, 2:],
        "channels_last": random(torch.float16, (2, 3, 4, 5), 5).to(memory_format=torch.channels_last),
        "windows": flat.as_strided((10, 8), (3, 2), 5),
        "one_long_stride": flat.as_strided((1, 4), (999, 1), 3),
        "diagonal": base.diagonal(),
        "parameter": Parameter(base[1:3]),
        "frozen": Parameter(random(torch.float64, (2, 2), 6), requires_grad=False),
    }


def flagged() -> Tensors:
    """Views whose elements torch leaves unconjugated or unnegated in the storage."""
    some, other = random(torch.complex64, (4, 3), 7), random(torch.complex64, (4, 3), 9)
    return {
        "conjugated": some.conj(),
        "conjugated_transposed": some.t().conj(),
        "negated_imaginary": other.conj().imag,
        "negated_complex": torch._neg_view(some),
        "negated": torch._neg_view(random(torch.float16, (5,), 8)),
        "both": torch._neg_view(some).conj(),
        "real_part": other.real,
        "expanded": some[:1].conj().expand(5, 3),
    }


@pytest.mark.parametrize("save", SAVES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_in_every_shape(dtype: torch.dtype, save: Save, tmp_path: Path) -> None:
    check({f"t{shape}": random(dtype, shape, seed) for seed, shape in enumerate(SHAPES)}, tmp_path / "m.ckpt", save)


@pytest.mark.parametrize("save", SAVES)
def test_all_dtypes_in_one_file_are_ordered_as_safetensors_orders_them(save: Save, tmp_path: Path) -> None:
    tensors = {f"{name}{i}": random(d, (i + 1,), i) for i, d in enumerate(DTYPES) for name in ("z.", "a.", "ä.")}
    check(tensors, tmp_path / "m.ckpt", save)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_view_of_every_dtype(dtype: torch.dtype, tmp_path: Path) -> None:
    whole = random(dtype, (6, 5, 4))
    tensors = {"turned": whole.permute(2, 0, 1), "stepped": whole[1::2, :, 1:3], "part": whole[2:4]}
    check(tensors, tmp_path / "m.ckpt", save_zip)


@pytest.mark.parametrize("save", SAVES)
def test_every_view(save: Save, tmp_path: Path) -> None:
    check(views(), tmp_path / "m.ckpt", save)


@pytest.mark.parametrize("save", SAVES)
def test_conjugate_and_negative_bits_are_applied(save: Save, tmp_path: Path) -> None:
    check(flagged(), tmp_path / "m.ckpt", save)


@pytest.mark.parametrize("modern", [True, False])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_of_torch_save(protocol: int, modern: bool, tmp_path: Path) -> None:
    def save(value: Any, path: Path) -> None:
        torch.save(value, path, pickle_protocol=protocol, _use_new_zipfile_serialization=modern)

    check(views(), tmp_path / "m.ckpt", save)


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol_of_a_plain_pickle(protocol: int, tmp_path: Path) -> None:
    large = {"large": random(torch.float32, (200, 300)), "parameter": Parameter(torch.ones(2))}
    check(
        views() | large | {"young": random(torch.uint16, (5,)), "f8": random(torch.float8_e5m2, (5,))},
        tmp_path / "m.pkl",
        lambda value, path: path.write_bytes(pickle.dumps(value, protocol=protocol)) and None,
    )


@pytest.mark.parametrize("save", SAVES[:2])
def test_packed_four_bit_floats(save: Save, tmp_path: Path) -> None:
    packed = random(torch.uint8, (3, 5)).view(torch.float4_e2m1fn_x2)
    tensors = {"packed": packed, "bytes": random(torch.uint8, (3,)), "flag": torch.tensor(True), "part": packed[1:]}
    check(tensors, tmp_path / "m.ckpt", save)


def test_tensors_with_attributes_and_hooks(tmp_path: Path) -> None:
    marked, parameter = random(torch.float32), Parameter(torch.ones(3))
    marked.origin = "training"  # type: ignore[attr-defined]
    parameter.origin = "training"  # type: ignore[attr-defined]
    check(
        {"marked": marked, "parameter": parameter, "buffer": torch.nn.Buffer(torch.ones(2))},
        tmp_path / "m.pt",
        save_zip,
    )


def test_names_of_any_script_and_length(tmp_path: Path) -> None:
    names = [
        "",
        ".",
        "ключ",
        "キー",
        "😀",
        '"quoted"\\',
        "tab\tnew\nline\x01\x7f",
        "\u2028",
        "a" * 5000,
        "é",
        "e\u0301",
    ]
    check({name: torch.tensor([i]) for i, name in enumerate(names)}, tmp_path / "m.ckpt", save_zip)


def test_storages_on_both_sides_of_the_size_from_which_the_kernel_copies(tmp_path: Path) -> None:
    sizes = (0, 1, 65535, 65536, 65537, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20)
    tensors = {f"n{n:08}": random(torch.uint8, (n,), n) for n in sizes} | {"d": random(torch.float64, (9,))}
    check(tensors, tmp_path / "m.ckpt", save_zip)
    check(tensors, tmp_path / "l.ckpt", save_legacy)


def test_many_small_tensors(tmp_path: Path) -> None:
    check({f"t.{i}": torch.full((i % 7,), i, dtype=torch.int32) for i in range(3000)}, tmp_path / "m.ckpt", save_zip)


def test_the_command_writes_what_the_library_writes(tmp_path: Path) -> None:
    torch.save(views(), tmp_path / "m.ckpt")
    assert convert(tmp_path / "m.ckpt") == conventional(views())
