"""What our client costs beside raw curl, and how true its clock is.

    python benchmarks/bench_client.py [--rounds N]

Side by side: curl and :class:`kimi_nb.chat.Chat` take turns with the same question, on a real llama-server
with nano, and on a scripted engine of known speed that runs in a process of its own. curl's times are its own
(its trace), and begin when it sends, with the connection already made; ours begin with the call, before the
request is even built. The cost in first-token time is the difference of the medians; the cost in throughput
is the median over the rounds of one minus the ratio of the speeds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from typing import Any

from kimi_nb.chat import Chat, ContentDelta, Done, ReasoningDelta
from kimi_nb.engine import Engine, LlamaServer
from kimi_nb.nano import nano_path
from kimi_nb.plan import Settings

QUESTION = [{"role": "user", "content": "How many experts does Kimi K2.5 have?"}]
TOKENS = 400
FIRST_TARGET_MS = 5.0
THROUGHPUT_TARGET = 0.01
METER_TARGET_MS = 2.0
FIRST_AFTER_S = 0.05

# An engine of known speed: so long to the first token, then one token at a time, each at its moment.
# The last chunk tells what its own clock said. Absolute times, so that no delay adds up; the last half
# millisecond is not slept but waited for, since sleeping is not exact.
SCRIPTED = r"""
import json, socket, sys, time
first_s, gap_s, tokens = float(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
def until(moment):
    while (left := moment - time.perf_counter()) > 0:
        if left > 0.0005: time.sleep(left - 0.0005)
def chunk(delta, finish=None, **more):
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    data = {"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": [choice]} | more
    text = b"data: " + json.dumps(data).encode() + b"\n\n"
    return b"%x\r\n" % len(text) + text + b"\r\n"
while True:
    connection, _ = listener.accept()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with connection, connection.makefile("rb") as file:
        while file.readline():
            length = 0
            while (line := file.readline().strip()):
                if line.lower().startswith(b"content-length:"): length = int(line.split(b":")[1])
            file.read(length)
            asked = time.perf_counter()
            connection.sendall(HEAD + chunk({"role": "assistant"}))
            sent = []
            for number in range(tokens):
                until(asked + first_s + number * gap_s)
                sent.append(time.perf_counter())
                connection.sendall(chunk({"content": "word "}))
            clock = {"first_ms": 1000 * (sent[0] - asked), "last_ms": 1000 * (sent[-1] - asked)}
            usage = {"prompt_tokens": 1, "completion_tokens": tokens}
            connection.sendall(chunk({}, "stop", usage=usage, timings=clock) + END)
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
    with tempfile.NamedTemporaryFile() as trace:  # not a pipe, whose reader would take turns with the server
        words = ["curl", "--silent", "--no-buffer", "--output", os.devnull, "--trace-time"]
        words += ["--trace-ascii", trace.name, "--config", "-"]
        subprocess.run(words, input=config.encode(), check=True)
        told = trace.read().decode(errors="replace")
    start, at, now, received, text = 0.0, [], 0.0, False, ""
    for line in [*told.splitlines(), "00:00:00.000000 end"]:
        head = re.match(r"(\d\d:\d\d:\d\d\.\d{6}) (.*)", line)
        if head is None:
            text += line.partition(": ")[2]
            continue
        if received:  # what came at once may hold several tokens
            at += [now] * len(re.findall(r'"(?:reasoning_)?content": ?"', text))
        text, received = "", head[2].startswith("<= Recv data")
        now = datetime.strptime(head[1], "%H:%M:%S.%f").timestamp()  # noqa: DTZ007 - only differences count
        if head[2].startswith("=> Send header"):
            start = now
    return 1000 * (at[0] - start), (len(at) - 1) / (at[-1] - at[0])


def compare(
    engine: Engine, fields: dict[str, Any], rounds: int
) -> tuple[list[Times], list[Times], list[Any]]:
    """Take turns; return curl's times, ours, and our replies."""
    theirs, mine, replies = [], [], []
    with Chat(engine) as chat:
        for number in range(rounds + 2):
            for who in ("curl", "ours") if number % 2 else ("ours", "curl"):
                if who == "curl":
                    theirs.append(curl(engine, fields))
                else:
                    times, reply = ours(chat, fields)
                    mine.append(times)
                    replies.append(reply)
    return theirs[2:], mine[2:], replies[2:]  # the first two rounds warm up


def row(name: str, first: str, second: str, third: str, target: str, ratio: float | str) -> None:
    """Print a row of the table."""
    last = ratio if isinstance(ratio, str) else f"{ratio:.2f}"
    print(f"{name:<44}{first:>9}{second:>9}{third:>9}{target:>8}{last:>7}")


def show(name: str, theirs: list[Times], mine: list[Times]) -> bool:
    """Print two rows of the table; return whether both targets are met."""
    first = [statistics.median(each[0] for each in side) for side in (theirs, mine)]
    speed = [statistics.median(each[1] for each in side) for side in (theirs, mine)]
    cost_ms = first[1] - first[0]
    cost = statistics.median(1 - us[1] / them[1] for them, us in zip(theirs, mine, strict=True))
    ms = [f"{each:.2f}" for each in first]
    row(
        f"{name}: first token, ms",
        *ms,
        f"{cost_ms:+.2f}",
        f"{FIRST_TARGET_MS:.1f}",
        cost_ms / FIRST_TARGET_MS,
    )
    per_s = [f"{each:.1f}" for each in speed]
    target = f"{100 * THROUGHPUT_TARGET:.1f}%"
    row(f"{name}: tokens/s", *per_s, f"{100 * cost:+.2f}%", target, cost / THROUGHPUT_TARGET)
    return cost_ms <= FIRST_TARGET_MS and cost <= THROUGHPUT_TARGET


def show_meter(replies: list[Any]) -> bool:
    """Print how far the meter is from what the scripted engine's own clock said."""
    told = [reply.meter for reply in replies]
    first = [1000 * each.ttft_s - each.server["first_ms"] for each in told]
    gaps = TOKENS - 1
    span = [1000 * gaps / each.tok_s - (each.server["last_ms"] - each.server["first_ms"]) for each in told]
    met = True
    for name, off in (("meter: first token, ms off", first), ("meter: first to last token, ms off", span)):
        middle, worst = statistics.median(map(abs, off)), max(map(abs, off))
        met &= middle <= METER_TARGET_MS
        target = f"{METER_TARGET_MS:.1f}"
        row(name, "", f"{middle:.2f}", f"{worst:.2f}", target, middle / METER_TARGET_MS)
    return met


def main() -> int:
    """Print the table; exit 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20, help="of each comparison; default: 20")
    rounds = parser.parse_args().rounds
    if shutil.which("curl") is None:
        print("curl is not installed: there is nothing to compare with", file=sys.stderr)
        return 1
    where = f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    print(f"{rounds} rounds of {TOKENS} tokens; {where}")
    row("", "curl", "ours", "cost", "target", "ratio")
    settings = Settings(ctx_size=4096, parallel=1, threads=1)
    with LlamaServer(nano_path(), alias="nano", settings=settings) as server:
        theirs, mine, replies = compare(server.engine, {"ignore_eos": True, "temperature": 0}, rounds)
    met = show("llama-server, nano", theirs, mine)
    for per_s in (100, 1000):
        words = [sys.executable, "-c", SCRIPTED, str(FIRST_AFTER_S), str(1 / per_s), str(TOKENS)]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
            try:
                port = int(process.stdout.readline() if process.stdout else 0)
                engine = Engine("llama-server", f"http://127.0.0.1:{port}/v1", "scripted", "kimi-k2.5")
                theirs, mine, replies = compare(engine, {}, max(rounds * per_s // 1000, 3))
            finally:
                process.kill()
        met &= show(f"scripted, {per_s} tokens/s", theirs, mine)
    row("", "", "median", "worst", "target", "ratio")
    met &= show_meter(replies)
    return int(not met)


if __name__ == "__main__":
    sys.exit(main())
