"""report, doctor and audit on real runs."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


def test_a_report_of_real_runs_needs_no_network(shop: Any) -> None:
    page = shop["report.html"].read_text()
    assert shop.said["report"].json["bytes"] == shop["report.html"].stat().st_size
    for text in ("Majority class", "Bag of items", "Markov", "ffective rank", "<svg"):
        assert text in page
    for outside in ("http://", "https://", "<script", "@import", "url("):
        assert outside not in page.replace("http://www.w3.org", "").replace("url(#", ""), outside
    assert ".partial" not in page


def test_a_report_has_the_title_asked_for_and_is_the_same_twice(run: Run, shop: Any, tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert run("report", shop["next"], "-o", tmp_path / f"{name}.html", "--title", "Ours & <theirs>").code == 0
    assert "Ours &amp; &lt;theirs&gt;" in (tmp_path / "one.html").read_text()
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


def test_doctor_without_folders_tells_of_the_machine(run: Run) -> None:
    said = run("doctor", "--json").json
    assert said["verified"] == {}
    assert said["machine"]["cores"] >= 1
    assert said["versions"]["torch"]


@pytest.mark.parametrize(
    ("folder", "file", "said"),
    [
        ("data", "items.npy", "its SHA-256 differs"),
        ("data", "users.parquet", "its SHA-256 differs"),
        ("model", "model.safetensors", "its SHA-256 differs"),
        ("profile", "task.json", "its SHA-256 differs"),
    ],
)
def test_doctor_finds_one_flipped_bit(run: Run, shop: Any, tmp_path: Path, folder: str, file: str, said: str) -> None:
    shutil.copytree(shop[folder], tmp_path / folder)
    path = tmp_path / folder / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    outcome = run("doctor", shop["data"], tmp_path / folder, "--json")
    assert outcome.code == 4
    assert said in outcome.error
    assert str(path) in outcome.error


def test_doctor_finds_a_file_cut_short_and_one_that_is_gone(run: Run, shop: Any, tmp_path: Path) -> None:
    shutil.copytree(shop["data"], tmp_path / "data")
    (tmp_path / "data" / "items.npy").write_bytes((shop["data"] / "items.npy").read_bytes()[:-4])
    assert "bytes, its manifest says" in run("doctor", tmp_path / "data").error
    (tmp_path / "data" / "items.npy").unlink()
    assert "items.npy is missing" in run("doctor", tmp_path / "data").error
    (tmp_path / "data" / "manifest.json").write_text("{")
    assert "manifest.json cannot be read" in run("doctor", tmp_path / "data").error


def test_audit_of_the_shop(shop: Any) -> None:
    said = shop.said["audit"].json
    assert (said["users"], said["bad_rows"], said["findings"]) == (60, 0, [])
    assert said["events"] == shop.said["prepare"].json["events_read"]


def test_audit_tells_what_prepare_would_refuse_and_does_not_fail(run: Run, shop: Any, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(shop["events.csv"].read_text() + "7,,1700000000\n8,a0,soon\n")
    outcome = run("audit", tmp_path / "log.csv", "--json")
    assert outcome.code == 0
    assert outcome.json["bad_rows"] == 2
    assert outcome.json["findings"]
    readable = run("audit", tmp_path / "log.csv")
    assert "- " in readable.out
