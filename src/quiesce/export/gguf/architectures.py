"""Model classes of Transformers that llama.cpp runs, and how their parts are called in GGUF.

The names of tensors come from the gguf package. This file knows the rest: the numbers of a
configuration, the order of rows that llama.cpp expects, and values that it adds to a parameter.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from quiesce.errors import ExportError

if TYPE_CHECKING:
    from gguf import GGUFWriter


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One model class."""

    name: str
    """Name in GGUF."""
    write_numbers: "Callable[[GGUFWriter, Any], None]"
    """Writes the numbers of a configuration."""
    heads: Callable[[str, Any], int | None] = lambda name, config: None
    """Number of heads by which the rows of a tensor are interleaved, or None; see `interleaved`."""
    offset: Callable[[str], float] = lambda name: 0.0
    """Number added to a float parameter."""
    ignored: tuple[str, ...] = ()
    """Beginnings of the names of parameters that llama.cpp does not use."""


def architecture_of(config: Any) -> Architecture:
    """Return the architecture of a configuration of Transformers.

    Raises:
        ExportError: There is no mapping for this class, or for a setting of it.
    """
    kind = getattr(config, "model_type", None)
    if kind not in _ARCHITECTURES:
        known = ", ".join(sorted(_ARCHITECTURES))
        raise ExportError(
            f"GGUF: no mapping for {type(config).__name__} (model_type {kind!r}); there is one for "
            f"{known}. Export it with target='onnx', or give your model one of these configurations"
        )
    scaling = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if scaling != "default":
        raise ExportError(f"GGUF: rope_type {scaling!r} has no mapping; only 'default' has one")
    return _ARCHITECTURES[kind]


def interleaved(rows: np.ndarray, heads: int) -> np.ndarray:
    """Return the rows in the order of llama.cpp's rotary embedding.

    Transformers rotates row i of a head with row i + size/2, llama.cpp rotates neighbours.

    Args:
        rows: (heads * size, ...).
        heads: Number of heads.
    """
    halves = rows.reshape(heads, 2, len(rows) // heads // 2, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)


def _decoder_numbers(writer: "GGUFWriter", config: Any) -> None:
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    _common_numbers(writer, config)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_rope_dimension_count(size)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])


def _encoder_numbers(writer: "GGUFWriter", config: Any) -> None:
    from gguf import PoolingType

    _common_numbers(writer, config)
    writer.add_layer_norm_eps(config.layer_norm_eps)
    writer.add_causal_attention(False)
    writer.add_pooling_type(PoolingType.MEAN)


def _common_numbers(writer: "GGUFWriter", config: Any) -> None:
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)


def _llama_heads(name: str, config: Any) -> int | None:
    if ".q_proj." in name:
        return config.num_attention_heads
    return config.num_key_value_heads if ".k_proj." in name else None


_ARCHITECTURES = {
    "llama": Architecture(name="llama", write_numbers=_decoder_numbers, heads=_llama_heads),
    "qwen2": Architecture(name="qwen2", write_numbers=_decoder_numbers),
    "qwen3": Architecture(name="qwen3", write_numbers=_decoder_numbers),
    # Gemma multiplies by 1 + weight in its norms
    "gemma": Architecture(
        name="gemma",
        write_numbers=_decoder_numbers,
        offset=lambda name: 1.0 if name.endswith("norm.weight") else 0.0,
    ),
    "bert": Architecture(
        name="bert", write_numbers=_encoder_numbers, ignored=("pooler.", "cls.", "bert.pooler.")
    ),
}
