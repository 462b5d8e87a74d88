"""The sample tools do what they say, and nothing more."""

import math
import os

import pytest

from kimi_nb.chat import sample_tools as samples
from kimi_nb.chat.confined import Confined
from kimi_nb.errors import UsageError


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("1 + 2 * 3", 7),
        ("-(4 - 6) ** 3", 8),
        ("7 // 2 + 7 % 4", 6),
        ("2 ** 100", 2**100),
        ("sqrt(2) * pi", math.sqrt(2) * math.pi),
        ("max(1, 2.5, min(9, 8)) + round(2.6) + abs(-1)", 12),
        ("  1e3  ", 1000.0),
        ("-" * 490 + "1", 1),
    ],
)
def test_the_calculator_computes(expression, value):
    assert samples.calculate(expression) == value
    assert samples.calculator(expression=expression) == str(value)


@pytest.mark.parametrize(
    "expression",
    ["", "1 +", "x", "'a' * 9", "True", "1j", "__import__('os')", "(1).real", "[1][0]", "lambda: 1", "1 if 1 else 2", "1 < 2",
     "9 ** 9 ** 9", "2 ** 4097", "2 ** 4000 * 2 ** 4000", "1e308 * 10", "1 / 0", "(-1) ** 0.5", "sqrt(-1)", "round(5, -999999999)",
     "exp(9999)", "min()", "sqrt(1, 2)", "sqrt(x=1)", "pi()", "f'{1}'", "1 if", "(" * 400, "1" * 501, "1;2", "\0"],
)  # fmt: skip
def test_the_calculator_computes_nothing_else(expression):
    with pytest.raises(ValueError, match=r"."):
        samples.calculate(expression)


def test_the_clock_knows_zones_and_nothing_of_the_disk():
    assert samples.clock().endswith("+00:00")
    assert samples.clock(zone="Asia/Tokyo").endswith("+09:00")
    for zone in ("Nowhere/Land", "../../etc/passwd", "/etc/passwd", ""):
        with pytest.raises(ValueError, match="no time zone"):
            samples.clock(zone=zone)


@pytest.fixture
def project(tmp_path):
    """A folder with secrets all round it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.txt").write_text("CANARY outside")
    root = tmp_path / "root"
    (root / "src").mkdir(parents=True)
    (root / "src" / "a.py").write_text("import os\n\ndef Find_me():\n    return 1\n")
    (root / "readme.md").write_text("find_me is a function\n" * 3)
    (root / "binary.bin").write_bytes(b"find_me\0\xff")
    (root / "latin.txt").write_bytes("find_me caf\xe9\n".encode("latin-1"))
    (root / ".env").write_text("KEY=CANARY find_me")
    (root / ".git").mkdir()
    (root / ".git" / "config").write_text("CANARY find_me")
    (root / "link.txt").symlink_to(outside / "secret.txt")
    (root / "linked").symlink_to(outside)
    (root / "inside.txt").symlink_to(root / "readme.md")
    os.mkfifo(root / "pipe")
    return root


def test_search_finds_lines_and_nothing_hidden_linked_or_binary(project):
    search = samples.code_search(project)
    assert search(text="FIND_ME").splitlines() == [
        "latin.txt:1: find_me caf�",
        "readme.md:1: find_me is a function",
        "readme.md:2: find_me is a function",
        "readme.md:3: find_me is a function",
        "src/a.py:3: def Find_me():",
    ]
    assert search(text="find_me", files="*.py") == "src/a.py:3: def Find_me():"
    assert search(text="find_me", max_results=2).splitlines()[2].startswith("(more than 2 lines")
    assert search(text="CANARY") == "nothing found"
    assert search(text="(((((") == "nothing found"
    with pytest.raises(ValueError, match="empty"):
        search(text=" ")


def test_read_gives_lines_of_plain_files_below_the_root(project):
    read = samples.file_reader(project)
    assert read(path="src/a.py", first_line=3, last_line=3) == "    3  def Find_me():"
    assert read(path="./readme.md").count("\n") == 2
    assert read(path="src/a.py", first_line=99, last_line=100) == "src/a.py has 4 lines"
    with pytest.raises(ValueError, match="first_line"):
        read(path="src/a.py", first_line=0)


@pytest.mark.parametrize(
    "path",
    ["", ".", "/etc/passwd", "../outside/secret.txt", "src/../../outside/secret.txt", "link.txt", "linked/secret.txt", "inside.txt",
     ".env", ".git/config", "src", "pipe", "nowhere", "src/a.py/x", "a\0b", "binary.bin", "x" * 5000],
)  # fmt: skip
def test_read_goes_nowhere_else(project, path):
    with pytest.raises(ValueError, match=r".") as caught:
        samples.file_reader(project)(path=path)
    assert "CANARY" not in str(caught.value)


def test_a_folder_swapped_for_a_link_after_the_check_is_not_followed(project, tmp_path):
    folder = Confined(project)
    (project / "src").rename(tmp_path / "away")
    (project / "src").symlink_to(tmp_path / "outside")
    with pytest.raises(ValueError, match="links are not followed"):
        folder.read("src/secret.txt", 100)


def test_a_large_file_is_read_in_part_and_not_searched(project):
    with (project / "big.txt").open("w") as file:
        file.writelines(f"needle {number}\n" for number in range(200_000))
    assert samples.code_search(project)(text="needle") == "nothing found"
    assert samples.file_reader(project)(path="big.txt", last_line=1) == "    1  needle 0"


def test_a_tool_needs_a_folder(tmp_path):
    for place in (tmp_path / "nowhere", __file__):
        with pytest.raises(UsageError, match="KNB622"):
            samples.file_reader(place)
