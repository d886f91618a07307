"""`--rank`: what is written is the best approximation of that rank, at the right scale, and nothing else changes."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ckptool.errors import Refused, UsageError
from ckptool.prune.rank import RankStep, rank_lines
from ckptool.prune.rank_factors import cast
from tests.convert.converting import ckptool
from tests.prune.ranks import KOHYA, PEFT, Tensors, best, done, done_file, lora, random, relative, update, with_values

VALUES = [8.0, 4.0, 2.0, 1.0, 0.5, 0.25, 0.125, 0.0625]
ROUNDING = {torch.float64: 1e-13, torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize(("endings", "alpha"), [(KOHYA, 4.0), (KOHYA, None), (PEFT, None), (PEFT, 4.0)])
def test_the_update_is_the_best_approximation(
    tmp_path: Path, dtype: torch.dtype, endings: tuple[str, str], alpha: float | None
) -> None:
    tensors = lora("unet.x", *with_values(VALUES, 96, 64), alpha, dtype, endings)
    made = done(tmp_path, tensors, rank=3)
    assert relative(update(made.tensors, "unet.x"), best(update(tensors, "unet.x"), 3)) < ROUNDING[dtype]
    assert {name: tensor.dtype for name, tensor in made.tensors.items()} == dict.fromkeys(tensors, dtype)
    assert made.tensors[f"unet.x.{endings[0]}"].shape == (96, 3)
    assert made.tensors[f"unet.x.{endings[1]}"].shape == (3, 64)


def test_kernels_stay_in_the_down_weight(tmp_path: Path) -> None:
    up, down = with_values(VALUES, 40, 20 * 9)
    tensors = lora("x", up.reshape(40, 8, 1, 1), down.reshape(8, 20, 3, 3), 8.0)
    made = done(tmp_path, tensors, rank=2)
    assert made.tensors["x.lora_down.weight"].shape == (2, 20, 3, 3)
    assert made.tensors["x.lora_up.weight"].shape == (40, 2, 1, 1)
    assert relative(update(made.tensors, "x"), best(update(tensors, "x"), 2)) < 1e-6


def test_a_tucker_core_is_folded_into_the_down_weight(tmp_path: Path) -> None:
    tensors = lora("x", random(40, 8, 1, 1), random(8, 20, 1, 1), 8.0)
    tensors["x.lora_mid.weight"] = random(8, 8, 3, 3).float()
    made = done(tmp_path, tensors, rank=3)
    assert set(made.tensors) == {"x.lora_up.weight", "x.lora_down.weight", "x.alpha"}
    assert [item.name for item in made.plan.dropped] == ["x.lora_mid.weight"]
    assert relative(update(made.tensors, "x"), best(update(tensors, "x"), 3)) < 1e-6


def test_a_tucker_core_stays_where_energy_would_make_the_file_larger(tmp_path: Path) -> None:
    tensors = lora("x", random(9, 8, 1, 1), random(8, 640, 1, 1), 8.0)
    tensors["x.lora_mid.weight"] = random(8, 8, 3, 3).float()
    tensors |= lora("y", *with_values(VALUES, 30, 30))
    made = done(tmp_path, tensors, energy=0.97)
    assert "x.lora_mid.weight" in made.tensors
    assert [item["name"] for item in made.report["ranks"]["untouched"]] == ["x"]


@pytest.mark.parametrize("alpha", [8.0, 1.0, 0.3, -2.0, 1e-3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_alpha_by_rank_stays_what_it_was(tmp_path: Path, alpha: float, dtype: torch.dtype) -> None:
    tensors = lora("x", *with_values(VALUES, 96, 64), alpha, dtype)
    made = done(tmp_path, tensors, rank=3)
    assert made.tensors["x.alpha"].item() / 3 == pytest.approx(tensors["x.alpha"].item() / 8, rel=1e-3)
    assert relative(update(made.tensors, "x"), best(update(tensors, "x"), 3)) < ROUNDING[dtype]


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.bfloat16, torch.float64])
def test_what_the_dtype_of_alpha_cannot_say_goes_into_the_factors(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = lora("x", *with_values(VALUES, 96, 64)) | {"x.alpha": torch.tensor([7]).to(dtype)}
    made = done(tmp_path, tensors, rank=3)
    assert (made.tensors["x.alpha"].dtype, made.tensors["x.alpha"].shape) == (dtype, (1,))
    assert relative(update(made.tensors, "x"), best(update(tensors, "x"), 3)) < 1e-6


def test_factors_are_balanced(tmp_path: Path) -> None:
    up, down = with_values(VALUES, 96, 64)
    made = done(tmp_path, lora("x", up * 1000, down / 1000, 8.0), rank=3)
    norms = made.tensors["x.lora_up.weight"].norm(dim=0), made.tensors["x.lora_down.weight"].norm(dim=1)
    assert torch.allclose(*norms, rtol=1e-5)


@pytest.mark.parametrize("factor", [2e4, 2e-5])
def test_alpha_takes_what_f16_cannot_hold(tmp_path: Path, factor: float) -> None:
    up, down = with_values(VALUES, 512, 300)
    tensors = lora("x", up / up.abs().max() * factor, down / down.abs().max() * factor, 8.0, torch.float16)
    tensors["x.alpha"] = torch.tensor(8.0)
    made = done(tmp_path, tensors, rank=4)
    assert relative(update(made.tensors, "x"), best(update(tensors, "x"), 4)) < 1e-3
    assert made.report["rank"]["x"]["relative_error"] < 0.2


def test_what_overflows_f16_without_an_alpha_stays(tmp_path: Path) -> None:
    tensors = lora("x", torch.full((96, 8), 6e4), torch.full((8, 64), 6e4), None, torch.float16)
    made = done(tmp_path, tensors, rank=4)
    assert torch.equal(made.tensors["x.lora_up.weight"], tensors["x.lora_up.weight"])
    assert "range of F16" in made.report["ranks"]["untouched"][0]["reason"]


def test_a_rank_is_never_raised_and_such_modules_keep_every_bit(tmp_path: Path) -> None:
    tensors = lora("a", random(96, 4), random(4, 64), 1.0, torch.float16)
    tensors |= lora("b", *with_values(VALUES, 96, 64), 8.0, torch.float16)
    tensors |= {"a.other": random(3), "emb_params": random(2, 768)}
    made = done(tmp_path, tensors, rank=4)
    kept = [name for name in tensors if not name.startswith("b.")]
    assert all(torch.equal(made.tensors[name], tensors[name]) for name in kept)
    assert made.report["rank"]["a"] == {"from": 4, "to": 4, "energy": 1.0, "relative_error": 0.0}
    assert made.report["ranks"]["from"] == [4, 8]
    assert made.report["ranks"]["to"] == [4]


@pytest.mark.parametrize("options", [{"rank": 4}, {"rank": 4, "energy": 1.0}])
def test_the_second_time_changes_nothing(tmp_path: Path, options: dict[str, float]) -> None:
    tensors = lora("x", *with_values(VALUES, 96, 64), 8.0, torch.float16)
    tensors |= lora("y", *with_values(VALUES[:4], 40, 64), 8.0, torch.float16)
    first = done(tmp_path, tensors, {"ss_network_dim": "8", "ss_network_alpha": "8.0"}, **options)
    again = tmp_path / "again.safetensors"
    assert done_file(tmp_path / "target.safetensors", again, **options).data == first.data


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    tensors = lora("x", *with_values(VALUES, 96, 64), 8.0)
    assert done(tmp_path, tensors, rank=3).data == done(tmp_path, tensors, rank=3).data


@pytest.mark.parametrize(("energy", "rank"), [(0.5, 1), (0.76, 2), (0.95, 3), (0.99, 4), (0.9999, 7), (1.0, 8)])
def test_energy_is_the_share_of_the_squared_singular_values(tmp_path: Path, energy: float, rank: int) -> None:
    tensors = lora("x", *with_values(VALUES, 96, 64), 8.0, torch.float64)
    made = done(tmp_path, tensors, energy=energy)
    assert made.tensors["x.lora_down.weight"].shape[0] == rank
    held = sum(value**2 for value in VALUES[:rank]) / sum(value**2 for value in VALUES)
    assert made.report["rank"]["x"]["energy"] == pytest.approx(held)
    assert held >= energy


def test_directions_without_energy_go_at_an_energy_of_one(tmp_path: Path) -> None:
    up, down = with_values(VALUES[:3], 96, 64)
    padded = torch.cat([up, torch.zeros(96, 5)], 1), torch.cat([down, random(5, 64)])
    assert done(tmp_path, lora("x", *padded, 8.0), energy=1.0).tensors["x.lora_down.weight"].shape[0] == 3


def test_of_a_rank_and_an_energy_the_smaller_counts(tmp_path: Path) -> None:
    tensors = lora("x", *with_values(VALUES, 96, 64))
    assert done(tmp_path, tensors, rank=2, energy=0.99).tensors["x.lora_down.weight"].shape[0] == 2
    assert done(tmp_path, tensors, rank=6, energy=0.99).tensors["x.lora_down.weight"].shape[0] == 4


def test_auto_keeps_what_stands_out_of_noise_however_little_energy_it_has(tmp_path: Path) -> None:
    noise = [0.02 + 0.0001 * n for n in range(53, 0, -1)]
    tensors = lora("x", *with_values([100.0, *[1.0] * 10, *noise], 96, 64))
    assert done(tmp_path, tensors, rank="auto").tensors["x.lora_down.weight"].shape[0] == 11
    assert done(tmp_path, tensors, energy=0.99).tensors["x.lora_down.weight"].shape[0] == 1


@pytest.mark.parametrize("values", [[1.0] * 16, [0.9**n for n in range(16)], [0.1**n for n in range(16)]])
def test_auto_loses_a_tenth_at_most(tmp_path: Path, values: list[float]) -> None:
    made = done(tmp_path, lora("x", *with_values(values, 96, 64)), rank="auto")
    assert made.report["rank"]["x"]["relative_error"] <= 0.1
    assert made.report["rank"]["x"]["to"] < 16 or values[-1] > 0.2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("rank", [2, 7])
def test_the_error_reported_is_that_of_what_is_written(tmp_path: Path, dtype: torch.dtype, rank: int) -> None:
    tensors = lora("x", *with_values([0.3**n for n in range(8)], 96, 64), 8.0, dtype)
    made = done(tmp_path, tensors, rank=rank)
    measured = relative(update(made.tensors, "x"), update(tensors, "x"))
    assert made.report["rank"]["x"]["relative_error"] == pytest.approx(measured, rel=0.02)


def test_dora_keeps_its_scale_and_says_so(tmp_path: Path) -> None:
    tensors = lora("x", *with_values(VALUES, 96, 64), 8.0) | {"x.dora_scale": random(96, 1).float()}
    made = done(tmp_path, tensors, rank=3)
    assert torch.equal(made.tensors["x.dora_scale"], tensors["x.dora_scale"])
    assert made.report["ranks"]["dora_scale_kept"] == 1
    assert any("dora_scale kept in 1 module" in line for line in rank_lines(made.report, False))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", ["lora_up.weight", "lora_down.weight", "alpha"])
def test_a_module_with_nan_or_infinity_stays_and_is_reported(tmp_path: Path, bad: float, part: str) -> None:
    tensors = lora("x", *with_values(VALUES, 96, 64), 8.0) | lora("y", *with_values(VALUES, 96, 64), 8.0)
    tensors[f"x.{part}"] = tensors[f"x.{part}"].contiguous()
    tensors[f"x.{part}"].view(-1)[0] = bad
    made = done(tmp_path, tensors, rank=3)
    assert made.tensors["x.lora_down.weight"].shape[0] == 8
    assert made.tensors["y.lora_down.weight"].shape[0] == 3
    (untouched,) = made.report["ranks"]["untouched"]
    assert untouched["name"] == "x"
    assert ("alpha is no number" if part == "alpha" else "NaN or infinity") in untouched["reason"]


@pytest.mark.parametrize(
    "x",
    [
        lora("x", random(96, 8), random(9, 64), 8.0),
        lora("x", random(96, 8), random(8, 64)) | {"x.alpha": torch.zeros(2)},
        lora("x", random(96, 8), random(8, 64)) | {"x.alpha": torch.tensor(0.0)},
        lora("x", random(96, 0), random(0, 64), 8.0),
        lora("x", random(0, 8), random(8, 64), 8.0),
        lora("x", random(96, 8), random(8, 64), 8.0) | {"x.lora_mid.weight": random(8, 7, 3, 3)},
        lora("x", random(96, 8, *[1] * 40), random(8, 64, *[1] * 40), 8.0),
        lora("x", random(96, 8), random(8, 64), 8.0, torch.float8_e4m3fn),
        {"x.lora_up.weight": torch.ones(96, 8, dtype=torch.int64), "x.lora_down.weight": torch.ones(8, 64)},
        {"x.lora_up.weight": torch.ones(96, 8, dtype=torch.complex64), "x.lora_down.weight": torch.ones(8, 64)},
        {"x.lora_up.weight": torch.tensor(1.0), "x.lora_down.weight": torch.tensor(1.0)},
        {"x.lora_up.weight": random(96, 8)},
        lora("x", random(96, 8), random(8, 64), 8.0) | {"x.scalar": torch.tensor(2.0)},
        lora("x", random(96, 8) * 1e200, random(8, 64) * 1e200, 8.0, torch.float64),
    ],
    ids=["shapes", "alphas", "alpha 0", "rank 0", "no rows", "core", "dimensions", "F8", "I64", "C64", "0-D", "half",
         "scalar", "overflow"],
)  # fmt: skip
def test_odd_modules_stay_and_are_reported(tmp_path: Path, x: Tensors) -> None:
    made = done(tmp_path, x | lora("y", *with_values(VALUES, 96, 64), 8.0), rank=3)
    assert set(made.tensors) >= set(x)
    assert all(made.tensors[name].shape == tensor.shape for name, tensor in x.items())
    assert made.tensors["y.lora_down.weight"].shape[0] == 3
    assert [item["name"] for item in made.report["ranks"]["untouched"]] == ["x"]


def test_a_module_of_zeros_becomes_one_of_rank_one(tmp_path: Path) -> None:
    made = done(tmp_path, lora("x", torch.zeros(96, 8), random(8, 64), 8.0), energy=0.9)
    assert made.report["rank"]["x"] == {"from": 8, "to": 1, "energy": 1.0, "relative_error": 0.0}
    assert not update(made.tensors, "x").any()


def test_what_has_no_rank_to_lower_stays_and_is_reported(tmp_path: Path) -> None:
    others = {
        "loha.hada_w1_a": random(16, 8), "loha.hada_w1_b": random(8, 32), "loha.hada_w2_a": random(16, 8),
        "loha.hada_w2_b": random(8, 32), "lokr.lokr_w1": random(4, 4), "lokr.lokr_w2": random(8, 8),
        "full.diff": random(16, 32), "norm.w_norm": random(16), "ia3.weight": random(16),
        "ia3.on_input": torch.tensor(True), "oft.oft_blocks": random(4, 4, 4), "glora.a1.weight": random(16, 4),
        "glora.a2.weight": random(4, 16), "glora.b1.weight": random(16, 4), "glora.b2.weight": random(4, 16),
    }  # fmt: skip
    made = done(tmp_path, others | lora("x", *with_values(VALUES, 96, 64), 8.0), rank=3)
    assert all(torch.equal(made.tensors[name], tensor) for name, tensor in others.items())
    reasons = {item["name"]: item["reason"] for item in made.report["ranks"]["untouched"]}
    assert set(reasons) == {"loha", "lokr", "full", "norm", "ia3", "oft", "glora"}
    assert "--to-lora" in reasons["loha"]


def test_an_old_diffusers_file_keeps_its_names(tmp_path: Path) -> None:
    name = "unet.mid_block.attn1.processor.to_q_lora"
    up, down = with_values(VALUES, 96, 64)
    made = done(tmp_path, {f"{name}.up.weight": up.float(), f"{name}.down.weight": down.float()}, rank=3)
    assert {key: tuple(t.shape) for key, t in made.tensors.items()} == {
        f"{name}.up.weight": (96, 3), f"{name}.down.weight": (3, 64),
    }  # fmt: skip


def test_a_file_without_modules_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="no modules"):
        done(tmp_path, {"weight": random(3, 3)}, rank=3)


@pytest.mark.parametrize(
    "options", [{"rank": 0}, {"rank": -1}, {"energy": 0.0}, {"energy": 1.1}, {"energy": float("nan")}]
)
def test_a_rank_or_energy_that_means_nothing_is_a_usage_error(options: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        RankStep(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("compressed", [False, True])
def test_a_pickle_is_a_source_like_any_other(tmp_path: Path, compressed: bool) -> None:
    import zipfile

    tensors = lora("x", *with_values(VALUES, 96, 64), 8.0)
    torch.save(tensors, tmp_path / "plain.pt")
    with zipfile.ZipFile(tmp_path / "plain.pt") as plain, zipfile.ZipFile(tmp_path / "x.pt", "w") as packed:
        for name in plain.namelist():
            packed.writestr(name, plain.read(name), zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED)
    made = done_file(tmp_path / "x.pt", tmp_path / "target.safetensors", rank=3)
    assert relative(update(made.tensors, "x"), best(update(tensors, "x"), 3)) < 1e-6


def test_a_damaged_record_is_found_though_nobody_copies_it(tmp_path: Path) -> None:
    torch.save(lora("x", *with_values(VALUES, 96, 64), 8.0), tmp_path / "x.pt")
    data = bytearray((tmp_path / "x.pt").read_bytes())
    at = data.index(lora("x", *with_values(VALUES, 96, 64))["x.lora_up.weight"].numpy().tobytes()[:64])
    data[at + 40] ^= 1
    (tmp_path / "x.pt").write_bytes(data)
    with pytest.raises(Refused, match="CRC"):
        done_file(tmp_path / "x.pt", tmp_path / "target.safetensors", rank=3)


def test_metadata_follow_the_ranks(tmp_path: Path) -> None:
    linear = lora("lora_unet_a", *with_values(VALUES, 96, 64), 4.0)
    up, down = with_values(VALUES, 40, 20 * 9)
    conv = lora("lora_unet_b", up.reshape(40, 8, 1, 1), down.reshape(8, 20, 3, 3), 8.0)
    args = json.dumps({"conv_dim": "8", "conv_alpha": "8", "dropout": None})
    stated = {"ss_network_dim": "8", "ss_network_alpha": "4.0", "ss_network_args": args, "ss_tag": "x"}
    metadata = done(tmp_path, linear | conv, stated, rank=2).plan.metadata
    assert metadata["ss_network_dim"] == "2"
    assert metadata["ss_network_alpha"] == "1.0"
    assert json.loads(metadata["ss_network_args"]) == {"conv_dim": "2", "conv_alpha": "2.0", "dropout": None}
    assert metadata["ss_tag"] == "x"
    dynamic = linear | lora("lora_unet_c", *with_values(VALUES[:2], 96, 64), 4.0)
    assert done(tmp_path, dynamic, stated, energy=0.99).plan.metadata["ss_network_dim"] == "Dynamic"
    assert done(tmp_path, linear, stated, rank=8).plan.metadata == {**stated, "format": "pt"}
    assert "ss_network_dim" not in done(tmp_path, linear, {"ss_tag": "x"}, rank=2).plan.metadata


@pytest.mark.parametrize("text", ["{", "[]", "null", "[" * 100_000, '{"conv_dim": {}}'])
def test_arguments_that_cannot_be_read_stay(tmp_path: Path, text: str) -> None:
    tensors = lora("x", *with_values(VALUES, 96, 64), 4.0)
    metadata = {"ss_network_args": text, "ss_network_dim": "8"}
    assert done(tmp_path, tensors, metadata, rank=2).plan.metadata == {
        **metadata, "ss_network_dim": "2", "format": "pt",
    }  # fmt: skip


def test_lines_name_the_worst_module_first(tmp_path: Path) -> None:
    tensors = lora("good", *with_values([8, 1e-3, 1e-4], 96, 64), 4.0)
    tensors |= lora("bad\x1b", *with_values([8, 7, 6], 96, 64), 4.0)
    lines = list(rank_lines(done(tmp_path, tensors, rank=1).report, True))
    assert lines[0] == "  rank: 3 -> 1, 2 modules of 2 changed"
    assert lines[2].startswith("    bad\\x1b: 3 -> 1, off by 75.")
    assert lines[3].startswith("    good: 3 -> 1")


def test_lines_give_each_reason_once(tmp_path: Path) -> None:
    tensors = {f"n{number}.w_norm": random(4) for number in range(30)} | lora("x", random(9, 2), random(2, 9), 1.0)
    report = done(tmp_path, tensors, rank=2).report
    assert list(rank_lines(report, False)) == [
        "  rank: no module changed",
        "  rank not lowered in 30 modules: norm has no rank that can be lowered",
        "    n0",
    ]
    assert len(list(rank_lines(report, True))) == 32


def test_the_command_reports_ranks(tmp_path: Path) -> None:
    save_file(
        {n: t.contiguous() for n, t in lora("x", *with_values(VALUES, 96, 64), 8.0).items()}, tmp_path / "x.safetensors"
    )
    ran = ckptool("prune", tmp_path / "x.safetensors", tmp_path / "y.safetensors", "--rank", "3", "--json")
    assert ran.code == 0, ran.err
    report = json.loads(ran.out)
    assert report["rank"]["x"]["to"] == 3
    assert report["rank"]["x"]["energy"] == pytest.approx(84 / 85.33203125)
    assert report["ranks"]["bytes_after"] < report["ranks"]["bytes_before"]
    assert load_file(tmp_path / "y.safetensors")["x.lora_up.weight"].shape == (96, 3)


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32"])
def test_numbers_are_rounded_as_torch_rounds_them(dtype: str) -> None:
    numbers = random(1 << 16).float()  # torch rounds twice on the way from float64
    halfway = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-11, 1 + 3 * 2**-11, 1e-7, 65504.0, 65519.0])
    numbers = torch.cat([numbers, halfway])
    torch_dtype = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}[dtype]
    assert cast(numbers.double().numpy(), dtype) == numbers.to(torch_dtype).view(torch.uint8).numpy().tobytes()
