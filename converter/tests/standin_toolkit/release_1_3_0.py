"""Release 1.3.0: the parameters of 1.2.3, and no algorithm gdq any more."""

from typing import Any

from standin_toolkit import release_1_2_3


class RKLLM(release_1_2_3.RKLLM):
    release = "1.3.0"

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
        max_context: int = 4096,
    ) -> Any:
        if quantized_algorithm == "gdq":
            print("ERROR: quantized_algorithm gdq is not supported", flush=True)
            return -1
        return super().build(
            do_quantization,
            optimization_level,
            quantized_dtype,
            quantized_algorithm,
            num_npu_core,
            extra_qparams,
            dataset,
            hybrid_rate,
            target_platform,
            max_context,
        )
