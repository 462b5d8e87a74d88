"""MCP servers as tools: honest ones made with the mcp package, rude ones written by hand, hostile schemas."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from scripted_engine import ScriptedEngine, say
from system import gone

from kimi_nb.chat import Chat, McpServer, tool_loop
from kimi_nb.chat.foreign_schema import foreign_check
from kimi_nb.chat.functions import ArgumentsError
from kimi_nb.errors import ChatError, UsageError, troubles
from kimi_nb.model import encode_tools

STRANGER = str(Path(__file__).with_name("mcp_stranger.py"))
STDIO = [sys.executable, STRANGER, "stdio"]
KEY = "canary-0123456789abcdef"


@pytest.fixture(scope="module")
def stranger():
    with McpServer(
        STDIO, env={"STRANGER_KEY": KEY}, trusted=["add", "big", "environment"], timeout_s=60
    ) as server:
        yield server


@pytest.fixture(scope="module")
def address():
    """The address of a stranger that speaks HTTP and wants a key."""
    command = [sys.executable, STRANGER, "http"]
    process = subprocess.Popen(
        command, env=os.environ | {"STRANGER_KEY": KEY}, stdout=subprocess.PIPE, text=True
    )
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/mcp"
    finally:
        process.terminate()
        process.communicate(timeout=20)


def named(server):
    return {each.name: each for each in server.tools}


def loop_with(server, *acts, **options):
    with ScriptedEngine(list(acts)) as scripted, Chat(scripted.engine) as chat:
        return tool_loop(chat, "hi", server.tools, **options), scripted.bodies


# Servers without manners

RUDE = """
import json, sys, time
tools = json.loads(sys.argv[1])
for line in sys.stdin:
    asked = json.loads(line)
    if "id" not in asked:
        continue
    answer = {"jsonrpc": "2.0", "id": asked["id"]}
    if asked["method"] == "initialize":
        answer["result"] = {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": {"name": "r", "version": "1"}}
    elif asked["method"] == "tools/list":
        page = int((asked.get("params") or {}).get("cursor") or 0)
        answer["result"] = {"tools": tools[page : page + 50]} | ({"nextCursor": str(page + 50)} if len(tools) > page + 50 else {})
    elif asked["method"] == "tools/call" and asked["params"]["name"] == "slow":
        time.sleep(60)
    elif asked["method"] == "tools/call" and asked["params"]["name"] == "die":
        sys.exit(3)
    elif asked["method"] == "tools/call":
        answer["result"] = {"content": [{"type": "image", "data": "AAAA", "mimeType": "image/png"}, {"type": "text", "text": "x"}]}
    else:
        answer["error"] = {"code": -32601, "message": "no"}
    print(json.dumps(answer), flush=True)
"""


def rude(tools, **options):
    return McpServer([sys.executable, "-I", "-S", "-c", RUDE, json.dumps(tools)], timeout_s=30, **options)


def plain(*names):
    return [{"name": name, "inputSchema": {"type": "object"}} for name in names]


def call(name, arguments):
    return say("", "", [("x", name, json.dumps(arguments))])


def test_what_a_server_offers_is_declared_as_json_and_typescript(stranger):
    assert stranger.refused == {}
    assert set(named(stranger)) == {
        "add",
        "files_read_text",
        "environment",
        "big",
        "fail",
        "pid",
        "weather",
    }
    text = encode_tools([each.declaration for each in stranger.tools])
    assert "// Add two numbers.\ntype add = (_: {\n" in text
    assert "// pattern: ^[a-z]+$\n  path: string" in text


def test_a_call_goes_through_the_loop_and_only_a_trusted_one_without_a_person(stranger):
    asked = []

    def approve(tool, arguments):
        asked.append((tool.name, dict(arguments)))
        return arguments == {"path": "abc"}

    acts = (
        call("add", {"a": 1, "b": 2}),
        call("files_read_text", {"path": "abc"}),
        call("files_read_text", {"path": "zzz"}),
        call("add", {"a": 1}),
        call("add", {"a": "1", "b": 2}),
        call("files_read_text", {"path": "NO"}),
        say("done"),
    )
    run, _ = loop_with(stranger, *acts, approve=approve)
    outcomes = [(each.outcome, each.output) for each in run.calls]
    assert outcomes[:3] == [
        ("ok", "3"),
        ("ok", "text of abc"),
        ("refused", "the person did not approve this call of files_read_text"),
    ]
    assert [outcome for outcome, _ in outcomes[3:]] == ["invalid_arguments"] * 3
    assert "'b' is a required property" in outcomes[3][1]
    assert "does not match" in outcomes[5][1]
    assert asked == [("files_read_text", {"path": "abc"}), ("files_read_text", {"path": "zzz"})]


def test_a_long_result_is_cut_with_a_marker(stranger):
    run, _ = loop_with(stranger, call("big", {}), say("ok"))
    assert "characters left out" in run.calls[0].output
    assert len(run.calls[0].output) < 17_000


def test_a_result_that_is_data_is_told_in_few_words(stranger):
    assert named(stranger)["weather"]() == '{"temp_c":31,"sky":"sun"}'


def test_it_sees_the_environment_it_is_given_and_no_other(stranger, monkeypatch):
    seen = json.loads(named(stranger)["environment"]())
    seen.pop("LC_CTYPE", None)  # Python sets it for itself
    assert set(seen) == {"PATH", "STRANGER_KEY"}
    assert seen["STRANGER_KEY"] == "[secret]", (
        "its value is hidden from the model even when the server tells it"
    )


def test_a_call_that_takes_too_long_is_given_up():
    with rude(plain("slow"), trusted=["slow"]) as server:
        start = time.monotonic()
        impatient = [replace(each, timeout_s=0.3) for each in server.tools]
        with ScriptedEngine([call("slow", {}), say("ok")]) as scripted, Chat(scripted.engine) as chat:
            run = tool_loop(chat, "hi", impatient)
        assert [each.outcome for each in run.calls] == ["timeout"]
        pid = server.pid
    assert gone(pid)
    assert time.monotonic() - start < 15


def test_a_server_that_dies_in_a_call_ends_no_loop_and_leaves_nothing():
    with rude(plain("die", "good"), trusted=["die", "good"]) as server:
        pid = server.pid
        run, _ = loop_with(server, call("die", {}), call("good", {}), say("ok"))
        assert [each.outcome for each in run.calls] == ["raised", "raised"]
        assert run.answer == "ok"
    assert gone(pid)


def test_leaving_ends_it_and_its_tools_say_so():
    with rude(plain("good")) as server:
        pid = server.pid
        tools = named(server)
    assert gone(pid)
    with pytest.raises(ConnectionError, match="is not connected"):
        tools["good"]()
    server.close()
    with server:  # and it can be started again
        assert list(named(server)) == ["good"]
        assert server.refused == {}


def test_it_does_not_outlive_us_whatever_happens():
    words = [sys.executable, "-I", "-S", "-c", RUDE, json.dumps(plain("good"))]
    code = f"""
        import time
        from kimi_nb.chat import McpServer
        server = McpServer({words!r}, timeout_s=60).__enter__()
        print(server.pid, flush=True)
        time.sleep(300)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True
    ) as owner:
        pid = int(owner.stdout.readline())
        assert psutil.pid_exists(pid)
        owner.send_signal(signal.SIGKILL)
    assert gone(pid)


