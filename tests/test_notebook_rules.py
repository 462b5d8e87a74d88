"""Every rule that the notebooks keep: why it is there, that the notebooks keep it, and that it catches what it is for.

The rules are in ``scripts/notebook_rules.py``. A test whose docstring tells of a person or a project tells what has
happened to them.
"""

import copy
import json
import re
import sys
from pathlib import Path

import jupytext
import nbformat
import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import notebook_rules as rules  # noqa: E402 - its folder is known from here on
import repository_rules as repository  # noqa: E402 - as above

import notebooks as script  # noqa: E402 - as above

PERCENT = (Path(__file__).parent / "notebooks/keeps_every_rule.py.txt").read_text(encoding="utf-8")
NAMES = [
    "01_setup",
    "02_hardware_check",
    "03_build_and_download",
    "04_inference",
    "05_serving",
    "06_tool_calls",
    "07_troubleshooting",
]
TITLE, PARAMETERS, CHECK, CODE, PROSE, RECIPE = range(6)


def good():
    """The notebook that keeps every rule."""
    return json.loads(script.generate(PERCENT, "good"))


def source(at, text):
    """A change to the good notebook: cell ``at`` says ``text``."""

    def change(notebook):
        notebook["cells"][at]["source"] = text

    return change


def more(at, text):
    """A change to the good notebook: cell ``at`` says ``text`` too."""

    def change(notebook):
        notebook["cells"][at]["source"] = "".join(notebook["cells"][at]["source"]) + "\n" + text

    return change


def cell(at, **fields):
    """A change to the good notebook: cell ``at`` has other fields."""
    return lambda notebook: notebook["cells"][at].update(fields)


def metadata(**fields):
    """A change to the good notebook: its metadata say more."""
    return lambda notebook: notebook["metadata"].update(fields)


def without(at):
    """A change to the good notebook: cell ``at`` is not there."""
    return lambda notebook: notebook["cells"].pop(at)


def moved(at, to):
    """A change to the good notebook: cell ``at`` stands elsewhere."""
    return lambda notebook: notebook["cells"].insert(to, notebook["cells"].pop(at))


def ours():
    """Our own notebooks, as they are in the repository."""
    paths = sorted((ROOT / "notebooks").glob("*.ipynb"))
    assert paths, "there are no notebooks"
    return {path.name: json.loads(path.read_text(encoding="utf-8")) for path in paths}


def holds(rule, *bad):
    """Show that ``rule`` passes the good notebook, catches each bad one, and is kept by ours."""
    assert rules.RULES[rule.__name__] is rule
    assert rule(good()) == []
    for change in bad:
        notebook = copy.deepcopy(good())
        change(notebook)
        found = rule(notebook)
        assert found, f"{rule.__name__} does not see {notebook}"
        assert all(line and "\n" not in line for line in found)
    for name, notebook in ours().items():
        assert rule(notebook) == [], name


def test_one_h1_first():
    """Readers by ear find a notebook by its title: of 342 722 figures' notebooks, 29 % had one in their first cell."""
    holds(
        rules.one_h1_first,
        source(TITLE, "## Small"),
        more(PROSE, "# A second title"),
        source(TITLE, "text\n# Late"),
        moved(PARAMETERS, 0),
        lambda notebook: notebook["cells"].clear(),
    )


def test_heading_order():
    """A screen reader's list of headings is a table of contents, which a skipped level breaks."""
    holds(rules.heading_order, more(PROSE, "##### Deep"), source(TITLE, "# One\n### Three"))


def test_table_of_contents():
    """A long notebook without links at its top is read from top to bottom or not at all; a dead link is worse."""
    holds(
        rules.table_of_contents,
        source(TITLE, "# One"),
        more(PROSE, "## Not linked"),
        source(PROSE, "## Another name"),
        source(
            TITLE,
            "# One\n## Contents\n- [c](#Copy-paste-recipe)\n- [w](#What-llama-server-says?)\n- [p](#Parameters)\n## Parameters",
        ),
    )


