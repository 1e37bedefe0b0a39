"""What the numbers of a run must be: those of a second computation, from the weights and the texts alone.

`check_scored_rows`: the rows that are scored hold the stories that they should, every token once. `check_sums`: what is
reported are sums over those tokens and the bytes of those texts. `check_likelihoods`: the model gives each token the
probability that evaluation/second_path.py computes. Together: the reported numbers are right. `NumbersGuard` repeats
this at each evaluation of a run, and compares the training loss that is logged with a plain forward.
"""

import logging
import math
import tempfile
from collections.abc import Sequence
from functools import wraps
from typing import Any

import numpy as np
import torch
from transformers import EvalPrediction, PreTrainedModel, TrainerCallback

from tinystories.config.keys import DataArguments
from tinystories.data.corpus import Corpus, pick_stories
from tinystories.errors import GuardError
from tinystories.evaluation.scoring import ScoringRows
from tinystories.evaluation.second_path import NotKnownError, SecondPath, StoryTokens
from tinystories.random_state import keep_random_state
from tinystories.training.distributed import on_one_process
from tinystories.training.guards.weights import check_moved, marks
from tinystories.training.recipe_trainer import RecipeTrainer


logger = logging.getLogger(__name__)

SAMPLE_STORIES = 300  # whose texts are compared letter by letter
SAMPLE_ROWS = 2  # that the second path computes at each evaluation
TRAINING_ROWS = 3
FEWEST_TOKENS = 256  # of a step: one update can halve the loss of fewer, such as five sentences that are all there is
SPOILT = 1e9  # squares of such weights overflow in float32 and not in float64
FEWEST_STEPS = 10  # fewer, with a learning rate that begins near zero, may leave a norm's weights of 1 as they are
# Nats per token: of the mean over a row, and of the mean of the absolute differences. Measured with bf16 autocast on
# trained models: 0.002 and 0.01; with float32: 1e-6.
BF16_TOLERANCE, FLOAT32_TOLERANCE = (0.03, 0.12), (2e-3, 4e-3)