def test_over_http_with_a_key(address):
    headers = {"Authorization": f"Bearer {KEY}"}
    with McpServer(address, headers=headers, trusted=["add"], timeout_s=30) as server:
        run, _ = loop_with(server, call("add", {"a": 20, "b": 22}), call("pid", {}), say("42"))
        assert (run.calls[0].outcome, run.calls[0].output) == ("ok", "42")
        assert run.calls[1].outcome == "refused"
        assert KEY not in repr(server) + repr(server.tools) + json.dumps(run.as_dict())


def test_over_http_with_a_wrong_key_or_at_no_address(address):
    for url, headers in (
        (address, {"Authorization": "Bearer wrong-canary-key"}),
        ("http://127.0.0.1:1/mcp", {}),
    ):
        start = time.monotonic()
        with pytest.raises(ChatError, match=r"KNB624: the MCP server 127\.0\.0\.1 cannot be used") as caught:
            McpServer(url, headers=headers, timeout_s=10).__enter__()
        assert time.monotonic() - start < 20
        assert "canary" not in str(caught.value)


def nest(depth):
    return {"type": "object", "properties": {"a": nest(depth - 1) if depth else {"type": "string"}}}


LAUGHS = {
    "type": "object",
    "properties": {"a": {"$ref": "#/$defs/d0"}},
    "$defs": {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(40)}
    | {"d40": {"type": "string"}},
}
CHAIN = {
    "type": "object",
    "properties": {"a": {"$ref": "#/$defs/d0"}},
    "$defs": {f"d{n}": {"$ref": f"#/$defs/d{n + 1}"} for n in range(1500)} | {"d1500": {"type": "string"}},
}


