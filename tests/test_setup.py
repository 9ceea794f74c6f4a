"""The set-up: the lock fits pyproject.toml and carries nothing of the machine it was made on; uv gets pip's settings."""

import importlib.machinery
import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
# Written in halves, so that this file passes its own test.
REGISTRIES = ["pypi" + ".org", "python" + "hosted.org", "download.py" + "torch.org", "files.python" + "hosted"]


@pytest.fixture(scope="module")
def setup_script() -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("setup_script", str(ROOT / "scripts" / "setup"))
    spec = importlib.util.spec_from_loader("setup_script", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    loader.exec_module(module)
    sys.dont_write_bytecode = before
    return module


def locked() -> list[Requirement]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if not line.startswith("#")]


def test_every_dependency_is_locked_within_its_range():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [Requirement(text) for group in (project["dependencies"], *project["optional-dependencies"].values()) for text in group]
    pins: dict[str, list[str]] = {}
    for pin in locked():
        pins.setdefault(canonicalize_name(pin.name), []).append(str(pin.specifier).removeprefix("=="))
    for requirement in wanted:
        versions = pins.get(canonicalize_name(requirement.name), [])
        assert versions, f"{requirement.name} is not in constraints.txt; run make lock"
        assert all(requirement.specifier.contains(version) for version in versions), f"{requirement}: locked {versions}; run make lock"


def test_the_lock_names_versions_only():
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert "torch==2.13.0\n" in text
    for pin in locked():
        assert re.fullmatch(r"==[0-9a-z.]+", str(pin.specifier)), f"{pin} is no exact public version"
        assert pin.url is None
        assert not re.match(r"nvidia|cuda|triton", pin.name), f"{pin}: a package of CUDA builds only"


def test_no_registry_is_named():
    kept = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=False)
    if kept.returncode:
        pytest.skip("not a git checkout")
    texts = {name: (ROOT / name).read_bytes() for name in kept.stdout.splitlines() if (ROOT / name).is_file()}
    assert [(name, address) for name, text in texts.items() for address in REGISTRIES if address.encode() in text] == []


def test_uv_gets_what_pip_is_set_to(setup_script, monkeypatch, tmp_path):
    settings_file = tmp_path / "pip.conf"
    settings_file.write_text("[global]\nfind-links = one\n    two\ntimeout = 9\n[install]\nextra-index-url = file:///a\n    file:///b\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(settings_file))
    for name in ("PIP_FIND_LINKS", "PIP_TIMEOUT", "PIP_EXTRA_INDEX_URL", "UV_INDEX", "UV_HTTP_TIMEOUT", "UV_INSECURE_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_TIMEOUT", "30")
    monkeypatch.setenv("PIP_TRUSTED_HOST", "inner.example")
    monkeypatch.setattr(setup_script, "PYTHON", sys.executable)

    settings = setup_script.pip_settings()
    environment = setup_script.uv_environment(settings)

    assert setup_script.uv_options(settings) == ["--find-links", "one", "--find-links", "two"]
    assert environment["UV_INDEX"] == "file:///a file:///b"
    assert environment["UV_HTTP_TIMEOUT"] == "30", "the environment goes before the file, as in pip"
    assert environment["UV_INSECURE_HOST"] == "inner.example"


def test_what_is_set_for_uv_itself_stays(setup_script, monkeypatch):
    monkeypatch.setenv("UV_INDEX", "file:///mine")
    assert setup_script.uv_environment({"extra-index-url": "file:///pip"})["UV_INDEX"] == "file:///mine"


def test_a_stamp_that_cannot_be_read_counts_as_none(setup_script, monkeypatch, tmp_path):
    monkeypatch.setattr(setup_script, "STAMP", tmp_path / "stamp.json")
    assert setup_script.read_stamp() == ("", set())
    (tmp_path / "stamp.json").write_text('{"hash": ')
    assert setup_script.read_stamp() == ("", set())
    (tmp_path / "stamp.json").write_text('{"hash": "a", "extras": ["dev"]}')
    assert setup_script.read_stamp() == ("a", {"dev"})
