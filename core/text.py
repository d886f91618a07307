"""Words for people: sizes, and strings from files that must not reach a terminal as they are."""

CUT = "…"


def escape(text: str, limit: int = 200) -> str:
    """`text` on one line, control and formatting characters as escapes, cut at `limit` characters."""
    cut = text[:limit]
    safe = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in cut)
    return safe + CUT if len(text) > limit else safe


def size(count: int) -> str:
    """Bytes in decimal units: 4.27 GB."""
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if amount < 999.5 or unit == "TB":
            break
        amount /= 1000
    return f"{count} B" if unit == "B" else f"{amount:.3g} {unit}"


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
