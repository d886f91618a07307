"""The architectures by what names and widths tell them apart. Sources: the original projects' model code.

The UNets of Stable Diffusion share their names, so widths and places of attention tell them apart (UNETS); the networks
after them each have names that no other has (FAMILIES, first match wins).
"""

from dataclasses import dataclass

from ckptool.identify.rules import Rule, contains, has_all, has_any, lacks

BASES = (
    "sd1", "sd2", "sdxl", "sdxl-refiner", "svd", "sd3", "flux", "flux2", "chroma", "auraflow", "hunyuan-dit",
    "hunyuan-video", "pixart", "lumina2", "z-image", "qwen-image", "wan", "ltxv", "cascade", "hidream",
)  # fmt: skip

TITLES: dict[str, str] = {
    "sd1": "Stable Diffusion 1", "sd2": "Stable Diffusion 2", "sdxl": "Stable Diffusion XL",
    "sdxl-refiner": "Stable Diffusion XL refiner", "svd": "Stable Video Diffusion", "sd3": "Stable Diffusion 3",
    "flux": "Flux", "flux2": "Flux.2", "chroma": "Chroma", "auraflow": "AuraFlow", "hunyuan-dit": "Hunyuan-DiT",
    "hunyuan-video": "HunyuanVideo", "pixart": "PixArt", "lumina2": "Lumina 2", "z-image": "Z-Image",
    "qwen-image": "Qwen-Image", "wan": "Wan", "ltxv": "LTX-Video", "cascade": "Stable Cascade", "hidream": "HiDream",
}  # fmt: skip

Place = tuple[str, int]
"""Where attention stands: ("down", level), ("up", block), ("mid", 0), the same in both layouts."""


@dataclass(frozen=True, slots=True)
class UNet:
    """One of the UNets, as it was published."""

    context: int
    """Width of what the text encoder hands over: the inputs of `attn2.to_k`."""
    channels: int
    """Outputs of the first convolution."""
    attends: dict[Place, int]
    """Where attention stands, and how many times `channels` it is wide there."""
    depth: int
    """The most transformer blocks in one place."""
    linear: bool
    """Whether `proj_in` is a matrix, and not a 1 × 1 convolution."""
    label: int | None
    """Inputs of the label embedding (`label_emb`, `add_embedding`)."""


_SD: dict[Place, int] = {
    ("down", 0): 1, ("down", 1): 2, ("down", 2): 4, ("mid", 0): 4, ("up", 1): 4, ("up", 2): 2, ("up", 3): 1,
}  # fmt: skip

UNETS: dict[str, UNet] = {
    "sd1": UNet(768, 320, _SD, 1, linear=False, label=None),
    "sd2": UNet(1024, 320, _SD, 1, linear=True, label=None),
    "sdxl": UNet(
        2048, 320, {("down", 1): 2, ("down", 2): 4, ("mid", 0): 4, ("up", 0): 4, ("up", 1): 2}, 10,
        linear=True, label=2816,
    ),
    "sdxl-refiner": UNet(
        1280, 384, {("down", 1): 2, ("down", 2): 4, ("mid", 0): 4, ("up", 1): 4, ("up", 2): 2}, 4,
        linear=True, label=2560,
    ),
}  # fmt: skip
UNET_BASES = tuple(UNETS)

UNCLIP_LABELS = (1536, 2048)
"""Label widths of SD2 that is conditioned on an image: CLIP-L and OpenCLIP-H, each with as much noise level."""

# First convolution: input channels -> variant. 4 is the latent alone.
INPUTS: dict[int, str] = {9: "inpainting", 8: "instruct-pix2pix", 5: "depth", 7: "upscaler"}


@dataclass(frozen=True, slots=True)
class Family:
    """A network that names alone tell apart."""

    base: str
    rule: Rule


