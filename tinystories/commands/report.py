"""Write the report of a run: one page with its curves, samples, settings and numbers, for any browser, without network.

    python report_run.py runs/demo
    python report_run.py runs/demo --output_dir somewhere/else

RUN_FOLDER is the output_dir of run_clm.py, finished or not. The page is RUN_FOLDER/report/index.html; of `boxed`, the
model that comes with the package, it is boxed-report/index.html.
"""

from tinystories.commands.shortest import require_arguments
from tinystories.config.familiar import REPORT as FAMILIAR
from tinystories.config.names import check_folder
from tinystories.config.packaged import BOXED, find_checkpoint, is_boxed
from tinystories.config.parser import StrictParser
from tinystories.console import program_name
from tinystories.output_file import check_output_folder
from tinystories.run_files import REPORT


def main(argv: list[str]) -> None:
    require_arguments("report", argv)
    parser = StrictParser(
        (), "report", FAMILIAR, prog=program_name("report"), description="Write the report of a run as a page."
    )
    parser.add_argument("run_folder", help=f"the output_dir of {program_name('train')}, finished or not")
    parser.add_argument("--output_dir", help="where to write it (default: RUN_FOLDER/report)")
    arguments = parser.parse_exactly(argv)
    arguments.run_folder = find_checkpoint(arguments.run_folder)
    check_folder(arguments.run_folder)
    if arguments.output_dir is None and is_boxed(arguments.run_folder):
        arguments.output_dir = f"{BOXED.name}-{REPORT}"
    if arguments.output_dir is not None:
        check_output_folder(arguments.output_dir)
    from tinystories.reporting.run_report import write_report  # seconds of imports

    print(f"Report: {write_report(arguments.run_folder, arguments.output_dir)}")
