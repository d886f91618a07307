"""A module of lower rank must be the best one of its rank, and a module may be gone only when it adds nothing."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.verify.verifying import Tensors, changed, checkpoint, made, parity, unexplained

LORA = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three modules of rank 8."""
    path = tmp_path_factory.mktemp("lora") / "lora.safetensors"
    generator = torch.Generator().manual_seed(0)
    tensors: Tensors = {}
    for letter in "qkv":
        name = LORA[:-1] + letter
        tensors[f"{name}.lora_up.weight"] = torch.randn(64, 8, generator=generator)
        tensors[f"{name}.lora_down.weight"] = torch.randn(8, 64, generator=generator)
        tensors[f"{name}.alpha"] = torch.tensor(4.0)
    save_file(tensors, path)
    return path


@pytest.mark.parametrize("architecture", ["lora-kohya-sd1", "locon-kohya-sd1", "lycoris-locon-dora-sd1"])
def test_a_lowered_rank_is_explained(tmp_path: Path, architecture: str) -> None:
    source = checkpoint(tmp_path / "a.ckpt", architecture)
    target, report = made("prune", source, tmp_path / "p.safetensors", "--rank", "2")
    tensors = parity(source, target)
    assert {item["to"] for item in tensors["rank"].values()} == {2}
    assert all(item["relative_error"] >= item["best"] - 1e-6 for item in tensors["rank"].values())
    parity(source, target, "--expect", report)


def parts(algorithm: str) -> dict[str, tuple[int, ...]]:
    match algorithm:
        case "loha":
            return {f"hada_w{n}_{half}": shape for n in (1, 2) for half, shape in (("a", (32, 2)), ("b", (2, 24)))}
        case "lokr":
            return {"lokr_w1": (4, 6), "lokr_w2_a": (8, 2), "lokr_w2_b": (2, 4)}
        case "lokr-whole":
            return {"lokr_w1": (4, 6), "lokr_w2": (8, 4)}
        case _:
            return {"diff": (32, 24)}


@pytest.mark.parametrize("algorithm", ["loha", "lokr", "lokr-whole", "diff"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_other_algorithms_turned_into_plain_lora_are_explained(
    tmp_path: Path, algorithm: str, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(1)
    tensors = {
        f"{LORA}.{role}": (torch.randn(shape, generator=generator) * 0.03).to(dtype)
        for role, shape in parts(algorithm).items()
    }
    source = tmp_path / "a.safetensors"
    save_file(tensors | {f"{LORA}.alpha": torch.tensor(1.0).to(dtype)}, source)
    target, report = made("prune", source, tmp_path / "p.safetensors", "--to-lora")
    assert parity(source, target)["rank"][LORA]["relative_error"] < 0.1
    parity(source, target, "--expect", report)

    def change(tensors: Tensors) -> None:
        weight = tensors[f"{LORA}.lora_up.weight"]
        weight[5, 0] += weight.abs().max()

    assert list(unexplained(source, changed(target, tmp_path / "c.safetensors", change))) == [LORA]


def test_a_module_of_lower_rank_that_is_not_the_best_is_found(lora: Path, tmp_path: Path) -> None:
    target, _ = made("prune", lora, tmp_path / "p.safetensors", "--rank", "4")
    assert len(parity(lora, target)["rank"]) == 3

    def change(tensors: Tensors) -> None:
        tensors[f"{LORA}.lora_up.weight"][3, 1] += 1

    def sign(tensors: Tensors) -> None:
        tensors[f"{LORA}.alpha"] *= -1

    def cut(tensors: Tensors) -> None:
        """The first four of eight, which are not the largest four."""
        original = load_file(lora)
        tensors[f"{LORA}.lora_up.weight"] = original[f"{LORA}.lora_up.weight"][:, :4]
        tensors[f"{LORA}.lora_down.weight"] = original[f"{LORA}.lora_down.weight"][:4]
        tensors[f"{LORA}.alpha"] = torch.tensor(2.0)

    for number, damage in enumerate((change, sign, cut)):
        found = unexplained(lora, changed(target, tmp_path / f"{number}.safetensors", damage))
        assert list(found) == [LORA]
        assert "and rank 4 allows for" in found[LORA]["why"]


def test_another_rank_than_the_report_says_is_unexplained(lora: Path, tmp_path: Path) -> None:
    target, _ = made("prune", lora, tmp_path / "p.safetensors", "--rank", "4")
    _, report = made("prune", lora, tmp_path / "q.safetensors", "--rank", "6")
    assert "has rank 4, and the report says 6" in unexplained(lora, target, "--expect", report)[LORA]["why"]


def test_one_wrong_value_in_a_module_that_stayed_is_found(lora: Path, tmp_path: Path) -> None:
    name = f"{LORA}.lora_up.weight"

    def change(tensors: Tensors) -> None:
        tensors[name][3, 1] += 1e-6

    assert list(unexplained(lora, changed(lora, tmp_path / "c.safetensors", change))) == [name]


def gone(tensors: Tensors) -> None:
    for name in [name for name in tensors if name.startswith(LORA)]:
        del tensors[name]


def test_a_module_near_zero_may_be_gone_and_no_other(lora: Path, tmp_path: Path) -> None:
    found = unexplained(lora, changed(lora, tmp_path / "g.safetensors", gone))
    assert len(found) == 3
    assert all("whose update is not below" in item["why"] for item in found.values())

    def small(tensors: Tensors) -> None:
        tensors[f"{LORA}.lora_up.weight"] *= 1e-6

    source = changed(lora, tmp_path / "s.safetensors", small)
    target, report = made("prune", source, tmp_path / "p.safetensors", "--threshold", "1e-3")
    assert len(parity(source, target)["dropped"]) == 3
    assert len(parity(source, target, "--threshold", "1e-3")["dropped"]) == 3
    parity(source, target, "--expect", report)
    assert len(unexplained(source, target, "--threshold", "1e-9")) == 3


def test_a_part_of_a_module_that_is_gone_is_found(lora: Path, tmp_path: Path) -> None:
    for part in ("alpha", "lora_up.weight"):
        name = f"{LORA}.{part}"
        target = changed(lora, tmp_path / "c.safetensors", lambda t, name=name: void(t.pop(name)))  # type: ignore[misc]
        assert name in unexplained(lora, target)


def void(_: object) -> None:
    """For a lambda that is a statement."""
