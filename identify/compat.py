"""Does an adapter fit a checkpoint: told from the names and shapes of both, never from labels alone."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

from ckptool.errors import Refused
from ckptool.identify.identity import AMBIGUOUS, Identity
from ckptool.identify.naming import Shape, Target, ldm_names, targets
from ckptool.tensor import Plan
from ckptool.text import escape

ENCODERS = ("text_encoder", "text_encoder_2")
CHECKPOINTS = ("checkpoint", "unet")
ADDONS = "a LoRA, LyCORIS, embedding, hypernetwork, ControlNet, T2I- or IP-Adapter or VAE"

# What people call the architectures.
BASES: dict[str, str] = {
    "sd1": "SD1", "sd2": "SD2", "sdxl": "SDXL", "sdxl-refiner": "the SDXL refiner", "sd3": "SD3", "flux": "Flux",
}  # fmt: skip
MAPPED = frozenset({"sd1", "sd2", "sdxl", "sdxl-refiner"})
"""Architectures whose layers have the same canonical name however a file names them."""


@dataclass(frozen=True, slots=True)
class Misfit:
    """A part of an addon whose shape is not that of its counterpart."""

    name: str
    addon: Shape | None
    """None where the addon's own tensors do not fit each other."""
    checkpoint: Shape | None


@dataclass(frozen=True, slots=True)
class Fit:
    """Whether an addon fits, and what that was told from."""

    fits: bool | None
    """None is ambiguous: the shapes allow both answers."""
    matched: int = 0
    total: int = 0
    """Parts of the addon that were held against the checkpoint: modules, vectors or layers."""
    unmatched: tuple[str, ...] = ()
    """Parts whose counterpart the checkpoint has not."""
    misfits: tuple[Misfit, ...] = ()
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer of the checkpoint: its weight and its bias."""

    weight: Target | None
    bias: Target | None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What adapters can be held against."""

    identity: Identity
    layers: dict[tuple[str, str], Layer]
    """(component, name with its dots as underscores) -> layer; an LDM name leads to the same layer."""
    components: frozenset[str]
    shapes: dict[tuple[str, str], Shape] = field(repr=False)
    """(component, canonical name) -> shape."""

    def columns(self, ending: str) -> frozenset[int]:
        """Input widths of all UNet weights with this ending."""
        shapes = (s for (component, name), s in self.shapes.items() if component == "unet" and name.endswith(ending))
        return frozenset(shape[1] for shape in shapes if len(shape) > 1)

    @property
    def context(self) -> int | None:
        """Width of the text that the UNet attends to; None where it has no cross attention or several widths."""
        widths = self.columns(".attn2.to_k.weight")
        return next(iter(widths)) if len(widths) == 1 else None

    @property
    def encoders(self) -> dict[str, int]:
        """Component -> width of the token vectors, for each text encoder in the file."""
        found = ((name, self.shapes.get((name, "embeddings.token_embedding.weight"))) for name in ENCODERS)
        return {name: shape[1] for name, shape in found if shape is not None and len(shape) == 2}


def checkpoint_of(plan: Plan, identity: Identity) -> Checkpoint:
    """The layers of a checkpoint. Raises Refused when the file is none."""
    if identity.kind not in CHECKPOINTS and not any(t.name.startswith("model.diffusion_model.") for t in plan.tensors):
        raise Refused(
            f"nothing can be held against a file of the kind {identity.kind!r}",
            "give the checkpoint first, then what should fit it",
        )
    found = targets(plan.tensors)
    return Checkpoint(
        identity,
        layers_of(found),
        frozenset(target.component for target in found),
        {(target.component, target.name): target.shape for target in found},
    )


