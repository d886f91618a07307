"""`--to-lora`: LoHa, LoKr and full differences become plain LoRA with the same update."""

import json
from pathlib import Path

import pytest
import torch

from fixtures.models import state_dict
from fixtures.torchfile import save_zip
from tests.prune.ranks import Tensors, best, done, done_file, lora, random, relative, update, with_values

PLAIN = {"lora_up.weight", "lora_down.weight", "alpha"}


def named(name: str, parts: dict[str, torch.Tensor], alpha: float | None = None) -> Tensors:
    tensors = {f"{name}.{part}": tensor.float() for part, tensor in parts.items()}
    return tensors if alpha is None else tensors | {f"{name}.alpha": torch.tensor(alpha)}


def loha(rows: int, columns: int, rank: int) -> dict[str, torch.Tensor]:
    return {
        "hada_w1_a": random(rows, rank, seed=1), "hada_w1_b": random(rank, columns, seed=2),
        "hada_w2_a": random(rows, rank, seed=3), "hada_w2_b": random(rank, columns, seed=4),
    }  # fmt: skip


def loha_tucker(rows: int, columns: int, rank: int) -> dict[str, torch.Tensor]:
    return {
        "hada_w1_a": random(rank, rows, seed=1), "hada_w1_b": random(rank, columns, seed=2),
        "hada_w2_a": random(rank, rows, seed=3), "hada_w2_b": random(rank, columns, seed=4),
        "hada_t1": random(rank, rank, 3, 3, seed=5), "hada_t2": random(rank, rank, 3, 3, seed=6),
    }  # fmt: skip


