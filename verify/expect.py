"""What a conversion says that it did: its JSON report, as the expectation that a candidate is held against."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from ckptool.errors import Malformed, UsageError
from ckptool.text import escape, size

MOST = 1 << 27
"""Bytes of a report: of 100,000 tensors it has some 30 MB."""
HINT = "give what --report FILE.json of convert, prune or fp16 wrote"


@dataclass(frozen=True, slots=True)
class Expectation:
    """What may differ. Without a report all of it is inferred, and shown as inferred."""

    threshold: float | None = None
    """Values with |w| < threshold may be zero."""
    relative: bool = False
    """The threshold is a fraction of the RMS of each tensor."""
    stated: bool = False
    """There is a report: what it does not say is not expected."""
    cast: dict[str, str] = field(default_factory=dict)
    """Name in the candidate -> dtype."""
    dropped: dict[str, str] = field(default_factory=dict)
    """Name in the original -> reason."""
    zeroed: dict[str, int] = field(default_factory=dict)
    """Component -> how many values."""
    renamed: dict[str, str] = field(default_factory=dict)
    """New name -> old name."""
    repaired: frozenset[str] = frozenset()
    ranks: dict[str, int] = field(default_factory=dict)
    """Module -> its rank in the candidate."""


def read_expectation(paths: Iterable[Path], threshold: float | None = None, relative: bool = False) -> Expectation:
    """The reports of one conversion after the other, together.

    Raises UsageError where there is no such file, Malformed where it is no report of one conversion.
    """
    found = Expectation(threshold, relative)
    for path in paths:
        found = together(found, expectation_of(load(path), escape(str(path), 1000)))
    return found


def load(path: Path) -> Any:
    label = escape(str(path), 1000)
    try:
        with path.open("rb") as file:
            data = file.read(MOST + 1)
    except OSError as error:
        raise UsageError(f"{label}: cannot be read: {error.strerror}", HINT) from error
    if len(data) > MOST:
        raise Malformed(f"{label}: more than {size(MOST)} are no report", HINT)
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"{label}: is no JSON", HINT) from error


def expectation_of(report: Any, label: str) -> Expectation:
    """Of the report of one conversion."""
    if isinstance(report, list) and len(report) == 1:
        report = report[0]
    if not isinstance(report, dict) or "dropped" not in report or "output" not in report:
        raise Malformed(f"{label}: is not the report of a conversion", HINT)
    ranks = report.get("rank", {})
    zeroed = report.get("zeroed", {})
    if not isinstance(ranks, dict) or not isinstance(zeroed, dict):
        raise Malformed(f"{label}: `rank` and `zeroed` are no objects", HINT)
    return Expectation(
        stated=True,
        cast=pairs(report, "cast", "name", "to", label),
        dropped=pairs(report, "dropped", "name", "reason", label),
        zeroed={name: number(item, "values", label) for name, item in zeroed.items()},
        renamed=pairs(report, "renamed", "to", "from", label),
        repaired=frozenset(pairs(report, "repaired", "name", "to", label)),
        ranks={name: number(item, "to", label) for name, item in ranks.items()},
    )


def pairs(report: dict[str, Any], name: str, key: str, value: str, label: str) -> dict[str, str]:
    """Two texts of each object of a list."""
    items = report.get(name, [])
    if not isinstance(items, list):
        raise Malformed(f"{label}: `{name}` is no list", HINT)
    result: dict[str, str] = {}
    for item in items:
        if not isinstance(item, dict) or not isinstance(item.get(key), str) or not isinstance(item.get(value), str):
            raise Malformed(f"{label}: `{name}` holds something that has no `{key}` and `{value}`", HINT)
        result[item[key]] = item[value]
    return result


def number(item: Any, key: str, label: str) -> int:
    found = item.get(key) if isinstance(item, dict) else None
    if type(found) is not int or found < 0:
        raise Malformed(f"{label}: a `{key}` is no count", HINT)
    return found


def together(one: Expectation, other: Expectation) -> Expectation:
    """Of two conversions in a row; of a name that both changed, the second one's word counts."""
    renamed = {new: one.renamed.get(old, old) for new, old in other.renamed.items()}
    return Expectation(
        one.threshold,
        one.relative,
        one.stated or other.stated,
        {**one.cast, **other.cast},
        {**one.dropped, **{one.renamed.get(name, name): reason for name, reason in other.dropped.items()}},
        {name: one.zeroed.get(name, 0) + other.zeroed.get(name, 0) for name in {**one.zeroed, **other.zeroed}},
        {**one.renamed, **renamed},
        one.repaired | other.repaired,
        {**one.ranks, **other.ranks},
    )


def check_number(name: str, value: float | None) -> None:
    """Raises UsageError for a limit that means nothing."""
    if value is not None and (not isfinite(value) or value <= 0):
        raise UsageError(f"{name} {value} means nothing", "give a number above 0, such as 1e-4")
