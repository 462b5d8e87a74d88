"""A wrong parameter is one clear line before anything starts; a right one arrives as the type that was declared."""

import json
from pathlib import Path

import pytest

from kimi_nb.errors import UsageError, troubles
from kimi_nb.run import Parameter, Text, check_parameters, declared_parameters, params
from kimi_nb.run.parameters import assign_parameters, parse_parameters
from kimi_nb.run.params import ParameterError, at_least, between, check, existing_file, flag, one_of, text

NOTEBOOK = Path(__file__).parent / "notebooks" / "takes_parameters.ipynb"


def notebook(folder, *sources, tag="parameters", name="one"):
    cells = [
        {
            "cell_type": "code",
            "id": f"c{at}",
            "metadata": {"tags": [tag]},
            "execution_count": None,
            "outputs": [],
            "source": source,
        }
        for at, source in enumerate(sources)
    ]
    path = folder / f"{name}.ipynb"
    path.write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    return path


def test_declarations_are_read_from_the_cell():
    declared = declared_parameters(NOTEBOOK)
    assert list(declared) == ["text", "mode", "ctx", "scale", "fast", "sizes", "limit", "api_key"]
    assert declared["mode"] == Parameter(
        "mode", "str", "instant", "one of: thinking, instant", choices=("thinking", "instant")
    )
    assert declared["sizes"].type == "list[int]"
    assert declared["limit"].type == "int | None"
    assert declared["ctx"].help == "context in tokens"


@pytest.mark.parametrize("value", ["5e12345", "12e4567", "007", "1_000", "nan", "True", "[1,2]", "", " x "])
def test_text_stays_the_text_it_is(value):
    """papermill -p makes inf of the revision 5e12345, 7 of 007, and a bool of True."""
    assert check_parameters(NOTEBOOK, {"text": Text(value)}) == {"text": value}


@pytest.mark.parametrize(
    ("name", "typed", "value"),
    [
        ("ctx", "4096", 4096),
        ("ctx", "-1", -1),
        ("scale", "2", 2.0),
        ("scale", "1e-3", 0.001),
        ("fast", "true", True),
        ("fast", "No", False),
        ("sizes", "24576,24576", [24576, 24576]),
        ("sizes", "[1, 2]", [1, 2]),
        ("sizes", "", []),
        ("limit", "none", None),
        ("limit", "3", 3),
        ("mode", "thinking", "thinking"),
    ],
)
def test_typed_text_is_read_as_the_declared_type(name, typed, value):
    [read] = check_parameters(NOTEBOOK, {name: Text(typed)}).values()
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("name", "typed"),
    [
        ("ctx", "4k"),
        ("ctx", "4096.0"),
        ("ctx", ""),
        ("ctx", "none"),
        ("scale", "inf"),
        ("scale", "5e12345"),
        ("scale", "nan"),
        ("fast", "maybe"),
        ("sizes", "1,x"),
        ("sizes", "[1"),
        ("sizes", '["a"]'),
        ("mode", "fast"),
        ("limit", "x"),
    ],
)
def test_text_of_another_type_is_an_error(name, typed):
    with pytest.raises(UsageError, match="KNB704") as caught:
        check_parameters(NOTEBOOK, {name: Text(typed)})
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ctx", "4096"),
        ("ctx", True),
        ("ctx", 1.0),
        ("ctx", None),
        ("fast", 1),
        ("text", 7),
        ("sizes", 1),
        ("sizes", [True]),
        ("scale", float("inf")),
        ("mode", "instan"),
    ],
)
def test_a_value_of_another_type_is_an_error(name, value):
    with pytest.raises(UsageError, match="KNB704"):
        check_parameters(NOTEBOOK, {name: value})


def test_a_path_is_taken_as_text():
    assert check_parameters(NOTEBOOK, {"text": Path("a/b")}) == {"text": "a/b"}


def test_a_misspelt_name_is_an_error_that_names_the_nearest():
    with pytest.raises(UsageError, match=r"KNB703: unknown parameter cxt: .*Did you mean ctx"):
        check_parameters(NOTEBOOK, {"cxt": 1})
    with pytest.raises(UsageError, match="It knows text, mode, ctx"):
        check_parameters(NOTEBOOK, {"zzz": 1})


def test_a_misspelt_choice_is_an_error_that_names_the_nearest():
    with pytest.raises(UsageError, match="Did you mean thinking"):
        check_parameters(NOTEBOOK, {"mode": "thinkin"})


def test_a_secret_is_not_shown_in_the_error():
    with pytest.raises(UsageError) as caught:
        check_parameters(NOTEBOOK, {"api_key": 12345678})
    assert "12345678" not in str(caught.value)


def test_a_notebook_without_parameters_takes_none(tmp_path):
    path = notebook(tmp_path, "x = 1", tag="other")
    assert check_parameters(path, {}) == {}
    with pytest.raises(UsageError, match=r"KNB703.*takes none"):
        check_parameters(path, {"x": 1})


