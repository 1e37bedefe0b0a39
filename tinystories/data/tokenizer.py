"""Train, load and describe the tokenizer: byte-level BPE in the Hugging Face fast format.

Every string round-trips exactly: the alphabet is all 256 bytes and nothing is normalised. Letters keep their marks.
Text that looks like a special token is tokenized as text. No truncation is stored. A prompt gets BOS by default; only
packing adds EOS.
"""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import tokenizers
from huggingface_hub.errors import StrictDataclassError
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from tokenizers.pre_tokenizers import PreTokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from tinystories.config.keys import TokenizerArguments
from tinystories.config.names import check_found
from tinystories.console import command_name
from tinystories.data.cache import ContentKey, cached_folder, content_key
from tinystories.data.corpus import dataset_key, text_arrays
from tinystories.errors import UserError, one_line
from tinystories.progress import progress_bar


logger = logging.getLogger(__name__)

PAD, BOS, EOS = "<|pad|>", "<|bos|>", "<|eos|>"
SPECIAL_TOKENS = (PAD, BOS, EOS)
# A text is cut into these pieces first; merges join bytes inside a piece only. The pattern is that of Qwen3.5, which
# llama.cpp calls `qwen35`: letters keep their marks, which GPT-2's cuts off in every script that has them.
PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Merges are learned in smaller pieces: GPT-2's, with marks, and with single digits. So a quotation mark and the word
# after it stay two tokens, and English has the tokens that GPT-2's pattern gives it (docs/experiments.md).
LEARNED = r"'s|'t|'re|'ve|'m|'ll|'d| ?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+|\s+(?!\S)|\s+"
TRAINING = 3  # part of the cache key: increase it when train_tokenizer changes
SAMPLE_SEED = 0  # of the stories that a tokenizer is trained on
TRAINED_ON = "trained_on"  # in tokenizer_config.json: the key of the stories that a tokenizer was trained on
TRAINED_ON_STORIES = "trained_on_stories"  # there too: their number
SMALLEST_VOCABULARY = 256 + len(SPECIAL_TOKENS)


def byte_level_pieces(pattern: str = PIECES) -> PreTokenizer:
    """Cuts a text into the matches of `pattern`, written as their bytes."""
    split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def earlier_pieces(tokenizer: PreTrainedTokenizerBase) -> PreTokenizer | None:
    """How `tokenizer` cuts a text; None if it is as this version cuts it."""
    pre_tokenizer: PreTokenizer | None = tokenizer.backend_tokenizer.pre_tokenizer
    return None if repr(pre_tokenizer) == repr(byte_level_pieces()) else pre_tokenizer


