# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading production's source code: is a clause still there, and what does a function need to run alone?

Production code is parsed, never imported and never executed here. `extract` returns verbatim source, which runs only in
a container without network.
"""

from __future__ import annotations

import ast
import builtins
import hashlib
import symtable
import sys
import tokenize
from dataclasses import dataclass
from pathlib import Path

from .plan import Clause

# What a module has without binding it; ``__file__`` is missing on purpose: there is no file in the container.
_MODULE_NAMES = {"__name__", "__doc__", "__builtins__"}


class ProductionError(Exception):
    """Production code is not as needed; the message names the file, the name and the line."""


@dataclass(frozen=True)
class Found:
    """A function in a file: lines from 1, decorators included, and the SHA-256 of exactly that source."""

    first_line: int
    last_line: int
    source: str
    sha256: str


@dataclass(frozen=True)
class ClauseFound:
    """Whether a clause is still in its place, in words, and its current lines (None when it is gone)."""

    ok: bool
    found: str
    lines: tuple[int, int] | None = None


def _read(path: Path) -> tuple[str, ast.Module]:
    try:
        with tokenize.open(path) as file:
            source = file.read()
        return source, ast.parse(source)
    except OSError as err:
        raise ProductionError(f"{path}: cannot be read: {err.strerror or err}") from err
    except (SyntaxError, ValueError, RecursionError, MemoryError) as err:
        raise ProductionError(
            f"{path}: is not valid Python of version {sys.version_info[0]}.{sys.version_info[1]}: {err}"
        ) from err


def _first_line(node: ast.stmt) -> int:
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    return min([node.lineno, *(d.lineno for d in decorators)])


def _segment(source: str, node: ast.stmt) -> str:
    """The text of a module-level statement; whole lines, unless it shares them with other statements."""
    lines = source.split("\n")[_first_line(node) - 1 : node.end_lineno]
    # Columns count bytes of UTF-8.
    rest = lines[-1].encode()[node.end_col_offset :].decode().strip()
    if node.col_offset == 0 and (not rest or rest.startswith("#")):
        return "\n".join(lines)
    return ast.get_source_segment(source, node) or ast.unparse(node)


def _function(path: Path, tree: ast.Module, name: str) -> ast.FunctionDef:
    found = [n for n in tree.body if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef)) and n.name == name]
    if found:
        last = found[-1]
        if isinstance(last, ast.AsyncFunctionDef):
            raise ProductionError(f"{path}: {name} (line {last.lineno}) is async: calling it gives no value")
        return last
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name == name:
            raise ProductionError(
                f"{path}: {name} (line {node.lineno}) is inside a class or another function;"
                " only a function of the module itself can be extracted alone"
            )
    raise ProductionError(f"{path}: no function {name}")


def find_function(path: Path, name: str) -> Found:
    """Where the module-level function ``name`` is (the last one of that name), and its verbatim source.

    Raises:
        ProductionError: the file cannot be read or parsed, or has no such function.
    """
    source, tree = _read(path)
    node = _function(path, tree, name)
    text = _segment(source, node)
    return Found(_first_line(node), node.end_lineno or node.lineno, text, hashlib.sha256(text.encode()).hexdigest())


class _NoAnnotations(ast.NodeTransformer):
    """Drops annotations, which are never evaluated under ``from __future__ import annotations``."""

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        node.annotation = ast.Constant(None)
        return self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)


def _needs(node: ast.stmt, lazy_annotations: bool) -> set[str]:
    """The module's names that a statement reads, in whatever scope of it (Python's symbol table decides)."""
    if lazy_annotations:
        node = _NoAnnotations().visit(ast.parse(ast.unparse(node)).body[0])
    tables = [symtable.symtable(ast.unparse(node), "statement", "exec")]
    own = {s.get_name() for s in tables[0].get_symbols() if s.is_assigned() and not s.is_referenced()}
    names: set[str] = set()
    for table in tables:
        top = table.get_type() == "module"
        names |= {s.get_name() for s in table.get_symbols() if (s.is_referenced() if top else s.is_global())}
        tables += table.get_children()
    return names - own


def _targets(node: ast.AST) -> set[str]:
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}


def _bound(node: ast.stmt) -> set[str]:
    """The names a module-level statement gives a value."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return {node.name}
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return {a.asname or a.name.split(".")[0] for a in node.names}
    if isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Expr)):
        return _targets(node)
    return _targets(node) | {
        name for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt) for name in _bound(child)
    }


