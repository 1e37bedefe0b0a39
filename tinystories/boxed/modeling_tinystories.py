"""The TinyStories model: a self-contained Llama-style decoder, one of the two code files inside every checkpoint.

Weight names, RMSNorm and the rotate-half RoPE convention are exactly those of transformers' `LlamaForCausalLM`, so the
weights can be used wherever Llama weights can. With `partial_rotary_factor` below 1 the network is that of
`Phi3ForCausalLM` (with separate instead of fused projections). It imports torch and transformers and nothing of this
project:

    from transformers import AutoModelForCausalLM
    model = AutoModelForCausalLM.from_pretrained("path/or/hub-id", trust_remote_code=True)
"""

import math
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from transformers import GenerationMixin, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache, DynamicCache
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GenericForSequenceClassification, GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS, dynamic_rope_update
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs


try:  # inside a checkpoint: transformers imports this file as part of a package
    from .configuration_tinystories import TinyStoriesConfig
except ImportError:  # in a checkout or an installation: a top-level module
    if __package__:
        raise
    from configuration_tinystories import TinyStoriesConfig


BLOCK = 128  # queries of `BlockAttention` at a time
LONGEST_IN_BLOCKS = 2048  # tokens of a row: its memory grows with their square
LOSS_CHUNKS = 8  # parts of a batch whose logits exist at a time, in a loss without logits


