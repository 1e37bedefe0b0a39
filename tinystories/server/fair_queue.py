"""A queue in which clients take turns, so that one with ten requests does not delay one with a single request."""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar


Item = TypeVar("Item")


class FairQueue(Generic[Item]):
    """First in, first out for each client; round robin over the clients. `lines`: the items of each client in order of
    arrival; the client whose turn is next comes first."""

    def __init__(self, limit: int):
        self.limit = limit
        self.lines: OrderedDict[str, deque[Item]] = OrderedDict()

    def __len__(self) -> int:
        return sum(len(line) for line in self.lines.values())

    def __iter__(self) -> Iterator[Item]:
        return (item for line in self.lines.values() for item in line)

    def put(self, client: str, item: Item) -> bool:
        """False if the queue is full."""
        if len(self) >= self.limit:
            return False
        self.lines.setdefault(client, deque()).append(item)
        return True

    def take(self, fits: Callable[[Item], bool]) -> Item | None:
        """The first item of the next client for which `fits` holds; that client then goes to the end of the round."""
        client = next((client for client, line in self.lines.items() if fits(line[0])), None)
        if client is None:
            return None
        line = self.lines.pop(client)
        item = line.popleft()
        if line:
            self.lines[client] = line
        return item

    def remove(self, item: Item) -> None:
        for client, line in self.lines.items():
            if item in line:
                line.remove(item)
                if not line:
                    del self.lines[client]
                return
