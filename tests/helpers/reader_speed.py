"""How fast a reader of an exported file writes."""

import time

from tinystories.exporting.proof import Reader


def tokens_per_second(reader: Reader, ids: list[int], new_tokens: int, repeats: int = 5) -> list[float]:
    """Greedy tokens per second after `ids`, one value for each repetition; the first, which warms up, is left out.

    Raises:
        ValueError: the reader stops at once.
    """
    rates = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        written = len(reader.greedy(ids, new_tokens))
        seconds = time.perf_counter() - start
        if not written:
            raise ValueError(f"{reader.name} writes nothing after {ids}")
        rates.append(written / seconds)
    return rates[1:]
