import pytest
from hypothesis import given
from hypothesis import strategies as st

from tool_runner.builtin.notebook import Cell, make_cell, mend_traceback


@pytest.mark.parametrize(
    ("code", "kept"),
    [
        ("1 + 1", "_ = 1 + 1"),
        ("x = 1\nx", "x = 1\n_ = x"),
        ("x = 1; x", "x = 1; _ = x"),
        ("f(\n  1,\n)\n", "_ = f(\n  1,\n)\n"),
        ("é = 'é'; é", "é = 'é'; _ = é"),
        ("await f()", "_ = await f()"),
        ("x = 1\r\nx\r\n", "x = 1\n_ = x\n"),
    ],
)
def test_the_value_of_the_last_expression_is_kept_to_be_shown(code: str, kept: str) -> None:
    assert make_cell(code).code == kept


@pytest.mark.parametrize("code", ["", "x = 1", "for i in range(3):\n    i", "# 1", "def f():\n    1"])
def test_code_that_does_not_end_in_an_expression_shows_no_value(code: str) -> None:
    assert make_cell(code) == Cell(code)


@pytest.mark.parametrize("code", ["x = (", "a\0b", "(" * 100_000, "a" + ".b" * 50_000, "\ud800"])
def test_code_that_cannot_be_parsed_is_left_to_the_sandbox(code: str) -> None:
    assert make_cell(code) == Cell(code)


@given(st.text(st.characters(codec="utf-8")))
def test_no_text_whatever_breaks_the_making_of_a_cell(code: str) -> None:
    make_cell(code)


def test_a_traceback_quotes_the_code_as_it_was_written() -> None:
    traceback = (
        "Traceback (most recent call last):\n"
        '  File "<python-input-3>", line 2, in <module>\n'
        "    x = 0; _ = f(x)\n"
        "               ~~~~\n"
        '  File "<python-input-1>", line 2, in f\n'
        "    _ = 1/x\n"
        "        ~~~\n"
        "ZeroDivisionError: division by zero"
    )
    assert mend_traceback(make_cell("# why\nx = 0; f(x)"), traceback) == (
        "Traceback (most recent call last):\n"
        '  File "<python-input-3>", line 2, in <module>\n'
        "    x = 0; f(x)\n"
        "           ~~~~\n"
        '  File "<python-input-1>", line 2, in f\n'
        "    _ = 1/x\n"
        "        ~~~\n"
        "ZeroDivisionError: division by zero"
    )


def test_a_traceback_of_an_expression_over_several_lines_is_mended_too() -> None:
    traceback = (
        "Traceback (most recent call last):\n"
        '  File "<python-input-0>", line 1, in <module>\n'
        "    _ = foo(\n"
        "     1)\n"
        "NameError: name 'foo' is not defined"
    )
    assert "\n    foo(\n     1)\n" in mend_traceback(make_cell("foo(\n 1)"), traceback)
