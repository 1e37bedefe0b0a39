"""Lines of libraries that tell the user of these commands nothing, left out one by one.

Each is named by the logger that writes it and the beginning of its text, with the reason why it says nothing here. All
other warnings of libraries come through. Nothing is imported for this: a filter waits in Python's registry of loggers.
"""

import logging
import os
import sys


NOISE = {  # logger: the beginnings of what it says
    "transformers.training_args": (
        # On every machine without a recent GPU. Whether compiling works there is tried out (training/compiler.py).
        "The speedups for torchdynamo mostly come with GPU Ampere or higher",
    ),
    "transformers.trainer_utils": (
        # A resumed run may change these, and resume.py has compared all settings.
        "Warning: The following arguments do not match the ones in the `trainer_state.json`",
    ),
    "matplotlib.font_manager": (
        # Once on a machine, at the end of its first run. The report needs no font but its own.
        "Matplotlib is building the font cache",
    ),
}
BARS = ("HF_HUB_DISABLE_PROGRESS_BARS",)  # of transformers and huggingface_hub, for a file or two; read when imported


class _LeaveOut(logging.Filter):
    def __init__(self, beginnings: tuple[str, ...]):
        super().__init__()
        self.beginnings = beginnings

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(self.beginnings)


def silence_libraries() -> None:
    """Leave out what `NOISE` names, and the bars of libraries. May be called again."""
    for name, beginnings in NOISE.items():
        logger = logging.getLogger(name)
        if not any(isinstance(known, _LeaveOut) for known in logger.filters):
            logger.addFilter(_LeaveOut(beginnings))
    for name in BARS:
        os.environ[name] = "1"
    if "transformers" in sys.modules:
        sys.modules["transformers"].logging.disable_progress_bar()
