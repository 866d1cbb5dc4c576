"""The size of the network, apart from the network: exporting must not need torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """A Qwen2. Six layers and two KV heads split evenly over two, three or six machines."""

    vocabulary: int = 512
    hidden: int = 128
    intermediate: int = 384
    layers: int = 6
    heads: int = 4
    kv_heads: int = 2
    context: int = 2048
    rope_theta: float = 10000.0
    norm_eps: float = 1e-6

    @property
    def head(self) -> int:
        return self.hidden // self.heads
