"""GGUF files: for llama.cpp and what is built on it, such as ollama, LM Studio and llama-cpp-python.

One file holds the network, the tokenizer and where they come from. It is written in four precisions, under names by
which `llama-cli -hf USER/NAME:Q8_0` and `ollama run hf.co/USER/NAME:Q8_0` choose, with a Modelfile for ollama. Of
llama.cpp's networks `llama` is this one; where only a part of each head is rotated it is `phi3`. llama.cpp rotates
neighbouring rows of a head in `llama`, and rows half of the rotated part apart in `phi3`, as this project does.
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from tinystories.atomic import write_atomically
from tinystories.checkpoint.stock import fuse_projections, rotates_all
from tinystories.errors import UserError, install_hint
from tinystories.exporting.source import Source
from tinystories.exporting.vocabulary import Vocabulary, vocabulary_of
from tinystories.generation.presets import DEFAULT_PRESET, PRESETS


if TYPE_CHECKING:
    from gguf import GGMLQuantizationType, GGUFWriter

    from tinystories.exporting.proof import Reader

logger = logging.getLogger(__name__)

PRECISIONS = {"F32": "ALL_F32", "F16": "MOSTLY_F16", "BF16": "MOSTLY_BF16", "Q8_0": "MOSTLY_Q8_0"}  # by gguf's names
IN_OLLAMA = "Q8_0"  # the file that the Modelfile names
BLOCK = 32  # numbers of a row that share a scale in Q8_0
LARGEST_F16 = float(np.finfo(np.float16).max)
OUTSIDE_LAYERS = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
IN_A_LAYER = {  # names of Llama and Phi-3 -> names of GGUF
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def check(source: Source) -> None:
    """Raises UserError: the package gguf is missing, or llama.cpp has no network or tokenizer like this one."""
    try:
        import gguf  # noqa: F401
    except ImportError as error:
        raise UserError("GGUF files need the package gguf", install_hint("export")) from error
    if not vocabulary_of(source.tokenizer, source.name).merges:
        raise UserError(f"{source.name}: its tokenizer has no merges, and llama.cpp opens no file without")
    config = source.model.config
    rope = config.rope_parameters
    other_width = config.num_attention_heads * config.head_dim != config.hidden_size
    unknown = {
        f"the activation {config.hidden_act}": config.hidden_act not in ("silu", "swish"),
        f"RoPE of type {rope['rope_type']}": rope["rope_type"] != "default",
        "heads that are together wider or narrower than the model, of which RoPE rotates a part": other_width
        and not rotates_all(source.model.config),
    }
    for what, found in unknown.items():
        if found:
            raise UserError(f"{source.name}: llama.cpp has no network with {what}, so no GGUF file can be written")
    _check_range(source)


def _check_range(source: Source) -> None:
    for name, weight in source.model.named_parameters():
        if (largest := float(weight.detach().abs().max())) > LARGEST_F16:
            raise UserError(f"{source.name}: {name} holds {largest:.3g}, which is no 16-bit float")


def file_name(source: Source, precision: str) -> str:
    return f"{source.slug}-{precision}.gguf"


def write(source: Source, folder: Path) -> None:
    """NAME-F32.gguf, NAME-F16.gguf, NAME-BF16.gguf, NAME-Q8_0.gguf and Modelfile, into `folder`."""
    weights = gguf_weights(source)
    vocabulary = vocabulary_of(source.tokenizer, source.name)
    for precision in PRECISIONS:
        _write_file(folder / file_name(source, precision), precision, source, weights, vocabulary)
    write_atomically(folder / "Modelfile", modelfile(source))


def _write_file(
    path: Path, precision: str, source: Source, weights: dict[str, np.ndarray], vocabulary: Vocabulary
) -> None:
    import gguf

    writer = gguf.GGUFWriter(path, "llama" if rotates_all(source.model.config) else "phi3")
    _add_network(writer, source)
    _add_tokenizer(writer, source, vocabulary)
    _add_origin(writer, source)
    writer.add_file_type(gguf.LlamaFileType[PRECISIONS[precision]])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for name, weight in weights.items():
        kind = _stored_as(precision, name, weight)
        writer.add_tensor(name, gguf.quants.quantize(weight, kind), raw_dtype=kind)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def _stored_as(precision: str, name: str, weight: np.ndarray) -> "GGMLQuantizationType":
    """Norms stay float32, as llama.cpp wants them; a row that is not whole blocks of Q8_0 becomes F16."""
    from gguf import GGMLQuantizationType as Kind

    if weight.ndim == 1:
        return Kind.F32
    if precision == "Q8_0" and weight.shape[-1] % BLOCK:
        logger.warning("%s is stored as F16 in the Q8_0 file: its rows are not a multiple of %d wide", name, BLOCK)
        return Kind.F16
    return Kind[precision]


def gguf_weights(source: Source) -> dict[str, np.ndarray]:
    """The weights by the names of GGUF, in the order of its rows: float32. A tied head is left out."""
    config = source.model.config
    weights = dict(source.model.state_dict())
    if config.tie_word_embeddings:
        weights.pop("lm_head.weight", None)
    if not rotates_all(source.model.config):
        weights = fuse_projections(weights)
    named = {}
    for name, weight in weights.items():
        if name.endswith("self_attn.q_proj.weight"):
            weight = neighbours(weight, config.num_attention_heads)
        elif name.endswith("self_attn.k_proj.weight"):
            weight = neighbours(weight, config.num_key_value_heads)
        named[_gguf_name(name)] = weight.float().cpu().numpy()
    return named


def _gguf_name(name: str) -> str:
    if name in OUTSIDE_LAYERS:
        return OUTSIDE_LAYERS[name]
    _, _, layer, part = name.removesuffix(".weight").split(".", 3)
    return f"blk.{layer}.{IN_A_LAYER[part]}.weight"


def neighbours(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """The rows of each head so that those that are rotated together stand beside each other, not half a head apart.

    weight and result: (rows of all heads, columns).
    """
    rows, columns = weight.shape
    halves = weight.reshape(heads, 2, rows // heads // 2, columns)
    return halves.transpose(1, 2).reshape(rows, columns)


def _add_network(writer: "GGUFWriter", source: Source) -> None:
    config = source.model.config
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(int(config.head_dim * config.rope_parameters["partial_rotary_factor"]))
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    if not rotates_all(source.model.config):
        writer.add_rope_scaling_orig_ctx_len(config.max_position_embeddings)  # of phi3: no long-context factors


def _add_tokenizer(writer: "GGUFWriter", source: Source, vocabulary: Vocabulary) -> None:
    from gguf import TokenType

    writer.add_tokenizer_model("gpt2")  # llama.cpp's name of byte-level BPE
    writer.add_tokenizer_pre(vocabulary.pre_tokenizer)
    kinds = dict.fromkeys(vocabulary.added, TokenType.USER_DEFINED)
    kinds |= dict.fromkeys(vocabulary.special, TokenType.CONTROL)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types([kinds.get(token, TokenType.NORMAL) for token in range(len(vocabulary.tokens))])
    writer.add_token_merges([" ".join(pair) for pair in vocabulary.merges])
    writer.add_bos_token_id(source.tokenizer.bos_token_id)
    writer.add_eos_token_id(source.tokenizer.eos_token_id)
    if source.tokenizer.pad_token_id is not None:
        writer.add_pad_token_id(source.tokenizer.pad_token_id)
    writer.add_add_bos_token(vocabulary.begins_with_bos)
    writer.add_add_eos_token(False)


def _add_origin(writer: "GGUFWriter", source: Source) -> None:
    """Licence, author, data and address, as far as the card of the checkpoint says them."""
    card, model = source.metadata, source.base_model
    owner = model.split("/")[0] if model and model.count("/") == 1 else None
    writer.add_name(source.title)
    for key, add in {
        "license": writer.add_license,
        "license_name": writer.add_license_name,
        "license_link": writer.add_license_link,
        "author": writer.add_author,
        "url": writer.add_url,
    }.items():
        if isinstance(card.get(key), str):
            add(card[key])
    if owner and "author" not in card:
        writer.add_author(owner)
    if languages := _texts(card.get("language")):
        writer.add_languages(languages)
    if tags := _texts(card.get("tags")):
        writer.add_tags([tag for tag in tags if tag != "custom_code"])
    datasets = _texts(card.get("datasets"))
    if datasets:
        writer.add_dataset_count(len(datasets))
    for number, dataset in enumerate(datasets):
        writer.add_dataset_name(number, dataset.rsplit("/", 1)[-1])
        if dataset.count("/") == 1:
            writer.add_dataset_repo_url(number, f"https://huggingface.co/datasets/{dataset}")
    if model:
        writer.add_base_model_count(1)
        writer.add_base_model_name(0, model.rsplit("/", 1)[-1])
        if owner:
            writer.add_base_model_organization(0, owner)
            writer.add_base_model_repo_url(0, f"https://huggingface.co/{model}")


def _texts(value: Any) -> list[str]:
    """A field of a card may be one text or several."""
    values = value if isinstance(value, list) else [value]
    return [text for text in values if isinstance(text, str) and text]


def modelfile(source: Source) -> str:
    """For `ollama create NAME -f Modelfile`: the prompt is the beginning of a story, sampled by the default preset."""
    preset, config = PRESETS[DEFAULT_PRESET], source.model.config
    parameters = {
        "temperature": preset["temperature"],
        "top_k": preset["top_k"],
        "top_p": preset["top_p"],
        "min_p": 0.0,
        "repeat_penalty": preset["repetition_penalty"],
        "repeat_last_n": -1,  # all of the story, as `generate` does
        "num_ctx": config.max_position_embeddings,
        "num_predict": source.model.generation_config.max_new_tokens or config.max_position_embeddings,
        "stop": f'"{source.tokenizer.eos_token}"',
    }
    lines = [f"FROM ./{file_name(source, IN_OLLAMA)}", 'TEMPLATE """{{ .Prompt }}"""']
    lines += [f"PARAMETER {name} {value}" for name, value in parameters.items()]
    return "\n".join(lines) + "\n"


def readers(source: Source, folder: Path) -> Iterator["Reader"]:
    """Each file, opened by transformers, and by llama-cpp-python where it is installed."""
    from tinystories.exporting.llama_cpp_readers import LlamaCppReader, TransformersReader, has_llama_cpp

    for precision in PRECISIONS:
        path = folder / file_name(source, precision)
        exact, typed_special = precision == "F32", not source.tokenizer.split_special_tokens
        yield TransformersReader(path, exact, typed_special)
        if has_llama_cpp():
            with LlamaCppReader(path, exact, typed_special) as reader:
                yield reader


def missing_readers() -> list[str]:
    """Programs that would be a reader too and are not installed, for export.json."""
    from tinystories.exporting.llama_cpp_readers import has_llama_cpp

    return [] if has_llama_cpp() else ["llama.cpp (llama-cpp-python)"]
