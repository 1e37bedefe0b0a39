"""What a model card says: its metadata as the Hub reads it, its code, its examples and its tables."""

import json
import re
from itertools import pairwise

import pytest
import yaml
from huggingface_hub import ModelCard, ModelCardData

from benchmarks.recipe_runs import TokenizerOfSize
from helpers.run_folder import DATA, ENVIRONMENT, RECIPE, write_json, write_run
from helpers.runs import mistake
from helpers.untrained import untrained_model
from tinystories.commands import train
from tinystories.config.recipe import default_values
from tinystories.reporting.card_facts import CardFacts, read_facts
from tinystories.reporting.card_metadata import data_license, emissions, language, metadata_of, not_stated
from tinystories.reporting.model_card import HERE, plain, tables_of, write_card
from tinystories.run_files import CURVE, WRITTEN_BY_A_RUN


SAMPLE = {"prompt": "One day", "text": " a fox ran.", "ended": True, "preset": "natural", "seed": 1}


@pytest.fixture(scope="module")
def model():
    return untrained_model(TokenizerOfSize(50), 64)


def row(name, title, value=0.5, **changes):
    estimate = value if value is None else {"value": value, "low": value, "high": value}
    people = {"value": 1.0, "low": 1.0, "high": 1.0}
    return {
        "name": name,
        "title": title,
        "unit": "share",
        "alarm": False,
        "value": estimate,
        "floor": estimate,
        "ceiling": people,
    } | changes


def evaluation(quick=False, rows=(), **settings):
    return {
        "data": {"name": "stories.txt", "stories": 3, "also_in_training": None},
        "settings": {"quick": quick, "prompts": 2, "seeds": [1], "max_new_tokens": 200} | settings,
        "preset": "natural",
        "table": list(rows),
        "samples": {"natural": [SAMPLE] * 5},
    }


def card_of(folder, model, **changes):
    """(metadata, text) of the card of a written run, with other keys of its recipe or other facts."""
    facts = read_facts(folder)
    recipe = {key: changes.pop(key) for key in list(changes) if key in default_values()}
    facts.recipe = facts.recipe | recipe
    for name, value in changes.items():
        setattr(facts, name, value)
    write_card(folder, model, facts)
    card = ModelCard.load(folder / "README.md")
    return yaml.safe_load(card.content.split("\n---\n")[0]), card.text


def change(path, **values):
    """Set keys of a JSON file; None removes one."""
    content = json.loads(path.read_text(encoding="utf-8")) | values
    write_json(path, {key: value for key, value in content.items() if value is not None})


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run")


def test_metadata(run, model):
    """The names that the Hub reads, and values that its client accepts."""
    found, _ = card_of(run, model, model_license="MIT", dataset_name="roneneldan/TinyStories", train_file=None)
    assert (found["language"], found["license"], found["datasets"]) == ("en", "mit", ["roneneldan/TinyStories"])
    assert (found["library_name"], found["pipeline_tag"]) == ("transformers", "text-generation")
    assert {"tinystories", "custom_code"} <= set(found["tags"])
    assert not {"base_model", "base_model_relation", "co2_eq_emissions", "license_name"} & set(found)
    results = {result.metric_type: result.metric_value for result in ModelCardData(**found).eval_results}
    assert results == {"perplexity": 1.649, "bits_per_byte": 0.25}


@pytest.mark.parametrize(
    ("recipe", "data", "languages"),
    [
        ({}, "mit", ["en"]),  # the sample corpus
        ({"dataset_name": "roneneldan/TinyStories"}, "cdla-sharing-1.0", ["en"]),
        ({"train_file": "a.txt", "source_dataset": "roneneldan/TinyStories"}, "cdla-sharing-1.0", ["en"]),
        ({"train_file": "a.txt"}, None, []),
        ({"dataset_name": "somebody/stories"}, None, []),
        ({"train_file": "a.txt", "language": "de, pt-BR", "data_license": "cc0-1.0"}, "cc0-1.0", ["de", "pt-BR"]),
    ],
)
def test_data_that_is_known(recipe, data, languages):
    """A language or a licence that nobody has stated."""
    assert (data_license(recipe), language(recipe)) == (data, languages)


