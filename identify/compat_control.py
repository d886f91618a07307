"""Do ControlNets, Control-LoRAs, T2I- and IP-Adapters fit a checkpoint: by what they hand to its UNet."""

from collections import Counter

from ckptool.identify.compat import Checkpoint, Fit, Misfit, by_base, by_label, family, known, verdict
from ckptool.identify.compat_modules import alike
from ckptool.identify.identity import Identity
from ckptool.identify.naming import Shape, renamed, targets, unet_table
from ckptool.tensor import Plan, Tensor

BLOCKS = 64
"""Outputs of a ControlNet at most; the largest known has twelve."""
CONTEXT = ".attn2.to_k.weight"
LLLITE = "lllite_unet_"


def skips(shapes: dict[tuple[str, str], Shape]) -> list[int]:
    """Channels of what the down half of the checkpoint's UNet hands over to its up half, in order."""
    unet = {name: shape for (component, name), shape in shapes.items() if component == "unet" and len(shape) == 4}
    result = [unet["conv_in.weight"][0]] if "conv_in.weight" in unet else []
    for level in range(BLOCKS):
        layers = [
            shape[0]
            for layer in range(BLOCKS)
            if (shape := unet.get(f"down_blocks.{level}.resnets.{layer}.conv2.weight"))
        ]
        if not layers:
            break
        down = unet.get(f"down_blocks.{level}.downsamplers.0.conv.weight")
        result += [*layers, *([down[0]] if down else [])]
    return result


def controlnet(checkpoint: Checkpoint, plan: Plan, identity: Identity) -> Fit:
    """Its outputs are added to what the UNet hands over, and it reads the same text."""
    shapes = {t.name: t.shape for t in targets(plan.tensors) if t.component == "control"}
    wanted = skips(checkpoint.shapes)
    outputs = [s for n in range(BLOCKS) if (s := shapes.get(f"controlnet_down_blocks.{n}.weight"))]
    misfits = [
        Misfit(f"controlnet_down_blocks.{n}.weight", mine, (channels, channels, 1, 1))
        for n, (mine, channels) in enumerate(zip(outputs, wanted, strict=False))
        if mine[:1] != (channels,)
    ]
    total = max(len(outputs), len(wanted))
    bad = len(misfits) + abs(len(outputs) - len(wanted))
    reasons = [f"its outputs do not have the channels of this UNet in {bad:,} of {total:,} places"] if bad else []
    for name, (mine, theirs, words) in inputs(checkpoint, shapes).items():
        total += 1
        if mine != theirs:
            bad += 1
            misfits.append(Misfit(name, (mine,), (theirs,)))
            reasons.insert(0, words.format(f"{mine:,}", f"{theirs:,}"))
    if not outputs or not wanted:
        return by_label(checkpoint, identity, "the outputs of one of them are not known")
    notes = [*picture_notes(checkpoint, shapes), *difference(plan)]
    return Fit(verdict(total - bad, total, bad), total - bad, total, (), tuple(misfits), tuple(reasons), tuple(notes))


def inputs(checkpoint: Checkpoint, shapes: dict[str, Shape]) -> dict[str, tuple[int, int, str]]:
    """What both read: name -> (the ControlNet's width, the UNet's width, what to say when they differ)."""
    found: dict[str, tuple[int, int, str]] = {}
    context = next((s[1] for name, s in shapes.items() if name.endswith(CONTEXT) and len(s) > 1), None)
    if context is not None and checkpoint.context is not None:
        found["attn2.to_k"] = (context, checkpoint.context, "its attn2 takes {}, this checkpoint takes {}")
    name = "add_embedding.linear_1.weight"
    mine, theirs = shapes.get(name, ()), checkpoint.shapes.get(("unet", name), ())
    if len(mine) == 2 and len(theirs) == 2:
        found[name] = (mine[1], theirs[1], "its size conditioning takes {} values, this checkpoint takes {}")
    elif (len(mine) == 2) != (len(theirs) == 2) and checkpoint.shapes:
        words = "it reads {} values of size conditioning, this checkpoint {}"
        found[name] = (mine[1] if len(mine) == 2 else 0, theirs[1] if len(theirs) == 2 else 0, words)
    return found


def picture_notes(checkpoint: Checkpoint, shapes: dict[str, Shape]) -> list[str]:
    """An inpainting checkpoint reads more channels; UIs hand a ControlNet the first four."""
    mine, theirs = shapes.get("conv_in.weight", ()), checkpoint.shapes.get(("unet", "conv_in.weight"), ())
    if len(mine) == 4 and len(theirs) == 4 and mine[1] != theirs[1]:
        return [f"it reads {mine[1]:,} channels of the latent, this checkpoint {theirs[1]:,}"]
    return []