def test_one_parameters_cell():
    """Without the tag papermill injects at the top, and the defaults then overwrite what was given, with a warning."""
    holds(
        rules.one_parameters_cell,
        without(PARAMETERS),
        cell(PARAMETERS, metadata={}),
        cell(CODE, metadata={"tags": ["parameters"]}),
    )


def test_parameters_are_annotated_literals():
    """Given values are set after this cell, so anything computed in it would still come from the defaults."""
    holds(
        rules.parameters_are_annotated_literals,
        source(PARAMETERS, "ctx = 4096  # context"),
        source(PARAMETERS, "ctx: int = 4096"),
        source(PARAMETERS, "ctx: int = 2 ** 12 + n  # context"),
        source(PARAMETERS, "import os"),
        source(PARAMETERS, "# nothing"),
    )


def test_parameters_come_first():
    """What stands before the parameters cannot know them."""
    holds(rules.parameters_come_first, moved(CODE, 1))


def test_validation_follows_parameters():
    """papermill takes any value and any name: -p ctx notanint ran for an hour and then failed."""
    holds(
        rules.validation_follows_parameters,
        without(CHECK),
        moved(CHECK, 3),
        source(CHECK, "from kimi_nb.run.params import check, text\ncheck(model=text())"),
        source(CHECK, "from kimi_nb.run import params\nparams.check(model=1, ctx=2, ctxx=3)"),
        source(CHECK, "print(model, ctx)"),
    )


def test_imports_follow_validation():
    """A wrong parameter should be told in a second, and not after a minute of imports."""
    holds(
        rules.imports_follow_validation,
        more(CHECK, "import torch"),
        more(CHECK, "from plotly import graph_objects"),
        more(PARAMETERS, "import os"),
    )


def test_no_background_shell():
    """IPython refuses `!server &` everywhere but on one hosted service, and nobody would end the server."""
    holds(
        rules.no_background_shell,
        source(CODE, "!llama-server -m x.gguf &"),
        source(CODE, "  !sleep 1 &  # wait"),
        source(CODE, "%%bash\nllama-server &\necho x"),
    )


def test_no_installs():
    """An install changes the environment under the running kernel: what is loaded and what is on disk differ."""
    holds(
        rules.no_installs,
        source(CODE, "!pip install x"),
        source(CODE, "%pip install x"),
        source(CODE, "x = 1\n!python -m pip install x"),
        source(CODE, "!apt-get install x"),
        source(CODE, "%conda install x"),
    )


def test_no_absolute_paths():
    """A path of the author's machine is on no other."""
    holds(
        rules.no_absolute_paths,
        source(CODE, "open('/home/me/x')"),
        source(PROSE, "See /Users/me/x."),
        source(CODE, "open('/tmp/x')"),
        source(CODE, "open('~/x')"),
        source(CODE, r"open('C:\\x')"),
        source(CODE, "!ls /usr/local"),
    )


def test_no_secrets():
    """Keys were committed in the sources and the tracebacks of three well-known collections."""
    token = "hf_" + "a1B2" * 9
    holds(
        rules.no_secrets,
        source(CODE, f"x = '{token}'"),
        source(PROSE, f"Use {token}"),
        metadata(note=token),
        source(CODE, "api_key = 'abcdef123456'"),
        source(CODE, "client(api_key='abcdef123456')"),
        source(CODE, "import os\nos.environ['MY_TOKEN'] = 'abcdef123456'"),
        source(CODE, "password: str = 'abcdef123456'"),
    )
    fine = good()
    source(CODE, "client(api_key='not-needed', max_tokens='12345678', api_key_env='MY_KEY_12345')")(fine)
    assert rules.no_secrets(fine) == []


def test_no_outputs():
    """Outputs make every diff unreadable, leak paths and keys, and lie once the code has changed."""
    output = {"output_type": "stream", "name": "stdout", "text": "x"}
    holds(
        rules.no_outputs,
        cell(CODE, outputs=[output]),
        cell(CODE, execution_count=1),
        cell(CODE, metadata={"execution": {}}),
    )


