"""Who is next: the clients take turns, so that one with ten requests does not hold up one with a single request."""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar


Item = TypeVar("Item")


class FairQueue(Generic[Item]):
    def __init__(self, limit: int):
        self.limit = limit
        self.lines: OrderedDict[str, deque[Item]] = OrderedDict()

    def __len__(self) -> int:
        return sum(len(line) for line in self.lines.values())

    def __iter__(self) -> Iterator[Item]:
        return (item for line in self.lines.values() for item in line)

    def put(self, client: str, item: Item) -> bool:
        """False if nobody may wait any more."""
        if len(self) >= self.limit:
            return False
        self.lines.setdefault(client, deque()).append(item)
        return True

    def take(self, fits: Callable[[Item], bool]) -> Item | None:
        """The first one that `fits` of those whose turn it is; its client's turn comes again after all others'."""
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
