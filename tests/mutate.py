"""Mutation testing: are small mistakes in the code that makes the numbers found by the guards, and by the tests?

    python tests/mutate.py                                      every mistake of six modules: many hours
    python tests/mutate.py --sample 20 --record after --output docs/results/mutation.json
    python tests/mutate.py tinystories/data/packing.py --by tests --sample 10

Each mutant is written into a copy of the tree and judged twice. By guards: two small runs (evaluation, best checkpoint,
accumulation, stories longer than the context; then Muon, aligned and isolated stories) and `check_run.py`, as users
start them, must end in an error. By tests: those of the mutated module. A mutant that neither stops is a survivor:
a test is missing, or the mutant is equivalent to the original and belongs into `equivalent_mutants.toml`, by hand.

Neither mutmut 3.8 nor cosmic-ray 8.7 fits: mutmut leaves out decorated functions and module level, and its mutants
need mutmut where they run, but our model file is copied into checkpoints; cosmic-ray changes the working tree in place;
both have one test command for all modules. All processes are forked from one server (helpers/forked.py), for speed.

Results are appended to `--progress` one by one: the same command continues after an interruption, a larger sample
contains a smaller one, and `--by none` only reports. With --output they are also written as a record by module, beside
those that the file has under other names.
"""

import argparse
import hashlib
import importlib.metadata
import json
import os
import platform
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from datetime import date
from itertools import zip_longest
from pathlib import Path
from typing import Any

from tqdm import tqdm

from helpers import forked
from helpers.mutants import Mutant, mutants, sample


ROOT = Path(__file__).resolve().parent.parent
EQUIVALENT = ROOT / "tests" / "equivalent_mutants.toml"
TRAINER = ["tests/training/test_trainer_contract.py", "tests/training/test_throughput.py"]
TESTS = {  # of each module, the fastest first: those that can fail because of it, without the tests of the guards
    "modeling_tinystories.py": ["tests/test_modeling.py", "tests/checkpoint/test_loading.py"],
    "tinystories/data/packing.py": ["tests/data/test_packing.py"],
    "tinystories/evaluation/scoring.py": [
        "tests/evaluation/test_likelihood.py",
        "tests/data/test_packing.py",
        "tests/training/test_throughput.py::test_articles_are_whole_words",
        "tests/training/test_throughput.py::test_loss_of_articles_and_gap",
    ],
    "tinystories/training/trainer.py": [*TRAINER, "tests/commands/test_train.py", "tests/checkpoint/test_hub.py"],
    "tinystories/training/optimizers.py": ["tests/training/test_optimizers.py"],
    "tinystories/training/checkpointing.py": [
        TRAINER[0],
        "tests/training/test_resume.py",
        "tests/commands/test_train.py::test_resume",
        "tests/commands/test_train.py::test_lost_best_checkpoint",
    ],
}
TOO_SLOW = "tests/training/test_resume.py::test_resume_after_every_kind_of_stop"  # minutes
SURVIVED = "survived"
PROCESSOR_SECONDS, SECONDS = 200, 1200  # a process that takes more hangs: several times what the unchanged tree takes
MEMORY = 12 * 2**30
LIMIT = f"import resource\nresource.setrlimit(resource.RLIMIT_CPU, ({PROCESSOR_SECONDS}, {PROCESSOR_SECONDS}))\n"
RUN = {
    "vocab_size": 320,
    "min_frequency": 2,
    "block_size": 64,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "learning_rate": 1e-2,
    "warmup_steps": 5,
    "lr_scheduler_type": "linear",
    "logging_steps": 5,
    "max_steps": 40,
    "eval_strategy": "steps",
    "eval_steps": 20,
    "save_steps": 20,
    "load_best_model_at_end": True,
    "metric_for_best_model": "loss",
    "bf16": False,
    "disable_tqdm": True,
}
SECOND_RUN = ["--optimizer", "muon", "--align_to_stories", "--isolate_stories"]
NO_FIGURES = """
import matplotlib.figure
matplotlib.figure.Figure.savefig = lambda self, file, **_: file.write_text("<svg></svg>")  # half of the time of a run
"""
PYTEST = """
import sys, types
sys.modules["__main__"] = types.ModuleType("__main__")  # what the tests fork does not import this file
for name in [name for name in sys.modules if name.split(".")[0] in ("helpers", "__mp_main__")]:
    del sys.modules[name]  # the helpers of the tree that is tested follow
from multiprocessing import forkserver
forkserver._forkserver._forkserver_address = {server!r}  # the tests fork from it too, not from their own
forkserver._forkserver.ensure_running = lambda: None
import pytest
class SlowLast:
    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items):
        items.sort(key=lambda item: item.get_closest_marker("slow") is not None)
sys.argv[0] = "pytest"
sys.exit(pytest.main({arguments!r}, plugins=[SlowLast()]))
"""