def test_no_widget_state():
    """GitHub shows no notebook at all whose widget state lacks a key; 440 of 442 notebooks of one collection kept it."""
    holds(rules.no_widget_state, metadata(widgets={"application/vnd.jupyter.widget-state+json": {}}))


def test_plain_metadata():
    """A kernel's name or a version from one person's machine is noise in the diff, and an error on the next machine."""
    holds(
        rules.plain_metadata,
        metadata(kernelspec={"display_name": "my-env", "language": "python", "name": "my-env"}),
        metadata(language_info={"name": "python", "version": "3.11.7"}),
        metadata(papermill={}),
        lambda notebook: notebook.update(nbformat_minor=4),
    )


def test_stable_cell_ids():
    """jupytext makes random ids each time: every regeneration would change every cell."""
    holds(
        rules.stable_cell_ids,
        lambda notebook: notebook["cells"][CODE].pop("id"),
        cell(CODE, id="not an id"),
        lambda notebook: notebook["cells"][CODE].update(id=notebook["cells"][CHECK]["id"]),
    )
    assert good() == good()


def test_images_have_alt_text():
    """99.8 % of 342 722 figures in notebooks had none."""
    holds(
        rules.images_have_alt_text,
        source(PROSE, "![](a.png)"),
        source(PROSE, "<img src='a.png'>"),
        source(PROSE, "<img src='a.png' alt=''>"),
        source(CODE, "from IPython.display import Image\nImage('a.png')"),
    )


def test_links_are_descriptive():
    """Somebody who steps through the links hears "here, here, link, here"."""
    holds(
        rules.links_are_descriptive,
        source(PROSE, "Click [here](https://example.invalid)."),
        source(PROSE, "[https://example.invalid](https://example.invalid)"),
        source(PROSE, "See https://example.invalid."),
        source(PROSE, "[](https://example.invalid)"),
    )


def test_no_colab_idioms():
    """One cell for one hosted service broke a collection on every other platform."""
    holds(
        rules.no_colab_idioms,
        source(CODE, "from google.colab import files"),
        source(CODE, "%%capture\nx = 1"),
        source(CODE, "x = '/content/x'"),
    )


def test_no_ci_branches():
    """A notebook that does something else in CI is one that nobody tests."""
    holds(
        rules.no_ci_branches,
        source(CODE, "if os.environ.get('CI'): steps = 1"),
        source(CODE, "fast = os.getenv('KIMI_NB_CI')"),
        source(CODE, "fast = 'KIMI_NB_CI' in os.environ"),
    )


def test_ends_with_recipe():
    """A lesson on the small model is worth it only with the way to the real one."""
    holds(
        rules.ends_with_recipe,
        without(RECIPE),
        source(RECIPE, "## Copy-paste recipe\n\nNothing to copy for kimi-k2.5."),
        source(RECIPE, "## Copy-paste recipe\n\n```sh\nkimi-nb serve --model nano\n```"),
        more(RECIPE, "## One more thing"),
    )


def test_every_rule_has_its_test():
    """A rule that no test shows to work may let everything pass."""
    untested = [name for name in rules.RULES if f"test_{name}" not in globals()]
    assert untested == []
    assert all(globals()[f"test_{name}"].__doc__ for name in rules.RULES)


def test_the_seven_notebooks_are_there():
    """A notebook that is renamed or lost breaks links from everywhere."""
    assert [name.removesuffix(".ipynb") for name in ours()][: len(NAMES)] == NAMES


def test_notebooks_are_valid_and_begin_with_their_number():
    """A notebook with broken JSON was on a well-known collection's main page for weeks."""
    for name, notebook in ours().items():
        nbformat.validate(nbformat.from_dict(notebook))
        assert re.match(r"\d\d_[a-z_]+\.ipynb$", name)
    with pytest.raises(nbformat.ValidationError):
        nbformat.validate(nbformat.from_dict({**good(), "cells": [{"cell_type": "code", "id": "a"}]}))


# Sources and what is made from them


