"""What the tables are written in: rules over names that read like prose."""

from collections.abc import Callable

from ckptool.identify.names import Names

Rule = Callable[[Names], str | None]
"""The name that a rule was satisfied by, None when it was not."""


def has_all(*parts: str | Rule) -> Rule:
    """Every name (or beginning, if it ends in a dot) is there, every rule holds."""

    def rule(names: Names) -> str | None:
        found = [holds(part, names) for part in parts]
        return found[0] if all(found) else None

    return rule


def has_any(*parts: str | Rule) -> Rule:
    """One of them does."""

    def rule(names: Names) -> str | None:
        return next((found for part in parts if (found := holds(part, names))), None)

    return rule


def lacks(*parts: str | Rule) -> Rule:
    """None of them does. Never the only rule: there is no name to show for it."""

    def rule(names: Names) -> str | None:
        return None if any(holds(part, names) for part in parts) else " "

    return rule


def contains(*parts: str) -> Rule:
    """Some name has one of these inside."""

    def rule(names: Names) -> str | None:
        return next((name for name in names.tensors if any(part in name for part in parts)), None)

    return rule


def holds(part: str | Rule, names: Names) -> str | None:
    if isinstance(part, str):
        return part if names.has(part) else None
    return part(names)
