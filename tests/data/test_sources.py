import statistics
from collections import defaultdict
from decimal import Decimal

import numpy as np
import pyarrow.compute as pc
import pytest

from userclue.data import sources
from userclue.errors import ArtifactError


@pytest.fixture(scope="module")
def builtin() -> sources.Builtin:
    return sources.load_builtin()


def test_counts(builtin):
    assert sources.read_purchases().num_rows == 75_000
    assert builtin.events.num_rows == 63_335
    assert pc.count_distinct(builtin.events["user_id"]).as_py() == builtin.labels.num_rows == 2_349
    assert builtin.items.num_rows == 1_708


def test_schema_is_what_prepare_expects(builtin):
    assert [(field.name, str(field.type)) for field in builtin.events.schema] == [
        ("user_id", "int64"),
        ("item_id", "string"),
        ("timestamp", "timestamp[ms]"),
    ]
    assert builtin.items.column_names == ["item_id", "department", "product_category", "private_share"]
    assert builtin.labels.column_names == ["user_id", "label"]
    assert all(column.null_count == 0 for table in (builtin.events, builtin.labels) for column in table.columns)


def test_every_event_has_an_item_with_a_name_of_its_own(builtin):
    names = builtin.items["item_id"].to_pylist()
    assert len(set(names)) == len(names)
    assert "" not in names
    assert set(builtin.events["item_id"].to_pylist()) <= set(names)


def test_an_ambiguous_type_gets_the_category_it_is_bought_in_most(builtin):
    rows = {row["item_id"]: row for row in builtin.items.to_pylist()}
    assert rows["PREMIUM"]["product_category"] == "ICE CREAM/MILK/SHERBTS"
    assert rows["POTATO CHIPS"]["department"] == "GROCERY"
    assert rows["(unknown)"]["department"] is None


def test_no_event_lies_after_the_cut(builtin):
    log = sources.read_purchases()
    first_of_future = pc.min(log.filter(pc.greater(log["week"], 45))["timestamp"])
    assert pc.max(builtin.events["timestamp"]).as_py() < first_of_future.as_py()


def test_events_are_in_order_of_time(builtin):
    assert (np.diff(builtin.events["timestamp"].to_numpy().astype(np.int64)) >= 0).all()


def test_labels_by_plain_python(builtin):
    """The same labels by dictionaries and decimals instead of arrays and cents."""
    spent: dict[int, Decimal] = {}
    later: dict[int, Decimal] = defaultdict(Decimal)
    for row in sources.read_purchases().to_pylist():
        if row["week"] <= 45:
            spent[row["user_id"]] = Decimal()
        else:
            later[row["user_id"]] += Decimal(str(row["sales_value"]))
    spent = {user: later[user] for user in sorted(spent)}
    median = statistics.median(spent.values())
    assert median == Decimal("8.03")
    expected = {user: "high spender" if value > median else "low spender" for user, value in spent.items()}
    assert dict(zip(*builtin.labels.to_pydict().values(), strict=True)) == expected
    assert sum(label == "high spender" for label in expected.values()) == 1_173


def test_brackets_by_plain_python():
    """Three brackets: nothing, up to the median of those who spent something, above it."""
    known: set[int] = set()
    later: dict[int, Decimal] = defaultdict(Decimal)
    for row in sources.read_purchases().to_pylist():
        if row["week"] <= 45:
            known.add(row["user_id"])
        else:
            later[row["user_id"]] += Decimal(str(row["sales_value"]))
    median = statistics.median(later[user] for user in known if later[user] > 0)
    expected = {
        user: "nothing" if not later[user] else "above the median" if later[user] > median else "up to the median" for user in known
    }
    assert dict(zip(*sources.spending_brackets(sources.read_purchases()).to_pydict().values(), strict=True)) == expected


def test_the_length_of_the_history_alone_tells_much(builtin):
    """The reason why the plain baseline gets the length: its AUC is .82."""
    users, lengths = np.unique(builtin.events["user_id"].to_numpy(), return_counts=True)
    assert users.tolist() == builtin.labels["user_id"].to_pylist()
    high = np.array(builtin.labels["label"].to_pylist()) == "high spender"
    above = (lengths[high][:, None] > lengths[~high]).mean() + (lengths[high][:, None] == lengths[~high]).mean() / 2
    assert above == pytest.approx(0.82, abs=0.01)


def test_changing_the_behaviour_before_the_cut_changes_no_label():
    log = sources.read_purchases()
    doubled = pc.if_else(pc.less_equal(log["week"], 45), pc.multiply(log["sales_value"], 2.0), log["sales_value"])
    changed = log.set_column(log.column_names.index("sales_value"), "sales_value", doubled)
    assert sources.spending_labels(changed).equals(sources.spending_labels(log))


def test_ships_small_and_with_its_licence():
    assert sum(path.stat().st_size for path in sources.FOLDER.glob("*.parquet")) < 1_500_000
    assert "CC0 1.0" in (sources.FOLDER / "README.md").read_text(encoding="utf-8")


def test_a_damaged_file_is_refused(tmp_path, monkeypatch):
    content = bytearray((sources.FOLDER / "completejourney.parquet").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "completejourney.parquet").write_bytes(content)
    monkeypatch.setattr(sources, "FOLDER", tmp_path)
    with pytest.raises(ArtifactError, match=r"completejourney\.parquet: the built-in data cannot be read .*; install userclue again"):
        sources.read_purchases()
    with pytest.raises(ArtifactError, match=r"completejourney_items\.parquet"):
        sources.read_items()
