"""Configuration of the TinyStories model: one of the two code files inside every checkpoint.

It imports transformers and nothing of this project, so that a checkpoint opens wherever transformers is installed:

    from transformers import AutoConfig
    config = AutoConfig.from_pretrained("path/or/hub-id", trust_remote_code=True)
"""

from dataclasses import fields
from difflib import get_close_matches

from huggingface_hub.dataclasses import strict
from transformers import GenerationConfig, PreTrainedConfig
from transformers.utils import logging


logger = logging.get_logger(__name__)

# What `PreTrainedConfig` accepts beside its dataclass fields. The base class would store anything else, such as a
# misspelled name, without an error.
_ACCEPTED_KWARGS = {
    "attn_implementation",
    "auto_map",
    "experts_implementation",
    "model_type",
    "name_or_path",
    "num_labels",
    "output_attentions",
    "partial_rotary_factor",
    "per_layer_config",
    "quantization_config",
    "rope_scaling",
    "rope_theta",
    "torch_dtype",
}


@strict
class TinyStoriesConfig(PreTrainedConfig):
    """A Llama-style decoder. Fields have the names of `LlamaConfig`; the defaults are the 24.6M reference model.

    Args:
        vocab_size: number of tokens, the first dimension of the embedding matrix.
        hidden_size: width of the residual stream; a multiple of `num_attention_heads`.
        intermediate_size: inner width of the SwiGLU feed-forward block.
        num_hidden_layers: number of decoder layers.
        num_attention_heads: query heads.
        num_key_value_heads: key/value heads; must divide `num_attention_heads`. Default: one for each query head.
        head_dim: width of one head. Default: `hidden_size // num_attention_heads`.
        max_position_embeddings: the context in tokens that the model is trained for.
        partial_rotary_factor: keyword only; share of each head that RoPE rotates, in (0, 1]. Stored in
            `rope_parameters`. 1.0 (the default) is as in Llama; 0.5 is as in Phi-3.
        rope_theta: keyword only; base of the RoPE frequencies, 10000.0 by default. Stored in `rope_parameters`.
        embd_pdrop, resid_pdrop, attention_dropout: dropout on the embeddings, on what each block adds to the residual
            stream, and on the attention weights. With the last one SDPA does not use its fast kernel on CPU.

    Raises:
        ValueError: an unknown field (with the nearest known name), sizes that do not divide, an odd rotary width.
        StrictDataclassFieldValidationError: a field of the wrong type.
    """

    model_type = "tinystories"
    keys_to_ignore_at_inference = ["past_key_values"]
    base_model_tp_plan = {
        "layers.*.self_attn.q_proj": "colwise",
        "layers.*.self_attn.k_proj": "colwise",
        "layers.*.self_attn.v_proj": "colwise",
        "layers.*.self_attn.o_proj": "rowwise",
        "layers.*.mlp.gate_proj": "colwise",
        "layers.*.mlp.up_proj": "colwise",
        "layers.*.mlp.down_proj": "rowwise",
    }
    base_model_pp_plan = {
        "embed_tokens": (["input_ids"], ["inputs_embeds"]),
        "layers": (["hidden_states", "attention_mask"], ["hidden_states"]),
        "norm": (["hidden_states"], ["hidden_states"]),
    }

    vocab_size: int = 10000
    hidden_size: int = 448
    intermediate_size: int = 1536
    num_hidden_layers: int = 7
    num_attention_heads: int = 7
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    hidden_act: str = "silu"
    max_position_embeddings: int = 512
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-6
    use_cache: bool = True
    tie_word_embeddings: bool = True
    rope_parameters: dict | None = None
    embd_pdrop: float | int = 0.0
    resid_pdrop: float | int = 0.0
    attention_dropout: float | int = 0.0
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    def __post_init__(self, **kwargs):
        self._refuse_unknown(kwargs)
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if self.head_dim is None and self.num_attention_heads > 0:
            self.head_dim = self.hidden_size // self.num_attention_heads
        kwargs.setdefault("partial_rotary_factor", 1.0)
        # Set here, so that every way of saving writes a config.json that names the code files beside it.
        kwargs.setdefault(
            "auto_map",
            {
                "AutoConfig": "configuration_tinystories.TinyStoriesConfig",
                "AutoModel": "modeling_tinystories.TinyStoriesModel",
                "AutoModelForCausalLM": "modeling_tinystories.TinyStoriesForCausalLM",
                "AutoModelForSequenceClassification": "modeling_tinystories.TinyStoriesForSequenceClassification",
            },
        )
        super().__post_init__(**kwargs)

    def _refuse_unknown(self, kwargs: dict) -> None:
        generation_fields = GenerationConfig._get_default_generation_params()
        for name in kwargs:
            if name in _ACCEPTED_KWARGS or name in generation_fields or name.startswith("_"):
                continue
            known = [field.name for field in fields(self)] + ["partial_rotary_factor", "rope_theta"]
            nearest = get_close_matches(name, known, n=1)
            hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
            if self.transformers_version is None:
                raise ValueError(f"TinyStoriesConfig has no field {name!r}{hint}")
            # From a config.json, to which other libraries add fields of their own: it is opened nevertheless.
            logger.warning_once(f"config.json has {name!r}, which is not a field of TinyStoriesConfig{hint}")

    def validate_architecture(self):
        """Check fields against each other; `@strict` calls this after every construction and load."""
        sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
        for name in (*sizes, "num_key_value_heads", "max_position_embeddings"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        assert self.num_key_value_heads and self.head_dim is not None and self.rope_parameters  # by __post_init__
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size ({self.hidden_size}) must be a multiple of num_attention_heads "
                f"({self.num_attention_heads})"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads ({self.num_attention_heads}) must be a multiple of num_key_value_heads "
                f"({self.num_key_value_heads})"
            )
        for name in ("embd_pdrop", "resid_pdrop", "attention_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        factor = self.rope_parameters["partial_rotary_factor"]
        rotary_width = int(self.head_dim * factor)
        if not 0 < factor <= 1 or rotary_width % 2 or rotary_width == 0:
            raise ValueError(
                f"head_dim ({self.head_dim}) x partial_rotary_factor ({factor}) must give an even number of rotated "
                f"dimensions between 2 and head_dim, got {rotary_width}"
            )


TinyStoriesConfig.register_for_auto_class()