def train_tokenizer(
    stories: datasets.Dataset, arguments: TokenizerArguments, earlier: PreTokenizer | None = None
) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE on the column `text` of the stories that `training_stories` picks.

    The vocabulary is smaller than `arguments.vocab_size`, with a warning, if too few pairs occur `min_frequency` times.
    earlier: how an earlier version cut texts and learned merges, for a run that it began.

    Raises:
        UserError: a vocab_size without room for all bytes and the special tokens.
    """
    if arguments.vocab_size < SMALLEST_VOCABULARY:
        raise UserError(f"vocab_size must be at least {SMALLEST_VOCABULARY} (256 bytes and 3 special tokens)")
    stories = training_stories(stories, arguments)
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = earlier or byte_level_pieces(LEARNED)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=arguments.vocab_size,
        min_frequency=arguments.min_frequency,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,  # its bar goes to stdout, in lines that stay
    )
    seen = ContentKey()
    backend.train_from_iterator(_noted(_batches(stories), seen), trainer, length=len(stories))
    backend.pre_tokenizer = earlier or byte_level_pieces()
    bos_id = backend.token_to_id(BOS)
    backend.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, bos_id)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        split_special_tokens=True,  # "<|eos|>" in a text is text, not the end of the story
        clean_up_tokenization_spaces=False,
        padding_side="left",  # for batches of prompts; training rows are not padded by the tokenizer
    )
    tokenizer.init_kwargs[TRAINED_ON] = str(seen)  # is saved with it, and compared by a guard
    tokenizer.init_kwargs[TRAINED_ON_STORIES] = len(stories)
    if len(tokenizer) < arguments.vocab_size:
        logger.warning(
            "the stories give only %d tokens with min_frequency %d, not vocab_size %d",
            len(tokenizer),
            arguments.min_frequency,
            arguments.vocab_size,
        )
    return tokenizer


def training_stories(stories: datasets.Dataset, arguments: TokenizerArguments) -> datasets.Dataset:
    """Those of `stories` that a tokenizer is trained on: the first, a sample of all with a fixed seed, or all.

    The merges hardly depend on more stories than the default takes (benchmarks/data.py measures that).
    """
    if arguments.max_samples is not None:
        return stories.select(range(min(arguments.max_samples, len(stories))))
    number = arguments.tokenizer_sample_stories
    if number < 0:
        raise UserError(f"tokenizer_sample_stories must be at least 0, got {number}")
    if not 0 < number < len(stories):
        return stories
    places = np.random.default_rng(SAMPLE_SEED).choice(len(stories), number, replace=False)
    return stories.select(np.sort(places))


def _all_for_an_earlier_run(
    arguments: TokenizerArguments, stories: datasets.Dataset, resumed: PreTrainedTokenizerBase
) -> TokenizerArguments:
    """`arguments` without the sample, if the tokenizer of the run that is resumed was trained on all stories."""
    if resumed.init_kwargs.get(TRAINED_ON) == dataset_key(stories):
        return replace(arguments, tokenizer_sample_stories=0)
    return arguments


def _batches(stories: datasets.Dataset) -> Iterator[list[str]]:
    with progress_bar(total=len(stories), desc="tokenizer", unit=" stories") as bar:
        for texts in text_arrays(stories):
            yield texts.to_pylist()
            bar.update(len(texts))


def _noted(batches: Iterable[list[str]], seen: ContentKey) -> Iterator[list[str]]:
    """`batches` as they are; each text is added to `seen`, so that it is the key of what was really read."""
    for batch in batches:
        for text in batch:
            seen.add(text)
        yield batch


def load_or_train_tokenizer(
    arguments: TokenizerArguments, stories: datasets.Dataset, cache_root: str | None, resumed: str | None = None
) -> PreTrainedTokenizerBase:
    """The tokenizer that `arguments` names, or one trained on `stories` and cached.

    resumed: the checkpoint of a run that continues; where an earlier version began it, its texts are cut as they were.
    """
    if arguments.tokenizer_name is not None:
        return load_tokenizer(arguments.tokenizer_name, arguments.tokenizer_revision)
    earlier = None
    if resumed is not None:
        saved = load_tokenizer(resumed)
        earlier, arguments = earlier_pieces(saved), _all_for_an_earlier_run(arguments, stories, saved)
    chosen = training_stories(stories, arguments)
    settings = [arguments.vocab_size, arguments.min_frequency, arguments.max_samples, tokenizers.__version__]
    key = content_key(["tokenizer", TRAINING, *SPECIAL_TOKENS, *settings, repr(earlier), dataset_key(chosen)])

    def build(folder: Path) -> None:
        logger.info("training a tokenizer on %s of %s stories", f"{len(chosen):,}", f"{len(stories):,}")
        train_tokenizer(stories, arguments, earlier).save_pretrained(folder)

    return load_tokenizer(str(cached_folder("tokenizer", key, build, cache_root)))


def read_tokenizer(name: str, revision: str | None = None, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or Hub id, as it is.

    Raises:
        OSError, ImportError, ValueError, StrictDataclassError: it cannot be opened. The libraries raise others too,
            even a bare `Exception`.
    """
    try:
        return AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=trust_remote_code)
    except (OSError, ImportError, StrictDataclassError):  # the last one for a config.json beside it
        raise
    except Exception as error:
        raise ValueError(f"its tokenizer cannot be read ({one_line(error)})") from error


def load_tokenizer(name: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The fast tokenizer of a folder or Hub id. A truncation that is stored in it is removed with a warning.

    Raises:
        UserError: it cannot be loaded, or is not a fast tokenizer.
    """
    check_found(name, revision)
    try:
        tokenizer = read_tokenizer(name, revision)
    except (OSError, ImportError, ValueError, StrictDataclassError) as error:
        raise UserError(f"cannot load a tokenizer from {name}: {one_line(error)}") from error
    if not tokenizer.is_fast:
        raise UserError(
            f"{name} is not a fast tokenizer (it has no tokenizer.json)", f"train one with {command_name('tokenizer')}"
        )
    if tokenizer.backend_tokenizer.truncation is not None:
        length = tokenizer.backend_tokenizer.truncation["max_length"]
        logger.warning("%s stores a truncation at %d tokens: taken out, so that no story is cut", name, length)
        tokenizer.backend_tokenizer.no_truncation()
    return tokenizer


def tokenizer_report(tokenizer: PreTrainedTokenizerBase, held_out: datasets.Dataset) -> dict:
    """The stories that it was trained on, if known; vocabulary size, UTF-8 bytes per token on held-out stories, and the
    tokens of the articles.
    """
    num_bytes = num_tokens = 0
    for texts in _batches(held_out):
        num_bytes += sum(len(text.encode()) for text in texts)
        num_tokens += sum(len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"])
    trained_on = tokenizer.init_kwargs.get(TRAINED_ON_STORIES)
    return ({} if trained_on is None else {TRAINED_ON_STORIES: trained_on}) | {
        "vocab_size": len(tokenizer),
        "held_out_stories": len(held_out),
        "held_out_bytes": num_bytes,
        "bytes_per_token": num_bytes / num_tokens,
        "articles": {text: tokenizer.tokenize(text) for text in (" a", " an", " the")},
    }


def describe(report: dict, articles: bool = True) -> str:
    """`tokenizer_report` as one line of text. articles: with the tokens of "a", "an" and "the"."""
    tokens = ", ".join(f"{text!r} = {' '.join(tokens)}" for text, tokens in report["articles"].items())
    return (
        f"tokenizer: {report['vocab_size']:,} tokens, {report['bytes_per_token']:.2f} bytes per token "
        f"on {report['held_out_stories']:,} held-out stories"
        + f"; {tokens}" * articles
        + (f"; trained on {report[TRAINED_ON_STORIES]:,} stories" if TRAINED_ON_STORIES in report else "")
    )
