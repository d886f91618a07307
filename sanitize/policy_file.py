"""A policy in TOML: a file of its own, or a table of the pyproject.toml in the current folder."""

import sys
from pathlib import Path
from typing import Any

from ckptool.errors import UsageError
from ckptool.sanitize.policy import Policy, policy_of
from ckptool.text import escape

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

TABLE = ("tool", "ckptool", "sanitize")
PROJECT = Path("pyproject.toml")
MOST = 1 << 20
HINT = "docs/ci.md shows a policy"


def read_policy(path: Path | None, given: dict[str, Any]) -> Policy:
    """The policy of a file (else of the current folder's pyproject.toml), with what was `given` in its place."""
    if path is not None:
        table = load(path)
        settings = policy_of(inner(table) or table, escape(str(path), 1000))
    elif PROJECT.is_file():
        settings = policy_of(inner(load(PROJECT)) or {}, str(PROJECT))
    else:
        settings = {}
    return Policy(**settings | policy_of(given, "the command line"))


def load(path: Path) -> dict[str, Any]:
    """Raises UsageError when there is no TOML at `path`."""
    label = escape(str(path), 1000)
    try:
        with path.open("rb") as file:
            data = file.read(MOST + 1)
    except OSError as error:
        raise UsageError(f"{label}: cannot be read: {error.strerror}", HINT) from error
    if len(data) > MOST:
        raise UsageError(f"{label}: more than {MOST:,} bytes are no policy", HINT)
    try:
        found: dict[str, Any] = tomllib.loads(data.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"{label}: is no TOML: {escape(str(error), 200)}", HINT) from error
    return found


def inner(table: dict[str, Any]) -> dict[str, Any] | None:
    """[tool.ckptool.sanitize], where there is one."""
    found: Any = table
    for name in TABLE:
        found = found.get(name) if isinstance(found, dict) else None
    if found is not None and not isinstance(found, dict):
        raise UsageError(f"{'.'.join(TABLE)} is no table", HINT)
    return found
