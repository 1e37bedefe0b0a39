"""Models of other projects are opened so that they give the numbers of their own program."""

import json
import math
import random
import shutil
import struct
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from configuration_tinystories import TinyStoriesConfig
from helpers.runs import mistake
from modeling_tinystories import TinyStoriesForCausalLM
from tinystories.checkpoint.foreign import open_model
from tinystories.checkpoint.loading import CodeNotTrustedError, load_checkpoint
from tinystories.config.packaged import BOXED
from tinystories.data.sample_corpus import sample_stories
from tinystories.evaluation.scoring import score, scoring_rows


DIM, HIDDEN, LAYERS, HEADS, KV_HEADS, CONTEXT = 24, 40, 2, 6, 3, 32
STORIES = list(sample_stories(300, seed=5))
ODD = [
    "",
    " ",
    "  two  spaces   three",
    "line\nbreak\r\n\n\tand tab",
    "na\u00efve caf\u00e9 \u2014 \U0001f600\U0001f600",
    "typed <s> and </s>, \n<s>\n, <unk> and <0x0A> are text",
    "aaaaaaa aaa!!!!!! ....... hahahahaha",
    "a" * 300,
]


def learned_pieces(texts: list[str], number: int) -> list[str]:
    """The pieces that pair counting joins, in their order, then the single characters: an ordinary vocabulary."""
    rows = [list(" " + text) for text in texts]
    letters = sorted({letter for row in rows for letter in row if letter.isascii() and letter != "\n"})
    joined = []
    while len(joined) < number:
        counts = Counter(pair for row in rows for pair in pairwise(row) if "\n" not in pair)
        best = "".join(max(counts, key=lambda pair: (counts[pair], pair)))
        joined += [best] if best not in joined else []
        rows = [join_all(row, best) for row in rows]
    return joined + letters


def join_all(row: list[str], piece: str) -> list[str]:
    out = []
    for part in row:
        if out and out[-1] + part == piece:
            out[-1] = piece
        else:
            out.append(part)
    return out


@pytest.fixture(scope="module")
def vocabulary() -> list[tuple[str, float]]:
    special = ["<unk>", "\n<s>\n", "\n</s>\n", *(f"<0x{byte:02X}>" for byte in range(256))]
    runs = ["aa", "aaaa", "aaa", "..", "...", "ha", "haha", "  ", "!!"]
    learned = learned_pieces([*STORIES[:20], " ".join(runs) + "~abcdefghijklmnopqrstuvwxyz<>0/!"], 80)
    pieces = list(dict.fromkeys(learned[:80] + runs + learned[80:]))
    return [(piece, 0.0) for piece in special] + [(piece, -float(i)) for i, piece in enumerate(pieces)]


def write_tokenizer(path, vocabulary):
    longest = max(len(piece.encode()) for piece, _ in vocabulary)
    rows = (struct.pack("<fi", rank, len(piece.encode())) + piece.encode() for piece, rank in vocabulary)
    path.write_bytes(struct.pack("<i", longest) + b"".join(rows))


