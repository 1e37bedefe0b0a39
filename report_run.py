"""Write the report of a run: one page with its curves, samples, settings and numbers, for any browser, without network.

    python report_run.py runs/demo
    python report_run.py runs/demo --output_dir somewhere/else
    python report_run.py runs/first runs/second

RUN_FOLDER is the output_dir of run_clm.py, finished or not. The page is RUN_FOLDER/report/index.html; of `boxed`, the
model that comes with the package, it is boxed-report/index.html. Of several runs, whose curves are then drawn over each
other, it is first-vs-second-report/index.html in the folder where the command runs.
"""

from tinystories.commands.report import main
from tinystories.console import run_command


if __name__ == "__main__":
    run_command(main)