class Judges:
    """A copy of `tree` and the two ways to judge it with one file mutated."""

    def __init__(self, tree: Path, folder: Path):
        self.original, self.folder, self.copy = tree, folder, folder / "tree"
        listed = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard"], cwd=tree, capture_output=True, text=True, check=True
        )
        for name in filter(lambda name: (tree / name).is_file(), listed.stdout.splitlines()):
            (self.copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(tree / name, self.copy / name)
        self.corpus = write_mixed_corpus(folder / "stories.txt")

    def judge(self, file: str, source: str, by: tuple[str, ...]) -> dict[str, str]:
        """{judge: why the tree with `source` in `file` was stopped, or `SURVIVED`}."""
        (self.copy / file).write_text(source, encoding="utf-8")
        try:
            return {judge: {"guards": self.by_guards, "tests": self.by_tests}[judge](file) for judge in by}
        finally:
            shutil.copy(self.original / file, self.copy / file)

    def by_guards(self, file: str) -> str:
        work = Path(tempfile.mkdtemp(dir=self.folder))
        settings = RUN | {"train_file": self.corpus, "data_cache_dir": work / "cache"}
        words = [str(word) for key, value in settings.items() for word in (f"--{key}", value)]
        commands = [
            ["run_clm.py", *words, "--output_dir", work / "first"],
            ["run_clm.py", *words, "--output_dir", work / "second", *SECOND_RUN],
            ["check_run.py", work / "first"],
            ["check_run.py", work / "second"],
        ]
        try:
            for command in commands:
                process = forked.fork_command(
                    *command, tree=self.copy, cwd=work, code=LIMIT + NO_FIGURES, timeout=SECONDS
                )
                if process.returncode != 0:
                    return _why_stopped(process, command[0])
            return SURVIVED
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def by_tests(self, file: str) -> str:
        base = Path(tempfile.mkdtemp(dir=self.folder))
        options = [
            "-x",
            "-q",
            "-p",
            "no:cacheprovider",
            f"--rootdir={self.copy}",
            f"--basetemp={base}",
            f"--deselect={TOO_SLOW}",
        ]
        tests = [name for name in TESTS[file] if (self.copy / name.split("::")[0]).exists()]
        code = LIMIT + PYTEST.format(server=_server_address(), arguments=[*options, *tests])
        process = forked.fork_command("pytest", code=code, tree=self.copy, cwd=self.copy, timeout=SECONDS)
        shutil.rmtree(base, ignore_errors=True)
        if process.returncode == 0:
            return SURVIVED
        if process.returncode is None or process.returncode < 0:
            return _why_stopped(process, "pytest")
        failed = re.search(r"^(?:FAILED|ERROR) (\S+)", process.stdout, re.MULTILINE)
        return f"test: {failed[1]}" if failed else f"crash: {_last_line(process.stdout + process.stderr)}"


def _why_stopped(process: subprocess.CompletedProcess, script: str) -> str:
    errors = [line for line in process.stderr.splitlines() if line.startswith("error: ")]
    if process.returncode in (-signal.SIGKILL, -signal.SIGXCPU):
        return f"timeout: {script}"
    if "Traceback" in process.stderr or process.returncode < 0:
        return f"crash: {_last_line(process.stderr)}"
    if errors:
        return f"{'guard' if process.returncode == 2 else 'error'}: {errors[-1].removeprefix('error: ')}"
    verdict = re.search(r"^verdict: (.*)$", process.stdout, re.MULTILINE)
    return f"check_run: {verdict[1] if verdict else _last_line(process.stdout)}"


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no output"])[-1][:300]


def _server_address() -> str:
    """Of the fork server, which the first command has started."""
    from multiprocessing import forkserver

    if forkserver._forkserver._forkserver_address is None:
        forked.fork_command("run_clm.py", "--help")
    return forkserver._forkserver._forkserver_address


def write_mixed_corpus(path: Path) -> Path:
    """Stories with one continuation after "one", of different lengths; some are longer than the context of `RUN`."""
    chance, counting = random.Random(0), "one two three four five six seven eight nine ten."
    stories = [f"Story {i}. {' '.join([counting] * chance.choice([1, 1, 1, 2, 3, 6]))}" for i in range(300)]
    path.write_text("\n".join(f"{story}\n<|endoftext|>" for story in stories) + "\n", encoding="utf-8")
    return path


def equivalents(path: Path = EQUIVALENT) -> dict[tuple[str, str, str], str]:
    """{(file, line, change): why the mutant does the same as the original}."""
    entries = tomllib.loads(path.read_text(encoding="utf-8")).get("equivalent", [])
    return {(entry["file"], entry["line"], entry["change"]): entry["reason"] for entry in entries}


def summary(results: list[dict[str, Any]]) -> dict[str, Any]:
    """The scores of one module: [stopped, judged] by each judge, and by either of those judged by both.

    The equivalents do not count.
    """
    known = equivalents()
    counted = [result for result in results if (result["file"], result["text"], result["change"]) not in known]
    judged = {judge: [result for result in counted if judge in result] for judge in ("guards", "tests")}
    killed = {judge: [sum(one[judge] != SURVIVED for one in ones), len(ones)] for judge, ones in judged.items()}
    both = [result for result in judged["guards"] if "tests" in result]
    killed["either"] = [sum((one["guards"], one["tests"]) != (SURVIVED, SURVIVED) for one in both), len(both)]
    crashes = sum(result["guards"].startswith("crash") for result in judged["guards"])
    return {"mutants": len(results), "equivalent": len(results) - len(counted), "crashes": crashes, "killed": killed}


def table(records: dict[str, dict[str, Any]]) -> str:
    """records: {name ("before"): {module: {"results"}}}."""
    heads = ["module", "record", "mutants", "equivalent", "by guards", "of them crashes", "by tests", "by either"]
    lines = [heads, ["---"] * len(heads)]
    for name, modules in records.items():
        for module, record in modules.items():
            scores = summary(record["results"])
            guards, tests, either = (
                f"{100 * stopped / judged:.0f} % of {judged}" if judged else "-"
                for stopped, judged in (scores["killed"][by] for by in ("guards", "tests", "either"))
            )
            cells = [f"`{module}`", name, scores["mutants"], scores["equivalent"], guards, scores["crashes"]]
            lines.append([str(cell) for cell in [*cells, tests, either]])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def survivors(results: list[dict[str, Any]]) -> list[str]:
    known = equivalents()
    return [
        f"{result['file']}:{result['line']}: {result['change']}{_unseen(result)}\n    {result['text']}"
        for result in results
        if (result["file"], result["text"], result["change"]) not in known
        and all(result.get(judge, SURVIVED) == SURVIVED for judge in ("guards", "tests"))
    ]


def _unseen(result: dict[str, Any]) -> str:
    missing = [judge for judge in ("guards", "tests") if judge not in result]
    return f" (not judged by {' and '.join(missing)})" if missing else ""


def provenance(tree: Path, options: argparse.Namespace) -> dict[str, Any]:
    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=tree, capture_output=True, text=True, check=True).stdout.strip()

    cpuinfo = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.*)$", cpuinfo.read_text() if cpuinfo.exists() else "", re.MULTILINE)
    return {
        "commit": git("rev-parse", "--short", "HEAD") + ("+changes" if git("status", "--porcelain") else ""),
        "date": date.today().isoformat(),
        "command": f"python tests/mutate.py --sample {options.sample} --seed {options.seed}",
        "sample": options.sample,
        "seed": options.seed,
        "machine": f"{names[0] if names else platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers", "pytest")},
    }


