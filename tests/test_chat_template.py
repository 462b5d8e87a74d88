"""Kimi K2.5's prompt format, as our template writes it: the prompts stand here in full."""

import json
import urllib.request

import pytest

from kimi_nb.model import prompt

SYSTEM = "<|im_system|>system<|im_middle|>You are Kimi, an AI assistant created by Moonshot AI.<|im_end|>"
THINK = "<|im_assistant|>assistant<|im_middle|><think>"
INSTANT = "<|im_assistant|>assistant<|im_middle|><think></think>"

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a <city> & 'more', é 北京",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
WEATHER_JSON = (
    '[{"type":"function","function":{"name":"get_weather","description":"Weather of a <city> & \'more\', é 北京",'
    '"parameters":{"type":"object","properties":{"city":{"type":"string"}},"required":["city"]}}}]'
)
TS = "# Tools\n\n## functions\nnamespace functions {\ntype get_weather = (_: {\n  city: string\n}) => any;\n}\n"


def user(text):
    return {"role": "user", "content": text}


def answer(text, reasoning=None):
    said = {"role": "assistant", "content": text}
    return said if reasoning is None else {**said, "reasoning_content": reasoning}


def calls(*named, content="", reasoning=None):
    tool_calls = [
        {"id": id_, "type": "function", "function": {"name": id_[10:-2], "arguments": arguments}}
        for id_, arguments in named
    ]
    return {**answer(content, reasoning), "tool_calls": tool_calls}


def result(id_, text, **more):
    return {"role": "tool", "tool_call_id": id_, "content": text, **more}


