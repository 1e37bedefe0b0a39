"""The contest: its test is right about chance, its rules refuse what does not count, its document is the record's."""

import json
import shutil
from copy import deepcopy
from types import SimpleNamespace

import numpy as np
import pytest

from helpers.run_folder import write_json, write_run
from helpers.runs import ROOT, load_benchmark, mistake


speedrun = load_benchmark("speedrun")
rules, page = (__import__(name) for name in ("speedrun_rules", "speedrun_page"))
judge = __import__("sequential_test")
RECIPES = {name: ROOT / "configs" / "speedrun" / f"{name.lower()}.yaml" for name in rules.TRACKS}
DRAW = np.random.default_rng(2024)
NOTHING_BETTER = {  # differences of two runs of one recipe: whatever the scores are, the differences are symmetric
    "normal": lambda shape: DRAW.normal(size=shape),
    "Cauchy": lambda shape: DRAW.standard_cauchy(size=shape),
    "Student, 2": lambda shape: DRAW.standard_t(2, size=shape),
    "skewed scores": lambda shape: DRAW.exponential(size=shape) ** 3 - DRAW.exponential(size=shape) ** 3,
    "two values": lambda shape: DRAW.choice([-1.0, 1.0], size=shape),
    "many ties": lambda shape: DRAW.choice([-1.0, 0.0, 0.0, 1.0], size=shape),
    "worse": lambda shape: DRAW.normal(-0.5, size=shape),
    "of unequal spread": lambda shape: DRAW.normal(size=shape) * np.geomspace(0.01, 100, shape[1]),
}


@pytest.mark.parametrize("name", NOTHING_BETTER)
def test_false_records(name):
    """At most 5 % with the rule of the contest, and for somebody who goes on for 60 pairs and stops when it suits."""
    contests = NOTHING_BETTER[name]((2000, 60))
    outcomes = [judge.decide(row[: judge.MOST_PAIRS]).outcome for row in contests]
    assert outcomes.count("record") / len(outcomes) <= judge.LEVEL and "open" not in outcomes
    assert np.mean([max(judge.e_values(row)) >= 1 / judge.LEVEL for row in contests]) <= judge.LEVEL


def test_power():
    """A difference of two standard deviations of a seed is found nine times in ten, and a large one almost always."""
    seeds = DRAW.normal(size=(1000, judge.MOST_PAIRS, 2))
    found = {
        better: np.mean([judge.decide(row).outcome == "record" for row in seeds[..., 0] - seeds[..., 1] + better])
        for better in (1, 2, 4)
    }
    assert found[1] < 0.6 and 0.9 < found[2] < 0.97 and found[4] > 0.99


def test_decisions():
    """By hand: equal differences are bets of nine tenths; the pair that decides is the last that counts."""
    assert judge.e_values([1, 1, -1]) == pytest.approx([1.9, 1.9**2, 1.9**2 * 0.1])
    assert judge.e_values([0.3, -0.1]) == pytest.approx([1.9, 1.9 * (1 - 0.1 / np.sqrt(0.05))])
    assert judge.e_values([0, 0]) == [1, 1], "equal scores decide nothing"
    four, five = judge.decide([0.02] * 4), judge.decide([0.02] * 5 + [-9])
    assert (four.outcome, four.pairs) == ("open", 4)
    assert (five.outcome, five.pairs, five.p_value) == ("record", 5, pytest.approx(1 / 1.9**5))
    assert judge.decide([]) == judge.Decision("open", 0, 1.0, 1.0)
    assert judge.decide([0.02] * 4, most_pairs=4).outcome == "no record"
    assert judge.decide([-0.02] * 9).pairs == 2, "0.01 x 1.9^10 is less than 20"
    assert judge.decide([-0.02]).outcome == "open", "0.1 x 1.9^11 is more"
    with pytest.raises(ValueError, match="pair 2 is nan"):
        judge.decide([0.1, float("nan")])


