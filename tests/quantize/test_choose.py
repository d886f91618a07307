"""What a cast would break is left as it is, and said so."""

from pathlib import Path

import pytest
import torch

from fixtures.models import state_dict
from fixtures.torchfile import save_zip
from tests.convert.converting import Tensors, ckptool, equal
from tests.quantize.casting import figures, reasons, refused, run, save

MODEL: Tensors = {
    "model.diffusion_model.input_blocks.0.0.weight": torch.full((4, 4), 0.1),
    "first_stage_model.decoder.conv_in.weight": torch.full((4, 4), 0.1),
    "cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.weight": torch.full((4, 4), 0.1),
    "conditioner.embedders.1.model.ln_final.weight": torch.full((4,), 0.1),
}
UNET, VAE, TEXT, TEXT_2 = MODEL


@pytest.mark.parametrize("command", ["fp16", "bf16", "fp8"])
@pytest.mark.parametrize(
    "name",
    [
        "betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_recipm1_alphas_cumprod",
        "log_one_minus_alphas_cumprod", "posterior_variance", "posterior_log_variance_clipped", "posterior_mean_coef1",
        "logvar", "lvlb_weights", "denoiser.sigmas", "model.alphas_cumprod", "scale_factor", "edm_mean", "edm_std",
        "edm_vpred.sigma_max", "edm_vpred.sigma_min", "v_pred", "ztsnr", "noise_augmentor.sqrt_alphas_cumprod",
        "cond_stage_model.model.logit_scale", "model_ema.decay", "x.rotary_emb.inv_freq",
        "cond_stage_model.transformer.text_model.embeddings.position_ids",
    ],
)  # fmt: skip
def test_what_is_no_weight_stays_f32(command: str, name: str, tmp_path: Path) -> None:
    tensors = {**MODEL, name: torch.tensor([0.9999, 75.9975, 3.3])}
    made, report = run(command, save(tensors, tmp_path / "m.safetensors"))
    assert equal(made[name], tensors[name])
    assert reasons(report).keys() == {name}
    assert made[UNET].dtype != torch.float32


@pytest.mark.parametrize("name", ["v_pred", "ztsnr"])
def test_markers_without_elements_stay(name: str, tmp_path: Path) -> None:
    made, _ = run("fp16", save({**MODEL, name: torch.empty(0)}, tmp_path / "m.safetensors"))
    assert made[name].shape == (0,)
    assert made[name].dtype == torch.float32


def test_weights_of_such_names_are_cast(tmp_path: Path) -> None:
    """A schedule is a list of numbers under a name of its own."""
    tensors = {"log_x": torch.ones(2, 2), "sqrt_net.weight": torch.ones(3), "sigmas.weight": torch.ones(3)}
    made, _ = run("fp16", save(tensors, tmp_path / "m.safetensors"))
    assert {tensor.dtype for tensor in made.values()} == {torch.float16}


def test_counters_of_the_ema_stay_and_its_weights_are_cast(tmp_path: Path) -> None:
    save_zip(state_dict("sd1-full-ema", factor=64), tmp_path / "m.ckpt")
    made, report = run("fp16", tmp_path / "m.ckpt")
    assert made["model_ema.decay"].item() == pytest.approx(0.9999, rel=1e-6)
    assert made["model_ema.num_updates"].item() == 470_000
    ema = [name for name in made if name.startswith("model_ema.diffusion")]
    assert ema
    assert all(made[name].dtype == torch.float16 for name in ema)
    assert "0.9999" in reasons(report)["model_ema.decay"]


def test_the_report_has_nothing_but_what_was_wider(tmp_path: Path) -> None:
    tensors = {**MODEL, "h.weight": torch.ones(3).half(), "position_ids": torch.arange(77)}
    _, report = run("fp16", save(tensors, tmp_path / "m.safetensors"))
    assert figures(report).keys() == MODEL.keys()
    assert reasons(report) == {"position_ids": "integers"}


