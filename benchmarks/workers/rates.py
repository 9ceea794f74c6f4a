"""Rates of this machine: matrix products of a step's shapes and of a large one, and copying memory that fits no cache.

float32, unless the case it stands beside trains in bfloat16; on the device of that case.
"""

import time
from collections.abc import Callable

import torch

from benchmarks.workers.protocol import Config, Repetition, Row, pin, serve

SECONDS = 0.5
COPY_BYTES = {"cpu": 1 << 28, "cuda": 1 << 32}


def rate(work: float, call: Callable[[], object], wait: Callable[[], object]) -> float:
    """`work` per second of `call`, over about SECONDS; `wait` returns when what was called is done."""
    call()
    wait()
    done, calls, began = 0, 1, time.perf_counter()
    while (spent := time.perf_counter() - began) < SECONDS or done < 3:
        for _ in range(calls):
            call()
        wait()
        done, calls = done + calls, min(2 * calls, 64)
    return done * work / spent


def build(config: Config) -> tuple[Repetition, Row]:
    pin(config["threads"])
    device, dim = torch.device(config["device"]), config["dim"]
    kind = torch.float32 if config["precision"] == "float32" else torch.bfloat16
    large = 2048 if device.type == "cpu" else 8192
    shapes = {"step": (config["tokens"], dim, 3 * dim), "ranking": (1024, dim, config["items"]), "large": (large, large, large)}
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None

    def repetition() -> Row:
        row: Row = {"units": 1}
        with torch.inference_mode():
            for name, (m, k, n) in shapes.items():
                a, b = (torch.randn(size, device=device).to(kind) for size in ((m, k), (k, n)))
                out = torch.empty(m, n, device=device, dtype=kind)
                row[f"flops_{name}"] = rate(2.0 * m * k * n, lambda a=a, b=b, out=out: torch.mm(a, b, out=out), wait)
            size = COPY_BYTES[device.type]
            source, target = (torch.zeros(size // 4, device=device) for _ in range(2))
            row["bytes"] = rate(2.0 * size, lambda: target.copy_(source), wait)
        return row

    repetition()
    return repetition, {"shapes": shapes}


if __name__ == "__main__":
    serve(("torch",), {"rates": build})
