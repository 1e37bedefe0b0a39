"""lm-eval over HTTP (its model `local-completions`) gives the log-likelihoods of our own evaluation."""

import datasets
import pytest
import torch

from helpers.serving import ServerThread, counting_tokenizer
from helpers.untrained import save, untrained_model
from tinystories.checkpoint.loading import load_checkpoint
from tinystories.evaluation import harness
from tinystories.evaluation.likelihood import likelihood
from tinystories.evaluation.minimal_pairs.pairs import Pair
from tinystories.evaluation.scoring import continuation_nll


pytestmark = pytest.mark.slow

CONTEXT = 64
PAIRS = [
    Pair("counting", context, good, bad, "", "")
    for context, good, bad in (
        ("Story 7. one two", " three four", " four three"),
        ("Zoë 🦊", " one", "\n\nnine"),
        ("nine", " ten.", " one 🦊🦊"),
    )
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    model = untrained_model(counting_tokenizer(), CONTEXT)
    for weight in model.parameters():
        weight.data *= 6 if weight.dim() > 1 else 1  # otherwise what comes next hardly depends on what was before
    return save(model, counting_tokenizer(), tmp_path_factory.mktemp("scored") / "run")


@pytest.fixture(scope="module")
def server(checkpoint):
    with ServerThread(checkpoint, "--client_share", "1") as server:
        yield server


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    harness.write_pairs(folder, harness.PAIRS, PAIRS)
    harness.write_stories(folder, TEXTS)
    return folder


TEXTS = ["Story 7. one two three.", "Zoë 🦊 saw one."]


def client_of(server, checkpoint, **options):
    """lm-eval's client for this server."""
    pytest.importorskip("tenacity", reason="lm-eval's clients of servers need its extra `api`")
    from lm_eval.models.openai_completions import LocalCompletionsAPI  # takes seconds, and only this file needs it

    address = f"{server.url}/v1/completions"
    return LocalCompletionsAPI(
        base_url=address,
        model="run",
        tokenizer=str(checkpoint),
        tokenizer_backend="huggingface",
        max_length=CONTEXT,
        max_retries=1,
        **options,
    )


def evaluated(lm, tasks, name: str) -> dict:
    import lm_eval
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    return lm_eval.simple_evaluate(model=lm, tasks=[name], task_manager=manager, bootstrap_iters=0, log_samples=True)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"add_bos_token": True},
        {"tokenized_requests": False, "batch_size": 4, "num_concurrent": 2},
    ],
    ids=str,
)
def test_pairs(options, server, checkpoint, tasks):
    """Of each ending, to 1e-3: as token ids with and without BOS, and as text."""
    found = evaluated(client_of(server, checkpoint, **options), tasks, harness.PAIRS)["samples"]
    (samples,) = found.values()
    contexts, endings = zip(*((pair.context, text) for pair in PAIRS for text in (pair.good, pair.bad)), strict=True)
    ours = -continuation_nll(*load_checkpoint(str(checkpoint)), contexts, endings)
    samples = sorted(samples, key=lambda sample: sample["doc_id"])
    theirs = [float(one[0][0]) for sample in samples for one in sample["resps"]]
    assert theirs == pytest.approx(ours.tolist(), abs=1e-3) and len(set(theirs)) == 6


def test_bits_per_byte(server, checkpoint, tasks):
    """The rolling task, which sends BOS itself."""
    found = evaluated(client_of(server, checkpoint), tasks, harness.BITS_PER_BYTE)["results"]
    ours = likelihood(*load_checkpoint(str(checkpoint)), datasets.Dataset.from_dict({"text": TEXTS}))
    value = found[harness.BITS_PER_BYTE]["bits_per_byte,none"]
    assert value == pytest.approx(ours["text_bits_per_byte"].value, abs=1e-3)


def test_greedy_ending(server, checkpoint):
    """Whether the model itself would have written the ending; also where the story ends after it."""
    model, tokenizer = load_checkpoint(str(checkpoint))
    context = tokenizer("Story 7. one two")["input_ids"]
    ending = []
    for _ in range(8):
        ending.append(int(model(torch.tensor([context + ending])).logits[0, -1].argmax()))
    other = [*ending[:-1], (ending[-1] + 1) % len(tokenizer)]
    lm = client_of(server, checkpoint)
    found = lm._loglikelihood_tokens(
        [(("", str(i)), context, ids) for i, ids in enumerate((ending, other, ending[:1]))]
    )
    assert [is_greedy for _, is_greedy in found] == [True, False, True]
    rows = model(torch.tensor([context + ending])).logits[0].log_softmax(-1)[len(context) - 1 : -1]
    assert found[0][0] == pytest.approx(rows.gather(-1, torch.tensor(ending)[:, None]).sum().item(), abs=1e-3)
