"""docs/speedrun.md and its figure from docs/results/speedrun.json; what that record claims in benchmarks/README.md."""

import json
import re
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from speedrun_rules import TRACKS


ROOT = Path(__file__).parent.parent
DOCUMENT = ROOT / "docs" / "speedrun.md"
FIGURE = ROOT / "docs" / "figures" / "speedrun.svg"
BLOCK = re.compile(r"(<!-- speedrun: results -->\n).*?(<!-- speedrun: end -->)", re.DOTALL)
CLEAR = 2  # standard errors by which an arm of a search must be better to have helped
Rows = list[list[str]]


def render(record: dict[str, Any], document: Path = DOCUMENT, figure: Path = FIGURE) -> None:
    """Write the results into the document, and the curves of the records into the figure, if there are any."""
    document.write_text(with_results(document.read_text(encoding="utf-8"), record), encoding="utf-8", newline="\n")
    if record["records"]:
        draw(record, figure)


def with_results(document: str, record: dict[str, Any]) -> str:
    return BLOCK.sub(lambda found: f"{found[1]}\n{results(record)}\n\n{found[2]}", document)


def results(record: dict[str, Any]) -> str:
    parts = [
        "## Records\n",
        table(["track", "FLOPs, at most", "bits per byte", "seeds", "FLOPs", "p-value", "how", "goal"], tracks(record)),
    ]
    if record["records"]:
        parts.append("\n![Bits per byte of the records against training FLOPs](figures/speedrun.svg)")
    parts += ["\n## History\n", table(["track", "date", "commit", "bits per byte", "what changed"], history(record))]
    if record["attempts"]:
        columns = ["track", "date", "bits per byte", "record", "pairs", "p-value", "what was changed"]
        parts += ["\n## Candidates that are no record\n", table(columns, attempts(record))]
    rows = [
        [entry["tried"], entry["track"], entry["against"], *numbers_of(entry), str(entry["seeds"])]
        for entry in did_not_help(record)
    ]
    columns = ["tried", "track", "against", "bits per byte", "difference", "seeds"]
    parts += ["\n## What did not help\n", table(columns, rows), "\n## The referee, tested\n", audit(record)]
    return "\n".join(parts)


def table(columns: list[str], rows: Rows) -> str:
    if not rows:
        return "None yet."
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def scores(entry: dict[str, Any]) -> list[float]:
    return [run["bits_per_byte"] for run in entry["runs"]]


def score(entry: dict[str, Any]) -> str:
    """The mean, and the standard deviation of a seed: of these runs, or of a smaller track for a single run."""
    found = scores(entry)
    spread = stdev(found) if len(found) > 1 else entry.get("spread")
    return f"{mean(found):.4f}" + (f" ± {spread:.4f}" if spread is not None else "")


def p_value(entry: dict[str, Any]) -> str:
    return f"{entry['p_value']:.3f}" if "p_value" in entry else "none"


