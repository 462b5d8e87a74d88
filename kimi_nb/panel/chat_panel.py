"""The chat panel: talk to an engine, watch it think and use tools, and keep what was said."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import traitlets

from kimi_nb.chat import Chat, Limits, tool_loop
from kimi_nb.chat.conversation import Conversation, turn_of
from kimi_nb.chat.functions import as_tool
from kimi_nb.chat.history import History
from kimi_nb.chat.modes import known_model
from kimi_nb.chat.reach import reach
from kimi_nb.chat.request import chat_request
from kimi_nb.chat.sample_tools import sample_tools
from kimi_nb.chat.snippets import LANGUAGES, as_program
from kimi_nb.errors import KimiNbError, UsageError
from kimi_nb.panel import chat_controls as controls
from kimi_nb.panel import chat_view as view
from kimi_nb.panel import nodes as n
from kimi_nb.panel.chat_live import Live
from kimi_nb.panel.widget import Panel, is_headless

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from kimi_nb.chat import Tool
    from kimi_nb.chat.conversation import Turn
    from kimi_nb.chat.modes import Mode
    from kimi_nb.chat.reach import Reached
    from kimi_nb.panel.nodes import Node, Tone

__all__ = ["ChatPanel"]

_EVERY_S = 0.05
_KEEP_EVERY_S = 5.0
_LONGEST_S = 7 * 86400.0
_SILENCE_S = 3600.0
_STILL_WAIT_S = 30.0
_NONE_YET = ("KNB533", "KNB538")
_BUSY = "An answer is under way"


class ChatPanel(Panel):
    """See :func:`kimi_nb.panel.chat`."""

    def __init__(
        self,
        find: Callable[[], Reached],
        *,
        tools: Sequence[Any] = (),
        folder: str | Path = ".",
        system: str = "",
        mode: Mode | None = None,
        history: Path | None = None,
    ) -> None:
        self._find = find
        self._still = is_headless()
        own = {each.name: each for each in map(as_tool, tools)}
        self._tools: dict[str, Tool] = {each.name: each for each in sample_tools(folder)} | own
        self._history = History(history)
        self._reached: Reached | None = None
        self._unreached: KimiNbError | None = None
        self._conversation = Conversation(system=system)
        self._live: Live | None = None
        self._working: threading.Thread | None = None
        self._version = self._sent = 0
        self._editing: int | None = None
        self._deleting = False
        self._entries = self._history.entries()
        self._drawn: dict[int, tuple[tuple[Any, ...], list[Node]]] = {}
        self._program: tuple[tuple[Any, ...], str] = ((), "")
        super().__init__(
            {
                "conversation": "new",
                "mode": mode or "",
                "sampling": controls.MODEL,
                "temperature": 1.0,
                "top_p": 0.95,
                "max_tokens": 0,
                "language": LANGUAGES[0],
                **{f"tool_{name}": name in own for name in self._tools},
            }
        )
        self._looking: threading.Thread | None = None
        self._look()

    # For programs

    @property
    def conversation(self) -> Conversation:
        """What is on the screen."""
        return self._conversation

    @property
    def busy(self) -> bool:
        """Whether an answer is under way."""
        return self._live is not None

    def ask(self, question: str) -> ChatPanel:
        """Send a message as a person would; :meth:`wait` waits for the answer."""
        self.press("send", ask=question)
        return self

    def wait(self, timeout_s: float | None = None) -> ChatPanel:
        """Wait until what is under way has ended: finding the engine, answering."""
        for thread in (self._looking, self._working):
            if thread is not None:
                thread.join(timeout_s)
        return self

    def _repr_mimebundle_(self, **given: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        if self._still:
            self.wait(_STILL_WAIT_S)  # a summary does not change any more
        return super()._repr_mimebundle_(**given)

    # What is chosen

    @traitlets.validate("chosen")
    def _settle(self, proposal: Mapping[str, Any]) -> dict[str, Any]:
        """Make what is chosen possible; another conversation is opened at once."""
        with self._lock:
            chosen = {**self.chosen, **proposal["value"]}
            chosen = controls.possible(chosen, known_model(self._model), self._tools)
            if chosen["conversation"] != (self._conversation.id or "new"):
                self._open(chosen["conversation"])
            chosen["conversation"] = self._conversation.id or "new"
            return chosen

    def _open(self, id_: Any) -> None:
        """Show another conversation, or none yet."""
        if self._live is not None:
            return
        self.trouble, self._editing, self._deleting = None, None, False
        try:
            system = self._conversation.system
            new = id_ == "new" or not isinstance(id_, str)
            self._conversation = Conversation(system=system) if new else self._history.load(id_)
            self._version += 1
        except KimiNbError as error:
            self.trouble = error

    @property
    def _model(self) -> str:
        return self._reached.engine.model if self._reached is not None else "nano"

    def _look(self) -> None:
        """Find the engine, in the background: an address may take its time to answer."""

        def work() -> None:
            try:
                self._engine()
            except KimiNbError as error:
                self._unreached = error
            with self._lock:
                self.chosen = dict(self.chosen)  # settles it anew: another model may have other modes

        self._looking = self.in_background(work, "look")

    def _engine(self) -> Reached:
        reached = self._find()
        with self._lock:
            self._reached, self._unreached = reached, None
        return reached

    # What is shown

    def draw(self) -> list[Node]:
        """Return the panel as it is now."""
        busy = _BUSY if self.busy else ""
        items = [n.heading("Chat", level=2), self._whom()]
        if not self._still:
            items.append(self._which(busy))
        turns = self._conversation.turns
        if not turns:
            items.append(n.text(self._invitation(), tone="quiet", key="empty"))
        else:
            shown = [node for number, turn in enumerate(turns) for node in self._turn(number, turn, busy)]
            items.append(n.feed("What was said", shown))
        if self._live is not None and self._live.asking is not None:
            items.append(view.permission(*self._live.asking))
        items.append(n.text(self._state(), live=True, key="state"))
        if self.trouble is not None:
            items.append(n.text(str(self.trouble), tone="bad", live=True, key="trouble"))
        if self._still:
            return items  # nobody is there to press anything
        label = "Your message (Enter sends it, Shift+Enter starts a new line)"
        items.append(n.area("ask", label, "", version=self._sent, enter="send"))
        modes = [(mode.name, mode.name.capitalize()) for mode in known_model(self._model).modes]
        buttons = [
            n.button("send", "Send", main=True, disabled=busy),
            n.button("stop", "Stop", disabled="" if busy else "Nothing is under way"),
        ]
        items.append(n.row([n.select("mode", "Mode", self.chosen["mode"], modes), *buttons], key="send"))
        kind = self._reached.engine.kind if self._reached is not None else None
        system = n.area("system", controls.SYSTEM, self._conversation.system, version=self._version)
        items.append(controls.settings(self.chosen, system, known_model(self._model), kind))
        return [*items, controls.toolbox(self._tools.values(), self.chosen), self._as_program()]

    def _whom(self) -> Node:
        if self._unreached is not None:
            again = n.button("look", "Look again")
            # That no server runs yet is where everybody begins, and no fault.
            tone: Tone = "warn" if self._unreached.id in _NONE_YET else "bad"
            said = n.text(str(self._unreached), tone=tone, live=True, key="unreached")
            return n.group("Engine", [said, n.row([again])], key="whom")
        if self._reached is None:
            return n.text("Looking for the engine …", tone="quiet", key="whom")
        engine = self._reached.engine
        return n.text(
            f"{engine.model}, {engine.kind} at {view.shown_address(engine)}", tone="quiet", key="whom"
        )

    def _which(self, busy: str) -> Node:
        now = self._conversation.id
        options = view.conversations(self._entries, now)
        pick = n.select("conversation", "Conversation", now or "new", options, disabled=busy)
        none = "" if now else "This conversation is not kept yet"
        if self._deleting and now:
            sure = n.text("Delete this conversation for good?", tone="warn", live=True, key="sure")
            buttons = [n.button("delete_now", "Yes, delete it"), n.button("delete_not", "No, keep it")]
            return n.group("Conversations", [n.row([pick]), sure, n.row(buttons)], key="which", quiet=True)
        buttons = [n.button("new", "New", disabled=busy), n.button("delete", "Delete", disabled=busy or none)]
        return n.group("Conversations", [n.row([pick, *buttons])], key="which", quiet=True)

    def _invitation(self) -> str:
        if self._reached is not None and self._model == "nano":
            return (
                "Nothing asked yet. nano is small and knows little: try “How many experts does Kimi K2.5 "
                "have?” or “What is 3 + 4?”."
            )
        return "Nothing asked yet."

    def _turn(self, number: int, turn: Turn, busy: str) -> list[Node]:
        last = number == len(self._conversation.turns) - 1
        live = self._live if last else None
        editing = self._editing == number
        who = self._conversation.model or self._model
        if live is not None:
            now, calling, doing = live.turn, live.calling, live.doing
            asked = view.question(now, number, editing=False, version=self._version, busy=busy)
            return [asked, view.answer(now, number, who, last=True, calling=calling, live=doing)]
        place = (turn, last, editing, self._version if editing else 0, who, busy)
        known = self._drawn.get(number)
        # The same objects again where nothing has changed: nothing of them is drawn or compared anew.
        if known is None or any(
            one is not other and one != other for one, other in zip(known[0], place, strict=True)
        ):
            asked = view.question(turn, number, editing=editing, version=self._version, busy=busy)
            known = (place, [asked, view.answer(turn, number, who, last=last, busy=busy)])
            self._drawn[number] = known
        return known[1]

    def _state(self) -> str:
        if self._live is not None:
            return self._live.doing
        turns = self._conversation.turns
        if not turns:
            return "Ready." if self._reached is not None else ""
        if turns[-1].state == "answered":
            return "Answered."
        return "Ended without an answer."

    def _as_program(self) -> Node:
        language = self.chosen["language"]
        what = "The last question" if self._conversation.turns else "An example"
        items: list[Node] = [
            n.select("language", "Copy as", language, [(name, name) for name in LANGUAGES]),
        ]
        if self._reached is not None:
            try:
                items.append(n.code(f"{what}, {language}", self._snippet(self._reached), key="program"))
                if self._reached.key_env:
                    words = f"It takes the key from the environment variable {self._reached.key_env}."
                    items.append(n.text(words, tone="quiet", key="key"))
            except KimiNbError as error:
                items.append(n.text(str(error), tone="bad", key="program-trouble"))
        return n.fold("As a program", items, key="program")

    def _snippet(self, reached: Reached) -> str:
        place = (reached, self._conversation.turns, tuple(self.chosen.items()))
        if (self._live is None and self._program[0] != place) or not self._program[1]:
            asked = self._conversation if self._conversation.turns else self._conversation.asking("Hello!")
            request = chat_request(
                reached.engine, asked.messages(), tools=self._ticked(), **self._options(reached)
            )
            made = as_program(request, self.chosen["language"], key_env=reached.key_env)
            self._program = (place, made)
        return self._program[1]

    # Buttons

    def press_send(self, fields: Mapping[str, str]) -> None:
        """Ask what stands in the text area."""
        self._free(fields)
        self._ask(self._conversation.asking(_question(fields.get("ask", ""))))
        self._sent += 1

    def press_resend(self, fields: Mapping[str, str]) -> None:
        """Ask an earlier question in other words; what followed it stays in the history."""
        self._free(fields)
        if self._editing is None:
            return
        before = self._conversation.before(self._editing)
        self._ask(before.asking(_question(fields.get("edited", ""))))

    def press_regenerate(self, fields: Mapping[str, str]) -> None:
        """Ask the last question again; the answer before stays with it."""
        self._free(fields)
        if self._conversation.turns:
            self._ask(self._conversation.with_last(self._conversation.turns[-1].again()))

    def press_stop(self, _fields: Mapping[str, str]) -> None:
        """End the answer that is under way; the engine's slot is free at once."""
        if self._live is not None:
            self._live.cancel.set()

    def press_allow(self, _fields: Mapping[str, str]) -> None:
        """Let a dangerous tool run this once."""
        if self._live is not None:
            self._live.decide(allow=True)

    def press_refuse(self, _fields: Mapping[str, str]) -> None:
        """Do not let a dangerous tool run."""
        if self._live is not None:
            self._live.decide(allow=False)

    def press_edit(self, fields: Mapping[str, str]) -> None:
        """Open a question for editing."""
        number = int(fields["of"]) if fields.get("of", "").isdecimal() else -1
        if self._live is None and 0 <= number < len(self._conversation.turns):
            self._editing = number

    def press_leave(self, _fields: Mapping[str, str]) -> None:
        """Leave a question as it was."""
        self._editing = None

    def press_new(self, fields: Mapping[str, str]) -> None:
        """Begin a new conversation, with the same system prompt."""
        self._free(fields)
        self.choose(conversation="new")

    def press_delete(self, _fields: Mapping[str, str]) -> None:
        """Ask whether the conversation is to be deleted."""
        self._deleting = self._live is None

    def press_delete_not(self, _fields: Mapping[str, str]) -> None:
        """Keep the conversation."""
        self._deleting = False

    def press_delete_now(self, fields: Mapping[str, str]) -> None:
        """Delete the conversation."""
        if self._deleting:
            self._free(fields)
            self._history.delete(self._conversation.id)
            self._entries = self._history.entries()
            self.choose(conversation="new")

    def press_look(self, _fields: Mapping[str, str]) -> None:
        """Look for the engine again."""
        self._unreached = None
        self._look()

    # Asking

    def _free(self, fields: Mapping[str, str]) -> None:
        """Take the system prompt, unless an answer is under way."""
        if self._live is not None:
            raise UsageError(
                "KNB961",
                "an answer is under way",
                why="one is given at a time",
                fix="Wait for it, or press Stop.",
            )
        system = fields.get("system", self._conversation.system)
        if system != self._conversation.system:
            self._conversation = replace(self._conversation, system=system)

    def _ticked(self) -> list[Tool]:
        return [tool for name, tool in self._tools.items() if self.chosen[f"tool_{name}"]]

    def _options(self, reached: Reached) -> dict[str, Any]:
        return controls.options(self.chosen, reached.engine.kind)

    def _ask(self, conversation: Conversation) -> None:
        """Have the last turn answered, in the background."""
        self._editing, self._deleting = None, False
        self._keep(replace(conversation, model=self._model if self._reached else conversation.model))
        live = self._live = Live(self._conversation.turns[-1])
        ended = threading.Event()

        def work() -> None:
            turn = live.turn
            try:
                turn = self._answer(live)
            except KimiNbError as error:
                turn = replace(live.turn, state="engine_error", error=error.as_dict())
            finally:
                ended.set()
                with self._lock:
                    self._live = None
                    self._keep(self._conversation.with_last(turn))

        self._working = self.in_background(work, "answer")
        self.in_background(lambda: self._show(live, ended), "show")

    def _answer(self, live: Live) -> Turn:
        reached = self._engine()
        with self._lock:
            self._conversation = replace(self._conversation, model=reached.engine.model)
            messages, tools, options = self._conversation.messages(), self._ticked(), self._options(reached)
        # An empty answer is no reason to ask on by ourselves where no tool has run.
        limits = Limits(deadline_s=_LONGEST_S, nudges=1 if tools else 0, max_tokens=options.pop("max_tokens"))
        asked = self._conversation.turns[-1]
        with Chat(reached.engine, timeout_s=_SILENCE_S) as chat:
            run = tool_loop(
                chat,
                messages,
                tools,
                limits=limits,
                approve=live.approve,
                on_event=live.take,
                cancel=live.cancel,
                **options,
            )
        return turn_of(asked, run, len(messages))

    def _show(self, live: Live, ended: threading.Event) -> None:
        """Draw what has come, twenty times a second and not for each token, and keep it now and then."""
        kept = time.monotonic()
        while not ended.wait(_EVERY_S):
            self.refresh()
            if time.monotonic() - kept > _KEEP_EVERY_S:
                with self._lock:
                    if self._live is live:
                        self._keep(self._conversation.with_last(live.turn))
                kept = time.monotonic()

    def _keep(self, conversation: Conversation) -> None:
        """Show a conversation, and write it down; that it cannot be written does not end the talk."""
        try:
            self._conversation = conversation
            self._conversation = self._history.save(conversation)
            self._entries = self._history.entries()
        except KimiNbError as error:
            self.trouble = error
        self.chosen = {**self.chosen, "conversation": self._conversation.id or "new"}


def _question(text: str) -> str:
    if not text.strip():
        raise UsageError(
            "KNB960", "there is nothing to send", why="the message is empty", fix="Type something first."
        )
    return text


def finder(to: Any, **named: Any) -> Callable[[], Reached]:
    """Return what finds the engine anew at each question: a server that was restarted has a new address."""
    return lambda: reach(to, **named)