FAMILIES: tuple[Family, ...] = (
    Family("svd", contains(".time_stack.", ".time_mixer.")),
    # Before Flux, whose block names these keep.
    Family("flux2", has_any("double_stream_modulation_img.lin.weight", "double_stream_modulation_img.linear.weight")),
    Family("chroma", has_all("distilled_guidance_layer.")),
    Family("hunyuan-video", has_any("txt_in.individual_token_refiner.", "context_embedder.token_refiner.")),
    Family("flux", has_any("double_blocks.0.img_attn.norm.key_norm.scale",
                           "double_blocks.0.img_attn.norm.key_norm.weight",
                           has_all("single_transformer_blocks.0.", "x_embedder.weight",
                                   "time_text_embed.timestep_embedder.linear_1.weight"))),
    Family("sd3", has_any("joint_blocks.0.context_block.attn.qkv.weight",
                          has_all("transformer_blocks.0.attn.add_k_proj.weight", "pos_embed.proj.weight"))),
    Family("auraflow", has_any("double_layers.0.attn.w1q.weight",
                               has_all("joint_transformer_blocks.0.", "single_transformer_blocks.0."))),
    Family("hunyuan-dit", has_any("mlp_t5.0.weight",
                                  has_all("text_embedder.linear_1.weight", "blocks.0.attn2.to_k.weight",
                                          "text_embedding_padding"))),
    # LTX-Video has the same time embedding, but no patches of an image.
    Family("pixart", has_any(has_all("t_block.1.weight", "y_embedder."),
                             has_all("adaln_single.emb.timestep_embedder.linear_1.bias", "pos_embed.proj.weight"))),
    Family("ltxv", has_all("adaln_single.emb.timestep_embedder.linear_1.bias")),
    Family("z-image", has_all("cap_embedder.1.weight", "context_refiner.0.", "cap_pad_token")),
    Family("lumina2", has_any(has_all("cap_embedder.1.weight", "context_refiner.0."),
                              has_all("time_caption_embed.caption_embedder.1.weight", "context_refiner.0."))),
    Family("hidream", has_any("caption_projection.0.linear.weight")),
    Family("qwen-image", has_any("transformer_blocks.0.img_mod.1.weight")),
    Family("wan", has_any(has_all("blocks.0.self_attn.norm_q.weight", "head.modulation"),
                          has_all("condition_embedder.text_embedder.linear_1.weight", "scale_shift_table",
                                  "blocks.0.attn1.norm_q.weight"))),
    Family("cascade", has_any("clf.1.weight", "clip_txt_mapper.weight", "effnet_mapper.0.weight")),
)  # fmt: skip

UNET_RULE: Rule = has_any(
    "input_blocks.0.0.weight", "middle_block.0.in_layers.0.weight",
    "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight",
    "input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight",
    has_all("input_blocks.", "output_blocks."),
    has_all("conv_in.weight", has_any("time_embedding.linear_1.weight", "down_blocks.")),
    has_all("down_blocks.", "up_blocks.", has_any("time_embedding.linear_1.weight", "conv_out.weight")),
)  # fmt: skip
"""Any UNet of Stable Diffusion, in the LDM layout or in that of diffusers."""

CONTROL_RULE: Rule = has_any(
    "input_hint_block.0.weight", "zero_convs.0.0.weight", "controlnet_cond_embedding.conv_in.weight",
    "controlnet_down_blocks.0.weight", "controlnet_mid_block.weight", "controlnet_blocks.0.weight",
    "controlnet_x_embedder.weight",
)  # fmt: skip

# Names of text encoders in a whole checkpoint, and the UNets that were trained with them.
ENCODER_SIGNS: tuple[tuple[Rule, frozenset[str]], ...] = (
    (has_all("cond_stage_model.transformer."), frozenset({"sd1"})),
    (has_all("cond_stage_model.model."), frozenset({"sd2"})),
    (has_any("conditioner.embedders.1.model.", "conditioner.embedders.0.transformer."), frozenset({"sdxl"})),
    (has_all("conditioner.embedders.0.model.", lacks("conditioner.embedders.1.")), frozenset({"sdxl-refiner"})),
    # A diffusers folder numbers its encoders alike whatever they are.
    (has_all("text_encoder.", "unet.", "text_encoder_2."), frozenset({"sdxl"})),
    (has_all("text_encoder.", "unet.", lacks("text_encoder_2.")), frozenset({"sd1", "sd2"})),
    (has_all("text_encoder_2.", "unet.", lacks("text_encoder.")), frozenset({"sdxl", "sdxl-refiner"})),
)

DEEP = 12
"""Layers of CLIP-L: an encoder that goes on is another one."""


def title(base: str) -> str:
    return TITLES.get(base, base)