CASES = {
    "one turn, thinking": (
        {"messages": [user("Hi")]},
        f"{SYSTEM}<|im_user|>user<|im_middle|>Hi<|im_end|>{THINK}",
    ),
    "one turn, instant": (
        {"messages": [user("Hi")], "thinking": False},
        f"{SYSTEM}<|im_user|>user<|im_middle|>Hi<|im_end|>{INSTANT}",
    ),
    "a system message takes the place of Kimi's own": (
        {"messages": [{"role": "system", "content": "Be brief."}, user("Hi")]},
        f"<|im_system|>system<|im_middle|>Be brief.<|im_end|><|im_user|>user<|im_middle|>Hi<|im_end|>{THINK}",
    ),
    "a later system message stays where it is": (
        {"messages": [user("Hi"), {"role": "system", "content": "Now French."}]},
        f"{SYSTEM}<|im_user|>user<|im_middle|>Hi<|im_end|><|im_system|>system<|im_middle|>Now French.<|im_end|>{THINK}",
    ),
    "a user with a name": (
        {"messages": [{**user("Hi"), "name": "Ada"}]},
        f"{SYSTEM}<|im_user|>Ada<|im_middle|>Hi<|im_end|>{THINK}",
    ),
    "white space, line ends and markup are kept": (
        {"messages": [user("  a\n\n{{ b }} <b>&amp;</b>\t'c' \n")]},
        f"{SYSTEM}<|im_user|>user<|im_middle|>  a\n\n{{{{ b }}}} <b>&amp;</b>\t'c' \n<|im_end|>{THINK}",
    ),
    "text parts are joined as they are": (
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "a "}, {"type": "text", "text": "b"}]}
            ]
        },
        f"{SYSTEM}<|im_user|>user<|im_middle|>a b<|im_end|>{THINK}",
    ),
    "reasoning of finished answers is dropped": (
        {"messages": [user("1"), answer("one", "hm"), user("2"), answer("two", "hm hm"), user("3")]},
        (
            f"{SYSTEM}<|im_user|>user<|im_middle|>1<|im_end|><|im_assistant|>assistant<|im_middle|><think></think>one<|im_end|>"
            "<|im_user|>user<|im_middle|>2<|im_end|><|im_assistant|>assistant<|im_middle|><think></think>two<|im_end|>"
            f"<|im_user|>user<|im_middle|>3<|im_end|>{THINK}"
        ),
    ),
    "tools as JSON": (
        {"messages": [user("Hi")], "tools": [WEATHER]},
        (
            f"<|im_system|>tool_declare<|im_middle|>{WEATHER_JSON}<|im_end|>{SYSTEM}"
            f"<|im_user|>user<|im_middle|>Hi<|im_end|>{THINK}"
        ),
    ),
    "tools as TypeScript": (
        {"messages": [user("Hi")], "tools": [WEATHER], "tools_ts_str": TS},
        f"<|im_system|>tool_declare<|im_middle|>{TS}<|im_end|>{SYSTEM}<|im_user|>user<|im_middle|>Hi<|im_end|>{THINK}",
    ),
    "in a round of tool calls the reasoning is kept": (
        {
            "messages": [
                user("Weather?"),
                calls(("functions.get_weather:0", '{"city":"Rome"}'), reasoning="I ask."),
                result("functions.get_weather:0", '{"sky":"clear"}'),
            ],
            "tools": [WEATHER],
            "tools_ts_str": TS,
        },
        (
            f"<|im_system|>tool_declare<|im_middle|>{TS}<|im_end|>{SYSTEM}<|im_user|>user<|im_middle|>Weather?<|im_end|>"
            "<|im_assistant|>assistant<|im_middle|><think>I ask.</think><|tool_calls_section_begin|><|tool_call_begin|>"
            'functions.get_weather:0<|tool_call_argument_begin|>{"city":"Rome"}<|tool_call_end|><|tool_calls_section_end|>'
            '<|im_end|><|im_system|>tool<|im_middle|>## Return of functions.get_weather:0\n{"sky":"clear"}<|im_end|>'
            f"{THINK}"
        ),
    ),
    "instant mode drops the reasoning of the round too": (
        {
            "messages": [
                user("Weather?"),
                calls(("functions.get_weather:0", "{}"), reasoning="I ask."),
                result("functions.get_weather:0", "clear"),
            ],
            "thinking": False,
        },
        (
            f"{SYSTEM}<|im_user|>user<|im_middle|>Weather?<|im_end|><|im_assistant|>assistant<|im_middle|><think></think>"
            "<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>{}"
            "<|tool_call_end|><|tool_calls_section_end|><|im_end|><|im_system|>tool<|im_middle|>"
            f"## Return of functions.get_weather:0\nclear<|im_end|>{INSTANT}"
        ),
    ),
    "parallel calls, text before them, and a result that names its tool": (
        {
            "messages": [
                user("Both?"),
                calls(
                    ("functions.f:0", '{"a":1.0}'),
                    ("functions.g:1", '{"b": [1, 2]}'),
                    content="Looking.",
                    reasoning="r",
                ),
                result("functions.f:0", "x"),
                result("functions.g:1", "y", name="g"),
            ]
        },
        (
            f"{SYSTEM}<|im_user|>user<|im_middle|>Both?<|im_end|><|im_assistant|>assistant<|im_middle|><think>r</think>Looking."
            '<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{"a":1.0}<|tool_call_end|>'
            '<|tool_call_begin|>functions.g:1<|tool_call_argument_begin|>{"b": [1, 2]}<|tool_call_end|>'
            "<|tool_calls_section_end|><|im_end|><|im_system|>tool<|im_middle|>## Return of functions.f:0\nx<|im_end|>"
            f"<|im_system|>g<|im_middle|>## Return of functions.g:1\ny<|im_end|>{THINK}"
        ),
    ),
    "two rounds, then a finished answer, then a new round": (
        {
            "messages": [
                user("1"),
                calls(("functions.f:0", "{}"), reasoning="a"),
                result("functions.f:0", "x"),
                calls(("functions.f:1", "{}"), reasoning="b"),
                result("functions.f:1", "y"),
                answer("done", "c"),
                user("2"),
                calls(("functions.f:2", "{}"), reasoning="d"),
                result("functions.f:2", "z"),
            ]
        },
        (
            f"{SYSTEM}<|im_user|>user<|im_middle|>1<|im_end|><|im_assistant|>assistant<|im_middle|><think></think>"
            "<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{}<|tool_call_end|>"
            "<|tool_calls_section_end|><|im_end|><|im_system|>tool<|im_middle|>## Return of functions.f:0\nx<|im_end|>"
            "<|im_assistant|>assistant<|im_middle|><think></think>"
            "<|tool_calls_section_begin|><|tool_call_begin|>functions.f:1<|tool_call_argument_begin|>{}<|tool_call_end|>"
            "<|tool_calls_section_end|><|im_end|><|im_system|>tool<|im_middle|>## Return of functions.f:1\ny<|im_end|>"
            "<|im_assistant|>assistant<|im_middle|><think></think>done<|im_end|><|im_user|>user<|im_middle|>2<|im_end|>"
            "<|im_assistant|>assistant<|im_middle|><think>d</think>"
            "<|tool_calls_section_begin|><|tool_call_begin|>functions.f:2<|tool_call_argument_begin|>{}<|tool_call_end|>"
            f"<|tool_calls_section_end|><|im_end|><|im_system|>tool<|im_middle|>## Return of functions.f:2\nz<|im_end|>{THINK}"
        ),
    ),
    "a call whose content is null": (
        {
            "messages": [
                user("1"),
                {**calls(("functions.f:0", "{}")), "content": None},
                result("functions.f:0", "x"),
            ]
        },
        (
            f"{SYSTEM}<|im_user|>user<|im_middle|>1<|im_end|><|im_assistant|>assistant<|im_middle|><think></think>"
            "<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{}<|tool_call_end|>"
            "<|tool_calls_section_end|><|im_end|><|im_system|>tool<|im_middle|>## Return of functions.f:0\nx<|im_end|>"
            f"{THINK}"
        ),
    ),
    "numbers in arguments keep all their digits": (
        {
            "messages": [
                user("1"),
                calls(("functions.f:0", '{"x":3.14159265358979,"n":12345678.5}')),
                result("functions.f:0", "x"),
            ]
        },
        (
            f"{SYSTEM}<|im_user|>user<|im_middle|>1<|im_end|><|im_assistant|>assistant<|im_middle|><think></think>"
            "<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>"
            '{"x":3.14159265358979,"n":12345678.5}<|tool_call_end|><|tool_calls_section_end|><|im_end|>'
            f"<|im_system|>tool<|im_middle|>## Return of functions.f:0\nx<|im_end|>{THINK}"
        ),
    ),
}

