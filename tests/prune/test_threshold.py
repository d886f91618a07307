"""Values near zero become zero: exactly those below the threshold, and only in weights where that is safe."""

import json
import zipfile
from math import inf, isnan, nextafter, sqrt
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch

from ckptool.convert.numbers import decoded
from ckptool.prune import threshold
from ckptool.prune.threshold import is_target
from ckptool.prune.zeroing import NAN, TOP, Tally, limit_bits, zeroing
from ckptool.tensor import BITS, Inline, Tensor
from fixtures.models import state_dict
from fixtures.tensors import noise, of
from fixtures.torchfile import save_zip
from tests.convert.converting import Tensors, ckptool, contents, equal
from tests.convert.test_archives import rezip
from tests.prune.pruning import EMPTY, checkpoint, prune, refused, saved

THRESHOLDS = (1e-3, 0.03, 0.5, 1.0, 2.0**-14, 2.0**-24, 5e-324, 448.0, 1e30, 1e308)
UNET = "model.diffusion_model."
WEIGHT = UNET + "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"


def zero(dtype: str, data: bytes, threshold: float) -> tuple[bytes, Tally]:
    tally = Tally()
    buffer = bytearray(data)
    zeroing(dtype, threshold, tally)(memoryview(buffer))
    return bytes(buffer), tally


def codes(dtype: str, threshold: float) -> np.ndarray[Any, Any]:
    """Every value of a narrow dtype; of a wide one those around the threshold and the ends, of both signs."""
    width = BITS[dtype] // 8
    if width <= 2:
        return np.arange(1 << (8 * width), dtype=np.uint64).astype(f"<u{width}")
    limit = limit_bits(dtype, threshold)
    around = {max(limit + step, 0) for step in range(-3, 4)} | {0, 1, 2, TOP[dtype], TOP[dtype] - 1, NAN[dtype]}
    sizes = np.array(sorted(min(code, NAN[dtype] + 5) for code in around), f"<u{width}")
    return np.concatenate([sizes, sizes | np.array(1 << (8 * width - 1), sizes.dtype)])


@pytest.mark.parametrize("threshold", THRESHOLDS)
@pytest.mark.parametrize("dtype", TOP)
def test_exactly_the_values_below_the_threshold(dtype: str, threshold: float) -> None:
    before = codes(dtype, threshold)
    values = [float(value) for value in decoded(bytearray(before.tobytes()), dtype)]
    data, tally = zero(dtype, before.tobytes(), threshold)
    below = np.array([0 < abs(value) < threshold for value in values])  # exact: every value has its F64
    expected = np.where(below, 0, before).astype(before.dtype)
    assert data == expected.tobytes()
    assert (tally.total, tally.zeroed) == (len(before), int(below.sum()))
    assert tally.nan == sum(map(isnan, values))


