"""Answers that are held to a JSON schema, also where the engine would quietly ignore it.

llama-server takes ``response_format`` for Kimi, answers 200, and does nothing with it: its parser for Kimi
never looks at the schema. A grammar works, but in thinking mode it would hold the *thinking* to the schema
and leave the answer empty. So there are two ways, and the result says which was taken:

- instant mode: the answer under the grammar;
- thinking mode: let the model think freely until it closes its thinking, then go on from there, the answer
  alone under the grammar.

The grammar comes from llama.cpp's own converter, in the very server that will apply it: the llama-cpp-python
package carries an older one that does not know bounds of numbers. vLLM and Moonshot's API take the schema
themselves. In every case the answer is checked here before it is returned.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from kimi_nb.chat.failures import EngineError, explain
from kimi_nb.chat.messages import as_messages
from kimi_nb.chat.modes import resolve_mode
from kimi_nb.chat.schemas import check_schema, for_llama_cpp, no_schema

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kimi_nb.chat.client import Chat
    from kimi_nb.chat.events import Reply
    from kimi_nb.chat.modes import Mode

__all__ = ["Structured", "Way", "ask_structured", "compile_grammar"]

Way = Literal["grammar", "think, then grammar", "response_format"]


@dataclass(frozen=True)
class Structured:
    """An answer that fits its schema.

    Attributes:
        value: The answer: an instance of the pydantic model if one was given, else what JSON holds.
        way: How the answer was held to the schema.
        reply: The whole reply, with the thinking before it.
        thinking: The first of the two requests, where the model thought freely; None with one request.
        grammar: The grammar that was applied; None where the engine took the schema itself.
    """

    value: Any
    way: Way
    reply: Reply
    thinking: Reply | None = None
    grammar: str | None = None


def ask_structured(
    chat: Chat,
    messages: str | Sequence[Mapping[str, Any]],
    schema: Mapping[str, Any] | type,
    *,
    mode: Mode | None = None,
    think_tokens: int | None = None,
    **options: Any,
) -> Structured:
    """Ask, and return an answer that fits ``schema``.

    Args:
        chat: Who is asked.
        messages: The question, or a conversation. Say in it what the fields mean: the model does not see the
            schema unless the engine shows it.
        schema: A JSON schema, or a pydantic model. Bound its lengths, so that every answer comes to an end.
        mode: ``thinking`` or ``instant``.
        think_tokens: The most tokens of thinking, where thinking is a request of its own.
        options: Passed on to :meth:`Chat.ask <kimi_nb.chat.Chat.ask>`; ``max_tokens`` bounds the answer.

    Raises:
        UsageError: ``KNB630``, the schema cannot be held to.
        EngineError: ``KNB631``, the answer does not fit; its ``partial`` is the reply. Or the request failed.
    """
    plain = _plain(schema)
    mode = resolve_mode(chat.engine, mode)
    extra = dict(options.pop("extra_body", None) or {})
    if chat.engine.kind != "llama-server":
        form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": plain, "strict": True}}
        reply = chat.ask(messages, mode=mode, extra_body=extra | {"response_format": form}, **options)
        return Structured(_value(reply, schema, plain), "response_format", reply)
    grammar = compile_grammar(chat, plain)
    if mode == "instant":
        reply = chat.ask(messages, mode=mode, extra_body=extra | {"grammar": grammar}, **options)
        return Structured(_value(reply, schema, plain), "grammar", reply, grammar=grammar)
    whole = as_messages(messages)
    free = dict(options) | {"max_tokens": think_tokens}
    # The stop word ends the request where the thinking ends; the parser then takes all of it for thinking.
    thinking = chat.ask(whole, mode=mode, extra_body=extra | {"stop": ["</think>"]}, **free)
    thinking = replace(thinking, hints=())  # without an answer, as it should be
    going_on: dict[str, Any] = {"grammar": grammar}
    if thinking.reasoning:
        whole.append({"role": "assistant", "content": "", "reasoning_content": thinking.reasoning})
        going_on |= {"continue_final_message": "content", "add_generation_prompt": False}
    else:  # it closed its thinking at once, and that is how the prompt of instant mode looks
        mode = "instant"
    reply = chat.ask(whole, mode=mode, extra_body=extra | going_on, **options)
    return Structured(_value(reply, schema, plain), "think, then grammar", reply, thinking, grammar)


def compile_grammar(chat: Chat, schema: Mapping[str, Any]) -> str:
    """Return the GBNF grammar that llama-server itself makes of a JSON schema.

    The request asks for no tokens with an empty prompt, so it costs about a millisecond and no slot's cache
    is lost.

    Raises:
        UsageError: ``KNB630``, llama.cpp cannot make a grammar of it.
        EngineError: The server cannot be reached.
    """
    import httpx2
    import openai

    check_schema(schema)
    address = chat.engine.base_url.rstrip("/").removesuffix("/v1") + "/completion"
    body = {"prompt": [[]], "n_predict": 0, "json_schema": for_llama_cpp(dict(schema))}
    try:
        made = chat.client.post(address, cast_to=httpx2.Response, body=body)
        return str(made.json()["generation_settings"]["grammar"])
    except openai.BadRequestError as error:
        said = str(error.message).rpartition("JSON schema conversion failed:")[2]
        raise no_schema("the schema", " ".join(said.split())[:300]) from None
    except openai.OpenAIError as error:
        raise explain(error, chat.engine) from None
    except (ValueError, KeyError, TypeError) as error:
        raise EngineError(
            "KNB615",
            f"what answers at {address} is no llama-server",
            why=f"it made no grammar of a schema ({type(error).__name__})",
            fix="Check the engine's kind and address.",
        ) from None


def _plain(schema: Mapping[str, Any] | type) -> dict[str, Any]:
    """Return a schema as a plain one that is valid, with every reference inside it."""
    import jsonschema  # type: ignore[import-untyped]  # it ships no types of its own
    import pydantic

    if isinstance(schema, type):
        if not issubclass(schema, pydantic.BaseModel):
            raise no_schema(schema.__name__, "a class must be a pydantic model")
        plain = schema.model_json_schema()
    else:
        check_schema(dict(schema) if hasattr(schema, "keys") else schema)
        plain = dict(schema)
    check_schema(plain)
    try:
        jsonschema.Draft202012Validator.check_schema(plain)
    except jsonschema.SchemaError as error:
        raise no_schema("the schema", f"{error.json_path}: {error.message[:200]}") from None
    return plain


def _value(reply: Reply, schema: Mapping[str, Any] | type, plain: Mapping[str, Any]) -> Any:
    import jsonschema
    import pydantic
    import referencing

    try:
        value = json.loads(reply.content)
        # With a registry of its own it fetches nothing, whatever a $ref says.
        jsonschema.Draft202012Validator(plain, registry=referencing.Registry()).validate(value)
        if isinstance(schema, type) and issubclass(schema, pydantic.BaseModel):
            return schema.model_validate_json(reply.content)
    except (ValueError, RecursionError, jsonschema.ValidationError) as error:
        cut = reply.finish_reason == "length"
        said = error.message if isinstance(error, jsonschema.ValidationError) else str(error)
        failure = EngineError(
            "KNB631",
            "the answer does not fit the schema",
            why="max_tokens cut it off" if cut else " ".join(said.split())[:200],
            fix="Raise max_tokens, or bound the schema's lengths with maxLength and maxItems."
            if cut
            else "The engine did not hold the answer to this part of the schema; simplify it, or ask again.",
        )
        failure.partial = reply
        raise failure from None
    return value
