"""One key in every place where a key can be, and one look into everything that is written, printed or listed.

The places: the environment, the header of a request (from a file, so that no variable's name gives it away), a
parameter of a notebook, the environment of an MCP server, and what tools return. The looks: logs, the trace and its
export, the executed notebook, run.json, the report, standard output and error, and the command lines of every process
on this machine while all that runs.
"""

import json
import os
import subprocess
import sys
import textwrap
import threading
from contextlib import contextmanager

import nbformat
import psutil
import pytest
from scripted_engine import Act, ScriptedEngine, say

CANARIES = {
    "environment": "canary-environment-0123456789",
    "header": "canary-header-0123456789",
    "parameter": "canary-parameter-0123456789",
    "mcp": "canary-mcp-0123456789",
    "output": "sk-canaryoutput0123456789abcdefghijklmn",
}

# An MCP server that tells everything it knows, in results and in errors.
TELLTALE = r"""
import json, os, sys
for line in sys.stdin:
    asked = json.loads(line)
    if "id" not in asked:
        continue
    answer = {"jsonrpc": "2.0", "id": asked["id"]}
    if asked["method"] == "initialize":
        answer["result"] = {"protocolVersion": "2025-06-18", "capabilities": {}, "serverInfo": {"name": "t", "version": "1"}}
    elif asked["method"] == "tools/list":
        tools = [{"name": name, "inputSchema": {"type": "object"}} for name in ("telltale", "complainer")]
        answer["result"] = {"tools": tools}
    else:
        text = json.dumps(dict(os.environ))
        failed = asked.get("params", {}).get("name") == "complainer"
        answer["result"] = {"content": [{"type": "text", "text": text}], "isError": failed}
    print(text if asked["method"] == "nonsense" else json.dumps(answer), flush=True)
"""

NOTEBOOK = [
    """
    engine_url: str = ""  # for this test
    key_file: str = ""  # for this test
    model: str = ""  # for this test
    mcp_key_file: str = ""  # for this test
    api_key: str = ""  # for this test
    """,
    """
    import json, os, sys
    from pathlib import Path
    from kimi_nb.chat import Chat, EngineError, McpServer, tool, tool_loop
    from kimi_nb.chat.reach import engine_at, read_key
    from kimi_nb.engine import LlamaServer
    from kimi_nb.plan import Settings

    key = read_key(None, Path(key_file))
    engine = engine_at(engine_url, key, model="kimi-k2.5", kind="llama-server")
    chat = Chat(engine)
    print(chat, engine, repr(engine), vars(chat).keys())
    """,
    """
    @tool
    def leak(what: str) -> str:
        "Tell a secret."
        known = {"environment": os.environ["SOME_API_KEY"], "header": key, "output": "sk-canaryoutput" + "0123456789abcdefghijklmn"}
        if what == "raise":
            raise RuntimeError(f"cannot use {known}")
        return f"the {what} is {known} " * 3

    words = [sys.executable, "-c", TELLTALE]
    with McpServer(words, env={"ITS_KEY": Path(mcp_key_file).read_text()}, trusted=["telltale", "complainer"]) as server:
        print(server, server.tools, server.refused)
        run = tool_loop(chat, "hi", [leak, *server.tools], on_event=print)
    print(run)
    print(json.dumps(run.as_dict()))
    Path("trace.json").write_text(json.dumps(run.as_dict()))
    run
    """,
    """
    try:
        chat.ask("complain")
    except EngineError as error:
        print(error, error.as_dict())
    """,
    """
    settings = Settings(ctx_size=2048, threads=1, parallel=1)
    with LlamaServer(Path(model), settings=settings, api_key=key, log_path=Path("server.log"), extra_args=["-v"]) as own:
        print(own, own.engine, own.slots(), own.metrics())
        with Chat(own.engine) as other:
            reply = other.ask(f"Bearer {key}", max_tokens=4)
        print(reply.meter, own.log_tail(100))
    """,
    """
    print(api_key)  # a notebook that prints its parameter: the run masks it
    chat.ask("complain")
    """,
]


def notebook(path):
    cells = [textwrap.dedent(text).strip().replace("TELLTALE", repr(TELLTALE)) for text in NOTEBOOK]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in cells])
    book.cells[0].metadata["tags"] = ["parameters"]
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(book, path)


