"""PEFT settings in the metadata: loaders believe them before the shapes, so they follow the ranks, and scales stay."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.prune.ranks import PEFT, Tensors, done, lora, random, with_values

VALUES = [8.0, 4.0, 2.0, 1.0, 0.5, 0.25, 0.125, 0.0625]
SETTINGS = {
    "unet.r": 8,
    "unet.lora_alpha": 4,
    "unet.target_modules": ["q"],
    "text_encoder.r": 4,
    "text_encoder.lora_alpha": 4,
}


def adapter() -> Tensors:
    return {
        **lora("unet.a.q", *with_values(VALUES, 48, 40), endings=PEFT),
        **lora("unet.b.q", *with_values(VALUES, 48, 40), endings=PEFT),
        **lora("text_encoder.q", random(48, 4), random(4, 40), endings=PEFT),
    }


def peft(settings: object) -> dict[str, str]:
    return {"lora_adapter_metadata": json.dumps(settings)}


def scales(settings: dict[str, Any], tensors: Tensors, before: str) -> dict[str, float]:
    """alpha / rank of each layer as PEFT has it, the rank held against the tensors."""
    result = {}
    for name, tensor in tensors.items():
        if name.startswith(before) and name.endswith(PEFT[1]):
            layer = name.removeprefix(before).removesuffix(f".{PEFT[1]}")
            rank = settings.get(f"{before}rank_pattern", {}).get(layer, settings[f"{before}r"])
            assert rank == tensor.shape[0]
            result[layer] = (
                settings.get(f"{before}alpha_pattern", {}).get(layer, settings[f"{before}lora_alpha"]) / rank
            )
    return result


def test_ranks_follow_and_scales_stay(tmp_path: Path) -> None:
    made = done(tmp_path, adapter(), peft(SETTINGS), rank=2)
    settings = json.loads(made.plan.metadata["lora_adapter_metadata"])
    assert (settings["unet.r"], settings["unet.lora_alpha"], settings["unet.target_modules"]) == (2, 1, ["q"])
    assert scales(settings, made.tensors, "unet.") == {"a.q": 0.5, "b.q": 0.5}
    assert scales(settings, made.tensors, "text_encoder.") == {"q": 1.0}


def test_ranks_that_differ_are_named(tmp_path: Path) -> None:
    tensors = adapter() | lora("unet.b.q", *with_values([1.0] * 8, 48, 40), endings=PEFT)
    made = done(tmp_path, tensors, peft({**SETTINGS, "unet.alpha_pattern": {"b.q": 16}}), energy=0.99)
    settings = json.loads(made.plan.metadata["lora_adapter_metadata"])
    assert made.tensors["unet.a.q.lora_A.weight"].shape[0] == 4
    assert scales(settings, made.tensors, "unet.") == {"a.q": 0.5, "b.q": 2.0}


def test_settings_without_a_component_hold_for_all(tmp_path: Path) -> None:
    tensors = lora("a.q", *with_values(VALUES, 48, 40), endings=PEFT)
    made = done(tmp_path, tensors, peft({"r": 8, "lora_alpha": 16}), rank=2)
    assert scales(json.loads(made.plan.metadata["lora_adapter_metadata"]), made.tensors, "") == {"a.q": 2.0}


def test_a_scale_by_the_root_of_the_rank_stays(tmp_path: Path) -> None:
    tensors = lora("a.q", *with_values(VALUES, 48, 40), endings=PEFT)
    made = done(tmp_path, tensors, peft({"r": 8, "lora_alpha": 16, "use_rslora": True}), rank=2)
    assert json.loads(made.plan.metadata["lora_adapter_metadata"])["lora_alpha"] == 8


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "[" * 100_000, '{"r": "8", "lora_alpha": 4}', '{"r": 8}', '{"r": 8, "lora_alpha": NaN}', '{"r": true}',
     '{"r": 8, "lora_alpha": 4, "rank_pattern": {"(a+)+$": 4}}', '{"r": 8, "lora_alpha": 4, "rank_pattern": 3}',
     '{"r": 1' + "0" * 400 + ', "lora_alpha": 4}'],
)  # fmt: skip
def test_settings_that_cannot_be_read_leave_their_modules_as_they_are(tmp_path: Path, text: str) -> None:
    tensors = lora("a.q", *with_values(VALUES, 48, 40), endings=PEFT) | lora("b", *with_values(VALUES, 48, 40), 4.0)
    made = done(tmp_path, tensors, {"lora_adapter_metadata": text}, rank=2)
    assert torch.equal(made.tensors["a.q.lora_A.weight"], tensors["a.q.lora_A.weight"])
    assert made.tensors["b.lora_down.weight"].shape[0] == 2
    assert made.plan.metadata["lora_adapter_metadata"] == text
    assert "PEFT" in made.report["ranks"]["untouched"][0]["reason"]