def twice(parts: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    parts["hada_w1_a"][:, 2] = parts["hada_w1_a"][:, 0]
    return parts


MODULES = {
    "LoHa": (named("x", loha(48, 40, 3), 2.0), 9, (40,)),
    "LoHa without alpha": (named("x", loha(48, 40, 3)), 9, (40,)),
    "LoHa of more pairs than rows": (named("x", loha(12, 40, 4), 2.0), 12, (40,)),
    "LoHa with a column twice": (named("x", twice(loha(48, 40, 3)), 2.0), 6, (40,)),
    "LoHa with Tucker cores": (named("x", loha_tucker(48, 20, 3), 2.0), 9, (20, 3, 3)),
    "LoKr": (named("x", {"lokr_w1": random(4, 6), "lokr_w2": random(12, 8)}, 7.0), 32, (48,)),
    "LoKr of factors": (
        named("x", {"lokr_w1": random(4, 6), "lokr_w2_a": random(12, 2), "lokr_w2_b": random(2, 8)}, 3.0), 8, (48,),
    ),
    "LoKr of factors on both sides": (
        named("x", {"lokr_w1_a": random(4, 1), "lokr_w1_b": random(1, 6), "lokr_w2_a": random(12, 2),
                    "lokr_w2_b": random(2, 8)}, 3.0), 2, (48,),
    ),
    "LoKr on a kernel": (named("x", {"lokr_w1": random(2, 3), "lokr_w2": random(10, 4, 3, 3)}, 3.0), 20, (12, 3, 3)),
    "LoKr with a Tucker core": (
        named("x", {"lokr_w1": random(2, 3), "lokr_w2_a": random(2, 10), "lokr_w2_b": random(2, 4),
                    "lokr_t2": random(2, 2, 3, 3)}, 3.0), 4, (12, 3, 3),
    ),
    "a full difference": (named("x", {"diff": random(24, 40)}), 24, (40,)),
    "a full difference on a kernel": (named("x", {"diff": random(24, 6, 3, 3)}), 24, (6, 3, 3)),
}  # fmt: skip


@pytest.mark.parametrize(("tensors", "rank", "inputs"), MODULES.values(), ids=MODULES.keys())
def test_the_update_stays_what_it_was_at_its_exact_rank(
    tmp_path: Path, tensors: Tensors, rank: int, inputs: tuple[int, ...]
) -> None:
    made = done(tmp_path, tensors, to_lora=True)
    assert set(made.tensors) == {f"x.{part}" for part in PLAIN}
    expected = update(tensors, "x")
    assert torch.linalg.matrix_rank(expected) == rank
    assert relative(update(made.tensors, "x"), expected) < 2e-6
    assert made.tensors["x.lora_down.weight"].shape == (rank, *inputs)
    assert made.tensors["x.lora_up.weight"].shape == (len(expected), rank, *(1 for _ in inputs[1:]))
    assert {item.name for item in made.plan.dropped} == set(tensors) - {"x.alpha"}


@pytest.mark.parametrize(("tensors", "rank", "inputs"), MODULES.values(), ids=MODULES.keys())
def test_at_a_rank_it_is_the_best_approximation(
    tmp_path: Path, tensors: Tensors, rank: int, inputs: tuple[int, ...]
) -> None:
    made = done(tmp_path, tensors, to_lora=True, rank=2)
    expected = update(tensors, "x")
    assert relative(update(made.tensors, "x"), best(expected, 2)) < 2e-6
    lost = relative(best(expected, 2), expected)
    assert made.report["rank"]["x"]["relative_error"] == pytest.approx(lost, rel=1e-4, abs=1e-6)
    assert (made.report["rank"]["x"]["from"], made.report["rank"]["x"]["to"]) == (rank, 2)
    assert inputs


@pytest.mark.parametrize("alpha", [-2.0, 1e-3, 300.0])
def test_the_scale_goes_into_the_factors_with_its_sign(tmp_path: Path, alpha: float) -> None:
    tensors = named("x", loha(48, 40, 3), alpha)
    made = done(tmp_path, tensors, to_lora=True)
    assert made.tensors["x.alpha"].item() == 9
    assert relative(update(made.tensors, "x"), update(tensors, "x")) < 2e-6


def test_a_plain_lora_stays_beside_them_to_the_bit(tmp_path: Path) -> None:
    tensors = lora("y", random(48, 4), random(4, 40), 2.0, torch.float16) | named("x", loha(48, 40, 3), 2.0)
    made = done(tmp_path, tensors, to_lora=True)
    assert all(torch.equal(made.tensors[name], tensor) for name, tensor in tensors.items() if name.startswith("y."))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_dtype_is_that_of_the_parts(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {name: tensor.to(dtype) for name, tensor in named("x", loha(48, 40, 3), 2.0).items()}
    made = done(tmp_path, tensors, to_lora=True)
    assert {tensor.dtype for tensor in made.tensors.values()} == {dtype}
    assert relative(update(made.tensors, "x"), update(tensors, "x")) < 1e-2


def test_what_is_added_to_the_bias_and_the_dora_scale_stay(tmp_path: Path) -> None:
    beside = {"x.diff_b": random(24).float(), "x.dora_scale": random(24, 1).float()}
    made = done(tmp_path, named("x", {"diff": random(24, 40)}) | beside, to_lora=True)
    assert set(made.tensors) == {f"x.{part}" for part in PLAIN} | set(beside)
    assert all(torch.equal(made.tensors[name], tensor) for name, tensor in beside.items())
    assert made.report["ranks"]["dora_scale_kept"] == 1


def test_names_that_are_taken_are_not_written_twice(tmp_path: Path) -> None:
    tensors = lora("x", random(48, 4), random(4, 40))
    tensors |= {name.replace("_a", "_a.default").replace("_b", "_b.default"): t
                for name, t in named("x", loha(48, 40, 3)).items()}  # fmt: skip
    made = done(tmp_path, tensors, to_lora=True)
    assert set(made.tensors) == set(tensors)
    assert "taken" in made.report["ranks"]["untouched"][0]["reason"]


def test_too_large_a_difference_stays_and_is_reported(tmp_path: Path) -> None:
    # A view of one number of eight bytes: 96 MB in the file's words, more than is worked on in float64.
    huge = torch.zeros(1, dtype=torch.float16).expand(6000, 8000)
    torch.save({"x.diff": huge, **lora("y", *with_values([4, 2, 1], 30, 30))}, tmp_path / "x.pt")
    from contextlib import ExitStack

    from ckptool.convert.read import read
    from ckptool.prune.rank import RankStep

    step = RankStep(to_lora=True, rank=1)
    with ExitStack() as stack:
        plan = step(read(tmp_path / "x.pt", stack))
    assert "too large" in step.data(plan)["ranks"]["untouched"][0]["reason"]
    assert step.data(plan)["rank"]["y"]["to"] == 1


def test_metadata_say_that_it_is_plain_lora_now(tmp_path: Path) -> None:
    stated = {
        "ss_network_module": "lycoris.kohya", "ss_network_dim": "3", "ss_network_alpha": "2.0",
        "ss_network_args": json.dumps({"algo": "loha", "conv_dim": "3"}),
    }  # fmt: skip
    metadata = done(tmp_path, named("x", loha(48, 40, 3), 2.0), stated, to_lora=True).plan.metadata
    assert metadata["ss_network_module"] == "networks.lora"
    assert (metadata["ss_network_dim"], metadata["ss_network_alpha"]) == ("9", "9.0")
    assert json.loads(metadata["ss_network_args"])["algo"] == "lora"
    mixed = named("x", loha(48, 40, 3), 2.0) | {"y.w_norm": random(3).float()}
    assert done(tmp_path, mixed, stated, to_lora=True).plan.metadata["ss_network_module"] == "lycoris.kohya"


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        ("lora_unet_down_blocks_0_resnets_0_conv1", (4, 3, 3)),
        ("lora_unet_input_blocks_4_0_in_layers_2", (4, 3, 3)),
        ("lora_unet_input_blocks_3_0_op", (4, 3, 3)),
        ("lora_unet_output_blocks_2_2_conv", (4, 3, 3)),
        ("unet.up_blocks.1.upsamplers.0.conv", (4, 3, 3)),
        ("lora_unet_conv_out", (4, 3, 3)),
        ("lora_unet_down_blocks_1_resnets_0_conv_shortcut", (36, 1, 1)),
        ("lora_unet_mid_block_attentions_0_proj_in", (36,)),
        ("lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q", (36,)),
        ("lora_te_text_model_encoder_layers_0_mlp_fc1", (36,)),
    ],
)
def test_a_kernel_hidden_in_the_columns_is_told_by_the_layer(
    tmp_path: Path, layer: str, expected: tuple[int, ...]
) -> None:
    made = done(tmp_path, named(layer, loha(24, 36, 2), 2.0), to_lora=True)
    assert made.tensors[f"{layer}.lora_down.weight"].shape == (4, *expected)


