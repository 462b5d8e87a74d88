"""Run one tool in a thread of its own, within a time limit, and turn its result into text."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from typing import TYPE_CHECKING, Any

from kimi_nb.chat.messages import whole_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kimi_nb.chat.functions import Tool
    from kimi_nb.chat.trace import Outcome

__all__ = ["cut_short", "run_tool", "to_text"]

_ERROR_CHARS = 2000
_CANCEL_EVERY_S = 0.05


def run_tool(
    tool: Tool, arguments: Mapping[str, Any], timeout_s: float, cancel: threading.Event | None = None
) -> tuple[Outcome, str, float]:
    """Call ``tool`` and return what became of it, the text for the model, and the seconds it took.

    A thread cannot be stopped from outside: a tool that passes its limit is left behind, and what it returns
    later is thrown away. Whatever the tool raises, ``SystemExit`` included, becomes text for the model.
    """
    box: list[tuple[Outcome, str]] = []

    def work() -> None:
        try:
            value = tool.run(**arguments)
            if inspect.isawaitable(value):
                value = asyncio.run(_wait_for(value))
            box.append(("ok", to_text(value)))
        except BaseException as error:  # noqa: BLE001 - the model is told, and the loop goes on
            box.append(("raised", f"{type(error).__name__}: {error}"[:_ERROR_CHARS]))

    start = time.monotonic()
    thread = threading.Thread(target=work, name=f"kimi-nb tool {tool.name}", daemon=True)
    thread.start()
    while thread.is_alive() and (left := start + timeout_s - time.monotonic()) > 0:
        if cancel is not None and cancel.is_set():
            return "cancelled", "the person ended this before the tool had finished", time.monotonic() - start
        thread.join(left if cancel is None else min(left, _CANCEL_EVERY_S))
    outcome, text = (
        box[0] if box else ("timeout", f"the tool did not finish within {timeout_s:.3g} s and was given up")
    )
    return outcome, text, time.monotonic() - start


async def _wait_for(value: Any) -> Any:
    return await value


def to_text(value: Any) -> str:
    """Return a tool's result as the text that the model reads: text as it is, anything else as JSON."""
    if isinstance(value, str):
        return whole_text(value)
    import pydantic_core

    return pydantic_core.to_json(value, fallback=repr, serialize_unknown=True, bytes_mode="base64").decode()


def cut_short(text: str, most: int) -> tuple[str, int]:
    """Return at most ``most`` characters of ``text`` around a marker, and how many are missing."""
    if len(text) <= most:
        return text, 0
    missing = len(text) - most
    head = most * 3 // 4
    marker = f"\n[... {missing} of {len(text)} characters left out ...]\n"
    return text[:head] + marker + text[len(text) - (most - head) :], missing
