"""The parameters that a notebook declares, and values for them, checked before a kernel starts.

A notebook declares its parameters in one cell tagged ``parameters``: annotated literals, each with a
comment::

    model: str = "nano"  # which model to run
    ctx: int = 4096  # context in tokens
    mode: str = "instant"  # one of: thinking, instant

Types are ``str``, ``int``, ``float``, ``bool``, a ``list`` of one of them, and each of these ``| None``. A
comment that says ``one of: a, b`` declares a choice; it ends at a semicolon or at the end of the line.
"""

from __future__ import annotations

import ast
import difflib
import io
import json
import math
import os
import re
import tokenize
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kimi_nb.errors import UsageError
from kimi_nb.run.notebook import read_notebook, source_of, tags_of
from kimi_nb.run.secrets import looks_secret

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "Parameter",
    "Text",
    "assign_parameters",
    "check_parameters",
    "declared_parameters",
    "parse_parameters",
]

_ONE_OF = re.compile(r"\bone of:\s*([^;]+)")
_WORDS = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}
_NEEDS = {"str": "text", "int": "a whole number", "float": "a number", "bool": "true or false"}


class Text(str):
    """A value as typed on a command line: read as the parameter's declared type, and never guessed at."""

    __slots__ = ()


@dataclass(frozen=True)
class Parameter:
    """One declared parameter.

    Attributes:
        name: The variable's name.
        kind: ``str``, ``int``, ``float`` or ``bool``.
        default: What the notebook uses when nothing is given.
        help: The comment beside it.
        many: Whether it is a list of ``kind``.
        optional: Whether it may be None.
        choices: The only values allowed; empty means any.
    """

    name: str
    kind: str
    default: Any = None
    help: str = ""
    many: bool = False
    optional: bool = False
    choices: tuple[Any, ...] = ()

    @property
    def type(self) -> str:
        """The annotation, as the notebook would write it."""
        return (f"list[{self.kind}]" if self.many else self.kind) + (" | None" if self.optional else "")

    @property
    def needs(self) -> str:
        """What a value must be, in words."""
        needs = f"a list of {_NEEDS[self.kind]}" if self.many else _NEEDS[self.kind]
        if self.choices:
            needs = "one of " + ", ".join(map(str, self.choices))
        return needs + (" or none" if self.optional else "")

    def read(self, value: Any) -> Any:
        """Return ``value`` as the declared type.

        Raises:
            ValueError: It is not of that type, or not one of the choices.
        """
        if isinstance(value, Text):
            value = self._from_text(value)
        if value is None:
            if not self.optional:
                raise ValueError(self.needs)
            return None
        if self.many:
            if not isinstance(value, list | tuple):
                raise ValueError(self.needs)
            items = [self._item(item) for item in value]
        else:
            items = [self._item(value)]
        if self.choices and not all(item in self.choices for item in items):
            raise ValueError(self.needs)
        return items if self.many else items[0]

    def _item(self, value: Any) -> Any:
        if self.kind == "bool" and isinstance(value, bool):
            return value
        if self.kind == "int" and isinstance(value, int) and not isinstance(value, bool):
            return value
        if self.kind == "float" and isinstance(value, int | float) and not isinstance(value, bool):
            if math.isfinite(value):
                return float(value)
        elif self.kind == "str" and isinstance(value, str | os.PathLike):
            return os.fspath(value)
        raise ValueError(self.needs)

    def _from_text(self, text: str) -> Any:
        word = text.strip()
        if self.optional and word.lower() == "none":
            return None
        if not self.many:
            return self._item_from_text(text)
        if word.startswith("["):
            try:
                return json.loads(word)
            except json.JSONDecodeError:
                raise ValueError(self.needs) from None
        return [self._item_from_text(part.strip()) for part in word.split(",")] if word else []

    def _item_from_text(self, text: str) -> Any:
        if self.kind == "str":
            return str(text)
        if self.kind == "bool":
            if text.strip().lower() not in _WORDS:
                raise ValueError(self.needs)
            return _WORDS[text.strip().lower()]
        try:
            return int(text) if self.kind == "int" else float(text)
        except ValueError:
            raise ValueError(self.needs) from None


def declared_parameters(notebook: str | os.PathLike[str]) -> dict[str, Parameter]:
    """Return the parameters that a notebook declares, in their order; none if it has no such cell.

    Raises:
        UsageError: The notebook cannot be read, or its parameters cell holds something else.
    """
    return _declared(Path(notebook), read_notebook(Path(notebook)))


def check_parameters(notebook: str | os.PathLike[str], given: Mapping[str, Any]) -> dict[str, Any]:
    """Check values for a notebook's parameters before its kernel starts.

    Args:
        notebook: The notebook's path.
        given: Values by name; a :class:`Text` is read as the parameter's declared type.

    Returns:
        The same values as the declared types; defaults are left to the notebook.

    Raises:
        UsageError: A name is not declared, or a value does not fit.
    """
    return assign_parameters([Path(notebook)], given)[0]


