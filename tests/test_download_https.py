"""HTTPS and proxies, as downloads meet them outside of a test."""

from __future__ import annotations

import pytest
from faulty_hub import REPO, SECRET, FaultyHub, make_repo, same_files
from small_tls import Relay, make_certificate

from kimi_nb.engine.download import Options, download
from kimi_nb.engine.fetch import wire
from kimi_nb.errors import DownloadError


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def repo(tmp_path):
    return make_repo(tmp_path / "repos" / REPO, shards=2, mib=3)


@pytest.fixture
def hub(repo):
    with FaultyHub(repo.parent.parent, token="hf_secret") as hub:
        yield hub


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    for name in (
        "http_proxy",
        "https_proxy",
        "all_proxy",
        "no_proxy",
        "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",
        "SSL_CERT_FILE",
    ):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    wire._tls.cache_clear()
    yield
    wire._tls.cache_clear()


class SecureHub:
    """A hub whose two hosts are behind TLS."""

    def __init__(self, hub, certificate):
        self._relays = [
            Relay(("127.0.0.1", server.server_port), certificate=certificate) for server in hub._servers
        ]

    def __enter__(self):
        self.hosts = [relay.__enter__() for relay in self._relays]
        return self

    def __exit__(self, *_):
        for relay in self._relays:
            relay.__exit__()


@pytest.fixture
def secure(hub, certificate, monkeypatch):
    with SecureHub(hub, certificate) as behind:
        first, second = (f"https://127.0.0.1:{host.port}" for host in behind.hosts)
        monkeypatch.setattr(type(hub), "storage", property(lambda _self: second))
        yield first


def get(endpoint, folder, **options):
    given = {"backoff_s": 0.02, "timeout_s": 5.0, "patience_s": 2.0} | options
    return download(REPO, "Q4", endpoint=endpoint, token="hf_secret", folder=folder, options=Options(**given))


def test_https(secure, hub, repo, tmp_path, certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    result = get(secure, tmp_path / "models")
    assert result.fetched_bytes == result.manifest.size
    same_files(repo, tmp_path / "models" / REPO)


def test_a_certificate_that_is_not_trusted_is_said(secure, tmp_path):
    with pytest.raises(DownloadError, match=r"KNB406.*certificate is not trusted: self.signed"):
        get(secure, tmp_path / "models")


def test_https_through_a_proxy_with_a_login(secure, repo, tmp_path, certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with Relay(None, login="me:pass word") as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:pass%20word@127.0.0.1:{proxy.port}")
        get(secure, tmp_path / "models")
        assert proxy.asked
        assert all(asked.startswith("CONNECT 127.0.0.1:") for asked in proxy.asked)
    same_files(repo, tmp_path / "models" / REPO)


def test_plain_http_through_a_proxy(hub, repo, tmp_path, monkeypatch):
    with Relay(None) as proxy:
        monkeypatch.setenv("http_proxy", f"127.0.0.1:{proxy.port}")
        get(hub.endpoint, tmp_path / "models")
        assert len(proxy.asked) >= 4
        assert {asked.split("/")[2] for asked in proxy.asked} == {hub.endpoint[7:], hub.storage[7:]}
    same_files(repo, tmp_path / "models" / REPO)


def test_no_proxy_is_respected(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    get(hub.endpoint, tmp_path / "models")


def test_a_proxy_that_wants_a_login_is_said(secure, tmp_path, certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with Relay(None, login="me:secret") as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:hf_wrong@127.0.0.1:{proxy.port}")
        with pytest.raises(DownloadError, match=r"KNB406.*407") as caught:
            get(secure, tmp_path / "models")
        assert not SECRET.search(str(caught.value))


def test_a_proxy_of_another_kind_is_said(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", "socks5://me:hf_x@127.0.0.1:9")
    with pytest.raises(DownloadError, match="KNB421") as caught:
        get(hub.endpoint, tmp_path / "models")
    assert not SECRET.search(str(caught.value))
