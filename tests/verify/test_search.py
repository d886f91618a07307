"""How far a model may be changed within an error of the reference step."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ckptool.convert.read import read
from ckptool.errors import Refused, UsageError
from ckptool.tensor import Cast, Mapped, Plan
from ckptool.verify.denoise import Settings, denoise
from ckptool.verify.search import HIGHEST, keep_wide, largest_threshold
from tests.verify.models import save, tensors

SETTINGS = Settings(steps=1, size=16)


def pruned(threshold: float) -> Callable[[Plan], Plan]:
    """Zero all weights of the network below a threshold, as their bytes pass."""

    def change(elements: memoryview) -> None:
        values = torch.frombuffer(elements, dtype=torch.float32)
        values[values.abs() < threshold] = 0

    return lambda plan: replace(
        plan, tensors=tuple(replace(t, data=Mapped(t.data, 4, change)) if len(t.shape) > 1 else t for t in plan.tensors)
    )


def narrow(source: memoryview, target: memoryview) -> None:
    torch.frombuffer(target, dtype=torch.bfloat16).copy_(torch.frombuffer(source, dtype=torch.float32))


def cast(kept: frozenset[str]) -> Callable[[Plan], Plan]:
    """Cast all but `kept` to BF16."""
    return lambda plan: replace(
        plan,
        tensors=tuple(
            t if t.name in kept else replace(t, dtype="BF16", data=Cast(t.data, "F32", "BF16", narrow))
            for t in plan.tensors
        ),
    )


def relative(plan: Plan, step: Callable[[Plan], Plan]) -> float:
    return max(result.relative_l2 for result in denoise(plan, step(plan), SETTINGS).values())


def test_the_largest_threshold_keeps_the_error_and_a_little_more_does_not(tmp_path: Path) -> None:
    path = save(tensors("diffusers-te-sd1"), tmp_path / "te.safetensors")
    with ExitStack() as stack:
        plan = read(path, stack)
        result = largest_threshold(plan, pruned, 0.01, SETTINGS)
        found = result.threshold
        assert 1e-4 < found < HIGHEST
        assert result.errors == {"text_encoder": relative(plan, pruned(found))}
        assert relative(plan, pruned(found)) <= 0.01 < relative(plan, pruned(found * 1.05))


def test_an_error_that_any_threshold_keeps_gives_the_highest_and_one_that_none_keeps_gives_none(tmp_path: Path) -> None:
    path = save(tensors("diffusers-te-sd1"), tmp_path / "te.safetensors")
    with ExitStack() as stack:
        plan = read(path, stack)
        assert largest_threshold(plan, pruned, 1e9, SETTINGS).threshold == HIGHEST
        assert largest_threshold(plan, lambda _: pruned(1.0), 1e-9, SETTINGS).threshold == 0.0


def test_as_few_tensors_stay_wide_as_the_error_needs(tmp_path: Path) -> None:
    path = save(tensors("diffusers-te-sd1"), tmp_path / "te.safetensors")
    with ExitStack() as stack:
        plan = read(path, stack)
        everything = relative(plan, cast(frozenset()))
        assert keep_wide(plan, cast, everything * 1.01, SETTINGS).costs == {}
        wide = keep_wide(plan, cast, everything / 2, SETTINGS)
        kept = frozenset(wide.costs)
        assert wide.errors == {"text_encoder": relative(plan, cast(kept))}
        assert 0 < len(kept) < len(plan.tensors)
        assert relative(plan, cast(kept)) <= everything / 2


def test_a_model_that_cannot_be_run_is_refused(tmp_path: Path) -> None:
    path = save({"double_blocks.0.img_attn.norm.key_norm.scale": torch.ones(8)}, tmp_path / "flux.safetensors")
    with ExitStack() as stack:
        plan = read(path, stack)
        with pytest.raises(Refused, match="cannot run"):
            largest_threshold(plan, lambda _: cast(frozenset()), 0.1, SETTINGS)


@pytest.mark.parametrize("error", [0.0, -1.0, float("nan"), float("inf")])
def test_an_error_that_is_none_is_refused_at_once(tmp_path: Path, error: float) -> None:
    path = save({"a": torch.ones(8)}, tmp_path / "a.safetensors")
    with ExitStack() as stack, pytest.raises(UsageError):
        keep_wide(read(path, stack), cast, error, SETTINGS)
