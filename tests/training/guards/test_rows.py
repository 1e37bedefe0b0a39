"""Rows, batches and visits: each mutation loses, doubles or changes something that no printed number shows."""

import json

import datasets
import numpy as np
import pytest

from helpers.forked import fork_ranks
from helpers.mutations import ONE_STEP, assert_stopped, small_run
from helpers.runs import as_options, mistake, write_counting_corpus
from tinystories.config.keys import DataArguments, TokenizerArguments
from tinystories.data.packing import pack
from tinystories.data.tokenizer import train_tokenizer
from tinystories.training.guards.rows import check_rows
from tinystories.training.guards.samples import Sample


PACKING, TRAINER = "tinystories/data/packing.py", "tinystories/training/trainer.py"
ENCODING, STORIES = "tinystories/data/encoding.py", 'an array of strings."""'
SAMPLER = "    def progress(self)"
LOADER = "loader = super()._get_dataloader(*args, **kwargs)"
MUTATIONS = {
    "every 97th story lost": (
        ENCODING,
        STORIES,
        f"{STORIES}\n        texts = texts.take([i for i in range(len(texts)) if i % 97 != 96])",
        "is missing in",
    ),
    "the last stories of a batch doubled": (
        ENCODING,
        STORIES,
        f"{STORIES}\n        texts = pa.concat_arrays([texts, texts[-9:]])",
        "more stories than",
    ),
    "two tokens swapped in a later row": (
        PACKING,
        "yield rest[:full].reshape(-1, block_size)",
        "rows = rest[:full].reshape(-1, block_size).copy(); rows[-2, [1, 2, 3]] = rows[-2, [2, 3, 1]]; yield rows",
        "of the corpus",
    ),
    "line ends become spaces": (
        ENCODING,
        "_bytes_of(texts)",
        '_bytes_of(pa.array([text.replace("\\n", " ") for text in texts.to_pylist()], texts.type))',
        "a packed story is not story",
    ),
    "tokens that spell the same": (
        ENCODING,
        'encoded = self._tokenizer([part.decode() for part in parts], add_special_tokens=False)["input_ids"]',
        'encoded = [sum(self._tokenizer(list(part.decode()), add_special_tokens=False)["input_ids"], []) '
        "for part in parts]",
        "not those that the tokenizer gives",
    ),
    "validation stories packed too": (
        "tinystories/training/build.py",
        "pack(corpus.train, ",
        "pack(datasets.concatenate_datasets([corpus.train, corpus.validation]), ",
        "more stories than the corpus",
    ),
    "half of the rows given to the Trainer": (
        TRAINER,
        "train_dataset=packed.rows,",
        "train_dataset=packed.rows.take(len(packed.rows) // 2),",
        "may be dropped at the end",
    ),
    "a row with other rows in its place": (
        TRAINER,
        "train_dataset=packed.rows,",
        "train_dataset=packed.rows.select([*range(len(packed.rows) - 1), 0]),",
        "no EOS between packed stories",
    ),
    "a batch without its last row": (
        PACKING,
        "for i, row in enumerate(rows)",
        "for i, row in enumerate(rows[:-1])",
        "the collator changes them",
    ),
    "a batch cut to a power of two": (
        PACKING,
        "longest = max(len(row[",
        "rows = [{**row, 'input_ids': row['input_ids'][:32]} for row in rows]\n        longest = max(len(row[",
        "the collator changes them",
    ),
    "frequent tokens left out of the loss": (
        PACKING,
        "np.where(ids == self.pad_token_id, IGNORED, ids)",
        "np.where((ids == self.pad_token_id) | (ids == np.bincount(ids).argmax()), IGNORED, ids)",
        "left out of the loss",
    ),
    "an order that never changes": (
        TRAINER,
        SAMPLER,
        "    def _get_train_sampler(self, dataset=None):\n        generator = torch.Generator().manual_seed(0)\n"
        f"        return torch.randperm(len(self.train_dataset), generator=generator).tolist()\n\n{SAMPLER}",
        "same order in each epoch",
    ),
    "an order that forgets the epoch": (
        TRAINER,
        LOADER,
        f"{LOADER}\n        loader.set_epoch = lambda epoch: None",
        "same order in each epoch",
    ),
    "the order of the file": (
        TRAINER,
        SAMPLER,
        "    def _get_train_sampler(self, dataset=None):\n"
        f"        return torch.utils.data.SequentialSampler(self.train_dataset)\n\n{SAMPLER}",
        "same order in each epoch",
    ),
    "rows drawn with replacement": (
        TRAINER,
        SAMPLER,
        "    def _get_train_sampler(self, dataset=None):\n"
        f"        return torch.utils.data.RandomSampler(self.train_dataset, replacement=True)\n\n{SAMPLER}",
        "rows are never visited",
    ),
    "a loader of three quarters": (
        TRAINER,
        LOADER,
        "kwargs['dataset'] = kwargs['dataset'].take(len(kwargs['dataset']) * 3 // 4)\n        " + LOADER,
        "rows are never visited",
    ),
    "the seed ignored": (
        TRAINER,
        "        self.data_report = data_report",
        "        self.data_report = data_report\n        torch.manual_seed(1)",
        "is drawn with 1",
    ),
    "other rows from the loader": (
        TRAINER,
        LOADER,
        f"{LOADER}\n        collate = loader.collate_fn\n"
        "        loader.base_dataloader.collate_fn = lambda rows: collate([*rows[:-1], rows[0]])",
        "does not hold the rows",
    ),
}
ALIGNED = {
    "a story takes the place of another": ("rows[row].append(piece)", "rows[row] = [piece]"),
    "a story twice": ("np.concatenate(members)", "np.concatenate([*members, members[0]])[:block_size]"),
    "the rest of long stories lost": ("for i in range(0, len(story), block_size)]", "for i in [0]]"),
}