@pytest.mark.parametrize(("command", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_an_alpha_is_cast_where_that_is_exact(command: str, dtype: torch.dtype, tmp_path: Path) -> None:
    lora = "lora_unet_down_blocks_0_attentions_0_proj_in"
    tensors = {
        f"{lora}.alpha": torch.tensor(16.0), f"{lora}_2.alpha": torch.tensor(0.1),
        f"{lora}_3.alpha": torch.tensor(1e9 + 64), f"{lora}_4.alpha": torch.tensor(float("nan")),
        f"{lora}_5.alpha": torch.tensor([0.1]),
        f"{lora}.lora_down.weight": torch.ones(4, 4), f"{lora}.dora_scale": torch.full((4,), 0.1),
    }  # fmt: skip
    made, report = run(command, save(tensors, tmp_path / "m.safetensors"))
    kept = {f"{lora}_{n}.alpha" for n in (2, 3, 5)}
    assert reasons(report).keys() == kept
    for name, tensor in tensors.items():
        assert made[name].dtype == (torch.float32 if name in kept else dtype)
        assert name not in kept or equal(made[name], tensor)


def test_alphas_of_a_real_lora_halve(tmp_path: Path) -> None:
    save_zip(state_dict("lora-kohya-sd1"), tmp_path / "m.ckpt")
    made, _ = run("fp16", tmp_path / "m.ckpt")
    assert {made[name].dtype for name in made if name.endswith(".weight")} == {torch.float16}


@pytest.mark.parametrize("command", ["fp16", "bf16"])
def test_components_are_kept_when_asked(command: str, tmp_path: Path) -> None:
    path = save(MODEL, tmp_path / "m.safetensors")
    for args, kept in (
        ((), set()),
        (("--vae", "keep"), {VAE}),
        (("--text-encoder", "keep"), {TEXT, TEXT_2}),
        (("--vae", "keep", "--text-encoder", "keep"), {VAE, TEXT, TEXT_2}),
    ):
        made, report = run(command, path, *args)
        assert {name for name in made if made[name].dtype == torch.float32} == kept
        assert reasons(report).keys() == kept


def test_a_vae_alone_is_kept_when_asked(tmp_path: Path) -> None:
    save_zip(state_dict("vae", factor=32), tmp_path / "m.ckpt")
    made, report = run("fp16", tmp_path / "m.ckpt", "--vae", "keep")
    assert {tensor.dtype for tensor in made.values()} == {torch.float32}
    assert set(reasons(report).values()) == {"--vae keep"}


def test_globs_keep_what_they_match(tmp_path: Path) -> None:
    path = save(MODEL, tmp_path / "m.safetensors")
    made, report = run("fp16", path, "--keep-fp32", "*ln_final*", "--keep-fp32", "first_stage_model.*")
    assert {name for name in made if made[name].dtype == torch.float32} == {TEXT_2, VAE}
    assert set(reasons(report).values()) == {"--keep-fp32"}


def test_globs_tell_upper_from_lower_case(tmp_path: Path) -> None:
    path = save(MODEL, tmp_path / "m.safetensors")
    assert refused("fp16", path, "--keep-fp32", "FIRST_STAGE_MODEL.*").code == 2


def test_a_glob_that_matches_nothing_is_a_mistake(tmp_path: Path) -> None:
    path = save(MODEL, tmp_path / "m.safetensors")
    ran = refused("fp16", path, "--keep-fp32", "*.weight", "--keep-fp32", "no\x1bsuch")
    assert ran.code == 2
    assert "--keep-fp32 no\\x1bsuch: no tensor" in ran.err


@pytest.mark.parametrize("args", [("--vae", "maybe"), ("--on-overflow", "wrap"), ("--keep-fp32",)])
def test_other_values_are_usage_errors(args: tuple[str, ...], tmp_path: Path) -> None:
    assert ckptool("fp16", save(MODEL, tmp_path / "m.safetensors"), *args).code == 2
