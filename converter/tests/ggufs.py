"""GGUF files for tests, written by llama.cpp's own library."""

from pathlib import Path

import gguf
import numpy as np


def write_gguf(path: Path, *, file_type: int, template: str = "", architecture: str = "qwen2") -> None:
    """A header as llama.cpp's tools write it, and one tensor of a million parameters and a few."""
    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_file_type(file_type)
    writer.add_context_length(8192)
    writer.add_block_count(6)
    writer.add_embedding_length(128)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_token_list(["a", "b", "c"])
    writer.add_array("tokenizer.ggml.scores", [0.5, 0.25, 0.125])
    if template:
        writer.add_chat_template(template)
    writer.add_tensor("blk.0.weight", np.zeros((1024, 1001), dtype=np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
