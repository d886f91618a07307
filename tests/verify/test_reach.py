"""Whatever the container and however its bytes lie, a tensor is compared by its values, and memory stays small."""

import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ckptool.verify.compare import is_equal
from ckptool.verify.histogram import BINS, LOWEST, Histograms, counted
from ckptool.verify.rounding import codes_of
from tests.convert.converting import DTYPES, random
from tests.verify.verifying import Tensors, changed, checkpoint, made, parity, plain, unexplained, verify


def deflated(source: Path, target: Path) -> Path:
    """The same archive with its members compressed, as some tools leave them."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return target


def test_deflated_archives_are_compared_on_either_side(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "a.ckpt", "vae")
    packed = deflated(source, tmp_path / "b.ckpt")
    target = plain(tmp_path / "c.safetensors", "vae")
    for one, other in ((packed, target), (source, packed), (packed, packed)):
        assert parity(one, other)["identical"] == len(load_file(target))
    damaged = changed(target, tmp_path / "d.safetensors", lambda t: t.update({"quant_conv.bias": torch.ones(8)}))
    assert list(unexplained(packed, damaged)) == ["quant_conv.bias"]


@pytest.mark.parametrize("legacy", [False, True])
def test_views_with_strides_are_compared_by_their_values(tmp_path: Path, legacy: bool) -> None:
    weight = torch.randn(300, 500)
    views = {"t": weight.T, "cut": weight[3:200:2, 7:], "one": weight[5, 6], "row": weight[2].expand(4, 500)}
    source, target = tmp_path / "a.pt", tmp_path / "b.safetensors"
    torch.save(views, source, _use_new_zipfile_serialization=not legacy)
    save_file({name: view.contiguous().clone() for name, view in views.items()}, target)
    assert parity(source, target)["identical"] == 4
    assert parity(source, source)["identical"] == 4

    def change(tensors: Tensors) -> None:
        tensors["t"][450, 17] += 1

    found = unexplained(source, changed(target, tmp_path / "c.safetensors", change))
    assert found["t"]["first_difference"]["index"] == [450, 17]


@pytest.mark.parametrize("dtype", DTYPES)
def test_tensors_of_every_dtype_are_compared_to_the_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    tensor = random(dtype, (5, 7), 3)
    one, other = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_file({"x": tensor, "empty": torch.empty(0, dtype=dtype)}, one)
    assert parity(one, one)["identical"] == 2
    bits = tensor.clone().reshape(-1).view(torch.uint8)
    bits[-1] ^= 1
    save_file({"x": bits.view(dtype).reshape(5, 7), "empty": torch.empty(0, dtype=dtype)}, other)
    found = unexplained(one, other)
    assert found["x"]["first_difference"]["index"] == [4, 6]


def test_parts_of_pieces_are_compared_whatever_their_length() -> None:
    for length in (1, 7, 8, 9, 4095):
        one = codes_of(bytes(length), "U8").copy()
        other = one.copy()
        assert is_equal(one, other)
        other[-1] = 1
        assert not is_equal(one, other)


def test_a_difference_behind_the_first_pieces_has_its_place(tmp_path: Path) -> None:
    """Several jobs, several pieces each: the first of all differences is told."""
    one, other = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    tensor = torch.zeros(3_000, 1_001)
    save_file({"x": tensor}, one)
    tensor[2_999, 1_000] = tensor[1_500, 3] = 2
    save_file({"x": tensor}, other)
    first = unexplained(one, other)["x"]["first_difference"]
    assert first == {
        "index": [1_500, 3], "original": 0.0, "candidate": 2.0, "differing": 2, "of": 3_003_000, "max_abs": 2.0
    }  # fmt: skip


def test_a_histogram_counts_each_value_of_both_files_once(tmp_path: Path) -> None:
    from contextlib import ExitStack

    from ckptool.convert.read import read
    from ckptool.verify.explain import explain

    source = plain(tmp_path / "a.safetensors")
    target, _ = made("fp16", source, tmp_path / "b.safetensors")
    found = Histograms()
    with ExitStack() as stack:
        explain(read(source, stack), read(target, stack), histograms=found)
    weights = [t for name, t in load_file(source).items() if name.startswith("model.diffusion_model.")]
    for side in (found.original, found.candidate):
        bins = side["unet"]
        assert sum(bins.counts) + bins.zeros + bins.nan == sum(t.numel() for t in weights)


def test_bins_are_powers_of_two() -> None:
    values = torch.tensor([0.0, -0.0, 1.0, -1.999, 2.0, float("nan"), float("inf"), 1e-30])
    zeros, nan, counts = counted(codes_of(values.numpy().tobytes(), "F32"), "F32")
    assert (zeros, nan) == (2, 1)
    assert counts[-LOWEST] == 2
    assert counts[1 - LOWEST] == 1
    assert counts[BINS - 1] == 1
    assert counts[0] == 1


def test_nothing_of_a_comparison_is_left_in_the_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "spool"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    packed = deflated(checkpoint(tmp_path / "a.ckpt", "vae"), tmp_path / "b.ckpt")
    assert verify(packed, packed)[0].code == 0
    assert not list(folder.iterdir())
