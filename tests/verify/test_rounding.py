"""A rounding is exact, and nothing else passes as one."""

from pathlib import Path

import numpy
import pytest
import torch
from safetensors.torch import load_file, save_file

from ckptool.verify.difference import Change, differences
from ckptool.verify.rounding import RANGE, codes_of, is_beyond, numbers_of, rounded
from tests.verify.verifying import Tensors, changed, checkpoint, made, parity, plain, unexplained

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
COMMANDS = [("fp16", "F16"), ("bf16", "BF16"), ("fp8", "F8_E4M3")]


def any_bits(count: int) -> torch.Tensor:
    """F32 of any bits, and as many of the size of weights and activations."""
    generator = numpy.random.default_rng(1)
    bits = generator.integers(0, 2**32, count, dtype=numpy.uint32).view(numpy.float32)
    sizes = generator.standard_normal(count, dtype=numpy.float32) * 2.0 ** generator.integers(-24, 18, count)
    ties = numpy.arange(count, dtype=numpy.float32) / 2**10 * 2.0 ** generator.integers(-12, 6, count)
    with numpy.errstate(invalid="ignore"):
        return torch.from_numpy(numpy.concatenate([bits, sizes, ties]).astype(numpy.float32))


def codes(tensor: torch.Tensor, dtype: str) -> numpy.ndarray:  # type: ignore[type-arg]
    return codes_of(bytes(tensor.contiguous().view(torch.uint8).numpy().tobytes()), dtype)  # type: ignore[no-any-return]


@pytest.mark.parametrize("dtype", DTYPES)
def test_rounding_is_that_of_torch(dtype: str) -> None:
    source = any_bits(1 << 18)
    numbers = source.numpy()
    theirs = codes(source.to(DTYPES[dtype]), dtype)
    with numpy.errstate(all="ignore"):
        beyond = is_beyond(numbers, dtype)
        off = (rounded(numbers, dtype) != theirs) & ~numpy.isnan(numbers) & ~beyond
        assert not off.any()
        # E4M3 has no infinity: torch writes the largest value there.
        made = numbers_of(theirs, dtype)[beyond]
    assert (numpy.isinf(made) | (numpy.abs(made) == RANGE["F8_E4M3"][0])).all()


@pytest.mark.parametrize("after", DTYPES)
@pytest.mark.parametrize("before", DTYPES)
def test_a_cast_by_torch_is_explained_and_its_neighbour_is_not(before: str, after: str) -> None:
    source = torch.randn(4096).mul(0.1).to(DTYPES[before])
    target = source.to(DTYPES[after])
    change = Change(before, after)
    one, other = codes(source, before), codes(target, after).copy()
    assert differences(one, other, change, 0).wrong == 0
    other[77] += 1
    found = differences(one, other, change, 1000)
    assert found.wrong == 1
    assert found.first is not None
    assert found.first.index == 1077


def test_f64_may_have_been_rounded_directly_or_by_way_of_f32() -> None:
    numbers = torch.tensor([1 + 2**-11 + 2**-40], dtype=torch.float64)  # by way of F32 it is a tie
    one = codes(numbers, "F64")
    for other in (numbers.half(), torch.tensor([1 + 2**-10], dtype=torch.float16)):
        assert differences(one, codes(other, "F16"), Change("F64", "F16"), 0).wrong == 0
    assert differences(one, codes(torch.tensor([1.01]).half(), "F16"), Change("F64", "F16"), 0).wrong == 1


def test_a_nan_may_become_any_nan_in_another_dtype_and_nothing_else() -> None:
    one = codes(torch.tensor([float("nan")]), "F32")
    change = Change("F32", "F16")
    assert differences(one, numpy.array([0x7E01], "<u2"), change, 0).wrong == 0
    assert differences(one, numpy.array([0x7C00], "<u2"), change, 0).wrong == 1
    assert differences(one, numpy.array([0], "<u2"), change, 0).wrong == 1


