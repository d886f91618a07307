"""Every tensor of every real layout belongs to the component that the manifest counts it for."""

from collections import Counter

import pytest

from ckptool.identify.components import COMPONENTS, component_of
from fixtures import manifests
from tests.identify.knowing import known, load

COUNTED = [name for name in manifests.names() if manifests.about(name).get("components")]


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
@pytest.mark.parametrize("name", COUNTED)
def test_components_are_counted_as_in_the_manifest(name: str, prefix: str) -> None:
    adapter = known(load(name)).algorithm is not None
    kind = known(load(name)).kind
    found = Counter(component_of(("" if adapter else prefix) + key, kind) for key in load(name))
    counted = {part: counts["tensors"] for part, counts in manifests.about(name)["components"].items()}
    te = found.pop("text_encoder", 0) + found.pop("text_encoder_2", 0)
    assert dict(found) | ({"te": te} if te else {}) == counted


@pytest.mark.parametrize(
    ("name", "kind", "component"),
    [
        ("conditioner.embedders.0.transformer.text_model.x", "checkpoint", "text_encoder"),
        ("conditioner.embedders.1.model.ln_final.weight", "checkpoint", "text_encoder_2"),
        ("conditioner.embedders.0.open_clip.model.visual.proj", "checkpoint", "other"),
        ("text_encoder_2.text_model.x", "checkpoint", "text_encoder_2"),
        ("text_encoder_3.encoder.block.0.x", "checkpoint", "text_encoder_2"),
        ("text_encoders.clip_l.transformer.x", "checkpoint", "text_encoder"),
        ("text_encoders.t5xxl.transformer.x", "checkpoint", "text_encoder_2"),
        ("transformer.resblocks.0.ln_1.weight", "text-encoder", "text_encoder"),
        ("token_embedding.weight", "text-encoder", "text_encoder"),
        ("positional_embedding", "text-encoder", "text_encoder"),
        ("ln_final.weight", "text-encoder", "text_encoder"),
        ("text_projection", "text-encoder", "text_encoder"),
        ("transformer.x", "checkpoint", "unet"),
        ("unet.conv_in.weight", "checkpoint", "unet"),
        ("unet_ema.conv_in.weight", "checkpoint", "ema"),
        ("model_ema.decay", "checkpoint", "ema"),
        ("state_dict_ema.x", "checkpoint", "ema"),
        ("v_pred", "checkpoint", "other"),
        ("alphas_cumprod", "controlnet", "other"),
        ("denoiser.sigmas", "checkpoint", "other"),
        ("loss.discriminator.main.0.weight", "vae", "training"),
        ("first_stage_model.loss.logvar", "checkpoint", "training"),
        ("optimizer_states.0.state.0.exp_avg", "checkpoint", "training"),
        ("embedding_manager.x", "checkpoint", "training"),
        ("lora_te2_text_model_x.alpha", "lora", "text_encoder_2"),
        ("lora_te1_text_model_x.alpha", "lycoris", "text_encoder"),
        ("base_model.model.text_model.x.lora_A.weight", "lora", "text_encoder"),
        ("base_model.model.down_blocks.0.x.lora_A.weight", "lora", "unet"),
        ("transformer.single_transformer_blocks.0.x.lora_A.weight", "lora", "unet"),
        ("clip_g", "textual-inversion", "text_encoder_2"),
        ("emb_params", "textual-inversion", "text_encoder"),
        ("conv_first.weight", "upscaler", "other"),
        ("", "unknown", "other"),
        ("model." * 5000, "unknown", "other"),
    ],
)
def test_names_say_their_component(name: str, kind: str, component: str) -> None:
    assert component_of(name, kind) == component
    assert component in COMPONENTS