def write_corpus(folder):
    """Stories of one to four lines."""
    path = write_counting_corpus(folder)
    path.write_text(path.read_text().replace("five", "five\n").replace("Story 1", "Story\n1"))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTATIONS)
def test_mutation_is_caught(name, mutated_tree, tmp_path):
    file, old, new, reason = MUTATIONS[name]
    assert_stopped(small_run(tmp_path, write_corpus(tmp_path), tree=mutated_tree(file, old, new)), reason)


@pytest.mark.slow
@pytest.mark.parametrize("name", ALIGNED)
def test_mutation_of_aligned_rows_is_caught(name, mutated_tree, tmp_path):
    """No order tells which story is missing there: they are counted."""
    tree = mutated_tree(PACKING, *ALIGNED[name])
    corpus = write_corpus(tmp_path)
    corpus.write_text(corpus.read_text() + " ".join(["On went the boat."] * 40), encoding="utf-8")
    assert_stopped(small_run(tmp_path, corpus, "--align_to_stories", tree=tree), "stor")


@pytest.mark.slow
def test_share_of_another_process(mutated_tree, tmp_path):
    """Both processes would train on the same half of the rows."""
    corpus = write_corpus(tmp_path)
    settings = ONE_STEP | {"train_file": corpus, "data_cache_dir": tmp_path / "cache", "use_cpu": True}
    sound = fork_ranks("run_clm.py", *as_options(settings), "--output_dir", tmp_path / "sound")
    assert [rank.returncode for rank in sound] == [0, 0], sound[0].stderr[-2000:]
    tree = mutated_tree(TRAINER, LOADER, f"{LOADER}\n        loader.batch_sampler.process_index = 0")
    ranks = fork_ranks("run_clm.py", *as_options(settings), "--output_dir", tmp_path / "run", tree=tree)
    assert any("rows are never visited" in rank.stderr for rank in ranks), ranks[0].stderr[-2000:]


