"""vLLM and Moonshot's API as they are strict: a scripted engine that refuses what they refuse, and answers like a model.

It knows a little: the weather's tool, searching code, tickets, and how to fill a schema. What it refuses is what the
real ones refuse, in their words.
"""

from __future__ import annotations

import json
import re

from scripted_engine import Act, say


def refuse(message: str) -> Act:
    return Act(status=400, body={"error": {"message": message, "type": "invalid_request_error"}})


def strict(kind: str):
    """Return a script for :class:`ScriptedEngine` that behaves like ``kind``."""

    def script(body: dict, _number: int) -> Act:
        trouble = moonshot_refuses(body) if kind == "moonshot" else vllm_refuses(body)
        return refuse(trouble) if trouble else answer(body, thinking=thinks(kind, body))

    return script


def thinks(kind: str, body: dict) -> bool:
    if kind == "moonshot":
        return (body.get("thinking") or {}).get("type") != "disabled"
    return (body.get("chat_template_kwargs") or {}).get("thinking", True)


def moonshot_refuses(body: dict) -> str | None:
    for name in ("temperature", "top_p"):
        if name in body:
            return f"invalid {name}: only 1 is allowed for this model"
    for name in ("chat_template_kwargs", "min_p", "grammar", "return_progress"):
        if name in body:
            return f"unknown field {name}"
    for number, message in enumerate(body["messages"]):
        if message.get("tool_calls") and thinks("moonshot", body) and not message.get("reasoning_content"):
            return f"thinking is enabled but reasoning_content is missing in assistant tool call message at index {number}"
    return None


def vllm_refuses(body: dict) -> str | None:
    for name in ("grammar", "return_progress"):
        if name in body:
            return f"extra field {name} is not permitted"
    length = sum(len(str(message.get("content") or "").split()) for message in body["messages"])
    if length > 3000:
        return f"This model's maximum context length is 3000 tokens. However, you requested {length} tokens"
    return None


def answer(body: dict, *, thinking: bool) -> Act:
    reasoning = "let me think about that" if thinking else ""
    last = body["messages"][-1]
    asked = next((m["content"] for m in reversed(body["messages"]) if m["role"] == "user"), "")
    if form := (body.get("response_format") or {}).get("json_schema"):
        assert form["schema"]
        return say('{"sum": "3 + 4 = 7"}', reasoning)
    if thinking and (body.get("max_tokens") or 99) <= 8:
        return say("", "let me", finish="length")
    names = [each["function"]["name"] for each in body.get("tools") or ()]
    done = [m for m in body["messages"] if m["role"] == "tool"]
    if calls := wanted(asked, names, done, after_tool=last["role"] == "tool"):
        ids = [(f"call_{number}", name, json.dumps(values)) for number, (name, values) in enumerate(calls)]
        return say("", reasoning, ids)
    return say(f"That is all: {last['content'][:40]}", reasoning)


def wanted(asked: str, names: list[str], done: list[dict], *, after_tool: bool) -> list[tuple[str, dict]]:
    """Return the calls that a sensible model would make now."""
    if after_tool and not ("search_code" in names and "read_file" in names and len(done) == 1):
        return []
    if "get_weather" in names and "weather" in asked:
        return [("get_weather", {"city": city}) for city in re.findall(r"Rome|Oslo|Paris", asked)]
    if after_tool and (found := re.search(r'"file": ?"([^"]+)"', done[0]["content"])):
        return [("read_file", {"path": found[1]})]
    if "search_code" in names and (found := re.search(r"(?:Where is|Find) (\w+)", asked)):
        return [("search_code", {"query": found[1]})]
    if "create_ticket" in names and "ticket" in asked:
        return [("create_ticket", {"title": "budget review", "priority": "high"})]
    return []
