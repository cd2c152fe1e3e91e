"""Writes a language model or an embedder as a GGUF file, with the trained codes.

The usual way to GGUF rounds float weights again, by a rule of its own: of a network trained for
Q4_0, it changes about half of the codes. Here the codes and scales of the training are written.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from quiesce.errors import ExportError, MismatchError
from quiesce.export.checks import check_path
from quiesce.export.gguf.architectures import Architecture, architecture_of, interleaved
from quiesce.export.gguf.blocks import Blocks, blocks_of
from quiesce.export.gguf.reading import compare_weights
from quiesce.export.gguf.vocabulary import write_vocabulary
from quiesce.extras import require
from quiesce.files.atomic import write_beside
from quiesce.parallel.wrappers import without_wrappers
from quiesce.quantization.prepare import quantized_weights


@dataclass(frozen=True, kw_only=True)
class GgufExport:
    """The file that `export_gguf` wrote, and its comparison with the trained network."""

    path: Path
    """The file."""
    size: int
    """Size of the file in bytes."""
    architecture: str
    """Name of the architecture in GGUF."""
    codes: int
    """Number of weight codes compared."""
    codes_changed: int
    """Codes in the file that are not the trained ones."""
    scales: int
    """Number of scales compared."""
    scales_changed: int
    """Scales in the file that are not the trained ones."""
    left_float: tuple[str, ...]
    """Matrices that the file holds in float32."""


@torch.no_grad()
def export_gguf(
    model: nn.Module, path: str | Path, *, tokenizer: Any = None, overwrite: bool = False
) -> GgufExport:
    """Write a prepared Transformers model as a GGUF file, as llama.cpp reads it.

    Layers of up to 4 bits become Q4_0, wider ones Q8_0, and everything else stays in float32. The
    file is read again and compared with the model before it gets its name.

    Args:
        model: A prepared `LlamaForCausalLM`, `Qwen2ForCausalLM`, `Qwen3ForCausalLM`,
            `GemmaForCausalLM` or `BertModel`, or an AveragedModel of one, with groups of a multiple
            of 32 inputs and float16 scales: `Scheme(group_size=32, scale_dtype="float16",
            act_bits=None)`. It does not change.
        path: The file to write.
        tokenizer: A fast tokenizer of Transformers with byte-level BPE or WordPiece, or None for a
            file that takes token ids only.
        overwrite: Replace an existing file.

    Returns:
        The file and the number of codes and scales that changed, which is 0.

    Raises:
        ExportError: The file exists; the model class, a layer's groups or the tokenizer have no
            mapping. The message names the layer and the scheme that works.
        MismatchError: The file does not hold the trained codes; nothing is written.
        MissingExtraError: The gguf package is not installed.
        NothingToDoError: The model is not prepared.

    Examples:
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> sizes = dict(hidden_size=64, intermediate_size=64, num_hidden_layers=1)
        >>> config = LlamaConfig(vocab_size=40, num_attention_heads=2, **sizes)
        >>> model = LlamaForCausalLM(config)
        >>> scheme = qs.Scheme(act_bits=None, group_size=32, scale_dtype="float16")
        >>> _ = qs.prepare(model, scheme, {"input_ids": torch.zeros(1, 4, dtype=torch.long)})
        >>> made = qs.export_gguf(model.eval(), "model.gguf")
        >>> made.size > 0
        True
    """
    gguf = require("gguf", "the export to GGUF", "gguf")
    path, model = check_path(path, overwrite=overwrite), without_wrappers(model)
    architecture = architecture_of(getattr(model, "config", None))
    tensors = named_tensors(model, architecture)

    def write(beside: Path) -> None:
        writer = gguf.GGUFWriter(beside, architecture.name)
        architecture.write_numbers(writer, model.config)
        write_vocabulary(writer, tokenizer, architecture.name)
        for name, values in tensors.items():
            if isinstance(values, Blocks):
                packed = values.kind.pack(values.codes, values.scales)
                kind = gguf.GGMLQuantizationType[values.kind.name]
                writer.add_tensor(name, packed, raw_dtype=kind)
            else:
                writer.add_tensor(name, values)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        changed.append(compare_weights(beside, tensors))
        if any(changed[0]):
            raise MismatchError(
                f"{path} was not written: {changed[0].codes} codes and {changed[0].scales} scales "
                "in it are not the trained ones; please report this"
            )

    changed = []
    write_beside(path, write)
    blocks = [values for values in tensors.values() if isinstance(values, Blocks)]
    return GgufExport(
        path=path,
        size=path.stat().st_size,
        architecture=architecture.name,
        codes=sum(each.codes.size for each in blocks),
        codes_changed=changed[0].codes,
        scales=sum(each.scales.size for each in blocks),
        scales_changed=changed[0].scales,
        left_float=tuple(
            name
            for name, values in tensors.items()
            if not isinstance(values, Blocks) and values.ndim > 1
        ),
    )


def named_tensors(model: nn.Module, architecture: Architecture) -> dict[str, np.ndarray | Blocks]:
    """Return the tensors of the file by their names in GGUF: float32, or blocks.

    Raises:
        ExportError: A parameter has no name in GGUF, or a weight does not fit its blocks.
    """
    import gguf

    config: Any = model.config
    names = gguf.get_tensor_name_map(
        gguf.MODEL_ARCH[architecture.name.upper()], config.num_hidden_layers
    )
    quantized = {id(weight.latent): weight for weight in quantized_weights(model)}
    tensors: dict[str, np.ndarray | Blocks] = {}
    unknown = []
    for name, parameter in model.named_parameters():  # a tied parameter comes once
        if name.startswith(architecture.ignored) or "_quantizer." in name:
            continue
        found = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if found is None:
            unknown.append(name)
            continue
        heads = architecture.heads(name, config)
        weight = quantized.get(id(parameter))
        if weight is None:
            values = parameter.detach().float().cpu().numpy() + architecture.offset(name)
            values = values.astype(np.float32)
            tensors[found] = values if heads is None else interleaved(values, heads)
        else:
            blocks = blocks_of(weight)
            tensors[found] = (
                blocks
                if heads is None
                else blocks.reordered(lambda rows, heads=heads: interleaved(rows, heads))
            )
    if unknown:
        raise ExportError(
            f"GGUF: {', '.join(unknown[:3])}{' ...' if len(unknown) > 3 else ''} ("
            f"{len(unknown)} parameters) have no name in the architecture {architecture.name}"
        )
    return tensors
