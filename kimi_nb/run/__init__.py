"""Headless runs of notebooks, and the parameters that notebooks take.

Names are loaded when they are first used, so that importing this package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kimi_nb.run import params
    from kimi_nb.run.headless import run_notebooks
    from kimi_nb.run.parameters import Parameter, Text, check_parameters, declared_parameters
    from kimi_nb.run.record import Failure, NotebookRun, Run
    from kimi_nb.run.report import html_report

__all__ = [
    "Failure",
    "NotebookRun",
    "Parameter",
    "Run",
    "Text",
    "check_parameters",
    "declared_parameters",
    "html_report",
    "params",
    "run_notebooks",
]

_HOME = {
    "Failure": "record",
    "NotebookRun": "record",
    "Parameter": "parameters",
    "Run": "record",
    "Text": "parameters",
    "check_parameters": "parameters",
    "declared_parameters": "parameters",
    "html_report": "report",
    "run_notebooks": "headless",
}


def __getattr__(name: str) -> Any:
    if name == "params":
        return import_module(f"{__name__}.params")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
