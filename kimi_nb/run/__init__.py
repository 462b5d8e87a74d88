"""Headless runs of notebooks, and the parameters that notebooks take.

Names are loaded when they are first used, so that importing this package costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kimi_nb.lazy import lazy_exports

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

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Failure": "record",
        "NotebookRun": "record",
        "Parameter": "parameters",
        "Run": "record",
        "Text": "parameters",
        "check_parameters": "parameters",
        "declared_parameters": "parameters",
        "html_report": "report",
        "params": "",
        "run_notebooks": "headless",
    },
)
