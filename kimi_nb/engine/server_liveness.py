"""Ask a llama-server for a sign of life that proves something and costs nobody anything."""

from __future__ import annotations

import math
import time
from http import HTTPStatus
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kimi_nb.engine.server_http import ServerHttp

__all__ = ["Liveness"]

#: A slot with so few tokens holds nothing that is missed: what an earlier question of ours left there.
_NOTHING = 8
_REAL_EVERY_S = 60.0


class Liveness:
    """Look at the slots, and let the model itself make one token where that harms no one.

    ``/health`` is answered by a thread that knows nothing of the model. ``/slots`` passes through the queue
    that feeds the model, so it is not answered while the model is stuck. Only a generated token proves that
    an idle model still works, for instance that its GPU is still there. But a token takes a slot, and pushes
    out the conversation that the slot holds. With ``cache_ram`` 0 the next question of that conversation then
    finds none of its prompt again, and reads 100,000 tokens anew; with more, the whole state, gigabytes for a
    long conversation, is copied out and in. The same goes for ``n_predict`` 0. So a token is asked for only:

    - while no real request is being answered, since that proves more;
    - in a slot that holds no conversation: always right after the start, and later as long as one is left;
    - once a minute: where the weights do not fit into memory, each token reads gigabytes from the disk.
    """

    def __init__(self, *, every_s: float = _REAL_EVERY_S) -> None:
        self._every_s = every_s
        self._asked = -math.inf

    def ask(self, http: ServerHttp, timeout_s: float) -> bool:
        """Ask; return whether the model was made to generate.

        Raises:
            OSError: It does not answer, or not as it should.
        """
        told = http.ask("/slots", timeout_s=timeout_s)
        if told.status == HTTPStatus.NOT_IMPLEMENTED:  # it was started with --no-slots
            return False
        slots = told.json()
        if told.status != HTTPStatus.OK or not isinstance(slots, list):
            raise ConnectionError(f"/slots was answered with {told.status}")
        if any(slot.get("is_processing") for slot in slots):
            return False
        spare = [slot["id"] for slot in slots if slot.get("n_prompt_tokens", 0) <= _NOTHING]
        if not spare or time.monotonic() - self._asked < self._every_s:
            return False
        self._asked = time.monotonic()
        body = {"prompt": ".", "n_predict": 1, "cache_prompt": False, "id_slot": spare[0]}
        answer = http.ask("/completion", body, timeout_s=timeout_s)
        made = answer.json()
        if not isinstance(made, dict) or made.get("tokens_predicted") != 1:
            raise ConnectionError(f"asked for one token it answered {answer.status}: {answer.text()[:200]}")
        return True