def difference(plan: Plan) -> list[str]:
    if any(tensor.name == "difference" for tensor in plan.tensors):
        return ["it holds differences to the checkpoint that it was made with: loaders add them to this one's weights"]
    return []


def control_lora(checkpoint: Checkpoint, plan: Plan, identity: Identity) -> Fit:
    """Its factors, and LLLite's inputs, stand for layers of the UNet by their LDM names."""
    unmatched: list[str] = []
    misfits: list[Misfit] = []
    total = 0
    for name, mine, key in factors(plan.tensors):
        total += 1
        theirs = target(checkpoint, key)
        if theirs is None:
            unmatched.append(name)
        elif not alike(mine, theirs) and mine != theirs[1:2]:
            misfits.append(Misfit(name, mine, theirs))
    bad = len(unmatched) + len(misfits)
    if not total:
        return by_label(checkpoint, identity, "it holds no factors with names that are known")
    reasons: list[str] = []
    contexts = {m.addon[1] for m in misfits if m.addon and len(m.addon) > 1 and m.name.endswith(".attn2.to_k")}
    if len(contexts) == 1 and checkpoint.context:
        reasons.append(f"its attn2 takes {contexts.pop():,}, this checkpoint takes {checkpoint.context:,}")
    return Fit(verdict(total - bad, total, bad), total - bad, total, tuple(unmatched), tuple(misfits), tuple(reasons))


def factors(tensors: tuple[Tensor, ...]) -> list[tuple[str, Shape, str]]:
    """(layer as the file names it, shape of its update or width of its input, its name with underscores)."""
    shapes = {tensor.name: tensor.shape for tensor in tensors}
    found: list[tuple[str, Shape, str]] = []
    for name, down in shapes.items():
        if name.endswith(".down") and len(up := shapes.get(name[: -len("down")] + "up", ())) > 1 and len(down) > 1:
            layer = name.removesuffix(".down")
            new = renamed(layer, unet_table()) or layer
            found.append((layer, (up[0], *down[1:]), new.replace(".", "_")))
        elif name.startswith(LLLITE) and name.endswith(".down.0.weight") and len(down) > 1:
            layer = name.removesuffix(".down.0.weight")
            found.append((layer, down[1:2], layer.removeprefix(LLLITE)))
    return found


def target(checkpoint: Checkpoint, key: str) -> Shape | None:
    layer = checkpoint.layers.get(("unet", key))
    return layer.weight.shape if layer and layer.weight else None


def t2i_adapter(checkpoint: Checkpoint, _: Plan, identity: Identity) -> Fit:
    """It hands over pictures only: what tells its architecture is how much it shrinks them."""
    fits = by_base(checkpoint, identity)
    base = checkpoint.identity.base
    if fits is None and identity.candidates:
        return Fit(None, reasons=(f"it may be for {' or '.join(map(family, identity.candidates))}",))
    if fits is None:
        return Fit(None, reasons=("the architecture of one of them is not known",))
    return Fit(fits, int(fits), 1, reasons=() if fits or not known(base) else ("it shrinks pictures otherwise",))


def ip_adapter(checkpoint: Checkpoint, plan: Plan, identity: Identity) -> Fit:
    """It has keys and values for cross attentions of the UNet, and its pictures' tokens are as wide as the text's."""
    mine = [t.shape for t in plan.tensors if t.name.endswith("to_k_ip.weight") and len(t.shape) == 2]
    theirs = [s for (c, n), s in checkpoint.shapes.items() if c == "unet" and n.endswith(CONTEXT) and len(s) == 2]
    if not mine or not theirs:
        return by_label(checkpoint, identity, "the cross attention of one of them is not known")
    matched, total = (Counter(mine) & Counter(theirs)).total(), len(mine)
    notes = () if total >= len(theirs) else (f"it covers {total:,} of {len(theirs):,} cross attentions",)
    if matched == total:
        return Fit(True, total, total, notes=notes)
    reasons: list[str] = []
    widths = {shape[1] for shape in mine}
    if len(widths) == 1 and checkpoint.context is not None and checkpoint.context not in widths:
        reasons.append(f"its tokens are {widths.pop():,} wide, this checkpoint's {checkpoint.context:,}")
    return Fit(False, matched, total, reasons=tuple(reasons), notes=notes)
