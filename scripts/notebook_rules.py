"""The rules that every notebook keeps, each a function that returns what breaks it, in words.

A rule that is broken names the cell and says what to do. Why each rule is there stands in the docstring of
its test, in ``tests/test_notebook_rules.py``, which also shows that the rule catches what it is for.
"""

from __future__ import annotations

import ast
import json
import re
from typing import TYPE_CHECKING, Any

from kimi_nb.run.notebook import source_of, tags_of
from kimi_nb.run.parameters import parse_parameters
from kimi_nb.run.secrets import TOKEN_SHAPES, looks_secret

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Notebook = dict[str, Any]
KERNELSPEC = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
CONTENTS = "Contents"
RECIPE = "Copy-paste recipe"

_HEADING = re.compile(r"^(#{1,6})\s+(.*?)\s*#*\s*$")
_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)[^)]*\)")
_ID = re.compile(r"^[a-zA-Z0-9-_]{1,64}$")
_VAGUE = {
    "",
    "here",
    "click here",
    "link",
    "this",
    "this link",
    "this page",
    "more",
    "read more",
    "see here",
    "docs",
}
_HOME = re.compile(r"(?<![\w.])/(?:home|Users)/\w|(?<![\w./])/root/|\b[A-Z]:\\Users\\")
_ABSOLUTE = re.compile(
    r"""["'\s=](?:/(?:tmp|opt|mnt|data|srv|var|usr|etc|content|workspace|models?)/|~/|[A-Z]:\\)"""
)
_SHELL_CELL = re.compile(r"^\s*%%(?:bash|sh|script)\b")
_INSTALL = re.compile(
    r"^\s*[!%]+\s*(?:\S*python\S*\s+-m\s+)?(?:pip3?|uv|conda|mamba|apt|apt-get|brew)\b", re.MULTILINE
)
_COLAB = re.compile(r"google\.colab|^\s*%%capture|/content/", re.MULTILINE)
_CI_BRANCH = re.compile(r"KIMI_NB_CI|(?:environ(?:\.get)?|getenv)\W+[\"'](?:CI|GITHUB_ACTIONS)[\"']")


def one_h1_first(notebook: Notebook) -> list[str]:
    """Tell if the notebook does not begin with its only top heading."""
    cells = notebook["cells"]
    top = [where for where, level, _ in _headings(notebook) if level == 1]
    found = []
    if not cells or cells[0]["cell_type"] != "markdown" or not source_of(cells[0]).startswith("# "):
        found.append("the first cell does not begin with the notebook's title, `# ...`")
    if len(top) != 1:
        found.append(f"there are {len(top)} headings of level 1, and there must be one")
    return found


def heading_order(notebook: Notebook) -> list[str]:
    """Tell where a heading skips a level."""
    found = []
    before = 0
    for where, level, text in _headings(notebook):
        if level > before + 1:
            found.append(f"{where}: the heading {text!r} has level {level}, and the one before it {before}")
        before = level
    return found


def table_of_contents(notebook: Notebook) -> list[str]:
    """Tell if the section "Contents" does not link every other section, in order."""
    sections = [text for _, level, text in _headings(notebook) if level == 2]  # noqa: PLR2004 - a level
    if not sections or sections[0] != CONTENTS:
        return [f"the first section is not `## {CONTENTS}`"]
    wanted = [_anchor(text) for text in sections[1:]]
    linked = [
        target[1:] for _, target in _LINK.findall(_section(notebook, CONTENTS)) if target.startswith("#")
    ]
    if linked == wanted:
        return []
    missing = [anchor for anchor in wanted if anchor not in linked]
    dangling = [anchor for anchor in linked if anchor not in wanted]
    found = [f"the contents do not link the section #{anchor}" for anchor in missing]
    found += [f"the contents link #{anchor}, which is not a section" for anchor in dangling]
    return found or ["the contents link the sections in another order than they have"]


def one_parameters_cell(notebook: Notebook) -> list[str]:
    """Tell if there is not exactly one cell tagged ``parameters``."""
    tagged = [cell for cell in notebook["cells"] if "parameters" in tags_of(cell)]
    if len(tagged) != 1 or tagged[0]["cell_type"] != "code":
        return [f"{len(tagged)} cells are tagged `parameters`, and it must be one cell of code"]
    return []