def of_track(record: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [entry for entry in record["records"] if entry["track"] == name]


def tracks(record: dict[str, Any]) -> Rows:
    rows = []
    for name, track in TRACKS.items():
        entries, limit = of_track(record, name), f"{track.flops:.3g}"
        if track.parameters:
            limit += f", {track.parameters:,} parameters"
        goal = f"{track.goal:.2f}" if track.goal else f"{track.below_first:.2f} below the first"
        if entries:
            last = entries[-1]
            seeds = ", ".join(str(run["seed"]) for run in last["runs"])
            spent = f"{max(run['training_flops'] for run in last['runs']):.4g}"
            rows.append([name, limit, score(last), seeds, spent, p_value(last), last["kind"], goal])
        else:
            rows.append([name, limit, *["none yet"] * 5, goal])
    return rows


def changes(entry: dict[str, Any]) -> str:
    words = [f"`{key}` {shown(old)} → {shown(new)}" for key, (old, new) in entry["changed"].items()]
    return ", ".join(words) or "the first"


def shown(value: Any) -> str:
    return "default" if value is None else json.dumps(value, ensure_ascii=False).replace('"', "")


def history(record: dict[str, Any]) -> Rows:
    entries = [entry for name in TRACKS for entry in of_track(record, name)]
    return [[entry["track"], *origin(entry), score(entry), changes(entry)] for entry in entries]


def origin(entry: dict[str, Any]) -> list[str]:
    made = entry["provenance"]
    edited = ", with uncommitted changes" if made["uncommitted_changes"] else ""
    return [made["date"][:10], f"{(made['commit'] or 'unknown')[:7]}{edited}"]


def attempts(record: dict[str, Any]) -> Rows:
    return [
        [
            entry["track"],
            origin(entry)[0],
            score(entry),
            f"{mean(run['bits_per_byte'] for run in entry['against']):.4f}" if "against" in entry else "",
            str(len(entry["runs"])),
            p_value(entry),
            changes(entry),
        ]
        for entry in record["attempts"]
    ]


def compared(entry: dict[str, Any]) -> list[dict[str, Any]]:
    """The arms of a search with the first one, on the seeds that both have; the best first.

    difference: mean of arm - first arm, in bits per byte. error: its standard error; None of one seed.
    """
    (first, runs), *others = entry["runs"].items()
    base = {run["seed"]: run["bits_per_byte"] for run in runs}
    found = []
    for arm, arm_runs in others:
        both = [run for run in arm_runs if run["seed"] in base]
        apart = [run["bits_per_byte"] - base[run["seed"]] for run in both]
        if apart:
            found.append(
                {
                    "tried": arm,
                    "track": entry["track"],
                    "against": first,
                    "bpb": mean(run["bits_per_byte"] for run in both),
                    "difference": mean(apart),
                    "error": stdev(apart) / len(apart) ** 0.5 if len(apart) > 1 else None,
                    "seeds": len(apart),
                }
            )
    return sorted(found, key=lambda arm: arm["difference"])


def did_not_help(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The arms of all searches that were not clearly better than the first arm there; with their result in words.

    The error of one seed is that of a difference of two runs of track XS.
    """
    arms = [arm for entry in record["search"] for arm in compared(entry)]
    one_seed = 2**0.5 * (spread_of(record) or 0)
    unclear = [arm for arm in arms if arm["difference"] > -CLEAR * (one_seed if arm["error"] is None else arm["error"])]
    return [arm | {"result": "{} bits per byte, {}".format(*numbers_of(arm))} for arm in unclear]


def spread_of(record: dict[str, Any]) -> float | None:
    """Standard deviation of a seed on track XS: of its record with the most seeds; None if none has several."""
    several = [scores(entry) for entry in record["records"] if entry["track"] == "XS"]
    several = [found for found in several if len(found) > 1]
    return stdev(max(several, key=len)) if several else None


def numbers_of(arm: dict[str, Any]) -> list[str]:
    error = f" ± {arm['error']:.4f}" if arm["error"] is not None else ""
    return [f"{arm['bpb']:.4f}", f"{arm['difference']:+.4f}{error}"]


def audit(record: dict[str, Any]) -> str:
    found = record["audit"]
    if not found:
        return "Not yet."
    return (
        f"{found['contests']} contests between runs of one recipe, which only their seeds tell apart, ended with "
        f"{found['records']} records: {found['records'] / found['contests']:.1%}. Each drew its pairs from "
        f"{found['pool']} real runs; {found['redrawn']:,} more draws from them gave {found['redrawn_share']:.1%}. The "
        f"standard deviation of a seed was {found['deviation']:.4f} bits per byte."
    )


def claims(record: dict[str, Any]) -> dict[str, Any]:
    """What benchmarks/tables.py reads: the table of tracks, the goals of tracks with a record, what did not help."""
    columns = ["track", "FLOPs, at most", "bits per byte", "seeds", "FLOPs", "p-value", "how", "goal"]
    goals = []
    for name, track in TRACKS.items():
        entries = of_track(record, name)
        if not entries:
            continue
        now = scores(entries[-1])
        goal: dict[str, Any] = {"goal": f"track {name}: bits per byte", "at_most": track.goal}
        values = now
        if track.goal is None:
            first = mean(scores(entries[0]))
            goal = {"goal": f"track {name}: bits per byte below the first record", "at_least": track.below_first}
            values = [first - value for value in now]
        goal["ratio"] = mean(values)
        goals.append(goal | ({"low": min(values), "high": max(values)} if len(values) > 1 else {}))
    title = "Recipes at equal training FLOPs"
    return {
        "tables": [{"title": title, "columns": columns, "rows": tracks(record)}],
        "goals": goals,
        "did_not_help": did_not_help(record),
    }


def draw(record: dict[str, Any], path: Path) -> None:
    """Held-out bits per byte against training FLOPs: the first and the last record of each track."""
    import matplotlib.pyplot as plt

    from tinystories.reporting.figures import round_ticks

    plt.rcParams["svg.hashsalt"] = "speedrun"  # equal data give an identical file
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for colour, name in enumerate(TRACKS):
        entries = of_track(record, name)
        for entry, style in [(entry, "--") for entry in entries[:-1][:1]] + [(entry, "-") for entry in entries[-1:]]:
            run = entry["runs"][0]
            points = [(tokens / run["tokens"] * run["training_flops"], bits) for tokens, bits in run["curve"]]
            label = f"{name}, {'first' if style == '--' else 'record'}: {mean(scores(entry)):.4f}"
            axes.plot(*zip(*points, strict=True), style, marker=".", color=f"C{colour}", label=label)
    axes.set(xscale="log", xlabel="training FLOPs", ylabel="bits per byte, a sample of held-out stories")
    round_ticks(axes.xaxis)
    round_ticks(axes.yaxis)
    axes.legend(fontsize="small")
    figure.savefig(path, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    plt.close(figure)
