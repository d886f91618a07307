"""Modules whose whole update is about zero go, whatever their algorithm, and no other does."""

from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ckptool.convert.read import read
from ckptool.errors import Refused
from ckptool.prune.effort import Effort
from ckptool.prune.modules import largest_of_product, remove_near_zero_modules
from ckptool.tensor import Plan
from tests.prune.ranks import PEFT, Tensors, lora, random, update

STAYS = lora("stays", random(48, 4), random(4, 40), 4.0)


def removed(folder: Path, tensors: Tensors, threshold: float, relative: bool = False) -> Plan:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "x.safetensors")
    with ExitStack() as stack:
        return remove_near_zero_modules(read(folder / "x.safetensors", stack), threshold, relative)


def left(plan: Plan) -> set[str]:
    return {tensor.name.partition(".")[0] for tensor in plan.tensors}


def small(name: str, parts: dict[str, torch.Tensor], alpha: float | None = None) -> Tensors:
    """A module scaled so that the largest entry of its update is 1 (up to rounding to F32)."""
    tensors = {f"{name}.{part}": tensor.double() for part, tensor in parts.items()}
    if alpha is not None:
        tensors[f"{name}.alpha"] = torch.tensor(alpha, dtype=torch.float64)
    first = next(iter(tensors))
    tensors[first] = tensors[first] / update(tensors, name).abs().max()
    return tensors


MODULES = {
    "LoRA": small("x", {"lora_up.weight": random(48, 4), "lora_down.weight": random(4, 40)}, 8.0),
    "LoRA of PEFT": small("x", {"lora_B.weight": random(48, 4), "lora_A.weight": random(4, 40)}),
    "LoCon": small("x", {"lora_up.weight": random(48, 4, 1, 1), "lora_down.weight": random(4, 40, 3, 3)}, 8.0),
    "Tucker": small("x", {"lora_up.weight": random(48, 4, 1, 1), "lora_down.weight": random(4, 40, 1, 1),
                          "lora_mid.weight": random(4, 4, 3, 3)}, 8.0),
    "LoHa": small("x", {"hada_w1_a": random(48, 2), "hada_w1_b": random(2, 40), "hada_w2_a": random(48, 2),
                        "hada_w2_b": random(2, 40)}, 8.0),
    "LoKr": small("x", {"lokr_w1": random(4, 4), "lokr_w2_a": random(12, 2), "lokr_w2_b": random(2, 10)}, 8.0),
    "full": small("x", {"diff": random(48, 40)}),
}  # fmt: skip


@pytest.mark.parametrize("tensors", MODULES.values(), ids=MODULES.keys())
def test_a_module_goes_when_every_entry_is_below_the_threshold(tmp_path: Path, tensors: Tensors) -> None:
    plan = removed(tmp_path, tensors | STAYS, 1 + 1e-9)
    assert left(plan) == {"stays"}
    assert {item.name for item in plan.dropped} == set(tensors)
    assert all("the largest entry is 1" in item.reason for item in plan.dropped)


@pytest.mark.parametrize("tensors", MODULES.values(), ids=MODULES.keys())
def test_a_module_stays_when_one_entry_is_not(tmp_path: Path, tensors: Tensors) -> None:
    plan = removed(tmp_path, tensors | STAYS, 1 - 1e-9)
    assert left(plan) == {"x", "stays"}
    assert not plan.dropped


@pytest.mark.parametrize("endings", [PEFT, ("lora_up.weight", "lora_down.weight")])
def test_an_up_weight_of_zeros_is_an_update_of_zero(tmp_path: Path, endings: tuple[str, str]) -> None:
    plan = removed(tmp_path, lora("x", torch.zeros(48, 4), random(4, 40), 4.0, endings=endings) | STAYS, 1e-12)
    assert left(plan) == {"stays"}


def test_one_large_entry_among_small_ones_is_found(tmp_path: Path) -> None:
    up, down = torch.zeros(3000, 2), torch.zeros(2, 3000)
    up[2999, 1] = down[1, 1] = 0.1
    plan = removed(tmp_path, lora("x", up, down) | STAYS, 0.0099)
    assert left(plan) == {"x", "stays"}
    assert left(removed(tmp_path, lora("x", up, down) | STAYS, 0.0101)) == {"stays"}


def test_the_largest_entry_is_found_block_by_block() -> None:
    left_side, right = random(2097, 3).numpy(), random(3, 2000).numpy()
    left_side[-1] *= 10  # alone in its block
    expected = abs(left_side @ right).max()
    assert largest_of_product(left_side, right, expected * 1.01, Effort.of(0)) == pytest.approx(expected)
    assert largest_of_product(left_side, right, expected * 0.99, Effort.of(0)) is None


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_product_that_is_not_a_number_is_not_below_anything() -> None:
    beyond = torch.tensor([[1e200, -1e200]], dtype=torch.float64).numpy()
    assert largest_of_product(beyond, abs(beyond.T), 1.0, Effort.of(0)) is None


