"""Train a story-writing language model from a recipe: text to checkpoint in one command.

    python run_clm.py configs/demo.yaml
    python run_clm.py configs/tinystories-cpu.yaml --train_file stories.txt --learning_rate 1e-3

The run folder (`output_dir`) ends as a complete checkpoint with the best weights; every `checkpoint-N` in it is one
too. recipe.json holds every setting, all_results.json every number, samples.jsonl the stories written on the way, and
report/index.html shows it all.
"""

from tinystories.commands.shortest import require_arguments
from tinystories.config.recipe import read_recipe


def main(argv: list[str]) -> None:
    require_arguments("train", argv)
    recipe = read_recipe(argv)
    from tinystories.training.run import run  # seconds of imports, for a recipe that is understood

    run(recipe)