def test_projections_are_convolutions_where_the_context_is_that_of_sd1(tmp_path: Path) -> None:
    tensors = named("lora_unet_a_proj_in", loha(24, 36, 2), 2.0)
    tensors |= named("lora_unet_a_attn2_to_k", loha(24, 768, 2), 2.0)
    made = done(tmp_path, tensors, to_lora=True)
    assert made.tensors["lora_unet_a_proj_in.lora_down.weight"].shape == (4, 36, 1, 1)


@pytest.mark.parametrize("manifest", ["lycoris-loha-sd1", "lycoris-lokr-sd1"])
def test_every_module_of_a_real_layout_is_turned(tmp_path: Path, manifest: str) -> None:
    names = state_dict(manifest, factor=16)
    kept = [name for name in names if "_layers_0_" in name or "_conv1." in name or "conv_out" in name]
    save_zip({name: names[name] for name in kept}, tmp_path / "x.pt")
    made = done_file(tmp_path / "x.pt", tmp_path / "y.safetensors", to_lora=True, rank=4)
    assert made.report["ranks"]["untouched"] == []
    assert {name.split(".", 1)[1] for name in made.tensors} == PLAIN
    downs = [t for name, t in made.tensors.items() if "_conv" in name and name.endswith("lora_down.weight")]
    assert {tuple(tensor.shape[2:]) for tensor in downs} == {(3, 3)}