@pytest.mark.slow
def test_resumed_at_another_place(mutated_tree, tmp_path):
    """The rest of the epoch would be skipped, or its begin trained twice."""
    corpus = write_corpus(tmp_path)
    options = ["--save_strategy", "steps", "--save_steps", "2", "--max_steps"]
    assert small_run(tmp_path, corpus, *options, "2").returncode == 0
    tree = mutated_tree(TRAINER, "super()._inner_training_loop,", "self._from_the_start,")
    file = tree / TRAINER
    file.write_text(
        file.read_text().replace(
            SAMPLER,
            "    def _from_the_start(self, *args, **kwargs):\n        self.args.ignore_data_skip = True\n"
            f"        return super()._inner_training_loop(*args, **kwargs)\n\n{SAMPLER}",
        )
    )
    assert_stopped(small_run(tmp_path, corpus, *options, "4", "--resume", tree=tree), "step 3 trains on other rows")
    process = small_run(tmp_path, corpus, *options, "4", "--resume")
    assert process.returncode == 0, process.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        [
            "--dataloader_num_workers",
            "2",
            "--dataloader_persistent_workers",
            "true",
            "--data_seed",
            "7",
            "--seed",
            "3",
            "--gradient_accumulation_steps",
            "3",
        ],
        ["--dataloader_drop_last", "true", "--isolate_stories", "--train_sampling_strategy", "sequential"],
        ["--per_device_train_batch_size", "64"],
        [
            "--block_size",
            "8",
            "--vocab_size",
            "260",
            "--align_to_stories",
            "--train_sampling_strategy",
            "group_by_length",
        ],
    ],
)
def test_honest_settings_pass(options, tmp_path):
    """Workers, dropped rows, fewer rows than a batch, an order that the user asks for."""
    process = small_run(tmp_path, write_corpus(tmp_path), *options)
    assert process.returncode == 0, process.stderr[-2000:]
    assert "visits" in json.loads((tmp_path / "run" / "data_report.json").read_text(encoding="utf-8"))["guards"]


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """Function of DataArguments -> stories, tokenizer and packed rows."""
    texts = [f"Story {i}.  One two,\nthree {i * i} four." for i in range(2500)]
    stories = datasets.Dataset.from_dict({"text": texts})
    tokenizer = train_tokenizer(stories, TokenizerArguments(vocab_size=300))

    def make(**settings):
        data = DataArguments(data_cache_dir=str(tmp_path_factory.mktemp("cache")), **settings)
        return stories, tokenizer, pack(stories, tokenizer, data).rows

    return make


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("block_size", [8, 33, 512])
def test_any_single_token(packed, block_size, aligned):
    """One token of one row, at a random place, exchanged: always found; and the rows as they are pass."""
    stories, tokenizer, rows = packed(block_size=block_size, align_to_stories=aligned)
    check_rows(rows, stories, tokenizer, aligned, Sample())
    rng = np.random.default_rng(block_size)
    for row in rng.choice(len(rows), 3):
        ids = np.array(rows[:]["input_ids"])
        ids[row, 0] = 3 + (ids[row, 0] + 1) % 290
        changed = datasets.Dataset.from_dict({"input_ids": ids}).with_format("numpy")
        assert mistake(check_rows, changed, stories, tokenizer, aligned, Sample())


@pytest.mark.parametrize("aligned", [False, True])
def test_row_missing_or_doubled(packed, aligned):
    stories, tokenizer, rows = packed(block_size=64, align_to_stories=aligned)
    for places in ([*range(100), *range(101, len(rows))], [*range(101), *range(100, len(rows))], [0]):
        assert mistake(check_rows, rows.select(places), stories, tokenizer, aligned, Sample())


def test_token_beyond_the_vocabulary(packed):
    stories, tokenizer, rows = packed(block_size=64)
    ids = np.array(rows[:]["input_ids"])
    ids[-1, -1] = len(tokenizer)
    changed = datasets.Dataset.from_dict({"input_ids": ids}).with_format("numpy")
    assert "beyond the vocabulary" in mistake(check_rows, changed, stories, tokenizer, False, Sample())
