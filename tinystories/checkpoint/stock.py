"""The same weights in transformers' own network: Llama, or Phi-3 where only a part of each head is rotated.

What this project computes can be compared with a network that others wrote and use.
"""

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Phi3Config, Phi3ForCausalLM, PreTrainedModel

from configuration_tinystories import TinyStoriesConfig
from modeling_tinystories import TinyStoriesForCausalLM


SHARED_FIELDS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "tie_word_embeddings",
    "rope_parameters",
    "attention_dropout",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
)


def rotates_all(config: TinyStoriesConfig) -> bool:
    """Whether the whole of each head is rotated, as in Llama; else it is as in Phi-3."""
    assert config.rope_parameters is not None  # by the configuration's own checks
    return bool(config.rope_parameters["partial_rotary_factor"] == 1.0)


def stock_network(config: TinyStoriesConfig, weights: dict[str, torch.Tensor]) -> PreTrainedModel:
    """`LlamaForCausalLM` or `Phi3ForCausalLM` with copies of `weights`, in their dtype, on their device, in eval mode.

    weights: names and tensors of a `TinyStoriesForCausalLM`, with or without `lm_head.weight` if it is tied.

    Raises:
        ValueError: a weight that is missing, superfluous or of another shape.
    """
    fields = {name: getattr(config, name) for name in SHARED_FIELDS}
    fields["attn_implementation"] = "sdpa"  # eager computes its softmax in float32
    first = next(iter(weights.values()))
    network: PreTrainedModel
    # Made on the CPU, as a model that is trained: a GPU computes the frequencies of RoPE to another last bit.
    if rotates_all(config):
        network = LlamaForCausalLM(LlamaConfig(**fields))
    else:
        dropout = {"resid_pdrop": config.resid_pdrop, "embd_pdrop": config.embd_pdrop}
        network = Phi3ForCausalLM(Phi3Config(**fields | dropout))
    network.to(first.device, first.dtype)  # type: ignore[arg-type]  # its decorator hides that it is a method
    own = dict(weights) if rotates_all(config) else fuse_projections(weights)
    if config.tie_word_embeddings:
        own.setdefault("lm_head.weight", own["model.embed_tokens.weight"])
    try:
        network.load_state_dict(own, strict=True)
    except RuntimeError as error:
        raise ValueError(str(error)) from error
    return network.eval()


def fuse_projections(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights by Phi-3's names, which has one matrix for query, key and value and one for gate and up."""
    fused = {}
    for name, weight in weights.items():
        if name.endswith("q_proj.weight"):
            parts = [weights[name.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")]
            fused[name.replace("q_proj", "qkv_proj")] = torch.cat(parts)
        elif name.endswith("gate_proj.weight"):
            up = weights[name.replace("gate_proj", "up_proj")]
            fused[name.replace("gate_proj", "gate_up_proj")] = torch.cat([weight, up])
        elif not name.endswith(("k_proj.weight", "v_proj.weight", "up_proj.weight")):
            fused[name] = weight
    return fused


def exact_network(
    config: TinyStoriesConfig, weights: dict[str, torch.Tensor], dtype: torch.dtype = torch.float64
) -> PreTrainedModel:
    """`stock_network` in `dtype`, with torch's norms: those of transformers round to float32, whatever their input."""
    twin = stock_network(config, {name: weight.to(dtype) for name, weight in weights.items()})
    for name, module in list(twin.named_modules()):
        if type(module).__name__ in ("LlamaRMSNorm", "Phi3RMSNorm"):
            norm = torch.nn.RMSNorm(module.weight.shape, eps=module.variance_epsilon)
            norm.weight = module.weight
            twin.set_submodule(name, norm)
    return twin


def stock_twin(model: TinyStoriesForCausalLM, dtype: torch.dtype = torch.float64) -> PreTrainedModel:
    """`exact_network` of the weights that `model` has now: in float64 it agrees with `model` to 1e-9."""
    return exact_network(model.config, model.state_dict(), dtype)