def test_not_stated(run, model):
    """The card says which option states what it does not know."""
    found, text = card_of(run, model, train_file="stories.txt")
    assert "language" not in found and "license" not in found
    assert "not stated: the licence of the weights, the licence of the data, the language." in text
    assert "--resume --model_license mit --data_license cc-by-4.0 --language en" in text
    assert not_stated({"model_license": "mit", "num_sample_stories": 5}) == {}
    _, text = card_of(run, model, train_file="a.txt", language="en", data_license="x", model_license="y")
    assert "not stated" not in text


@pytest.mark.parametrize("stated", ["My own: licence # 1\n---\n", "ÄÖ", "-", "proprietary", "GPL-3.0-or-later"])
def test_licence_of_ones_own(stated, run, model):
    """The Hub refuses a card whose licence it does not know, unless it is called other."""
    found, _ = card_of(run, model, model_license=stated)
    assert found["license"] == "other" and found["license_name"].strip("-.") == found["license_name"] != ""


def test_language_of_a_region(run, model):
    """The Hub refuses a language with capitals: `"language" must only contain lowercase characters`."""
    found, text = card_of(run, model, language="pt-BR, en")
    assert (found["language"], found["language_bcp47"]) == (["pt", "en"], ["pt-BR", "en"]) and "(pt-BR, en)" in text
    found, _ = card_of(run, model, language="zh-Hans,zh-Hant")
    assert (found["language"], found["language_bcp47"]) == ("zh", ["zh-Hans", "zh-Hant"])
    assert "language_bcp47" not in card_of(run, model, language="en,de")[0]


SPLIT = "0.05 of the distinct training stories, split_seed 0"


@pytest.mark.parametrize(
    ("recipe", "source", "type_", "split"),
    [
        ({"dataset_name": "a/b", "dataset_config_name": "c"}, "a/b[test]", "a/b", "test"),
        ({"dataset_name": "a/b", "dataset_config_name": "c"}, SPLIT, "a/b", None),
        ({"train_file": "x.txt", "source_dataset": "a/b"}, SPLIT, "a/b", None),
        ({"train_file": "x.txt", "source_dataset": "a/b", "validation_file": "y.txt"}, "y.txt", "stories", None),
        ({"train_file": "x.txt"}, SPLIT, "stories", None),
        ({"dataset_name": "/data/b"}, "/data/b[validation]", "stories", None),
    ],
)
def test_what_was_scored(run, model, recipe, source, type_, split):
    """A score on the validation split of a data set, where the stories were of its training split or of a file."""
    found, _ = card_of(run, model, data=DATA | {"validation": {"source": source}}, **recipe)
    (result,) = found["model-index"][0]["results"]
    assert (result["dataset"]["type"], result["dataset"].get("split")) == (type_, split)
    assert result["dataset"].get("config") == (recipe.get("dataset_config_name") if type_ == "a/b" else None)
    assert found.get("datasets") == ([type_] if type_ == "a/b" else recipe.get("source_dataset") and ["a/b"])
    assert result["dataset"]["name"] == (
        type_ if split else "stories held out of a/b" if type_ == "a/b" else "held-out stories"
    )


@pytest.mark.parametrize(("folder", "name"), [(".", "model"), ("..", "model"), ("runs/v1.5", "v1.5")])
def test_name_of_the_results(run, model, folder, name):
    """The Hub needs a name in model-index."""
    assert card_of(run, model, output_dir=folder)[0]["model-index"][0]["name"] == name


def test_languages_are_checked(tmp_path):
    """The Hub would refuse the card at the end of the run."""
    for wrong in ("English", "EN", "e", "en;de", ""):
        message = mistake(train.main, ["demo", "--output_dir", str(tmp_path / "run"), "--language", wrong])
        assert "language must be codes of ISO 639" in message and not (tmp_path / "run").exists()


