"""The checks that stop a silently broken run before its first step. They take a few seconds, on the run's own parts.

Each guard is a function that returns what it measured, for the log, or raises `GuardError`: one line with the reason
and the remedy, exit status 2. `--skip_guards` trains without them and logs a warning.
"""

import copy
import logging
import math
from collections.abc import Iterator
from itertools import islice, pairwise

import datasets
import numpy as np
import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from modeling_tinystories import TinyStoriesForCausalLM
from tinystories.console import command_name
from tinystories.data.corpus import Corpus, story_hashes, text_hashes
from tinystories.data.mojibake import repair_mojibake
from tinystories.data.packing import IGNORED, encode_story
from tinystories.errors import GuardError
from tinystories.random_state import keep_random_state
from tinystories.training.recipe_trainer import RecipeTrainer


logger = logging.getLogger(__name__)

SAMPLE_STORIES = 1000
SAMPLE_ROWS = 64
SCANNED_TOKENS = 2**20  # aligned rows may begin with many that continue long stories
LOSS_ROWS = 4
OVERFIT_TOKENS = 48
MOJIBAKE_WARNING, MOJIBAKE_ERROR = 0.001, 0.2  # shares of the stories
TYPED_SPECIALS = ("<|endoftext|>", "<|bos|>", "<|eos|>", "<|pad|>")


def run_guards(trainer: RecipeTrainer, corpus: Corpus) -> dict[str, str]:
    """Run all guards, cheapest first; returns what each one found, by name."""
    tokenizer = trainer.processing_class
    texts = [*corpus.train.take(SAMPLE_STORIES)["text"], *corpus.validation.take(SAMPLE_STORIES)["text"]]
    train_hashes, validation_hashes = story_hashes(corpus.train), story_hashes(corpus.validation)
    findings, continued = {}, trainer.recipe.model.model_name_or_path is not None
    with keep_random_state(trainer.args.device):  # a run with guards and one without draw the same random numbers
        for name, check in {
            "text": lambda _: check_text(corpus.train),
            "tokenizer": lambda _: check_tokenizer(tokenizer, texts),
            "vocabulary": check_vocabulary,
            "packed rows": lambda _: check_rows(trainer, train_hashes),
            "labels": check_labels,
            "validation": lambda trainer: check_overlap(trainer, corpus.train, train_hashes, validation_hashes),
            "next-token loss": check_next_token_loss,
            **({"known loss": check_known_loss} if continued else {"fresh loss": check_fresh_loss}),
            "overfitting": check_overfitting,
        }.items():
            findings[name] = check(trainer)
            logger.info("guard passed: %s: %s", name, findings[name])
    return findings


def check_text(train: datasets.Dataset) -> str:
    """The stories are not full of mojibake; some are read from all over the data."""
    places = np.linspace(0, len(train) - 1, min(SAMPLE_STORIES, len(train))).astype(int)
    broken = [text for text in train.select(places)["text"] if repair_mojibake(text) != text]
    share = len(broken) / len(places)
    found = f"mojibake in {len(broken)} of {len(places)} stories"
    remedy = f"{command_name('check')} --data SOURCE --clean stories.jsonl writes a copy without it"
    if share > MOJIBAKE_ERROR:
        raise GuardError(f"{found} (first: {broken[0][:40]!r}...): the model would learn broken characters", remedy)
    if share > MOJIBAKE_WARNING:
        logger.warning("%s: %s", found, remedy)
    return found


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


