"""What all releases of the stand-in toolkit do."""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from demo.rkllm_container import Label, write

DTYPES = {
    "rk3588": {"w8a8", "w8a8_g128", "w8a8_g256", "w8a8_g512"},
    "rk3576": {"w4a16", "w4a16_g32", "w4a16_g64", "w4a16_g128", "w8a8"},
    "rk3562": {"w8a8", "w4a16_g32", "w4a16_g64", "w4a16_g128", "w4a8_g32"},
    "rv1126b": {"w4a16", "w4a16_g32", "w4a16_g64", "w4a16_g128", "w8a8"},
}


class Fault:
    """What goes wrong, by the environment."""

    def __init__(self) -> None:
        self.method, _, rest = os.environ.get("TOOLKIT_STANDIN_FAULT", "").partition(":")
        self.kind, _, self.text = rest.partition(":")

    def of(self, method: str) -> str:
        return self.kind if method == self.method else ""

    def strike(self, method: str) -> bool:
        """Whether the method is to return -1."""
        kind = self.of(method)
        if kind == "raises":
            raise RuntimeError(self.text)
        if kind == "exits":
            sys.exit(1)
        if kind in ("killed", "segfault"):
            os.kill(os.getpid(), signal.SIGKILL if kind == "killed" else signal.SIGSEGV)
        if kind == "hangs":
            print("hanging", flush=True)
            time.sleep(600)
        if kind == "returns":
            print(f"ERROR: {self.text}", flush=True)
        return kind == "returns"


class Base:
    """The methods' work; the releases have the signatures."""

    release: str

    def __init__(self) -> None:
        print(f"INFO: rkllm-toolkit version: {self.release}", flush=True)
        self._fault = Fault()
        self._source: Path | None = None
        self._lora = False
        self._label: Label | None = None

    def _record(self, method: str, arguments: dict[str, Any]) -> None:
        given = {name: value for name, value in arguments.items() if name not in ("self", "__class__")}
        if file := os.environ.get("TOOLKIT_STANDIN_RECORD"):
            with open(file, "a", encoding="utf-8") as record:
                record.write(json.dumps({"method": method, "arguments": given}) + "\n")

    def _load(self, method: str, model: str, lora: str | None = None) -> Any:
        if self._fault.strike(method):
            return -1
        # A GGUF file stands for the folder that it lies in.
        folder = Path(model) if Path(model).is_dir() else Path(model).parent
        if not (folder / "config.json").is_file():
            print(f"ERROR: model file {model} not exist!", flush=True)
            return -1
        self._source, self._lora = folder, lora is not None
        return None if self._fault.of(method) == "none" else 0

    def _build(self, *, platform: str, dtype: str, cores: int, context: int, dataset: str | None) -> Any:
        if self._source is None:
            print("ERROR: load a model first!", flush=True)
            return -1
        if dtype not in DTYPES.get(platform, set()):
            print(f"ERROR: The quantized_dtype = '{dtype}' is not supported in '{platform}'!", flush=True)
            return -1
        if dataset is not None:
            rows = json.loads(Path(dataset).read_text(encoding="utf-8"))
            assert all(set(row) == {"input", "target"} for row in rows)
            print(f"Generating train split: {len(rows)} examples [00:00, 3327.05 examples/s]", flush=True)
        for layer in range(4):
            bar = f"\rOptimizing model: {25 * layer:3d}%|##      | {layer}/4 [00:00<00:00,  1.07it/s]"
            print(bar, end="", file=sys.stderr, flush=True)
        print("\rOptimizing model: 100%|########| 4/4 [00:01<00:00,  1.07it/s]", file=sys.stderr, flush=True)
        if self._fault.strike("build"):
            return -1
        if self._fault.of("build") == "context":
            context = int(self._fault.text)
        if self.release != "1.1.4":
            print(f"INFO: Setting max_context_limit to {context}", flush=True)
        self._label = Label(self.release, platform, dtype, context, cores)
        return None if self._fault.of("build") == "none" else 0

    def _export(self, path: str) -> Any:
        if self._fault.strike("export_rkllm"):
            return -1
        assert self._source is not None
        assert self._label is not None
        print("INFO: Exporting the model, please wait ....", flush=True)
        kind = self._fault.of("export_rkllm")
        if kind == "nothing":
            return 0
        write(self._source, Path(path), self._label)
        if self._lora:
            adapter = Path(path)
            adapter.with_name(f"{adapter.stem}_lora.rkllm").write_bytes(b"an adapter")
        if kind in ("full", "half"):
            os.truncate(path, Path(path).stat().st_size // (2 if kind == "full" else 20))
        if kind == "full":
            print(
                "ERROR: Catch exception when converting model: Not enough free space to write 156797952 bytes"
            )
            return -1
        print("[=================================================>] 597/597 (100%)", flush=True)
        print(f"INFO: Model has been saved to {path}!", flush=True)
        return None if kind == "none" else 0
