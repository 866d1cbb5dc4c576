"""tinygrad on a CPU, compiled by the LLVM inside llvmlite.

tinygrad compiles for a CPU with clang, or with a libLLVM through its C interface. A board has neither;
llvmlite, a wheel for x86-64 and aarch64, has LLVM inside but not that interface. Both take the same LLVM IR,
so all that is exchanged here is what makes machine code of it. Target and passes are those of
`tinygrad.runtime.support.compiler_cpu`, release 0.13.0.
"""

import platform

import llvmlite.binding as llvm
from tinygrad.device import Compiler, Device
from tinygrad.helpers import DEV, Target
from tinygrad.renderer.llvmir import CPULLVMRenderer, LLVMRenderer
from tinygrad.runtime.support.elf import jit_loader

from exo.engines.tinygrad import MACHINES

RENDERER = "LLVMLITE"
"""How tinygrad's DEV names the one below: by its class."""

# tinygrad has sums added up one by one, each waiting for the one before it.
_IN_ORDER, _IN_ANY_ORDER = "= fadd nsz ", "= fadd reassoc nsz "


class LlvmliteCompiler(Compiler):
    """LLVM IR to machine code for a processor; what it made is in tinygrad's cache on disk."""

    def __init__(self, machine: str, processor: str, features: str) -> None:
        llvm.initialize_all_targets()
        llvm.initialize_all_asmprinters()
        if machine == "aarch64":
            # macOS and Windows keep this register for themselves.
            features = ",".join(filter(None, ("+reserve-x18", features)))
        # No system's name: the code calls nothing, and is loaded by tinygrad, not by the system.
        target = llvm.Target.from_triple(f"{machine}-none-unknown-elf")
        self._machine = target.create_target_machine(
            cpu=processor, features=features, opt=2, reloc="pic", codemodel="default"
        )
        release = ".".join(map(str, llvm.llvm_version_info))
        super().__init__(f"compile_llvmlite_any_order_{release}_{machine}_{processor}_{features}")

    def compile(self, src: str) -> bytes:
        tuning = llvm.create_pipeline_tuning_options(speed_level=2)
        tuning.loop_unrolling = tuning.loop_vectorization = tuning.slp_vectorization = True
        builder = llvm.create_pass_builder(self._machine, tuning)
        with llvm.parse_assembly(src.replace(_IN_ORDER, _IN_ANY_ORDER)) as module:
            module.verify()
            builder.getModulePassManager().run(module, builder)
            return jit_loader(self._machine.emit_object(module))


class CPULlvmliteRenderer(CPULLVMRenderer):
    def __init__(self, target: Target) -> None:
        # Not CPULLVMRenderer's own, which looks for a libLLVM.
        LLVMRenderer.__init__(self, target)
        machine = MACHINES[platform.machine().lower()]
        features = llvm.get_host_cpu_features().flatten()
        self.compiler = LlvmliteCompiler(machine, llvm.get_host_cpu_name(), features)


def use_llvmlite(threads: int | None) -> None:
    """Has this process compute on the CPU, with `threads` or else as many as it has cores."""
    device = Device["CPU"]
    if CPULlvmliteRenderer not in device.renderers:
        device.renderers.insert(0, CPULlvmliteRenderer)
    if threads is not None:
        CPULlvmliteRenderer.global_max = (threads, 0, 0)
    DEV.value = f"CPU:{RENDERER}"