def test_base_model(run, model, tmp_path):
    found, text = card_of(run, model, model_name_or_path="somebody/base")
    assert (found["base_model"], found["base_model_relation"]) == ("somebody/base", "finetune")
    found, text = card_of(run, model, model_name_or_path=str(tmp_path))
    assert "base_model" not in found and f"continues from `{tmp_path.name}`;" in text and str(tmp_path) not in text
    for elsewhere in ("/home/somebody/a\nbase`#", "runs/base", "C:\\runs\\base", "./base"):
        found, text = card_of(run, model, model_name_or_path=elsewhere)
        assert "base_model" not in found and "continues from" in text and "somebody" not in text


def test_paper(run, model):
    """The tag of the paper where the data is another."""
    assert "arxiv.org" not in card_of(run, model)[1]
    _, text = card_of(run, model, train_file="copy.txt", source_dataset="roneneldan/TinyStories")
    assert "[arXiv:2305.07759](https://arxiv.org/abs/2305.07759)" in text


def test_examples(run, model):
    """Examples of the widget are what these weights wrote, and stand on the card."""
    found, text = card_of(run, model)
    assert found["widget"] == [{"text": "One", "output": {"text": " day at step 100."}}]
    found, text = card_of(run, model, evaluation=evaluation())
    assert found["widget"] == [{"text": "One day", "output": {"text": " a fox ran."}}] * 3
    assert text.count("One day a fox ran.") == 3
    found, text = card_of(run, model, samples=[], sample_prompts=["Zoë said"])
    assert found["widget"] == [{"text": "Zoë said"}] and "No sample was recorded" in text


HOSTILE = '---\n: # "x" <script>alert(1)</script>\r\n- a\u2028b\x85c\t{{ 7*7 }} ``` $x$ | \ud83e\udd8a'.encode(
    "utf-16", "surrogatepass"
).decode("utf-16")


def test_hostile_texts(run, model):
    """A sample, a name of a file or of the run that ends the header, makes a tag or a row of a table."""
    data = DATA | {"train": {"source": f"{HOSTILE}.txt"}}
    samples = [{"step": 100, "prompt": HOSTILE[:9], "seed": 1, "text": HOSTILE}]
    found, text = card_of(run, model, samples=samples, data=data, output_dir=f"runs/{HOSTILE}", evaluation=None)
    assert found["widget"][0]["text"] + found["widget"][0]["output"]["text"] == HOSTILE
    assert found["pipeline_tag"] == "text-generation" and "{{ 7*7 }}" in text
    outside = text.split("````text")[0] + text.split("````")[-1]
    assert "script\\>" in outside and "<script>" not in outside
    assert plain("a\nb | `c` [d](e)") == "a b \\| \\`c\\` \\[d\\](e)"
    assert plain("my_own.txt __init__ _x_ ~~y~~ $z$") == "my_own.txt \\_\\_init\\_\\_ \\_x\\_ \\~\\~y\\~\\~ \\$z\\$"


def test_layout(run, model):
    """A heading, a table or a picture needs an empty line before it; two of them, or one within a list, are ugly."""
    for changes in ({}, {"curve": [], "samples": [], "final": None}, {"evaluation": evaluation(rows=[row("a", "a")])}):
        _, text = card_of(run, model, **changes)
        text = re.sub(r"```.*?```", "```", text, flags=re.DOTALL)
        assert "\n\n\n" not in text
        for before, line in pairwise(text.split("\n")):
            assert not line.startswith(("#", "!")) or before == ""
            assert not (line.startswith("|") and before.startswith(("-", "On "))) and not (before and line == "```")
        training = text.split("## Training\n\n")[1].split("\n\n")[0].split("\n")
        assert training[0].startswith("- ") and "trains this model again" in training[-1]


def test_damaged_results(run, model):
    """all_results.json without some of its numbers: neither a traceback nor half a score."""
    change(run / "all_results.json", eval_tokens=None)
    text = card_of(run, model)[1]
    assert "each scored separately" not in text and "perplexity 1.649" in text, (
        "the last evaluation of the training is left"
    )


@pytest.mark.parametrize(
    ("kwh", "text"), [(1.6e-5, "0.016 Wh"), (0.0999, "100 Wh"), (0.1, "0.1 kWh"), (1.23, "1.2 kWh"), (123.4, "120 kWh")]
)
def test_energy(run, model, kwh, text):
    """`1.2e+02 kWh`."""
    found = {"energy_method": "estimated", "energy_counted": {"processor_ms": 93_500}}
    card = card_of(run, model, energy_kwh=kwh, **found)[1]
    assert f"- energy of the training: {text}, estimated (94 processor seconds)\n" in card


