"""The compiled kernels: built once on the machine they run on, loaded through ctypes, checked, and done without where they cannot be.

Nothing is compiled at import; the first training or encoding on a CPU does it (about two seconds, kept in the user's cache folder).
Without a C compiler, or with USERCLUE_KERNELS=off, PyTorch does the same work where they would be called: `nn.fused`, `nn.heads`,
`nn.dropout`, `nn.distinct`, `train.rows`, `metrics.ranking`.
"""

import ctypes
import functools
import hashlib
import mmap
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("kernels")
FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-shared", "-fPIC")
PARALLEL = (("-fopenmp",), ())  # not every compiler brings OpenMP; without it the kernels use one thread
_PATIENCE = 120  # seconds for the compiler
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _MADV_HUGEPAGE = -1, -2, -3, 14  # malloc.h, madvise(2)

_POINTER, _LONG, _FLOAT, _INT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_int
SIGNATURES = {
    "userclue_blocks_forward": (_POINTER, _LONG),
    "userclue_blocks_backward": (_POINTER, _LONG),
    "userclue_embed_forward": (_POINTER,),
    "userclue_embed_backward": (_POINTER,),
    "userclue_first": (_POINTER,),
    "userclue_head_forward": (_POINTER,),
    "userclue_head_backward": (_POINTER,),
    "userclue_distinct": (_POINTER, _LONG, _LONG, _POINTER, _POINTER, _POINTER),
    "userclue_lazy_adam": (_POINTER,),
    "userclue_ranking": (_POINTER,),
    "userclue_dropout": (_POINTER, _POINTER, _LONG, ctypes.c_uint32, _FLOAT, ctypes.c_uint64, _INT),
}


def kernels() -> ctypes.CDLL | None:
    """The compiled kernels, or None where they are switched off or cannot be built; built at the first call."""
    return None if os.environ.get("USERCLUE_KERNELS", "").lower() == "off" else _load()[0]


def library() -> ctypes.CDLL:
    """The compiled kernels, where `kernels` has said before that they are there."""
    found = _load()[0]
    assert found is not None
    return found


def describe() -> str:
    """What does the work on a CPU here, and if it is PyTorch alone, why."""
    if os.environ.get("USERCLUE_KERNELS", "").lower() == "off":
        return "torch (USERCLUE_KERNELS=off)"
    library, reason = _load()
    return "native" if library is not None else f"torch ({reason})"


@functools.cache
def _load() -> tuple[ctypes.CDLL | None, str]:
    _keep_freed_memory()
    try:
        built = _built()
        try:
            library = ctypes.CDLL(str(built))
        except OSError:  # torn, or of a system that has changed: make it again, once
            built.unlink()
            library = ctypes.CDLL(str(_built()))
        for name, signature in SIGNATURES.items():
            getattr(library, name).argtypes = signature
            getattr(library, name).restype = None
    except (OSError, subprocess.SubprocessError, AttributeError) as error:
        return None, (str(error).strip().splitlines() or [type(error).__name__])[0]
    return library, ""


def _keep_freed_memory() -> None:
    """Have glibc keep what a step frees, up to half a gigabyte, and in huge pages: the next step asks for the same again.

    A step passes over tens of megabytes: more small pages than the processor remembers the addresses of.
    """
    libc = ctypes.CDLL(None) if os.name == "posix" else None
    if libc is None or not hasattr(libc, "mallopt") or platform.libc_ver()[0] != "glibc":
        return
    for option, value in ((_M_MMAP_THRESHOLD, 32 << 20), (_M_TRIM_THRESHOLD, 512 << 20), (_M_TOP_PAD, 256 << 20)):
        libc.mallopt(option, value)
    libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = _POINTER, (ctypes.c_size_t,), (_POINTER,)
    libc.sbrk.restype, libc.sbrk.argtypes = _POINTER, (_LONG,)
    grown = libc.malloc((32 << 20) - mmap.PAGESIZE)  # the largest that is no mapping of its own: the heap grows by it and by the pad
    if grown:
        ask_for_huge_pages(grown, libc.sbrk(0) - grown)
        libc.free(grown)
    libc.mallopt(_M_TOP_PAD, 128 << 10)  # glibc's own


def ask_for_huge_pages(address: int, size: int) -> None:
    """Ask Linux for huge pages between `address` and `size` bytes on, before they are written to; elsewhere nothing happens."""
    begin, end = (-(-edge // mmap.PAGESIZE) * mmap.PAGESIZE for edge in (address, address + size))
    if platform.system() == "Linux" and end > begin:
        madvise = ctypes.CDLL(None).madvise
        madvise.argtypes = (_POINTER, ctypes.c_size_t, _INT)
        madvise(begin, end - begin, _MADV_HUGEPAGE)  # where the system has none it says so and all goes on


def _built() -> Path:
    """The shared library, compiled if this source, compiler and processor have not met before. OSError when it cannot be."""
    compiler = shutil.which(os.environ.get("CC") or "cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise OSError("no C compiler found")
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=_PATIENCE, check=True).stdout
    sources = sorted(SOURCE.glob("*.[ch]"))
    texts = [path.read_text() for path in sources]
    key = hashlib.sha256("\n".join([*texts, version, *FLAGS, _processor()]).encode()).hexdigest()[:24]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "userclue"
    library = folder / f"kernels-{key}.so"
    if not library.exists():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as aside:
            made = Path(aside) / library.name
            for parallel in PARALLEL:
                command = [compiler, *FLAGS, *parallel, *(str(path) for path in sources if path.suffix == ".c"), "-o", str(made), "-lm"]
                done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=False)
                if not done.returncode:
                    break
            else:
                raise OSError(f"the C compiler failed: {done.stderr.strip()}")
            os.replace(made, library)  # in one step: another process may be building the same
    return library


def _processor() -> str:
    """What -march=native depends on: a cache folder may be shared by unlike machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    except OSError:
        features = platform.processor()
    return f"{platform.machine()} {features}"
