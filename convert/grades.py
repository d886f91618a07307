"""Grades what a pickle refers to: harmless, unknown or dangerous. Only strings are compared, nothing is looked up."""

from collections.abc import Iterator
from dataclasses import dataclass

from ckptool.convert.grades_dangerous import ANYWHERE, METHODS, MODULES, ORDINARY, PACKAGES
from ckptool.convert.grades_harmless import HARMLESS, RENAMED_BUILTINS, RENAMED_MODULES

MODULE_EFFECT = {module: effect for effect, modules in MODULES.items() for module in modules}
PATH_EFFECT = MODULE_EFFECT | {path: effect for effect, paths in PACKAGES.items() for path in paths}
LEAF_EFFECT = {name: effect for effect, names in ANYWHERE.items() for name in names}
METHOD_EFFECT = {name: effect for effect, names in METHODS.items() for name in names}
NOUN = {
    (module, name): noun for noun, modules in HARMLESS.items() for module, names in modules.items() for name in names
}
STARTS = frozenset(path.split(".")[0] for path in PATH_EFFECT)
LONGEST = max(map(len, PATH_EFFECT))
BUILDS = "builds a call"


@dataclass(frozen=True, slots=True)
class Grade:
    """What is known of a reference."""

    level: str
    """harmless, unknown or dangerous."""
    effect: str
    """What a dangerous one does (executes, reads, …), what a harmless one is (optimizer, …), else empty."""


UNKNOWN = Grade("unknown", "")


def grade(module: str, name: str) -> Grade:
    """The grade of a reference as the pickle spells it: any two strings, of any length, in time linear in it."""
    module = RENAMED_MODULES.get(module, module)
    if module == "builtins":
        name = RENAMED_BUILTINS.get(name, name)
    if noun := NOUN.get((module, name)):
        return Grade("harmless", noun)
    effect = path_effect(f"{module}.{name}", 0) or name_effect(name) or module_effect(module)
    return Grade("dangerous", effect) if effect else UNKNOWN


def path_effect(path: str, start: int) -> str:
    """The effect of the longest listed path that `path` begins with at `start`, part by part."""
    head = path[start : start + LONGEST + 1]
    if len(path) - start > len(head):
        head = head.rpartition(".")[0]  # the last part may be cut
    while head and head not in PATH_EFFECT:
        head = head.rpartition(".")[0]
    return PATH_EFFECT.get(head, "")


def name_effect(name: str) -> str:
    """A name can walk from any module to any other, as in `collections` with `_sys.modules`."""
    for start, end in parts(name):
        part, last = name[start:end], end == len(name)
        if is_dunder(part):
            return BUILDS
        plain = part.lstrip("_")  # the standard library imports os as _os
        if plain in ("builtins", "__builtin__"):
            return BUILDS
        if plain in MODULE_EFFECT and not (last and plain in ORDINARY):
            return BUILDS
        if not last and part in STARTS and path_effect(name, start):
            return BUILDS
    leaf = name[name.rfind(".") + 1 :]
    return LEAF_EFFECT.get(leaf.lstrip("_"), "") or (METHOD_EFFECT.get(leaf, "") if leaf != name else "")


def module_effect(module: str) -> str:
    """A module inside another: `torch.os` is os. Below a package, `__main__` and `__init__` run a script again."""
    first = module.find(".")
    for start, end in parts(module):
        part = module[start:end]
        if start > first >= 0:
            if is_dunder(part):
                return "loads code"
            if part in MODULE_EFFECT and part not in ORDINARY:
                return MODULE_EFFECT[part]
    return ""


def is_dunder(part: str) -> bool:
    return len(part) > 4 and part.startswith("__") and part.endswith("__")


def parts(text: str) -> Iterator[tuple[int, int]]:
    """Where the parts between dots begin and end; a generator, as a hostile name can be a million dots."""
    start = 0
    while (end := text.find(".", start)) >= 0:
        yield start, end
        start = end + 1
    yield start, len(text)
