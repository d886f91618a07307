"""Do the modules of a LoRA or LyCORIS file fit the layers of a checkpoint, one by one."""

from math import prod

from ckptool.identify.adapters import AdapterModule, modules
from ckptool.identify.compat import MAPPED, Checkpoint, Fit, Layer, Misfit, by_base, family, known, underscored
from ckptool.identify.identity import Identity
from ckptool.identify.naming import Shape
from ckptool.tensor import Plan
from ckptool.text import plural

# Beginning of a module's name -> the component whose layer it changes. The first that fits counts.
PREFIXES: tuple[tuple[str, str], ...] = (
    ("lora_unet_", "unet"),
    ("lora_te1_", "text_encoder"),
    ("lora_te2_", "text_encoder_2"),
    ("lora_te3_", "text_encoder_3"),
    ("lora_te_", "text_encoder"),
    ("lora_vae_", "vae"),
    ("lycoris_text_model_", "text_encoder"),
    ("lycoris_", "unet"),
    ("model.diffusion_model.", "unet"),
    ("diffusion_model.", "unet"),
    ("first_stage_model.", "vae"),
    ("unet.", "unet"),
    ("transformer.", "unet"),
    ("vae.", "vae"),
    ("text_encoder_3.", "text_encoder_3"),
    ("text_encoder_2.", "text_encoder_2"),
    ("text_encoder.", "text_encoder"),
    ("text_encoders.clip_l.transformer.", "text_encoder"),
    ("text_encoders.clip_g.transformer.", "text_encoder_2"),
    ("clip_l.transformer.", "text_encoder"),
    ("clip_g.transformer.", "text_encoder_2"),
    ("text_model.", "text_encoder"),
)
WRAPPER = "base_model.model."

# What people call a component.
WORDS: dict[str, str] = {
    "unet": "UNet",
    "vae": "VAE",
    "text_encoder": "text encoder",
    "text_encoder_2": "second text encoder",
    "text_encoder_3": "third text encoder",
}
PADDED = "its first convolution reads 4 channels, this checkpoint's more: loaders that can fill it up with zeros"
LATENT = 4
CROSS = ("_attn2_to_k", "_attn2_to_v")
SAME_ENCODER = frozenset({"sd1", "sdxl"})
"""Architectures whose first text encoder is CLIP-L."""
FEW_BLOCKS = ("_transformer_blocks_0_", "_transformer_blocks_1_")


def adapter(checkpoint: Checkpoint, plan: Plan, identity: Identity) -> Fit:
    """Every module needs a layer of its name, and its update the shape of that layer's weight."""
    found = modules(plan)
    unmatched: list[str] = []
    misfits: list[Misfit] = []
    missing: dict[str, int] = {}
    padded = False
    telling = checkpoint.identity.base not in MAPPED
    for name, module in found.items():
        component, key = address(name)
        layer = layer_at(checkpoint, component, key)
        if layer is not None:
            misfit = compare(module, layer)
            if misfit and key == "conv_in" and is_padded(misfit):
                misfit, padded = None, True
            misfits += [misfit] if misfit else []
            telling |= misfit is None and tells(checkpoint, component, key)
        elif component in checkpoint.components:
            unmatched.append(name)
        else:
            missing[component] = missing.get(component, 0) + 1
    total = len(found) - sum(missing.values())
    matched = total - len(unmatched) - len(misfits)
    notes: tuple[str, ...] = (PADDED,) if padded else ()
    notes += tuple(
        f"{plural(count, 'module')} of it change a {WORDS.get(component, component)}, which this file does not hold"
        for component, count in missing.items()
    )
    fits, reasons = answer(checkpoint, identity, matched, total, misfits)
    if fits and not telling:
        fits, reasons = by_metadata(checkpoint, identity)
    return Fit(fits, matched, total, tuple(unmatched), tuple(misfits), reasons, notes)


def address(name: str) -> tuple[str, str]:
    """(component, name with its dots as underscores) of the layer that a module changes."""
    name = name.rpartition("[")[0] if name.endswith("]") and "[" in name else name
    name = name.removeprefix(WRAPPER)
    component = "unet"
    for prefix, changed in PREFIXES:
        if name.startswith(prefix):
            component, name = changed, name if prefix == "text_model." else name.removeprefix(prefix)
            break
    name = underscored(name.replace(".processor.", "."))
    return component, name.removeprefix("text_model_") if component.startswith("text_encoder") else name


def tells(checkpoint: Checkpoint, component: str, key: str) -> bool:
    """That a module fits this layer says which architecture it is for: other layers of SD1 and SD2 are alike."""
    deep = "_transformer_blocks_" in key and not any(few in key for few in FEW_BLOCKS)
    encoder = component == "text_encoder" and checkpoint.identity.base not in SAME_ENCODER
    return encoder or component == "text_encoder_2" or key.endswith(CROSS) or deep