@pytest.mark.parametrize("dtype", TOP)
def test_a_value_that_is_the_threshold_stays(dtype: str) -> None:
    code = limit_bits(dtype, 0.25)
    data = code.to_bytes(BITS[dtype] // 8, "little")
    assert decoded(bytearray(data), dtype)[0] == 0.25
    assert zero(dtype, data, 0.25)[0] == data
    assert zero(dtype, data, nextafter(0.25, 1))[0] == bytes(len(data))
    below = (code - 1).to_bytes(len(data), "little")
    assert zero(dtype, below, 0.25)[0] == bytes(len(data))
    smaller = float(decoded(bytearray(below), dtype)[0])
    assert zero(dtype, below, smaller)[0] == below


def test_what_was_lost_is_tallied() -> None:
    values = np.array([3.0, 0.5, -0.25, 0.0, -0.0, np.nan, np.inf, -4.0], "<f4")
    _, tally = zero("F32", values.tobytes(), 1.0)
    assert (tally.total, tally.zeroed, tally.nan, tally.fraction) == (8, 2, 1, 0.25)
    assert tally.relative_error == sqrt((0.25 + 0.0625) / (9 + 0.25 + 0.0625 + 16))


def test_squares_beyond_all_numbers_are_no_error_that_is_known() -> None:
    values = np.array([1e300, 1e-3], "<f8")
    data, tally = zero("F64", values.tobytes(), 1.0)
    assert np.frombuffer(data, "<f8").tolist() == [1e300, 0.0]
    assert tally.relative_error is None


def check(path: Path, tensors: Any, threshold: float, changed: int, *options: object) -> dict[str, Any]:
    """Prune, hold each tensor against numpy, and return `zeroed` of the report; `changed`: tensors that differ."""
    pruned = prune(path, "--threshold", threshold, *options)
    assert pruned.tensors.keys() == tensors.keys()
    different = 0
    for name, tensor in tensors.items():
        before, after = tensor.tobytes(), pruned.bytes_of(name)
        if before != after:
            different += 1
            values = np.frombuffer(before, "<f4")
            assert after == np.where(abs(values) < np.float32(threshold), np.float32(0), values).tobytes()
            assert len(tensor.shape) >= 2
            assert not name.startswith(("first_stage_model.", "control_model."))
            assert not name.endswith((".bias", "position_ids"))
    assert different == changed
    zeroed: dict[str, Any] = pruned.report["zeroed"]
    return zeroed


@pytest.mark.parametrize("architecture", ["sd1", "sd2.1-v", "sdxl-base", "controlnet-sd1-cldm-full"])
def test_weights_of_unet_and_text_encoders_and_nothing_else(architecture: str, tmp_path: Path) -> None:
    path, tensors = checkpoint(tmp_path, architecture)
    prefixes = (UNET, "cond_stage_model.", "conditioner.")
    apart = ("norm", "embedding", ".time_embed.", ".label_emb.", "bias", "position_ids", "ln_")
    targets = {
        name for name, tensor in tensors.items()
        if name.startswith(prefixes) and len(tensor.shape) > 1 and not any(part in name for part in apart)
    }  # fmt: skip
    zeroed = check(path, tensors, 10.0, len(targets))
    unet = sum(len(tensors[name].tobytes()) // 4 for name in targets if name.startswith(UNET))
    assert zeroed["unet"]["values"] == zeroed["unet"]["of"] == unet
    assert zeroed["unet"]["fraction"] == zeroed["unet"]["relative_error"] == 1.0


@pytest.mark.parametrize(
    ("architecture", "component"),
    [("diffusers-unet-sd1", "unet"), ("diffusers-unet-sdxl", "unet"), ("diffusers-te-sd2", "text_encoder")],
)
def test_diffusers_components(architecture: str, component: str, tmp_path: Path) -> None:
    path, tensors = checkpoint(tmp_path, architecture)
    apart = ("norm", "embedding", "bias")
    targets = [n for n, t in tensors.items() if len(t.shape) > 1 and not any(part in n for part in apart)]
    assert list(check(path, tensors, 10.0, len(targets))) == [component]


def test_the_report_says_what_it_costs(tmp_path: Path) -> None:
    path, tensors = checkpoint(tmp_path, "sd1", 32)
    pruned = prune(path, "--threshold", 0.01)
    for component, prefix in (("unet", UNET), ("text_encoder", "cond_stage_model.")):
        before, after = [], []
        for name, tensor in tensors.items():
            described = Tensor(name, "F32", tensor.shape, Inline(b"x"))
            if (
                name.startswith(prefix)
                and pruned.tensors[name].dtype == torch.float32
                and is_target(described, component)
            ):
                before.append(np.frombuffer(tensor.tobytes(), "<f4").astype("f8"))
                after.append(pruned.tensors[name].numpy().reshape(-1).astype("f8"))
        all_before, all_after = np.concatenate(before), np.concatenate(after)
        told = pruned.report["zeroed"][component]
        assert told["values"] == int((all_before != all_after).sum())
        assert told["fraction"] == pytest.approx(told["values"] / len(all_before), rel=1e-5)
        error = np.linalg.norm(all_before - all_after) / np.linalg.norm(all_before)
        assert told["relative_error"] == pytest.approx(error, rel=1e-5)


def test_the_average_is_no_target(tmp_path: Path) -> None:
    path, tensors = checkpoint(tmp_path, "sd1-full-ema")
    pruned = prune(path, "--threshold", 10, "--ema", "keep")
    assert all(pruned.bytes_of(n) == t.tobytes() for n, t in tensors.items() if n.startswith("model_ema."))


@pytest.mark.parametrize("component", ["unet", "te", "te2"])
def test_a_component_alone_is_thresholded_as_in_its_file(component: str, tmp_path: Path) -> None:
    path, _ = checkpoint(tmp_path, "sdxl-base")
    whole = prune(path, "--threshold", 0.01).report["zeroed"]
    alone = prune(path, "--threshold", 0.01, "--only", component).report["zeroed"]
    assert list(alone.values()) == [whole[{"te": "text_encoder", "te2": "text_encoder_2"}.get(component, component)]]


@pytest.mark.parametrize(
    "architecture", ["vae", "controlnet-sd1", "diffusers-controlnet-sdxl", "textual-inversion-sd1"]
)
def test_kinds_whose_tiny_values_matter_stay_untouched(architecture: str, tmp_path: Path) -> None:
    path, tensors = checkpoint(tmp_path, architecture)
    assert check(path, tensors, 10.0, 0) == {}


@pytest.mark.parametrize("name", ["lora-kohya-sd1", "lycoris-loha-sd1"])
def test_values_of_an_adapter_stay_untouched(name: str, tmp_path: Path) -> None:
    path, tensors = checkpoint(tmp_path, name, 16)
    pruned = prune(path, "--threshold", "1e-9")
    assert all(pruned.bytes_of(name) == tensors[name].tobytes() for name in pruned.tensors)


def test_modules_of_an_adapter_without_effect_go(tmp_path: Path) -> None:
    tensors = state_dict("lora-kohya-sd1", 16)
    module = "lora_unet_mid_block_attentions_0_proj_in"
    up = tensors[f"{module}.lora_up.weight"]
    tensors[f"{module}.lora_up.weight"] = of("F16", up.shape, bytes(len(up.tobytes())))
    save_zip(tensors, tmp_path / "m.pt")
    pruned = prune(tmp_path / "m.pt", "--threshold", "1e-9")
    assert pruned.tensors.keys() == {name for name in tensors if not name.startswith(module + ".")}
    assert pruned.report["removed"]["modules without effect"]["tensors"] == 3
    assert "1 module of the adapter" in pruned.words


def test_a_fraction_of_each_tensors_size(tmp_path: Path) -> None:
    """With NaN and infinity in it, which count for nothing."""
    large = np.array([[100.0, -10.0, 1.0], [np.nan, np.inf, 0.0]], "<f4")
    path, tensors = checkpoint(tmp_path, "sd1", 64, **{WEIGHT: of("F32", large.shape, large.tobytes())})
    pruned = prune(path, "--threshold", 0.5, "--relative")
    values = pruned.tensors[WEIGHT].numpy()
    assert values.tolist()[0] == [100.0, 0.0, 0.0]
    assert (isnan(values[1, 0]), values[1, 1]) == (True, inf)
    other = WEIGHT.replace("to_k", "to_v")
    before = np.frombuffer(tensors[other].tobytes(), "<f4")
    limit = 0.5 * sqrt(np.mean(before.astype("f8") ** 2))
    assert pruned.bytes_of(other) == np.where(abs(before) < limit, np.float32(0), before).tobytes()
    assert pruned.report["zeroed"]["unet"]["nan"] == 1


@pytest.mark.parametrize("values", [np.zeros((2, 2)), np.full((2, 2), np.nan), np.full((2, 2), 1e300)])
def test_a_tensor_without_a_size_stays(values: np.ndarray[Any, Any], tmp_path: Path) -> None:
    data = values.astype("<f8").tobytes()
    path, _ = checkpoint(tmp_path, "sd1", 64, **{WEIGHT: of("F64", (2, 2), data)})
    assert prune(path, "--threshold", 0.5, "--relative").bytes_of(WEIGHT) == data


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]
)
def test_every_precision(dtype: torch.dtype, tmp_path: Path) -> None:
    weight = (torch.randn(64, 64) * 0.1).to(dtype)
    path = saved(unet() | {WEIGHT: weight}, tmp_path)
    after = prune(path, "--threshold", 0.05).tensors[WEIGHT]
    wide = weight.double()
    expected = torch.where((wide.abs() < 0.05) & (wide != 0), torch.zeros_like(wide), wide)
    assert after.dtype == dtype
    assert equal(after.double(), expected)
    assert 0 < int((after.double() == 0).sum()) < 64 * 64


