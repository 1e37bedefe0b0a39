"""What the tokenizer must do: give text back, keep BOS, EOS and PAD apart, and fit the model."""

from transformers import PreTrainedTokenizerBase

from tinystories.console import command_name
from tinystories.data.packing import encode_story
from tinystories.errors import GuardError
from tinystories.training.recipe_trainer import RecipeTrainer


TYPED_SPECIALS = ("<|endoftext|>", "<|bos|>", "<|eos|>", "<|pad|>")


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> str:
    """Stories survive encoding and decoding; BOS, EOS and PAD differ; nothing truncates; typed specials stay text."""
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
                f"the tokenizer loses text: {text[at : at + 20]!r} comes back as {decoded[at : at + 20]!r}",
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
