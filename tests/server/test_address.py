"""The address that the server prints: it can be opened at that moment, on every kind of host."""

import logging
import re
import signal
import socket
import threading

import httpx
import pytest

from helpers.runs import mistake
from helpers.serving import OPTIONS, untrained
from tinystories.commands.serve import parse
from tinystories.server.run import address_of, build_server, listen


class Opens(logging.Handler):
    """Opens the address of a line in the very moment it is logged, in another thread."""

    def __init__(self):
        super().__init__()
        self.lines: list[str] = []
        self.statuses: list[int] = []
        self.said = threading.Event()

    def emit(self, record):
        self.lines.append(record.getMessage())
        if found := re.search(r"http://\S+", self.lines[-1]):
            threading.Thread(target=self.open, args=(found[0],)).start()

    def open(self, address):
        with httpx.Client(trust_env=False) as client:
            for path in ("/", "/health"):
                self.statuses.append(client.get(address + path, timeout=60).status_code)
        self.said.set()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return untrained(tmp_path_factory.mktemp("address") / "run", context=32)


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    ("host", "begins", "others"),
    [
        ("127.0.0.1", "http://127.0.0.1:", None),
        ("localhost", "http://127.0.0.1:", None),
        ("0.0.0.0", "http://127.0.0.1:", "by none of its names; --allowed_hosts gives some"),
        ("::1", "http://[::1]:", None),
        ("::", "http://[::1]:", "by none of its names; --allowed_hosts gives some"),
    ],
)
def test_address(host, begins, others, checkpoint):
    """Guards: an address before the model is ready (503), one that no browser opens (0.0.0.0), port 0."""
    if ":" in host and not has_ipv6():
        pytest.skip("this machine has no IPv6")
    lines = serve(host, checkpoint)
    (line,) = [line for line in lines if line.startswith("open ")]
    port = re.fullmatch(r"open http://\S+:(\d+) in a browser; Ctrl-C ends the server", line)[1]
    assert line.startswith(f"open {begins}") and int(port) > 0
    said = [line for line in lines if "other machines" in line]
    assert [line.partition("answers them ")[2] for line in said] == ([others] if others else [])


def test_names_of_others(checkpoint):
    """Who can reach a server that listens for other machines."""
    lines = serve("0.0.0.0", checkpoint, "--allowed_hosts", "stories.example.org")
    assert lines[-1] == "it listens for other machines too, and answers them by these names: stories.example.org"


def serve(host, checkpoint, *options) -> list[str]:
    """What the server logs until its address was opened, which must answer."""
    server = build_server(*parse([str(checkpoint), *OPTIONS, "--host", host, *options]))
    logger, opens = logging.getLogger("tinystories"), Opens()
    level = logger.level
    logger.addHandler(opens)
    logger.setLevel(logging.INFO)
    thread = threading.Thread(target=server.run, args=([listen(host, 0)],))
    thread.start()
    try:
        assert opens.said.wait(60), opens.lines
        assert opens.statuses == [200, 200]
    finally:
        server.handle_exit(signal.SIGTERM, None)
        thread.join(60)
        logger.removeHandler(opens)
        logger.setLevel(level)
    return opens.lines


def test_port_in_use():
    """One line with the remedy."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        message = mistake(listen, "127.0.0.1", port)
    assert message == (
        f"cannot listen on 127.0.0.1, port {port}: another program listens there, perhaps an earlier server; end it, "
        "or give --port 0 for a free port"
    )
    listen("127.0.0.1", port).close()


def test_hosts_that_are_not_here():
    for host in ("no.such.host.invalid", "203.0.113.7"):
        message = mistake(listen, host, 0)
        assert message.startswith(f"cannot listen on {host}, port 0: ") and "while attempting" not in message
        assert message.endswith("; give another --host or --port")


def test_address_of():
    assert [address_of(host) for host in ("0.0.0.0", "::", "::1", "10.0.0.7")] == [
        *("127.0.0.1", "[::1]", "[::1]", "10.0.0.7")
    ]
