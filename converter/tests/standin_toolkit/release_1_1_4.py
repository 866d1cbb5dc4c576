"""Release 1.1.4: no `dtype` to load in, and no `max_context`."""

from typing import Any

from standin_toolkit.behaviour import Base


class RKLLM(Base):
    release = "1.1.4"

    def load_huggingface(self, model: str, model_lora: str | None = None, device: str = "cpu") -> Any:
        self._record("load_huggingface", locals())
        return self._load("load_huggingface", model, model_lora)

    def load_gguf(self, model: str) -> Any:
        self._record("load_gguf", locals())
        return self._load("load_gguf", model)

    def build(
        self,
        do_quantization: bool = True,
        optimization_level: int = 1,
        quantized_dtype: str = "w8a8",
        quantized_algorithm: str = "normal",
        num_npu_core: int = 3,
        extra_qparams: str | None = None,
        dataset: str | None = None,
        hybrid_rate: float = 0,
        target_platform: str = "rk3588",
    ) -> Any:
        self._record("build", locals())
        return self._build(
            platform=target_platform,
            dtype=quantized_dtype,
            cores=num_npu_core,
            context=2048,
            dataset=dataset,
        )

    def export_rkllm(self, export_path: str) -> Any:
        self._record("export_rkllm", locals())
        return self._export(export_path)
