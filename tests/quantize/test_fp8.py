"""FP8 is for the weights of layers; everything else is the rest. Scales are where ComfyUI reads them."""

from pathlib import Path

import pytest
import torch

from fixtures.models import state_dict
from fixtures.torchfile import save_zip
from tests.convert.converting import Tensors, ckptool, equal
from tests.quantize.casting import figures, reasons, refused, run, save

P = "model.diffusion_model."
LINEAR, CONV = f"{P}input_blocks.1.1.proj_in.weight", f"{P}input_blocks.0.0.weight"
TEXT = "cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.weight"
VAE = "first_stage_model.decoder.conv_in.weight"


def model(dtype: torch.dtype = torch.float32) -> Tensors:
    generator = torch.Generator().manual_seed(0)
    shapes = {
        LINEAR: (32, 48), CONV: (16, 4, 3, 3), f"{P}out.0.weight": (16,), f"{P}out.2.bias": (4,), TEXT: (16, 16),
        VAE: (8, 4, 3, 3), "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": (40, 16),
        f"{P}pos_embed": (1, 9, 16),
    }  # fmt: skip
    return {name: (torch.randn(shape, generator=generator) * 0.03).to(dtype) for name, shape in shapes.items()}


@pytest.mark.parametrize(("form", "dtype"), [("e4m3", torch.float8_e4m3fn), ("e5m2", torch.float8_e5m2)])
@pytest.mark.parametrize("source", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_layers_are_cast_as_torch_casts_them(
    form: str, dtype: torch.dtype, source: torch.dtype, tmp_path: Path
) -> None:
    tensors = model(source)
    made, _ = run("fp8", save(tensors, tmp_path / "m.safetensors"), "--format", form)
    for name, tensor in tensors.items():
        halved = tensor.half() if source in (torch.float32, torch.float64) else tensor
        assert equal(made[name], tensor.to(dtype) if name in (LINEAR, CONV) else halved), name


def test_the_rest_is_kept_when_asked(tmp_path: Path) -> None:
    tensors = model()
    made, report = run("fp8", save(tensors, tmp_path / "m.safetensors"), "--rest", "keep")
    assert {name for name in made if made[name].dtype == torch.float8_e4m3fn} == {LINEAR, CONV}
    assert all(equal(made[name], tensors[name]) for name in tensors if name not in (LINEAR, CONV))
    assert set(reasons(report).values()) == {"--rest keep"}


def test_components_are_cast_or_kept_when_asked(tmp_path: Path) -> None:
    path = save(model(), tmp_path / "m.safetensors")
    made, _ = run("fp8", path, "--vae", "cast", "--text-encoder", "keep")
    assert made[VAE].dtype == torch.float8_e4m3fn
    assert made[TEXT].dtype == torch.float32
    made, _ = run("fp8", path, "--vae", "keep", "--text-encoder", "cast")
    assert made[VAE].dtype == torch.float32
    assert made[TEXT].dtype == torch.float8_e4m3fn
    embedding = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"
    assert made[embedding].dtype == torch.float16


def test_a_keep_glob_is_stronger_than_the_rest(tmp_path: Path) -> None:
    made, _ = run("fp8", save(model(), tmp_path / "m.safetensors"), "--keep-fp32", "*out*", "--keep-fp32", LINEAR)
    assert {name for name in made if made[name].dtype == torch.float32} == {
        f"{P}out.0.weight",
        f"{P}out.2.bias",
        LINEAR,
    }


@pytest.mark.parametrize(
    ("form", "dtype", "top"), [("e4m3", torch.float8_e4m3fn, 448), ("e5m2", torch.float8_e5m2, 57344)]
)
@pytest.mark.parametrize("prefix", [P, ""])
def test_scales_restore_the_weights(form: str, dtype: torch.dtype, top: float, prefix: str, tmp_path: Path) -> None:
    tensors = {name.replace(P, prefix): tensor * 1e-4 for name, tensor in model().items() if name.startswith(P)}
    tensors |= {f"{prefix}input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight": torch.randn(8, 768) * 1e4}
    made, report = run("fp8", save(tensors, tmp_path / "m.safetensors"), "--scale", "--format", form)
    scaled = [name for name in tensors if tensors[name].ndim == 2]
    assert len(scaled) == 2
    assert made[f"{prefix}scaled_fp8"].dtype == dtype
    assert made[f"{prefix}scaled_fp8"].shape == (2,)
    for name in scaled:
        scale = made[name.removesuffix("weight") + "scale_weight"]
        assert (scale.dtype, scale.shape) == (torch.float32, ())
        assert equal(made[name], (tensors[name] / scale).to(dtype))
        assert made[name].float().abs().max() == top
        assert figures(report)[name]["scale"] == scale.item()
        assert figures(report)[name]["overflowed"] == 0
        assert figures(report)[name]["relative_error"] < (0.03 if form == "e4m3" else 0.06)
    others = made.keys() - set(scaled) - {f"{prefix}scaled_fp8"}
    assert {made[name].dtype for name in others if not name.endswith("scale_weight")} == {torch.float16}
    assert made.keys() - tensors.keys() == {f"{prefix}scaled_fp8"} | {n[:-6] + "scale_weight" for n in scaled}


def test_scales_make_fp8_of_small_weights_useful(tmp_path: Path) -> None:
    path = save({name: tensor * 0.01 for name, tensor in model().items()}, tmp_path / "m.safetensors")
    errors = [figures(run("fp8", path, *args)[1])[LINEAR]["relative_error"] for args in ((), ("--scale",))]
    assert errors[0] > 0.5
    assert errors[1] < 0.03


@pytest.mark.parametrize("value", [0.0, 1e-45, 1e-38, 3e38])
def test_every_size_of_values_has_a_scale(value: float, tmp_path: Path) -> None:
    tensors = {**model(), LINEAR: torch.full((4, 4), value)}
    made, report = run("fp8", save(tensors, tmp_path / "m.safetensors"), "--scale")
    scale = made[LINEAR.replace("weight", "scale_weight")]
    assert 0 < scale < float("inf")
    assert torch.isfinite(made[LINEAR].float()).all()
    if value > 1e-44:
        assert torch.allclose(made[LINEAR].float() * scale, tensors[LINEAR], rtol=0.1)
    assert figures(report)[LINEAR]["overflowed"] == 0


def test_nan_has_no_part_in_a_scale_and_stays(tmp_path: Path) -> None:
    tensors = model()
    tensors[LINEAR][0, 0] = float("nan")
    made, report = run("fp8", save(tensors, tmp_path / "m.safetensors"), "--scale")
    assert made[LINEAR].float().isnan().sum() == 1
    assert made[LINEAR].float().nan_to_num(0).abs().max() == 448
    assert figures(report)[LINEAR]["nan"] == 1


def test_an_infinity_is_kept_out_of_scales(tmp_path: Path) -> None:
    tensors = model() | {f"{P}middle_block.1.proj_in.weight": torch.randn(4, 4)}
    tensors[LINEAR][0, 0] = float("inf")
    path = save(tensors, tmp_path / "m.safetensors")
    made, report = run("fp8", path, "--scale")
    assert equal(made[LINEAR], tensors[LINEAR])
    assert "infinity" in reasons(report)[LINEAR]
    assert LINEAR.replace("weight", "scale_weight") not in made
    made, report = run("fp8", path, "--scale", "--on-overflow", "clamp")
    assert made[LINEAR].float()[0, 0] == 448
    assert figures(report)[LINEAR]["overflowed"] == 1
    assert refused("fp8", path, "--scale", "--on-overflow", "fail", "--force").code == 3


def test_the_rest_of_a_scaled_file_may_overflow(tmp_path: Path) -> None:
    tensors = model()
    tensors[f"{P}out.2.bias"][0] = 1e6
    tensors[LINEAR] *= 1e5  # beyond the range, but for its scale
    made, report = run("fp8", save(tensors, tmp_path / "m.safetensors"), "--scale")
    assert equal(made[f"{P}out.2.bias"], tensors[f"{P}out.2.bias"])
    assert made[LINEAR].dtype == torch.float8_e4m3fn
    assert LINEAR.replace("weight", "scale_weight") in made
    assert reasons(report).keys() == {f"{P}out.2.bias"}


@pytest.mark.parametrize("architecture", ["vae", "lora-kohya-sd1", "diffusers-unet-sd1"])
def test_scales_are_refused_where_nobody_reads_them(architecture: str, tmp_path: Path) -> None:
    save_zip(state_dict(architecture, factor=32), tmp_path / "m.ckpt")
    ran = refused("fp8", tmp_path / "m.ckpt", "--scale")
    assert ran.code == 3
    assert "--scale" in ran.err


def test_a_checkpoint_with_scales_is_not_cast_again(tmp_path: Path) -> None:
    save_zip(state_dict("sd2-eps", factor=32), tmp_path / "m.ckpt")
    assert ckptool("fp8", tmp_path / "m.ckpt", "--scale").code == 0
    ran = refused("fp8", tmp_path / "m-fp8.safetensors")
    assert ran.code == 3
    assert "quantised" in ran.err


def test_a_text_encoder_alone_is_cast(tmp_path: Path) -> None:
    save_zip(state_dict("diffusers-te-sd1", factor=32), tmp_path / "m.ckpt")
    made, _ = run("fp8", tmp_path / "m.ckpt")
    layer = "encoder.layers.0.mlp.fc1.weight"
    assert made[layer].dtype == torch.float8_e4m3fn
    assert made["embeddings.token_embedding.weight"].dtype == torch.float16
    made, _ = run("fp8", tmp_path / "m.ckpt", "--text-encoder", "rest")
    assert made[layer].dtype == torch.float16


def test_people_are_told_of_a_cast_that_loses_much(tmp_path: Path) -> None:
    path = save({name: tensor * 0.01 for name, tensor in model().items()}, tmp_path / "m.safetensors")
    assert "too small for plain FP8" in ckptool("fp8", path).out
    assert "too small for plain FP8" not in ckptool("fp8", path, "--scale", "--force").out
