"""Write the report of a run: one page with its curves, samples, settings and numbers, for any browser, without network.

    python report_run.py runs/demo
    python report_run.py runs/demo --output_dir somewhere/else
    python report_run.py runs/first runs/second

RUN_FOLDER is the output_dir of run_clm.py, finished or not. The page is RUN_FOLDER/report/index.html; of `boxed`, the
model that comes with the package, it is boxed-report/index.html. Of several runs, whose curves are then drawn over each
other, it is first-vs-second-report/index.html in the folder where the command runs.
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
    description = "Write the report of a run as a page; of several runs, one page that compares them."
    parser = StrictParser((), "report", FAMILIAR, prog=program_name("report"), description=description)
    parser.add_argument(
        "run_folders",
        nargs="+",
        metavar="run_folder",
        help=f"the output_dir of {program_name('train')}, finished or not; several are compared",
    )
    parser.add_argument("--output_dir", help="where to write it (default: RUN_FOLDER/report, of several A-vs-B-report)")
    arguments = parser.parse_exactly(argv)
    folders = [find_checkpoint(folder) for folder in arguments.run_folders]
    for folder in folders:
        check_folder(folder)
    if arguments.output_dir is None and len(folders) == 1 and is_boxed(folders[0]):
        arguments.output_dir = f"{BOXED.name}-{REPORT}"
    if arguments.output_dir is not None:
        check_output_folder(arguments.output_dir)
    print(f"Report: {write(folders, arguments.output_dir)}")


def write(folders: list[str], output_dir: str | None) -> str:
    """The path of the page. The imports take seconds, so they come after what can be wrong with the command."""
    if len(folders) > 1:
        from tinystories.reporting.comparison import write_comparison

        return str(write_comparison(folders, output_dir))
    from tinystories.reporting.run_report import write_report

    return str(write_report(folders[0], output_dir))