def judge_all(chosen: list[Mutant], tree: Path, by: tuple[str, ...], progress: Path) -> list[dict[str, Any]]:
    """The results of `chosen`, with those of earlier calls, by whichever judge."""
    content, done = _content(tree), {}
    for line in progress.read_text(encoding="utf-8").splitlines() if progress.exists() else []:
        result = json.loads(line)
        if result["tree"] == content:
            done[result["key"]] = done.get(result["key"], {}) | result
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder, progress.open("a", encoding="utf-8") as file:
        judges = Judges(tree, Path(folder))
        bar = tqdm(chosen, desc="mutants", unit="mutant")
        for mutant in bar:
            bar.set_postfix_str(f"{Path(mutant.file).name}:{mutant.line}")
            known = done.get(mutant.key, {})
            if missing := tuple(judge for judge in by if judge not in known):
                verdicts = judges.judge(mutant.file, mutant.source, missing)
                shown = {name: getattr(mutant, name) for name in ("file", "line", "text", "change", "key")}
                done[mutant.key] = known | shown | verdicts | {"tree": content}
                file.write(json.dumps(done[mutant.key], ensure_ascii=False) + "\n")
                file.flush()
    return [done[mutant.key] for mutant in chosen if mutant.key in done]


def _content(tree: Path) -> str:
    """Changes with every file that can change a verdict."""
    parts = hashlib.sha256()
    for path in sorted([*tree.glob("*.py"), *tree.glob("tinystories/**/*.py"), *tree.glob("tests/**/*.py")]):
        parts.update(path.relative_to(tree).as_posix().encode() + path.read_bytes())
    return parts.hexdigest()[:16]