def layers_of(found: Iterable[Target]) -> dict[tuple[str, str], Layer]:
    weights: dict[tuple[str, str], dict[str, Target]] = {}
    for target in found:
        module, _, last = target.name.rpartition(".")
        if last in ("weight", "bias"):
            weights.setdefault((target.component, module), {})[last] = target
    layers: dict[tuple[str, str], Layer] = {}
    for (component, module), parts in weights.items():
        layer = Layer(parts.get("weight"), parts.get("bias"))
        names = (module, *(ldm_names(module, component) if component in ("unet", "vae") else ()))
        for name in names:
            layers.setdefault((component, underscored(name)), layer)
    return layers


def underscored(name: str) -> str:
    return name.replace(".", "_")


def family(base: str | None) -> str:
    return BASES.get(base or "", escape(base or "nothing known", 40))


def known(base: str | None) -> bool:
    return base is not None and base != AMBIGUOUS


def compat(checkpoint: Checkpoint, plan: Plan, identity: Identity) -> Fit:
    """Whether the addon fits. Raises Refused for what is no addon."""
    from ckptool.identify import compat_control, compat_modules, compat_parts

    checks: dict[str, Callable[[Checkpoint, Plan, Identity], Fit]] = {
        "lora": compat_modules.adapter,
        "lycoris": compat_modules.adapter,
        "textual-inversion": compat_parts.embedding,
        "hypernetwork": compat_parts.hypernetwork,
        "vae": compat_parts.vae,
        "text-encoder": compat_parts.text_encoder,
        "controlnet": compat_control.controlnet,
        "control-lora": compat_control.control_lora,
        "t2i-adapter": compat_control.t2i_adapter,
        "ip-adapter": compat_control.ip_adapter,
        "upscaler": lambda *_: Fit(True, notes=("an upscaler works on pictures: it fits every checkpoint",)),
    }
    if identity.kind == "unknown":
        return Fit(None, reasons=("what this file is could not be told",))
    if identity.kind not in checks:
        raise Refused(f"a file of the kind {identity.kind!r} is no addon", f"give {ADDONS}")
    return with_bases(checkpoint, identity, checks[identity.kind](checkpoint, plan, identity))


def with_bases(checkpoint: Checkpoint, identity: Identity, fit: Fit) -> Fit:
    """The fit with what the labels of both say about it."""
    ours, theirs = checkpoint.identity, identity
    reasons, notes = list(fit.reasons), list(fit.notes)
    if known(theirs.base) and known(ours.base) and ours.base != theirs.base:
        words = f"made for {family(theirs.base)}, and this checkpoint is {family(ours.base)}"
        (notes if fit.fits else reasons).insert(0, words)
    if fit.fits is False and not reasons:
        reasons.append("some of its parts have no counterpart of their name and shape in this checkpoint")
    ours_predict, theirs_predict = ours.prediction.type, theirs.prediction.type
    if fit.fits and ours_predict and theirs_predict and ours_predict != theirs_predict:
        notes.append(f"trained to predict {theirs_predict}, and this checkpoint predicts {ours_predict}")
    replaced = partial(Fit, fit.fits, fit.matched, fit.total, fit.unmatched, fit.misfits)
    return replaced(tuple(reasons), tuple(notes))


def by_base(checkpoint: Checkpoint, identity: Identity) -> bool | None:
    """What the labels alone allow to say."""
    base = checkpoint.identity.base
    if known(identity.base) and known(base):
        return identity.base == base
    if identity.base == AMBIGUOUS and known(base) and identity.candidates and base not in identity.candidates:
        return False
    return None


def by_label(checkpoint: Checkpoint, identity: Identity, why: str) -> Fit:
    """The verdict where shapes cannot give it: enough only for families whose layers have no canonical names."""
    fits = by_base(checkpoint, identity)
    if fits and checkpoint.identity.base not in MAPPED:
        return Fit(True, notes=(f"{why}: told by the architecture alone",))
    return Fit(None if fits else fits, reasons=(why,))


def verdict(matched: int, total: int, bad: int) -> bool | None:
    """True when everything matched, None when there was nothing to hold against each other."""
    if bad:
        return False
    return True if total and matched == total else None
