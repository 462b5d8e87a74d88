"""What the shipped nano can do, on a real server; ``benchmarks/judge_nano.py`` asks for much more of the same."""

import json
from typing import Literal

import pytest

from kimi_nb.chat import Chat, tool
from kimi_nb.chat.sample_tools import calculator
from kimi_nb.files import sha256_file
from kimi_nb.nano import nano_facts, nano_path
from kimi_nb.nano.exam import examine, held_out
from kimi_nb.nano.world import EDITION

pytestmark = pytest.mark.engine


def test_held_out_conversations(server):
    """The bounds are what 100 answers can show of the shares that the model card states for 3,000."""
    tally = examine(server.engine, held_out(404, 100), at_once=2)
    report = {question: tally.wrong[question, kind] for question, kind in tally.wrong}
    assert tally.count("format kept")[1] >= 100
    assert tally.share("format kept") == 1, report
    assert tally.share("mode obeyed") == 1, report
    assert tally.share("decision") >= 0.95, report
    assert tally.share("exact call") >= 0.93, report
    assert tally.share("answer from result") >= 0.95, report


def test_the_recommended_sampling_keeps_the_format(server):
    tally = examine(server.engine, held_out(405, 24), sampled=True, at_once=2)
    assert tally.count("format kept")[1] >= 24
    assert tally.share("format kept") >= 0.9, dict(tally.wrong)


def test_the_exam_covers_the_world():
    samples = held_out(1, 1500)
    kinds = {sample.kind for sample in samples}
    assert kinds >= {"talk", "facts", "sum", "units", "list", "rewrite"}
    assert kinds >= {
        f"tool.{kind}" for kind in ("single", "parallel", "mixed", "chain", "several", "error", "none")
    }
    assert kinds >= {"tool.foreign", "tool.own"}
    assert {sample.thinking for sample in samples} == {True, False}
    assert nano_facts()["world"] == EDITION, "the weights learnt another edition than the exam asks for"


def test_the_shipped_file_is_the_one_that_was_measured():
    assert sha256_file(nano_path()) == nano_facts()["sha256"]
    assert nano_path().stat().st_size <= 20_000_000
    card = (nano_path().parents[1] / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert nano_facts()["sha256"] in card


def test_the_exam_finds_faults(server):
    """An exam that cannot fail shows nothing: a server that may write two tokens fails it."""
    from unittest.mock import patch

    with patch("kimi_nb.nano.exam._LONGEST", 2):
        tally = examine(server.engine, held_out(404, 2)[:2], at_once=1)
    assert tally.share("format kept") == 0
    assert json.dumps(list(tally.wrong.values()))


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "name of the city"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
OTHERS = (
    "Please email Anna about holidays.",
    "Send an email to Anna about the budget.",
    "Please translate hello into French.",
    "What is the price of AAPL?",
    "Set a timer for 5 minutes.",
    "Look for find_build in the code.",
    "What time is it in Rome?",
    "Please open a ticket: printer is broken.",
    "What is Anna's phone number?",
    "Where is my order 4711?",
    "Any news about chess?",
    "Who are you?",
)


@pytest.mark.parametrize("mode", ["thinking", "instant"])
def test_one_tool_is_not_called_for_everything(server, mode):
    """A rule with a story: with this very tool nano called it for each of these, and no exam had shown it.

    See ``test_nothing_in_a_declaration_tells_that_its_tool_is_called`` for what had misled it.
    """
    with Chat(server.engine) as chat:
        called = [
            asked
            for asked in OTHERS
            if chat.ask(asked, mode=mode, tools=[WEATHER], temperature=0.0, max_tokens=200).tool_calls
        ]
        assert chat.ask("Weather in Rome?", mode=mode, tools=[WEATHER], temperature=0.0).tool_calls
    assert len(called) <= 1, called


@tool
def get_weather(city: str) -> str:
    """Get the current weather for a city."""
    return city


@tool
def send_email(to: str, subject: str, body: str) -> str:
    """Send an email."""
    return to + subject + body


@tool
def create_ticket(title: str, priority: Literal["low", "high"]) -> str:
    """Create a ticket."""
    return title + priority


@tool
def get_time(city: str) -> str:
    """Tell what time it is in a city."""
    return city


@tool
def stock_price(symbol: str) -> str:
    """The price of a stock."""
    return symbol


@tool
def set_timer(minutes: int) -> str:
    """Set a timer for some minutes."""
    return str(minutes)


@tool
def translate(text: str, language: str) -> str:
    """Translate a text into another language."""
    return text + language


FOUR = (get_weather, create_ticket, get_time, send_email)
AS_PEOPLE_ASK = (
    ((get_weather,), "What is the weather in Rome?", get_weather),
    ((get_weather,), "What's the weather like in Oslo today?", get_weather),
    ((get_weather, get_time), "What time is it in Tokyo?", get_time),
    ((get_weather, get_time), "Is it cold in Berlin?", get_weather),
    ((get_weather,), "What time is it in Tokyo?", None),
    ((get_time,), "What is the weather in Rome?", None),
    ((get_weather,), "How many experts does Kimi K2.5 have?", None),
    ((get_weather, send_email), "Hello!", None),
    ((get_weather, send_email), "Send an email to Anna about the budget.", send_email),
    ((get_weather, stock_price), "What is the price of AAPL?", stock_price),
    ((get_weather,), "What is the price of AAPL?", None),
    ((set_timer,), "Set a timer for 10 minutes.", set_timer),
    ((get_weather,), "Set a timer for 10 minutes.", None),
    ((translate,), "Translate good morning into French.", translate),
    ((get_weather,), "Translate good morning into French.", None),
    ((calculator,), "Compute 128 * 37.", calculator),
    ((calculator,), "What is the weather in Rome?", None),
    ((calculator,), "Email Anna about lunch.", None),
    ((create_ticket,), "Create a ticket: printer is broken, high priority.", create_ticket),
    ((get_weather, create_ticket), "Thank you!", None),
    (FOUR, "Weather in Paris, please.", get_weather),
    (FOUR, "What is the price of NVDA?", None),
    (FOUR, "Set a timer for 3 minutes.", None),
    ((calculator, get_weather), "Who are you?", None),
    ((get_weather,), "What is 3 + 4?", None),
    ((get_weather,), "Give me a list of three colours.", None),
    ((send_email,), "Write this in capitals: hello", None),
    ((get_weather,), "How many grams are 3 kg?", None),
)


@pytest.mark.parametrize("mode", ["thinking", "instant"])
def test_tools_as_people_write_them(server, mode):
    """Functions with one line of docstring and plain questions: none comes from the world's own code."""
    wrong = []
    with Chat(server.engine) as chat:
        for tools, asked, wanted in AS_PEOPLE_ASK:
            reply = chat.ask(asked, mode=mode, tools=list(tools), temperature=0.0, max_tokens=200)
            called = [call.name for call in reply.tool_calls]
            if called != ([wanted.name] if wanted else []):
                wrong.append((asked, called, reply.content))
    assert len(wrong) <= 1, wrong
