"""Small mistakes that can be made in a source file, one at a time, found in its syntax tree.

Docstrings, annotations, imports, log messages, texts of errors, texts of f-strings and strings are left as they are.
"""

import ast
import copy
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple


COMPARISONS = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
ARITHMETIC = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Div,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
OTHER_NAMES = [
    ("min", "max"),
    ("mean", "sum"),
    ("any", "all"),
    ("floor", "ceil"),
    ("zeros", "ones"),
    ("cos", "sin"),
    ("rsqrt", "sqrt"),
    ("float64", "float32"),
    ("float32", "float16"),
    ("float", "bfloat16"),
    ("int64", "int32"),
    ("uint32", "uint16"),
    ("uint16", "uint8"),
]
RENAMED = dict(OTHER_NAMES) | {other: one for one, other in OTHER_NAMES if "int" not in one}
DROPPED_CALLS = {"float", "contiguous", "clone", "clamp", "astype", "sum", "detach", "copy", "eval", "squeeze"}
TEXTS_FOR_PEOPLE = {"desc", "delay", "remedy"}  # keywords
UNREAD = {"annotation", "returns", "decorator_list", "type_comment", "op", "ops", "ctx"}  # fields of a syntax tree
COMPOUND = (ast.BinOp, ast.BoolOp, ast.Compare, ast.UnaryOp, ast.IfExp, ast.Lambda)


class Edit(NamedTuple):
    """`replaced` becomes `replacement`; `at` is the place that a reader looks at."""

    replaced: ast.AST
    replacement: ast.AST
    at: ast.AST
    change: str


@dataclass(frozen=True)
class Mutant:
    """One mistake. `change` says what is changed in the line `line`, whose text is `text`.

    number: distinguishes the same change in lines with the same text.
    """

    file: str
    line: int
    text: str
    change: str
    number: int
    original: str
    edit: Edit

    @property
    def key(self) -> str:
        """The same for the same change in the same line, wherever that line is now."""
        return f"{self.file} | {self.text} | {self.change} | {self.number}"

    @property
    def source(self) -> str:
        """The whole file with the mistake."""
        replaced, encoded = self.edit.replaced, self.original.encode()
        sizes = [0, *accumulate(map(len, encoded.splitlines(keepends=True)))]
        before = sizes[replaced.lineno - 1] + replaced.col_offset
        after = sizes[replaced.end_lineno - 1] + replaced.end_col_offset
        text = ast.unparse(self.edit.replacement)
        text = f"({text})" if isinstance(self.edit.replacement, COMPOUND) else text
        return (encoded[:before] + text.encode() + encoded[after:]).decode()


def mutants(source: str, file: str) -> list[Mutant]:
    lines, seen, found = source.splitlines(), {}, []
    for edit in _edits(ast.parse(source), None):
        text = lines[edit.at.lineno - 1].strip()
        number = seen[text, edit.change] = seen.get((text, edit.change), -1) + 1
        if ast.unparse(edit.replaced) != ast.unparse(edit.replacement):
            found.append(Mutant(file, edit.at.lineno, text, edit.change, number, source, edit))
    return found


def sample(all_mutants: list[Mutant], number: int | None, seed: int) -> list[Mutant]:
    """`number` of them by chance. A smaller sample begins a larger one; an edit elsewhere changes hardly any."""
    return sorted(all_mutants, key=lambda mutant: hashlib.sha256(f"{seed}:{mutant.key}".encode()).digest())[:number]


def _edits(node: ast.AST, parent: ast.AST | None) -> Iterator[Edit]:
    if isinstance(node, ast.JoinedStr | ast.Import | ast.ImportFrom) or _is_text(node) or _for_types_only(node):
        return
    if isinstance(node, ast.stmt):
        yield from _of_statement(node)
    elif isinstance(node, ast.expr):
        yield from _of_expression(node, parent)
    if isinstance(node, ast.Raise) or (isinstance(node, ast.FunctionDef) and node.name.endswith("repr")):
        return
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if name not in UNREAD and isinstance(child, ast.AST):
                yield from _edits(child, node)


def _is_text(node: ast.AST) -> bool:
    """A docstring or a call of the logger."""
    if not isinstance(node, ast.Expr):
        return False
    return isinstance(node.value, ast.Constant) or ast.unparse(node.value).startswith("logger.")


