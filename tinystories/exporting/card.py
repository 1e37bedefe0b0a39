"""What a card says of exported files: where they come from, how they are used, how they were compared."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tinystories.atomic import write_atomically
from tinystories.exporting.formats import FORMATS
from tinystories.exporting.source import Source
from tinystories.run_files import CARD


LIBRARIES = {"llama": "transformers", "gguf": "gguf"}  # what the Hub calls the program that a folder is for


def write_cards(source: Source, report: dict[str, Any], folder: Path) -> None:
    """A README.md in each folder of the export, so that it can be published by itself."""
    for name in sorted({FORMATS[chosen] for chosen in report["formats"]}):
        formats = [chosen for chosen in report["formats"] if FORMATS[chosen] == name]
        metadata = _metadata(source, name, formats).to_yaml()
        card = _rendered(report, formats, name=f"{source.slug}-{name}", beside=False, metadata=metadata)
        write_atomically(folder / name / CARD, card)


def section(report: dict[str, Any], repo_id: str) -> str:
    """What the card of a checkpoint says of the exported files beside it, in the repository `repo_id`."""
    return _rendered(report, list(report["formats"]), name=repo_id, beside=True, metadata="")


def _rendered(report: dict[str, Any], formats: Sequence[str], name: str, beside: bool, metadata: str) -> str:
    """name: of the repository, in the code to copy. beside: in the repository of the checkpoint, with all formats."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent, encoding="utf-8"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    files = report["formats"].get("gguf", {"bytes": {}})["bytes"]
    content = environment.get_template("card.md").render(
        report=report,
        formats=formats,
        name=name,
        beside=beside,
        metadata=metadata.strip(),
        within=lambda folder: f"{folder}/" if beside else "./",
        gguf_files=[f"`{file}`" for file in files if file.endswith(".gguf")],
        smallest_gguf=min((file for file in files if file.endswith(".gguf")), key=files.get, default=""),
        stories=f"{report['stories']} {_ORIGINS[report['stories_from']]}",
    )
    return content.strip() + "\n"


_ORIGINS = {
    "run": "stories of its validation data",
    "named": "held-out stories",
    "sample corpus": "stories of this project's sample corpus",
}


def _metadata(source: Source, name: str, formats: Sequence[str]) -> ModelCardData:
    """The part that the Hub reads: licence and data as in the checkpoint's card, and the checkpoint as the base."""
    known = source.metadata
    return ModelCardData(
        license=known.get("license"),
        datasets=known.get("datasets"),
        language=known.get("language"),
        license_name=known.get("license_name"),
        language_bcp47=known.get("language_bcp47"),
        library_name=LIBRARIES.get(name),
        pipeline_tag="text-generation",
        base_model=source.base_model,
        base_model_relation="quantized" if source.base_model and name == "gguf" else None,
        tags=["tinystories", *(chosen for chosen in formats if chosen in ("onnx", "gguf"))],
    )
