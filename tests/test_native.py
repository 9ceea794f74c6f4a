"""Building and loading the compiled kernels, and doing without them."""

import ctypes
import mmap
import os
import platform
import re
import shutil
import stat
from pathlib import Path

import pytest

from userclue import native


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache folder, and nothing loaded yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("USERCLUE_KERNELS", raising=False)
    native._load.cache_clear()
    yield tmp_path / "userclue"
    native._load.cache_clear()


needs_compiler = pytest.mark.skipif(not any(shutil.which(name) for name in ("cc", "gcc", "clang")), reason="no C compiler here")


@needs_compiler
def test_built_once_and_kept_for_this_user_alone(fresh, monkeypatch):
    assert native.kernels() is not None
    assert native.describe() == "native"
    (library,) = fresh.iterdir()
    assert stat.S_IMODE(fresh.stat().st_mode) == 0o700
    made = library.stat().st_mtime_ns
    native._load.cache_clear()
    assert native.kernels() is not None
    assert [one.stat().st_mtime_ns for one in fresh.iterdir()] == [made]


def test_switched_off(fresh, monkeypatch):
    monkeypatch.setenv("USERCLUE_KERNELS", "off")
    assert native.kernels() is None
    assert "off" in native.describe()
    assert not fresh.exists()


def test_without_a_compiler_pytorch_does_the_work(fresh, monkeypatch):
    monkeypatch.setattr(native.shutil, "which", lambda name: None)
    assert native.kernels() is None
    assert native.describe() == "torch (no C compiler found)"


@needs_compiler
def test_a_compiler_that_fails_is_named_and_leaves_nothing(fresh, monkeypatch, tmp_path):
    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / "broken.c").write_text("this is no C\n")
    monkeypatch.setattr(native, "SOURCE", sources)
    assert native.kernels() is None
    assert native.describe().startswith("torch (the C compiler failed")
    assert list(fresh.iterdir()) == []


@needs_compiler
def test_a_torn_library_is_made_again(fresh):
    built = native._built()
    built.write_bytes(b"torn")
    assert native.kernels() is not None
    assert built.read_bytes() != b"torn"


@needs_compiler
@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_cache_that_cannot_be_written(fresh):
    fresh.parent.chmod(0o500)
    try:
        assert native.kernels() is None
    finally:
        fresh.parent.chmod(0o700)


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="no huge pages to ask for"
)
def test_the_heap_asks_for_huge_pages():
    native._keep_freed_memory()
    native._keep_freed_memory()  # once more does no harm
    mappings = Path("/proc/self/smaps").read_text().split("VmFlags:")
    heap = [flags for flags, mapping in zip(mappings[1:], mappings, strict=False) if "[heap]" in mapping]
    assert any(" hg" in flags.splitlines()[0] for flags in heap)


@pytest.mark.skipif(not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="no transparent huge pages here")
def test_huge_pages_are_asked_for_and_elsewhere_nothing_is(monkeypatch):
    with mmap.mmap(-1, 8 << 20) as other, mmap.mmap(-1, 8 << 20) as memory:
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        native.ask_for_huge_pages(address + 100, (8 << 20) - 200)
        assert "hg" in flags(address + (4 << 20))
        address = ctypes.addressof(ctypes.c_char.from_buffer(other))
        monkeypatch.setattr(native.platform, "system", lambda: "Darwin")
        native.ask_for_huge_pages(address, 8 << 20)
        assert "hg" not in flags(address + (4 << 20))


def flags(address):
    """What the kernel notes of the mapping that `address` lies in."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        edges = re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line)
        if edges:
            inside = int(edges[1], 16) <= address < int(edges[2], 16)
        elif inside and line.startswith("VmFlags:"):
            return line.split()[1:]
    raise AssertionError("no such mapping")