@pytest.mark.parametrize("name", rules.TRACKS)
def test_first_recipes(name):
    """They are allowed, and spend all of the budget: one more step would be too much."""
    keys = rules.read_keys(RECIPES[name])
    rules.refuse_budget(keys, rules.TRACKS[name], name)
    assert not {"seed", "output_dir"} & keys.keys()
    if not any(entry["track"] == name for entry in speedrun.read_record(speedrun.RECORD)["records"]):
        assert keys["max_steps"] == rules.fitting_steps(keys, rules.TRACKS[name])
    keys["max_steps"] = rules.fitting_steps(keys, rules.TRACKS[name]) + 1
    assert "the budget of" in mistake(rules.refuse_budget, keys, rules.TRACKS[name], name)


def test_flops_of_step():
    """Of tinystories-cpu by hand: 5,865,472 weights in matrices, 6 layers of width 256, 16 rows of 512 tokens."""
    keys = rules.read_keys(RECIPES["XS"])
    assert rules.flops_of_step(keys) == 16 * 512 * 6 * (5_865_472 + 6 * 256 * 512)


@pytest.mark.parametrize(
    "line", ["skip_guards: true", "num_sample_stories: 50", "model_name_or_path: somebody/a", "num_train_epochs: 4"]
)
def test_refused_keys(line, tmp_path):
    path = tmp_path / "candidate.yaml"
    path.write_text(RECIPES["XS"].read_text(encoding="utf-8") + line + "\n", encoding="utf-8")
    assert f"{line.split(':')[0]} is not allowed" in mistake(rules.read_keys, path)


def test_seeds_cannot_be_picked(tmp_path):
    """A seed in the recipe changes nothing; another recipe, opponent, side or pair has another seed."""
    path = tmp_path / "candidate.yaml"
    path.write_text(RECIPES["XS"].read_text(encoding="utf-8").replace("seed: 42", "seed: 7"), encoding="utf-8")
    keys = rules.read_keys(RECIPES["XS"])
    assert rules.read_keys(path) == keys
    other = keys | {"learning_rate": 1e-3}
    parts = [("XS", {"candidate": a, "record": b}, side, pair) for a, b in ((keys, other), (other, keys))
             for side in ("candidate", "record") for pair in (0, 1)]  # fmt: skip
    seeds = {rules.seed_of(*each) for each in parts}
    assert len(seeds) == 8 and seeds == {rules.seed_of(*deepcopy(each)) for each in parts}
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_other_data(tmp_path):
    path = tmp_path / "train.txt"
    path.write_text("A story.\n<|endoftext|>\n", encoding="utf-8")
    assert "is not the track's" in mistake(rules.refuse_data, {"train_file": path})
    assert "there is no file" in mistake(rules.refuse_data, {"train_file": tmp_path / "none.txt"})


CODE = ("c" * 40, False)
FINISHED = {"eval_bits_per_byte": 0.7, "training_flops": 10**14, **rules.SCORED}


@pytest.fixture
def finished(tmp_path):
    """A function: changes of results, environment, recipe and commit -> a finished run."""

    def make(results=None, environment=None, recipe=None, commit=CODE):
        folder = write_run(tmp_path / "run")
        for name, changes in (("all_results", FINISHED | (results or {})), ("environment", environment or {}),
                              ("recipe", {"skip_guards": False} | (recipe or {}))):  # fmt: skip
            content = json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) | changes
            write_json(folder / f"{name}.json", {key: value for key, value in content.items() if value is not None})
        write_json(folder / "provenance.jsonl", dict(zip(("commit", "uncommitted_changes"), commit, strict=True)))
        return folder

    return make


def test_honest_run_counts(finished):
    rules.refuse_run(finished(), rules.TRACKS["XS"], CODE)


def test_edges_of_a_track(finished):
    """The last FLOP and the last parameter are allowed."""
    folder = finished({"training_flops": int(4.2e14)}, {"parameters": 1_050_000})
    rules.refuse_run(folder, rules.TRACKS["1M"], CODE)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"results": {"training_flops": int(1.05e14) + 1}}, "it spent"),
        ({"results": {"training_flops": None}}, "training_flops are not known"),
        ({"results": {"eval_bits_per_byte": float("nan")}}, "its score is"),
        ({"results": {"eval_stories": 6455}}, "eval_stories is 6455, not 6456"),
        ({"results": {"eval_bytes": 5_000_000}}, "eval_bytes is"),
        ({"recipe": {"skip_guards": True}}, "without guards"),
        ({"recipe": {"skip_guards": None}}, "without guards"),
        ({"commit": ("d" * 40, False)}, "other code"),
        ({"commit": ("c" * 40, True)}, "other code"),
    ],
)
def test_refused_runs(changes, reason, finished):
    assert reason in mistake(rules.refuse_run, finished(**changes), rules.TRACKS["XS"], CODE)