def parameters_are_annotated_literals(notebook: Notebook) -> list[str]:
    """Tell what in the parameters cell is not an annotated literal with a comment."""
    parameters, wrong = parse_parameters(_parameters_source(notebook))
    return wrong or ([] if parameters else ["the parameters cell declares nothing"])


def parameters_come_first(notebook: Notebook) -> list[str]:
    """Tell if code stands before the parameters cell."""
    code = [(where, cell) for where, cell in _code(notebook) if source_of(cell).strip()]
    if code and "parameters" not in tags_of(code[0][1]):
        return [f"{code[0][0]}: this code stands before the parameters; imports come after them"]
    return []


def validation_follows_parameters(notebook: Notebook) -> list[str]:
    """Tell if the cell after the parameters does not check every one of them."""
    cells = notebook["cells"]
    at = next((at for at, cell in enumerate(cells) if "parameters" in tags_of(cell)), None)
    if at is None or at + 1 >= len(cells) or cells[at + 1]["cell_type"] != "code":
        return ["no cell of code follows the parameters cell; it must check the parameters"]
    checked: set[str] = set()
    for node in ast.walk(_tree(cells[at + 1])):
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "check":
            checked |= {keyword.arg for keyword in node.keywords if keyword.arg is not None}
    declared = set(parse_parameters(source_of(cells[at]))[0])
    found = [f"the cell after the parameters does not check {name}" for name in sorted(declared - checked)]
    return found + [f"it checks {name}, which is no parameter" for name in sorted(checked - declared)]


def imports_follow_validation(notebook: Notebook) -> list[str]:
    """Tell if the parameters or their check import more than the check itself needs."""
    found = []
    cells = notebook["cells"]
    at = next((at for at, cell in enumerate(cells) if "parameters" in tags_of(cell)), None)
    for cell in cells[at : at + 2] if at is not None else []:
        for node in ast.walk(_tree(cell)) if cell["cell_type"] == "code" else []:
            if isinstance(node, ast.Import):
                found += [
                    f"`import {alias.name}` stands before the parameters are checked" for alias in node.names
                ]
            elif isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("kimi_nb.run"):
                found.append(f"`from {node.module} import ...` stands before the parameters are checked")
    return found


def no_background_shell(notebook: Notebook) -> list[str]:
    """Tell where a shell line starts something in the background."""
    found = []
    for where, cell in _code(notebook):
        source = source_of(cell)
        lines = source.splitlines()
        shell = (
            lines if _SHELL_CELL.match(source) else [line for line in lines if line.lstrip().startswith("!")]
        )
        found += [
            f"{where}: `{line.strip()}` starts a process in the background; use kimi_nb.processes.spawn"
            for line in shell
            if re.search(r"(?<![&>])&\s*(?:#.*)?$", line)
        ]
    return found


def no_installs(notebook: Notebook) -> list[str]:
    """Tell where a cell installs packages."""
    return [
        f"{where}: a cell installs packages; they belong into pyproject.toml and the lock"
        for where, cell in _code(notebook)
        if _INSTALL.search(source_of(cell))
    ]


def no_absolute_paths(notebook: Notebook) -> list[str]:
    """Tell where a path holds on one machine only."""
    found = [
        f"{where}: {match[0]!r} begins the path of somebody's home"
        for where, cell in _cells(notebook)
        if (match := _HOME.search(source_of(cell)))
    ]
    found += [
        f"{where}: {match[0].strip()!r} begins an absolute path; use the helper that knows the folder"
        for where, cell in _code(notebook)
        if (match := _ABSOLUTE.search(source_of(cell)))
    ]
    return found


def no_secrets(notebook: Notebook) -> list[str]:
    """Tell where something that looks like a key stands, in a source or anywhere else in the file."""
    found = []
    if TOKEN_SHAPES.search(json.dumps(notebook)):
        found.append("the file holds something of the shape of a key")
    for where, cell in _code(notebook):
        for name, value in _named_texts(_tree(cell)):
            # Words such as "not-needed" are no secret.
            if looks_secret(name) and len(value) >= 8 and re.search(r"\d", value):  # noqa: PLR2004 - a length
                found.append(f"{where}: {name} is given as text; read it from the environment")
    return found


