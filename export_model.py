"""Export a checkpoint to other programs: plain Llama, GGUF, ONNX, llama2.c, a page that holds the model.

    python export_model.py runs/demo --format llama
    python export_model.py runs/demo --format gguf,onnx,page --output_dir exports/demo

CHECKPOINT is a folder or a Hub id. What is written is opened by a program that did not write it and compared with the
checkpoint: token ids of 300 texts, greedy text, bits per byte. The results are in export.json; an export that differs
is not kept.
"""

from tinystories.commands.export import main
from tinystories.console import run_command


if __name__ == "__main__":
    run_command(main)
