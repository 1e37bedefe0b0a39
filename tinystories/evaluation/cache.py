"""Parts of an evaluation that are done: a command that was stopped goes on where it was, and none is measured twice.

A part is one JSON file, named by a key over everything it depends on: weights, tokenizer, stories, settings, library
versions and the code that measures. Whatever changes, changes the key; nobody is ever told to delete a cache.
"""

import json
import logging
import sys
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tinystories.atomic import write_atomically
from tinystories.data.cache import content_key
from tinystories.errors import UserError
from tinystories.run_files import LIBRARIES, read_json


logger = logging.getLogger(__name__)

LIBRARY = Path(__file__).parent.parent


class ResultCache:
    """The parts in `folder`. Results must be JSON."""

    def __init__(self, folder: Path):
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"output_dir {folder.parent}: cannot be made or written to ({error.strerror})") from error
        files = [*sorted(LIBRARY.rglob("*.py")), *sorted(LIBRARY.rglob("*.json"))]
        versions = [f"{name} {version(name)}" for name in LIBRARIES]
        versions += [f"harper {version('harper-py')}"] if find_spec("harper") else []
        self.base = content_key([*versions, *(file.read_bytes() for file in files)])

    def get(self, name: str, depends_on: list[Any], measure: Callable[[], Any]) -> Any:
        """What the part `name` holds; measured now where it is not known."""
        key = content_key([self.base, *(json.dumps(item, sort_keys=True) for item in depends_on)])
        path = self.folder / f"{name}-{key}.json"
        known = read_json(path, logger.warning)
        if known is not None:
            return known["result"]
        result = measure()
        write_atomically(path, json.dumps({"part": name, "result": result}, ensure_ascii=False) + "\n")
        return json.loads(json.dumps(result))  # the same types, whether it was known or not


def fingerprint(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str:
    """Over every weight, the configuration, the code of the model and the tokenizer."""
    special = json.dumps({name: str(token) for name, token in tokenizer.special_tokens_map.items()}, sort_keys=True)
    ids = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id]
    code = Path(sys.modules[type(model).__module__].__file__).read_bytes()
    weights = (
        part
        for name, tensor in sorted(model.state_dict().items())
        for part in (name, tensor.detach().cpu().contiguous().numpy().tobytes())
    )
    words = tokenizer.backend_tokenizer.to_str()
    return content_key([model.config.to_json_string(), code, words, special, *ids, *weights])