def no_outputs(notebook: Notebook) -> list[str]:
    """Tell where a cell keeps what a run left."""
    found = [f"{where}: it keeps outputs" for where, cell in _code(notebook) if cell.get("outputs")]
    found += [
        f"{where}: it keeps its number"
        for where, cell in _code(notebook)
        if cell.get("execution_count") is not None
    ]
    found += [
        f"{where}: it keeps the times of a run"
        for where, cell in _cells(notebook)
        if "execution" in cell["metadata"]
    ]
    return found


def no_widget_state(notebook: Notebook) -> list[str]:
    """Tell if the notebook keeps the state of widgets."""
    return ["the notebook keeps the state of widgets"] if "widgets" in notebook["metadata"] else []


def plain_metadata(notebook: Notebook) -> list[str]:
    """Tell if the metadata say more than which kernel to use."""
    metadata = notebook["metadata"]
    found = (
        [] if metadata.get("kernelspec") == KERNELSPEC else [f"the kernel is {metadata.get('kernelspec')}"]
    )
    more = set(metadata) - {"kernelspec", "language_info"}
    if more or set(metadata.get("language_info", {})) - {"name"}:
        found.append("the metadata hold more than the kernel's and the language's name")
    if (notebook.get("nbformat"), notebook.get("nbformat_minor")) != (4, 5):
        found.append("the format is not 4.5")
    return found


def stable_cell_ids(notebook: Notebook) -> list[str]:
    """Tell which cells have no id of their own."""
    ids = [cell.get("id") for cell in notebook["cells"]]
    found = [f"cell {at}: its id is {id_!r}" for at, id_ in enumerate(ids) if not _ID.match(str(id_ or ""))]
    return found + [f"cell {at}: its id {id_!r} is taken" for at, id_ in enumerate(ids) if id_ in ids[:at]]


def images_have_alt_text(notebook: Notebook) -> list[str]:
    """Tell which images say nothing to a person who cannot see them."""
    found = []
    for where, cell in _cells(notebook):
        if cell["cell_type"] == "markdown":
            text = _without_code(source_of(cell))
            found += [
                f"{where}: the image {target} has no text"
                for target in re.findall(r"!\[\s*\]\(([^)]*)\)", text)
            ]
            tags = re.findall(r"<img\b[^>]*>", text, re.IGNORECASE)
            found += [
                f"{where}: {tag} has no alt" for tag in tags if not re.search(r"\balt\s*=\s*[\"'][^\"']", tag)
            ]
        elif cell["cell_type"] == "code":
            for node in ast.walk(_tree(cell)):
                shows = isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "Image"
                if shows and not any(keyword.arg == "alt" for keyword in node.keywords):
                    found.append(f"{where}: `{ast.unparse(node)}` has no alt")
    return found


def links_are_descriptive(notebook: Notebook) -> list[str]:
    """Tell which links do not say where they lead."""
    found = []
    for where, cell in _cells(notebook):
        if cell["cell_type"] != "markdown":
            continue
        text = _without_code(source_of(cell))
        for words, target in _LINK.findall(text):
            if words.strip().lower().rstrip(".") in _VAGUE or words.strip().startswith("http"):
                found.append(f"{where}: the link {words!r} to {target} does not say where it leads")
        found += [
            f"{where}: {address} stands bare" for address in re.findall(r"https?://\S+", _LINK.sub("", text))
        ]
    return found


def no_colab_idioms(notebook: Notebook) -> list[str]:
    """Tell where a cell works on one hosted service only."""
    return [
        f"{where}: `{match[0].strip()}` works on one hosted service only"
        for where, cell in _code(notebook)
        if (match := _COLAB.search(source_of(cell)))
    ]


def no_ci_branches(notebook: Notebook) -> list[str]:
    """Tell where a cell does something else when it is tested."""
    return [
        f"{where}: `{match[0]}` makes the tested notebook another one; make it a parameter"
        for where, cell in _code(notebook)
        if (match := _CI_BRANCH.search(source_of(cell)))
    ]


