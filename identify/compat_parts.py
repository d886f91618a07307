"""Do embeddings, hypernetworks, VAEs and text encoders fit a checkpoint: by the widths of their vectors."""

from ckptool.identify.compat import ENCODERS, Checkpoint, Fit, Misfit, by_label, verdict
from ckptool.identify.identity import Identity
from ckptool.identify.naming import Shape, targets
from ckptool.tensor import Plan

# Names that say which text encoder the vectors of an embedding are for.
FOR_ENCODER: dict[str, str] = {
    "clip_l": "text_encoder", "clip_g": "text_encoder_2",
    "string_to_param.clip_l": "text_encoder", "string_to_param.clip_g": "text_encoder_2",
}  # fmt: skip
NAMES: dict[str, str] = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}


def embedding(checkpoint: Checkpoint, plan: Plan, _: Identity) -> Fit:
    """The width of the vectors is that of the text encoder's; SDXL has two, and needs vectors for both."""
    widths = encoder_widths(checkpoint)
    if not widths:
        return Fit(None, reasons=("this file has no text encoder and no attention that would tell its width",))
    vectors = {t.name: t.shape for t in plan.tensors if 1 <= len(t.shape) <= 2}
    missing = set(widths)
    unmatched: list[str] = []
    misfits: list[Misfit] = []
    notes: list[str] = []
    for name, shape in vectors.items():
        encoder = FOR_ENCODER.get(name) or next(iter(widths))
        missing.discard(encoder)
        if encoder not in widths and encoder == "text_encoder":  # the refiner reads bigG alone
            notes.append(f"its {name} is left unused: the checkpoint has no such text encoder")
        elif encoder not in widths:
            misfits.append(Misfit(name, shape, None))
        elif shape[-1] != widths[encoder]:
            misfits.append(Misfit(name, shape, (*shape[:-1], widths[encoder])))
    unmatched += [NAMES[encoder] for encoder in sorted(missing)]
    total = len(vectors) - len(notes) + len(missing)
    matched = total - len(misfits) - len(unmatched)
    reasons = [f"its vectors are {m.addon[-1]:,} wide, and the text encoder takes {m.checkpoint[-1]:,}"
               for m in misfits if m.addon and m.checkpoint]  # fmt: skip
    reasons += [f"the checkpoint has no text encoder for its {m.name}" for m in misfits if m.checkpoint is None]
    reasons += [f"it has no vectors for {name}, the checkpoint's other text encoder" for name in unmatched]
    fits = verdict(matched, total, len(misfits) + len(unmatched))
    return Fit(fits, matched, total, tuple(unmatched), tuple(misfits), tuple(reasons), tuple(notes))


def encoder_widths(checkpoint: Checkpoint) -> dict[str, int]:
    """Of the text encoders in the file, or of the one that its UNet was trained with."""
    if checkpoint.encoders:
        return checkpoint.encoders
    base, context = checkpoint.identity.base, checkpoint.context
    if context is None:
        return {}
    if base == "sdxl":  # the two encoders side by side, in the proportion of CLIP-L and bigG
        return {"text_encoder": context * 3 // 8, "text_encoder_2": context * 5 // 8}
    return {"text_encoder_2" if base == "sdxl-refiner" else "text_encoder": context}


def hypernetwork(checkpoint: Checkpoint, plan: Plan, _: Identity) -> Fit:
    """Its layers are named by their width, and each width must be one that some attention of the UNet reads."""
    accepted = checkpoint.columns(".attn1.to_k.weight") | checkpoint.columns(".attn2.to_k.weight")
    if not accepted:
        return Fit(None, reasons=("this file has no attention that a hypernetwork could change",))
    widths: dict[str, set[int]] = {}
    for tensor in plan.tensors:
        key, rest = tensor.name.partition(".")[::2]
        if key.isdecimal() and rest.endswith("linear.0.weight") and len(tensor.shape) == 2:
            widths.setdefault(key[:12], set()).add(tensor.shape[1])
    bad = tuple(key for key, found in widths.items() if not found <= accepted)
    matched = len(widths) - len(bad)
    notes = tuple(
        f"the layers named {key} are {', '.join(map(str, sorted(wide)))} wide"
        for key, wide in widths.items()
        if wide != {int(key)}
    )
    reasons: tuple[str, ...] = ()
    fits = verdict(matched, len(widths), len(bad))
    context = checkpoint.context
    if bad:
        reasons = (f"made for attention {', '.join(bad)} wide, this checkpoint has {listed(accepted)}",)
    elif fits and context is not None and not any(context in found for found in widths.values()):
        fits, reasons = (
            None,
            (f"it leaves the text alone ({context:,} wide here): its widths fit several architectures",),
        )
    elif fits is None:
        reasons = ("it holds no layers that are named by their width",)
    return Fit(fits, matched, len(widths), bad, (), reasons, notes)


def listed(widths: frozenset[int]) -> str:
    return ", ".join(f"{width}" for width in sorted(widths))


def latent_channels(shapes: dict[tuple[str, str], Shape]) -> int | None:
    """Channels of the pictures that a UNet makes, or that a VAE reads."""
    for component, name, axis in (("unet", "conv_out.weight", 0), ("vae", "decoder.conv_in.weight", 1)):
        shape = shapes.get((component, name), ())
        if len(shape) == 4:
            return shape[axis]
    return None


def vae(checkpoint: Checkpoint, plan: Plan, identity: Identity) -> Fit:
    """A VAE reads as many channels as the UNet makes. SD1, SD2 and SDXL have 4 of them, in VAEs of one structure."""
    shapes = {(t.component, t.name): t.shape for t in targets(plan.tensors)}
    decoder = shapes.get(("vae", "decoder.conv_in.weight"), ())
    made = latent_channels(checkpoint.shapes)
    if len(decoder) != 4 or made is None:
        return by_label(checkpoint, identity, "the channels of one of them are not known")
    if decoder[1] != made:
        misfit = Misfit("decoder.conv_in.weight", decoder, (decoder[0], made, *decoder[2:]))
        return Fit(
            False, 0, 1, (), (misfit,), (f"it reads {decoder[1]:,} channels, and this checkpoint makes {made:,}",)
        )
    notes: tuple[str, ...] = ()
    if made == 4:
        notes = ("4-channel VAEs of SD1, SD2 and SDXL have one structure: shapes cannot tell SDXL's from the others'",)
    return Fit(True, 1, 1, notes=notes)


def text_encoder(checkpoint: Checkpoint, plan: Plan, identity: Identity) -> Fit:
    """A text encoder alone can replace one of the checkpoint's that has the same width and as many tokens."""
    shapes = {(t.component, t.name): t.shape for t in targets(plan.tensors)}
    mine = next((s for e in ENCODERS if (s := shapes.get((e, "embeddings.token_embedding.weight")))), None)
    theirs = [s for e in ENCODERS if (s := checkpoint.shapes.get((e, "embeddings.token_embedding.weight")))]
    if mine is None or not theirs:
        return by_label(checkpoint, identity, "one of them has no text encoder of a kind that is known")
    if mine in theirs:
        return Fit(True, 1, 1)
    misfit = Misfit("embeddings.token_embedding.weight", mine, theirs[0])
    return Fit(False, 0, 1, (), (misfit,), ("none of the checkpoint's text encoders has its width",))