def test_each_notebook_is_given_what_it_declares_and_nothing_is_ignored(tmp_path):
    one = notebook(tmp_path, "ctx: int = 1  # a", name="one")
    two = notebook(tmp_path, "ctx: int = 1  # a\nport: int = 2  # b", name="two")
    assert assign_parameters([one, two], {"ctx": 3, "port": 4}) == [{"ctx": 3}, {"ctx": 3, "port": 4}]
    with pytest.raises(UsageError, match=r"KNB703.*any of these notebooks.*Did you mean port"):
        assign_parameters([one, two], {"prt": 4})


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("x = 1  # a", "not of the form"),
        ("x: int = 1", "no comment"),
        ("x: int = 1 + y  # a", "not a literal"),
        ("x: int = f()  # a", "not a literal"),
        ("x: int = 'a'  # a", "not a whole number"),
        ("x: int  # a", "not a whole number"),
        ("x: Path = 'a'  # a", "type of x"),
        ("x: int | str = 1  # a", "type of x"),
        ("import os", "not of the form"),
        ("x: int = 1  # a\nx: int = 2  # a", "declared twice"),
        ("x: str = 'c'  # one of: a, b", "not one of a, b"),
        ("x: int =", "not Python"),
        ("x: str = '''a", "not Python"),
    ],
)
def test_a_parameters_cell_that_holds_more_is_an_error(tmp_path, source, what):
    with pytest.raises(UsageError, match="KNB705") as caught:
        declared_parameters(notebook(tmp_path, source))
    assert what in str(caught.value)


def test_two_parameters_cells_are_an_error(tmp_path):
    with pytest.raises(UsageError, match="2 cells have the tag"):
        declared_parameters(notebook(tmp_path, "x: int = 1  # a", "y: int = 1  # a"))


def test_quoted_types_long_values_and_choices_of_numbers_are_understood():
    parameters, wrong = parse_parameters(
        "# what to run\na: 'str | None' = None  # a; one of these\n"
        "b: list[str] = [\n    'x',\n    'y',\n]  # b\nc: int = 2  # one of: 1, 2, 4; the last is fastest\n"
    )
    assert wrong == []
    assert parameters["a"].optional
    assert parameters["b"].default == ["x", "y"]
    assert parameters["c"].choices == (1, 2, 4)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "empty"),
        ('{"cells": [', "cut off"),
        ('{"cells": [}, "metadata": {}}', "broken at line 1"),
        ("<!DOCTYPE html><p>404</p>", "web page"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0", "LFS"),
        ("[]", "no list of cells"),
        ('{"cells": {}}', "no list of cells"),
        ('{"cells": [1], "nbformat": 4}', "no type"),
        ('{"cells": [], "nbformat": 3}', "format is 3"),
        ('{"cells": [], "nbformat": 4, "metadata": {"kernelspec": {"language": "R"}}}', "written in R"),
    ],
)
def test_a_file_that_is_no_notebook_is_one_line(tmp_path, content, why):
    path = tmp_path / "x.ipynb"
    path.write_text(content)
    with pytest.raises(UsageError, match="KNB702") as caught:
        declared_parameters(path)
    assert why in str(caught.value)


def test_a_file_that_is_not_there_or_not_text_is_one_line(tmp_path):
    with pytest.raises(UsageError, match=r"KNB701.*no such file"):
        declared_parameters(tmp_path / "none.ipynb")
    with pytest.raises(UsageError, match="KNB701"):
        declared_parameters(tmp_path)
    (tmp_path / "x.ipynb").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match=r"KNB702.*not text"):
        declared_parameters(tmp_path / "x.ipynb")


# The check inside the notebook. It looks at the caller's globals, so these are this module's.
mode = "instant"
ctx = 4096
ratio = 0.5
fast = True
name = ""
here = __file__


def test_parameters_in_order_pass_in_silence(capsys):
    check(
        mode=one_of("thinking", "instant"),
        ctx=between(256, 262144),
        ratio=between(0.0, 1),
        fast=flag(),
        name=text(),
        here=existing_file(),
    )
    params.check(name=existing_file(empty=True), ctx=at_least(1))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("rules", "what"),
    [
        ({"mode": one_of("thinking", "fast")}, "mode must be one of 'thinking', 'fast'"),
        ({"ctx": between(8192, 262144)}, "ctx must be a whole number from 8192 to 262144"),
        ({"ratio": between(0, 1)}, "ratio must be a whole number from 0 to 1"),
        ({"fast": between(0, 1)}, "fast must be a whole number"),
        ({"fast": one_of(1, 0)}, "fast must be one of 1, 0"),
        ({"ctx": at_least(5000)}, "ctx must be a whole number of at least 5000"),
        ({"mode": flag()}, "mode must be True or False"),
        ({"name": text(empty=False)}, "name must be text that is not empty"),
        ({"mode": existing_file()}, "mode must be a file or folder that exists"),
        ({"name": existing_file()}, "name must be a file or folder that exists"),
        ({"ctx": at_least(5000), "mode": flag()}, "ctx is 4096, mode is 'instant'"),
        ({"mode": one_of("instance", "think")}, "Did you mean 'instance'"),
    ],
)
def test_parameters_out_of_order_are_one_line_with_all_of_them(rules, what):
    with pytest.raises(ParameterError, match="KNB708") as caught:
        check(**rules)
    assert what in str(caught.value)
    assert caught.value._render_traceback_() == [str(caught.value)]


def test_checking_a_parameter_that_is_not_there_is_an_error():
    with pytest.raises(ParameterError, match=r"KNB703.*no parameter nothing"):
        check(nothing=flag())


def test_each_id_is_explained():
    assert {f"KNB70{number}" for number in range(1, 10)} <= troubles().keys()
