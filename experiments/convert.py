"""Public data sets in their own formats to tables userclue reads.

    .venv/bin/python experiments/convert.py ml-1m --data FOLDER -o OUT

writes OUT/events.parquet, OUT/items.parquet where the data set describes its items, one OUT/NAME.csv with `user_id,label` a label,
and OUT/targets.csv with `user_id,item_id` where users took things in another domain (cold start). A log without times
has no `timestamp` column: its rows are in order, oldest first.
"""

import argparse
import csv
from pathlib import Path

import pyarrow.csv
import pyarrow.parquet as pq

from userclue.data.public import PUBLIC, Tables
from userclue.errors import UsageError
from userclue.files import staged_folder


def write(tables: Tables, out: Path) -> None:
    """The tables as files of a new folder `out`; whole or not at all."""
    with staged_folder(out) as folder:
        pq.write_table(tables.events, folder / "events.parquet", write_page_checksum=True)
        if tables.items is not None:
            pq.write_table(tables.items, folder / "items.parquet", write_page_checksum=True)
        if tables.targets is not None:
            pyarrow.csv.write_csv(tables.targets, folder / "targets.csv")
        for name, labels in tables.labels.items():
            with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows([("user_id", "label"), *labels.items()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(PUBLIC))
    parser.add_argument("--data", type=Path, required=True, help="folder with the data set's own files")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder to make")
    options = parser.parse_args()
    try:
        tables = PUBLIC[options.name].read(options.data)
        write(tables, options.out)
    except (OSError, UsageError) as error:
        parser.exit(2, f"{error}\n")
    print(
        f"{options.out}: {tables.events.num_rows} events, labels {', '.join(tables.labels) or 'none'}, {len(tables.targets or ())} targets"
    )


if __name__ == "__main__":
    main()