def check_rows(trainer: RecipeTrainer, train_hashes: np.ndarray) -> str:
    """Packed rows, decoded, are complete stories of the training corpus, each closed by EOS."""
    tokenizer = trainer.processing_class
    aligned = trainer.recipe.data.align_to_stories
    rows = trainer.train_dataset.take(max(SAMPLE_ROWS, SCANNED_TOKENS // trainer.recipe.data.block_size))
    rows = rows[:]["input_ids"].astype(np.int64)
    if rows.max() >= len(tokenizer):
        raise GuardError(
            f"the packed rows hold token {rows.max()}, beyond the vocabulary: they were packed with another tokenizer"
        )
    bos = tokenizer.bos_token_id
    if bos not in rows and not any(
        (batch["input_ids"] == bos).any() for batch in trainer.train_dataset.iter(len(rows))
    ):
        raise GuardError(
            "no BOS in the packed rows: the model would not learn how a story begins", "pack BOS + story + EOS"
        )
    stories = list(islice(_packed_stories(rows, tokenizer, aligned), SAMPLE_STORIES))
    if not stories:
        logger.warning("the first %d rows hold no complete story: they are not compared with the corpus", len(rows))
    texts = tokenizer.batch_decode([story[1:-1].tolist() for story in stories])
    for story, text, story_hash in zip(stories, texts, text_hashes(texts), strict=True):
        if story[-1] != tokenizer.eos_token_id:
            raise GuardError("no EOS between packed stories: the model would never stop", "pack BOS + story + EOS")
        if story_hash not in train_hashes:
            raise GuardError(
                f"a packed story is not in this corpus: {text[:40]!r}...{text[-20:]!r}; it was cut, or the rows are "
                "of another corpus or tokenizer"
            )
    return f"{len(stories)} stories in the first rows are in the corpus, complete, each closed by EOS"


def _packed_stories(rows: np.ndarray, tokenizer: PreTrainedTokenizerBase, aligned: bool) -> Iterator[np.ndarray]:
    """The tokens from each BOS to the next, without stories cut by the sample's end or, if aligned, by a full row."""
    for tokens in rows if aligned else [rows.reshape(-1)]:
        tokens = tokens[tokens != tokenizer.pad_token_id]
        starts = np.flatnonzero(tokens == tokenizer.bos_token_id)
        if aligned:
            starts = np.append(starts, len(tokens))
        for start, end in pairwise(starts):
            if not aligned or end - start < rows.shape[1]:
                yield tokens[start:end]


def check_labels(trainer: RecipeTrainer) -> str:
    """In a collated batch the labels are the input ids, with EOS; only padding is left out of the loss."""
    tokenizer = trainer.processing_class
    story = [
        tokenizer.bos_token_id,
        *tokenizer("One day.", add_special_tokens=False)["input_ids"],
        tokenizer.eos_token_id,
    ]
    batch = trainer.data_collator([{"input_ids": story}, {"input_ids": story + story}])
    ids, labels = batch["input_ids"], batch["labels"]
    padding = ids == tokenizer.pad_token_id
    if not (labels[padding] == IGNORED).all():
        raise GuardError("padding is in the loss: the model would learn to pad", "label padding with -100")
    wrong = (labels != ids) & ~padding
    if wrong.any() and (labels[wrong] == IGNORED).all():
        raise GuardError("EOS is left out of the loss: the model would never learn to stop", "mask padding only")
    if wrong.any():
        raise GuardError(
            "the labels of a batch are not its input ids: the model shifts labels to the next token itself, so a batch "
            "must not shift them as well"
        )
    return "the input ids themselves, EOS learned, padding left out"


def check_overlap(
    trainer: RecipeTrainer, train: datasets.Dataset, train_hashes: np.ndarray, validation_hashes: np.ndarray
) -> str:
    """No validation story is in the training data of this run."""
    overlap = np.flatnonzero(np.isin(train_hashes, validation_hashes))
    if len(overlap):
        first = train[int(overlap[0])]["text"]
        raise GuardError(
            f"{len(overlap)} training stories are also in the validation data (first: {first[:40]!r}...): the scores "
            "would be of stories seen in training",
            "give other validation data, or --remove_overlap",
        )
    base = trainer.recipe.model.model_name_or_path
    unknown = f" (what {base} learned before is not compared)" if base is not None else ""
    return f"none of {len(validation_hashes):,} validation stories is in the training data{unknown}"


def check_fresh_loss(trainer: RecipeTrainer) -> str:
    """The loss of an untrained model is ln(vocabulary), within a tenth of it."""
    loss, nothing = _starting_loss(trainer)
    if not abs(loss - nothing) < 0.1 * nothing:
        raise GuardError(
            f"the untrained model has a loss of {loss:.3f} instead of about ln({trainer.model.config.vocab_size}) = "
            f"{nothing:.3f}: its initialization is off (initializer_range {trainer.model.config.initializer_range})"
        )
    return f"{loss:.3f} nats, ln(vocabulary) = {nothing:.3f}"


def check_known_loss(trainer: RecipeTrainer) -> str:
    """The loss of a trained model on the new stories is below ln(vocabulary), that of a uniform guess.

    Somewhat above, the model may know one kind of text by heart and see another; far above, its token ids mean other
    things than in its training.
    """
    loss, nothing = _starting_loss(trainer)
    if not loss < 1.5 * nothing:
        raise GuardError(
            f"{trainer.recipe.model.model_name_or_path} has a loss of {loss:.3f} on these stories, and a uniform guess "
            f"has {nothing:.3f}: the tokenizer in it is not the one it was trained with"
        )
    if not loss < nothing:
        logger.warning("these stories are unlike anything the model has seen: a fresh model may do better")
    return f"{loss:.3f} nats before the first step, ln(vocabulary) = {nothing:.3f}"


def _starting_loss(trainer: RecipeTrainer) -> tuple[float, float]:
    """The model's loss on a few rows, and that of a uniform guess; nats per token."""
    trainer.model.eval()
    with torch.no_grad():
        loss = _loss(trainer, trainer.model, _batch(trainer, LOSS_ROWS)).item()
    return loss, math.log(trainer.model.config.vocab_size)


def check_next_token_loss(trainer: RecipeTrainer) -> str:
    """The trainer's loss on a row equals a next-token loss computed here, from the row's tokens alone.

    With `isolate_stories` each story of the row is run by itself here, so attention between stories is noticed.
    """
    model, pad = trainer.model, trainer.processing_class.pad_token_id
    was_training = model.training
    model.eval()
    differences = []
    with torch.no_grad():
        for row in _rows(trainer, LOSS_ROWS):
            reported = _loss(trainer, model, _collate(trainer, [row])).item()
            ids = torch.from_numpy(np.asarray(row["input_ids"], dtype=np.int64))
            pieces = _stories_of_row(ids, trainer) if trainer.recipe.data.isolate_stories else [ids]
            logits = torch.cat([model(input_ids=piece.unsqueeze(0).to(model.device)).logits[0] for piece in pieces])
            logits = logits.cpu().double()
            nll = [logits[t].logsumexp(0) - logits[t, ids[t + 1]] for t in range(len(ids) - 1) if ids[t + 1] != pad]
            differences.append(abs(reported - torch.stack(nll).mean().item()))
    model.train(was_training)
    difference = float(np.max(differences))  # NaN stays NaN
    if math.isnan(difference):
        raise GuardError("the loss is not a number", "lower the learning_rate, or set max_grad_norm")
    if not difference < 1e-3:
        raise GuardError(
            f"the trainer's loss is not the next-token loss of its rows (they differ by {difference:.4f} nats): labels "
            "are shifted twice or not at all, something else is in the loss (label_smoothing_factor must be 0)"
            + (", or attention crosses between the stories of a row" if trainer.recipe.data.isolate_stories else "")
        )
    return f"equals the trainer's on {len(differences)} rows within {difference:.1e} nats"


def _stories_of_row(ids: torch.Tensor, trainer: RecipeTrainer) -> tuple[torch.Tensor, ...]:
    """The row cut before each BOS."""
    starts = (ids == trainer.processing_class.bos_token_id).nonzero().flatten().tolist()
    return ids.tensor_split([start for start in starts if start > 0])


def check_overfitting(trainer: RecipeTrainer) -> str:
    """A narrow copy of the model learns one sequence by the trainer's own loss; generate must continue it, and stop.

    The sequence is an irregular order of four tokens, so that the next one depends on more than the last one. A model
    that was taught the token after the next, that saw the future, or whose cache counts wrongly, cannot continue it.
    """
    tokenizer = trainer.processing_class
    length = min(OVERFIT_TOKENS, trainer.model.config.max_position_embeddings - 2)
    frequent = _frequent_tokens(trainer, 4)
    order = torch.randint(len(frequent), (length,), generator=torch.Generator().manual_seed(0)).tolist()
    sequence = [tokenizer.bos_token_id, *(frequent[i] for i in order), tokenizer.eos_token_id]
    prompt = sequence[: len(sequence) // 2]
    for seed in range(2):  # twice, so that one unlucky initialization does not stop a run
        model = _narrow_copy(trainer, seed)
        loss = _overfit(trainer, model, sequence)
        generated = _continue_greedily(model, tokenizer, prompt, max_new_tokens=len(sequence) - len(prompt) + 1)
        if generated == sequence:
            return f"{len(sequence)} tokens learned (loss {loss:.3f}), continued by generate and ended with EOS"
    at = next(
        (i for i, pair in enumerate(zip(sequence, generated, strict=False)) if pair[0] != pair[1]), len(generated)
    )
    wanted, got = (tokenizer.decode(ids[at : at + 8]) for ids in (sequence, generated))
    raise GuardError(
        f"after learning one sequence (loss {loss:.3f}) the model continues with {got!r}, not {wanted!r}, {at} tokens "
        "from its start: the loss does not teach the next token, or generate does not use it"
    )


def _frequent_tokens(trainer: RecipeTrainer, number: int) -> list[int]:
    """The most frequent tokens of the first rows, without special ones: of this corpus, whatever its language."""
    rows = np.concatenate([row["input_ids"] for row in _rows(trainer, SAMPLE_ROWS)])
    ids, counts = np.unique(rows[~np.isin(rows, trainer.processing_class.all_special_ids)], return_counts=True)
    return ids[np.argsort(-counts, kind="stable")][:number].tolist()


def _overfit(trainer: RecipeTrainer, model: PreTrainedModel, sequence: list[int]) -> float:
    """Train until every next token is likely: a low mean loss alone may hide one that is not."""
    batch = _collate(trainer, [{"input_ids": sequence}])
    targets = torch.tensor(sequence[1:], device=model.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.0)
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.05, total_iters=20)
    for _ in range(600):
        loss, outputs = trainer.compute_loss(model, dict(batch), return_outputs=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        warmup.step()
        likelihood = outputs.logits[0, :-1].detach().float().softmax(-1).gather(-1, targets[:, None])
        if loss.item() < 0.02 and likelihood.min() > 0.8:
            break
    return loss.item()


def _continue_greedily(
    model: TinyStoriesForCausalLM, tokenizer: PreTrainedTokenizerBase, prompt: list[int], max_new_tokens: int
) -> list[int]:
    greedy = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.eval()
    inputs = torch.tensor([prompt], device=model.device)
    mask = torch.ones_like(inputs)
    ids = model.generate(inputs, attention_mask=mask, generation_config=greedy)  # type: ignore[misc]  # its own `self`
    return ids[0].tolist()


def _narrow_copy(trainer: RecipeTrainer, seed: int) -> TinyStoriesForCausalLM:
    """A model of the same class and vocabulary with two layers and two heads: the check does not depend on size."""
    config = copy.deepcopy(trainer.model.config)
    values = config.to_dict() | {
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "hidden_size": max(64, 2 * config.head_dim),
        "intermediate_size": max(128, 4 * config.head_dim),
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "attention_dropout": 0.0,
        "use_cache": False,
    }
    torch.manual_seed(seed)
    narrow = type(config).from_dict(values)
    narrow._attn_implementation = config._attn_implementation
    model = type(trainer.model)(narrow)
    return model.to(trainer.model.device)  # type: ignore[arg-type]  # its decorator hides that it is a method


def _loss(trainer: RecipeTrainer, model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The loss as training computes it."""
    loss = trainer.compute_loss(model, batch)
    assert isinstance(loss, torch.Tensor)  # no tuple: return_outputs is False
    return loss


def _rows(trainer: RecipeTrainer, number: int) -> list[dict]:
    return [trainer.train_dataset[i] for i in range(min(number, len(trainer.train_dataset)))]


def _batch(trainer: RecipeTrainer, number: int) -> dict[str, torch.Tensor]:
    return _collate(trainer, _rows(trainer, number))


def _collate(trainer: RecipeTrainer, rows: list[dict]) -> dict[str, torch.Tensor]:
    return {name: tensor.to(trainer.model.device) for name, tensor in trainer.data_collator(rows).items()}
