"""Imports go down only: the floors of docs/design.md, read from the source with ast."""

from __future__ import annotations

import ast
import graphlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "mploader"

# Bottom first. A room may import itself and the rooms on floors below its own.
FLOORS: list[set[str]] = [
    {"errors", "limits", "platform", "worker_info"},
    {"transport"},
    {"pipeline"},
    {"options"},
    {"stats"},
    {"engine"},
    {"loader"},
    {"__init__"},
    {"monitor", "integrations"},
    {"__main__"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}

REQUIRED = {"numpy", "cloudpickle", "psutil"}
EXTRAS = {
    *("torch", "keras", "tensorflow", "jax", "ray", "rich", "prometheus_client", "bokeh"),
    *("PIL", "pandas", "google", "google_crc32c"),
}

# Decided in pure code, so that it is tested exhaustively in microseconds.
PURE = [
    *("engine.window", "engine.reorder", "engine.ledger", "engine.lifecycle", "transport.ring"),
    *("pipeline.permutation", "pipeline.choice", "pipeline.interleave", "pipeline.passes"),
]
IMPURE = {
    *("multiprocessing", "subprocess", "concurrent", "threading", "_thread", "asyncio", "signal"),
    *("time", "datetime", "mmap", "os", "io", "fcntl", "ctypes", "socket", "select", "selectors", "queue", "psutil"),
}

# Imports inside functions that are no optional extras, each with its reason.
LATE = {
    ("mploader.engine.launcher", "mploader.engine.worker"): "only the launched process runs the worker's code",
}


@dataclass(frozen=True)
class Import:
    """One imported module: a dotted name, where, and whether it happens late (in a function) or for types only."""

    target: str
    line: int
    late: bool
    typing_only: bool

    @property
    def top(self) -> str:
        """The name of the distribution's package."""
        return self.target.partition(".")[0]


def dotted(path: Path) -> str:
    """Module name of a file of the package."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {dotted(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def room(module: str) -> str:
    """The room that a module of the package belongs to."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def walk(node: ast.AST, module: str, late: bool = False, typing_only: bool = False) -> Iterator[Import]:
    """All imports under a node."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(alias.name, child.lineno, late, typing_only)
        elif isinstance(child, ast.ImportFrom):
            package = module.split(".") if SOURCES[module].name == "__init__.py" else module.split(".")[:-1]
            base = ".".join([*package[: len(package) - child.level + 1], child.module or ""]).strip(".")
            base = base if child.level else child.module or ""
            for name in {f"{base}.{alias.name}" for alias in child.names}:
                yield Import(name if name in SOURCES else base, child.lineno, late, typing_only)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            yield from walk(child, module, late, typing_only=True)
        else:
            in_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from walk(child, module, late or in_function, typing_only)


IMPORTS = {module: list(walk(ast.parse(path.read_text()), module)) for module, path in SOURCES.items()}


def needs(module: str) -> set[str]:
    """Modules of the package that are imported when this one is, by itself or by what it imports."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        for entry in IMPORTS[waiting.pop()]:
            if entry.target in SOURCES and not entry.late and not entry.typing_only and entry.target not in found:
                found.add(entry.target)
                waiting.append(entry.target)
    return found


def test_every_room_has_a_floor() -> None:
    """A new room is put into the table above, so that it cannot escape this test."""
    assert {room(module) for module in SOURCES} <= FLOOR.keys()


@pytest.mark.parametrize("module", SOURCES)
def test_imports_go_down_only(module: str) -> None:
    """No arrow runs up, also none for types or inside functions."""
    mine = room(module)
    up = [
        f"line {entry.line}: {entry.target}"
        for entry in IMPORTS[module]
        if entry.top == "mploader" and (theirs := room(entry.target)) != mine and FLOOR[theirs] >= FLOOR[mine]
    ]
    assert not up


def test_no_circle_of_imports() -> None:
    """Within a room too, what a module needs to be imported never leads back to it."""
    graph = {
        module: {e.target for e in entries if e.target in SOURCES and not e.late and not e.typing_only}
        for module, entries in IMPORTS.items()
    }
    assert list(graphlib.TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("module", PURE)
def test_pure_modules_touch_no_process_thread_clock_or_memory(module: str) -> None:
    """Neither they nor what they import can wait, look at the time, or reach outside."""
    module = f"mploader.{module}"
    reached = {module, *needs(module)}
    impure = [f"{m}: {e.target}" for m in reached for e in IMPORTS[m] if e.top in IMPURE and not e.typing_only]
    assert not impure


@pytest.mark.parametrize("module", SOURCES)
def test_nothing_is_imported_inside_a_function_but_an_extra(module: str) -> None:
    """What a module needs stands at its top."""
    late = [
        f"line {entry.line}: {entry.target}"
        for entry in IMPORTS[module]
        if entry.late and entry.top not in EXTRAS and (module, entry.target) not in LATE
    ]
    assert not late


@pytest.mark.parametrize("module", SOURCES)
def test_only_required_distributions_are_imported_at_the_top(module: str) -> None:
    """An extra is never needed by who does not use it."""
    known = REQUIRED | sys.stdlib_module_names | {"mploader"}
    if room(module) in {"integrations", "monitor"}:
        known |= EXTRAS
    foreign = [
        f"line {entry.line}: {entry.target}"
        for entry in IMPORTS[module]
        if entry.top not in known and not entry.late and not entry.typing_only
    ]
    assert not foreign
