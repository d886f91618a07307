"""Say what a file is, by its names and shapes: the kinds one after the other, each from its table."""

from dataclasses import dataclass, replace

from ckptool.identify.adapter_base import base_of
from ckptool.identify.adapters import AdapterModule, group
from ckptool.identify.addons import hypernetwork, ip_adapter, t2i_adapter, textual_inversion
from ckptool.identify.conflicts import against_metadata
from ckptool.identify.control import Control, control_of
from ckptool.identify.encoders import text_encoder_of, vae_of
from ckptool.identify.identity import Identity
from ckptool.identify.names import Names, names_of
from ckptool.identify.network import Network, find_network
from ckptool.identify.pipelines import against_pipeline
from ckptool.identify.prediction import markers_of, prediction_of
from ckptool.identify.quantised import quantised
from ckptool.identify.signs import Decision
from ckptool.identify.upscalers import upscaler_of
from ckptool.tensor import Plan
from ckptool.text import escape

# How names of adapters end. A file is one when at least half of its tensors belong to modules.
ADAPTER_ENDINGS = (
    ".alpha", ".lora_down.weight", ".lora_A.weight", ".lora_A", ".down.weight", ".lora_A.default.weight", ".hada_w1_a",
    ".lokr_w1", ".lokr_w1_a", ".on_input", ".oft_blocks", ".oft_diag", ".diff", ".diff_b", ".w_norm", ".b1.weight",
)  # fmt: skip
# Algorithms, the one that names a file that has modules of several first.
RANKING = ("lokr", "loha", "boft", "oft", "glora", "ia3", "dora", "locon", "lora", "full", "norm")

UNKNOWN_NETWORKS = ("model.diffusion_model.", "diffusion_model.", "unet.")
"""Names that a network stands behind, whatever it is."""
BESIDE = ("first_stage_model.", "cond_stage_model.", "conditioner.", "text_encoders.", "vae.", "text_encoder.")
"""Names of what a network works with."""


@dataclass(frozen=True, slots=True)
class Label:
    """What a file was found to be, before the metadata are asked."""

    kind: str
    decision: Decision
    variant: str | None = None
    algorithm: str | None = None


@dataclass(frozen=True, slots=True)
class Folder:
    """What the settings in a diffusers folder say."""

    pipeline: str | None = None
    """`_class_name` of model_index.json."""
    scheduler: str | None = None
    """`prediction_type` of the scheduler."""


def identify(plan: Plan, sidecar: bytes | None = None, folder: Folder | None = None) -> Identity:
    """What the file of a plan is. Reads no tensor but, of SD2, the one norm that tells what it predicts.

    `sidecar`: the `<stem>.yaml` beside it. Odd content makes a file unknown, and raises nothing.
    """
    names = names_of(plan)
    label = label_of(plan, names)
    decision = against_metadata(label.decision, label.kind, plan.metadata)
    variant = label.variant
    if folder is not None and folder.pipeline:
        decision, variant = against_pipeline(decision, variant, folder.pipeline)
    prediction = prediction_of(
        plan, label.kind, decision.base, variant, sidecar, folder.scheduler if folder is not None else None
    )
    reason = quantised(plan)
    problems = (*decision.problems, *([f"already quantised: {reason}"] if reason else []))
    return Identity(
        label.kind,
        label.algorithm,
        decision.base,
        decision.candidates,
        variant,
        prediction,
        decision.evidence,
        problems,
    )


def label_of(plan: Plan, names: Names) -> Label:
    """The first kind that fits: what could stand inside another kind comes before it."""
    if not names.tensors:
        return Label("unknown", Decision(None, (), ("no tensors",)))
    control = control_of(names)
    if control is not None:
        return of_control(control, names)
    found = ip_adapter(names)
    if found is not None:
        return Label("ip-adapter", found)
    adapter = adapter_of(names, plan.metadata)
    if adapter is not None:
        return adapter
    network = find_network(names)
    if network is not None:
        return of_network(network, names, plan)
    for kind, recognise in (
        ("hypernetwork", hypernetwork),
        ("textual-inversion", textual_inversion),
        ("t2i-adapter", t2i_adapter),
    ):
        found = recognise(names)
        if found is not None:
            return Label(kind, found)
    return parts_of(names)