def ends_with_recipe(notebook: Notebook) -> list[str]:
    """Tell if the last section is not a recipe for the real model that can be copied."""
    sections = [text for _, level, text in _headings(notebook) if level == 2]  # noqa: PLR2004 - a level
    if not sections or not sections[-1].startswith(RECIPE):
        return [f"the last section is not `## {RECIPE}`"]
    text = _section(notebook, sections[-1])
    found = (
        []
        if re.search(r"^```\w*\n.+?^```", text, re.MULTILINE | re.DOTALL)
        else ["the recipe has no block to copy"]
    )
    return (
        found
        if re.search(r"kimi-k2", text, re.IGNORECASE)
        else [*found, "the recipe does not name the real model"]
    )


RULES: dict[str, Callable[[Notebook], list[str]]] = {
    rule.__name__: rule
    for rule in (
        one_h1_first,
        heading_order,
        table_of_contents,
        one_parameters_cell,
        parameters_are_annotated_literals,
        parameters_come_first,
        validation_follows_parameters,
        imports_follow_validation,
        no_background_shell,
        no_installs,
        no_absolute_paths,
        no_secrets,
        no_outputs,
        no_widget_state,
        plain_metadata,
        stable_cell_ids,
        images_have_alt_text,
        links_are_descriptive,
        no_colab_idioms,
        no_ci_branches,
        ends_with_recipe,
    )
}


def _cells(notebook: Notebook) -> Iterator[tuple[str, dict[str, Any]]]:
    for at, cell in enumerate(notebook["cells"]):
        yield f"cell {at}", cell


def _code(notebook: Notebook) -> Iterator[tuple[str, dict[str, Any]]]:
    return ((where, cell) for where, cell in _cells(notebook) if cell["cell_type"] == "code")


def _parameters_source(notebook: Notebook) -> str:
    return next((source_of(cell) for _, cell in _code(notebook) if "parameters" in tags_of(cell)), "")


def _tree(cell: dict[str, Any]) -> ast.AST:
    """Parse a cell's Python, its magics left out; a cell that is not Python is empty."""
    source = source_of(cell)
    if source.lstrip().startswith("%%"):
        return ast.Module([], [])
    lines = ["pass" if line.startswith(("!", "%")) else line for line in source.splitlines()]
    try:
        return ast.parse("\n".join(lines))
    except SyntaxError:
        return ast.Module([], [])


def _named_texts(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield the name and value of each text that is assigned to a name or passed by one."""
    for node in ast.walk(tree):
        pairs: list[tuple[str, ast.expr | None]] = []
        if isinstance(node, ast.Assign):
            pairs = [
                (ast.unparse(target).strip("'\"]").split(".")[-1], node.value) for target in node.targets
            ]
        elif isinstance(node, ast.AnnAssign):
            pairs = [(ast.unparse(node.target), node.value)]
        elif isinstance(node, ast.keyword) and node.arg:
            pairs = [(node.arg, node.value)]
        for name, value in pairs:
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield re.split(r"[\['\"]", name)[-1], value.value


def _without_code(text: str) -> str:
    """Leave out blocks and spans of code."""
    text = re.sub(r"^(```|~~~).*?^\1", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`", "", text)


def _headings(notebook: Notebook) -> Iterator[tuple[str, int, str]]:
    for where, cell in _cells(notebook):
        if cell["cell_type"] == "markdown":
            fenced = False
            for line in source_of(cell).splitlines():
                fenced ^= line.startswith(("```", "~~~"))
                if not fenced and (match := _HEADING.match(line)):
                    yield where, len(match[1]), match[2]


def _section(notebook: Notebook, title: str) -> str:
    """Return the text of the section with this heading, to the next heading of its level or above."""
    lines: list[str] = []
    inside = fenced = False
    for _, cell in _cells(notebook):
        if cell["cell_type"] != "markdown":
            continue
        for line in source_of(cell).splitlines():
            fenced ^= line.startswith(("```", "~~~"))
            match = None if fenced else _HEADING.match(line)
            if match and len(match[1]) <= 2:  # noqa: PLR2004 - a level
                inside = match[2] == title
            elif inside:
                lines.append(line)
    return "\n".join(lines) + "\n"


def _anchor(heading: str) -> str:
    """Return the id that Jupyter gives a heading."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[`*]", "", text).replace(" ", "-")
