"""The server panel: start llama-server, see how it is, stop it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import traitlets

from kimi_nb.engine.endpoint import Engine
from kimi_nb.engine.llama_server import LlamaServer, RestartPolicy
from kimi_nb.engine.named_server import NamedServer
from kimi_nb.engine.running import running
from kimi_nb.engine.server_metrics import Meter, memory_of
from kimi_nb.engine.server_state import ServerState
from kimi_nb.errors import KimiNbError, ServerError
from kimi_nb.panel import nodes as n
from kimi_nb.panel import server_source as sources
from kimi_nb.panel import server_view as view
from kimi_nb.panel.pulse import Pulse
from kimi_nb.panel.server_view import Facts
from kimi_nb.panel.widget import Panel

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kimi_nb.engine.running import Running
    from kimi_nb.machine.machine import Gpu
    from kimi_nb.panel.nodes import Node
    from kimi_nb.panel.server_source import Planning, Wanted
    from kimi_nb.plan import MemoryReport, Settings

__all__ = ["ServerPanel"]

_HERE = "here"
_LOG_LINES = 4000
_STARTING_EVERY_S, _BUSY_EVERY_S, _IDLE_EVERY_S, _GPU_EVERY = 0.4, 1.0, 2.0, 5
_UP = {ServerState.READY, ServerState.DEGRADED}

#: The servers that panels of this kernel started. A cell that is run again shows the newest that runs.
_ours: list[LlamaServer] = []


class ServerPanel(Panel):
    """See :func:`kimi_nb.panel.server`.

    Attributes:
        served: Where the server that is shown answers, or None while it does not. Observe it to follow.
    """

    served = traitlets.Instance(Engine, allow_none=True)

    def __init__(
        self, source: str | Path | Planning = "nano", *, settings: Settings | None = None, name: str = ""
    ) -> None:
        self._planning = None if isinstance(source, str | Path) else source
        self._changes = settings
        #: Where downloads go, if not where they usually do.
        self.models_folder: Path | None = None
        self._server: LlamaServer | NamedServer | None = None
        self._own: LlamaServer | None = None
        self._made: dict[int, tuple[Wanted, MemoryReport | None, str]] = {}
        self._others: list[Running] = []
        self._sets: dict[str, Path] = {}
        self._meter: Meter | None = None
        self._facts = Facts()
        self._gpus: tuple[Gpu, ...] = ()
        self._beats = 0
        self._working: threading.Thread | None = None
        self._busy = False
        self._told_to_stop = threading.Event()
        self._looking = threading.RLock()
        self._pulse = Pulse(self._beat, "kimi-nb server panel")
        self._unfollow: Callable[[], None] = lambda: None
        choices = {
            "set": "",
            "file": "",
            "plan": "plan.json",
            "keep": bool(name),
            "name": name,
            "port": 0,
            "restart": False,
        }
        given = sources.source_of(source)
        super().__init__({**choices, **given, "server": _HERE, "search": ""})
        up = [server for server in _ours if not server.down]
        if up and (given["source"] in {sources.NANO, sources.PANEL} or self._is_wanted(up[-1])):
            self._own = up[-1]
            self._show(self._own)
        self.update()
        if isinstance(self._planning, traitlets.HasTraits):
            self._planning.observe(lambda _change: self.look_soon(), "view")

    # What it shows

    @property
    def engine(self) -> Engine:
        """What a client needs to talk to the server that is shown.

        Raises:
            ServerError: It is not ready.
        """
        if self._server is None:
            why = "none has been started"
            raise ServerError(
                "KNB533", "the server does not run", why=why, fix="Press Start in the server panel."
            )
        return self._server.engine

    @property
    def facts(self) -> Facts:
        """What is shown of the server."""
        return self._facts

    def wait(self, timeout_s: float | None = None) -> ServerPanel:
        """Wait until what is under way has ended: starting or stopping."""
        working = self._working
        if working is not None:
            working.join(timeout_s)
        self.update()
        return self

    def look_soon(self) -> None:
        """Have the server looked at, and what is chosen elsewhere; return at once, whatever lock is held."""
        self._pulse.wake()

    def update(self) -> None:
        """Look at the server now, and show it."""
        with self._looking:
            self._update()

    def _update(self) -> None:
        server = self._server
        facts = self._look(server) if server is not None else Facts()
        others = _running()
        with self._lock:
            if self._server is server:
                self._facts, self._others = facts, others
            if self.chosen["source"] == sources.DOWNLOADED:
                self.chosen = dict(self.chosen)  # settles it anew: there may be more by now
            # The messages to a closed tab are kept for it, so there should be none that say nothing new.
            if self.draw() != self.view["nodes"]:
                self.refresh()
        answers = server is not None and facts.state in _UP
        try:
            self.served = server.engine if server is not None and answers else None
        except ServerError:  # it has just ended, or its key is not ours to read
            self.served = None

    def _beat(self) -> float | None:
        server = self._server
        self.update()
        if server is not self._server:
            return 0.0
        if server is None or server.down:
            return None
        if server.state not in _UP:
            return _STARTING_EVERY_S
        work = self._facts.work
        return _IDLE_EVERY_S if work is not None and not work.busy else _BUSY_EVERY_S

    def _look(self, server: LlamaServer | NamedServer) -> Facts:
        if isinstance(server, NamedServer):
            server.look()
        state, pid = server.state, server.pid
        _, estimate, note = self._made.get(id(server), (None, None, ""))
        work, url, key_file = None, "", None
        if state in _UP:
            try:
                url, key_file = server.base_url, server.key_file()
            except ServerError:  # it has just ended
                state = server.state
        if url:
            if self._meter is not None and state is ServerState.READY:
                work = self._meter.look()  # one that does not answer is not asked again and again
            if estimate is not None and estimate.gpus and self._beats % _GPU_EVERY == 0:
                self._gpus = _gpus()
            self._beats += 1
        return Facts(
            state=state,
            alias=server.alias,
            name=server.name if isinstance(server, NamedServer) else "",
            base_url=url,
            error=server.error,
            coming_back=not server.down,
            loading=server.loading,
            work=work,
            memory_mib=memory_of(pid) if pid is not None and url else None,
            estimate=estimate if url else None,
            gpus=self._gpus,
            note=note,
            key_file=key_file,
            key_variable=server.key_variable if isinstance(server, NamedServer) else None,
            log=tuple(server.log_tail(_LOG_LINES)),
            log_path=server.log_path,
        )

    def _show(self, server: LlamaServer | NamedServer | None) -> None:
        """Follow this server from now on."""
        self._unfollow()
        self._unfollow = lambda: None
        with self._lock:
            self._server = server
            self._meter = Meter(server) if server is not None else None
            self._beats = 0
        if isinstance(server, LlamaServer):
            self._unfollow = server.on_change(lambda _state: self._pulse.wake())
        self._pulse.wake()

    @traitlets.validate("chosen")
    def _settle(self, proposal: Mapping[str, Any]) -> dict[str, Any]:
        """Make what is chosen possible, and show another server if one was chosen."""
        before, chosen = self.chosen, {**self.chosen, **proposal["value"]}
        known = sources.SOURCES if self._planning is not None else sources.SOURCES.keys() - {sources.PANEL}
        if chosen["source"] not in known:
            chosen["source"] = before.get("source", sources.NANO)
        if chosen["source"] == sources.DOWNLOADED:
            self._sets = sources.downloaded(self.models_folder)
            if chosen["set"] not in self._sets:
                chosen["set"] = next(iter(self._sets), "")
        if before and chosen["server"] not in {_HERE, before["server"]}:
            self._others = _running()  # one that was restarted since has the same name and another process
        named = {record.name: record for record in self._others}
        ours = {_of(server): server for server in self._siblings()}
        if chosen["server"] not in {_HERE, *named, *ours}:
            chosen["server"] = _HERE  # it has gone: what is shown of it stays
        elif before and chosen["server"] != before["server"]:
            shown = self._server
            if chosen["server"] in ours:
                self._own, chosen["server"] = ours[chosen["server"]], _HERE
            if chosen["server"] == _HERE:
                self._show(self._own)
            elif not isinstance(shown, NamedServer) or shown.name != chosen["server"]:
                self._show(NamedServer(named[chosen["server"]]))
        return chosen

    def _siblings(self) -> list[LlamaServer]:
        """Return the servers that other panels of this kernel started and that run."""
        return [server for server in _ours if not server.down and server is not self._own]

    def _is_wanted(self, server: LlamaServer) -> bool:
        try:
            return self._wanted().path == server.model
        except KimiNbError:
            return False

    # How it shows it

    def draw(self) -> list[Node]:
        """Return the panel as it is now."""
        facts = self._facts
        choices = n.group("What to serve", self._choices(), key="choices", quiet=True)
        server = [*view.state_nodes(facts), n.row(self._buttons(), key="buttons")]
        if self.trouble is not None:
            server.append(n.text(str(self.trouble), tone="bad", live=True, key="trouble"))
        server += [*view.reach_nodes(facts), *view.work_nodes(facts), *view.memory_nodes(facts)]
        return [
            n.heading("Server: start it, watch it, stop it", level=2),
            n.columns([choices, n.group("The server", server, key="server", quiet=True)]),
            *view.log_nodes(facts, str(self.chosen["search"])),
        ]

    def _choices(self) -> list[Node]:
        chosen = self.chosen
        found = sources.controls(chosen, list(self._sets), planning=self._planning is not None)
        try:
            want = self._wanted()
            found.append(n.text(want.said, tone="quiet", key="said"))
            made = self._made.get(id(self._server))
            kept = isinstance(self._server, NamedServer)
            changed = made is not None and (made[0], kept) != (want, bool(chosen["keep"]))
            if changed and self._facts.state in _UP:
                found.append(
                    n.text("This differs from what runs: Restart serves it.", live=True, key="changed")
                )
        except KimiNbError as error:
            found.append(n.text(str(error), tone="warn", key="said"))
        found.append(n.check("keep", "Keep it running when this notebook ends", bool(chosen["keep"])))
        if chosen["keep"]:
            hint = "One is chosen where this is empty."
            found.append(n.field("name", "Name to find it by", str(chosen["name"]), hint=hint))
        port = chosen["port"] if isinstance(chosen["port"], int | float) else 0
        more = [
            n.check("restart", "Start it again when it ends by itself", bool(chosen["restart"])),
            n.number("port", "Port (0: a free one)", port, low=0, high=65535),
        ]
        found.append(n.fold("More", more, key="more"))
        others = [
            *((_of(server), f"{server.alias}, of another panel") for server in self._siblings()),
            *((record.name, f"{record.name}, which serves {record.model}") for record in self._others),
        ]
        if others:
            which = [(_HERE, "This panel's own"), *others]
            found.append(n.select("server", "Server to show", chosen["server"], which))
        return found

    def _buttons(self) -> list[Node]:
        state, down = self._facts.state, self._server is None or self._server.down
        busy = self._busy
        idle = "" if down and not busy else "It runs already." if state in _UP else "Something is under way."
        elsewhere = "It was started elsewhere: stop it, then start what is chosen here."
        foreign = isinstance(self._server, NamedServer) and not self._server.startable
        again = "Nothing runs." if state not in _UP else elsewhere if foreign else ""
        return [
            n.button("start", "Start", main=True, disabled=idle),
            n.button("stop", "Stop", disabled="Nothing runs." if down and not busy else ""),
            n.button("restart", "Restart", disabled=again),
        ]

    def _wanted(self) -> Wanted:
        return sources.wanted(self.chosen, self._planning, self._changes, self.models_folder)

    # Buttons

    def press_start(self, _fields: Mapping[str, str]) -> None:
        """Start what is chosen."""
        if self._server is not None and not self._server.down:
            return  # pressed again before the first press was seen
        want, keep, name = self._wanted(), bool(self.chosen["keep"]), str(self.chosen["name"]).strip()
        self._begin(lambda: self._start(want, keep=keep, name=name), "start")

    def press_stop(self, _fields: Mapping[str, str]) -> None:
        """Stop the server that is shown, also while it starts."""
        self._told_to_stop.set()  # a start that is not yet far enough to be stopped sees this
        server = self._server
        if server is not None:
            self.in_background(server.stop, "stop")

    def press_restart(self, _fields: Mapping[str, str]) -> None:
        """Stop the server that is shown, and start what is chosen."""
        server, want = self._server, self._wanted()
        keep, name = bool(self.chosen["keep"]), str(self.chosen["name"]).strip()
        place = (server.port, server.api_key) if isinstance(server, LlamaServer) else (0, None)

        def work() -> None:
            if server is not None:
                server.stop()
            self._start(want, keep=keep, name=name, place=place)

        self._begin(work, "restart")

    def _begin(self, work: Callable[[], None], name: str) -> None:
        if self._busy:
            return
        self._busy = True
        self._told_to_stop.clear()

        def run() -> None:
            try:
                work()
            finally:
                self._busy = False

        self._working = self.in_background(run, name)

    def _start(
        self, want: Wanted, *, keep: bool, name: str, place: tuple[int, str | None] = (0, None)
    ) -> None:
        """Start a server and show it; one that takes another's place has its port and key."""
        server: LlamaServer | NamedServer
        if keep:
            server = NamedServer(words=want.words(name))
        else:
            server = LlamaServer(
                want.path,
                settings=want.settings,
                alias=want.alias,
                port=want.port or place[0],
                api_key=place[1],
                restart=RestartPolicy() if want.restart else None,
            )
            self._own = server
            _ours[:] = [*(one for one in _ours if not one.down), server]
        self._made = {id(server): (want, *_estimate(want, server))}
        self._show(server)
        try:
            if not self._told_to_stop.is_set():
                server.start()
            if self._told_to_stop.is_set():
                server.stop()
        except KimiNbError:
            if server.state not in {ServerState.FAILED, ServerState.STOPPED}:  # which say it themselves
                raise
        finally:
            self._pulse.wake()
        if isinstance(server, NamedServer) and server.name:
            self.update()
            self.choose(server=server.name)


def _running() -> list[Running]:
    """Return the servers that run on this machine under a name."""
    try:
        return running()
    except KimiNbError:  # there is no private folder: starting one will say so
        return []


def _of(server: LlamaServer) -> str:
    """Return a name for a server of this kernel; no server on record can have it."""
    return f"#{server.pid}"


def _estimate(want: Wanted, server: LlamaServer | NamedServer) -> tuple[MemoryReport | None, str]:
    """Return what it should take, and what is to be known of the model's files."""
    from kimi_nb.engine.fetch.trust import trust
    from kimi_nb.machine import probe
    from kimi_nb.model import read_header
    from kimi_nb.plan import memory_report

    settings = server.settings if isinstance(server, LlamaServer) else want.settings
    try:
        note = trust(want.path)
        return memory_report(read_header(want.path), settings, probe()), str(note) if note else ""
    except KimiNbError:  # starting it will say so
        return None, ""


def _gpus() -> tuple[Gpu, ...]:
    from kimi_nb.machine.nvidia import read_nvidia

    return read_nvidia()[0]
