"""What every worker does alike; standard library alone, as it runs in the environments of the peers too.

    python -m benchmarks.workers.NAME '{"measurement": "pretrain", "threads": 1, ...}'

builds what the measurement needs, warms up, and prints one JSON line (versions, facts). Then each line on standard input is
answered by one repetition and one JSON line: at least `units` and `seconds`. The end of standard input ends the worker.
Whatever a library prints goes to standard error.
"""

import gc
import json
import os
import resource
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

Config = dict[str, Any]
Row = dict[str, Any]
Repetition = Callable[[], Row]
Builder = Callable[[Config], tuple[Repetition, Row]]


def serve(packages: tuple[str, ...], builders: dict[str, Builder]) -> None:
    """Run the measurement that the first argument names; `packages` are those whose versions are reported."""
    config = json.loads(sys.argv[1])
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    warnings.filterwarnings("ignore")
    began = time.perf_counter()
    repetition, facts = builders[config["measurement"]](config)
    pin(config["threads"])
    ready = {"versions": {name: version(name) for name in packages}, "setup_seconds": time.perf_counter() - began, **facts}
    print(json.dumps(ready), file=out, flush=True)
    for _ in sys.stdin:
        gc.collect()
        before, wall = cpu_seconds(), time.perf_counter()
        row = repetition()
        row.setdefault("seconds", time.perf_counter() - wall)
        row |= {"cpu_seconds": cpu_seconds() - before, "peak_mb": peak_mb()}
        print(json.dumps(row), file=out, flush=True)


def pin(threads: int) -> None:
    """Hold torch to `threads`; what else computes is held by the environment variables the runner sets."""
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(threads)


def cpu_seconds() -> float:
    """Processor time of this process and of its children that ended, user and system."""
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in spent)


def peak_mb() -> float:
    """Largest resident memory of this process so far, in 10⁶ bytes.

    ru_maxrss would count what the runner held when it started this process, so Linux's own figure is read where there is one.
    """
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024 / 1e6
    except OSError:
        pass
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def counted_flops(step: Callable[[], Any]) -> float:
    """FLOPs of the matrix products of one `step`, forward and backward, as torch counts them.

    Attention is run as plain products meanwhile: torch has no formula for its fused form on a CPU.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), counter:
        step()
    return float(counter.get_total_flops())


def no_gradients() -> AbstractContextManager[Any]:
    """`torch.inference_mode()`, or nothing where torch was not loaded."""
    if "torch" not in sys.modules:
        return nullcontext()
    import torch

    return torch.inference_mode()