def tokens_of(tokenizer: Any) -> StoryTokens:
    """The tokenizer as it is saved, opened without transformers."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return StoryTokens(folder)


def check_scored_rows(rows: ScoringRows, texts: Sequence[str], tokens: StoryTokens, context: int, what: str) -> str:
    """`rows` score `texts`, story by story: each token after the first exactly once, in a window of at most `context`.

    The number of stories and their bytes are compared exactly, the tokens of a random sample with the text.
    """
    if rows.num_stories != len(texts):
        raise GuardError(f"{rows.num_stories:,} stories are scored as {what}, and these are {len(texts):,}")
    size = sum(len(text.encode()) for text in texts)
    if rows.num_bytes != size:
        raise GuardError(
            f"bits per byte would be over {rows.num_bytes:,} bytes, and {what} have {size:,} bytes in UTF-8"
        )
    windows: dict[int, list[dict]] = {}
    for row in rows.rows:
        windows.setdefault(row["story"], []).append(row)
    sample = np.random.default_rng().permutation(len(texts))[:SAMPLE_STORIES].tolist()
    for number in sample:
        _check_story(windows.get(number, []), texts[number], tokens, context, what)
    return f"{len(texts):,} stories, {size:,} bytes, every token once ({len(sample)} stories read again)"


def _check_story(windows: list[dict], text: str, tokens: StoryTokens, context: int, what: str) -> None:
    expected, scored = tokens.encode(text), 1
    for row in windows:
        ids, first = row["input_ids"].tolist(), row["first_target"]
        begin = scored - first
        if first < 1 or begin < 0 or begin % max(1, context // 2) or len(ids) > context:
            raise GuardError(
                f"a window of {text[:40]!r} begins to score at token {begin + first} of the story, after {scored} were "
                "scored: tokens would count twice or not at all"
            )
        if ids != expected[begin : begin + len(ids)]:
            raise GuardError(f"what is scored as one of {what} is {tokens.decode(ids)[:60]!r}, not {text[:40]!r}")
        scored = begin + len(ids)
    if scored != len(expected):
        raise GuardError(
            f"{scored - 1} tokens of the story {text[:40]!r} are scored, and with the end of the story it has "
            f"{len(expected) - 1}"
        )


def reported(nll: Sequence[np.ndarray], rows: ScoringRows) -> dict[str, float]:
    """Loss, perplexity and bits per byte as sums over the tokens of `rows`; nll: by row, as the model gave them."""
    if len(nll) != len(rows.rows):
        raise GuardError(f"{len(nll):,} rows came back from an evaluation of {len(rows.rows):,}")
    parts = [values[row["first_target"] : len(row["input_ids"])] for row, values in zip(rows.rows, nll, strict=True)]
    nats, number = sum(float(part.astype(np.float64).sum()) for part in parts), sum(map(len, parts))
    loss = nats / number
    return {
        "loss": loss,
        "perplexity": math.exp(min(loss, 700)),
        "bits_per_byte": nats / math.log(2) / rows.num_bytes,
        "tokens": number,
        "bytes": rows.num_bytes,
        "stories": rows.num_stories,
    }


def check_sums(metrics: dict[str, Any], expected: dict[str, float], where: str) -> None:
    """The `metrics` that a run reports (with or without `eval_`) are the `expected` ones, as far as it has them."""
    for name, value in expected.items():
        found = metrics.get(f"eval_{name}", metrics.get(name))
        if found is None and name == "loss":
            raise GuardError(f"{where} has no eval_loss")
        if found is not None and not math.isclose(found, value, rel_tol=1e-5, abs_tol=1e-7):
            raise GuardError(
                f"{where}: eval_{name} is {found:.6g}, and from the log likelihoods of the tokens it is {value:.6g}: "
                "it is not the sum over every token (or byte) once"
            )
    _check_parts(metrics, expected, where)


def _check_parts(metrics: dict[str, Any], expected: dict[str, float], where: str) -> None:
    """The losses of articles and of other tokens make up the whole."""
    articles, others, number = (
        metrics.get(f"eval_{name}", metrics.get(name)) for name in ("article_loss", "other_loss", "article_tokens")
    )
    if articles is not None and others is not None and number is not None:
        whole = (articles * number + others * (expected["tokens"] - number)) / expected["tokens"]
        if not math.isclose(whole, expected["loss"], rel_tol=1e-5, abs_tol=1e-7):
            raise GuardError(
                f"{where}: article_loss and other_loss make a loss of {whole:.6g}, and it is {expected['loss']:.6g}"
            )


def check_likelihoods(
    network: SecondPath,
    rows: list[dict],
    nll: Sequence[np.ndarray],
    tolerance: tuple[float, float],
    where: str,
    number: int = SAMPLE_ROWS,
) -> str:
    """The log likelihoods of random rows, one of them among the longest, are those of the second path."""
    draw, long = np.random.default_rng(), max(1, len(rows) // 4)  # the longest come first
    chosen = {int(draw.integers(long)), *draw.integers(len(rows), size=number - 1).tolist()}
    largest = 0.0
    for place in sorted(chosen):
        ids, first = rows[place]["input_ids"].tolist(), rows[place]["first_target"]
        found = np.asarray(nll[place][first : len(ids)], dtype=np.float64)
        expected = network.token_nll(ids)[first - 1 :]
        apart = np.abs(found - expected)
        mean = abs(found.mean() - expected.mean())
        if not (mean <= tolerance[0] and apart.mean() <= tolerance[1]):
            worst = int(apart.argmax())
            raise GuardError(
                f"{where}: the loss of a story is {found.mean():.4f} nats per token, and computed a second time from "
                f"the weights it is {expected.mean():.4f} (token {first + worst}: {found[worst]:.3f} and "
                f"{expected[worst]:.3f}): what is scored is not this model, without dropout, reading from left to right"
            )
        largest = max(largest, float(mean))
    return f"{len(chosen)} rows as by a second computation (within {largest:.1e} nats per token)"


def weights_of(model: PreTrainedModel) -> dict[str, np.ndarray]:
    """The weights that `model` has now; tied ones once."""
    return {name: weight.detach().float().cpu().numpy() for name, weight in model.named_parameters()}


def as_multiplied(weights: dict[str, np.ndarray], dtype: torch.dtype) -> dict[str, np.ndarray]:
    """The weights as autocast multiplies with them: matrices are rounded to `dtype`.

    The difference is large where it is not random: the weights of a checkpoint that is stored in bf16 lie on its grid,
    and the first updates, smaller than half a step of the grid, are not seen in bf16 at all.
    """

    def rounded(weight: np.ndarray) -> np.ndarray:
        return torch.from_numpy(weight).to(dtype).float().numpy()

    return {name: rounded(weight) if weight.ndim > 1 else weight for name, weight in weights.items()}


class NumbersGuard(TrainerCallback):
    """Checks what a Trainer evaluates and what it logs; must come before the throughput among its callbacks."""

    trainer: RecipeTrainer

    def __init__(self, data: DataArguments, corpus: Corpus):
        self.texts = list(pick_stories(corpus.validation, data.max_eval_samples)["text"])
        known = min(data.train_eval_samples, len(self.texts))
        self.training_texts = list(pick_stories(corpus.train, known)["text"]) if known else []
        self.nll: list[np.ndarray] = []
        self.began: dict[str, int] = {}  # a checksum of each weight
        self.begin_step = 0

    def watch(self, trainer: RecipeTrainer) -> None:
        """Note the log likelihoods of the tokens as they come out of the evaluation of `trainer`."""
        self.trainer = trainer
        measured = trainer.compute_metrics
        assert measured is not None

        @wraps(measured)  # other guards look at what is inside
        def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
            self.nll = list(prediction.predictions)
            return measured(prediction)

        trainer.compute_metrics = compute_metrics

    def check_rows(self) -> str:
        """Before the first step: the stories that will be scored are those of the corpus."""
        tokens, context = tokens_of(self.trainer.processing_class), self.trainer.model.config.max_position_embeddings
        if self.training_texts:
            what = "training stories"
            check_scored_rows(self.trainer.training_stories, self.training_texts, tokens, context, what)
        return check_scored_rows(self.trainer.evaluation, self.texts, tokens, context, "validation stories")

    def on_train_begin(self, args, state, control, **kwargs):
        self.began, self.begin_step = marks(self._weights()), state.global_step

    def _weights(self) -> dict[str, np.ndarray]:
        return {} if self.trainer.is_fsdp_enabled else weights_of(self.trainer.model)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" not in (logs or {}):
            return
        steps = self.trainer.throughput.unlogged
        expected = float(np.mean(steps)) if steps else logs["loss"]
        if not math.isfinite(expected):
            return  # the step that is not finite stops the run by itself
        if not math.isclose(logs["loss"], expected, rel_tol=2e-3, abs_tol=1e-3):
            raise GuardError(
                f"step {state.global_step}: the logged training loss is {logs['loss']:.4f}, and the mean of its steps "
                f"is {expected:.4f}"
            )

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        with keep_random_state(args.device):
            found = on_one_process(lambda: self._check_evaluation(metrics or {}, state.global_step))
        if found:
            logger.debug("step %d: %s", state.global_step, found)

    def _check_evaluation(self, metrics: dict[str, Any], step: int) -> str:
        where, rows, known = f"evaluation at step {step}", self.trainer.evaluation, self.trainer.training_stories
        number = len(rows.rows)
        if len(self.nll) != number + len(known.rows):
            raise GuardError(f"{where}: {len(self.nll):,} rows came back, not {number + len(known.rows):,}")
        expected = reported(self.nll[:number], rows)
        if known.rows:
            loss = reported(self.nll[number:], known)["loss"]
            expected |= {"train_loss": loss, "gap": expected["loss"] - loss}
        check_sums(metrics, expected, where)
        if self.trainer.is_fsdp_enabled:
            return "the weights are sharded: likelihoods are not computed a second time"
        weights = self._weights()
        if step - self.begin_step >= FEWEST_STEPS:
            check_moved(self.began, weights, f"step {self.begin_step}")
        if max(float(np.abs(weight).max()) for weight in weights.values()) > SPOILT:
            return "a step has spoilt the weights"  # which stops the run before its next one
        half = torch.bfloat16 if self.trainer.args.bf16 else torch.float16 if self.trainer.args.fp16 else None
        weights = as_multiplied(weights, half) if half else weights
        try:
            network = SecondPath(self.trainer.model.config.to_dict(), weights)
        except NotKnownError as error:
            return f"not computed a second time: {error}"
        tolerance = BF16_TOLERANCE if half else FLOAT32_TOLERANCE
        found = check_likelihoods(network, rows.rows, self.nll[:number], tolerance, where)
        return f"{found}; training loss {self._check_training_loss(step)}"

    def _check_training_loss(self, step: int) -> str:
        """The loss of the last step is that of its rows by a plain forward, as far as one update and a sample allow."""
        rows = [
            {name: tensor[i : i + 1] for name, tensor in batch.items()}
            for batch in self.trainer.loss_spike_guard.batches
            for i in range(len(batch["input_ids"]))
        ]
        if not rows or not self.trainer.throughput.losses:
            return "of no step yet"
        chosen = np.random.default_rng().permutation(len(rows))[:TRAINING_ROWS]
        with self.trainer.other_weights():  # those that were trained
            sums = np.array([self._plain_loss(rows[i]) for i in chosen])
        sums = sums[sums[:, 1] > 0]
        if sums[:, 1].sum() < FEWEST_TOKENS and len(sums) == len(rows):
            return f"of {int(sums[:, 1].sum())} tokens, which are too few to compare"
        plain, logged = sums[:, 0].sum() / sums[:, 1].sum(), self.trainer.throughput.losses[-1]
        means = sums[:, 0] / sums[:, 1]
        spread = float(means.std(ddof=1) / math.sqrt(len(means))) if len(rows) > len(means) > 1 else 0.0
        allowed, learned = 0.15 * max(logged, plain) + 0.15 + 4 * spread, 0.1 * logged  # by the update since
        if not -allowed <= logged - plain <= allowed + learned:
            raise GuardError(
                f"step {step}: its training loss is given as {logged:.3f} nats per token, and its rows have "
                f"{plain:.3f} (+- {spread:.2f}): it is not the mean over the tokens of the step"
            )
        return f"{logged:.3f}, a plain forward on its rows {plain:.3f}"

    @torch.no_grad()
    def _plain_loss(self, row: dict[str, torch.Tensor]) -> tuple[float, int]:
        """Sum of nats and number of tokens of one row, in training mode."""
        model, pad = self.trainer.model, self.trainer.processing_class.pad_token_id
        was_training = model.training
        inputs = {name: tensor.to(model.device) for name, tensor in row.items() if name != "labels"}
        logits = model.train()(**inputs).logits[0, :-1].float().log_softmax(-1)
        model.train(was_training)
        targets = inputs["input_ids"][0, 1:]
        nll = -logits.gather(-1, targets[:, None])[:, 0]
        return nll[targets != pad].sum().item(), int((targets != pad).sum())