def one(schema):
    return {"type": "object", "properties": {"a": schema}}


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        (one({"type": "string", "pattern": "(?=a)b"}), "does not run in linear time"),
        ({"type": "object", "properties": {"default": {"pattern": "(a)\\1"}}}, "does not run in linear time"),
        ({"type": "object", "patternProperties": {"(a+)+$": {}}}, "patternProperties"),
        (one({"$ref": "http://127.0.0.1:1/schema"}), "does not point into the schema itself"),
        (one({"$ref": "file:///etc/passwd"}), "does not point into the schema itself"),
        (one({"$ref": "#/$defs/none"}), "leads nowhere"),
        (one({"$id": "http://127.0.0.1/", "$ref": "#/a"}), r"\$id"),
        (one({"type": "array", "minItems": 3, "maxItems": 2}), "minItems is 3 and maxItems is 2"),
        (one({"enum": ["x" * 60_000]}), "characters"),
        (nest(100), "deeper than 60"),
        (LAUGHS, "more than 5000 parts"),
        (CHAIN, "."),
        ({"type": "array"}, "an object"),
        (one({"type": "nonsense"}), "nonsense"),
        ([], "must be an object"),
    ],
)  # fmt: skip
def test_a_hostile_schema_is_refused_at_once(schema, why):
    start = time.monotonic()
    with pytest.raises(UsageError, match=why) as caught:
        foreign_check(schema, "the tool x")
    assert time.monotonic() - start < 2
    assert caught.value.id == "KNB630"


def test_a_pattern_that_would_hold_up_python_for_ever_does_not():
    check = foreign_check(one({"type": "string", "pattern": "^(a+)+$"}), "the tool x")
    start = time.monotonic()
    with pytest.raises(ArgumentsError, match="does not match"):
        check(json.dumps({"a": "a" * 5000 + "b"}))
    assert check('{"a": "aaa"}') == {"a": "aaa"}
    assert time.monotonic() - start < 2


def test_a_schema_that_points_at_itself_is_followed_as_far_as_the_arguments_go():
    check = foreign_check(
        {"type": "object", "properties": {"a": {"$ref": "#"}, "n": {"type": "integer"}}}, "x"
    )
    assert check('{"a": {"a": {"n": 1}}}') == {"a": {"a": {"n": 1}}}
    with pytest.raises(ArgumentsError, match="is not of type 'integer'"):
        check('{"a": {"a": {"n": "1"}}}')
    endless = foreign_check({"type": "object", "allOf": [{"$ref": "#"}]}, "x")
    with pytest.raises(ArgumentsError, match="cannot be followed"):
        endless("{}")


@pytest.mark.parametrize(
    "text",
    ["", "[]", "null", "{", '{"a": NaN}', '{"a": 1e999}', '{"a": "\\ud800"}', "[" * 5000, '{"a": 1}{}'],
)
def test_arguments_that_are_no_object_are_refused(text):
    with pytest.raises(ArgumentsError):
        foreign_check({"type": "object"}, "x")(text)


def test_a_bad_tool_is_left_out_and_named_and_the_good_ones_work():
    tools = [
        {"name": "good", "inputSchema": {"type": "object"}},
        {"name": "go od", "description": "d" * 9000, "inputSchema": {"type": "object"}},
        {"name": "go_od", "inputSchema": {"type": "object"}},
        {"name": "bad", "inputSchema": one({"pattern": "(?=a)"})},
        {"name": "worse", "inputSchema": LAUGHS},
        *({"name": f"more{n}", "inputSchema": {"type": "object"}} for n in range(200)),
    ]
    with rude(tools, trusted=["good"]) as server:
        assert [each.name for each in server.tools][:3] == ["good", "go_od", "more0"]
        assert len(server.tools) == 128
        assert set(server.refused) == {"go_od", "bad", "worse"} | {f"more{n}" for n in range(126, 200)}
        assert len(named(server)["go_od"].description) < 4100
        assert named(server)["good"]() == "[image image/png left out]\nx"
    with rude(tools, only=["more199"]) as server:
        assert list(named(server)) == ["more199"]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["/no/such/program"], "No such file"),
        ([sys.executable, "-c", "import sys; sys.exit('I need a key')"], "I need a key"),
        ([sys.executable, "-c", "import time; time.sleep(60)"], "did not answer within 1 s"),
        ([sys.executable, "-c", "while True: print('hello', flush=True); import time; time.sleep(.01)"], "."),
        (
            [sys.executable, "-c", "import sys\nwhile True: sys.stdout.write('x' * 65536)"],
            ".",
        ),  # a line that never ends
    ],
    ids=["missing", "exits", "silent", "babbles", "endless"],
)
def test_a_server_that_is_none_is_told_in_one_line(command, words):
    start = time.monotonic()
    server = McpServer(command, timeout_s=1)
    with pytest.raises(ChatError, match=words) as caught:
        server.__enter__()
    assert caught.value.id == "KNB624"
    assert "KNB624" in troubles()
    assert "\n" not in str(caught.value)
    assert time.monotonic() - start < 15
    assert server.pid is None or gone(server.pid)


@pytest.mark.parametrize(
    ("server", "options"),
    [("localhost:80", {}), ([], {}), ([1], {}), ("http://127.0.0.1/mcp", {"env": {"A": "b"}}), (["x"], {"headers": {"A": "b"}})],
)  # fmt: skip
def test_wrong_use_is_told_before_anything_starts(server, options):
    with pytest.raises(UsageError, match="KNB623"):
        McpServer(server, **options)
