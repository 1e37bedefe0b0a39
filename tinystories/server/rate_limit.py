"""Limits the requests of each client, and defines what a client is."""

import ipaddress
import math
import time
from collections import deque

from starlette.types import Scope


MINUTE = 60.0  # seconds


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
    host = scope["client"][0] if scope.get("client") else "unknown"
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    address = getattr(address, "ipv4_mapped", None) or address
    return str(ipaddress.ip_network((address, 64), strict=False)) if address.version == 6 else str(address)
