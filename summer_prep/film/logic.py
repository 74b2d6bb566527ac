"""Labels by logic: `summer-speaking & !summer-faces` with three values (off, on, undefined). Pure arithmetic."""

import ast
import re
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from summer_prep.errors import SettingsError
from summer_prep.film.facts import OFF, ON, UNDEFINED

Labels = NDArray[np.uint8]

_WORD = re.compile(r"\s*(?:([A-Za-z0-9_][\w.-]*)|([&|!()])|(\S))")
_OPERATORS: dict[type[ast.AST], tuple[str, Callable[..., NDArray[np.uint8]]]] = {
    ast.BitAnd: (" & ", np.minimum),
    ast.BitOr: (" | ", np.maximum),
}


def normal_form(text: str, option: str = "--label-name") -> str:
    """Return one spelling of expressions that differ in order, repeats and parentheses only; `option` is for errors.

        b & (a & !(!b))  ->  a & b          (a | b) & c  ->  (a | b) & c

    Raises
    ------
    SettingsError : not an expression of names, `&`, `|`, `!` and parentheses
    """
    return _write(*_parse(text, option))


def names_in(text: str) -> list[str]:
    """Return the label names of an expression, each once, in the order in which they stand; raises SettingsError."""
    return list(dict.fromkeys(_parse(text)[1]))


def evaluate(text: str, labels: Mapping[str, Labels]) -> Labels:
    """Return an expression's value for each bin or frame, in Kleene's three-valued logic.

    Parameters
    ----------
    labels : name -> values 0 (off), 1 (on), 99 (undefined), all of one shape

    Returns
    -------
    Values of the same shape: unknown & off is off, unknown | on is on, everything else with an unknown is undefined

    Raises
    ------
    SettingsError : not an expression
    """
    tree, names = _parse(text)

    def rank(node: ast.AST) -> Labels:
        """Return 0 for off, 1 for undefined, 2 for on: `and` is the minimum, `or` the maximum, `not` the mirror."""
        if isinstance(node, ast.Name):
            values = labels[names[int(node.id[1:])]]
            return np.where(values == UNDEFINED, np.uint8(1), np.uint8(2) * (values == ON))
        if isinstance(node, ast.UnaryOp):
            return np.uint8(2) - rank(node.operand)
        assert isinstance(node, ast.BinOp)
        return _OPERATORS[type(node.op)][1](rank(node.left), rank(node.right))

    return np.array([OFF, UNDEFINED, ON], dtype=np.uint8)[rank(tree)]


def _parse(text: str, option: str = "--label-name") -> tuple[ast.AST, list[str]]:
    """Return the expression's tree, and its names: `_0` in the tree is the first of them.

    Python's own parser does the work: its `&`, `|` and `~` bind as ours do. Label names hold dashes, which its do not.
    """
    if not re.search("[&|!()]", text):  # a name alone may hold whatever a file calls its label
        return ast.Name("_0"), [text.strip()]
    names: list[str] = []
    words = []
    for name, symbol, other in _WORD.findall(text):
        if other:
            raise SettingsError(_wrong(option, text, f"{other!r} is not allowed"))
        if name:
            words.append(f"_{len(names)}")
            names.append(name)
        else:
            words.append("~" if symbol == "!" else symbol)
    try:
        tree = ast.parse(" ".join(words), mode="eval").body
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise SettingsError(_wrong(option, text, "it is not an expression")) from error
    if not all(isinstance(node, ast.BinOp | ast.UnaryOp | ast.Name | ast.operator | ast.unaryop | ast.expr_context)
               for node in ast.walk(tree)):  # fmt: skip
        raise SettingsError(_wrong(option, text, "two names need & or | between them"))
    return tree, names


def _wrong(option: str, text: str, why: str) -> str:
    return f"{option} {text[:80]!r}: {why}. Write names with & (and), | (or), ! (not) and parentheses: 'a & !b'"


def _write(node: ast.AST, names: list[str]) -> str:
    if isinstance(node, ast.Name):
        return names[int(node.id[1:])]
    if isinstance(node, ast.UnaryOp):
        if isinstance(node.operand, ast.UnaryOp):
            return _write(node.operand.operand, names)
        inner = _write(node.operand, names)
        return f"!({inner})" if isinstance(node.operand, ast.BinOp) and re.search("[&|]", inner) else f"!{inner}"
    assert isinstance(node, ast.BinOp)

    def operands(one: ast.AST) -> list[str]:
        while isinstance(one, ast.UnaryOp) and isinstance(one.operand, ast.UnaryOp):
            one = one.operand.operand
        if isinstance(one, ast.BinOp) and type(one.op) is type(node.op):
            return [*operands(one.left), *operands(one.right)]
        text = _write(one, names)
        return [f"({text})" if isinstance(one, ast.BinOp) and re.search("[&|]", text) else text]

    return _OPERATORS[type(node.op)][0].join(sorted(set(operands(node)), key=lambda text: (text.lstrip("!("), text)))