def unet() -> Tensors:
    """Enough of an SD1 checkpoint to be known as one."""
    floats = {name: tensor for name, tensor in state_dict("sd1", 64).items() if not name.endswith("position_ids")}
    return {
        name: torch.frombuffer(bytearray(tensor.tobytes()), dtype=torch.float32).reshape(tensor.shape)
        for name, tensor in floats.items()
    }


def test_views_and_large_tensors_in_parallel(tmp_path: Path) -> None:
    big = torch.randn(1200, 2200, generator=torch.Generator().manual_seed(1)) * 0.03
    tensors = unet() | {WEIGHT: big, WEIGHT.replace("to_k", "to_q"): big.t()}
    torch.save(tensors, tmp_path / "m.ckpt")
    pruned = prune(tmp_path / "m.ckpt", "--threshold", 0.001)
    expected = torch.where(big.abs() < 0.001, torch.zeros_like(big), big)
    assert equal(pruned.tensors[WEIGHT], expected)
    assert equal(pruned.tensors[WEIGHT.replace("to_k", "to_q")], expected.t())
    assert pruned.report["zeroed"]["unet"]["values"] >= 2 * int((expected == 0).sum())


def test_deflated_archives(tmp_path: Path) -> None:
    path, _ = checkpoint(tmp_path, "sd1")
    with zipfile.ZipFile(path) as plain, zipfile.ZipFile(tmp_path / "d.ckpt", "w", zipfile.ZIP_DEFLATED) as packed:
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    for options in ((), ("--relative",)):
        first = prune(path, "--threshold", 0.01, *options)
        second = prune(tmp_path / "d.ckpt", "--threshold", 0.01, *options)
        assert all(equal(first.tensors[name], second.tensors[name]) for name in first.tensors)
        assert first.report["zeroed"] == second.report["zeroed"]


