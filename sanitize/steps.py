"""The steps between reading and writing: prune and cast as the policy says, and what the file then is."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from ckptool.errors import Refused
from ckptool.identify.folders import folders_of
from ckptool.identify.identify import identify
from ckptool.identify.identity import AMBIGUOUS, Identity
from ckptool.identify.inspection import identity_data
from ckptool.identify.quantised import quantised
from ckptool.prune.step import Prune, Wishes
from ckptool.quantize.cast import Casting
from ckptool.quantize.choose import Settings
from ckptool.quantize.figures import figures
from ckptool.report import Report
from ckptool.sanitize.policy import NO_BASE, Policy
from ckptool.tensor import Finding, Plan

CASTS: dict[str, Settings] = {
    "fp16": Settings(to="F16"),
    "bf16": Settings(to="BF16"),
    "fp8": Settings(to="F8_E4M3", vae="rest", text_encoder="auto"),
}
HYPERNETWORK = (
    "UIs load hypernetworks from .pt files alone: where one needs it, `ckptool convert SRC NAME.pt` makes a clean .pt"
    " of the source"
)
BY_POLICY = " (the policy counts it as harmless)"


class NotAllowed(Refused):
    """The policy lets no such file through."""


@dataclass(slots=True, eq=False)
class Steps:
    """What is done with one plan, and what it says of itself when the bytes have flowed."""

    policy: Policy
    label: str
    folder: Path
    """Takes what has to lie in a temporary file."""
    careful: bool
    prune: Prune | None = None
    casting: Casting | None = None
    notes: list[str] = field(default_factory=list)

    def __call__(self, plan: Plan) -> Plan:
        """Raises Refused where a step does, and for an overflow when nobody looked for one."""
        policy, reason = self.policy, quantised(plan)
        threshold = policy.threshold if reason is None else None
        if reason is not None and (policy.threshold is not None or policy.dtype != "keep"):
            self.notes.append(f"its values are left as they are: it is quantised already: {reason}")
        self.prune = Prune(Wishes(ema=policy.ema, threshold=threshold), self.folder)
        plan = self.prune(plan)
        if reason is None and policy.dtype != "keep":
            self.casting = Casting(CASTS[policy.dtype], self.label, self.careful)
            plan = self.casting.step(plan)
        if plan.structure is not None:
            self.notes.append(HYPERNETWORK)
        return plan

    def data(self, plan: Plan) -> Report:
        """The keys of the report that the steps own."""
        assert self.prune is not None
        found: Report = self.prune.data(plan)
        if self.casting is not None:
            # `zeroed` is the threshold's; what a cast made zero stands with each tensor that it took.
            found = figures(self.casting, plan) | found
        return found | {"notes": self.notes}


def counted(findings: Iterable[Finding], harmless: tuple[str, ...]) -> tuple[Finding, ...]:
    """The findings with unknown names that the policy knows as notes; nothing dangerous ever is."""
    return tuple(
        replace(finding, severity="note", message=finding.message + BY_POLICY)
        if finding.severity == "warning" and finding.rule.startswith("unknown-") and finding.reference in harmless
        else finding
        for finding in findings
    )


def identified(plan: Plan, sidecar: bytes | None, policy: Policy) -> Report:
    """What the file is. Raises NotAllowed when that is none of what the policy lets through."""
    identity = identify(plan, sidecar)
    check_allowed(identity, policy)
    folders = folders_of(identity.kind, identity.base, (tensor.name for tensor in plan.tensors))
    return identity_data(identity) | {"folders": folders, "problems": list(identity.problems)}


def check_allowed(identity: Identity, policy: Policy) -> None:
    if policy.kinds and identity.kind not in policy.kinds:
        raise NotAllowed(
            f"is of the kind {identity.kind}, which the policy does not allow", f"allowed: {', '.join(policy.kinds)}"
        )
    bases = identity.candidates if identity.base == AMBIGUOUS else (identity.base or NO_BASE,)
    if policy.bases and not set(bases) <= set(policy.bases):
        named = identity.base or "that does not show"
        raise NotAllowed(
            f"is for the base {named}, which the policy does not allow", f"allowed: {', '.join(policy.bases)}"
        )
