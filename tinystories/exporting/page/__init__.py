"""A web page with the model in it: it opens by a double click, needs no server and no network, and checks itself.

NAME.html has everything in it, for models up to `LARGEST_PAGE`. For larger ones, and for hosts of static files,
index.html reads model.safetensors beside it.
"""

import logging
from collections.abc import Iterator
from pathlib import Path

from safetensors.torch import save

from tinystories.exporting.page.contents import check_network, contents, presets_of
from tinystories.exporting.page.document import document
from tinystories.exporting.page.node import NodeReader, find_node
from tinystories.exporting.page.tokenizer import check_tokenizer
from tinystories.exporting.proof import Reader
from tinystories.exporting.source import Source


logger = logging.getLogger(__name__)

LARGEST_PAGE = 64 * 2**20  # bytes of the page with everything in it: more takes browsers seconds to read
INDEX, WEIGHTS = "index.html", "model.safetensors"


def check(source: Source) -> None:
    """Raises UserError: a network, tokenizer or preset that a page cannot have."""
    check_network(source)
    check_tokenizer(source)
    presets_of(source)


def write(source: Source, folder: Path) -> None:
    """Write NAME.html if it is small enough, and index.html with model.safetensors."""
    state = source.model.state_dict()
    if source.model.config.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    weights = save({name: tensor.float().contiguous().cpu() for name, tensor in state.items()})
    data = contents(source, weights)
    page = document(data, weights) if len(weights) * 4 // 3 < LARGEST_PAGE else None
    if page is not None and len(page.encode()) <= LARGEST_PAGE:
        _write(folder / (f"{source.slug}.html" if source.slug.lower() != "index" else "model.html"), page)
    else:
        logger.info(
            "%s is too large for one file of at most %d MiB: only the folder for a host of static files is written",
            source.name,
            LARGEST_PAGE // 2**20,
        )
    (folder / WEIGHTS).write_bytes(weights)
    _write(folder / INDEX, document(data, None))


def _write(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8", newline="\n")  # the policy has hashes of the scripts


def readers(source: Source, folder: Path) -> Iterator[Reader]:
    """The page in node, where it is installed. Of two pages the second has the same data, and is opened and checked."""
    node = find_node()
    first, *others = sorted(folder.glob("*.html"), key=lambda page: page.name == INDEX)
    if node is None:
        return
    for page in others:
        with NodeReader(node, page) as reader:
            reader.check()
    with NodeReader(node, first) as reader:
        yield reader
