"""The same log in every shape a person may have it in gives the same dataset."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def log(shop: Any) -> pa.Table:
    return pyarrow.csv.read_csv(shop["events.csv"])


def hashes(folder: Path) -> dict[str, Any]:
    files: dict[str, Any] = json.loads((folder / "manifest.json").read_text())["files"]
    return {name: files[name]["sha256"] for name in ("items.npy", "offsets.npy", "times.npy", "users.parquet", "vocabulary.parquet")}


def parts(table: pa.Table, count: int) -> list[pa.Table]:
    size = -(-table.num_rows // count)
    return [table.slice(place * size, size) for place in range(count)]


def test_json_lines_tsv_gzip_globs_and_folders(run: Run, shop: Any, log: pa.Table, tmp_path: Path) -> None:
    import gzip

    expected = hashes(shop["data"])
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log.to_pylist()))
    (tmp_path / "log.tsv").write_text(shop["events.csv"].read_text().replace(",", "\t"))
    (tmp_path / "log.csv.gz").write_bytes(gzip.compress(shop["events.csv"].read_bytes()))
    (tmp_path / "parquet").mkdir()
    (tmp_path / "csv").mkdir()
    lines = shop["events.csv"].read_text().splitlines()
    for number, part in enumerate(parts(log, 3)):
        pq.write_table(part, tmp_path / "parquet" / f"part-{number}.parquet")
    for number in range(2):
        (tmp_path / "csv" / f"day {number}.csv").write_text("\n".join([lines[0], *lines[1 + number * 200 : 201 + number * 200]]) + "\n")
    (tmp_path / "csv" / "day 2.csv").write_text("\n".join([lines[0], *lines[401:]]) + "\n")
    sources: dict[str, list[object]] = {
        "json": [tmp_path / "log.jsonl"],
        "tsv": [tmp_path / "log.tsv"],
        "gzip": [tmp_path / "log.csv.gz"],
        "folder": [tmp_path / "parquet"],
        "glob": [tmp_path / "csv" / "*.csv"],
        "several": sorted((tmp_path / "csv").iterdir()),
    }
    for name, source in sources.items():
        outcome = run("prepare", *source, "-o", tmp_path / "out" / name)
        assert outcome.code == 0, (name, outcome.err)
        assert hashes(tmp_path / "out" / name) == expected, name


def test_folders_with_spaces_and_letters_of_the_world(run: Run, shop: Any, small: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "mes données – 顧客 [1]*"
    folder.mkdir()
    (folder / "événements.csv").write_bytes(shop["events.csv"].read_bytes())
    (folder / "étiquettes.csv").write_bytes(shop["labels.csv"].read_bytes())
    prepared = run("prepare", folder / "événements.csv", "-o", folder / "le jeu")
    assert prepared.code == 0
    # Where the line is folded depends on the length of the path.
    assert "".join(f"userclue pretrain {shlex.quote(str(folder / 'le jeu'))} -o MODEL".split()) in "".join(prepared.out.split())
    assert hashes(folder / "le jeu") == hashes(shop["data"])
    assert run("pretrain", folder / "le jeu", "-o", folder / "模型", "--steps", 1, *small).code == 0
    words = ["--task", "profiling", "--labels", folder / "étiquettes.csv", "-o", folder / "classé", "--epochs", 1]
    outcome = run("finetune", folder / "模型", folder / "le jeu", *words, "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["label"] == "étiquettes"
    assert run("embed", folder / "模型", folder / "événements.csv", "-o", folder / "vecteurs.parquet").code == 0
    assert run("report", folder / "模型", folder / "classé", "-o", folder / "rapport.html").code == 0
    assert "étiquettes" in (folder / "rapport.html").read_text()
    assert run("doctor", folder / "le jeu", folder / "模型").code == 0


def test_options_stand_anywhere(run: Run, shop: Any, tmp_path: Path) -> None:
    outcome = run("prepare", "--json", "-o", tmp_path / "data", "--user-col", "user_id", shop["events.csv"], "--min-user-events=2")
    assert outcome.code == 0
    assert outcome.json["users"] == 60


def test_columns_of_other_names(run: Run, shop: Any, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(shop["events.csv"].read_text().replace("user_id,item_id,timestamp", "who,what,when"))
    columns = ["--user-col", "who", "--item-col", "what", "--time-col", "when"]
    assert run("prepare", tmp_path / "log.csv", "-o", tmp_path / "data", *columns).code == 0
    assert hashes(tmp_path / "data") == hashes(shop["data"])
    assert run("audit", tmp_path / "log.csv", *columns).code == 0
    outcome = run("embed", shop["model"], tmp_path / "log.csv", "-o", tmp_path / "users.parquet", *columns, "--json")
    assert outcome.json["users"] == 60
    assert pq.read_table(tmp_path / "users.parquet").equals(pq.read_table(shop["users.parquet"]))


def test_quarantine_keeps_the_rest(run: Run, shop: Any, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(shop["events.csv"].read_text() + "7,,1700000000\n8,a0,soon\n")
    outcome = run("prepare", tmp_path / "log.csv", "-o", tmp_path / "data", "--on-error", "quarantine", "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["events_quarantined"] == 2
    assert "2 bad rows are set aside in quarantine.parquet" in outcome.json["warnings"]
    assert hashes(tmp_path / "data") == hashes(shop["data"])


def test_a_dataset_with_the_numbering_of_a_model(run: Run, shop: Any, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\n1,c5,1700000000\n1,new,1700000001\n")
    words = ["prepare", tmp_path / "log.csv", "--vocabulary", shop["model"]]
    kept = run(*words, "-o", tmp_path / "kept", "--json")
    assert kept.code == 0
    assert (kept.json["items"], kept.json["unknown_events"]) == (18, 1)
    grown = run(*words, "--grow", "-o", tmp_path / "grown", "--json")
    assert (grown.json["items"], grown.json["unknown_events"]) == (19, 0)