def test_values_that_a_cast_made_infinite_are_named(tmp_path: Path) -> None:
    source, target = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    weight = torch.randn(8, 8)
    weight[3, 4] = 70_000
    save_file({"a.weight": weight}, source)
    save_file({"a.weight": weight.half()}, target)
    found = unexplained(source, target)["a.weight"]
    assert "infinite" in found["why"]
    assert found["first_difference"]["index"] == [3, 4]
    assert found["first_difference"]["candidate"] == "inf"
    save_file({"a.weight": weight.clamp(-65504, 65504).half()}, target)
    assert parity(source, target)["cast"][0]["clamped"] == 1
    wrong = weight.clamp(-65504, 65504).half()
    wrong[0, 0] = 65504
    save_file({"a.weight": wrong}, target)
    assert list(unexplained(source, target)) == ["a.weight"]


def test_an_infinity_stays_one(tmp_path: Path) -> None:
    source, target = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_file({"a": torch.tensor([float("inf"), 1.0])}, source)
    save_file({"a": torch.tensor([float("inf"), 1.0]).half()}, target)
    parity(source, target)
    save_file({"a": torch.tensor([65504.0, 1.0]).half()}, target)
    assert list(unexplained(source, target)) == ["a"]


@pytest.mark.parametrize(("command", "dtype"), COMMANDS)
def test_what_the_casting_commands_write_is_explained(tmp_path: Path, command: str, dtype: str) -> None:
    source = checkpoint(tmp_path / "a.ckpt")
    target, report = made(command, source, tmp_path / "b.safetensors")
    for expect in ((), ("--expect", report)):
        tensors = parity(source, target, *expect)
        assert dtype in {item["to"] for item in tensors["cast"]}
        assert tensors["identical"] > 0


@pytest.mark.parametrize("option", ["--scale", "--format=e5m2"])
def test_every_kind_of_fp8_is_explained(tmp_path: Path, option: str) -> None:
    source = checkpoint(tmp_path / "a.ckpt")
    target, _ = made("fp8", source, tmp_path / "b.safetensors", option)
    tensors = parity(source, target)
    assert bool(tensors["added"]) == (option == "--scale")


def test_a_wrong_scale_and_a_scale_too_large_are_found(tmp_path: Path) -> None:
    source = plain(tmp_path / "a.safetensors")
    target, _ = made("fp8", source, tmp_path / "b.safetensors", "--scale")
    weight = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
    scale = weight.replace(".weight", ".scale_weight")

    def wrong(tensors: Tensors) -> None:
        tensors[scale] = tensors[scale] * 1.5

    def large(tensors: Tensors) -> None:
        original = load_file(source)[weight]
        tensors[scale] = tensors[scale] * 64
        tensors[weight] = (original / tensors[scale]).to(torch.float8_e4m3fn)

    assert list(unexplained(source, changed(target, tmp_path / "c.safetensors", wrong))) == [weight]
    assert (
        "scale is too large" in unexplained(source, changed(target, tmp_path / "d.safetensors", large))[weight]["why"]
    )


def test_eight_wrong_values_in_one_attention_matrix_of_an_fp16_copy_are_found(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "a.ckpt")
    target, report = made("fp16", source, tmp_path / "b.safetensors")
    name = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"

    def change(tensors: Tensors) -> None:
        tensors[name].view(-1)[10:18] += 0.01

    found = unexplained(source, changed(target, tmp_path / "c.safetensors", change), "--expect", report)
    assert list(found) == [name]
    assert found[name]["first_difference"]["differing"] == 8


def test_a_tensor_may_also_come_in_a_wider_dtype(tmp_path: Path) -> None:
    source, target = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_file({"a": torch.randn(100).half()}, source)
    save_file({"a": load_file(source)["a"].float()}, target)
    assert parity(source, target)["cast"] == [{"name": "a", "component": "other", "from": "F16", "to": "F32"}]
