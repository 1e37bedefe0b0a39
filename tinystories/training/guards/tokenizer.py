"""What the tokenizer must do: give text back, keep BOS, EOS and PAD apart, and fit the model."""

import json

import datasets
import tokenizers
from transformers import PreTrainedTokenizerBase

from tinystories.config.keys import TokenizerArguments
from tinystories.config.recipe import Recipe
from tinystories.console import command_name
from tinystories.data.corpus import dataset_key
from tinystories.data.packing import encode_story
from tinystories.data.readers import STORIES_PER_BATCH
from tinystories.data.tokenizer import LEARNED, TRAINED_ON, byte_level_pieces, earlier_pieces, training_stories
from tinystories.errors import GuardError
from tinystories.training.guards.samples import Sample
from tinystories.training.recipe_trainer import RecipeTrainer


TYPED_SPECIALS = ("<|endoftext|>", "<|bos|>", "<|eos|>", "<|pad|>")
TRAINED_AGAIN = 2_000_000  # letters


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, texts: list[str], sample: Sample) -> str:
    """Random stories come back from tokens; BOS, EOS and PAD differ; nothing truncates; typed specials stay text."""
    ids = {name: getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    if len(set(ids.values())) < 3:
        raise GuardError(
            f"BOS, EOS and PAD are not three tokens ({ids}): a model whose EOS is also its padding never learns to "
            "stop",
            f"train a tokenizer with {command_name('tokenizer')}",
        )
    if tokenizer.backend_tokenizer.truncation is not None:
        raise GuardError(
            f"the tokenizer stores a truncation ({tokenizer.backend_tokenizer.truncation}): stories would be cut",
            "save it again after tokenizer.backend_tokenizer.no_truncation()",
        )
    for text in texts:
        decoded = tokenizer.decode(encode_story(text, tokenizer), skip_special_tokens=True)
        if decoded != text:
            at = next(
                (i for i, pair in enumerate(zip(decoded, text, strict=False)) if pair[0] != pair[1]), len(decoded)
            )
            raise GuardError(
                f"the tokenizer loses text: {text[at : at + 20]!r} comes back as {decoded[at : at + 20]!r} ({sample})",
                f"use a byte-level tokenizer ({command_name('tokenizer')} trains one)",
            )
    for typed in {*TYPED_SPECIALS, *tokenizer.all_special_tokens}:
        if set(tokenizer(typed, add_special_tokens=False)["input_ids"]) & set(ids.values()):
            raise GuardError(
                f"the text {typed!r} becomes a special token: a story could end in its middle",
                "save the tokenizer with split_special_tokens=True",
            )
    plain = tokenizer("One day", add_special_tokens=False)["input_ids"]
    if tokenizer("One day")["input_ids"] != [tokenizer.bos_token_id, *plain]:
        raise GuardError(
            "the tokenizer does not put BOS, and nothing else, around a prompt: the model would be asked to continue "
            "what it never saw in training",
            f"train a tokenizer with {command_name('tokenizer')}",
        )
    return f"{len(texts)} stories survive encoding and decoding; bos, eos, pad = {tuple(ids.values())}"


def check_tokenizer_training(tokenizer: PreTrainedTokenizerBase, train: datasets.Dataset, recipe: Recipe) -> str:
    """A tokenizer that this run trained has seen the training stories it should, all of them and no others.

    Training records the key of the stories it reads. On little text the tokenizer is trained again, here, and compared.
    """
    arguments = recipe.tokenizer
    if arguments.tokenizer_name is not None or recipe.model.model_name_or_path is not None:
        return "given, not trained by this run: it may have seen the validation stories"
    trained_on = tokenizer.init_kwargs.get(TRAINED_ON)
    stories = training_stories(train, arguments)
    if trained_on != dataset_key(stories) and trained_on == dataset_key(train):
        stories = train  # by an earlier version, which took no sample
    if trained_on != dataset_key(stories):
        raise GuardError(
            f"the tokenizer was trained on other stories than {len(stories):,} of the {len(train):,} training stories: "
            "it may have seen the validation stories, or only a part"
        )
    texts, letters = [], 0
    for batch in stories.iter(STORIES_PER_BATCH):
        texts.append(batch["text"])
        letters += sum(map(len, batch["text"]))
        if letters > TRAINED_AGAIN:
            return f"trained on the {len(stories):,} training stories and no others"
    _compare_with_fresh(tokenizer, texts, arguments)
    return f"equals one trained again on the {len(stories):,} training stories"


def _compare_with_fresh(
    tokenizer: PreTrainedTokenizerBase, texts: list[list[str]], arguments: TokenizerArguments
) -> None:
    fresh = tokenizers.Tokenizer(tokenizers.models.BPE())
    fresh.pre_tokenizer = earlier_pieces(tokenizer) or byte_level_pieces(LEARNED)  # where it cuts, graphemes.py checks
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=arguments.vocab_size,
        min_frequency=arguments.min_frequency,
        special_tokens=["<|pad|>", "<|bos|>", "<|eos|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    fresh.train_from_iterator(texts, trainer)
    ours, wanted = (json.loads(one.to_str())["model"] for one in (tokenizer.backend_tokenizer, fresh))
    for name in ("merges", "vocab"):
        if ours[name] != wanted[name]:
            at = next(
                (i for i, pair in enumerate(zip(ours[name], wanted[name], strict=False)) if pair[0] != pair[1]), 0
            )
            raise GuardError(
                f"the tokenizer is not what training on the training stories gives ({len(ours[name]):,} {name}, wanted "
                f"{len(wanted[name]):,}; they differ from number {at + 1:,} on): it has seen other stories or settings"
            )


def check_vocabulary(trainer: RecipeTrainer) -> str:
    """Tokenizer and model have the same vocabulary size and special tokens."""
    tokenizer, config = trainer.processing_class, trainer.model.config
    if len(tokenizer) != config.vocab_size:
        raise GuardError(
            f"the tokenizer has {len(tokenizer)} tokens and the model {config.vocab_size}",
            "build the model for this tokenizer",
        )
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        if getattr(config, name) != getattr(tokenizer, name):
            raise GuardError(
                f"{name} is {getattr(config, name)} in the model and {getattr(tokenizer, name)} in the tokenizer",
                "build the model for this tokenizer",
            )
    return f"{config.vocab_size:,} tokens in tokenizer and model"
