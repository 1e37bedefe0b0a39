"""Limits the requests of each client, and defines what a client is and which clients are on this machine."""

import ipaddress
import math
import time
from collections import deque

from starlette.datastructures import Headers
from starlette.types import Scope

from tinystories.server.arguments import LOCAL_NAMES


MINUTE = 60.0  # seconds
OF_PROXIES = ("forwarded", "via", "x-real-ip", "x-client-ip", "true-client-ip", "cf-connecting-ip")


class RateLimiter:
    """At most `per_minute` stories for each client in any 60 seconds; forgets a client after that time."""

    def __init__(self, per_minute: int):
        self.per_minute = per_minute
        self.times: dict[str, deque[float]] = {}
        self.next_sweep = 0.0

    def wait(self, client: str, stories: int = 1) -> int:
        """0 if the client may request these stories now, else how many seconds it must wait, at least 1.

        stories: at most `per_minute`."""
        now = time.monotonic()
        times = self.times.get(client, deque())
        while times and times[0] <= now - MINUTE:
            times.popleft()
        too_many = len(times) + stories - self.per_minute
        return max(1, math.ceil(times[too_many - 1] + MINUTE - now)) if too_many > 0 else 0

    def count(self, client: str, stories: int = 1) -> None:
        """Count stories of this client."""
        now = time.monotonic()
        if now > self.next_sweep:
            self.times = {each: times for each, times in self.times.items() if times and times[-1] > now - MINUTE}
            self.next_sweep = now + MINUTE
        self.times.setdefault(client, deque()).extend([now] * stories)


def client_key(scope: Scope) -> str:
    """The IPv4 address or the /64 network of the IPv6 address: of the socket, or as reported by a trusted proxy."""
    address = _address(scope)
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


def is_local(scope: Scope) -> bool:
    """Whether the request is of a program on this machine, and not of a proxy here that passes on a visitor's.

    A proxy shows by a header of its own, by the visitor's name for this server, by the visitor's page (Origin), or by
    HTTP/1.0, which nginx speaks unless told otherwise and no browser does. One that shows by none of these cannot be
    told from a program."""
    address, headers = _address(scope), Headers(scope=scope)
    if isinstance(address, str) or not address.is_loopback or scope.get("http_version") == "1.0":
        return False
    if any(name in OF_PROXIES or name.startswith("x-forwarded") for name in headers):
        return False
    origin = headers.get("origin", "").rpartition("://")[2]
    return _is_local_name(headers.get("host", "")) and (not origin or _is_local_name(origin))


def _is_local_name(host: str) -> bool:
    """host: with or without a port."""
    name = host if host.endswith("]") else host.rpartition(":")[0] or host
    return name.lower() in LOCAL_NAMES


def _address(scope: Scope) -> ipaddress.IPv4Address | ipaddress.IPv6Address | str:
    """Of the client; the text itself where it is none."""
    host = scope["client"][0] if scope.get("client") else "unknown"
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    return getattr(address, "ipv4_mapped", None) or address
