"""Imports point one way, and what a hostile file could use against us is not imported at all."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = [{"core"}, {"convert"}, {"identify"}, {"prune", "quantize"}, {"verify"}, {"sanitize"}]
FOLDERS = set().union(*LAYERS)
DEPTH = {folder: depth for depth, folders in enumerate(LAYERS) for folder in folders}
# A folder's command joins what the folders offer, so it alone may look sideways or up.
COMMANDS = {"core/cli.py", "core/options.py", "core/progress.py"}
FORBIDDEN = {"pickle", "marshal", "torch", "importlib"}
ALLOWED = {("core/cli.py", "importlib")}

SOURCES = sorted(path.relative_to(ROOT).as_posix() for folder in FOLDERS for path in ROOT.glob(f"{folder}/**/*.py"))
OTHERS = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ("tests", "fixtures", "benchmarks")
    for path in ROOT.glob(f"{folder}/**/*.py")
)


def is_command(path: str) -> bool:
    return path in COMMANDS or path.endswith(("/command.py", "_command.py"))


def parse(path: str) -> ast.Module:
    return ast.parse((ROOT / path).read_bytes(), path)


def imports(tree: ast.AST) -> Iterator[str]:
    """Every imported thing by its full name; `.` begins a relative one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)


def roots(tree: ast.AST) -> set[str]:
    return {name.split(".")[0] for name in imports(tree)}


def at_import_time(node: ast.AST) -> Iterator[ast.AST]:
    """The statements that run when the module is imported: not inside functions, not for type checkers only."""
    for child in ast.iter_child_nodes(node):
        lazy = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for_types = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
        if not lazy and not for_types:
            yield child
            yield from at_import_time(child)


@pytest.mark.parametrize("path", SOURCES)
def test_imports_point_one_way(path: str) -> None:
    if is_command(path):
        return
    here = path.split("/")[0]
    for name in imports(parse(path)):
        root, *rest = name.split(".")
        if root == "ckptool":
            there = rest[0] if rest and rest[0] in FOLDERS else "core"
            assert there == here or DEPTH[there] < DEPTH[here], f"{here} imports {name}"


@pytest.mark.parametrize("path", SOURCES)
def test_only_commands_talk_to_people(path: str) -> None:
    if not is_command(path):
        tree = parse(path)
        assert not roots(tree) & {"click", "tqdm"}
        assert not [n for n in ast.walk(tree) if isinstance(n, ast.Call) and ast.unparse(n.func) == "print"]


@pytest.mark.parametrize("path", SOURCES + OTHERS)
def test_folders_are_imported_by_the_name_they_install_as(path: str) -> None:
    assert not roots(parse(path)) & (FOLDERS | {""}), "write ckptool.<folder>, from its root"


@pytest.mark.parametrize("path", [path for path in SOURCES if not path.startswith("verify/")])
def test_nothing_that_could_run_a_file_is_imported(path: str) -> None:
    found = roots(parse(path)) & FORBIDDEN
    assert not {name for name in found if (path, name) not in ALLOWED}


@pytest.mark.parametrize("path", SOURCES)
def test_numpy_is_imported_only_when_it_is_needed(path: str) -> None:
    for node in at_import_time(parse(path)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            assert "numpy" not in roots(node)
