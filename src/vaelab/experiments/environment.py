"""What torch knows of the machine and of how it computes, for the manifest."""

from __future__ import annotations

from typing import Any

import torch

from vaelab.training import Trainer


def torch_record(trainer: Trainer) -> dict[str, Any]:
    """``device``, ``threads`` and ``determinism`` of the manifest, once the trainer is made: it sets some of them."""
    return {
        "device": device_record(trainer),
        "threads": {"intra_op": torch.get_num_threads(), "inter_op": torch.get_num_interop_threads()},
        "determinism": determinism_record(),
    }


def device_record(trainer: Trainer) -> dict[str, Any]:
    """The devices of this run. CUDA is asked only where it is used: a process that has asked it cannot be copied any more."""
    root = trainer.strategy.root_device
    is_cuda = root.type == "cuda"
    return {
        "kind": root.type,
        "name": torch.cuda.get_device_name(root) if is_cuda else None,
        "names": [torch.cuda.get_device_name(i) for i in trainer.device_ids] if is_cuda else [],
        "memory": torch.cuda.get_device_properties(root).total_memory if is_cuda else None,
        "capability": list(torch.cuda.get_device_capability(root)) if is_cuda else None,
        "number": trainer.num_devices,
        "nodes": trainer.num_nodes,
        "strategy": type(trainer.strategy).__name__,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if is_cuda else None,
    }


def determinism_record() -> dict[str, Any]:
    """The switches by which the same operation gives other bits."""
    backends: Any = torch.backends  # its stubs know less than it has
    return {
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "warn_only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "cudnn_deterministic": backends.cudnn.deterministic,
        "cudnn_benchmark": backends.cudnn.benchmark,
        "float32_matmul_precision": _matmul_precision(),
        "fp32_precision": {  # none = float32 itself; tf32, bf16 = rounded before it is multiplied
            "cuda.matmul": backends.cuda.matmul.fp32_precision,
            "cudnn.conv": backends.cudnn.conv.fp32_precision,
            "cudnn.rnn": backends.cudnn.rnn.fp32_precision,
            "mkldnn.matmul": backends.mkldnn.matmul.fp32_precision,
            "mkldnn.conv": backends.mkldnn.conv.fp32_precision,
        },
        "flush_denormal": _flushes_denormal(),
        "mkldnn": backends.mkldnn.enabled,
    }


def _matmul_precision() -> str | None:
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # torch refuses to sum up what was set for each backend; that is recorded
        return None


def _flushes_denormal() -> bool:
    """Torch sets it and does not tell it."""
    return float(torch.tensor(1e-40) * 0.5) == 0.0
