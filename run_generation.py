"""Write stories with a checkpoint: each streams to the terminal and stops where it ends.

    python run_generation.py "Once upon a time"
    python run_generation.py runs/demo "Once upon a time"
    python run_generation.py runs/demo "One day, a fox" --preset creative --seed 7 --output_file story.json
    python run_generation.py runs/demo
    python run_generation.py runs/demo < beginnings.txt > stories.txt

CHECKPOINT is a folder, a Hub id, or `boxed`, the model that comes with the package. A prompt alone is continued by that
model. It has at least two words and no slash, and no file has its name: anything else may be a mistyped checkpoint.

Without a prompt, a terminal becomes a session in which one story after another is written (docs/terminal.md); from a
pipe or a file each line is a prompt.

stdout is the story alone; counts and messages go to stderr. The command ends early, with exit status 0, when nobody
reads what it prints any more (`| head -c 100`) and no --output_file is named. The presets are those of
tinystories/generation/presets.py; single settings override them.
"""

from tinystories.commands.generate import main
from tinystories.console import run_command


if __name__ == "__main__":
    run_command(main)
