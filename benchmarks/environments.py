"""A virtual environment for each peer, made once from its list of exact versions, outside the repository."""

import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent
PEERS = Path(__file__).resolve().parent / "peers"


def default_folder() -> Path:
    """Where the environments are kept if nothing else is said: the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "userclue-bench"


def setup_script() -> ModuleType:
    """scripts/setup as a module: how pip's settings of this machine reach uv is written there."""
    loader = SourceFileLoader("userclue_setup", str(ROOT / "scripts" / "setup"))
    spec = importlib.util.spec_from_loader("userclue_setup", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    before = sys.dont_write_bytecode
    sys.dont_write_bytecode = True  # it would stand beside the script
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module


def python_of(peer: str, folder: Path, base: str) -> Path:
    """The Python of a peer's environment, made with the interpreter `base` if it is not there yet; RuntimeError when that fails."""
    requirements = PEERS / f"{peer}.txt"
    base_version = _run([base, "--version"], dict(os.environ))
    key = hashlib.sha256(requirements.read_bytes() + base_version.encode()).hexdigest()[:12]
    venv = folder / f"{peer}-{key}"
    python, stamp = venv / "bin" / "python", venv / "installed"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f".{peer}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two benchmarks may begin at the same time
        if not stamp.exists():
            print(f"bench: making the environment of {peer}", file=sys.stderr, flush=True)
            shutil.rmtree(venv, ignore_errors=True)
            _run([base, "-m", "venv", str(venv)], dict(os.environ))
            _install(python, requirements)
            stamp.touch()
    return python


def _install(python: Path, requirements: Path) -> None:
    setup = setup_script()
    if uv := setup.find_uv():
        settings = setup.pip_settings()
        command = [str(uv), "pip", "install", "--quiet", "--python", str(python), *setup.uv_options(settings), "-r", str(requirements)]
        try:
            _run(command, setup.uv_environment(settings))
            return
        except RuntimeError as error:
            print(f"bench: uv could not install {requirements.stem}, trying pip: {error}", file=sys.stderr)
    _run([str(python), "-m", "pip", "install", "--quiet", "-r", str(requirements)], dict(os.environ))


def _run(command: list[str], environment: dict[str, str]) -> str:
    """What `command` prints; RuntimeError with its last words when it cannot be run or fails."""
    try:
        return subprocess.run(command, check=True, env=environment, capture_output=True, text=True).stdout
    except OSError as error:
        raise RuntimeError(f"{command[0]}: {error.strerror}") from None
    except subprocess.CalledProcessError as error:
        lines = (error.stderr or error.stdout).strip().splitlines() or ["no message"]
        raise RuntimeError(f"{' '.join(command[:4])} … ended with {error.returncode}: {' / '.join(lines[-3:])}") from None