IMAGE_MESSAGES = [
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "Which is older?"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
            {"type": "image", "image": "b.png"},
            {"type": "text", "text": "And this?"},
            {"type": "video_url", "video_url": {"url": "c.mp4"}},
        ],
    }
]
IMAGE_PROMPT = (
    f"{SYSTEM}<|im_user|>user<|im_middle|>Which is older?"
    "<|media_begin|>image<|media_content|><|media_pad|><|media_end|>\n"
    "<|media_begin|>image<|media_content|><|media_pad|><|media_end|>\n"
    f"And this?<|kimi_k25_video_placeholder|><|im_end|>{THINK}"
)


def post(server, path, body):
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.port}{path}",
        data=json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {server.api_key}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        return json.load(reply)


@pytest.mark.parametrize("name", CASES)
def test_our_renderer_writes_the_format(name):
    asked, expected = CASES[name]
    assert prompt.render(**asked) == expected


@pytest.mark.engine
@pytest.mark.parametrize("name", CASES)
def test_llama_server_writes_the_same(server, name):
    asked, expected = CASES[name]
    switches = {key: asked[key] for key in ("thinking", "tools_ts_str") if key in asked}
    body = {"messages": asked["messages"], "tools": asked.get("tools", []), "chat_template_kwargs": switches}
    assert post(server, "/apply-template", body)["prompt"] == expected


def test_images_become_kimis_placeholders():
    assert prompt.render(IMAGE_MESSAGES) == IMAGE_PROMPT
    assert prompt.IMAGE in IMAGE_PROMPT


@pytest.mark.engine
def test_llama_servers_jinja_writes_images_the_same(server):
    """Without a vision projector the server refuses images, so its template engine is handed them directly."""
    body = {"messages": [user("unused")], "chat_template_kwargs": {"messages": IMAGE_MESSAGES}}
    assert post(server, "/apply-template", body)["prompt"] == IMAGE_PROMPT


def test_without_generation_prompt_the_conversation_just_ends():
    assert prompt.render([user("Hi"), answer("Ho", "hm")], add_generation_prompt=False) == (
        f"{SYSTEM}<|im_user|>user<|im_middle|>Hi<|im_end|><|im_assistant|>assistant<|im_middle|><think></think>Ho<|im_end|>"
    )


def test_no_messages_at_all_still_makes_a_prompt():
    assert prompt.render([]) == SYSTEM + THINK


def test_arguments_given_as_an_object_are_written_compactly():
    given = calls(("functions.f:0", {"b": "é <", "a": [1, None]}))
    assert '<|tool_call_argument_begin|>{"b":"é <","a":[1,null]}<|tool_call_end|>' in prompt.render(
        [user("1"), given]
    )
    assert given["tool_calls"][0]["function"]["arguments"] == {"b": "é <", "a": [1, None]}, (
        "the caller's data changed"
    )


def test_special_tokens_stand_where_kimi_has_them():
    tokens = prompt.special_tokens()
    places = {
        "[BOS]": 163584, "[EOS]": 163585, "<|im_end|>": 163586, "<|im_user|>": 163587, "<|im_assistant|>": 163588,
        "<|start_header_id|>": 163590, "<|end_header_id|>": 163591, "[EOT]": 163593, "<|im_system|>": 163594,
        "<|tool_calls_section_begin|>": 163595, "<|tool_calls_section_end|>": 163596, "<|tool_call_begin|>": 163597,
        "<|tool_call_argument_begin|>": 163598, "<|tool_call_end|>": 163599, "<|im_middle|>": 163601,
        "<|media_begin|>": 163602, "<|media_content|>": 163603, "<|media_end|>": 163604, "<|media_pad|>": 163605,
        "<think>": 163606, "</think>": 163607, "[UNK]": 163838, "[PAD]": 163839,
    }  # fmt: skip
    assert {token: prompt.KIMI_FIRST_SPECIAL + tokens.index(token) for token in places} == places
    assert len(set(tokens)) == len(tokens) == 256


def test_every_marker_of_the_template_is_a_special_token():
    markers = [getattr(prompt, name) for name in prompt.__all__ if name.isupper()]
    template = prompt.chat_template()
    for marker in (
        text for text in markers if isinstance(text, str) and text.startswith("<") and "\n" not in text
    ):
        assert marker in prompt.special_tokens()
        assert marker in template
    assert prompt.DEFAULT_SYSTEM in template


def test_tool_call_ids_are_kimis():
    assert prompt.tool_call_id("get_weather", 3) == "functions.get_weather:3"