def random_weights(tokens: int, tied: bool) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(3)
    kv_dim, size = DIM // HEADS * KV_HEADS, DIM // HEADS
    shapes = {
        "embedding": (tokens, DIM),
        "rms_att": (LAYERS, DIM),
        "wq": (LAYERS, DIM, DIM),
        "wk": (LAYERS, kv_dim, DIM),
        "wv": (LAYERS, kv_dim, DIM),
        "wo": (LAYERS, DIM, DIM),
        "rms_ffn": (LAYERS, DIM),
        "w1": (LAYERS, HIDDEN, DIM),
        "w2": (LAYERS, DIM, HIDDEN),
        "w3": (LAYERS, HIDDEN, DIM),
        "rms_final": (DIM,),
        "rotations": (2, CONTEXT, size // 2),
    } | ({} if tied else {"output": (tokens, DIM)})
    return {name: generator.normal(scale=0.4, size=shape).astype("<f4") for name, shape in shapes.items()}


def write_model(path, weights, tokens, tied):
    header = struct.pack("<7i", DIM, HIDDEN, LAYERS, HEADS, KV_HEADS, tokens if tied else -tokens, CONTEXT)
    path.write_bytes(header + b"".join(array.tobytes() for array in weights.values()))


def logits_of_the_c_program(weights: dict[str, np.ndarray], ids: list[int]) -> np.ndarray:
    """One token after another, neighbouring numbers of a head turned together, as in run.c; shape (length, tokens)."""
    size, rows = DIM // HEADS, []
    keys, values = [[] for _ in range(LAYERS)], [[] for _ in range(LAYERS)]

    def norm(x, weight):
        return weight * x / np.sqrt(np.mean(x * x) + 1e-5)

    def turned(vector, position):
        out = vector.astype(np.float64).copy()
        for i in range(0, len(vector), 2):
            angle = position / 10000 ** ((i % size) / size)
            a, b = vector[i], vector[i + 1]
            out[i], out[i + 1] = a * np.cos(angle) - b * np.sin(angle), a * np.sin(angle) + b * np.cos(angle)
        return out

    for position, token in enumerate(ids):
        x = weights["embedding"][token].astype(np.float64)
        for i in range(LAYERS):
            h = norm(x, weights["rms_att"][i])
            query = turned(weights["wq"][i] @ h, position)
            keys[i].append(turned(weights["wk"][i] @ h, position))
            values[i].append(weights["wv"][i] @ h)
            heads = []
            for head in range(HEADS):
                own = slice(head * size, (head + 1) * size)
                shared = slice(head // 2 * size, (head // 2 + 1) * size)  # two heads share a key
                weight = np.exp([query[own] @ key[shared] / math.sqrt(size) for key in keys[i]])
                heads.append(sum(w * value[shared] for w, value in zip(weight / weight.sum(), values[i], strict=True)))
            x = x + weights["wo"][i] @ np.concatenate(heads)
            h = norm(x, weights["rms_ffn"][i])
            gate = weights["w1"][i] @ h
            x = x + weights["w2"][i] @ (gate / (1 + np.exp(-gate)) * (weights["w3"][i] @ h))
        rows.append(weights.get("output", weights["embedding"]) @ norm(x, weights["rms_final"]))
    return np.array(rows)


def ids_of_the_c_program(text: str, vocabulary: list[tuple[str, float]]) -> list[int]:
    """BOS, then a space before the text; the best joint token of two neighbours first, the leftmost of equals."""
    ids = {piece: i for i, (piece, _) in enumerate(vocabulary)}
    row = []
    for letter in " " + text if text else "":
        row += [ids[letter]] if letter in ids else [3 + byte for byte in letter.encode()]
    while True:
        best, place = -1e10, None
        for i in range(len(row) - 1):
            joined = ids.get(vocabulary[row[i]][0] + vocabulary[row[i + 1]][0])
            if joined is not None and vocabulary[joined][1] > best:
                best, place, token = vocabulary[joined][1], i, joined
        if place is None:
            return [1, *row]
        row[place : place + 2] = [token]


@pytest.fixture(scope="module")
def peer(tmp_path_factory, vocabulary):
    """Folder with a random model (model.bin, tied), another (untied.bin), and their tokenizer."""
    folder = tmp_path_factory.mktemp("peer")
    write_tokenizer(folder / "tokens.bin", vocabulary)
    for name, tied in (("model.bin", True), ("untied.bin", False)):
        write_model(folder / name, random_weights(len(vocabulary), tied), len(vocabulary), tied)
    return folder


@pytest.fixture(scope="module")
def tokenizer(peer):
    return open_model(str(peer / "model.bin"))[1]


@pytest.mark.parametrize("tied", [True, False])
def test_llama2c_logits(peer, vocabulary, tied):
    """They are those of the C program."""
    model, _, facts = open_model(str(peer / ("model.bin" if tied else "untied.bin")))
    weights = random_weights(len(vocabulary), tied)
    ids = [1, *random.Random(0).choices(range(len(vocabulary)), k=CONTEXT - 1)]
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0]
    torch.testing.assert_close(
        logits.double(), torch.tensor(logits_of_the_c_program(weights, ids)), rtol=1e-4, atol=1e-4
    )
    assert facts["parameters"] == sum(array.size for name, array in weights.items() if name != "rotations")
    assert facts["context"] == CONTEXT and facts["kind"] == "llama2.c"


@pytest.mark.slow
def test_llama2c_ids(tokenizer, vocabulary):
    """They are those of the C program."""
    for text in [*(story[:250] for story in STORIES), *STORIES[:10], *ODD]:
        assert tokenizer(text)["input_ids"] == ids_of_the_c_program(text, vocabulary), text


def test_llama2c_round_trip(tokenizer):
    for text in [*STORIES[:50], *ODD]:
        assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_llama2c_scores(peer, tokenizer):
    """All bytes and articles of a text are scored."""
    model, _, _ = open_model(str(peer / "model.bin"))
    stories = Dataset.from_dict({"text": ["He saw a dog, the na\u00efve cat.", "In the end."]})
    rows = scoring_rows(stories, tokenizer, CONTEXT)
    result = score(model, rows, tokenizer.pad_token_id)
    assert result.bytes == sum(len(text.encode()) for text in stories["text"])
    articles = [tokenizer.convert_ids_to_tokens(row["input_ids"][row["articles"]]) for row in rows.rows]
    assert ["".join(tokens).split() for tokens in articles] == [["a", "the"], ["the"]]


def test_damaged_llama2c_file(peer, vocabulary, tmp_path):
    whole = (peer / "model.bin").read_bytes()
    shutil.copy(peer / "tokens.bin", tmp_path / "tokenizer.bin")
    path = tmp_path / "peer.bin"

    def opened(data: bytes) -> str:
        path.write_bytes(data)
        message = mistake(open_model, str(path))
        assert str(path) in message
        return message

    assert "too few" in opened(b"") and "too few" in opened(whole[:20])
    assert "cut off" in opened(whole[:-4]) and "cut off" in opened(whole + b"\0\0\0\0")
    assert "sizes" in opened(struct.pack("<i", 0) + whole[4:])
    assert "sizes" in opened(struct.pack("<7i", DIM, HIDDEN, LAYERS, 5, KV_HEADS, 300, CONTEXT) + whole[28:])
    assert "cut off" in opened(b"\x7f" * 28 + whole[28:]) or "sizes" in opened(b"\x7f" * 28 + whole[28:])
    assert "version 0" in opened(struct.pack("<I", 0x616B3432) + whole[4:])
    assert "cannot be read" in mistake(open_model, str(tmp_path / "absent.bin"))


def test_tokenizer_of_another_model(peer, vocabulary, tmp_path):
    model, other = str(peer / "model.bin"), tmp_path / "other.bin"

    def opened() -> str:
        return mistake(open_model, model, tokenizer=str(other))

    write_tokenizer(other, vocabulary[:-1])
    assert f"{len(vocabulary) - 1:,} tokens" in opened()
    other.write_bytes((peer / "tokens.bin").read_bytes()[:-1])
    assert "cut off" in opened()
    other.write_bytes((peer / "model.bin").read_bytes())
    assert "not a tokenizer" in opened()
    write_tokenizer(other, [*vocabulary[1:], ("<unk>", 0.0)])
    assert "not the bytes" in opened()
    alone = shutil.copy(peer / "model.bin", tmp_path / "alone.bin")
    assert "--tokenizer" in mistake(open_model, str(alone))


def test_fitting_tokenizer_is_found(peer, vocabulary, tmp_path):
    for name in ("model.bin", "tokens.bin"):
        shutil.copy(peer / name, tmp_path / name)
    write_tokenizer(tmp_path / "tok4096.bin", vocabulary[:-1])
    assert len(open_model(str(tmp_path / "model.bin"))[1]) == len(vocabulary)


@pytest.mark.slow
def test_our_checkpoint():
    """It is opened without its code files."""
    model, tokenizer, facts = open_model(str(BOXED))
    assert type(model).__module__ == "modeling_tinystories"
    assert facts["model"] == BOXED.name and facts["parameters"] == model.num_parameters()
    assert facts["vocabulary"] == len(tokenizer) and facts["notes"] == []


@pytest.mark.slow
def test_foreign_code(tmp_path):
    """It runs only with trust_remote_code."""
    folder = tmp_path / "stranger"
    shutil.copytree(BOXED, folder, ignore=shutil.ignore_patterns("checkpoint-*"))
    witness = tmp_path / "ran"
    config = (folder / "config.json").read_text(encoding="utf-8")
    (folder / "config.json").write_text(config.replace('"tinystories"', '"stranger"'), encoding="utf-8")
    for file in folder.glob("*_tinystories.py"):
        code = file.read_text(encoding="utf-8").replace('model_type = "tinystories"', 'model_type = "stranger"')
        file.write_text(f"{code}\nopen({str(witness)!r}, 'w').close()\n", encoding="utf-8")
    assert "--trust_remote_code" in mistake(open_model, str(folder))
    assert not witness.exists()
    with pytest.raises(CodeNotTrustedError, match="cannot open"):
        load_checkpoint(str(folder))
    model, _, _ = open_model(str(folder), trust_remote_code=True)
    assert witness.exists() and model.config.model_type == "stranger"


def write_gpt2(folder, **special):
    backend = Tokenizer(models.BPE({letter: i for i, letter in enumerate(["<|end|>", *"abcdef"])}, []))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    PreTrainedTokenizerFast(tokenizer_object=backend, **special).save_pretrained(folder)
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(vocab_size=7, n_positions=16, n_embd=8, n_layer=1, n_head=2)).save_pretrained(folder)


