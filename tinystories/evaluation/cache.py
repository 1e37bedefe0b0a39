"""Results that an evaluation has finished: a command that was stopped continues, and nothing is measured twice.

A result is one JSON file in the folder `parts`. Its name holds a key over everything it depends on: weights, tokenizer,
stories, settings, library versions and all code of this package. A change to any of them changes the key, so an old
result is never reused by mistake and no user has to delete the cache. A file also holds the SHA-256 of its result, and
one that was changed or cut off is measured again.
"""

import hashlib
import inspect
import json
import logging
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from tinystories.atomic import write_atomically
from tinystories.data.cache import content_key
from tinystories.errors import UserError
from tinystories.run_files import LIBRARIES, read_json


logger = logging.getLogger(__name__)

LIBRARY = Path(__file__).parent.parent


class ResultCache:
    """The results in `folder`; a result must be JSON.

    Raises:
        UserError: the folder cannot be created.
    """

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
        """The result `name` for the inputs `depends_on`; `measure` is called if it is not known yet."""
        key = content_key([self.base, *(json.dumps(item, sort_keys=True) for item in depends_on)])
        path = self.folder / f"{name}-{key}.json"
        known = read_json(path, logger.warning)
        if known is not None and known.get("sha256") == _digest(known.get("result")):
            return known["result"]
        if known is not None:
            logger.warning("%s is damaged (its result is not what was written): it is measured again", path)
        result = json.loads(json.dumps(measure()))  # the same types as when it is read
        written = {"part": name, "sha256": _digest(result), "result": result}
        write_atomically(path, json.dumps(written, ensure_ascii=False) + "\n")
        return result


def _digest(result: Any) -> str:
    return hashlib.sha256(json.dumps(result, sort_keys=True).encode()).hexdigest()


def fingerprint(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str:
    """A key over every weight, the configuration, the code of the model, and the tokenizer."""
    special = json.dumps({name: str(token) for name, token in tokenizer.special_tokens_map.items()}, sort_keys=True)
    ids = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id]
    code = Path(inspect.getfile(type(model))).read_bytes()
    weights = (
        part
        for name, tensor in sorted(model.state_dict().items())
        for part in (name, tensor.detach().cpu().contiguous().numpy().tobytes())
    )
    if isinstance(tokenizer, PreTrainedTokenizerFast):
        vocabulary = tokenizer.backend_tokenizer.to_str()
    else:  # in Python: its vocabulary and class are what there is
        vocabulary = json.dumps([type(tokenizer).__name__, sorted(tokenizer.get_vocab().items())])
    return content_key([model.config.to_json_string(), code, vocabulary, special, *ids, *weights])
