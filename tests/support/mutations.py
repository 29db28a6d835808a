"""Mutants made by a fixed list of operators: each is one small edit of one product file, with a stable id.

An id is `operator:file:function:nth`: the nth place of that operator in that function. So a mutant keeps its id while
other functions change. Excluded by rule, because nothing promised could tell: what only makes a text (`__repr__`,
`__str__`, arguments of an error's class, `log` calls), docstrings, annotations, imports, what stands under
`TYPE_CHECKING`, assertions, declarations of classes and constants, and pure statistics for a reader (`statistics`).
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ACTORS: Final = (
    "posting", "endings", "mailbox", "watching", "links", "timers", "stash", "suspension", "loop", "kernel", "keyed",
    "cell", "refs", "delivery", "kit",
)  # fmt: skip
SUPERVISORS: Final = ("supervisor", "dynamic", "groups", "intensity", "backoff", "strategies", "keeping")
FILES: Final = (*(f"actors/{name}.py" for name in ACTORS), *(f"supervisors/{name}.py" for name in SUPERVISORS))

SEED: Final = 4
SAMPLE: Final = 100

LETTERS: Final = {"letter", "lose", "dead", "fail", "count_lost"}
WAKES: Final = {
    "wake", "schedule", "rouse", "rest", "come_back", "set_result", "_resolve", "_wake", "_go_on", "_grant", "settle",
    "settled", "notify", "signal", "_send", "_arm", "_hand_over", "_fill",
}  # fmt: skip
CANCELS: Final = {"cancel", "unwatch", "end_timers", "clear_control", "close", "withdraw", "withdraw_control"}
EPOCHS: Final = {"number", "turn", "_turn", "life", "incarnation", "cell"}
ENDS: Final = {"popleft": "pop", "appendleft": "append"}
TEXTS: Final = {"__repr__", "__str__", "_too_many", "statistics", "takes", "path", "label", "_paths", "_refusal"}
LATER: Final = {ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">"}


@dataclass(frozen=True, order=True)
class Mutant:
    """One edit: the bytes `start` to `end` of `file` become `text`."""

    id: str
    operator: str
    file: str
    line: int
    start: int
    end: int
    text: str
    before: str

    def apply(self, source: bytes) -> bytes:
        """The source with the edit made."""
        return source[: self.start] + self.text.encode() + source[self.end :]


class _Finder(ast.NodeVisitor):
    """Finds the places of all operators in one file."""

    def __init__(self, file: str, source: bytes) -> None:
        self.file = file
        self.source = source
        self.found: list[Mutant] = []
        self._scope: list[str] = []
        self._counts: dict[tuple[str, str], int] = {}
        self._lines = [0]
        for line in source.split(b"\n"):
            self._lines.append(self._lines[-1] + len(line) + 1)

    # -- places --------------------------------------------------------------------------------------------

    def _span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        start = self._lines[node.lineno - 1] + node.col_offset
        return start, self._lines[node.end_lineno - 1] + node.end_col_offset

    def _add(self, operator: str, node: ast.expr | ast.stmt, text: str) -> None:
        if not self._scope:
            return
        start, end = self._span(node)
        where = ".".join(self._scope)
        nth = self._counts[operator, where] = self._counts.get((operator, where), 0) + 1
        before = " ".join(self.source[start:end].decode().split())
        name = f"{operator}:{self.file}:{where}:{nth}"
        self.found.append(Mutant(name, operator, self.file, node.lineno, start, end, text, before))

    # -- what is passed over -------------------------------------------------------------------------------

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._scope.append(node.name)
        for each in node.body:
            if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                self.visit(each)
        self._scope.pop()

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        if node.name in TEXTS:
            return
        self._scope.append(node.name)
        body = node.body[1:] if ast.get_docstring(node) is not None else node.body
        nothing = isinstance(node.returns, ast.Constant) and node.returns.value is None
        if nothing and len(body) > 1 and not _yields(node):
            last = body[-1]
            self._add("return early", last, "return")
        for each in body:
            self.visit(each)
        self._scope.pop()

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self.visit_FunctionDef(node)

    def visit_Assert(self, node: ast.Assert) -> None:
        return

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_Raise(self, node: ast.Raise) -> None:
        return  # the text of an error

    # -- operators -----------------------------------------------------------------------------------------

    def visit_Expr(self, node: ast.Expr) -> None:
        call = node.value.value if isinstance(node.value, ast.Await) else node.value
        if isinstance(call, ast.Call):
            name = _name_of(call.func)
            if _root_of(call.func) == "log":
                return
            self._add(_kind_of_drop(name), node, "pass")
        self.generic_visit(node)

    def visit_Await(self, node: ast.Await) -> None:
        text = ast.get_source_segment(self.source.decode(), node.value) or ""
        self._add("drop await", node, text)
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        if len(node.targets) == 1 and isinstance(node.targets[0], ast.Attribute) and self._scope[-1] != "__init__":
            fences = node.targets[0].attr == "fenced"
            self._add("forget fence" if fences else "drop assignment", node, "pass")
        self.visit(node.value)

    def visit_If(self, node: ast.If) -> None:
        self._add("negate if", node.test, f"(not ({ast.unparse(node.test)}))")
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._add("negate if", node.test, f"(not ({ast.unparse(node.test)}))")
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        joint = " and " if isinstance(node.op, ast.Or) else " or "
        self._add("swap and/or", node, f"({joint.join(f'({ast.unparse(each)})' for each in node.values)})")
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        if len(node.ops) == 1:
            op, right = node.ops[0], node.comparators[0]
            if type(op) in LATER:
                self._add("off by one", node, f"({ast.unparse(node.left)} {LATER[type(op)]} {ast.unparse(right)})")
            none = isinstance(right, ast.Constant)
            if not none and (_name_of(node.left) in EPOCHS or _name_of(right) in EPOCHS):
                if isinstance(op, ast.Eq | ast.Is):
                    self._add("forget epoch", node, "True")
                elif isinstance(op, ast.NotEq | ast.IsNot):
                    self._add("forget epoch", node, "False")
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        number = isinstance(node.right, ast.Constant) and isinstance(node.right.value, int)
        if isinstance(node.op, ast.Add | ast.Sub) and number:
            self._add("off by one", node, f"({ast.unparse(node.left)})")
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if isinstance(node.value, ast.Constant):
            self._add("off by one", node, "pass")
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if node.attr == "fenced" and isinstance(node.ctx, ast.Load):
            self._add("forget fence", node, "False")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        name = _name_of(node.func)
        if name in ENDS and isinstance(node.func, ast.Attribute):
            whole = ast.unparse(node.func.value)
            given = ", ".join(ast.unparse(each) for each in node.args)
            self._add("swap ends", node, f"{whole}.{ENDS[name]}({given})")
        if name == "reversed":
            self._add("swap ends", node, f"list({ast.unparse(node.args[0])})")
        self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if isinstance(node.ctx, ast.Load) and ast.unparse(node.slice) in ("-1", "0") and _indexes(node):
            other = "0" if ast.unparse(node.slice) == "-1" else "-1"
            self._add("swap ends", node, f"{ast.unparse(node.value)}[{other}]")
        self.generic_visit(node)


def _indexes(node: ast.Subscript) -> bool:
    """Whether a sequence of any length is looked at: not a pair, whose halves have types of their own."""
    return _name_of(node.value) in {"_stamps", "stamps", "_heap", "_batches", "batches", "todo", "range_", "spares"}


def _kind_of_drop(name: str) -> str:
    if name in LETTERS:
        return "skip letter"
    if name in WAKES:
        return "lost wake-up"
    return "skip cancel" if name in CANCELS else "drop call"


def _name_of(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _root_of(node: ast.expr) -> str:
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def _yields(node: ast.AST) -> bool:
    return any(isinstance(each, ast.Yield | ast.YieldFrom) for each in ast.walk(node))


def all_of(root: Path) -> list[Mutant]:
    """Every mutant there is, in the order of files and places."""
    found: list[Mutant] = []
    for file in FILES:
        source = (root / file).read_bytes()
        finder = _Finder(file, source)
        for node in ast.parse(source).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                finder.visit(node)
        found += finder.found
    return found


def sample(mutants: list[Mutant], count: int = SAMPLE, seed: int = SEED) -> list[Mutant]:
    """`count` of them: the operators take turns, and within one the files; which place is drawn with `seed`.

    Drawn by the hash of the id: a change of the product changes the sample only where it changes the mutants.
    """

    def drawn(name: str) -> bytes:
        return hashlib.sha256(f"{seed} {name}".encode()).digest()

    queues: dict[str, dict[str, list[Mutant]]] = {}
    for each in sorted(mutants, key=lambda mutant: drawn(mutant.id)):
        queues.setdefault(each.operator, {}).setdefault(each.file, []).append(each)
    lines = [
        list(_turns([files[file] for file in sorted(files, key=lambda file: drawn(f"{operator} {file}"))]))
        for operator, files in sorted(queues.items())
    ]
    return sorted(list(_turns(lines))[:count])


def _turns(lines: list[list[Mutant]]) -> Iterator[Mutant]:
    for place in range(max(map(len, lines))):
        for line in lines:
            if place < len(line):
                yield line[place]