def test_headers_of_sources_are_complete():
    """With a partial header jupytext drops the tag of the parameters cell without a word, shown here."""
    for path in (ROOT / "notebooks").glob("*.py"):
        assert repository.complete_header(path.read_text(encoding="utf-8")) == [], path.name
    assert repository.complete_header(PERCENT) == []
    partial = PERCENT.replace("#       format_name: percent\n", "")
    assert repository.complete_header(partial) == ["the header lacks `format_name: percent`"]
    assert repository.complete_header(PERCENT.split("# ---\n")[2])
    assert repository.complete_header(
        PERCENT.replace("format_version: '1.3'", "format_version: '1.3'\n#       jupytext_version: 1")
    )

    def tagged(text):
        return [
            "parameters" in cell.metadata.get("tags", []) for cell in jupytext.reads(text, fmt="py").cells
        ].count(True)

    assert tagged(PERCENT) == 1
    assert tagged(partial) == 0


def test_notebooks_are_what_their_sources_make():
    """The source is what is reviewed; a notebook that differs from it was not."""
    assert script.out_of_step(ROOT / "notebooks") == []


@pytest.fixture
def repo(tmp_path):
    """A repository with one notebook, just made."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks/01_good.py").write_text(PERCENT)
    (tmp_path / "README.md").write_text("- [Good](notebooks/01_good.ipynb)\n")
    assert script.main(["sync", "--root", str(tmp_path)]) == 0
    return tmp_path


def ids(path):
    return [cell["id"] for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]]


def test_what_sync_makes_passes_the_check_and_is_not_made_again(repo, capsys):
    assert script.main(["check", "--root", str(repo)]) == 0
    capsys.readouterr()
    assert script.main(["sync", "--root", str(repo)]) == 0
    assert capsys.readouterr().out == ""


def test_everyone_makes_the_same_notebook(repo):
    made = repo / "notebooks/01_good.ipynb"
    before = made.read_bytes()
    made.unlink()
    assert script.main(["sync", "--root", str(repo)]) == 0
    assert made.read_bytes() == before


def test_cells_keep_their_ids_when_others_change(repo):
    made = repo / "notebooks/01_good.ipynb"
    before = ids(made)
    changed = PERCENT.replace("x = ctx & 1", "x = ctx").replace(
        "# ## Copy-paste", "# New.\n\n# %%\ny = 1\n\n# %% [markdown]\n# ## Copy-paste"
    )
    (repo / "notebooks/01_good.py").write_text(changed)
    assert script.main(["sync", "--root", str(repo)]) == 0
    after = ids(made)
    assert len(after) == len(before) + 2
    assert set(before) <= set(after)
    assert script.main(["check", "--root", str(repo)]) == 0


def test_a_run_in_jupyterlab_is_cleared_away(repo):
    made = repo / "notebooks/01_good.ipynb"
    before = made.read_bytes()
    notebook = json.loads(before)
    notebook["cells"][CODE] |= {
        "execution_count": 3,
        "outputs": [{"output_type": "stream", "name": "stdout", "text": "x"}],
    }
    notebook["metadata"]["language_info"] = {"name": "python", "version": "3.11"}
    made.write_text(json.dumps(notebook))
    assert script.main(["check", "--root", str(repo)]) == 1
    assert script.main(["sync", "--root", str(repo)]) == 0
    assert made.read_bytes() == before


def test_an_edit_in_jupyterlab_is_not_overwritten_and_can_be_taken_over(repo, capsys):
    made = repo / "notebooks/01_good.ipynb"
    notebook = json.loads(made.read_bytes())
    source(CODE, "x = 'edited in the browser'")(notebook)
    made.write_text(json.dumps(notebook))
    edited = made.read_bytes()
    assert script.main(["sync", "--root", str(repo)]) == 1
    assert "01_good.ipynb was edited after 01_good.py" in capsys.readouterr().err
    assert made.read_bytes() == edited
    assert script.main(["pull", "--root", str(repo)]) == 0
    assert "edited in the browser" in (repo / "notebooks/01_good.py").read_text()
    assert script.main(["sync", "--root", str(repo)]) == 0
    assert script.main(["check", "--root", str(repo)]) == 0
    assert ids(made) == [cell["id"] for cell in notebook["cells"]]


def test_sync_force_takes_the_source(repo):
    made = repo / "notebooks/01_good.ipynb"
    before = made.read_bytes()
    notebook = json.loads(before)
    source(CODE, "x = 'edited in the browser'")(notebook)
    made.write_text(json.dumps(notebook))
    assert script.main(["sync", "--force", "--root", str(repo)]) == 0
    assert made.read_bytes() == before


def test_the_check_names_what_is_wrong(repo, capsys):
    (repo / "notebooks/01_good.py").write_text(
        PERCENT.replace("#       format_name: percent\n", "").replace("x = ctx", "y = ctx")
    )
    (repo / "notebooks/02_orphan.ipynb").write_text("{")
    (repo / "notebooks/03_new.py").write_text(PERCENT)
    (repo / "README.md").write_text("Nothing.\n")
    assert script.main(["check", "--root", str(repo)]) == 1
    said = capsys.readouterr().err
    for what in (
        "01_good.py: the header lacks",
        "01_good.ipynb is not what 01_good.py makes",
        "02_orphan.ipynb has no source",
        "KNB702: 02_orphan.ipynb is not a notebook",
        "03_new.ipynb was not made",
        "README.md does not link notebooks/01_good.ipynb",
    ):
        assert what in said
    assert "Traceback" not in said


# What else must know of a notebook or a test


def text_of(name):
    return (ROOT / name).read_text(encoding="utf-8")


def test_every_notebook_is_listed_in_the_readme():
    """A notebook that the README does not name is one that nobody finds."""
    assert repository.listed_in_readme(text_of("README.md"), ours()) == []
    assert repository.listed_in_readme("[a](notebooks/a.ipynb)", ["a.ipynb", "b.ipynb"]) == [
        "README.md does not link notebooks/b.ipynb"
    ]


MAKEFILE = "demo: setup\n\t@kimi-nb demo\n\nsetup:\n\t@true\n\ntest: dev\n\t@python -m pytest -m 'not soak'\n\nsoak:\n\t@pytest -m soak\n"


def test_every_notebook_is_run_by_ci():
    """In one collection three files had drifted off CI's list before anyone saw."""
    demo = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "kimi_nb").rglob("demo*.py")))
    assert repository.run_in_ci(text_of(".ci/run"), text_of("Makefile"), demo, ours()) == []
    two = ["01_a.ipynb", "02_b.ipynb"]
    assert repository.run_in_ci("make demo", MAKEFILE, "folder.glob('*.ipynb')", two) == []
    assert repository.run_in_ci("make demo", MAKEFILE, "run(['01_a'])", two) == ["CI does not run 02_b.ipynb"]
    assert len(repository.run_in_ci("# make demo", MAKEFILE, "folder.glob('*.ipynb')", two)) == 2
    assert repository.run_in_ci("kimi-nb run notebooks/*.ipynb", "", "", two) == []


def test_every_test_file_runs_in_ci():
    """A test that nothing runs is not a gate."""
    files = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("test_*.py"))
    assert "tests/test_notebook_rules.py" in files
    assert repository.tests_run_in_ci(text_of(".ci/run"), text_of("Makefile"), files) == []
    two = ["tests/test_a.py", "tests/unit/test_b.py"]
    assert repository.tests_run_in_ci("make test", MAKEFILE, two) == []
    assert len(repository.tests_run_in_ci("make demo", MAKEFILE, two)) == 2
    assert repository.tests_run_in_ci("pytest tests/test_a.py", "", two) == [
        "CI does not run tests/unit/test_b.py"
    ]
    assert repository.tests_run_in_ci("pytest --ignore=tests/unit", "", two) == [
        "CI does not run tests/unit/test_b.py"
    ]
    assert repository.tests_run_in_ci("pytest tests/unit tests/test_a.py", "", two) == []
