"""The command line as a whole: one line and one JSON document for every trouble, whatever the streams are."""

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from kimi_nb.cli import VERBS, _parser, main
from kimi_nb.commands import demo
from kimi_nb.files import make_folder, write_bytes
from kimi_nb.run import Run

ROOT = Path(__file__).parents[1]
KIMI_NB = [sys.executable, "-m", "kimi_nb.cli"]
FENCED = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`((?:\.venv/bin/)?kimi-nb [^`]+)`")
OURS = re.compile(r"(\.venv/bin/)?kimi-nb ")


def ran(words, **options):
    return subprocess.run(
        [*KIMI_NB, *words], capture_output=True, text=True, timeout=120, check=False, **options
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "VERB"),
        (["serve", "--gguf", "README.md"], "unrecognized arguments: --gguf. See kimi-nb serve --help."),
        (["nano", "--output=x", "there"], "unrecognized arguments: --output."),
        (["nano", "there"], "invalid choice: 'there'"),
        (["chekc"], "Did you mean kimi-nb check?"),
        (["check", "--frob"], "unrecognized arguments: --frob. See kimi-nb check --help."),
        (["estimate"], "--gguf --model is required"),
        (["build", "--jobs", "0"], "'0' is not a whole number from 1 up"),
        (["build", "--jobs", "\u0663"], "is not a whole number from 1 up"),
        (["lab", "--port", "99999"], "'99999' is not a whole number from 0 to 65535"),
        (["nano", "make", "--shards", "0"], "'0' is not a whole number from 1 up"),
    ],
)
def test_wrong_use_is_one_line_with_an_id_and_one_json_document(words, says, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*words, "--json"])
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert json.loads(out)["error"]["id"] == "KNB001"
    assert err.startswith("kimi-nb: KNB001: ")
    assert err.count("\n") == 1
    assert says in err


def test_kimi_nb_nano_alone_says_where_nano_lies(capsys):
    assert main(["nano", "--json"]) == 0
    assert Path(json.loads(capsys.readouterr().out)["path"]).is_file()


def test_output_that_the_system_does_not_take_is_one_line_and_no_traceback():
    for words in (["check"], ["check", "--json"], ["models"]):
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(
                [*KIMI_NB, *words], stdout=full, stderr=subprocess.PIPE, text=True, timeout=120, check=False
            )
        assert done.returncode == 1
        assert re.fullmatch(r"kimi-nb: KNB002: .*No space left on device.*\n", done.stderr)


def test_a_reader_that_goes_away_is_no_trouble():
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*KIMI_NB, "check"], stdout=writing, stderr=subprocess.PIPE, text=True, timeout=120, check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.engine
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_harm_nothing(build, closed, tmp_path):
    words = shlex.join([*KIMI_NB, "nano", "--shards", "3", "--out", str(tmp_path / "nano"), "--json"])
    done = subprocess.run(
        ["sh", "-c", f"{words} {closed}"], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    if not re.search(r"(?<!2)>&-", closed):
        assert len(json.loads(done.stdout)["files"]) == 3
    assert len(list((tmp_path / "nano").glob("*.gguf"))) == 3


def test_a_trouble_that_no_error_of_ours_foresees_names_the_file_and_is_one_line(monkeypatch, capsys):
    def refuse(args):
        raise PermissionError(13, "Permission denied", "/some/file")

    monkeypatch.setattr("kimi_nb.commands.models.main", refuse)
    assert main(["models", "--json"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["error"]["id"] == "KNB002"
    assert "/some/file: Permission denied" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("moment", ["configure", "main"])
def test_ctrl_c_is_one_line_at_any_moment_also_while_a_verb_is_loaded(moment, monkeypatch, capsys):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(f"kimi_nb.commands.models.{moment}", interrupt)
    assert main(["models", "--json"]) == 130
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("kimi-nb: interrupted")


def test_ctrl_c_while_the_command_line_itself_is_loaded_is_one_line():
    """Loading it takes a twentieth of a second, in which Ctrl-C was a traceback."""
    code = (
        "import sys\n"
        "class Impatient:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == sys.argv[1]: raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Impatient())\n"
        "from kimi_nb.__main__ import main\n"
        "sys.exit(main())"
    )
    for module in ("kimi_nb.cli", "kimi_nb.errors", "argparse"):
        done = subprocess.run(
            [sys.executable, "-c", code, module], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout, done.stderr) == (130, "", "kimi-nb: interrupted\n")


def test_nothing_is_loaded_before_ctrl_c_can_be_answered():
    code = "import sys; before = set(sys.modules); import kimi_nb.__main__; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["kimi_nb", "kimi_nb.__main__"]


def test_the_command_is_the_module_too():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    assert scripts == {"kimi-nb": "kimi_nb.__main__:main"}
    words = [sys.executable, "-m", "kimi_nb"]
    done = subprocess.run([*words, "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"kimi-nb \d+\.\d+\.\d+\n", done.stdout)


def test_no_words_at_all_and_help_show_the_verbs(capsys):
    assert main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert all(f"    {verb} " in err for verb in VERBS)
    for words, says in ((["help"], "usage: kimi-nb [-h]"), (["help", "nano"], "usage: kimi-nb nano [-h]")):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 0
        assert capsys.readouterr().out.startswith(says)


@pytest.mark.parametrize("verb", ["serve", "estimate"])
def test_a_verb_with_many_settings_has_a_short_usage_and_says_what_words_they_take(verb, capsys):
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    out = capsys.readouterr().out
    usage = out.partition("\n\n")[0]
    assert usage.count("\n") < 10
    assert "[llama.cpp's settings: see below]" in usage
    assert "--flash-attn {on,off,auto}" in out


@pytest.mark.parametrize(
    "words",
    [
        ["run", str(ROOT / "notebooks/01_setup.ipynb"), "--out"],
        ["demo", "--out"],
        ["nano", "--out"],
        ["check", "--save"],
        ["plan", "--model", "nano", "--offline", "--save"],
    ],
)
def test_a_place_that_cannot_be_written_is_wrong_use_for_every_verb(words, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    assert main([*words, str(tmp_path / "file" / "below"), "--json"]) == 2
    out, err = capsys.readouterr()
    assert json.loads(out)["error"]["why"] == f"{tmp_path}/file is a file, not a folder"
    assert err.count("\n") == 1
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.engine
@pytest.mark.parametrize(
    ("status", "by", "code"),
    [
        ("succeeded", None, 0),
        ("failed", None, 1),
        ("interrupted", "SIGINT", 130),
        ("interrupted", "SIGTERM", 143),
    ],
)
def test_the_demo_ends_as_a_run_does(status, by, code, build, tmp_path, monkeypatch, capsys):
    """Ctrl-C among its notebooks gave 1 and not 130."""
    run = Run(status, (), tmp_path, "2026-01-02T03:04:05+00:00", 1.0, {}, by)
    monkeypatch.setattr(demo, "_notebooks", lambda *_: (run, tmp_path / "index.html"))
    assert main(["demo", "--out", str(tmp_path), "--json"]) == code
    assert json.loads(capsys.readouterr().out)["status"] == status


def test_what_is_to_be_typed_next_is_what_was_typed(tmp_path, monkeypatch):
    """After `make demo` no kimi-nb is on a stranger's PATH."""
    program = tmp_path / "a b" / "kimi-nb"
    program.parent.mkdir()
    program.touch(mode=0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")
    assert demo._as_called("a b/kimi-nb") == "'a b/kimi-nb'"
    assert demo._as_called("/x/kimi_nb/__main__.py") == "python -m kimi_nb"
    monkeypatch.setenv("PATH", str(program.parent))
    assert demo._as_called("a b/kimi-nb") == "kimi-nb"


def test_make_trusts_the_certificates_that_this_system_trusts():
    """pip does; uv did not unless told to, so that behind a company's proxy `make demo` ended at once."""
    stores = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")
    env = {"PATH": os.environ["PATH"]}
    words = ["make", "-s", "-C", str(ROOT), "--eval", "show: ; @echo [$$UV_SYSTEM_CERTS]", "show"]
    for given, expected in (
        ({}, "[true]" if any(map(os.path.exists, stores)) else "[]"),
        ({"UV_SYSTEM_CERTS": "false"}, "[false]"),
    ):
        done = subprocess.run(words, env=env | given, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == expected


def test_a_device_or_a_pipe_is_never_replaced_by_a_file_of_ours(tmp_path, capsys):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    (tmp_path / "link").symlink_to(pipe)
    for path in (pipe, tmp_path / "link"):
        assert main(["check", "--save", str(path), "--json"]) == 2
        error = json.loads(capsys.readouterr().out)["error"]
        assert (error["id"], error["why"]) == ("KNB134", "it is not an ordinary file")
    assert pipe.is_fifo()
    with pytest.raises(OSError, match="it is a folder"):
        write_bytes(tmp_path, b"")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "pipe"]


def test_a_saved_machine_goes_where_a_link_points(tmp_path, capsys):
    (tmp_path / "link.json").symlink_to(tmp_path / "machine.json")
    assert main(["check", "--save", str(tmp_path / "link.json")]) == 0
    assert (tmp_path / "link.json").is_symlink()
    assert json.loads((tmp_path / "machine.json").read_bytes())["format"] == 1


@pytest.mark.parametrize("words", [["demo"], ["run", str(ROOT / "notebooks/01_setup.ipynb")], ["nano"]])
def test_a_file_where_a_folder_is_asked_for_is_said_before_anything_starts(words, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    assert main([*words, "--out", str(tmp_path / "file"), "--json"]) == 2
    out, err = capsys.readouterr()
    assert json.loads(out)["error"]["why"] == f"{tmp_path}/file is a file, not a folder"
    assert err.count("\n") == 1
    assert (tmp_path / "file").read_text() == "mine"


def test_a_file_that_cannot_be_written_is_named_and_nothing_is_left(tmp_path):
    code = f"from pathlib import Path; from kimi_nb.files import write_text; write_text(Path({str(tmp_path)!r}) / 'x', 'y' * 4096)"
    limited = shlex.join([sys.executable, "-c", code])
    done = subprocess.run(
        ["sh", "-c", f"ulimit -f 0; {limited}"], capture_output=True, text=True, timeout=60, check=False
    )
    assert f"File too large: '{tmp_path}/x'" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_made_with_those_above_it(tmp_path):
    make_folder(tmp_path / "a/b")
    make_folder(tmp_path / "a/b")
    assert (tmp_path / "a/b").is_dir()


def told():
    """Return what our texts say of our command: whole lines to copy, and mentions in a sentence."""
    lines, mentions = [], []
    texts = [*(ROOT / "notebooks").glob("*.py"), *(ROOT / "kimi_nb/troubles").glob("*.toml")]
    for path in [ROOT / "README.md", *sorted(texts)]:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".py":
            text = re.sub(r"^# ?", "", text, flags=re.MULTILINE)
        blocks = "\n".join(FENCED.findall(text)).replace("\\\n", " ")
        for found, words in ((lines, blocks.splitlines()), (mentions, INLINE.findall(text))):
            found += [pytest.param(word, id=f"{path.name}: {word}") for word in words if OURS.match(word)]
    return lines, mentions


LINES, MENTIONS = told()


def test_the_commands_told_are_found():
    assert len(LINES) > 25
    assert len(MENTIONS) > 5


@pytest.mark.parametrize("line", LINES)
def test_every_command_told_to_the_reader_parses(line):
    words = shlex.split(line, comments=True)[1:]
    shell = [number for number, word in enumerate(words) if re.match(r"[|&;>]|2>", word)]
    words = words[: shell[0]] if shell else words
    if words == ["--version"]:
        return
    assert _parser(words[0]).parse_args(words).verb in VERBS


def test_recipes_take_a_model_from_where_the_download_put_it():
    """Recipes once named a folder that no download of ours makes: whoever copied them got KNB330."""
    paths = [
        path
        for path in sorted((ROOT / "notebooks").glob("*.py"))
        if "-00001-of-" in path.read_text(encoding="utf-8")
    ]
    blocks = [
        block
        for path in paths
        for block in FENCED.findall(re.sub(r"^# ?", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE))
    ]
    assert blocks
    assert [block for block in blocks if "-00001-of-" in block] == []


@pytest.mark.parametrize("mention", MENTIONS)
def test_every_verb_and_option_mentioned_is_there(mention, capsys):
    verb, *words = shlex.split(mention)[1:]
    if verb == "VERB":
        return
    assert verb in VERBS
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    known = re.findall(r"--[a-z-]+", capsys.readouterr().out)
    assert [word for word in words if word.startswith("--") and word not in known] == []


@pytest.mark.parametrize(
    "words",
    [
        ["plan", "--gguf", "~no-such-person/model.gguf"],
        ["plan", "--plan", "~no-such-person/plan.json"],
        ["plan", "--model", "nano", "--machine", "~no-such-person/machine.json"],
        ["plan", "--model", "nano", "--save", "~no-such-person/plan.json/"],
        ["estimate", "--gguf", "~no-such-person/model.gguf"],
        ["rehearse", "--gguf", "~no-such-person/model.gguf"],
        ["serve", "--model", "~no-such-person/model.gguf"],
        ["check", "--machine", "~no-such-person/machine.json"],
    ],
)
def test_a_home_that_nobody_has_is_a_place_that_is_not_there(words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "~no-such-person").touch()  # so that --save finds no folder of that name either
    assert main(words) in {1, 2}
    assert re.search(r"KNB\d{3}", capsys.readouterr().err)


@pytest.mark.parametrize("name", ["nonsense", "a/b/c", "unsloth/", "https://host/a/b"])
def test_what_cannot_be_the_name_of_a_repository_is_said_so_and_not_looked_for_in_the_catalog(name, capsys):
    assert main(["download", "--repo", name, "--quant", "Q8_0"]) == 2
    assert capsys.readouterr().err.startswith(f"kimi-nb: KNB405: there is no repository {name!r}: ")
