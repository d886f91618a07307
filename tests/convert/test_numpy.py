"""Pickles of numpy arrays, of every protocol and layout, come out as safetensors writes the same arrays."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch

from tests.convert.converting import ckptool, conventional, convert_by_library, header_of

Arrays = dict[str, Any]

CODES = ("b1", "i1", "u1", "i2", "u2", "f2", "i4", "u4", "f4", "i8", "u8", "f8", "c8")


def some(code: str, shape: tuple[int, ...] = (3, 4)) -> Any:
    """Any bits of a dtype; a bool is 0 or 1."""
    kind = np.dtype(code)
    data = np.random.default_rng(0).integers(0, 2 if code == "b1" else 256, np.prod(shape, dtype=int) * kind.itemsize)
    return data.astype(np.uint8).view(kind).reshape(shape)


def layouts() -> Arrays:
    base = some("f4", (20, 30))
    return {
        "plain": base,
        "fortran": np.asfortranarray(base),
        "fortran_cube": np.asfortranarray(some("i2", (2, 3, 4))),
        "turned": base.T,
        "stepped": base[::2, ::3],
        "backwards": base[::-1],
        "broadcast": np.broadcast_to(base[:1], (4, 30)),
        "zero_d": np.array(2.5),
        "empty": np.empty((0, 3), np.int64),
        "large": some("f4", (300, 300)),
        "one": np.ones(1, "f2"),
        "same": base,
    }


def swapped() -> Arrays:
    return {code: some(code).astype(np.dtype(code).newbyteorder(">")) for code in CODES if np.dtype(code).itemsize > 1}


def expected(arrays: Arrays) -> bytes:
    native = {
        name: np.array(array.astype(array.dtype.newbyteorder("=")), order="C", copy=True).reshape(array.shape)
        for name, array in arrays.items()
    }
    return safetensors.numpy.save(native, metadata={"format": "pt"})


def check(arrays: Arrays, data: bytes, path: Path) -> None:
    path.write_bytes(data)
    assert convert_by_library(path, path.with_suffix(".safetensors")) == expected(arrays)


@pytest.mark.parametrize("protocol", range(6))
def test_every_dtype(protocol: int, tmp_path: Path) -> None:
    arrays = {code: some(code) for code in CODES}
    check(arrays, pickle.dumps(arrays, protocol=protocol), tmp_path / "m.pkl")


@pytest.mark.parametrize("protocol", range(6))
def test_every_layout(protocol: int, tmp_path: Path) -> None:
    check(layouts(), pickle.dumps(layouts(), protocol=protocol), tmp_path / "m.pkl")


@pytest.mark.parametrize("protocol", range(6))
def test_big_endian_arrays_are_written_little_endian(protocol: int, tmp_path: Path) -> None:
    check(swapped(), pickle.dumps(swapped(), protocol=protocol), tmp_path / "m.pkl")


def test_big_endian_values_are_the_same_numbers(tmp_path: Path) -> None:
    data = pickle.dumps({"a": np.array([1, -2, 70_000], ">i4")})
    (tmp_path / "m.pkl").write_bytes(data)
    written = convert_by_library(tmp_path / "m.pkl", tmp_path / "m.safetensors")
    assert safetensors.numpy.load(written)["a"].tolist() == [1, -2, 70_000]


@pytest.mark.parametrize("modern", [True, False])
def test_arrays_beside_tensors_in_a_torch_file(modern: bool, tmp_path: Path) -> None:
    arrays = layouts() | swapped()
    torch.save(arrays | {"t": torch.ones(2)}, tmp_path / "m.pt", _use_new_zipfile_serialization=modern)
    written = convert_by_library(tmp_path / "m.pt", tmp_path / "m.safetensors")
    assert written == expected(arrays | {"t": np.ones(2, "f4")})


@pytest.mark.filterwarnings("ignore:numpy.core")
@pytest.mark.parametrize("protocol", [2, 5])
def test_names_of_numpy_1(protocol: int, tmp_path: Path) -> None:
    """numpy 2 moved what its pickles refer to; files written before name the old modules."""
    data = pickle.dumps({"a": some("f4")}, protocol=protocol)
    old = data.replace(b"numpy._core.", b"numpy.core.")
    if protocol == 5:  # there the length of a name stands before it
        new = [f"numpy._core.{part}".encode() for part in ("numeric", "multiarray")]
        for name in new:
            short = name.replace(b"_core", b"core")
            data = data.replace(bytes([len(name)]) + name, bytes([len(short)]) + short)
        frame = data.find(b"\x95")
        old = data[: frame + 1] + (len(data) - frame - 9).to_bytes(8, "little") + data[frame + 9 :]
    assert b"_core" not in old
    assert pickle.loads(old)["a"].tobytes() == some("f4").tobytes()
    check({"a": some("f4")}, old, tmp_path / "m.pkl")


def test_a_single_array_is_named_tensor(tmp_path: Path) -> None:
    check({"tensor": some("f4")}, pickle.dumps(some("f4")), tmp_path / "m.pkl")


def test_a_list_of_arrays_is_named_by_index(tmp_path: Path) -> None:
    arrays = [some("f4"), some("i8"), some("b1")]
    check({str(i): array for i, array in enumerate(arrays)}, pickle.dumps(arrays), tmp_path / "m.pkl")


@pytest.mark.parametrize("array", [np.array(["text"]), np.array([object()]), np.zeros(2, "c16"), np.zeros(2, "M8[s]")])
def test_arrays_of_something_else_than_numbers_are_refused(array: Any, tmp_path: Path) -> None:
    (tmp_path / "m.pkl").write_bytes(pickle.dumps({"good": some("f4"), "odd": array}))
    ran = ckptool("convert", tmp_path / "m.pkl")
    assert ran.code == 3
    assert "odd" in ran.err
    assert [path.name for path in tmp_path.iterdir()] == ["m.pkl"]


def test_numpy_scalars_beside_a_state_dict_are_no_tensors(tmp_path: Path) -> None:
    value = {"state_dict": {"w": torch.ones(2)}, "epoch": np.int64(7), "loss": np.float32(0.5), "flag": np.bool_(True)}
    torch.save(value, tmp_path / "m.ckpt")
    written = convert_by_library(tmp_path / "m.ckpt", tmp_path / "m.safetensors")
    assert written == conventional({"w": torch.ones(2)}, {"epoch": "7"})
    assert header_of(written)["__metadata__"] == {"epoch": "7", "format": "pt"}
