"""A model of 113 million random weights, in the files that engines of layers read: safetensors and GGUF.

Both hold the same float32 numbers, so that whoever reads either one computes the same.
"""

from pathlib import Path

import numpy as np
from gguf import MODEL_ARCH, GGUFWriter, LlamaFileType, get_tensor_name_map

from exo.store import checkpoint
from tests import checkpoints

NAME = "random-113m"
ABOUT = "113 million random float32 weights in 12 layers, written alike as safetensors and as GGUF"
LAYERS, WIDTH = 12, 768
CONTEXT = 1024
LETTER, LETTER_TOKEN = "a", 64
"""What all tokens of an answer are, by a bias; and which one that is."""


def write(folder: Path) -> Path:
    """Makes the model's folder in `folder`; with the bundled model's tokenizer."""
    path = folder / NAME
    checkpoints.write(path, layers=LAYERS, width=WIDTH, intermediate=3072, heads=12, kv_heads=12)
    return path


def write_gguf(folder: Path, path: Path) -> None:
    """The model of `folder` for whoever is given tokens: the file's own ones have no names."""
    config = checkpoint.read(folder)
    writer = GGUFWriter(path, config.architecture)
    writer.add_file_type(LlamaFileType.ALL_F32)
    writer.add_context_length(config.context)
    writer.add_embedding_length(config.width)
    writer.add_block_count(config.layers)
    writer.add_feed_forward_length(config.intermediate)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.norm_epsilon)
    writer.add_token_list([str(token) for token in range(config.vocabulary)])
    names = get_tensor_name_map(MODEL_ARCH.QWEN2, config.layers)
    for name, place in checkpoint.tensors(folder).items():
        theirs = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert theirs is not None, f"{name} has no name in a GGUF file"
        array = np.memmap(folder / place.file, np.float32, "r", place.offset, place.shape)
        writer.add_tensor(theirs, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
