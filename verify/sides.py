"""What of a file is run: its own networks, or those of a base with the file's changes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from ckptool.identify.adapters import modules
from ckptool.identify.compat_modules import address, update_of
from ckptool.identify.components import WHOLE
from ckptool.identify.identify import identify
from ckptool.tensor import Plan
from ckptool.verify.addons import adapted_components, apply, embedding, vectors
from ckptool.verify.configs import Unknown
from ckptool.verify.control import run_control
from ckptool.verify.hypernet import hypernetwork, networks
from ckptool.verify.ldm_extra import COMPONENTS, Weights, components_of
from ckptool.verify.networks import Network, config_of
from ckptool.verify.seeded import CONTEXT, ENCODERS, FACTORS, control_base, seeded_base
from ckptool.verify.steps import Inputs, Output, run_text, run_unet, run_vae

Run = Callable[[Network, Inputs], Iterator[Output]]
RUN: dict[str, Run] = {"unet": run_unet, "vae": run_vae, "text_encoder": run_text, "text_encoder_2": run_text}
SEEDED = (("base", "seeded weights"),)
ADAPTERS = ("lora", "lycoris")
# Kinds that nothing here runs, though their names may look like those of a ControlNet.
NOT_RUN = ("control-lora", "t2i-adapter", "ip-adapter", "upscaler")


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """One component of one file, ready to run."""

    weights: Weights
    run: Run
    prepare: Callable[[Network], None] | None = None
    """What an addon does to the network beside its weights."""
    notes: tuple[tuple[str, str], ...] = ()
    """What had to be chosen, and what was left out."""


def sides(plan: Plan, base: Plan | None, architecture: str | None, unet: Weights | None = None) -> dict[str, Side]:
    """Component -> what is run of it, never empty. Raises Unknown when nothing can be.

    `base` is what addons are applied to; without one it is made of seeded weights, for the `architecture`.
    `unet` is what a ControlNet runs with: of two files the same, so that nothing but the ControlNets tells them apart.
    """
    kind = identify(plan).kind
    if kind in NOT_RUN:
        raise Unknown(f"the reference step does not run a file of the kind {kind}")
    if kind in ADAPTERS:
        return adapter_sides(plan, base, architecture)
    if kind == "textual-inversion":
        return embedding_sides(plan, base, architecture)
    if kind == "hypernetwork":
        return hypernetwork_sides(plan, base, architecture)
    found = components_of(plan)
    # Names that no table knows are taken for a UNet's of another family.
    if not found or (set(found) == {"unet"} and WHOLE.get(kind, "unet") != "unet"):
        raise Unknown(f"no network that the reference step knows, in a file of the kind {kind}")
    return {
        name: control_side(weights, unet) if name == "control" else Side(weights, RUN[name])
        for name, weights in found.items()
    }


def unet_for_control(original: Plan, base: Plan | None) -> Weights | None:
    """The UNet of the base, else the one in the original's own file."""
    found = components_of(base).get("unet") if base is not None else None
    return found or components_of(original).get("unet")


def control_side(weights: Weights, base: Weights | None) -> Side:
    """A ControlNet runs with the UNet of the base, of its own file, or a seeded one."""
    if base is not None:
        return Side(weights, partial(run_control, base=base))
    made = control_base(config_of("control", weights))
    return Side(weights, partial(run_control, base=made), notes=SEEDED)


def adapter_sides(plan: Plan, base: Plan | None, architecture: str | None) -> dict[str, Side]:
    wanted = [name for name in adapted_components(plan) if name in COMPONENTS]
    whole, notes = based(wanted, base, architecture, width_of(plan))
    applied = apply(plan, whole)
    if applied.left_out:
        name, reason = applied.left_out[0]
        notes = (*notes, ("modules left out", f"{len(applied.left_out):,}, the first: {name[:100]}: {reason}"))
    changed = {name: weights for name, weights in applied.weights.items() if any(w.change for w in weights.values())}
    if not changed:
        raise Unknown("none of its modules changes a layer of the base: name another with --base")
    return {name: Side(weights, RUN[name], notes=notes) for name, weights in changed.items()}


def embedding_sides(plan: Plan, base: Plan | None, architecture: str | None) -> dict[str, Side]:
    found = vectors(plan)
    name, tensor = next(iter(found.items()))
    width = {name: tensor.shape[-1]}
    whole, notes = based(list(found), base, architecture, width)
    return {
        name: Side(whole[name], RUN[name], embedding(tensor), notes) for name, tensor in found.items() if name in whole
    }


def hypernetwork_sides(plan: Plan, base: Plan | None, architecture: str | None) -> dict[str, Side]:
    widths = {width for width, _ in networks(plan)}
    context = CONTEXT.get(architecture or "", 0)
    factor = next((f for f in FACTORS if context // f in widths), 1)
    whole, notes = based(["unet"], base, architecture, {"unet": context // factor})
    return {"unet": Side(whole["unet"], RUN["unet"], hypernetwork(plan), notes)}


def based(
    wanted: list[str], base: Plan | None, architecture: str | None, widths: dict[str, int]
) -> tuple[dict[str, Weights], tuple[tuple[str, str], ...]]:
    """The components of the base that are wanted: of the file, or seeded, as narrow as the addon says."""
    if base is not None:
        found = components_of(base)
        whole = {name: found[name] for name in wanted if name in found}
        if not whole:
            raise Unknown("the base does not hold what the file changes: name another with --base")
        return whole, ()
    factor = factor_of(architecture, widths)
    return {name: seeded_base(architecture, name, factor) for name in wanted if name in RUN and name != "vae"}, SEEDED


def factor_of(architecture: str | None, widths: dict[str, int]) -> int:
    """What the widths of the architecture were divided by to get those of the addon. Raises Unknown."""
    for component, width in widths.items():
        whole = CONTEXT if component == "unet" else {b: w for (b, c), (w, _) in ENCODERS.items() if c == component}
        full = whole.get(architecture or "", 0)
        found = next((factor for factor in FACTORS if full and full == width * factor), None)
        if found is None:
            raise Unknown("its widths are those of no base that is known: name one with --base")
        return found
    return 1


def width_of(plan: Plan) -> dict[str, int]:
    """Component -> width of the text that it reads or makes, by the first module that tells."""
    for module in modules(plan).values():
        component, key = address(module.layer)
        telling = key.endswith("_attn2_to_k") or key.endswith("_self_attn_q_proj")
        shapes = {role: tensor.shape for role, tensor in module.parts.items()}
        shape = update_of(module.algorithm, shapes, module.shape, ()) if telling else None
        if shape is not None and len(shape) > 1:
            return {component: shape[1]}
    return {}
