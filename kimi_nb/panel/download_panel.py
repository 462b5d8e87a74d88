"""The download panel: what would come, how far it is, whether it is whole, and what is here."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import traitlets

from kimi_nb.engine import download as actions
from kimi_nb.engine.fetch.background import Phase, Task, begin, latest, listen
from kimi_nb.engine.fetch.job import Options, State
from kimi_nb.engine.fetch.shelf import Entry, Shelf
from kimi_nb.engine.fetch.stock import Removal, Stock, files_of, find, plan_removal, remove, stock
from kimi_nb.errors import KimiNbError, SystemRefusedError
from kimi_nb.files import models_home
from kimi_nb.model import catalog
from kimi_nb.panel import download_view as view
from kimi_nb.panel import nodes as n
from kimi_nb.panel.download_choice import GIVEN, PLAN, REPO, controls, limit_of, possible, target_of
from kimi_nb.panel.widget import Panel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kimi_nb.engine.download import DownloadPlan
    from kimi_nb.engine.fetch.background import Work
    from kimi_nb.engine.fetch.job import FileProgress, Progress
    from kimi_nb.panel.nodes import Node

__all__ = ["DownloadPanel"]

_WHAT = ("source", "quant", "repo", "repo_quant", "plan", "folder")
_TYPING_S = 0.8
_OFTEN_S, _SELDOM_S, _SETTLED_S = 0.5, 2.0, 600.0
_LOOK_S = 2.0


class DownloadPanel(Panel):
    """See :func:`kimi_nb.panel.download`."""

    def __init__(
        self,
        model: str | None,
        quant: str | None = None,
        *,
        folder: str | Path | None = None,
        saved: str | Path | None = None,
        endpoint: str | None = None,
        options: Options | None = None,
    ) -> None:
        self._endpoint, self._options = endpoint, options or Options()
        self._what: tuple[str, ...] = ()
        self._asked = 0
        self._target: tuple[str, str | None] = ("", None)
        self._name = ""
        self._shelf = Shelf(Path(folder) if folder is not None else None)
        self._wrong: KimiNbError | None = None
        self._plan: DownloadPlan | None = None
        self._plan_trouble: KimiNbError | None = None
        self._looking: threading.Thread | None = None
        self._watching: threading.Thread | None = None
        self._files: tuple[FileProgress, ...] = ()
        self._sets: list[Stock] = []
        self._removal: Removal | None = None
        self._note = ""
        known = model in catalog().models
        super().__init__(
            {
                "source": PLAN if saved is not None else str(model) if known else REPO,
                "quant": (quant or "") if known else "",
                "repo": "" if known else model or "",
                "repo_quant": "" if known else quant or "",
                "plan": str(saved or "plan.json"),
                "folder": str(folder or models_home()),
                "limit": "" if self._options.limit_bytes_s is None else GIVEN,
                "set": "",
            }
        )
        listen(self._heard)

    def wait(self, timeout_s: float | None = None) -> DownloadPanel:
        """Wait until what is under way has ended: looking what there is, downloading, verifying."""
        looking = self._looking
        if looking is not None:
            looking.join(timeout_s)
        for name in (self._name, self._listed):
            work = latest(name, self._shelf.folder)
            if work is not None:
                work.wait(timeout_s)
        with self._lock:
            self._look_here()
        self.refresh()
        return self

    # What is chosen

    @traitlets.validate("chosen")
    def _settle(self, proposal: Mapping[str, Any]) -> dict[str, str]:
        """Make what is chosen possible, and look at what is there of it."""
        with self._lock:
            chosen = possible({**self.chosen, **proposal["value"]})
            if tuple(chosen[name] for name in _WHAT) != self._what:
                self._aim(chosen)
            if chosen["set"] != self.chosen.get("set"):
                self._removal = None  # that was asked about another one
            return chosen

    def _aim(self, chosen: Mapping[str, str]) -> None:
        """Take another set or another folder into view."""
        before, self._what = self._what, tuple(chosen[name] for name in _WHAT)
        self._wrong, self._removal, self._note, self._name = None, None, "", ""
        self._shelf = Shelf(Path(chosen["folder"]) if chosen["folder"].strip() else None)
        try:
            self._target = target_of(chosen)
            repo, quant, _ = actions.named(*self._target)
            self._name = f"{repo}:{quant}"
        except KimiNbError as error:
            self._wrong = error
        self._ask(typed=before[:2] == self._what[:2])

    def _ask(self, *, typed: bool = False) -> None:
        """Begin to find out what would be fetched; what the disk knows is shown at once."""
        self._asked += 1
        asked, self._plan, self._plan_trouble = self._asked, None, None
        self._look_here()
        if self._name:
            self._looking = self.in_background(lambda: self._find_out(asked, typed=typed), "look")

    def _find_out(self, asked: int, *, typed: bool) -> None:
        if typed:
            time.sleep(_TYPING_S)  # a name that is still being typed need not be asked for
        plan, trouble = None, None
        try:
            if asked == self._asked:
                plan = actions.plan_download(
                    *self._target,
                    folder=self._shelf.folder,
                    endpoint=self._endpoint,
                    options=self._options,
                    cancelled=lambda: asked != self._asked,
                )
        except KeyboardInterrupt:
            return
        except KimiNbError as error:
            trouble = error
        with self._lock:
            if asked == self._asked:  # else something else was chosen meanwhile
                self._plan, self._plan_trouble, self._looking = plan, trouble, None
                self._look_here()

    def _look_here(self) -> None:
        """Look at the disk: what is in the folder, and how far each file of the chosen set is."""
        try:
            self._sets = stock(self._shelf)
            entries = [one.entry for one in self._sets if one.entry.manifest.name == self._name]
            if not entries and self._plan is not None:
                entries = [Entry(self._plan.manifest, self._plan.folder)]
            self._files = files_of(self._shelf, entries[0]) if entries else ()
        except (KimiNbError, OSError) as error:
            self._sets, self._files = [], ()
            self._wrong = SystemRefusedError(error) if isinstance(error, OSError) else error
        if self._moving() and (self._watching is None or not self._watching.is_alive()):
            self._watching = threading.Thread(target=self._watch, name="kimi-nb panel watch", daemon=True)
            self._watching.start()

    # What goes on

    @property
    def _work(self) -> Work | None:
        """What this process does with the chosen set, or did last."""
        return latest(self._name, self._shelf.folder) if self._name else None

    @property
    def _listed(self) -> str:
        """The set that is chosen in the list of those here; empty if there is none."""
        sets = [one.entry.manifest.name for one in self._sets]
        chosen = str(self.chosen.get("set", ""))
        return next((name for name in (chosen, self._name, *sets) if name in sets), "")

    def _check(self) -> Work | None:
        """Return what this process does, or did last, to verify the set chosen in the list."""
        name = self._listed
        work = latest(name, self._shelf.folder) if name else None
        return None if work is None or work.task is Task.DOWNLOAD else work

    def _moving(self) -> bool:
        works = (self._work, self._check())
        return any(work is not None and work.active for work in works) or any(
            file.state is State.ELSEWHERE for file in self._files
        )

    def _watch(self) -> None:
        """Show how far it is, for as long as something goes on: often at first, then more seldom.

        A tab that is closed does not hear it, and the notebook server keeps what it missed.
        """
        began = looked = time.monotonic()
        moving = True
        while moving:
            spent = min(1.0, (time.monotonic() - began) / _SETTLED_S)
            time.sleep(_OFTEN_S + (_SELDOM_S - _OFTEN_S) * spent)
            with self._lock:
                now = time.monotonic()
                if self._work is None or not self._work.active or now - looked > _LOOK_S:
                    looked = now
                    self._look_here()
                moving = self._moving()
                if not moving:
                    self._watching = None
            self.refresh()

    def _heard(self, work: Work) -> None:
        """Something begins or has ended, here or in another panel of this kernel."""
        if work.folder != self._shelf.folder:
            return
        # In a thread of its own: two panels that tell each other would wait for each other's lock.
        self.in_background(lambda: self._news(work), "news")

    def _news(self, work: Work) -> None:
        with self._lock:
            if work.name == self._name and not work.active:
                self._ask()
            else:
                self._look_here()

    def _now(self) -> Progress | None:
        work = self._work
        if work is not None and work.active:
            return work.progress or (view.sum_of(self._files) if self._files else None)
        return view.sum_of(self._files) if self._files else None

    # What is shown

    def draw(self) -> list[Node]:
        """Return the panel as it is now."""
        choices = controls(self.chosen, self._options.limit_bytes_s, busy=self._busy())
        why_not = "" if self._name else "Choose a model first."
        choices.append(n.row([n.button("look", "Look again", disabled=why_not)], key="look"))
        shown = [
            n.group("What would be fetched", self._facts(), key="facts"),
            n.group("The download", self._download(), key="download"),
            n.group("Models in this folder", self._models(), key="here"),
        ]
        return [
            n.heading("Download: what comes, and whether it is whole", level=2),
            n.columns(
                [
                    n.group("Choices", choices, key="choices", quiet=True),
                    n.group("State", shown, key="state", quiet=True),
                ]
            ),
        ]

    def _busy(self) -> bool:
        return self._work is not None and self._work.active

    def _facts(self) -> list[Node]:
        wrong = self._wrong or self._plan_trouble
        if wrong is not None and self.chosen["source"] == REPO and not self.chosen["repo"]:
            return [n.text(str(wrong), tone="quiet", live=True, key="nothing")]
        if wrong is not None:
            return view.trouble(wrong)
        if self._plan is None:
            return [n.text(f"Looking what there is of {self._name} ...", tone="quiet", key="looking")]
        return view.facts(self._plan)

    def _download(self) -> list[Node]:
        work, now = self._work, self._now()
        said, tone = view.state(work, now)
        if not self._name:
            return [n.text("Nothing was chosen yet.", tone="quiet", live=True, key="state")]
        items = [n.text(said, tone=tone, live=True, key="state")]
        active = work is not None and work.active
        whole = now is not None and bool(now.files) and all(f.state is State.DONE for f in now.files)
        if active or now is not None:
            items += view.work_bar(self._name, now)
        if active:
            items += view.pace(now)
        again = "Resume" if now is not None and now.done_bytes and not whole else "Download"
        if work is not None and work.phase is Phase.FAILED and not whole:
            again = "Try again"
        why_not = "It is under way." if active else "It is whole already." if whole else ""
        why_pause = "" if active else "Nothing is under way."
        if work is not None and work.phase is Phase.PAUSING:
            why_pause = "It is ending."
        buttons = [
            n.button("start", again, main=not active, disabled=why_not, about=self._name),
            n.button("pause", "Pause", main=active, disabled=why_pause, about=self._name),
        ]
        items.append(n.row(buttons, key="buttons"))
        if work is not None and work.error is not None and work.task is not Task.VERIFY:
            items += view.trouble(work.error)
        if work is not None and work.notices:
            lines = [n.text(line, key=str(i)) for i, line in enumerate(work.notices)]
            items.append(n.fold("Notes", lines, key="notices"))
        if now is not None and now.files:
            items.append(view.file_bars(now.files, going=active))
        if whole and (entry := self._entry(self._name)) is not None:
            items.append(n.code("First shard, for llama-server", str(actions.first_shard(entry))))
        return items

    def _entry(self, name: str) -> Entry | None:
        return next((one.entry for one in self._sets if one.entry.manifest.name == name), None)

    def _state_of(self, name: str) -> str:
        return next((one.state for one in self._sets if one.entry.manifest.name == name), "")

    def _models(self) -> list[Node]:
        if not self._sets:
            return [
                n.text(f"None yet in {self._shelf.folder}.", tone="quiet", key="none"),
                *self._last_words(),
            ]
        names = [one.entry.manifest.name for one in self._sets]
        chosen, check = self._listed, self._check()
        active = check is not None and check.active
        going = latest(chosen, self._shelf.folder)
        busy = "Something is under way with it." if going is not None and going.active else ""
        buttons = [
            n.button("verify", "Verify", disabled=busy, about=chosen),
            n.button("stop", "Stop", disabled="" if active else "Nothing is being verified.", about=chosen),
            n.button("remove", "Remove ...", disabled=busy, about=chosen),
        ]
        items = [
            view.models_table(self._sets, str(self._shelf.folder)),
            n.select("set", "To verify or remove", chosen, [(name, name) for name in names]),
            n.row(buttons, key="with"),
        ]
        if check is not None and active:
            items += view.work_bar(f"Reading {chosen}", check.progress)
        elif check is not None and check.error is not None:
            items += view.trouble(check.error)
            if check.task is Task.VERIFY:
                items.append(n.button("repair", "Fetch again what is broken", main=True, about=chosen))
        elif check is not None and check.phase is Phase.DONE and self._state_of(chosen) == "verified":
            items.append(n.text(f"{chosen} was read again: every byte is right.", tone="good", live=True))
        if self._removal is not None:
            sure = [n.button("sure", "Yes, remove it", about=chosen), n.button("keep", "No, keep it")]
            words = n.text(view.removal(self._removal), tone="warn", live=True, key="removal")
            items.append(n.group("Remove it?", [words, n.row(sure)], key="removing"))
        return [*items, *self._last_words()]

    def _last_words(self) -> list[Node]:
        """Return what came of the last button."""
        if self.trouble is not None:
            return view.trouble(self.trouble)
        return [n.text(self._note, live=True, key="note")] if self._note else []

    # Buttons

    def press_look(self, _fields: Mapping[str, str]) -> None:
        """Look again what there is, here and at the Hub."""
        self._what = ()
        self.chosen = dict(self.chosen)  # settles it anew

    def press_start(self, _fields: Mapping[str, str]) -> None:
        """Download, or go on with it."""
        rate = limit_of(self.chosen, self._options.limit_bytes_s)
        self._begin(Task.DOWNLOAD, *self._target, options=replace(self._options, limit_bytes_s=rate))

    def press_pause(self, _fields: Mapping[str, str]) -> None:
        """Stop the download; what has come is kept."""
        if self._work is not None:
            self._work.pause()

    def press_verify(self, _fields: Mapping[str, str]) -> None:
        """Read every byte of the set chosen in the list again."""
        self._begin(Task.VERIFY, *_parted(self._listed))

    def press_repair(self, _fields: Mapping[str, str]) -> None:
        """Fetch again what is broken of it."""
        self._begin(Task.REPAIR, *_parted(self._listed))

    def press_stop(self, _fields: Mapping[str, str]) -> None:
        """Stop reading it."""
        if (check := self._check()) is not None:
            check.pause()

    def press_remove(self, _fields: Mapping[str, str]) -> None:
        """Ask whether it shall be removed."""
        self._note = ""
        self._removal = plan_removal(self._shelf, find(self._shelf, self._listed))

    def press_keep(self, _fields: Mapping[str, str]) -> None:
        """Do not remove it."""
        self._removal, self._note = None, "Nothing was removed."

    def press_sure(self, _fields: Mapping[str, str]) -> None:
        """Remove it."""
        removal, self._removal = self._removal, None
        if removal is None:
            return
        remove(self._shelf, removal)
        name = removal.entry.manifest.name
        self._note = f"{name} was removed."
        self._look_here()
        if name == self._name:
            self._ask()

    def _begin(self, task: Task, model: str, quant: str | None, *, options: Options | None = None) -> None:
        self._note, self._removal = "", None
        begin(
            task,
            model,
            quant,
            folder=self._shelf.folder,
            endpoint=self._endpoint,
            options=options or self._options,
        )
        self._look_here()


def _parted(name: str) -> tuple[str, str]:
    """Return repository and quant of a set's name."""
    repo, _, quant = name.rpartition(":")
    return repo, quant