def test_code_names_this_folder(run, model):
    """The code of a card is Python, and runs where the card is."""
    _, text = card_of(run, model)
    code = text.split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")
    assert HERE in code and 'model="."' in HERE


def test_picture(run, model):
    """Drawn where there is a curve, small, published, and removed where it is of other evaluations."""
    _, text = card_of(run, model)
    assert "held-out stories: 1 at step 50, 0.5 at step 100" in text and f"]({CURVE})" in text
    assert (run / CURVE).read_bytes().startswith(b"\x89PNG") and (run / CURVE).stat().st_size < 60_000
    assert CURVE in WRITTEN_BY_A_RUN
    _, text = card_of(run, model, curve=read_facts(run).curve[:1])
    assert CURVE not in text and not (run / CURVE).exists()


def test_tables():
    """A limit of 80 tokens is no `stories that end: 0`; a rule without a pair has no row."""
    rows = [
        row("bits_per_byte", "bits per byte", unit="", ceiling=None),
        row("pair_mean_of_rules", "minimal pairs, mean of the rules"),
        row("pair_tense", "minimal pairs: tense"),
        row("pair_agreement", "minimal pairs: agreement", None),
        row("ending", "endings", 0.0),
        row("ended", "stories that end", 0.0, alarm=True),
    ]

    def shown(**settings):
        tables = tables_of(evaluation(rows=rows, **settings))
        return [(table["title"], [line["title"] for line in table["rows"]], table["without"]) for table in tables]

    held_out = ("held-out stories", ["bits per byte"], [])
    pairs = ("minimal pairs: share right", ["mean of the rules", "tense"], ["agreement"])
    assert shown(quick=True, max_new_tokens=80) == shown(max_new_tokens=199) == [held_out, pairs]
    assert shown() == shown(max_new_tokens=200) == [held_out, pairs, ("stories that it writes", ["endings"], [])]
    assert tables_of(None) == []


def test_evaluation_on_the_card(run, model):
    rows = [
        row("perplexity", "perplexity", 2050.4, unit="", ceiling=None),
        row("pair_tense", "minimal pairs: tense", None),
    ]
    _, text = card_of(run, model, evaluation=evaluation(quick=True, rows=rows, max_new_tokens=80))
    assert "| perplexity | 2050 | 2050 [2050, 2050] |" in text and "not measured" not in text
    assert "No pair was found for tense." in text and "run_evaluation.py --quick" in text


def test_emissions():
    """0.5 kWh at 250 g are 125 g; no number where the recipe states no grams, or the energy is not known."""
    facts = CardFacts(
        RECIPE | {"grid_intensity": 250.0}, DATA, 1, energy_kwh=0.5, energy_method="measured", environment=ENVIRONMENT
    )
    found = emissions(facts)
    assert found["emissions"] == 125 and found["training_type"] == "pre-training" and found["hardware_used"] == "a CPU"
    assert found["source"] == "measured; 250 grams of CO2 equivalent for each kWh, as the author states"
    assert metadata_of(facts, []).to_dict()["co2_eq_emissions"] == found
    for change in ({"energy_kwh": None}, {"recipe": RECIPE}):
        assert emissions(CardFacts(**vars(facts) | change)) is None


@pytest.mark.slow
def test_of_a_run(counting_run):
    """The numbers of the card are those of the records beside it."""
    card = ModelCard.load(counting_run / "README.md")
    results = json.loads((counting_run / "all_results.json").read_text(encoding="utf-8"))
    scores = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert scores == {name: round(results[f"eval_{name}"], 4) for name in ("perplexity", "bits_per_byte")}
    samples = [json.loads(line) for line in (counting_run / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    written = [example["text"] + example["output"]["text"] for example in card.data.widget]
    assert written == [sample["text"] for sample in samples if sample["step"] == 100]
    assert (counting_run / CURVE).exists() and "not stated: the licence of the weights" in card.text
