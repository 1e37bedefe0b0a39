"""HTTP requests byte by byte, for what no client library sends."""

import contextlib
import json
import socket

from helpers.serving import Client


def connected(server: Client, source: str | None = None) -> socket.socket:
    """A connection to the server; source: the address to connect from."""
    return socket.create_connection(
        ("127.0.0.1", int(server.port)), timeout=60, source_address=None if source is None else (source, 0)
    )


def request(body: bytes, *headers: str, path: str = "/generate") -> bytes:
    """A POST of JSON without a length: that is one of the headers."""
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def whole(fields: dict, *headers: str, path: str = "/generate") -> bytes:
    body = json.dumps(fields).encode()
    return request(body, f"Content-Length: {len(body)}", *headers, path=path)


def chunked(pieces: list[bytes]) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def heard(connection: socket.socket) -> bytes:
    """Everything until the server closes the connection. A system that had to drop what the server did not read any
    more resets the connection, and may drop the answer too."""
    received = b""
    try:
        while piece := connection.recv(65536):
            received += piece
    except ConnectionResetError:
        pass
    return received


def answer_to(server: Client, sent: bytes) -> tuple[int, dict] | None:
    """The status and the JSON of the answer to one request, after which the server must close the connection; None if
    it did so without an answer."""
    with connected(server) as connection:
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):  # refused before all of it was sent
            connection.sendall(sent)
        received = heard(connection)
    return status_and_json(received) if received else None


def next_answer(connection: socket.socket) -> tuple[int, dict]:
    """The status and the JSON of the next answer on a connection that stays open."""
    received = b""
    while b"\r\n\r\n" not in received or not received.endswith(b"}"):
        received += connection.recv(65536)
    return status_and_json(received)


def status_and_json(received: bytes) -> tuple[int, dict]:
    head, _, body = received.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)
