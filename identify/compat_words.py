"""What `ckptool compat` says of an addon: as data, and in words."""

from collections.abc import Iterator, Sequence

from ckptool.errors import CkptoolError
from ckptool.identify.compat import Fit, Misfit, family, known
from ckptool.identify.identity import AMBIGUOUS, Identity
from ckptool.identify.naming import Shape
from ckptool.report import Report, finding_data
from ckptool.tensor import Finding
from ckptool.text import escape
from ckptool.words import SHOWN, more

FITS, FITS_NOT = "fits", "does not fit"
RULE = "does-not-fit"


def answer_of(fit: Fit) -> bool | str:
    return AMBIGUOUS if fit.fits is None else fit.fits


def word_of(fit: Fit) -> str:
    return {True: FITS, False: FITS_NOT, None: AMBIGUOUS}[fit.fits]


def label_data(identity: Identity) -> Report:
    return {
        "kind": identity.kind,
        "algorithm": identity.algorithm,
        "base": identity.base,
        "candidates": list(identity.candidates),
        "variant": identity.variant,
        "prediction": identity.prediction.type,
    }


def fit_data(path: str, identity: Identity, fit: Fit) -> Report:
    return {
        "path": path,
        **label_data(identity),
        "fits": answer_of(fit),
        "matched": fit.matched,
        "modules": fit.total,
        "unmatched": list(fit.unmatched),
        "shapes": [{"module": m.name, "addon": m.addon, "checkpoint": m.checkpoint} for m in fit.misfits],
        "reasons": list(fit.reasons),
        "notes": [*fit.notes, *identity.problems],
    }


def refused_data(path: str, error: CkptoolError) -> Report:
    return {"path": path, "fits": None, "error": {"message": error.message, "hint": error.hint}}


def overall(addons: list[Report]) -> str:
    """One word for all of them: that of the worst."""
    answers = [addon["fits"] for addon in addons]
    if None in answers:
        return "refused"
    return FITS_NOT if False in answers else AMBIGUOUS if AMBIGUOUS in answers else FITS


def finding_of(addon: Report) -> Report | None:
    """The addon as a finding, for the reports of other forms; None when it fits."""
    if addon["fits"] is True:
        return None
    if "error" in addon:
        finding = Finding("refused", "error", addon["error"]["message"], entry=addon["path"])
    else:
        what = AMBIGUOUS if addon["fits"] == AMBIGUOUS else FITS_NOT
        finding = Finding(RULE, "warning", "; ".join([what, *addon["reasons"]]), entry=addon["path"])
    return finding_data(finding)


def title(path: str, identity: Identity) -> str:
    """The file with what it is."""
    labels = [identity.kind]
    if identity.algorithm not in (None, identity.kind):
        labels.append(str(identity.algorithm))
    if identity.base == AMBIGUOUS:
        labels.append(" or ".join(family(base) for base in identity.candidates) or AMBIGUOUS)
    elif known(identity.base):
        labels.append(family(identity.base))
    if identity.variant:
        labels.append(identity.variant)
    return f"{escape(path, 1000)} ({', '.join(labels)})"


def fit_lines(path: str, identity: Identity, fit: Fit, verbose: bool) -> Iterator[str]:
    """The verdict, and what it rests on."""
    count = f", {fit.matched:,} of {fit.total:,} parts match" if fit.total else ""
    yield f"{word_of(fit)}: {title(path, identity)}{count}"
    for reason in fit.reasons:
        yield f"  {escape(reason, 400)}"
    yield from listed("the checkpoint has no layer for", [escape(name) for name in fit.unmatched], verbose)
    yield from listed("another shape", [misfit_line(misfit) for misfit in fit.misfits], verbose)
    for note in (*fit.notes, *identity.problems):
        yield f"  note: {escape(note, 400)}"


def listed(heading: str, lines: Sequence[str], verbose: bool) -> Iterator[str]:
    if lines:
        yield f"  {heading}:"
    for line in lines if verbose else lines[:SHOWN]:
        yield f"    {line}"
    for line in more(len(lines), verbose):
        yield f"    {line}"


def misfit_line(misfit: Misfit) -> str:
    return f"{escape(misfit.name)}: {shape_words(misfit.addon)} for {shape_words(misfit.checkpoint)}"


def shape_words(shape: Shape | None) -> str:
    return "nothing" if shape is None else " × ".join(f"{size:,}" for size in shape[:8]) or "a single number"
