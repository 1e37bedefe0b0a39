"""What a run wrote down beside its weights, and its stories read again: what a checkpoint says of where it comes from.

A checkpoint of somebody else may have none of it. What is missing or damaged is not known, and no error.
"""

from dataclasses import dataclass, fields

from tinystories.config.arguments import DataArguments
from tinystories.data.corpus import dataset_key, load_corpus, pick_stories, read_files
from tinystories.errors import UserError
from tinystories.run_files import Records


SAMPLE_CORPUS_STORIES = 400


@dataclass
class Texts:
    """Stories to read: held out, and of the training if they can be had. `own`: known to be those of the run."""

    held_out: list[str]
    training: list[str] | None
    source: str
    own: bool


def find_texts(records: Records, data: str | None, stories: int) -> Texts:
    """The text named by the user, else the run's own held-out stories, else those of the embedded corpus."""
    training, source = None, "the embedded sample corpus: it fits models trained on it, name another with --data"
    if records.recipe is not None:
        known = {item.name: records.recipe[item.name] for item in fields(DataArguments) if item.name in records.recipe}
        try:
            corpus = load_corpus(DataArguments(**known))
            own = dataset_key(corpus.validation) == records.validation_key
            training = list(pick_stories(corpus.train, stories)["text"]) if own else None
            if data is None:
                held_out = list(pick_stories(corpus.validation, stories)["text"])
                number = f"{len(held_out):,} of the {len(corpus.validation):,} validation stories of its run"
                changed = "" if own else ", whose text has changed since or was not recorded"
                return Texts(held_out, training, number + changed, own)
        except UserError as error:
            source = f"{source} (those of its run cannot be read: {error})"
    if data is not None:
        held_out, _ = read_files(data, DataArguments())
        return Texts(list(pick_stories(held_out, stories)["text"]), training, data, own=False)
    corpus = load_corpus(DataArguments(num_sample_stories=SAMPLE_CORPUS_STORIES, validation_fraction=0.5))
    return Texts(list(pick_stories(corpus.validation, stories)["text"]), None, source, own=False)
