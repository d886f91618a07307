"""Upscalers by the names of their layers. They work on pictures and belong to no base."""

from ckptool.identify.names import Names
from ckptool.identify.rules import Rule, has_all, has_any, lacks

# First match wins: the later rules are about layers that the earlier networks have too.
UPSCALERS: tuple[tuple[str, Rule], ...] = (
    ("hat", has_all("layers.0.residual_group.overlap_attn.relative_position_bias_table", "conv_first.weight")),
    ("swin2sr", has_all("layers.0.residual_group.blocks.0.attn.logit_scale", "conv_first.1.weight")),
    ("swin2sr", has_all("layers.0.residual_group.blocks.0.attn.logit_scale", "conv_first.weight")),
    ("swinir", has_any("layers.0.residual_group.blocks.0.norm1.weight", "layers.0.residual_group.conv.weight",
                       has_all("layers.0.", "conv_first.weight", "patch_embed.norm.weight"))),
    ("dat", has_all("layers.0.blocks.0.attn.attn_mask_0", "conv_first.weight")),
    ("dat", has_all("before_RG.1.weight", "conv_first.weight")),
    ("omnisr", has_all("residual_layer.0.residual_layer.0.layer.0.fn.0.weight", "input.weight")),
    ("scunet", has_all("m_head.0.weight", "m_tail.0.weight", "m_body.0.trans_block.ln1.weight")),
    ("span", has_all("conv_1.sk.weight", "block_1.c1_r.sk.weight")),
    ("esrgan", has_all("model.0.weight", "model.1.")),
    ("esrgan", has_all("conv_first.weight", has_any("body.0.rdb1.conv1.weight", "RRDB_trunk.0.RDB1.conv1.weight",
                                                    "trunk_conv.weight"))),
    ("esrgan", has_all("conv_first.weight", "conv_last.weight")),
    ("compact", has_all("body.0.weight", "body.1.weight", "body.2.weight", lacks("conv_in.weight"))),
)  # fmt: skip


def upscaler_of(names: Names) -> tuple[str, str] | None:
    """The architecture of an upscaler and the name that tells it."""
    for variant, rule in UPSCALERS:
        found = rule(names)
        if found:
            return variant, found
    return None