def by_metadata(checkpoint: Checkpoint, identity: Identity) -> tuple[bool | None, tuple[str, ...]]:
    """The verdict on an adapter whose layers are the same in several architectures."""
    fits = by_base(checkpoint, identity)
    if fits is None:
        return None, ("all of its modules match, but they would match another architecture as well",)
    return fits, ()


def layer_at(checkpoint: Checkpoint, component: str, key: str) -> Layer | None:
    layer = checkpoint.layers.get((component, key))
    if layer is None and key.endswith("_to_out"):  # the oldest diffusers files leave out the number
        layer = checkpoint.layers.get((component, key + "_0"))
    return layer


def compare(module: AdapterModule, layer: Layer) -> Misfit | None:
    """None when the module's update can be added to the layer."""
    weight = layer.weight.shape if layer.weight else None
    bias = layer.bias.shape if layer.bias else None
    parts = {role: tensor.shape for role, tensor in module.parts.items()}
    for role, target in (("diff_b", bias), ("b_norm", bias), ("w_norm", weight)):
        if role in parts and parts[role] != target:
            return Misfit(module.name, parts[role], target)
    if module.algorithm == "norm" or (module.algorithm == "full" and "diff" not in parts):
        return None
    if weight is None:
        return Misfit(module.name, module.shape, None)
    update = update_of(module.algorithm, parts, module.shape, weight)
    if update is None or not alike(update, weight):
        return Misfit(module.name, update, weight)
    dora = parts.get("dora_scale")
    return None if dora is None or prod(dora) in sides(weight) else Misfit(module.name, dora, weight)


def is_padded(misfit: Misfit) -> bool:
    """What was trained on plain SD goes onto an inpainting model, whose first layer reads a mask as well."""
    mine, theirs = misfit.addon, misfit.checkpoint
    if not mine or not theirs or len(theirs) != 4 or theirs[1] <= LATENT:
        return False
    return mine[0] == theirs[0] and prod(mine[1:]) == LATENT * prod(theirs[2:])


def sides(weight: Shape) -> tuple[int, int]:
    """Rows and columns: DoRA and IA3 have a value for each of one of them."""
    return (weight[0] if weight else 1, prod(weight[1:2]))


def update_of(algorithm: str, parts: dict[str, Shape], shape: Shape | None, weight: Shape) -> Shape | None:
    """The shape of what a module adds; for one that scales or turns the weight, that of a weight it could change."""
    match algorithm:
        case "full":
            return parts.get("diff")
        case "oft" | "boft":
            blocks = parts.get("oft_blocks") or parts.get("oft_diag") or ()
            return (blocks[-3] * blocks[-2], *weight[1:]) if len(blocks) > 2 else None
        case "ia3":
            return weight if prod(parts.get("weight", ())) in sides(weight) else parts.get("weight")
        case "glora":
            return glora_shape(parts)
        case _:
            return shape


def glora_shape(parts: dict[str, Shape]) -> Shape | None:
    """Of b2 · b1 as LyCORIS has written it, or b1 · b2 as it did at first."""
    one, two = parts.get("b1", ()), parts.get("b2", ())
    if len(one) < 2 or len(two) < 2:
        return None
    if two[1] == one[0]:
        return (two[0], *one[1:])
    return (one[0], *two[1:]) if one[1] == two[0] else None


def alike(update: Shape, weight: Shape) -> bool:
    """Equal as loaders see it: they view the update as the weight, so that 1 × 1 kernels may be left out."""
    if len(update) < 2 or len(weight) < 2:
        return update == weight
    return update[0] == weight[0] and prod(update[1:]) == prod(weight[1:])


def answer(
    checkpoint: Checkpoint, identity: Identity, matched: int, total: int, misfits: list[Misfit]
) -> tuple[bool | None, tuple[str, ...]]:
    """The verdict, and why in words."""
    base = checkpoint.identity.base
    if not total:
        return None, ("none of its modules changes what this file holds",)
    if matched == total:
        return True, ()
    reasons: list[str] = []
    widths = {m.addon[1] for m in misfits if m.addon and len(m.addon) > 1 and underscored(m.name).endswith(CROSS)}
    if len(widths) == 1 and checkpoint.context is not None and checkpoint.context not in widths:
        reasons.append(f"its attn2 takes {widths.pop():,}, this checkpoint takes {checkpoint.context:,}")
    if not misfits and known(base) and base == identity.base and base not in MAPPED:
        reasons.append(f"the names of {family(base)} in this file and in the checkpoint may be of two different kinds")
        return None, tuple(reasons)
    return False, tuple(reasons)