def assign_parameters(notebooks: Sequence[Path], given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Give each notebook those of the values that it declares; each value must be declared by at least one.

    Raises:
        UsageError: As for :func:`check_parameters`.
    """
    declared = [_declared(path, read_notebook(path)) for path in notebooks]
    known = {name: parameter for parameters in declared for name, parameter in parameters.items()}
    which = notebooks[0].name if len(notebooks) == 1 else "any of these notebooks"
    for name in given:
        if name not in known:
            raise _unknown(name, which, list(known))
    assigned: list[dict[str, Any]] = []
    for path, parameters in zip(notebooks, declared, strict=True):
        mine: dict[str, Any] = {}
        for name, value in given.items():
            if name in parameters:
                try:
                    mine[name] = parameters[name].read(value)
                except ValueError as needs:
                    raise _ill_typed(path, parameters[name], value, str(needs)) from None
        assigned.append(mine)
    return assigned


def parse_parameters(source: str) -> tuple[dict[str, Parameter], list[str]]:
    """Read the source of a parameters cell.

    Returns:
        The parameters, and what is wrong with the cell: one line for each thing that is not an annotated
        literal.
    """
    try:
        body = ast.parse(source).body
        comments = _comments(source)
    except (SyntaxError, tokenize.TokenError) as error:
        return {}, [f"it is not Python: {error}"]
    parameters: dict[str, Parameter] = {}
    wrong: list[str] = []
    for statement in body:
        line = f"line {statement.lineno}"
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            wrong.append(f"{line} is not of the form `name: type = value`")
            continue
        name = statement.target.id
        comment = comments.get(statement.end_lineno or statement.lineno, "")
        parameter = _annotated(name, statement.annotation)
        if parameter is None:
            wrong.append(
                f"{line}: the type of {name} is not str, int, float, bool, a list of one, or one | None"
            )
        elif name in parameters:
            wrong.append(f"{line}: {name} is declared twice")
        else:
            try:
                parameters[name] = _with_default(parameter, statement.value, comment)
            except ValueError as problem:
                wrong.append(f"{line}: the value of {name} is not {problem}")
        if not comment:
            wrong.append(f"{line}: {name} has no comment that says what it is for")
    return parameters, wrong


def _with_default(parameter: Parameter, value: ast.expr | None, comment: str) -> Parameter:
    choices: tuple[Any, ...] = ()
    if match := _ONE_OF.search(comment):
        choices = tuple(parameter.read(Text(word.strip(" '\"`"))) for word in match[1].strip().split(","))
    try:
        default = ast.literal_eval(value) if value is not None else None
    except ValueError:
        raise ValueError("a literal") from None
    full = Parameter(
        parameter.name, parameter.kind, None, comment, parameter.many, parameter.optional, choices
    )
    return Parameter(
        parameter.name,
        parameter.kind,
        full.read(default),
        comment,
        parameter.many,
        parameter.optional,
        choices,
    )


def _annotated(name: str, annotation: ast.expr) -> Parameter | None:
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        try:
            annotation = ast.parse(annotation.value, mode="eval").body
        except SyntaxError:
            return None
    optional = False
    if isinstance(annotation, ast.BinOp) and isinstance(annotation.op, ast.BitOr):
        if not (isinstance(annotation.right, ast.Constant) and annotation.right.value is None):
            return None
        optional, annotation = True, annotation.left
    many = False
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "list":
        many, annotation = True, annotation.slice
    if isinstance(annotation, ast.Name) and annotation.id in _NEEDS:
        return Parameter(name, annotation.id, many=many, optional=optional)
    return None


def _comments(source: str) -> dict[int, str]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {
        token.start[0]: token.string.lstrip("# ").rstrip()
        for token in tokens
        if token.type == tokenize.COMMENT
    }


def _declared(path: Path, notebook: dict[str, Any]) -> dict[str, Parameter]:
    cells = [
        cell for cell in notebook["cells"] if cell["cell_type"] == "code" and "parameters" in tags_of(cell)
    ]
    if not cells:
        return {}
    parameters, wrong = parse_parameters(source_of(cells[0]))
    if len(cells) > 1:
        wrong.insert(0, f"{len(cells)} cells have the tag")
    if wrong:
        raise UsageError(
            "KNB705",
            f"the parameters cell of {path.name} cannot be understood",
            why="; ".join(wrong),
            fix="Write each as `ctx: int = 4096  # what it is for`, in the one cell tagged parameters.",
        )
    return parameters


def _unknown(name: str, which: str, known: list[str]) -> UsageError:
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        fix = f"Did you mean {near[0]}?"
    elif known:
        fix = f"It knows {', '.join(known)}."
    else:
        fix = 'It has no cell tagged "parameters", so it takes none.'
    return UsageError("KNB703", f"unknown parameter {name}", why=f"it is not declared by {which}", fix=fix)


def _ill_typed(path: Path, parameter: Parameter, value: Any, needs: str) -> UsageError:
    shown = "what was given" if looks_secret(parameter.name) else f"{str(value)!r}"
    if not isinstance(value, str) and shown != "what was given":
        shown = repr(value)
    near = difflib.get_close_matches(str(value), map(str, parameter.choices), n=1)
    fix = f"Did you mean {near[0]}?" if near else f"Give {needs}; the default is {parameter.default!r}."
    return UsageError(
        "KNB704",
        f"parameter {parameter.name} of {path.name} cannot be {shown}",
        why=f"it is declared as {parameter.type} and must be {needs}",
        fix=fix,
    )
