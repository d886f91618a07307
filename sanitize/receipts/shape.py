"""The shape of reports and receipts. A process that a file took over may say anything, and write it down as well."""

import re
from collections.abc import Callable
from typing import Any

from ckptool.sanitize.job import Job
from ckptool.tensor import Finding

PASSED_OVER = "passed over"
"""What a folder holds beside models: told in sum, not file by file."""

MOST = 1 << 63
"""No count of tensors, values or bytes is larger: figures beyond it break those that print them."""
HASH = re.compile(r"[0-9a-f]{64}")
WORD = re.compile(r"[\w.+ -]{0,80}", re.ASCII)
"""What is shown as it stands: kinds, bases, dtypes, levels."""
Check = Callable[[Any], bool]


def is_text(found: Any) -> bool:
    return isinstance(found, str)


def is_word(found: Any) -> bool:
    return isinstance(found, str) and WORD.fullmatch(found) is not None


def is_count(found: Any) -> bool:
    return type(found) is int and 0 <= found < MOST


def is_hash(found: Any) -> bool:
    return isinstance(found, str) and HASH.fullmatch(found) is not None


def is_figure(found: Any) -> bool:
    return found is None or is_word(found) or type(found) in (int, float)


def is_truth(found: Any) -> bool:
    return isinstance(found, bool)


def maybe(check: Check) -> Check:
    return lambda found: found is None or check(found)


def list_of(check: Check) -> Check:
    return lambda found: isinstance(found, list) and all(map(check, found))


def named(check: Check) -> Check:
    return lambda found: isinstance(found, dict) and all(map(check, found.values()))


def having(**checks: Check) -> Check:
    """A dictionary with these keys; more of them are nobody's business."""
    return lambda found: isinstance(found, dict) and all(check(found.get(key)) for key, check in checks.items())


def is_proof(found: Any) -> bool:
    """What verify said: lists of tensors in a report, their numbers in a receipt."""
    return is_verified(found) and is_tally(found.get("tensors", found))


def is_number_or_list(found: Any) -> bool:
    return is_count(found) or isinstance(found, list)


LEVELS = ("note", "warning", "error")
VERDICTS = ("clean", "harmless", "unknown", "dangerous", "refused")
FIGURES = ("max_abs", "relative_l2", "psnr", "cosine")
COUNTS = ("cast", "ema", "renamed", "dropped", "unexplained")
NUMBERS = ("pickle", "offset")

is_finding = having(
    **{name: is_count if name in NUMBERS else is_text for name in Finding.__dataclass_fields__}
    | {"severity": LEVELS.__contains__, "action": is_word}
)
is_error = having(message=is_text, hint=is_text)
is_output = having(path=is_text, sha256=is_hash, bytes=is_count)
is_verified = having(level=is_word, denoise=named(having(**dict.fromkeys(FIGURES, is_figure))))
is_tally = having(identical=is_count, **dict.fromkeys(COUNTS, is_number_or_list))
is_changed = having(
    kept=is_count,
    dropped=list_of(having(name=is_text, reason=is_text)),
    removed=named(having(tensors=is_count, bytes=is_count)),
    cast=list_of(having(**{"from": is_word, "to": is_word, "tensors": maybe(is_count)})),
    zeroed=named(having(values=is_count)),
    repaired=is_number_or_list,
    renamed=is_number_or_list,
    notes=list_of(is_text),
)
"""What went and what was rounded: part of a report, and the same in a receipt."""
is_judged = having(
    format=is_text,
    verdict=VERDICTS.__contains__,
    findings=list_of(is_finding),
    kind=maybe(is_word),
    base=maybe(is_word),
    prediction=maybe(having(type=maybe(is_word))),
    parity=maybe(is_truth),
    verify=maybe(is_proof),
)
is_refusal = having(error=is_error, findings=list_of(is_finding), verdict=VERDICTS.__contains__)
is_result = having(output=is_output, source_bytes=is_count, problems=maybe(list_of(is_text)))


def is_report(found: Any, job: Job) -> bool:
    """Whether it is about this file, and all is there that whoever tells of it relies on."""
    if not isinstance(found, dict) or (found.get("path"), found.get("source")) != (job.shown, job.shown):
        return False
    action = found.get("action")
    if action in ("refused", "crashed"):
        return found.get("output") is None and is_refusal(found)
    if action == PASSED_OVER:
        return not job.listed
    done, changes = (found.get("was"), found.get("changed")) if action == "skipped" else (action, found)
    whole = is_result(found) and is_judged(found) and is_changed(changes)
    return done in ("released", "quarantined") and found.get("error") is None and whole