def test_a_dry_run_counts_the_same(tmp_path: Path) -> None:
    path, _ = checkpoint(tmp_path)
    told = prune(path, "--threshold", 0.001).report["zeroed"]
    ran = ckptool("prune", path, tmp_path / "new.safetensors", "--threshold", 0.001, "--dry-run", "--json")
    assert (json.loads(ran.out)["zeroed"], (tmp_path / "new.safetensors").exists()) == (told, False)


def test_what_people_are_told(tmp_path: Path) -> None:
    path, _ = checkpoint(tmp_path)
    little, much = (prune(path, "--threshold", t).words for t in ("1e-4", "1e-3"))
    assert "stays the same size" in little
    assert "unet: " in little
    assert "warning" not in little
    assert "warning" in much
    assert "warning" not in prune(path, "--threshold", "0.1", "--relative").words


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "x"])
def test_a_threshold_that_means_nothing(value: str, tmp_path: Path) -> None:
    refused(saved({"a": torch.ones(1)}, tmp_path), f"--threshold={value}", code=2)


def test_relative_to_nothing(tmp_path: Path) -> None:
    refused(saved({"a": torch.ones(1)}, tmp_path), "--relative", code=2)


def test_a_quantised_file_is_refused(tmp_path: Path) -> None:
    path = saved(unet() | {"scaled_fp8": EMPTY}, tmp_path)
    assert "quantised" in refused(path, "--threshold", "1e-3").err


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("output_blocks.3.1.proj_in.weight", True),
        ("input_blocks.3.0.op.weight", True),
        ("input_blocks.1.0.emb_layers.1.weight", True),
        ("text_model.encoder.layers.0.mlp.fc1.weight", True),
        ("conditioner.embedders.1.model.text_projection", True),
        ("double_blocks.0.img_attn.qkv.weight", True),
        ("time_embed.0.weight", False),
        ("label_emb.0.0.weight", False),
        ("text_model.embeddings.token_embedding.weight", False),
        ("model.positional_embedding", False),
        ("encoder.embed_tokens.weight", False),
        ("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", False),
        ("pos_embed", False),
        ("layer.norm.weight", False),
        ("layer.lora_down.weight", False),
        ("zero_convs.0.0.weight", False),
        ("x.dora_scale", False),
    ],
)
def test_names_that_are_targets(name: str, target: bool) -> None:
    assert is_target(Tensor(name, "F32", (2, 2), Inline(bytes(16))), "unet") is target


@pytest.mark.parametrize(
    ("dtype", "shape"), [("I64", (2, 2)), ("F32", (4,)), ("F32", ()), ("F32", (0, 2)), ("C64", (2, 2))]
)
def test_what_has_no_near_zero_weights(dtype: str, shape: tuple[int, ...]) -> None:
    assert not is_target(Tensor("layer.weight", dtype, shape, Inline(b"")), "unet")


def test_nothing_else_in_the_file_changes(tmp_path: Path) -> None:
    odd = {"v_pred": of("F32", (0,), b""), "extra.weight": noise("F32", (4, 4), "x")}
    path, tensors = checkpoint(tmp_path, "sdxl-base", 64, **odd)
    pruned = prune(path, "--threshold", 10)
    assert all(contents(pruned.tensors[name]) == tensors[name].tobytes() for name in odd)


def test_a_deflated_record_is_inflated_once_for_all_tensors_in_it(tmp_path: Path) -> None:
    path, values = tmp_path / "m.ckpt", unet()
    one = torch.randn(64, 64, generator=torch.Generator().manual_seed(1))
    values |= {WEIGHT.replace("to_k", name): one[index * 16 :][:16] for index, name in enumerate(("to_q", "to_k"))}
    torch.save(values, path)
    rezip(path.read_bytes(), path, compression=zipfile.ZIP_DEFLATED)
    with patch.object(threshold, "unpacked", wraps=threshold.unpacked) as inflating:
        prune(path, "--threshold", "0.1", "--relative")
    groups = [[tensor.name for tensor in call.args[0]] for call in inflating.call_args_list]
    assert [WEIGHT.replace("to_k", "to_q"), WEIGHT] in [sorted(group, reverse=True) for group in groups]
    assert sum(WEIGHT in group for group in groups) == 1
