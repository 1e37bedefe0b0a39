"""Rows of a stream: every story of every shard once in a pass, whoever reads, and the same rows again from any mark."""

import json
from collections import Counter
from itertools import islice

import datasets
import numpy as np
import pytest

from helpers.fake_hub import FakeHub, Repository
from helpers.runs import mistake
from tinystories.config.keys import DataArguments, TokenizerArguments
from tinystories.data.corpus import load_corpus, text_hashes
from tinystories.data.packing import pack
from tinystories.data.sample_corpus import sample_stories
from tinystories.data.streaming import Lane, Mark, StreamReader, stream_rows
from tinystories.data.tokenizer import train_tokenizer
from tinystories.errors import UserError


STORIES = sample_stories(60, seed=1)
SHARDS = {  # stories in each
    "one shard": [60],
    "two shards": [30, 30],
    "three shards": [20, 20, 20],
    "five shards of unequal size, one empty": [5, 25, 0, 29, 1],
}


@pytest.fixture(scope="module")
def tokenizer():
    stories = datasets.Dataset.from_dict({"text": STORIES})
    return train_tokenizer(stories, TokenizerArguments(vocab_size=320))


@pytest.fixture(scope="module")
def open_stream(tmp_path_factory, tokenizer):
    """A function: sizes of the shards, settings -> the stream."""
    folder = tmp_path_factory.mktemp("streams")

    def open_them(sizes, stories=STORIES, **settings):
        shards = folder / f"shards-{len(list(folder.iterdir()))}"
        write_shards(shards, sizes, stories)
        usual = {"streaming": True, "block_size": 32, "shuffle_buffer_size": 16, "streaming_sample_stories": 40}
        usual |= {"train_file": str(shards), "data_cache_dir": str(folder / "cache")}
        data = DataArguments(**usual | settings)
        corpus = load_corpus(data)
        return stream_rows(pack(corpus.train, tokenizer, data), corpus, tokenizer, data, seed=7).stream

    return open_them


def write_shards(folder, sizes, stories=STORIES):
    folder.mkdir(parents=True)
    rest = iter(stories)
    for number, size in enumerate(sizes):
        lines = [json.dumps({"text": text}) + "\n" for text in islice(rest, size)]
        (folder / f"part-{number}.jsonl").write_text("".join(lines), encoding="utf-8")


def first_rows(stream, number, process=0, processes=1):
    """The first rows of a process, in order."""
    items = islice(StreamReader(stream, 0, {}, process, processes, 1), number)
    return [row for item in items for row in item]


def stories_of(stream, rows):
    """The whole stories in the rows of each lane, in order."""
    tokenizer = stream.tokenizer
    found = []
    for lane in range(stream.lanes):
        tokens = np.concatenate([[], *(row.tokens for row in rows if row.lane == lane)]).astype(int)
        pieces = np.split(tokens, np.flatnonzero(tokens == tokenizer.eos_token_id) + 1)[:-1]
        found += [tokenizer.decode(piece[1:-1]) for piece in pieces]
    return found


def rows_of_a_pass(stream):
    """As many as it takes until every lane is in its second pass."""
    rows, behind = [], set(range(stream.lanes))
    for item in StreamReader(stream, 0, {}, 0, 1, 1):
        rows += item
        if stream.passes(rows[-1].lane, rows[-1].cursor):
            behind.discard(rows[-1].lane)
        if not behind:
            return rows


def held_in(stream, stories):
    return [text for text in stories if int(text_hashes([text])[0]) not in stream.held_out]


@pytest.mark.parametrize("shuffled", [0, 16])
@pytest.mark.parametrize("sizes", SHARDS.values(), ids=SHARDS)
def test_every_story_once(sizes, shuffled, open_stream):
    """In the first pass each story to train on is there once, in whatever order; a validation story never."""
    stream = open_stream(sizes, shuffle_buffer_size=shuffled)
    wanted = Counter(held_in(stream, STORIES))
    assert len(wanted) == 58 and stream.lanes == len(sizes)
    rows = rows_of_a_pass(stream)
    first_pass = [row for row in rows if not stream.passes(row.lane, row.cursor)]
    seen = Counter(stories_of(stream, first_pass))
    assert not seen - wanted  # none twice, none of the validation stories
    everything = Counter(stories_of(stream, rows))
    assert everything.keys() == wanted.keys()
    cut = sum((wanted - seen).values())  # a story at the end of a lane's pass ends in a row of the next one
    assert cut <= stream.lanes


