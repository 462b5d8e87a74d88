"""Shared parts of the tests: the real llama.cpp programs, and nano on a real llama-server."""

import importlib
import pkgutil
import signal
import sys
from contextlib import suppress
from functools import cache

import hypothesis
import pytest

import kimi_nb

# A shell that starts us in the background leaves SIGINT ignored, and nohup SIGHUP; every process we start would
# inherit that, and the tests of these signals wait for ever. With a handler here, what we start gets the default again.
signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# How long an example takes tells of the machine, and a fixture that a test shares among its examples is meant so.
hypothesis.settings.register_profile(
    "ours",
    deadline=None,
    suppress_health_check=[
        hypothesis.HealthCheck.too_slow,
        hypothesis.HealthCheck.function_scoped_fixture,
    ],
)
hypothesis.settings.load_profile("ours")


@cache
def load_all_of_ours():
    for module in pkgutil.walk_packages(kimi_nb.__path__, "kimi_nb."):
        with suppress(ImportError):  # what is only there for training, or on another system
            importlib.import_module(module.name)


@pytest.hookimpl
def pytest_runtest_setup(item):
    """Hypothesis draws constants that it finds in our modules, those that are loaded.

    One that is first loaded while a test runs would change what is drawn, and the test be called flaky.
    """
    if getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
        load_all_of_ours()


@pytest.hookimpl
def pytest_unconfigure():
    """llama_cpp keeps two files open for as long as it is loaded, of which Python complains at the very end."""
    utils = sys.modules.get("llama_cpp._utils")
    for file in () if utils is None else (utils.outnull_file, utils.errnull_file):
        file.close()


@pytest.fixture(scope="session")
def build():
    """The finished build of llama.cpp; made once per machine (several minutes on two cores) and then reused."""
    from kimi_nb.engine import ensure_build

    return ensure_build()


@pytest.fixture(scope="session")
def nano(build, tmp_path_factory):
    """The path of nano's GGUF file, checked or made in the user's cache folder."""
    from kimi_nb.nano import nano_path

    return nano_path()


@pytest.fixture(scope="session")
def server(build, nano, tmp_path_factory):
    """A real llama-server with nano, shared by every test that does not harm it."""
    from kimi_nb.engine import LlamaServer
    from kimi_nb.plan import Settings

    # One thread: nano gains little from more, and on a busy machine two wait for each other.
    settings = Settings(ctx_size=8192, parallel=2, threads=1)
    with LlamaServer(nano, settings=settings, build=build, alias="nano") as running:
        yield running
