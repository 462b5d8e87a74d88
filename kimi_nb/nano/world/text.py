"""A conversation as the text and the tokens that training reads. Needs no PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kimi_nb.model import prompt
from kimi_nb.model.tools_ts import encode_tools
from kimi_nb.nano.vocab import vocabulary

if TYPE_CHECKING:
    from kimi_nb.nano.world import Sample

__all__ = ["NEVER", "READ", "WRITTEN", "pieces", "tokens_of"]

READ, WRITTEN, NEVER = 0, 1, 2
"""What a token is to training: read in the prompt, written by the model, or never to be predicted."""


def pieces(sample: Sample) -> list[tuple[str, bool]]:
    """Return a conversation's text in Kimi's format, in pieces, each with whether the model writes it.

    Joined up to a piece that the model writes, the text is the prompt llama-server makes of the messages
    before it; ``tests/test_nano_training.py`` holds it to that.
    """
    start = max(number for number, message in enumerate(sample.messages) if message["role"] == "user")
    answers = (n for n, m in enumerate(sample.messages) if m["role"] == "assistant" and "tool_calls" not in m)
    last_answer = max((number for number in answers if number < start), default=-1)
    text = ""
    done: list[tuple[str, bool]] = []
    if sample.tools:
        text += f"{prompt.IM_SYSTEM}tool_declare{prompt.IM_MIDDLE}{encode_tools(sample.tools)}{prompt.IM_END}"
    if sample.messages[0]["role"] != "system":
        text += f"{prompt.IM_SYSTEM}system{prompt.IM_MIDDLE}{prompt.DEFAULT_SYSTEM}{prompt.IM_END}"
    for number, message in enumerate(sample.messages):
        content = message["content"]
        match message["role"]:
            case "system":
                text += f"{prompt.IM_SYSTEM}system{prompt.IM_MIDDLE}{content}{prompt.IM_END}"
            case "user":
                text += f"{prompt.IM_USER}user{prompt.IM_MIDDLE}{content}{prompt.IM_END}"
            case "tool":
                text += f"{prompt.IM_SYSTEM}tool{prompt.IM_MIDDLE}## Return of {message['tool_call_id']}\n"
                text += f"{content}{prompt.IM_END}"
            case _:
                text += f"{prompt.IM_ASSISTANT}assistant{prompt.IM_MIDDLE}{prompt.THINK_BEGIN}"
                thought = message["reasoning_content"] if sample.thinking and number > last_answer else ""
                written = f"{content}{_calls(message)}{prompt.IM_END}"
                if sample.thinking:
                    written = f"{thought}{prompt.THINK_END}{written}"
                else:
                    text += prompt.THINK_END
                if number > start:
                    done += [(text, False), (written, True)]
                    text = ""
                else:
                    text += written
    return done


def _calls(message: dict[str, Any]) -> str:
    if not message.get("tool_calls"):
        return ""
    inner = ""
    for call in message["tool_calls"]:
        arguments = call["function"]["arguments"]
        inner += f"{prompt.CALL_BEGIN}{call['id']}{prompt.CALL_ARGUMENT_BEGIN}{arguments}{prompt.CALL_END}"
    return f"{prompt.CALLS_BEGIN}{inner}{prompt.CALLS_END}"


def tokens_of(sample: Sample) -> tuple[list[int], list[int]]:
    """Return a conversation's tokens, and for each :data:`READ`, :data:`WRITTEN` or :data:`NEVER`.

    A ``</think>`` that the template puts in (instant mode, earlier answers) is never to be predicted: were it
    expected, however little, the model would now and then stop thinking when it is to think.
    """
    tokens: list[int] = []
    learn: list[int] = []
    end_of_thought = vocabulary().id(prompt.THINK_END)
    for text, written in pieces(sample):
        ids = vocabulary().encode(text)
        tokens += ids
        learn += [WRITTEN if written else NEVER if token == end_of_thought else READ for token in ids]
    return tokens, learn