class TinyStoriesRMSNorm(nn.Module):
    """Root-mean-square norm, computed in float32 (or float64) and scaled in the dtype of its input, as Llama does."""

    def __init__(self, hidden_size: int, eps: float = 1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.eps = eps

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        dtype = hidden_states.dtype
        # `is`, because torch.fx traces through it: vLLM finds by that which modules its fused norm may replace.
        hidden_states = hidden_states.to(torch.float64 if dtype is torch.float64 else torch.float32)
        inverse_rms = torch.rsqrt(hidden_states.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * (hidden_states * inverse_rms).to(dtype)

    def extra_repr(self) -> str:
        return f"{tuple(self.weight.shape)}, eps={self.eps}"


class TinyStoriesRotaryEmbedding(nn.Module):
    """Cosines and sines of the rotary position embedding, each of shape (batch, length, rotary width).

    Do not rename the class or its two buffers: transformers finds them by the end of the class name, and computes the
    buffers again after a load on the meta device.
    """

    def __init__(self, config: TinyStoriesConfig):
        super().__init__()
        self.config = config
        self.max_seq_len_cached = config.max_position_embeddings
        self.original_max_seq_len = config.max_position_embeddings
        self.rope_type = config.rope_parameters["rope_type"]
        rope_init = ROPE_INIT_FUNCTIONS.get(self.rope_type, self.compute_default_rope_parameters)
        inv_freq, self.attention_scaling = rope_init(config)
        self.inv_freq = nn.Buffer(inv_freq, persistent=False)
        self.original_inv_freq = nn.Buffer(inv_freq.clone(), persistent=False)

    @staticmethod
    def compute_default_rope_parameters(
        config: TinyStoriesConfig, device: torch.device | None = None, **kwargs: Any
    ) -> tuple[torch.Tensor, float]:
        rope = config.rope_parameters
        rotary_width = int(config.head_dim * rope["partial_rotary_factor"])
        exponents = torch.arange(0, rotary_width, 2, dtype=torch.float, device=device) / rotary_width
        return 1.0 / (rope["rope_theta"] ** exponents), 1.0

    @torch.no_grad()
    @dynamic_rope_update
    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        angles = position_ids[..., None].float() * self.inv_freq.to(device=x.device, dtype=torch.float)
        angles = torch.cat((angles, angles), dim=-1)
        cos, sin = angles.cos() * self.attention_scaling, angles.sin() * self.attention_scaling
        return cos.to(x.dtype), sin.to(x.dtype)


def rotate_half(x: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)


def apply_rotary(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate the first `cos.shape[-1]` dimensions of every head.

    x and result: (batch, heads, length, head_dim); cos, sin: (batch, length, rotary width).
    """
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    rotary_width = cos.shape[-1]
    if rotary_width == x.shape[-1]:
        return x * cos + rotate_half(x) * sin
    rotated, passed = x[..., :rotary_width], x[..., rotary_width:]
    return torch.cat((rotated * cos + rotate_half(rotated) * sin, passed), dim=-1)


def eager_attention_forward(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
    """Attention in plain PyTorch, for `attn_implementation="eager"`; returns the output and the attention weights."""
    key = key.repeat_interleave(module.num_key_value_groups, dim=1)
    value = value.repeat_interleave(module.num_key_value_groups, dim=1)
    scores = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = nn.functional.softmax(scores, dim=-1, dtype=torch.promote_types(query.dtype, torch.float32))
    weights = weights.to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


def kept_by_dropout(shape: tuple[int, ...], dropout: float, device: torch.device) -> torch.Tensor:
    """Which elements dropout keeps, each independently with probability `1 - dropout`; bool, of this shape.

    torch's generator draws one number after the other on a CPU. Here four elements share a number, 16 bits each. A
    compiler does better with numbers that follow from the place of the element: a hash of it, with two random seeds,
    is computed where the mask is used. Shifts and factors are those of the hash lowbias32; its last step mixes low bits
    only.
    """
    number = math.prod(shape)
    if not torch.compiler.is_compiling():
        bits = torch.empty(-(-number // 4), dtype=torch.int64, device=device).random_(-(2**63), None)
        return bits.view(torch.int16)[:number].view(shape) >= round(dropout * 2**16) - 2**15
    first, second = torch.randint(-(2**31), 2**31 - 1, (2,), dtype=torch.int32, device=device)
    bits = torch.arange(number, dtype=torch.int32, device=device).view(shape) ^ first
    bits = (bits ^ ((bits >> 16) & 0xFFFF)) * 2146121005
    bits = (bits ^ ((bits >> 15) & 0x1FFFF) ^ second) * -2073254261
    return bits >= round(dropout * 2**32) - 2**31


class BlockAttention(torch.autograd.Function):
    """Causal attention with dropout, for training on a CPU: products of `BLOCK` queries with the keys before them.

    torch's own kernel for CPUs computes each head with small products in float32, and with dropout it is not used at
    all. The weights of a block are kept for the backward pass; dropped ones are kept as negative numbers.
    """

    @staticmethod
    def forward(ctx, query, key, value, scaling, dropout):
        """query, key, value, result: (batch x heads, length, head_dim), of one dtype."""
        outputs, blocks = [], []
        for begin in range(0, query.shape[1], BLOCK):
            end = min(begin + BLOCK, query.shape[1])
            scores = query[:, begin:end] @ key[:, :end].transpose(1, 2) * scaling
            future = torch.ones(end - begin, end, dtype=torch.bool, device=query.device).triu(begin + 1)
            weights = scores.masked_fill(future, -math.inf).softmax(-1)
            if dropout:
                kept = kept_by_dropout(tuple(weights.shape), dropout, query.device)
                outputs.append((weights * kept) @ value[:, :end] * (1 / (1 - dropout)))
                weights = torch.where(kept, weights, -weights)
            else:
                outputs.append(weights @ value[:, :end])
            blocks.append(weights)
        output = torch.cat(outputs, dim=1)
        ctx.save_for_backward(query, key, value, output, *blocks)
        ctx.scaling, ctx.dropout = scaling, dropout
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx, d_output):
        query, key, value, output, *blocks = ctx.saved_tensors
        exact = torch.promote_types(query.dtype, torch.float32)
        mean = (d_output.to(exact) * output.to(exact)).sum(-1, keepdim=True)  # of d_weights under the weights
        d_queries, d_key, d_value = [], torch.zeros_like(key), torch.zeros_like(value)
        for number, weights in enumerate(blocks):
            begin, end = number * BLOCK, min((number + 1) * BLOCK, query.shape[1])
            d_block = d_output[:, begin:end]
            d_weights, used = d_block @ value[:, :end].transpose(1, 2), weights
            if ctx.dropout:
                used = weights.clamp(min=0) * (1 / (1 - ctx.dropout))
                d_weights = torch.where(weights > 0, d_weights * (1 / (1 - ctx.dropout)), 0.0)
                weights = weights.abs()
            d_scores = (weights * (d_weights - mean[:, begin:end]) * ctx.scaling).to(query.dtype)
            d_queries.append(d_scores @ key[:, :end])
            d_key[:, :end] += d_scores.transpose(1, 2) @ query[:, begin:end]
            d_value[:, :end] += used.transpose(1, 2) @ d_block
        return torch.cat(d_queries, dim=1), d_key, d_value, None, None


def block_attention_forward(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
    """`BlockAttention` as an attention function of transformers, for plain causal rows: without mask and cache."""
    key = key.repeat_interleave(module.num_key_value_groups, dim=1)
    value = value.repeat_interleave(module.num_key_value_groups, dim=1)
    parts = (part.to(value.dtype).flatten(0, 1) for part in (query, key, value))  # RoPE is in float32 under autocast
    with torch.autocast(query.device.type, enabled=False):
        output = BlockAttention.apply(*parts, scaling, dropout)
    return output.view(query.shape).transpose(1, 2), None


class TinyStoriesAttention(nn.Module):
    """Causal self-attention with grouped key/value heads, through transformers' attention interface."""

    def __init__(self, config: TinyStoriesConfig, layer_idx: int):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.head_dim
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.scaling = self.head_dim**-0.5
        self.attention_dropout = config.attention_dropout
        self.is_causal = True
        query_width = config.num_attention_heads * self.head_dim
        key_value_width = config.num_key_value_heads * self.head_dim
        self.q_proj = nn.Linear(config.hidden_size, query_width, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, key_value_width, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, key_value_width, bias=False)
        self.o_proj = nn.Linear(query_width, config.hidden_size, bias=False)

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        batch_and_length = hidden_states.shape[:-1]
        per_head = (*batch_and_length, -1, self.head_dim)
        query = apply_rotary(self.q_proj(hidden_states).view(per_head).transpose(1, 2), *position_embeddings)
        key = apply_rotary(self.k_proj(hidden_states).view(per_head).transpose(1, 2), *position_embeddings)
        value = self.v_proj(hidden_states).view(per_head).transpose(1, 2)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)

        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        is_plain = attention_mask is None and past_key_values is None and query.shape[2] <= LONGEST_IN_BLOCKS
        if self.training and is_plain and self.config._attn_implementation == "sdpa" and query.device.type == "cpu":
            attend = block_attention_forward
        output, weights = attend(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        return self.o_proj(output.reshape(*batch_and_length, -1).contiguous()), weights


class TinyStoriesMLP(nn.Module):
    """SwiGLU feed-forward block."""

    def __init__(self, config: TinyStoriesConfig):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(hidden_states)) * self.up_proj(hidden_states))


class TinyStoriesDecoderLayer(GradientCheckpointingLayer):
    """Pre-norm attention and feed-forward, with dropout on what each adds to the residual stream."""

    def __init__(self, config: TinyStoriesConfig, layer_idx: int):
        super().__init__()
        self.self_attn = TinyStoriesAttention(config, layer_idx)
        self.mlp = TinyStoriesMLP(config)
        self.input_layernorm = TinyStoriesRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = TinyStoriesRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.resid_dropout = nn.Dropout(config.resid_pdrop)

    def forward(self, hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        attended, _ = self.self_attn(self.input_layernorm(hidden_states), **kwargs)
        hidden_states = hidden_states + self.resid_dropout(attended)
        return hidden_states + self.resid_dropout(self.mlp(self.post_attention_layernorm(hidden_states)))


class TinyStoriesPreTrainedModel(PreTrainedModel):
    config: TinyStoriesConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["TinyStoriesDecoderLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": TinyStoriesDecoderLayer, "attentions": TinyStoriesAttention}


class TinyStoriesModel(TinyStoriesPreTrainedModel):
    """The decoder without its language-modelling head."""

    def __init__(self, config: TinyStoriesConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.embed_dropout = nn.Dropout(config.embd_pdrop)
        self.layers = nn.ModuleList(TinyStoriesDecoderLayer(config, i) for i in range(config.num_hidden_layers))
        self.norm = TinyStoriesRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = TinyStoriesRotaryEmbedding(config)
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """input_ids, position_ids: (batch, length); attention_mask: (batch, cached + new), 1 for tokens to see."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("You must specify exactly one of input_ids or inputs_embeds")
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)

        causal_mask = self._causal_mask(inputs_embeds, attention_mask, position_ids, past_key_values)
        if position_ids is None:
            past_length = past_key_values.get_seq_length() if past_key_values is not None else 0
            position_ids = torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device) + past_length
            position_ids = position_ids.unsqueeze(0)

        hidden_states = self.embed_dropout(inputs_embeds)
        position_embeddings = self.rotary_emb(hidden_states, position_ids)
        for layer in self.layers:
            hidden_states = layer(
                hidden_states,
                attention_mask=causal_mask,
                position_embeddings=position_embeddings,
                position_ids=position_ids,
                past_key_values=past_key_values,
                use_cache=use_cache,
                **kwargs,
            )
        return BaseModelOutputWithPast(last_hidden_state=self.norm(hidden_states), past_key_values=past_key_values)

    def _causal_mask(self, inputs_embeds, attention_mask, position_ids, past_key_values):
        """The mask for the attention implementation; None where SDPA's own causal kernel is enough.

        Under torch.compile `create_causal_mask` builds a dense (batch, 1, length, length) mask even for plain causal
        rows, and with a mask SDPA does not use its fast kernel. Plain rows, such as all rows of training, go without.
        """
        plain_rows = attention_mask is None and position_ids is None and past_key_values is None
        if plain_rows and self.config._attn_implementation == "sdpa":
            return None
        return create_causal_mask(
            config=self.config,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_ids=position_ids,
        )


def keep_positions(hidden_states: torch.Tensor, kept: int | torch.Tensor) -> torch.Tensor:
    """The positions for which logits are computed (transformers has this function too, but not in 5.17).

    hidden_states: (rows, length, hidden size).
    kept: how many at the end (0: all), or positions (number,), or positions of each row (rows, number), or a bool mask
    (rows, length), for which the result has the shape (number of True, hidden size).
    """
    if isinstance(kept, int):
        return hidden_states[:, -kept:]
    if kept.ndim == 1:
        return hidden_states[:, kept]
    if kept.dtype == torch.bool:
        return hidden_states[kept]
    return hidden_states.take_along_dim(kept.unsqueeze(-1), dim=1)


class SumOfLosses(torch.autograd.Function):
    """Sum of the tokens' losses in nats, from the last hidden states, without the logits of all tokens in memory.

    Logits exist for a part of the tokens at a time. Their gradient follows from them alone, so it is computed there and
    then, and what is kept are the gradients of the hidden states and of the weight.
    """

    @staticmethod
    def forward(ctx, hidden_states, weight, targets):
        """hidden_states: (tokens, hidden size); weight: (vocabulary, hidden size); targets: (tokens,), -100: none."""
        exact = torch.promote_types(hidden_states.dtype, torch.float32)
        total, d_weight = hidden_states.new_zeros((), dtype=exact), torch.zeros_like(weight, dtype=exact)
        d_hidden_states = []
        size = -(-len(targets) // LOSS_CHUNKS)
        for hidden, wanted in zip(hidden_states.split(size), targets.split(size), strict=True):
            logits = nn.functional.linear(hidden, weight)
            counted = (wanted >= 0).unsqueeze(-1)
            is_wanted = torch.arange(len(weight), device=wanted.device) == wanted.unsqueeze(-1)
            log_p = logits.to(exact).log_softmax(-1)
            total = total - log_p.masked_fill(~is_wanted, 0.0).sum()
            d_logits = ((log_p.exp() - is_wanted.to(exact)) * counted).to(logits.dtype)
            d_hidden_states.append((d_logits @ weight).to(hidden.dtype))
            d_weight += d_logits.T @ hidden
        ctx.save_for_backward(torch.cat(d_hidden_states), d_weight.to(weight.dtype))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, d_total):
        d_hidden_states, d_weight = ctx.saved_tensors
        return d_hidden_states * d_total, d_weight * d_total, None


class TinyStoriesForCausalLM(TinyStoriesPreTrainedModel, GenerationMixin):
    """The language model. `labels` are the input ids: they are shifted to the next token in the loss."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}
    _pp_plan = {"lm_head": (["hidden_states"], ["logits"])}  # type: ignore[dict-item]  # transformers means lists
    _fsdp_plan = {"lm_head": "keep_full_weight"}

    def __init__(self, config: TinyStoriesConfig):
        super().__init__(config)
        self.model = TinyStoriesModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        loss_only: bool = False,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """As `TinyStoriesModel.forward`; labels: (batch, length), -100 for tokens without loss. The loss is in nats.

        loss_only: with labels, for training. There are no logits, which saves time and most of the memory; the last
        hidden states are in `hidden_states`.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        if loss_only and labels is not None and type(self.lm_head) is nn.Linear:  # not adapted, quantized or sharded
            return CausalLMOutputWithPast(
                loss=self._loss_alone(outputs.last_hidden_state, labels, kwargs.get("num_items_in_batch")),
                past_key_values=outputs.past_key_values,
                hidden_states=outputs.hidden_states or (outputs.last_hidden_state,),
                attentions=outputs.attentions,
            )
        logits = self.lm_head(keep_positions(outputs.last_hidden_state, logits_to_keep))
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def _loss_alone(self, hidden_states, labels, num_items_in_batch):
        """The loss of transformers' `ForCausalLMLoss`: over `num_items_in_batch`, or the mean without it."""
        targets = nn.functional.pad(labels, (0, 1), value=-100)[:, 1:].flatten().to(hidden_states.device)
        total = SumOfLosses.apply(hidden_states.flatten(0, 1), self.lm_head.weight, targets)
        return total / ((targets >= 0).sum() if num_items_in_batch is None else num_items_in_batch)


class TinyStoriesForSequenceClassification(GenericForSequenceClassification, TinyStoriesPreTrainedModel):
    """The decoder with a classification head on the last token of each text, for graders of stories."""

    def __init__(self, config: TinyStoriesConfig):
        # Not super().__init__: it creates the decoder by AutoModel, which inside a checkpoint needs trust_remote_code.
        TinyStoriesPreTrainedModel.__init__(self, config)
        self.num_labels = config.num_labels
        self.model = TinyStoriesModel(config)
        self.score = nn.Linear(config.hidden_size, config.num_labels, bias=False)
        self.post_init()


TinyStoriesModel.register_for_auto_class("AutoModel")
TinyStoriesForCausalLM.register_for_auto_class("AutoModelForCausalLM")
TinyStoriesForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")
