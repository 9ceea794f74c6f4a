"""The house keeps its walls: arrows point down, no circle, no torch where none belongs, small files and functions."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import userclue

SOURCE = Path(userclue.__file__).parent
# Top to bottom: a room may import rooms that stand below it, and no other. Rooms of one line do not know each other.
ORDER = [
    ("__main__",),
    ("cli",),
    ("__init__",),
    ("experiments",),
    ("jobs",),
    ("serve",),
    ("baselines",),
    ("objectives",),
    ("tasks",),
    ("encoder",),
    ("encoding",),
    ("artifact",),
    ("card",),
    ("nn",),
    ("views",),
    ("train",),
    ("metrics",),
    ("index",),
    ("report",),
    ("data",),
    ("native",),
    ("losses", "view_losses", "item_losses"),
    ("presets", "config"),
    ("files", "workers"),
    ("errors",),
    ("version",),
]
RANK = {room: len(ORDER) - place for place, rooms in enumerate(ORDER) for room in rooms}
# Not to be known at all, wherever the order would allow it.
NEVER = {"train": {"nn", "encoder", "objectives"}, "serve": {"objectives", "train"}}
TORCH_IN_DATA = {"userclue.data.batches"}
MAX_FILE_LINES, MAX_FUNCTION_LINES = 350, 70


@dataclass(frozen=True)
class Import:
    target: str  # full name of a module of ours, or the first name of somebody else's package
    line: int
    lazy: bool  # inside a function: not run when the module is imported


@cache
def modules() -> dict[str, Path]:
    """Every module of the package by its full name; a package stands for its __init__."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = ("userclue", *path.relative_to(SOURCE).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def targets(node: ast.stmt) -> Iterator[str]:
    """Modules an import statement reaches; `from package import name` reaches the package and, if it is one, the module."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield alias.name
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"line {node.lineno}: relative import"
        assert node.module is not None
        yield node.module
        for alias in node.names:
            if f"{node.module}.{alias.name}" in modules():
                yield f"{node.module}.{alias.name}"


def walk(node: ast.AST, lazy: bool = False) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            for target in targets(child):
                yield Import(target if target.split(".")[0] == "userclue" else target.split(".")[0], child.lineno, lazy)
        else:
            yield from walk(child, lazy or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda))


@cache
def imports(module: str) -> tuple[Import, ...]:
    return tuple(walk(ast.parse(modules()[module].read_text(encoding="utf-8"))))


def own_imports() -> Iterator[tuple[str, Import]]:
    for module in modules():
        for found in imports(module):
            if found.target.split(".")[0] == "userclue":
                yield module, found


def at_import_time(module: str) -> set[str]:
    """All modules, ours and others', that importing `module` runs, as far as our own sources tell."""
    reached, waiting = set(), [module]
    while waiting:
        for found in imports(waiting.pop()):
            if not found.lazy and found.target not in reached:
                reached.add(found.target)
                if found.target in modules():
                    waiting.append(found.target)
    return reached


def run(code: str) -> str:
    """Standard output of a fresh interpreter; a failure shows its traceback."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_module_stands_in_a_room_of_the_order():
    assert [module for module in modules() if room(module) not in RANK] == []


def test_every_import_of_ours_exists():
    assert [f"{module}:{found.line} {found.target}" for module, found in own_imports() if found.target not in modules()] == []


def test_arrows_point_down():
    wrong = [
        f"{module}:{found.line} imports {found.target}"
        for module, found in own_imports()
        if {room(module), room(found.target)} <= RANK.keys()  # others fail in the test above
        and room(module) != room(found.target)
        and RANK[room(module)] <= RANK[room(found.target)]
    ]
    assert wrong == []


def test_walls_that_the_order_alone_does_not_keep():
    wrong = [
        f"{module}:{found.line} imports {found.target}"
        for module, found in own_imports()
        if room(found.target) in NEVER.get(room(module), set())
    ]
    assert wrong == []


def test_no_circle():
    graph = {module: sorted({found.target for found in imports(module) if found.target in modules()}) for module in modules()}
    finished: set[str] = set()

    def visit(module: str, trail: list[str]) -> None:
        assert module not in trail, " -> ".join([*trail[trail.index(module) :], module])
        if module not in finished:
            for target in graph[module]:
                visit(target, [*trail, module])
            finished.add(module)

    for module in graph:
        visit(module, [])


def test_no_module_imports_its_own_package():
    wrong = [
        f"{module}:{found.line} imports {found.target}"
        for module, found in own_imports()
        if found.target != "userclue" and module.startswith(f"{found.target}.")
    ]
    assert wrong == []


def test_packages_inside_hold_no_code_in_init():
    inner = [path for path in modules().values() if path.name == "__init__.py" and path.parent != SOURCE]
    code = {path: [node for node in ast.parse(path.read_text(encoding="utf-8")).body if not isinstance(node, ast.Expr)] for path in inner}
    assert [str(path.relative_to(SOURCE)) for path, nodes in code.items() if nodes] == []


def test_data_knows_no_torch():
    for module in modules():
        if room(module) == "data" and module not in TORCH_IN_DATA:
            assert "torch" not in {found.target for found in imports(module)}, module
            assert "torch" not in at_import_time(module), f"{module} brings torch in through another module"


def test_data_imports_without_torch_in_a_fresh_interpreter():
    names = [module for module in modules() if room(module) == "data" and module not in TORCH_IN_DATA]
    assert run(f"import sys, importlib\nfor name in {names}: importlib.import_module(name)\nprint('torch' in sys.modules)") == "False\n"


def test_the_face_imports_no_torch():
    assert run("import sys, userclue; print('torch' in sys.modules)") == "False\n"


def test_help_imports_no_torch():
    code = """
import sys
from userclue.cli.app import main
sys.argv = ["userclue", "--help"]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print("torch" in sys.modules)
"""
    assert run(code).splitlines()[-1] == "False"


def test_no_room_without_a_name():
    assert [str(path) for path in modules().values() if path.stem in {"utils", "util", "helpers", "misc", "common"}] == []


def test_files_are_short():
    lengths = {module: len(path.read_text(encoding="utf-8").splitlines()) for module, path in modules().items()}
    assert {module: length for module, length in lengths.items() if length > MAX_FILE_LINES} == {}


def test_functions_are_short():
    long = [
        f"{module}.{node.name}: {node.end_lineno - node.lineno + 1} lines"
        for module, path in modules().items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > MAX_FUNCTION_LINES
    ]
    assert long == []
