"""From a checkpoint to the files that ship, and between their two forms without losing a bit.

`python -m demo.export CHECKPOINT OUT_DIR` writes a Hugging Face folder with bfloat16 weights and,
made from that folder, a GGUF file. The GGUF holds the same numbers widened to float32, so that
every engine can be compared in float32; `from_gguf` narrows them again and must arrive at the same
folder.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import MODEL_ARCH, GGUFReader, GGUFWriter, LlamaFileType, TokenType, get_tensor_name_map
from numpy.typing import NDArray
from safetensors import TensorSpec, deserialize, serialize_file
from tokenizers import Tokenizer

from demo import template, tokenizer
from demo.shape import Shape

NAME = "exo-demo"
GGUF_FILE = "model.gguf"

Bits = NDArray[np.uint16]  # bfloat16, which numpy does not know, as its bits


@dataclass(frozen=True)
class Package:
    """All that the shipped files say."""

    shape: Shape
    weights: dict[str, Bits]
    tokenizer: Tokenizer
    chat_template: str


def from_checkpoint(directory: Path) -> Package:
    """What `demo.train` left in this folder."""
    import torch  # type: ignore[import-not-found, unused-ignore]  # only here: no other form needs it

    state = torch.load(directory / "model.pt", weights_only=True)
    weights = {name: tensor.view(torch.uint16).numpy() for name, tensor in state.items()}
    known = Tokenizer.from_file(str(directory / "tokenizer.json"))
    return Package(Shape(), weights, known, template.PATH.read_text(encoding="utf-8"))


def to_hf(package: Package, directory: Path) -> None:
    """Writes the folder as transformers, MLX and tinygrad read it."""
    directory.mkdir(parents=True, exist_ok=True)
    package.tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "chat_template.jinja").write_text(package.chat_template, encoding="utf-8")
    for name, content in (
        ("config.json", _config(package)),
        ("generation_config.json", _generation_config(package)),
        ("tokenizer_config.json", _tokenizer_config(package)),
    ):
        (directory / name).write_text(
            json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
    held = {name: np.ascontiguousarray(bits) for name, bits in package.weights.items()}
    specs = {
        name: TensorSpec(
            dtype="bfloat16",
            shape=list(bits.shape),
            data_ptr=bits.ctypes.data,
            data_len=bits.nbytes,
        )
        for name, bits in held.items()
    }
    serialize_file(specs, directory / "model.safetensors", {"format": "pt"})
    (directory / "model.safetensors").chmod(0o644)  # the library keeps it to its owner


def from_hf(directory: Path) -> Package:
    """Reads such a folder."""
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    weights = {}
    for name, tensor in deserialize(  # type: ignore[no-untyped-call]
        (directory / "model.safetensors").read_bytes()
    ):
        if tensor["dtype"] != "BF16":
            raise ValueError(f"{name} is {tensor['dtype']}, not BF16")
        weights[name] = np.frombuffer(tensor["data"], np.uint16).reshape(tensor["shape"])
    shape = Shape(
        vocabulary=config["vocab_size"],
        hidden=config["hidden_size"],
        intermediate=config["intermediate_size"],
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        kv_heads=config["num_key_value_heads"],
        context=config["max_position_embeddings"],
        rope_theta=config["rope_theta"],
        norm_eps=config["rms_norm_eps"],
    )
    known = Tokenizer.from_file(str(directory / "tokenizer.json"))
    return Package(shape, weights, known, (directory / "chat_template.jinja").read_text(encoding="utf-8"))


def to_gguf(hf_dir: Path, path: Path) -> None:
    """Makes the GGUF file from a Hugging Face folder."""
    package = from_hf(hf_dir)
    shape = package.shape
    end_of_text, end_of_turn = _ends(package)
    writer = GGUFWriter(path, "qwen2")
    writer.add_type("model")
    writer.add_name(NAME)
    writer.add_size_label("1.2M")
    writer.add_license("apache-2.0")
    writer.add_description("A toy for trying exo: small sums, counting, spelling and a few fixed questions.")
    writer.add_file_type(LlamaFileType.ALL_F32)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.intermediate)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_freq_base(shape.rope_theta)
    writer.add_layer_norm_rms_eps(shape.norm_eps)
    writer.add_vocab_size(shape.vocabulary)
    tokens = tokenizer.tokens(package.tokenizer)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([_token_type(token) for token in tokens])
    writer.add_token_merges(tokenizer.merges(package.tokenizer))
    writer.add_bos_token_id(end_of_text)
    writer.add_eos_token_id(end_of_turn)
    writer.add_eot_token_id(end_of_turn)
    writer.add_pad_token_id(end_of_text)
    writer.add_add_bos_token(False)
    writer.add_chat_template(package.chat_template)
    for hf_name, gguf_name in _tensor_names(shape):
        writer.add_tensor(gguf_name, _widen(package.weights[hf_name]))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def from_gguf(path: Path, out_dir: Path) -> None:
    """Makes the Hugging Face folder from a GGUF file that `to_gguf` wrote."""
    reader = GGUFReader(path)

    def value(key: str) -> Any:
        if (found := reader.get_field(key)) is None:
            raise ValueError(f"{path} does not say {key}")
        return found.contents()

    shape = Shape(
        vocabulary=value("qwen2.vocab_size"),
        hidden=value("qwen2.embedding_length"),
        intermediate=value("qwen2.feed_forward_length"),
        layers=value("qwen2.block_count"),
        heads=value("qwen2.attention.head_count"),
        kv_heads=value("qwen2.attention.head_count_kv"),
        context=value("qwen2.context_length"),
        rope_theta=_shortest(value("qwen2.rope.freq_base")),
        norm_eps=_shortest(value("qwen2.attention.layer_norm_rms_epsilon")),
    )
    tensors = {tensor.name: tensor.data for tensor in reader.tensors}
    weights = {hf_name: _narrow(tensors[gguf_name]) for hf_name, gguf_name in _tensor_names(shape)}
    known = tokenizer.rebuild(value("tokenizer.ggml.tokens"), value("tokenizer.ggml.merges"))
    to_hf(Package(shape, weights, known, value("tokenizer.chat_template")), out_dir)


def _config(package: Package) -> dict[str, Any]:
    shape = package.shape
    end_of_text, end_of_turn = _ends(package)
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "max_position_embeddings": shape.context,
        "rope_theta": shape.rope_theta,
        "rms_norm_eps": shape.norm_eps,
        "hidden_act": "silu",
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "tie_word_embeddings": True,
        "use_sliding_window": False,
        "use_cache": True,
        "torch_dtype": "bfloat16",
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_turn,
    }


def _generation_config(package: Package) -> dict[str, Any]:
    end_of_text, end_of_turn = _ends(package)
    return {
        "bos_token_id": end_of_text,
        "eos_token_id": [end_of_turn, end_of_text],
        "pad_token_id": end_of_text,
        "do_sample": False,
    }


def _tokenizer_config(package: Package) -> dict[str, Any]:
    added = sorted(package.tokenizer.get_added_tokens_decoder().items())
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": package.shape.context,
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "add_bos_token": False,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "additional_special_tokens": list(tokenizer.CONTROL[1:]),
        "added_tokens_decoder": {
            str(id): {
                "content": token.content,
                "lstrip": False,
                "normalized": False,
                "rstrip": False,
                "single_word": False,
                "special": token.special,
            }
            for id, token in added
        },
        "chat_template": package.chat_template,
    }


def _ends(package: Package) -> tuple[int, int]:
    """The ids that end a text and a turn."""
    known = package.tokenizer
    return tokenizer.token_id(known, "<|endoftext|>"), tokenizer.token_id(known, "<|im_end|>")


def _tensor_names(shape: Shape) -> Iterator[tuple[str, str]]:
    """Each weight's name in a Hugging Face folder and in a GGUF file, in the order of use."""
    known = get_tensor_name_map(MODEL_ARCH.QWEN2, shape.layers)
    names = ["model.embed_tokens.weight"]
    for layer in (f"model.layers.{index}" for index in range(shape.layers)):
        names.append(f"{layer}.input_layernorm.weight")
        names += [f"{layer}.self_attn.{part}_proj.{kind}" for part in "qkv" for kind in ("weight", "bias")]
        names += [f"{layer}.self_attn.o_proj.weight", f"{layer}.post_attention_layernorm.weight"]
        names += [f"{layer}.mlp.{part}_proj.weight" for part in ("gate", "up", "down")]
    for name in [*names, "model.norm.weight"]:
        if (translated := known.get_name(name, (".weight", ".bias"))) is None:
            raise ValueError(f"GGUF has no name for {name}")
        yield name, translated


def _token_type(token: str) -> TokenType:
    if token in tokenizer.CONTROL:
        return TokenType.CONTROL
    return TokenType.USER_DEFINED if token in tokenizer.MARKERS else TokenType.NORMAL


def _widen(bits: Bits) -> NDArray[np.float32]:
    """A bfloat16 is the upper half of a float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _narrow(numbers: NDArray[np.float32]) -> Bits:
    bits = np.ascontiguousarray(numbers).view(np.uint32)
    if np.any(bits & 0xFFFF):
        raise ValueError("these weights are no widened bfloat16: narrowing would change them")
    return (bits >> 16).astype(np.uint16)


def _shortest(number: float) -> float:
    """GGUF keeps float32; the number that was meant is its shortest spelling."""
    return float(str(np.float32(number)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path, help="a folder that demo.train wrote")
    parser.add_argument("out_dir", type=Path)
    options = parser.parse_args()
    to_hf(from_checkpoint(options.checkpoint), options.out_dir)
    to_gguf(options.out_dir, options.out_dir / GGUF_FILE)


if __name__ == "__main__":
    main()
