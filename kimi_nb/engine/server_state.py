"""The states of a supervised server, and which may follow which."""

from __future__ import annotations

import threading
import time
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

__all__ = ["ServerState", "StateMachine"]


class ServerState(StrEnum):
    """Where a server stands."""

    #: Nothing runs.
    STOPPED = "stopped"
    #: The program runs, and loads the model or proves that it answers.
    STARTING = "starting"
    #: It has answered a request with our key and one token.
    READY = "ready"
    #: It runs, and does not answer at present.
    DEGRADED = "degraded"
    #: It has been told to end.
    STOPPING = "stopping"
    #: It ended by itself, or never became ready.
    FAILED = "failed"


_S = ServerState
_FOLLOWS: dict[ServerState, set[ServerState]] = {
    _S.STOPPED: {_S.STARTING},
    _S.STARTING: {_S.READY, _S.FAILED, _S.STOPPING},
    _S.READY: {_S.DEGRADED, _S.FAILED, _S.STOPPING},
    _S.DEGRADED: {_S.READY, _S.FAILED, _S.STOPPING},
    _S.STOPPING: {_S.STOPPED},
    _S.FAILED: {_S.STARTING, _S.STOPPED},
}


class StateMachine:
    """One state, changed only as the table above allows, and awaited by any number of threads.

    Args:
        on_change: Called with every new state, by the thread that brought it about.
    """

    def __init__(self, on_change: Callable[[ServerState], None] | None = None) -> None:
        self._state = ServerState.STOPPED
        self._changed = threading.Condition()
        self._on_change = on_change

    @property
    def state(self) -> ServerState:
        """The present state."""
        return self._state

    def go(self, state: ServerState, *, only_from: Collection[ServerState] | None = None) -> bool:
        """Change to ``state``.

        Args:
            state: The new one.
            only_from: Change only if the present state is one of these.

        Returns:
            Whether it was changed.

        Raises:
            RuntimeError: The change is not allowed, which is a mistake in this package.
        """
        with self._changed:
            if only_from is not None and self._state not in only_from:
                return False
            if state not in _FOLLOWS[self._state]:
                raise RuntimeError(f"a server cannot go from {self._state} to {state}")
            self._state = state
            self._changed.notify_all()
        if self._on_change is not None:
            self._on_change(state)
        return True

    def wait_while(self, states: Collection[ServerState], timeout_s: float | None = None) -> ServerState:
        """Wait until the state is none of ``states``, or the time is over; return the state then."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        with self._changed:
            while self._state in states:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    break
                self._changed.wait(left)
            return self._state
