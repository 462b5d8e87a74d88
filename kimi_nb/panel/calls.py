"""One call for each panel; the widgets' libraries are loaded with the first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from kimi_nb.chat.modes import Mode
    from kimi_nb.engine.download import Options
    from kimi_nb.engine.endpoint import EngineKind
    from kimi_nb.machine import Machine
    from kimi_nb.panel.chat_panel import ChatPanel
    from kimi_nb.panel.dashboard_panel import Dashboard
    from kimi_nb.panel.download_panel import DownloadPanel
    from kimi_nb.panel.plan_panel import PlanPanel
    from kimi_nb.panel.server_panel import ServerPanel
    from kimi_nb.panel.server_source import Planning
    from kimi_nb.plan import Settings

__all__ = ["chat", "dashboard", "download", "plan", "server"]


def chat(  # noqa: PLR0913 - all but the engine are named in the call
    to: Any = None,
    *,
    api_key_env: str | None = None,
    model: str | None = None,
    kind: EngineKind | None = None,
    tools: Sequence[Any] = (),
    folder: str | Path = ".",
    system: str = "",
    mode: Mode | None = None,
    history: Path | None = None,
) -> ChatPanel:
    """Show the chat panel: ask, watch the model think and use tools, and keep what was said.

    Args:
        to: Who is asked: the name of a server that runs here (by default the only one), an address that
            begins with ``http``, a :class:`~kimi_nb.engine.LlamaServer`, a server panel, or an
            :class:`~kimi_nb.engine.Engine`.
        api_key_env: The variable of the environment that holds an address's key.
        model: The model's name at an address; the first that it names by default.
        kind: What answers at an address; asked by default.
        tools: Tools of your own, ticked from the start; the four sample tools are there to tick.
        folder: What the sample tools may search and read.
        system: The system prompt; empty for the model's own.
        mode: ``thinking`` or ``instant`` at first.
        history: The folder for conversations; :func:`kimi_nb.files.chats_home` by default.

    Raises:
        UsageError: A tool cannot be one, or there is no such folder.
    """
    from kimi_nb.panel.chat_panel import ChatPanel, finder

    find = finder(to, api_key_env=api_key_env, model=model, kind=kind)
    return ChatPanel(find, tools=tools, folder=folder, system=system, mode=mode, history=history)


def plan(
    model: str | Path = "nano",
    quant: str | None = None,
    *,
    machine: str | Path | Machine | None = None,
    saved: str | Path | None = None,
    offline: bool = False,
) -> PlanPanel:
    """Show the plan panel: will it fit, with which settings, and how fast?

    Args:
        model: A key of the catalog, such as ``kimi-k2.5``, ``nano``, or a GGUF file.
        quant: Which quant of the catalog's model; its first by default.
        machine: A profile's name, a saved machine or its file; this machine by default.
        saved: A plan that was saved before, to start from; it says which model.
        offline: Read no header from the Hub until a button is pressed: sizes from the catalog only.

    Raises:
        UsageError: There is no such machine, or what was saved is no plan.
    """
    from kimi_nb.panel.plan_panel import PlanPanel
    from kimi_nb.panel.widget import is_headless

    panel = PlanPanel(model, quant, machine=machine, saved=saved, offline=offline)
    return panel.wait() if is_headless() else panel  # a summary does not change once it is shown


def download(
    model: str | None = "kimi-k2.5",
    quant: str | None = None,
    *,
    folder: str | Path | None = None,
    saved: str | Path | None = None,
    endpoint: str | None = None,
    options: Options | None = None,
) -> DownloadPanel:
    """Show the download panel: what would come, how far it is, whether it is whole, and what is here.

    The download goes on in this kernel while other cells run and when the tab is closed. If the kernel ends,
    so does it; opened again, the panel says how far it came, and it goes on from there.

    Args:
        model: A key of the catalog, such as ``kimi-k2.5``, or a repository, ``namespace/name``.
        quant: Such as ``UD-TQ1_0``; the catalog's first by default.
        folder: The models folder; :func:`kimi_nb.files.models_home` by default.
        saved: A plan that was saved, whose model is taken instead.
        endpoint: The Hub; ``HF_ENDPOINT`` or the public one by default.
        options: Connections, limits and patience.
    """
    from kimi_nb.panel.download_panel import DownloadPanel

    return DownloadPanel(model, quant, folder=folder, saved=saved, endpoint=endpoint, options=options)


def server(
    source: str | Path | Planning = "nano", *, settings: Settings | None = None, name: str = ""
) -> ServerPanel:
    """Show the server panel: start llama-server, see whether it is well, stop it.

    A server that is started there ends with the kernel, unless it is told to keep running. A server that a
    panel of this kernel has started before, and that still runs, is shown again.

    Args:
        source: What to serve: ``nano``, a GGUF file, a saved plan (``.json``), or a plan panel.
        settings: How llama.cpp is to run it; what is given here stands above what a plan says.
        name: Keep it running when the kernel ends, under this name; it can be changed in the panel.
    """
    from kimi_nb.panel.server_panel import ServerPanel

    return ServerPanel(source, settings=settings, name=name)


def dashboard(
    model: str | Path = "nano",
    quant: str | None = None,
    *,
    machine: str | Path | Machine | None = None,
    saved: str | Path | None = None,
    settings: Settings | None = None,
    folder: str | Path | None = None,
    endpoint: str | None = None,
    tools: Sequence[Any] = (),
) -> Dashboard:
    """Show all four panels behind tabs; what is chosen in one is used by the next.

    The download panel follows the plan's model, the server panel serves the plan from where the download put
    its files, and the chat panel talks to that server.

    Args:
        model: A key of the catalog, such as ``kimi-k2.5``, ``nano``, or a GGUF file.
        quant: Which quant of the catalog's model; its first by default.
        machine: A profile's name, a saved machine or its file; this machine by default.
        saved: A plan that was saved before, to start from; it says which model.
        settings: What the server is to be run with, whatever the plan says.
        folder: The models folder; :func:`kimi_nb.files.models_home` by default.
        endpoint: The Hub; ``HF_ENDPOINT`` or the public one by default.
        tools: Tools of your own for the chat.

    Raises:
        UsageError: There is no such machine, or what was saved is no plan, or a tool cannot be one.
    """
    from kimi_nb.panel.dashboard_panel import Dashboard

    return Dashboard(
        model,
        quant,
        machine=machine,
        saved=saved,
        settings=settings,
        folder=folder,
        endpoint=endpoint,
        tools=tools,
    )
