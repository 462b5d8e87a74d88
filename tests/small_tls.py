"""A self-signed certificate for 127.0.0.1, made from nothing, and a proxy: so that HTTPS is tested as it is used."""

from __future__ import annotations

import base64
import hashlib
import random
import select
import socket
import ssl
import threading
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from pathlib import Path

BITS = 1024


def _prime(bits: int, chance: random.Random) -> int:
    while True:
        number = chance.getrandbits(bits) | (3 << (bits - 2)) | 1
        if all(number % small for small in (3, 5, 7, 11, 13, 17, 19, 23, 29, 31)) and all(
            pow(base, number - 1, number) == 1 for base in (2, 3, 5, 7)
        ):
            return number


def _der(tag: int, body: bytes) -> bytes:
    length = len(body)
    if length < 128:
        return bytes([tag, length]) + body
    size = (length.bit_length() + 7) // 8
    return bytes([tag, 128 | size]) + length.to_bytes(size, "big") + body


def _int(number: int) -> bytes:
    return _der(2, number.to_bytes(number.bit_length() // 8 + 1, "big"))


def _seq(*parts: bytes) -> bytes:
    return _der(0x30, b"".join(parts))


def _pem(kind: str, data: bytes) -> str:
    text = base64.encodebytes(data).decode()
    return f"-----BEGIN {kind}-----\n{text}-----END {kind}-----\n"


def make_certificate(folder: Path) -> Path:
    """Write a key and a certificate for 127.0.0.1 into one PEM file; good for nothing but this test run."""
    chance = random.Random()
    p, q, e = _prime(BITS, chance), _prime(BITS, chance), 65537
    n, d = p * q, pow(65537, -1, (p - 1) * (q - 1))
    rsa = _seq(bytes.fromhex("06092a864886f70d010101"), b"\x05\x00")
    sha256_rsa = _seq(bytes.fromhex("06092a864886f70d01010b"), b"\x05\x00")
    name = _seq(_der(0x31, _seq(bytes.fromhex("0603550403"), _der(12, b"test only"))))
    validity = _seq(_der(24, b"20200101000000Z"), _der(24, b"21200101000000Z"))
    public = _seq(rsa, _der(3, b"\0" + _seq(_int(n), _int(e))))
    address = _seq(bytes.fromhex("0603551d11"), _der(4, _seq(_der(0x87, bytes([127, 0, 0, 1])))))
    is_ca = _seq(bytes.fromhex("0603551d13"), b"\x01\x01\xff", _der(4, _seq(b"\x01\x01\xff")))
    extensions = _der(0xA3, _seq(address, is_ca))
    body = _seq(_der(0xA0, _int(2)), _int(1), sha256_rsa, name, validity, name, public, extensions)
    digest = bytes.fromhex("3031300d060960864801650304020105000420") + hashlib.sha256(body).digest()
    size = (n.bit_length() + 7) // 8
    padded = b"\0\1" + b"\xff" * (size - 3 - len(digest)) + b"\0" + digest
    signature = pow(int.from_bytes(padded, "big"), d, n).to_bytes(size, "big")
    certificate = _seq(body, sha256_rsa, _der(3, b"\0" + signature))
    key = _seq(
        _int(0),
        _int(n),
        _int(e),
        _int(d),
        _int(p),
        _int(q),
        _int(d % (p - 1)),
        _int(d % (q - 1)),
        _int(pow(q, -1, p)),
    )
    path = folder / "certificate.pem"
    path.write_text(_pem("RSA PRIVATE KEY", key) + _pem("CERTIFICATE", certificate))
    return path


class Relay:
    """Listen on a port of 127.0.0.1 and join every connection to another: as a TLS end, or as a proxy.

    Args:
        target: Host and port to join to; ``None`` for a proxy, which is told by each request.
        certificate: For TLS towards the client.
        login: ``user:password`` that a proxy asks for.
    """

    def __init__(
        self, target: tuple[str, int] | None, *, certificate: Path | None = None, login: str | None = None
    ) -> None:
        self._target, self._login = target, login
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH) if certificate else None
        if self._context is not None:
            self._context.load_cert_chain(certificate)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.asked: list[str] = []
        self._threads: list[threading.Thread] = []
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in list(self._threads):
            thread.join(10)
        self._socket.close()

    def _start(self, work, *args) -> None:
        thread = threading.Thread(target=work, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._ended.is_set():
            if select.select([self._socket], [], [], 0.05)[0]:
                client, _ = self._socket.accept()
                self._start(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        try:
            if self._context is not None:
                client = self._context.wrap_socket(client, server_side=True)
            target, first = self._target, b""
            if target is None:
                target, first = self._proxied(client)
            if target is not None:
                with socket.create_connection(target) as server:
                    server.sendall(first)
                    self._join(client, server)
        except (OSError, ssl.SSLError):
            pass
        finally:
            client.close()

    def _proxied(self, client: socket.socket) -> tuple[tuple[str, int] | None, bytes]:
        head = b""
        while b"\r\n\r\n" not in head:
            more = client.recv(4096)
            if not more:
                return None, b""
            head += more
        method, url, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
        self.asked.append(f"{method} {url}")
        if self._login and base64.b64encode(self._login.encode()) not in head:
            client.sendall(
                b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            )
            return None, b""
        if method == "CONNECT":
            host, _, port = url.partition(":")
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            return (host, int(port)), b""
        host, _, port = url.split("/")[2].partition(":")
        path = "/" + url.split("/", 3)[3]
        # One request a connection, so that the next is seen and counted here too.
        head = head.replace(url.encode(), path.encode(), 1).replace(
            b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1
        )
        return (host, int(port or 80)), head

    def _join(self, client: socket.socket, server: socket.socket) -> None:
        pairs = {client: server, server: client}
        while not self._ended.is_set():
            pending = getattr(client, "pending", lambda: 0)()
            ready = [client] if pending else select.select(list(pairs), [], [], 0.05)[0]
            for one in ready:
                data = one.recv(65536)
                if not data:
                    return
                pairs[one].sendall(data)
