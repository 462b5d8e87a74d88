"""What our client costs beside raw curl, and how true its clock is.

    python benchmarks/bench_client.py [--rounds N]

Side by side: curl and :class:`kimi_nb.chat.Chat` take turns with the same question, on a real llama-server with
nano, and on a scripted engine of known speed that runs in a process of its own. curl's times are its own (its
trace), and begin when it sends, with the connection already made; ours begin with the call, before the request is
even built. The cost in first-token time is the difference of the medians; the cost in throughput is the median
over the rounds of one minus the ratio of the speeds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import socket
import statistics
import subprocess
import sys
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

from kimi_nb.chat import Chat, ContentDelta, Done, ReasoningDelta
from kimi_nb.engine import Engine, LlamaServer
from kimi_nb.nano import nano_path
from kimi_nb.plan import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

QUESTION = [{"role": "user", "content": "How many experts does Kimi K2.5 have?"}]
TOKENS = 400
FIRST_TARGET_MS = 5.0
THROUGHPUT_TARGET = 0.01
METER_TARGET_MS = 2.0
FIRST_AFTER_S = 0.05

# An engine of known speed: so long to the first token, then one token at a time, each at its appointed moment. The last
# chunk tells what its own clock said. Absolute times, so that no delay adds up; the last half millisecond is not slept
# but waited for, since sleeping is not exact.
SCRIPTED = """
import json, socket, sys, time
first_s, gap_s, tokens = float(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
def until(moment):
    while (left := moment - time.perf_counter()) > 0:
        if left > 0.0005: time.sleep(left - 0.0005)
def event(data):
    text = b"data: " + json.dumps(data).encode() + b"\\n\\n"
    return b"%x\\r\\n" % len(text) + text + b"\\r\\n"
def chunk(delta, finish=None, **more):
    return event({"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]} | more)
while True:
    connection, _ = listener.accept()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with connection, connection.makefile("rb") as file:
        while True:
            length = 0
            line = file.readline()
            if not line: break
            while (line := file.readline().strip()):
                if line.lower().startswith(b"content-length:"): length = int(line.split(b":")[1])
            file.read(length)
            asked = time.perf_counter()
            connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Type: text/event-stream\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n" + chunk({"role": "assistant"}))
            sent = []
            for number in range(tokens):
                until(asked + first_s + number * gap_s)
                sent.append(time.perf_counter())
                connection.sendall(chunk({"content": "word "}))
            timings = {"timings": {"first_ms": 1000 * (sent[0] - asked), "last_ms": 1000 * (sent[-1] - asked)}}
            connection.sendall(chunk({}, "stop", usage={"prompt_tokens": 1, "completion_tokens": tokens}, **timings) + event("[DONE]").replace(b'"[DONE]"', b"[DONE]").replace(b"10\\r\\n", b"e\\r\\n", 1) + b"0\\r\\n\\r\\n")
"""

Times = tuple[float, float]  # first token in ms, tokens per second


def ours(chat: Chat, fields: dict[str, Any]) -> tuple[Times, Any]:
    """Ask through our client."""
    at: list[float] = []
    start = time.perf_counter()
    for event in chat.stream(QUESTION, mode="instant", max_tokens=TOKENS, extra_body=fields):
        if isinstance(event, ContentDelta | ReasoningDelta):
            at.append(time.perf_counter())
        elif isinstance(event, Done):
            reply = event.reply
    return (1000 * (at[0] - start), (len(at) - 1) / (at[-1] - at[0])), reply


def curl(engine: Engine, fields: dict[str, Any]) -> Times:
    """Ask with curl, the key and the body from its standard input, and read its own trace."""
    body = {"model": engine.model, "messages": QUESTION, "stream": True, "max_tokens": TOKENS}
    body |= {"stream_options": {"include_usage": True}, "chat_template_kwargs": {"thinking": False}}
    config = (
        f'url = "{engine.base_url}/chat/completions"\nheader = "Authorization: Bearer {engine.api_key}"\n'
        f'header = "Content-Type: application/json"\ndata = {json.dumps(json.dumps(body | fields))}\n'
    )
    words = ["curl", "--silent", "--no-buffer", "--output", "/dev/null", "--trace-time", "--trace-ascii", "-"]
    done = subprocess.run(
        [*words, "--config", "-"], input=config, capture_output=True, text=True, check=True, errors="replace"
    )
    start, at, now, text = 0.0, [], 0.0, ""
    for line in [*done.stdout.splitlines(), "end"]:
        head = re.match(r"(\d\d:\d\d:\d\d\.\d{6}) (.*)", line)
        if head is None and re.match(r"[0-9a-f]{4,}: ", line):
            text += line.partition(": ")[2]
            continue
        if re.search(r'"(?:reasoning_)?content": ?"', text):
            at.append(now)
        text = ""
        if head is not None:
            now = datetime.strptime(head[1], "%H:%M:%S.%f").timestamp()  # noqa: DTZ007 - only differences count
            start = now if head[2].startswith("=> Send header") else start
            text = "" if head[2].startswith("<= Recv data") else ""
    return 1000 * (at[0] - start), (len(at) - 1) / (at[-1] - at[0])


def compare(
    engine: Engine, fields: dict[str, Any], rounds: int
) -> tuple[list[Times], list[Times], list[Any]]:
    """Take turns; return curl's times, ours, and our replies."""
    theirs, mine, replies = [], [], []
    with Chat(engine) as chat:
        for number in range(rounds + 2):
            turns: list[Callable[[], None]] = [
                lambda: theirs.append(curl(engine, fields)),
                lambda: (lambda got: (mine.append(got[0]), replies.append(got[1])))(ours(chat, fields)),  # type: ignore[func-returns-value]
            ]
            for turn in turns if number % 2 else reversed(turns):
                turn()
    return theirs[2:], mine[2:], replies[2:]  # the first two rounds warm up


def show(name: str, theirs: list[Times], mine: list[Times]) -> bool:
    """Print two lines of the table; return whether both targets are met."""
    first = [statistics.median(each[0] for each in side) for side in (theirs, mine)]
    speed = [statistics.median(each[1] for each in side) for side in (theirs, mine)]
    cost_ms = first[1] - first[0]
    cost = statistics.median(
        1 - ours_ / theirs_ for (_, theirs_), (_, ours_) in zip(theirs, mine, strict=True)
    )
    print(
        f"{name + ': first token, ms':<44}{first[0]:>9.2f}{first[1]:>9.2f}{cost_ms:>+9.2f}{FIRST_TARGET_MS:>8.1f}"
        f"{cost_ms / FIRST_TARGET_MS:>7.2f}"
    )
    print(
        f"{name + ': tokens/s':<44}{speed[0]:>9.1f}{speed[1]:>9.1f}{100 * cost:>+8.2f}%{100 * THROUGHPUT_TARGET:>7.1f}%"
        f"{cost / THROUGHPUT_TARGET:>7.2f}"
    )
    return cost_ms <= FIRST_TARGET_MS and cost <= THROUGHPUT_TARGET


def show_meter(replies: list[Any]) -> bool:
    """Print how far the meter is from what the scripted engine's own clock said."""
    first = [1000 * reply.meter.ttft_s - reply.meter.server["first_ms"] for reply in replies]
    span = [
        1000 * (TOKENS - 1) / reply.meter.tok_s
        - (reply.meter.server["last_ms"] - reply.meter.server["first_ms"])
        for reply in replies
    ]
    met = True
    for name, off in (("meter: first token, ms off", first), ("meter: first to last token, ms off", span)):
        worst = max(map(abs, off))
        middle = statistics.median(map(abs, off))
        met &= middle <= METER_TARGET_MS
        print(
            f"{name:<44}{'':>9}{middle:>9.2f}{worst:>9.2f}{METER_TARGET_MS:>8.1f}{middle / METER_TARGET_MS:>7.2f}"
        )
    return met


def main() -> int:
    """Print the table; exit 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20, help="of each comparison; default: 20")
    rounds = parser.parse_args().rounds
    if shutil.which("curl") is None:
        print("curl is not installed: there is nothing to compare with", file=sys.stderr)
        return 1
    print(
        f"{rounds} rounds of {TOKENS} tokens; {platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    )
    print(f"{'':<44}{'curl':>9}{'ours':>9}{'cost':>9}{'target':>8}{'ratio':>7}")
    met = True
    with LlamaServer(
        nano_path(), alias="nano", settings=Settings(ctx_size=4096, parallel=1, threads=1)
    ) as server:
        met &= show(
            "llama-server, nano", *compare(server.engine, {"ignore_eos": True, "temperature": 0}, rounds)[:2]
        )
    last = []
    for per_s in (100, 1000):
        words = [sys.executable, "-c", SCRIPTED, str(FIRST_AFTER_S), str(1 / per_s), str(TOKENS)]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
            try:
                port = int(process.stdout.readline() if process.stdout else 0)
                socket.create_connection(("127.0.0.1", port)).close()
                engine = Engine("llama-server", f"http://127.0.0.1:{port}/v1", "scripted", "kimi-k2.5")
                theirs, mine, replies = compare(engine, {}, rounds if per_s > 500 else max(rounds // 4, 3))
            finally:
                process.kill()
        met &= show(f"scripted engine at {per_s} tokens/s", theirs, mine)
        last = replies
    print(f"{'':<44}{'':>9}{'median':>9}{'worst':>9}")
    met &= show_meter(last)
    return int(not met)


if __name__ == "__main__":
    sys.exit(main())
