"""`--rank`: what is written is the best approximation of that rank, at the right scale, and nothing else changes."""

from pathlib import Path

import pytest
import torch

from ckptool.errors import Refused
from ckptool.prune.rank import rank_lines
from ckptool.prune.rank_factors import cast
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
        lora("x", random(96, 8), random(8, 64)) | {"x.alpha": torch.tensor(True)},
        lora("x", random(96, 8), random(8, 64), dtype=torch.float16)
        | {"x.alpha": torch.tensor(5e-324, dtype=torch.float64)},
    ],
    ids=["shapes", "alphas", "alpha 0", "rank 0", "no rows", "core", "dimensions", "F8", "I64", "C64", "0-D", "half",
         "scalar", "overflow", "alpha true", "alpha nearly 0"],
)  # fmt: skip
def test_odd_modules_stay_and_are_reported(tmp_path: Path, x: Tensors) -> None:
    made = done(tmp_path, x | lora("y", *with_values(VALUES, 96, 64), 8.0), rank=3)
    assert set(made.tensors) >= set(x)
    assert all(made.tensors[name].shape == tensor.shape for name, tensor in x.items())
    assert made.tensors["y.lora_down.weight"].shape[0] == 3
    assert [item["name"] for item in made.report["ranks"]["untouched"]] == ["x"]


@pytest.mark.parametrize("alpha", [torch.tensor(8), torch.tensor(8.0)])
def test_factors_near_the_end_of_f64_are_no_reason_to_stop(tmp_path: Path, alpha: torch.Tensor) -> None:
    up, down = torch.ones(96, 8), torch.full((8, 64), 1e304, dtype=torch.float64)
    x = {"x.lora_up.weight": up.half() * 10, "x.lora_down.weight": down, "x.alpha": alpha}
    made = done(tmp_path, x | lora("y", *with_values(VALUES, 96, 64), 8.0), rank=3)
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


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32"])
def test_numbers_are_rounded_as_torch_rounds_them(dtype: str) -> None:
    numbers = random(1 << 16).float()  # torch rounds twice on the way from float64
    halfway = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-11, 1 + 3 * 2**-11, 1e-7, 65504.0, 65519.0])
    numbers = torch.cat([numbers, halfway])
    torch_dtype = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}[dtype]
    assert cast(numbers.double().numpy(), dtype) == numbers.to(torch_dtype).view(torch.uint8).numpy().tobytes()