def of_control(control: Control, names: Names) -> Label:
    decision = control.decision
    if control.whole:
        inside = find_network(names)
        problems = decision.problems
        if inside is not None and inside.decision.base not in (decision.base, None):
            said = f"{inside.decision.base} and {decision.base}"
            problems = (*problems, f"the checkpoint and the ControlNet in the file are of different bases: {said}")
        why = f"{inside.prefix if inside else ''}…: the whole checkpoint that it steers is in the file"
        decision = Decision(decision.base, decision.candidates, (*decision.evidence, why), problems)
    if control.variant == "difference":
        problem = "difference: it holds differences from a base model, and is useless without that model"
        decision = Decision(decision.base, decision.candidates, decision.evidence, (*decision.problems, problem))
    return Label(control.kind, decision, control.variant)


def adapter_of(names: Names, metadata: dict[str, str]) -> Label | None:
    """A LoRA or LyCORIS."""
    if not any(name.endswith(ADAPTER_ENDINGS) for name in names.tensors):
        return None
    found = group(t if t.name == name else replace(t, name=name) for name, t in names.tensors.items())
    held = sum(len(module.parts) for module in found.modules.values())
    if held * 2 < len(names.tensors):
        return None
    algorithms = {module.algorithm: module for module in reversed(found.modules.values())}
    algorithm = next((name for name in RANKING if name in algorithms), None)
    if algorithm is None:
        return None
    decision = base_of(found.modules)
    label = "full" if algorithm == "norm" else algorithm
    evidence = (algorithm_evidence(label, algorithms[algorithm]), *decision.evidence)
    odd = sum(module.algorithm == "unknown" for module in found.modules.values())
    problems = (f"modules whose parts fit no algorithm: {odd:,}",) if odd else ()
    decision = Decision(decision.base, decision.candidates, evidence, (*decision.problems, *problems))
    # LoRA on convolutions came with LyCORIS, but kohya's own scripts write it too, under the same names.
    plain = label in ("lora", "locon") and "lycoris" not in metadata.get("ss_network_module", "")
    return Label("lora" if plain else "lycoris", decision, None, label)


def algorithm_evidence(algorithm: str, module: AdapterModule) -> str:
    roles = ", ".join(escape(role, 40) for role in list(module.parts)[:6])
    return f"{escape(module.name, 120)}: {roles}: {algorithm}"


def of_network(network: Network, names: Names, plan: Plan) -> Label:
    """A checkpoint when anything that it works with is in the file, else the network alone."""
    decision, variant = network.decision, network.variant
    beside = vae_of(names) is not None or text_encoder_of(names) is not None
    beside = beside or any(names.has(prefix) for prefix in BESIDE)
    markers = markers_of(plan)
    evidence = decision.evidence
    if decision.base == "sdxl" and variant is None:
        if "edm_vpred.sigma_max" in markers:
            variant, evidence = "cosxl", (*evidence, "edm_vpred.sigma_max: CosXL")
        elif "edm_mean" in markers and "edm_std" in markers:
            variant, evidence = "playground-2.5", (*evidence, "edm_mean and edm_std: Playground 2.5")
    decision = Decision(decision.base, decision.candidates, evidence, decision.problems)
    return Label("checkpoint" if beside else "unet", decision, variant)


def parts_of(names: Names) -> Label:
    """A VAE or a text encoder alone, both without a network, an upscaler, or nothing that is known."""
    vae, encoder = vae_of(names), text_encoder_of(names)
    prefix = next((prefix for prefix in UNKNOWN_NETWORKS if names.has(prefix)), None)
    if prefix is not None:
        why = f"{prefix}…: a network of no family that is known"
        return Label("checkpoint" if vae or encoder else "unet", Decision(None, (), (why,), (why,)))
    if vae is not None and encoder is not None:
        why = "a VAE and a text encoder, but no network that takes the noise away"
        decision = Decision(encoder.decision.base, encoder.decision.candidates, encoder.decision.evidence, (why,))
        return Label("checkpoint", decision)
    if vae is not None:
        return Label("vae", vae.decision, vae.variant)
    if encoder is not None:
        return Label("text-encoder", encoder.decision, encoder.variant)
    upscaler = upscaler_of(names)
    if upscaler is not None:
        variant, found = upscaler
        return Label("upscaler", Decision(None, (), (f"{found}: {variant}",)), variant)
    return Label("unknown", Decision(None, (), ("names of no kind that is known",)))