def test_tokenizer_with_own_code(tmp_path):
    """A model whose class is installed, with a tokenizer whose class is not: that too needs trust."""
    write_gpt2(tmp_path, eos_token="<|end|>")
    sizes = {"vocab_size": 7, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    TinyStoriesForCausalLM(TinyStoriesConfig(**sizes, num_attention_heads=2)).save_pretrained(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    settings = json.loads(path.read_text()) | {"auto_map": {"AutoTokenizer": ["own.Own", None]}}
    path.write_text(json.dumps(settings | {"tokenizer_class": "Own"}))
    with pytest.raises(CodeNotTrustedError):
        open_model(str(tmp_path))


def test_failure_without_code(tmp_path):
    """Guards: advice to run foreign code because of the words in a message; a checkpoint of ours names code too."""
    folder = tmp_path / "trust_remote_code"
    assert "Python code of its author" not in mistake(open_model, str(folder))
    write_gpt2(folder, eos_token="<|end|>")
    config = json.loads((folder / "config.json").read_text())
    config |= {"auto_map": {"AutoModelForCausalLM": "own.Own"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(b"damaged")
    assert "Python code of its author" not in mistake(open_model, str(folder))


def test_one_special_token(tmp_path):
    """Where the end, the beginning and the padding are one token, the end must still count."""
    write_gpt2(tmp_path, eos_token="<|end|>")
    model, tokenizer, facts = open_model(str(tmp_path))
    assert facts["context"] == 16 and len(facts["notes"]) == 1
    texts, nats = ["abcdef", "fed", "a"], 0.0
    for text in texts:
        ids = [0, *("?abcdef".index(letter) for letter in text), 0]
        with torch.no_grad():
            nats += model(torch.tensor([ids]), labels=torch.tensor([ids])).loss.item() * (len(ids) - 1)
    result = score(model, scoring_rows(Dataset.from_dict({"text": texts}), tokenizer, 16), tokenizer.pad_token_id)
    assert result.loss == pytest.approx(nats / 13, rel=1e-5)
    assert result.bits_per_byte == pytest.approx(nats / math.log(2) / 10, rel=1e-5)


def test_model_that_cannot_score(tmp_path):
    write_gpt2(tmp_path)
    assert "no token that ends" in mistake(open_model, str(tmp_path))
    assert "llama2.c" in mistake(open_model, str(tmp_path), tokenizer="tok512.bin")
    assert "no folder" in mistake(open_model, str(tmp_path / "absent"))