def check_unmutated(tree: Path, modules: list[str], by: tuple[str, ...]) -> None:
    """A tree that is stopped as it is cannot be judged."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        judges = Judges(tree, Path(folder))
        for number, module in enumerate(modules):
            asked = by if number == 0 else tuple(judge for judge in by if judge == "tests")
            start, found = time.monotonic(), judges.judge(module, (tree / module).read_text(encoding="utf-8"), asked)
            print(f"{module} unchanged: {found}, {time.monotonic() - start:.0f} s", file=sys.stderr)
            if set(found.values()) - {SURVIVED}:
                raise SystemExit(f"error: without any mutant: {found}")


def write_record(
    path: Path, name: str, results: list[dict[str, Any]], facts: dict[str, Any], origin: dict[str, Any]
) -> dict[str, Any]:
    """Add or replace the modules of `results` under `name`; the scores of all are computed again.

    facts: of the tree that was mutated. origin: of this call, which wrote the file last.
    """
    records = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    records.pop("provenance", None)
    for module in dict.fromkeys(result["file"] for result in results):
        of_module = [
            {k: v for k, v in one.items() if k not in ("tree", "key")} for one in results if one["file"] == module
        ]
        records.setdefault(name, {})[module] = {"provenance": facts, "results": of_module}
    for modules in records.values():
        for record in modules.values():
            record["scores"] = summary(record["results"])
    whole = {"provenance": origin} | records
    path.write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")
    return records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=f"default: {', '.join(TESTS)}")
    parser.add_argument("--sample", type=int, help="mutants of each module (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--by", choices=["guards", "tests", "both", "none"], default="both")
    parser.add_argument("--tree", type=Path, default=ROOT, help="the checkout that is mutated, with its own tests")
    parser.add_argument("--record", default="now", help='name in the output file, such as "before"')
    parser.add_argument("--output", type=Path, help="JSON file that the record is added to")
    parser.add_argument("--progress", type=Path, default=Path(tempfile.gettempdir(), "mutants.jsonl"))
    parser.add_argument("--skip_check", action="store_true", help="do not judge the unchanged tree first")
    options = parser.parse_args()
    # Not at the top: processes that are forked for a mutant import this file, and must not import the project with it.
    from tinystories.provenance import Stopwatch
    from tinystories.provenance import provenance as provenance_of_this_call

    began = Stopwatch()
    tree, modules = options.tree.resolve(), options.modules or list(TESTS)
    by = {"both": ("guards", "tests"), "none": ()}.get(options.by, (options.by,))
    for module in modules:
        if module not in TESTS:
            parser.error(f"no tests are listed for {module}: one of {', '.join(TESTS)}")
    if not options.skip_check:
        check_unmutated(tree, modules, by)
    sources = {module: (tree / module).read_text(encoding="utf-8") for module in modules}
    drawn = [sample(mutants(source, name), options.sample, options.seed) for name, source in sources.items()]
    chosen = [
        one for row in zip_longest(*drawn) for one in row if one is not None
    ]  # whenever stopped, all have a share
    results = judge_all(chosen, tree, by, options.progress)
    results.sort(key=lambda result: (modules.index(result["file"]), result["line"]))
    records = {options.record: {name: {"results": [one for one in results if one["file"] == name]} for name in modules}}
    if options.output:
        origin = provenance_of_this_call(began, options.seed, {})
        records = write_record(options.output, options.record, results, provenance(tree, options), origin)
    print("\n".join(["survivors:", *survivors(results), "", table(records)]))


if __name__ == "__main__":
    import resource

    resource.setrlimit(
        resource.RLIMIT_AS, (MEMORY, MEMORY)
    )  # of each process: an endless loop must not fill the machine
    os.environ |= {"PYTHONDONTWRITEBYTECODE": "1"}  # a mutant of the same second and size would be read from the cache
    forked.LIBRARIES += ["pytest", "hypothesis", "_pytest.assertion.rewrite"]
    main()
