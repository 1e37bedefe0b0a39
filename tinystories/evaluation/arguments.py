"""The options of run_evaluation.py: each field is an option, and its metadata is the help text.

This module imports neither torch nor transformers, so that reading the options stays fast.
"""

from dataclasses import dataclass, field, replace

from tinystories.config.keys import ReadingArguments
from tinystories.errors import UserError
from tinystories.evaluation.text.prompts import PROMPTS
from tinystories.generation.presets import PRESETS


@dataclass(frozen=True)
class EvaluationArguments(ReadingArguments):
    data: str | None = field(
        default=None, metadata={"help": "Held-out stories, a file or folder (default: those of the first run)."}
    )
    train_file: str | None = field(
        default=None, metadata={"help": "Training stories, for novelty (default: those of the first run)."}
    )
    output_dir: str = field(
        default="evaluation",
        metadata={"help": "Folder for results and the page; a stopped evaluation continues there."},
    )
    quick: bool = field(
        default=False, metadata={"help": "A first look in a minute: fewer stories, pairs and prompts, one preset."}
    )
    stories: int | None = field(default=None, metadata={"help": "Number of held-out stories to score (default: all)."})
    pairs: int = field(default=200, metadata={"help": "At most this many minimal pairs of each rule."})
    prompts: int = field(default=len(PROMPTS), metadata={"help": "Number of beginnings that the model continues."})
    presets: list[str] = field(
        default_factory=lambda: list(PRESETS),
        metadata={"help": "How to sample; the card shows the first preset."},
    )
    seeds: list[int] = field(
        default_factory=lambda: [1, 2, 3], metadata={"help": "Each prompt is continued once a seed."}
    )
    max_new_tokens: int = field(default=200, metadata={"help": "Length at which a story is cut, in tokens."})
    stride: int | None = field(
        default=None, metadata={"help": "Tokens between the windows of a long story (default: half the context)."}
    )
    batch_size: int = field(
        default=16, metadata={"help": "Rows at once; stories of other models, or on a GPU, depend on it."}
    )
    device: str | None = field(default=None, metadata={"help": "cpu, cuda, mps (default: the accelerator, if any)."})
    revision: str | None = field(default=None, metadata={"help": "A branch, tag or commit, if one Hub id is given."})
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run the Python files of a model; only if you trust its author."}
    )
    tokenizer: str | None = field(default=None, metadata={"help": "The tokenizer file of a llama2.c model."})
    leaderboard: str | None = field(
        default=None, metadata={"help": "Add the results to this file (.jsonl) and render it."}
    )
    critic: str | None = field(
        default=None,
        metadata={"help": "A model of people's stories, not one that is measured: it reads the texts (see docs)."},
    )
    judge_url: str | None = field(
        default=None, metadata={"help": "Have stories graded at this OpenAI-compatible address, such as .../v1."}
    )
    judge_model: str | None = field(default=None, metadata={"help": "The model to ask there; its key: JUDGE_API_KEY."})

    def __post_init__(self) -> None:
        for name in ("pairs", "prompts", "max_new_tokens", "batch_size", "stories", "stride"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} must be at least 1, got {value}")
        if self.prompts > len(PROMPTS):
            raise UserError(f"prompts must be at most {len(PROMPTS)}, got {self.prompts}")
        unknown = [preset for preset in self.presets if preset not in PRESETS]
        if unknown or not self.presets:
            raise UserError(f"presets must be some of {', '.join(PRESETS)}, got {', '.join(unknown) or 'none'}")
        if not self.seeds or min(self.seeds) < 0 or len(set(self.seeds)) < len(self.seeds):
            raise UserError(f"seeds must be different integers of at least 0, got {self.seeds}")
        if (self.judge_url is None) != (self.judge_model is None):
            raise UserError("a judge needs both --judge_url and --judge_model")

    def with_quick_limits(self) -> "EvaluationArguments":
        """These arguments, with `quick` applied: no setting above the limits of a quick evaluation."""
        if not self.quick:
            return self
        return replace(
            self,
            stories=min(self.stories or 60, 60),
            pairs=min(self.pairs, 30),
            prompts=min(self.prompts, 22),
            presets=self.presets[:1],
            seeds=self.seeds[:1],
            max_new_tokens=min(self.max_new_tokens, 80),
        )
