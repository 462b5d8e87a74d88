"""Shared parts of the tests: the real llama.cpp programs, and nano on a real llama-server."""

import signal

import pytest

# A shell that starts us in the background leaves SIGINT ignored, and nohup SIGHUP; every process we start would
# inherit that, and the tests of these signals wait for ever. With a handler here, what we start gets the default again.
signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


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
