"""From a Hugging Face or GGUF model to a .rkllm file for Rockchip's NPU, in a folder that rkllama scans."""

__version__ = "0.1.0"
