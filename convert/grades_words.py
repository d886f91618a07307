"""How the tables of grades are written: many names in one string, read as a set."""


def words(text: str) -> frozenset[str]:
    """The names in `text`, which white space separates."""
    return frozenset(text.split())


def under(module: str, text: str) -> frozenset[str]:
    """The same names as full dotted paths below `module`."""
    return frozenset(f"{module}.{name}" for name in text.split())