def _for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def _of_statement(node: ast.stmt) -> Iterator[Edit]:
    def change(new: ast.AST, old: ast.AST, text: str | None = None) -> Edit:
        return Edit(old, new, old, text or f"{_short(old)} → {_short(new)}")

    assigned = node.targets if isinstance(node, ast.Assign) else []
    into_object = any(isinstance(target, ast.Attribute | ast.Subscript) for target in assigned)
    if isinstance(node, ast.Expr | ast.AugAssign | ast.Raise | ast.Delete) or into_object:
        yield change(ast.Pass(), node, f"remove {_short(node)}")
    if isinstance(node, ast.AugAssign):
        yield change(ast.Assign([node.target], node.value, lineno=0), node, f"{_short(node)}: = for its operator")
        if type(node.op) in ARITHMETIC:
            yield change(_with(node, op=ARITHMETIC[type(node.op)]()), node)
    if isinstance(node, ast.Return) and node.value is not None and _short(node.value) != "None":
        yield change(ast.Return(ast.Constant(None)), node, f"{_short(node)} → return None")
    if isinstance(node, ast.If | ast.While):
        yield from _negated(node.test)


def _of_expression(node: ast.expr, parent: ast.AST | None) -> Iterator[Edit]:
    def change(new: ast.AST) -> Edit:
        return Edit(node, new, node, f"{_short(node)} → {_short(new)}")

    match node:
        case ast.Compare(ops=[first, *_]):
            for other in COMPARISONS[type(first)]:
                yield change(_with(node, ops=[other(), *node.ops[1:]]))
        case ast.BoolOp(op=op):
            yield change(_with(node, op=ast.Or() if isinstance(op, ast.And) else ast.And()))
        case ast.BinOp(op=op) if type(op) in ARITHMETIC:
            yield change(_with(node, op=ARITHMETIC[type(op)]()))
        case ast.UnaryOp():
            yield change(node.operand)
        case ast.IfExp():
            yield from _negated(node.test)
        case ast.Constant(value=value):
            yield from (change(ast.Constant(other)) for other in _other_constants(value))
        case ast.Name(id=name) | ast.Attribute(attr=name) if name in RENAMED and isinstance(node.ctx, ast.Load):
            field = "id" if isinstance(node, ast.Name) else "attr"
            yield change(_with(node, **{field: RENAMED[name]}))
        case ast.Tuple(elts=[first, second]) if isinstance(node.ctx, ast.Load) and not isinstance(
            parent, ast.Subscript
        ):
            yield change(_with(node, elts=[second, first]))
        case ast.Slice():
            yield from (change(other) for other in _other_slices(node))
        case ast.Call():
            yield from _of_call(node)


def _of_call(node: ast.Call) -> Iterator[Edit]:
    if len(node.args) >= 2 and not any(isinstance(word, ast.Starred) for word in node.args[:2]):
        swapped = _with(node, args=[node.args[1], node.args[0], *node.args[2:]])
        yield Edit(node, swapped, node, f"{_short(node)}: swap the first two arguments")
    for keyword in node.keywords:
        if keyword.arg not in TEXTS_FOR_PEOPLE:
            rest = [other for other in node.keywords if other is not keyword]
            yield Edit(node, _with(node, keywords=rest), keyword, f"drop {_short(keyword)}")
    if isinstance(node.func, ast.Attribute) and node.func.attr in DROPPED_CALLS:
        text = f"drop .{node.func.attr}() of {_short(node.func.value)}"
        yield Edit(node, node.func.value, node.func.value, text)


def _negated(test: ast.expr) -> Iterator[Edit]:
    """Not of a comparison or a `not`, which have mistakes of their own."""
    if not isinstance(test, ast.Compare) and not (isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)):
        yield Edit(test, ast.UnaryOp(ast.Not(), test), test, f"{_short(test)} → not")


def _other_constants(value: object) -> list[object]:
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return {0: [1], 1: [0, 2]}.get(value, [value - 1, value + 1, -value])
    if isinstance(value, float):
        return [0.0, 2 * value, -value] if value else [1.0]
    return []


def _other_slices(node: ast.Slice) -> Iterator[ast.Slice]:
    if node.lower is not None:
        yield ast.Slice(None, node.upper, node.step)
    if node.upper is not None:
        yield ast.Slice(node.lower, None, node.step)
    if (node.lower is None) != (node.upper is None):
        one, last = ast.Constant(1), ast.UnaryOp(ast.USub(), ast.Constant(1))
        yield ast.Slice(None, last) if node.upper is None else ast.Slice(one, None)


def _with(node: ast.AST, **fields: object) -> ast.AST:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def _short(node: ast.AST) -> str:
    text = " ".join(ast.unparse(node).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
