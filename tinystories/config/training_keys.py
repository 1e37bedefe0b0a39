"""The keys of transformers' `TrainingArguments`, without importing it, which takes seconds.

They are read from the source of the installed transformers, so they cannot differ from those that are parsed later.
With them a mistyped key is refused at once; whatever they let pass is parsed again with the real class (recipe.py).
"""

import argparse
import ast
from collections.abc import Iterator
from dataclasses import field, make_dataclass
from functools import cache
from typing import Any, Literal

from tinystories.config.installed import installed_file
from tinystories.config.keys import TrainingDefaults


_TYPES = {type.__name__: type for type in (bool, int, float, str, list, dict)} | {"Any": Any, "Literal": Literal}


@cache
def training_keys() -> type:
    """A dataclass with the names, types and literal defaults of `RunArguments`; an enumeration counts as `str`."""
    source = installed_file("transformers", "training_args.py").read_text(encoding="utf-8")
    classes = (node for node in ast.parse(source).body if isinstance(node, ast.ClassDef))
    declared = next((node for node in classes if node.name == "TrainingArguments"), None)
    if declared is None or declared.bases:  # another version of transformers, with the fields in another place
        from tinystories.config.arguments import RunArguments

        return RunArguments
    upstream = make_dataclass("TrainingArguments", list(_fields(declared)))
    return make_dataclass("TrainingKeys", [], bases=(TrainingDefaults, upstream))


def _fields(declared: ast.ClassDef) -> Iterator[tuple[str, Any, Any]]:
    for node in declared.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            annotation = eval(ast.unparse(node.annotation), {}, _Types(_TYPES))
            options = {word.arg: _literal(word.value) for word in getattr(node.value, "keywords", [])}
            metadata = (options.get("metadata") or {}) | {"help": argparse.SUPPRESS}
            default: Any = options.get("default")
            yield node.target.id, annotation, field(default=default, metadata=metadata)


class _Types(dict):
    """The names in an annotation; an enumeration or another class of transformers is given as text."""

    def __missing__(self, name: str) -> type:
        return str


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None
