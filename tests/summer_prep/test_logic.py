"""Labels by logic: three-valued, and one spelling for equal expressions."""

import itertools

import numpy as np
import pytest

from summer_prep.errors import SettingsError
from summer_prep.film.logic import evaluate, names_in, normal_form

TRIPLES = np.array(list(itertools.product((0, 1, 99), repeat=3)), dtype=np.uint8)
LABELS = dict(zip("abc", TRIPLES.T, strict=True))
EXPRESSIONS = {
    "a & b": "a and b",
    "a | !b": "a or not b",
    "!(a | b) & c": "not (a or b) and c",
    "a & (b | c)": "a and (b or c)",
    "!!a": "a",
    "!(a & !(b | !c))": "not (a and not (b or not c))",
}


def by_completion(python):
    """The value where every completion of the unknowns agrees, else undefined: holds where each name stands once."""
    values = []
    for row in TRIPLES:
        found = {
            bool(eval(python, {}, dict(zip("abc", map(bool, known), strict=True))))
            for known in itertools.product(*[(0, 1) if value == 99 else (value,) for value in row])
        }
        values.append(99 if len(found) == 2 else int(found.pop()))
    return values


@pytest.mark.parametrize(("expression", "python"), EXPRESSIONS.items())
def test_all_27_combinations_of_three_values_are_those_of_logic(expression, python):
    assert evaluate(expression, LABELS).tolist() == by_completion(python)
    assert np.array_equal(evaluate(normal_form(expression), LABELS), evaluate(expression, LABELS))


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("b&a", "a & b"),
        ("a & (a & !(!b))", "a & b"),
        ("(c|b)&((a))", "a & (b | c)"),
        ("!(a & a)", "!a"),
        ("summer-speaking & !summer-faces", "!summer-faces & summer-speaking"),
        ("summer", "summer"),
    ],
)
def test_equal_expressions_have_one_spelling(written, normal):
    assert normal_form(written) == normal == normal_form(normal)


def test_names_are_found_once_each():
    assert names_in("b & !a-1 | b") == ["b", "a-1"]


@pytest.mark.parametrize(
    "text", ["a b & c", "a &", "&", "!a + b", "a & (b", "a && b", "('x')", "a, b & c", "(" * 999 + "a"]
)
def test_what_is_no_expression_is_one_line(text):
    with pytest.raises(SettingsError, match="--label-name") as caught:
        normal_form(text)
    assert "\n" not in str(caught.value)
