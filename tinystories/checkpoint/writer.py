"""Open a checkpoint for writing stories, by the fastest way that can: for a small model, imports take the most time."""

from importlib.metadata import version

from tinystories.checkpoint.quick import open_quickly
from tinystories.config.packaged import BOXED
from tinystories.generation.writers import DecoderWriter, GenerateWriter, Writer


def open_writer(folder: str, device: str | None = None, revision: str | None = None) -> Writer:
    """The writer of a checkpoint folder or Hub id, without transformers and torch where nothing needs them.

    device: None takes the accelerator if there is one.

    Raises:
        UserError: the checkpoint cannot be opened, or the device cannot be used.
    """
    small = folder == str(BOXED)  # it writes a story sooner than torch is imported
    on_cpu = device == "cpu" or (device is None and (small or not _has_accelerator()))
    if on_cpu and not revision and (quick := open_quickly(folder)):
        return DecoderWriter(quick.decoder, quick.tokenizer, quick.end)
    import torch

    from tinystories.checkpoint.loading import load_checkpoint
    from tinystories.generation.sample import decoder_of

    place = device or (torch.accelerator.current_accelerator() or torch.device("cpu"))
    model, tokenizer = load_checkpoint(folder, place, revision)
    decoder, end = decoder_of(model), tokenizer.eos_token_id
    if decoder is None:
        return GenerateWriter(model, tokenizer, end)
    return DecoderWriter(decoder, tokenizer.backend_tokenizer, end, lambda text: tokenizer(text)["input_ids"])


def _has_accelerator() -> bool:
    """Only torch knows, whose build for the CPU alone is recognized without importing it."""
    if version("torch").endswith("+cpu"):
        return False
    import torch

    return torch.accelerator.current_accelerator() is not None