def test_relative_counts_in_the_rms_of_all_updates(tmp_path: Path) -> None:
    x = {name: tensor * 1e-3 for name, tensor in small("x", {"diff": random(48, 40)}).items()}
    tensors = x | STAYS
    every = torch.cat([update(tensors, name).flatten() for name in ("x", "stays")])
    edge = 1e-3 / float(every.square().mean().sqrt())
    assert left(removed(tmp_path, tensors, edge * 1.0001, relative=True)) == {"stays"}
    assert left(removed(tmp_path, tensors, edge * 0.9999, relative=True)) == {"x", "stays"}


@pytest.mark.parametrize(
    "x",
    [
        lora("x", torch.zeros(48, 4), random(4, 40), 4.0) | {"x.dora_scale": random(48, 1)},
        lora("x", torch.zeros(48, 4), random(4, 40), 0.0),
        lora("x", torch.zeros(48, 4), random(4, 40), float("nan")),
        lora("x", torch.zeros(48, 4), random(4, 40) / 0, 4.0),
        lora("x", torch.zeros(48, 4), random(5, 40), 4.0),
        lora("x", torch.zeros(48, 0), torch.zeros(0, 40), 4.0),
        lora("x", random(48, 4) * 1e200, random(4, 40) * 1e200, 4.0, torch.float64),
        lora("x", torch.zeros(48, 4), random(4, 40), 4.0) | {"x.scalar": torch.tensor(2.0)},
        {"x.diff": torch.zeros(48, 40), "x.diff_b": random(48)},
        lora("x", random(48, 4), random(4, 40)) | {"x.alpha": torch.tensor(5e-324, dtype=torch.float64)},
        lora("x", torch.full((200_000, 1), 1e-9), torch.full((1, 200_000), 1e-9), 1.0),
        {"x.w_norm": torch.zeros(48)},
        {"x.oft_blocks": torch.zeros(4, 4, 4)},
        {"x.on_input": torch.tensor(True), "x.weight": torch.zeros(48)},
        {"x": torch.zeros(3)},
    ],
    ids=["dora", "alpha 0", "alpha NaN", "inf", "shapes", "rank 0", "overflow", "scalar", "bias", "alpha nearly 0",
         "too large", "norm", "oft", "ia3", "other"],
)  # fmt: skip
def test_what_may_change_an_image_stays(tmp_path: Path, x: Tensors) -> None:
    assert left(removed(tmp_path, x | STAYS, 1e-4)) == {"x", "stays"}


def test_a_bias_goes_with_its_module(tmp_path: Path) -> None:
    plan = removed(tmp_path, {"x.diff": torch.zeros(48, 40), "x.diff_b": torch.full((48,), 1e-5)} | STAYS, 1e-4)
    assert left(plan) == {"stays"}
    assert "the largest entry is 1e-05" in plan.dropped[0].reason


def test_a_relative_threshold_squares_no_norm(tmp_path: Path) -> None:
    huge = lora("huge", random(48, 4), random(4, 40), 1e200, torch.float64)
    assert left(removed(tmp_path, huge | STAYS, 1e-4, relative=True)) == {"huge"}


def test_a_file_that_would_be_empty_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="all 1 modules"):
        removed(tmp_path, STAYS, 1e9)


@pytest.mark.parametrize("threshold", [0.0, -1.0, float("nan")])
def test_nothing_is_below_nothing(tmp_path: Path, threshold: float) -> None:
    assert left(removed(tmp_path, lora("x", torch.zeros(48, 4), random(4, 40)) | STAYS, threshold)) == {"x", "stays"}


def test_a_file_without_modules_is_left_alone(tmp_path: Path) -> None:
    assert left(removed(tmp_path, {"x": torch.zeros(3)}, 1.0)) == {"x"}


def test_alpha_counts_by_the_settings_of_peft(tmp_path: Path) -> None:
    import json

    tensors = small("x", {"lora_B.weight": random(48, 4), "lora_A.weight": random(4, 40)}) | STAYS
    settings = json.dumps({"r": 4, "lora_alpha": 2})
    save_file(tensors, tmp_path / "x.safetensors", {"lora_adapter_metadata": settings})
    with ExitStack() as stack:
        plan = read(tmp_path / "x.safetensors", stack)
        assert left(remove_near_zero_modules(plan, 0.501)) == {"stays"}
        assert left(remove_near_zero_modules(plan, 0.499)) == {"x", "stays"}