@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("sizes", SHARDS.values(), ids=SHARDS)
def test_processes_share_the_rows_of_one(sizes, processes, open_stream):
    """Also where the number of shards is below that of the processes, or does not divide."""
    stream = open_stream(sizes)
    together = [first_rows(stream, 24, process, processes) for process in range(processes)]
    alone = first_rows(stream, 24 * processes)
    for number, row in enumerate(alone):
        same = together[number % processes][number // processes]
        assert (same.lane, same.number) == (row.lane, row.number) and np.array_equal(same.tokens, row.tokens)


def test_own_shards(open_stream):
    """A process opens no shard of another, if their number divides."""
    stream = open_stream(SHARDS["two shards"], shuffle_buffer_size=0)
    opened = [{row.lane for row in first_rows(stream, 20, process, 2)} for process in (0, 1)]
    assert opened == [{0}, {1}]


@pytest.mark.parametrize("aligned", [False, True])
def test_rows_are_those_of_the_packed_corpus(aligned, open_stream, tokenizer):
    """One shard in its own order, without validation stories of its own, by the rules of packing."""
    stream = open_stream([60], shuffle_buffer_size=0, align_to_stories=aligned)
    stories = datasets.Dataset.from_dict({"text": held_in(stream, STORIES)})
    packed = pack(stories, tokenizer, stream.arguments).rows["input_ids"]
    rows = np.stack([row.tokens for row in first_rows(stream, len(packed))])
    assert len(packed) > 50 and np.array_equal(rows, np.asarray(packed))


@pytest.mark.parametrize("aligned", [False, True])
def test_same_rows_from_every_mark(aligned, open_stream):
    """Over the end of windows, shards and passes; a mark survives JSON."""
    stream = open_stream([10, 3, 0], stories=STORIES[:13], align_to_stories=aligned, streaming_sample_stories=12)
    rows = [row for row in first_rows(stream, 3 * 90) if row.lane == 1]
    assert stream.passes(1, rows[-1].cursor) > 2
    for place in range(0, len(rows) - 1, 3):
        mark = Mark.from_json(json.loads(json.dumps(Mark.of(rows[place]).as_json())))
        lane = Lane(stream, 1, mark)
        for row in rows[place + 1 : place + 4]:
            assert np.array_equal(lane.at(row.number).tokens, row.tokens)


def test_seed_and_pass_change_the_order(open_stream):
    stream = open_stream([30, 30])
    orders = []
    for seed in (7, 8):
        stream.seed = seed
        orders.append(stories_of(stream, first_rows(stream, 40)))
    assert orders[0] != orders[1]
    stream = open_stream([30], stories=STORIES[:30], streaming_sample_stories=30)
    told, number = stories_of(stream, first_rows(stream, 1300)), len(held_in(stream, STORIES[:30]))
    passes = told[:number], told[number : 2 * number]
    assert passes[0] != passes[1] and sorted(passes[0]) == sorted(passes[1])


def test_changed_shard(open_stream):
    """The place of a mark holds another row: a resumed run would train on other stories than it says."""
    stream = open_stream([30, 30])
    mark = Mark.of(first_rows(stream, 30)[-1])
    file = stream.shard_of(1, 0)[1].file
    file.write_text(file.read_text().replace("a", "b"), encoding="utf-8")
    assert f"row {mark.number} of lane 1 has other tokens; restore the shards" in mistake(Lane, stream, 1, mark)


def test_nothing_to_train_on(open_stream):
    """Else a lane would search its shards without end."""
    stream = open_stream([30, 30])
    for file in (shard.file for shard in stream.shards):
        file.write_text("", encoding="utf-8")
    assert "no story is left to train on in 2 shards" in mistake(Lane(stream, 0).at, 0)


def test_bad_rows(open_stream):
    """They are counted in the marks, once, also where a window is read again; or end the stream with file and line."""
    stream = open_stream([8, 8], STORIES[:16], on_bad_row="skip", streaming_sample_stories=12)
    file = stream.shard_of(0, 0)[1].file
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], "{", '{"text": " "}', *lines[1:]]), encoding="utf-8")
    rows = [row for row in first_rows(stream, 400) if row.lane == 0]
    lane = Lane(stream, 0, Mark.of(rows[5]))
    counts = [lane.at(rows[-1].number).cursor.counts, rows[-1].cursor.counts]
    assert counts[0] == counts[1] and counts[0]["first_bad"].startswith(f"{file}:2: not JSON")
    assert counts[0]["bad"] == counts[0]["empty"] > 1  # one of each in every pass
    stream.arguments.on_bad_row = "error"
    last = list(StreamReader(stream, 0, {}, 0, 1, 4))[-1]
    assert isinstance(last, UserError) and str(last).startswith(f"{file}:2: not JSON")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with FakeHub() as hub:
        hub.connect(monkeypatch, tmp_path / "home")
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.url)
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
        yield hub


def test_shards_of_the_hub(hub, tmp_path, tokenizer):
    """They are read over HTTP while they are needed, of one commit; the validation split is never trained on."""
    write_shards(tmp_path / "shards", [20, 20, 20])
    files = {
        f"data/train-{i}.jsonl": file.read_bytes() for i, file in enumerate(sorted((tmp_path / "shards").iterdir()))
    }
    files["data/validation.jsonl"] = json.dumps({"text": STORIES[5]}).encode()
    repository = hub.repositories["someone/stories"] = Repository(private=False)
    repository.commit("main", "stories", files)
    data = DataArguments(
        dataset_name="someone/stories",
        **{"streaming": True, "block_size": 32, "streaming_sample_stories": 12, "data_cache_dir": str(tmp_path)},
    )
    corpus = load_corpus(data)
    assert list(corpus.validation["text"]) == [STORIES[5]] and corpus.report["left_out"] == 0
    stream = stream_rows(pack(corpus.train, tokenizer, data), corpus, tokenizer, data, seed=7).stream
    repository.commit("main", "other stories", dict.fromkeys(files, b'{"text": "Other."}\n'))
    told = stories_of(stream, rows_of_a_pass(stream))
    assert {*told} == {*STORIES} - {STORIES[5]}
    assert not list((tmp_path / "home").rglob("*.jsonl"))  # nothing of it is stored
    for name, split, reason in (
        ("stories", "test", "has no split 'test'"),
        ("none", "train", "the Hub has no such dataset, or a private one"),
    ):
        wrong = DataArguments(dataset_name=f"someone/{name}", train_split_name=split, streaming=True)
        assert reason in mistake(load_corpus, wrong)
