"""Every value becomes what torch makes of it, to the bit, NaN among them."""

import threading
from itertools import pairwise

import numpy as np
import pytest
import torch

from ckptool.quantize.formats import FORMATS, SOURCES
from ckptool.quantize.kernels import STEP, Kernel, Overflowed
from ckptool.quantize.tally import Tally
from tests.quantize.casting import TORCH, Bits, by_torch, cast

TARGETS = list(FORMATS)


def sample() -> Bits:
    """F32 of every sign and exponent, with the mantissas around every tie of every format, and many random ones."""
    steps = [1 << shift for shift in range(23)]
    mantissas = {0, 1, 0x7FFFFF, 0x7FFFFE, *steps, *(s - 1 for s in steps), *(s + 1 for s in steps)}
    for kept in (2, 3, 7, 10):  # bits that a format keeps: a tie above even and odd, and what is beside it
        tie = 1 << (22 - kept)
        mantissas |= {
            (code << (23 - kept)) + tie + beside for code in range(min(1 << kept, 64)) for beside in (-1, 0, 1)
        }
    exact = np.array(sorted(mantissas), "<u4")[None, :] | (np.arange(512, dtype="<u4") << 23)[:, None]
    random = np.random.default_rng(0).integers(0, 1 << 32, 1 << 18, dtype="<u4")
    return np.concatenate([exact.reshape(-1), random])


def same(some: Bits, other: Bits) -> bool:
    return some.tobytes() == other.tobytes()


@pytest.mark.parametrize("target", TARGETS)
def test_a_sample_of_f32_is_cast_as_torch_casts_it(target: str) -> None:
    values = sample()
    assert same(cast(values, "F32", target)[0], by_torch(values, "F32", target))


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_every_f32_there_is_is_cast_as_torch_casts_it(target: str) -> None:
    low = np.arange(1 << 20, dtype="<u4")
    for high in range(1 << 12):
        values = low | np.uint32(high << 20)
        assert same(cast(values, "F32", target)[0], by_torch(values, "F32", target)), f"{high:#x}"


def test_f16_overflows_where_half_overflows() -> None:
    """The helper clamps; this holds torch's own infinity beside the range that is told here."""
    edge = np.array([65504, 65519.996, 65520, -65519.996, -65520], "<f4")
    assert torch.from_numpy(edge).half().isinf().tolist() == [False, False, True, False, True]
    assert cast(edge.view("<u4"), "F32", "F16")[1].total().overflowed == 2


@pytest.mark.parametrize(("source", "target"), [(s, t) for s in ("F16", "BF16") for t in ("F8_E4M3", "F8_E5M2")])
def test_every_half_is_cast_as_torch_casts_it(source: str, target: str) -> None:
    values = np.arange(1 << 16, dtype="<u2")
    assert same(cast(values, source, target)[0], by_torch(values, source, target))


@pytest.mark.parametrize("target", TARGETS)
def test_f64_goes_by_way_of_f32_as_in_torch(target: str) -> None:
    numbers = np.random.default_rng(1).standard_normal(20_000) * 10.0 ** np.arange(-320, 300, 620 / 20_000)[:20_000]
    ties = 1 + 2.0**-11 + 2.0 ** -np.arange(30, 52)
    values = np.concatenate([numbers, ties, [0.0, -0.0, np.inf, -np.inf, 1e308, -1e308]])
    assert same(cast(values, "F64", target)[0], by_torch(values, "F64", target))


@pytest.mark.parametrize("target", TARGETS)
def test_nan_of_f64_stays_nan(target: str) -> None:
    values = np.array([0x7FF0000000000001, 0xFFF8123456789ABC], "<u8")
    codes, tally = cast(values, "F64", target)
    assert torch.from_numpy(codes.view(f"i{codes.itemsize}")).view(TORCH[target]).float().isnan().all()
    assert tally.total().nan == 2


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("source", list(SOURCES))
def test_pieces_of_any_size_give_what_the_whole_gives(source: str, target: str) -> None:
    width = np.dtype(SOURCES[source][1]).itemsize
    values = np.random.default_rng(2).standard_normal(5000).astype("<f4")
    bits = values.astype("<f8") if width == 8 else values.astype("<f2").view("<u2") if width == 2 else values
    whole, tally = cast(bits, source, target)
    parts, cuts = Tally(5000), [0, 1, 2, 9, 700, 701, 4999, 5000]
    kernel = Kernel(source, target, parts, clamp=True)
    made = b""
    for start, end in pairwise(cuts):
        room = bytearray((end - start) * whole.itemsize)
        kernel(memoryview(bits[start:end].tobytes()), memoryview(room))
        made += room
    assert made == whole.tobytes()
    assert parts.total().max_error == tally.total().max_error
    assert parts.relative_error() == pytest.approx(tally.relative_error(), rel=1e-5)


@pytest.mark.parametrize("shift", [1, 2, 3])
def test_buffers_need_no_alignment(shift: int) -> None:
    values = sample()[:3000]
    source, target = bytearray(shift + values.nbytes), bytearray(shift + 2 * len(values))
    source[shift:] = values.tobytes()
    Kernel("F32", "F16", Tally(len(values)), clamp=True)(memoryview(source)[shift:], memoryview(target)[shift:])
    assert target[shift:] == cast(values, "F32", "F16")[0].tobytes()


def test_no_elements_are_no_problem() -> None:
    codes, tally = cast(np.zeros(0, "<f4"), "F32", "F16")
    assert len(codes) == 0
    assert tally.complete
    assert tally.relative_error() == 0


def test_threads_share_a_kernel() -> None:
    values = np.random.default_rng(3).standard_normal(STEP + 1000).astype("<f4")
    tally = Tally(len(values) * 4)
    kernel = Kernel("F32", "F16", tally, clamp=True)
    rooms = [bytearray(2 * len(values)) for _ in range(4)]
    threads = [threading.Thread(target=kernel, args=(memoryview(values.tobytes()), memoryview(room))) for room in rooms]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {bytes(room) for room in rooms} == {values.astype("<f2").tobytes()}
    assert tally.total().elements == 4 * len(values)


@pytest.mark.parametrize("target", TARGETS)
def test_what_does_not_fit_is_told_when_it_is_not_to_be_clamped(target: str) -> None:
    into = FORMATS[target]
    below = np.nextafter(np.float32(into.limit), np.float32(0))
    cast(np.array([below, -below], "<f4"), "F32", target, clamp=False)
    for beyond in (into.limit, -into.limit):
        with pytest.raises(Overflowed):
            cast(np.array([0, beyond], "<f4"), "F32", target, clamp=False)
