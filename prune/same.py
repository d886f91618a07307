"""After a plan is made, what it holds must still be the model that it was."""

from ckptool.errors import Refused
from ckptool.identify.identity import AMBIGUOUS, Identity

HINT = "keep what tells it apart (--keep NAME), or say with --only what is to be left"


# Of these the variant says what a denoiser takes; of a VAE alone it counts the channels.
DENOISERS = frozenset({"checkpoint", "unet", "controlnet"})


def labels(identity: Identity) -> dict[str, str | None]:
    """What a model must not lose: in the order in which a change is told."""
    return {
        "kind": identity.kind,
        "base": identity.base,
        "variant": identity.variant,
        "prediction type": identity.prediction.type,
    }


def check_same(before: Identity, after: Identity, chosen: bool) -> None:
    """Raises Refused when the labels changed.

    `chosen`: tensors were left out by component or name. The rest may then be of another kind, and may not say what
    it is; but it must not say that it is something else.
    """
    new = labels(after)
    other_kind = before.kind != after.kind
    for label, was in labels(before).items():
        now = new[label]
        if chosen and label == "variant" and other_kind and after.kind not in DENOISERS:
            continue
        if was == now or (chosen and (label == "kind" or says_less(was, now) or (was is None and other_kind))):
            continue
        raise Refused(
            f"without what would be left out it would be another model: {label} {was or 'unknown'} becomes"
            f" {now or 'unknown'}{because(label, after)}",
            HINT,
        )


def says_less(was: str | None, now: str | None) -> bool:
    """What it is may no longer show; nothing else shows in its place."""
    return now is None or (now == AMBIGUOUS and was is not None)


def because(label: str, after: Identity) -> str:
    evidence = after.prediction.evidence if label == "prediction type" else ""
    return f" ({evidence})" if evidence else ""