def test_too_many_parameters(finished):
    folder = finished(environment={"parameters": 1_050_001})
    assert "the track allows 1050000" in mistake(rules.refuse_run, folder, rules.TRACKS["1M"], CODE)


def test_run_without_provenance(finished):
    folder = finished()
    (folder / "provenance.jsonl").unlink()
    assert "other code" in mistake(rules.refuse_run, folder, rules.TRACKS["XS"], CODE)


def entry_of(track, scores, **changes):
    runs = [
        {"seed": seed, "bits_per_byte": score, "training_flops": 10**14, "tokens": 1000, "curve": [[500, score + 0.1]]}
        for seed, score in enumerate(scores)
    ]
    made = {"date": "2026-05-04T00:00:00+00:00", "commit": "c" * 40, "uncommitted_changes": False}
    recipe = {"learning_rate": 0.003}
    entry = {"track": track, "kind": "first", "recipe": recipe, "changed": {}, "runs": runs, "provenance": made}
    return entry | changes


def record_of():
    better = entry_of("XS", [0.70, 0.71], kind="sequential test", p_value=0.0404,
                      changed={"learning_rate": [0.003, 0.001], "optimizer": [None, "muon"]})  # fmt: skip
    search = {
        "track": "XS",
        "runs": {
            "base": [{"seed": seed, "bits_per_byte": score} for seed, score in ((1, 0.80), (2, 0.82))],
            "better": [{"seed": seed, "bits_per_byte": score} for seed, score in ((1, 0.70), (2, 0.72))],
            "unclear": [{"seed": seed, "bits_per_byte": score} for seed, score in ((1, 0.70), (2, 0.88))],
            "worse": [{"seed": seed, "bits_per_byte": score} for seed, score in ((1, 0.90), (2, 0.93))],
            "one seed": [{"seed": 2, "bits_per_byte": 0.83}],
            "failed": [],
        },
        "failed": ["XS-search-failed-1"],
    }
    attempt = better | {"outcome": "no record", "against": better["runs"], "p_value": 0.5}
    audit = {"contests": 40, "records": 1, "pool": 96, "redrawn": 4000, "redrawn_share": 0.03, "deviation": 0.004}
    records = [entry_of("XS", [0.80, 0.81, 0.82]), better, entry_of("S", [0.65], kind="single run", spread=0.004)]
    return {"records": records, "attempts": [attempt], "search": [search], "audit": audit}


def test_results():
    """Scores with their spread, what changed, what did not help against which arm, and the audit."""
    text = page.results(record_of())
    assert "| XS | 1.05e+14 | 0.7050 ± 0.0071 | 0, 1 | 1e+14 | 0.040 | sequential test | 0.10 below the first |" in text
    assert "| S | 4.2e+14 | 0.6500 ± 0.0040 | 0 | 1e+14 | none | single run | 0.66 |" in text
    assert "| M | 1.7e+15 | none yet |" in text and "at most" in text
    assert "`learning_rate` 0.003 → 0.001, `optimizer` default → muon" in text
    assert "| worse | XS | base | 0.9150 | +0.1050 ± 0.0050 | 2 |" in text
    assert "| one seed | XS | base | 0.8300 | +0.0100 | 1 |" in text and "| unclear | XS |" in text
    assert "| better |" not in text and "| failed |" not in text
    assert "ended with 1 records: 2.5%" in text


