"""The figures of a cast are those of the values, counted one by one."""

import math

import numpy as np
import pytest
import torch

from ckptool.quantize.formats import FORMATS
from ckptool.quantize.tally import Counts, Tally
from tests.quantize.casting import TORCH, Bits, by_torch, cast

TARGETS = list(FORMATS)


def widened(codes: Bits, target: str) -> Bits:
    numbers: Bits = torch.from_numpy(codes.view(f"i{codes.itemsize}")).view(TORCH[target]).double().numpy()
    return numbers


def expected(values: Bits, target: str) -> dict[str, float]:
    """Counted in F64 by torch's result."""
    codes = by_torch(values, "F32", target)
    before, after = values.astype("<f8"), widened(codes, target)
    finite = np.isfinite(before)
    error = np.where(finite, before - np.where(finite, after, 0), 0)
    size = codes & (FORMATS[target].sign - 1)
    return {
        "max_error": float(abs(error).max()),
        "relative_error": float(np.linalg.norm(error) / np.linalg.norm(before[finite])),
        "overflowed": int((abs(values) >= np.float32(FORMATS[target].limit))[finite].sum()),
        "underflowed": int(((before != 0) & (size == 0)).sum()),
        "subnormal": int(((size < FORMATS[target].normal) & (size > 0)).sum()),
        "nan": int(np.isnan(before).sum()),
        "inf": int(np.isinf(before).sum()),
    }


def assert_counted(values: Bits, target: str) -> None:
    tally = cast(values, "F32", target)[1]
    total, wanted = tally.total(), expected(values, target)
    if FORMATS[target].infinity is None:
        wanted["overflowed"] += wanted["inf"]
    for name in ("overflowed", "underflowed", "subnormal", "nan", "inf", "max_error"):
        assert getattr(total, name) == wanted[name], name
    assert tally.relative_error() == pytest.approx(wanted["relative_error"], rel=1e-5)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("deviation", [0.03, 1e-5, 1e-8, 50.0])
def test_of_ordinary_weights(target: str, deviation: float) -> None:
    assert_counted(np.random.default_rng(0).normal(0, deviation, 300_000).astype("<f4"), target)


@pytest.mark.parametrize("target", TARGETS)
def test_of_weights_with_everything_in_them(target: str) -> None:
    values = np.random.default_rng(1).normal(0, 1, 10_000).astype("<f4")
    values[:12] = [0, -0.0, np.nan, -np.nan, np.inf, -np.inf, 1e-45, -1e-40, 3e38, 65519, -65520, 5e-8]
    assert_counted(values, target)


@pytest.mark.parametrize("target", TARGETS)
def test_of_values_whose_squares_f32_cannot_hold(target: str) -> None:
    for size in (1e-30, 1e-42, 1e25):
        values = (np.random.default_rng(2).uniform(1, 2, 100) * size).astype("<f4")
        assert_counted(values, target)


@pytest.mark.parametrize("values", [[0.0, 0.0], [math.nan], [math.inf, -math.inf], []])
def test_are_numbers_even_of_what_is_none(values: list[float]) -> None:
    tally = cast(np.array(values, "<f4"), "F32", "F16")[1]
    assert tally.relative_error() == 0
    assert tally.total().max_error == 0


def test_of_f64_are_held_against_the_f64() -> None:
    values = np.array([1 + 2.0**-40, 1e-320, 0.1])
    total = cast(values, "F64", "F16")[1].total()
    assert total.max_error == abs(0.1 - float(np.float16(0.1)))
    assert total.underflowed == 1


def test_do_not_overflow_themselves() -> None:
    tally = cast(np.array([1.7e308, -1.7e308]), "F64", "F16")[1]
    assert tally.relative_error() == pytest.approx(1)
    assert math.isfinite(tally.total().error_norm)


def test_do_not_depend_on_the_order_of_the_parts() -> None:
    parts = [Counts(elements=1, norm=number, error_norm=number / 3) for number in (1e-9, 3.3, 1e5, 0.1, 7e-3)]
    forward, backward = Tally(5), Tally(5)
    for part in parts:
        forward.add(part)
    for part in reversed(parts):
        backward.add(part)
    assert forward.total() == backward.total()


def test_of_tied_tensors_are_those_of_one() -> None:
    values = np.random.default_rng(4).normal(0, 1e-4, 1000).astype("<f4")
    once = cast(values, "F32", "F16")[1]
    twice = Tally(1000, [*once.parts, *once.parts])
    assert twice.total().subnormal == once.total().subnormal > 0
    assert twice.relative_error() == pytest.approx(once.relative_error())


@pytest.mark.parametrize("scale", [1e-3, 0.7, 12.5])
def test_of_scaled_weights_are_about_what_the_scale_restores(scale: float) -> None:
    values = np.random.default_rng(5).normal(0, scale * 50, 4000).astype("<f4")
    codes, tally = cast(values, "F32", "F8_E4M3", clamp=False, scale=scale)
    error = values - widened(codes, "F8_E4M3") * scale
    assert tally.total().max_error == pytest.approx(abs(error).max(), rel=1e-5)
    assert tally.relative_error() == pytest.approx(np.linalg.norm(error) / np.linalg.norm(values), rel=1e-5)
