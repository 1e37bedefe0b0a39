"""A queue in which clients take turns, so that one with ten requests does not delay one with a single request."""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar


Item = TypeVar("Item")


class FairQueue(Generic[Item]):
    """First in, first out for each client; round robin over the clients. `lines`: the items of each client in order of
    arrival; the client whose turn is next comes first. limit: of all items; share: of those of one client."""

    def __init__(self, limit: int, share: int):
        self.limit, self.share = limit, share
        self.lines: OrderedDict[str, deque[Item]] = OrderedDict()

    def __len__(self) -> int:
        return sum(len(line) for line in self.lines.values())

    def __iter__(self) -> Iterator[Item]:
        return (item for line in self.lines.values() for item in line)

    def put(self, client: str, *items: Item) -> bool:
        """Add all items. False, and none is added, if the queue or the client's share of it has no room for them."""
        if len(self) + len(items) > self.limit or len(self.lines.get(client, ())) + len(items) > self.share:
            return False
        self.lines.setdefault(client, deque()).extend(items)
        return True

    def take(self, fits: Callable[[Item], bool]) -> Item | None:
        """The first item that fits, of the next client that has one; this client then goes to the end of the round."""
        for client, line in self.lines.items():
            item = next((item for item in line if fits(item)), None)
            if item is not None:
                self.remove(item)
                if line:
                    self.lines.move_to_end(client)
                return item
        return None

    def remove(self, item: Item) -> None:
        for client, line in self.lines.items():
            if item in line:
                line.remove(item)
                if not line:
                    del self.lines[client]
                return