def _changed(node: ast.stmt) -> set[str]:
    """The names whose value a module-level statement changes in place: ``X[k] = ...``, ``X.append(...)``."""
    places: list[ast.expr] = []
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        places = [node.value.func] if isinstance(node.value.func, ast.Attribute) else []
    elif isinstance(node, ast.Assign):
        places = [t for t in node.targets if isinstance(t, (ast.Attribute, ast.Subscript))]
    elif isinstance(node, ast.AugAssign):
        places = [node.target]
    names = set()
    for place in places:
        root: ast.expr = place
        while isinstance(root, (ast.Attribute, ast.Subscript)):
            root = root.value
        if isinstance(root, ast.Name):
            names.add(root.id)
    return names


class _Extraction:
    """Collects the statements of one module that a function needs."""

    def __init__(self, path: Path, source: str, tree: ast.Module) -> None:
        self._path, self._source, self._tree = path, source, tree
        self._imports: dict[int, set[str]] = {}
        self._taken: set[int] = set()
        self._done: set[str] = set()
        self._future = [n for n in tree.body if isinstance(n, ast.ImportFrom) and n.module == "__future__"]
        self._lazy = any(a.name == "annotations" for n in self._future for a in n.names)

    def take(self, node: ast.stmt, chain: list[str]) -> None:
        self._taken.add(self._tree.body.index(node))
        for name in sorted(_needs(node, self._lazy)):
            self._name(name, chain)

    def _fail(self, name: str, chain: list[str], why: str) -> None:
        by = " <- ".join(reversed(chain))
        raise ProductionError(f"{self._path}: {name}, needed by {by}, cannot be extracted with it: {why}")

    def _name(self, name: str, chain: list[str]) -> None:
        if name in self._done:
            return
        self._done.add(name)
        nodes = [n for n in self._tree.body if name in _bound(n)]
        if not nodes:
            self._unbound(name, chain)
        for node in nodes:
            self._binding(name, node, chain)
        if nodes and not isinstance(nodes[-1], (ast.Import, ast.ImportFrom)):
            for node in self._tree.body:
                if name in _changed(node) and self._tree.body.index(node) not in self._taken:
                    self.take(node, [*chain, name])

    def _unbound(self, name: str, chain: list[str]) -> None:
        if hasattr(builtins, name) or name in _MODULE_NAMES:
            return
        stars = [n for n in self._tree.body if isinstance(n, ast.ImportFrom) and n.names[0].name == "*"]
        if stars:
            self._fail(name, chain, f"it can only come from `{ast.unparse(stars[0])}` (line {stars[0].lineno})")
        self._fail(name, chain, "the module gives it no value")

    def _binding(self, name: str, node: ast.stmt, chain: list[str]) -> None:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            self._import(name, node, chain)
        elif isinstance(
            node,
            (
                ast.FunctionDef,
                ast.AsyncFunctionDef,
                ast.ClassDef,
                ast.Assign,
                ast.AnnAssign,
                ast.AugAssign,
                ast.Expr,
            ),
        ):
            if self._tree.body.index(node) not in self._taken:
                self.take(node, [*chain, name])
        else:
            kind = type(node).__name__.lower()
            self._fail(name, chain, f"it gets its value inside a compound statement ({kind}, line {node.lineno})")

    def _import(self, name: str, node: ast.Import | ast.ImportFrom, chain: list[str]) -> None:
        for alias in node.names:
            if (alias.asname or alias.name.split(".")[0]) != name:
                continue
            module = alias.name if isinstance(node, ast.Import) else "." * node.level + (node.module or "")
            if module.split(".")[0] not in sys.stdlib_module_names:
                self._fail(name, chain, f"line {node.lineno} imports it from {module}, outside the standard library")
            part = ast.Import([alias]) if isinstance(node, ast.Import) else ast.ImportFrom(node.module, [alias], 0)
            self._imports.setdefault(self._tree.body.index(node), set()).add(ast.unparse(part))

    def text(self) -> str:
        parts = [ast.unparse(node) for node in self._future]
        for i, node in enumerate(self._tree.body):
            parts += sorted(self._imports.get(i, ()))
            if i in self._taken:
                parts.append(_segment(self._source, node))
        return "\n\n".join(parts) + "\n"


