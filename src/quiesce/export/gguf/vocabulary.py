"""The vocabulary of a Transformers tokenizer in the form of GGUF.

Byte-level BPE and WordPiece are supported. Without a tokenizer, the file takes token ids only.
"""

import json
from typing import TYPE_CHECKING, Any

from quiesce.errors import ExportError

if TYPE_CHECKING:
    from gguf import GGUFWriter

_SPECIAL = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
_SPLITTING = {"llama": "llama-bpe", "qwen2": "qwen2", "qwen3": "qwen2"}
"""llama.cpp's name of the rule that splits text before BPE, by architecture."""


def write_vocabulary(writer: "GGUFWriter", tokenizer: Any, architecture: str) -> None:
    """Write the tokens, their kinds and the special ones.

    Args:
        writer: The file.
        tokenizer: A fast tokenizer of Transformers, or None.
        architecture: Name of the architecture in GGUF.

    Raises:
        ExportError: The tokenizer is of another kind.
    """
    if tokenizer is None:
        writer.add_tokenizer_model("no_vocab")
        return
    backend = getattr(tokenizer, "backend_tokenizer", None)
    model = {} if backend is None else json.loads(backend.to_str())["model"]
    if model.get("type") not in ("BPE", "WordPiece"):
        kind = model.get("type", type(tokenizer).__name__)
        raise ExportError(
            f"GGUF: the tokenizer is {kind}; BPE and WordPiece of a fast tokenizer can be written. "
            "With tokenizer=None, the file takes token ids"
        )
    tokens = {index: token for token, index in tokenizer.get_vocab().items()}
    texts = [tokens.get(index, f"[PAD{index}]") for index in range(max(tokens) + 1)]
    special = set(tokenizer.all_special_tokens)
    if model["type"] == "WordPiece":
        writer.add_tokenizer_model("bert")
        writer.add_token_type_count(2)
        shown = [text if text in special else _beginning_marked(text) for text in texts]
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(_SPLITTING.get(architecture, "default"))
        writer.add_token_merges([" ".join(pair) for pair in _pairs(model["merges"])])
        shown = texts
    writer.add_token_list(shown)
    writer.add_token_types([_kind(text in special, i in tokens) for i, text in enumerate(texts)])
    for name in _SPECIAL:
        index = getattr(tokenizer, f"{name}_token_id", None)
        if index is not None:
            writer.add_uint32(f"tokenizer.ggml.{_KEYS.get(name, name)}_token_id", index)


_KEYS = {"unk": "unknown", "sep": "seperator", "pad": "padding"}  # "seperator" is GGUF's spelling


def _beginning_marked(text: str) -> str:
    """Mark the beginning of words, as GGUF does, instead of their continuation."""
    return text[2:] if text.startswith("##") else f"\u2581{text}"


def _pairs(merges: list[Any]) -> list[list[str]]:
    return [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]


def _kind(special: bool, known: bool) -> int:
    from gguf import TokenType

    if not known:
        return TokenType.UNUSED
    return TokenType.CONTROL if special else TokenType.NORMAL