@contextmanager
def process_list():
    """Every command line seen on this machine, as ``ps`` would show it to anybody."""
    seen, stop = set(), threading.Event()

    def look():
        while not stop.wait(0.2):
            for process in psutil.process_iter(["cmdline"]):
                seen.add(" ".join(process.info["cmdline"] or []))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


def script(body, _number):
    """Call each tool once, then answer; complain with the key, as a proxy that is too talkative would."""
    if body["messages"][-1]["content"] == "complain":
        return Act(status=500, body={"error": {"message": f"bad header: Bearer {CANARIES['header']}"}})
    if body["messages"][-1]["role"] == "tool":
        return say("done")
    names = [("leak", {"what": "file"}), ("leak", {"what": "raise"}), ("telltale", {}), ("complainer", {})]
    return say(
        "", "hm", [(str(number), name, json.dumps(values)) for number, (name, values) in enumerate(names)]
    )


RUN = """
import json, sys
from kimi_nb.run import html_report, run_notebooks
given = json.load(sys.stdin)
run = run_notebooks([given["notebook"]], out=given["out"], parameters=given["parameters"])
print(run, html_report(run))
"""


@pytest.mark.engine
@pytest.mark.notebooks
def test_a_canary_in_every_place_is_found_in_none(nano, tmp_path):
    notebook(tmp_path / "leaky.ipynb")
    for name in ("header", "mcp"):
        (tmp_path / f"{name}.key").write_text(CANARIES[name])
    out = tmp_path / "out"
    with ScriptedEngine(script, api_key=CANARIES["header"]) as scripted, process_list() as listed:
        parameters = {
            "engine_url": scripted.base_url,
            "key_file": str(tmp_path / "header.key"),
            "mcp_key_file": str(tmp_path / "mcp.key"),
            "model": str(nano),
            "api_key": CANARIES["parameter"],
        }
        env = os.environ | {
            "SOME_API_KEY": CANARIES["environment"],
            "OPENAI_API_KEY": CANARIES["environment"],
        }
        given = {"notebook": str(tmp_path / "leaky.ipynb"), "out": str(out), "parameters": parameters}
        ran = subprocess.run(
            [sys.executable, "-c", RUN], input=json.dumps(given), env=env, capture_output=True, text=True, timeout=180, check=False
        )  # fmt: skip
        where = ["--base-url", scripted.base_url, "--engine", "llama-server", "--model", "kimi-k2.5"]
        words = ["chat", "complain", *where, "--api-key-file", str(tmp_path / "header.key"), "--json"]
        asked = subprocess.run(
            [sys.executable, "-m", "kimi_nb.cli", *words], env=env, capture_output=True, text=True, timeout=60, check=False
        )  # fmt: skip

    # All of it happened: the notebook ran to its last cell, which fails as it should, and each tool was called.
    assert (out / "run.json").exists(), ran.stderr[-1000:]
    record = json.loads((out / "run.json").read_text())
    assert record["notebooks"][0]["error"]["id"] == "KNB606", ran.stderr + json.dumps(record)
    trace = json.loads((out / "files/leaky/trace.json").read_text())
    outcomes = [call["outcome"] for step in trace["steps"] for call in step["calls"]]
    assert outcomes == ["ok", "raised", "ok", "raised"]
    assert asked.returncode == 1
    assert "KNB606" in asked.stdout
    server = [line for line in listed if "llama-server" in line and str(nano) in line]
    assert server, "the server's command line was seen"

    places = {path.relative_to(out).as_posix(): path.read_text(errors="replace") for path in sorted(out.rglob("*")) if path.is_file()}  # fmt: skip
    assert {"run.json", "leaky.ipynb", "index.html", "files/leaky/server.log"} <= set(places), sorted(places)
    places |= {
        "what the run printed": ran.stdout + ran.stderr,
        "what the chat printed": asked.stdout + asked.stderr,
    }
    places["the process list"] = "\n".join(listed)
    # What the model was sent is the model's: but a tool's output is told to it without the keys.
    places["what the engine was told"] = json.dumps([body["messages"][1:] for body in scripted.bodies])
    found = [
        (place, name) for place, text in places.items() for name, canary in CANARIES.items() if canary in text
    ]
    assert found == []