def extract(path: Path, function: str) -> str:
    """The function and everything that it needs from its module, in source order, as source that runs alone.

    Included as far as needed: constants (and statements that change them in place), other functions, classes,
    imports of the standard library. Each is verbatim; of an import statement only the needed names are kept.

    Raises:
        ProductionError: the file or function does not exist, or a needed name cannot be included: it comes from
            a package outside the standard library, from a compound statement, or from nowhere.
    """
    source, tree = _read(path)
    extraction = _Extraction(path, source, tree)
    extraction.take(_function(path, tree, function), [function])
    return extraction.text()


def _catches(handler: ast.ExceptHandler) -> set[str]:
    kind = handler.type
    if kind is None:
        return set()
    return {ast.unparse(item) for item in (kind.elts if isinstance(kind, ast.Tuple) else [kind])}


def _yields(handler: ast.ExceptHandler) -> set[str]:
    nodes = [n for statement in handler.body for n in ast.walk(statement)]
    return {ast.unparse(n.value) for n in nodes if isinstance(n, ast.Yield) and n.value is not None}


def _at(lines: tuple[int, int]) -> str:
    return f"{lines[0]}-{lines[1]}"


def find_clause(path: Path, clause: Clause) -> ClauseFound:
    """Look for an ``except`` clause that catches at least ``clause.catches`` and yields ``clause.yields``.

    The clause is in its place when it overlaps ``clause.lines``. Never raises, whatever the file holds.
    """
    try:
        _unused, tree = _read(path)
        wanted = ast.unparse(ast.parse(clause.yields, mode="eval"))
    except ProductionError as err:
        return ClauseFound(False, str(err).removeprefix(f"{path}: "))
    except SyntaxError:
        return ClauseFound(False, f"the plan's clause yields {clause.yields!r}, which is not an expression")
    handlers = [n for n in ast.walk(tree) if isinstance(n, ast.ExceptHandler)]
    spans = {id(n): (n.lineno, n.end_lineno or n.lineno) for n in handlers}
    first, last = clause.lines[0], clause.lines[-1]
    here = [n for n in handlers if spans[id(n)][0] <= last and spans[id(n)][1] >= first]
    holding = [n for n in handlers if set(clause.catches) <= _catches(n) and wanted in _yields(n)]
    for node in holding:
        if node in here:
            text = f"lines {_at(spans[id(node)])}: except {', '.join(sorted(_catches(node)))}: yield {wanted}"
            return ClauseFound(True, text, spans[id(node)])
    if holding:
        lines = spans[id(holding[0])]
        return ClauseFound(False, f"moved from {_at((first, last))} to {_at(lines)}", lines)
    if here:
        node = here[0]
        catches = ", ".join(sorted(_catches(node))) or "everything"
        yields = ", ".join(sorted(_yields(node))) or "nothing"
        return ClauseFound(False, f"lines {_at(spans[id(node)])} catch {catches} and yield {yields}")
    return ClauseFound(False, f"no such clause in {path}, neither at lines {_at((first, last))} nor elsewhere")