def test_claims():
    """They are in the form that benchmarks/README.md is made of: the ratio within its spread."""
    claims = page.claims(record_of())
    goals = {goal["goal"]: goal for goal in claims["goals"]}
    below = goals["track XS: bits per byte below the first record"]
    assert [below[key] for key in ("at_least", "low", "ratio", "high")] == pytest.approx([0.10, 0.10, 0.105, 0.11])
    assert goals["track S: bits per byte"] == {"goal": "track S: bits per byte", "at_most": 0.66, "ratio": 0.65}
    assert [line["tried"] for line in claims["did_not_help"]] == ["unclear", "one seed", "worse"]


def test_search_table():
    lines = speedrun.search_table(record_of()["search"][0]).splitlines()
    assert [line.split()[-3] for line in lines[1:3]] == ["better", "unclear"] and lines[0].endswith("base")
    assert lines[-1] == "failed: XS-search-failed-1"


def test_arms():
    """null takes a key out; the steps fit the budget of the changed model, unless the arm gives them."""
    base, track = rules.read_keys(RECIPES["XS"]), rules.TRACKS["XS"]
    narrow = speedrun.arm_of(base, {"hidden_size": 128, "max_grad_norm": None}, track, "narrow")
    assert narrow["max_steps"] > 2 * base["max_steps"] and "max_grad_norm" not in narrow
    assert speedrun.arm_of(base, {"max_steps": 9}, track, "short")["max_steps"] == 9
    assert "budget" in mistake(speedrun.arm_of, base, {"max_steps": 10**6}, track, "long")
    assert "skip_guards is not allowed" in mistake(speedrun.arm_of, base, {"skip_guards": True}, track, "blind")


def test_audit_counts():
    """The referee that decides contests judges the pool; where seeds alone differ, records are rare."""
    pool = list(np.random.default_rng(5).normal(1.5, 0.01, size=speedrun.POOL))
    found = speedrun.audited(pool)
    assert found == speedrun.audited(pool) and found["pool"] == speedrun.POOL
    assert found["contests"] == 40 and found["redrawn_share"] <= 0.05
    split = [*[0.1, 0.0] * (speedrun.POOL // 2)]
    assert speedrun.audited(split)["records"] < 40, "a score of two values is judged as well"


def test_one_chance(tmp_path):
    """A candidate that was judged against this record is not judged again, nor is the record's own recipe."""
    keys = {"learning_rate": 0.001}
    record = record_of() | {"provenance": {}}
    record["attempts"] = [{"recipe": keys, "against_recipe": record["records"][1]["recipe"]}]
    write_json(tmp_path / "speedrun.json", record)
    given = SimpleNamespace(work_dir=tmp_path, jobs=1, most_pairs=12, train_file=None, validation_file=None)
    contest = speedrun.Contest(given, tmp_path / "speedrun.json")
    contest.files = dict  # the texts are not at hand, and no run is trained
    assert "judged before" in mistake(contest.compete, "XS", keys)
    assert "is the record's recipe" in mistake(contest.compete, "XS", record["records"][1]["recipe"])
    assert "no record yet" in mistake(contest.compete, "1M", keys)
    assert "has a record" in mistake(contest.enter_first, "XS", keys)
    assert contest.spread() == pytest.approx(0.01)


def test_single_run():
    """Three standard deviations are not enough, a little more is."""
    assert [speedrun.outcome_of_one(better, 0.25) for better in (-1, 0.1, 0.75, 0.76)] == ["no record"] * 3 + ["record"]


def test_document(tmp_path):
    """docs/speedrun.md is what the record says; writing it again changes nothing; a figure is drawn."""
    document = (ROOT / "docs" / "speedrun.md").read_text(encoding="utf-8")
    assert page.with_results(document, speedrun.read_record(speedrun.RECORD)) == document
    shutil.copyfile(ROOT / "docs" / "speedrun.md", tmp_path / "speedrun.md")
    page.render(record_of(), tmp_path / "speedrun.md", tmp_path / "speedrun.svg")
    first = (tmp_path / "speedrun.md").read_text(encoding="utf-8")
    page.render(record_of(), tmp_path / "speedrun.md", tmp_path / "speedrun.svg")
    assert (tmp_path / "speedrun.md").read_text(encoding="utf-8") == first != document
    assert (tmp_path / "speedrun.svg").read_text(encoding="utf-8").count("<svg") == 1
