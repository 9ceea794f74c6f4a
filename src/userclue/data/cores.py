"""Thin users and rare items taken out until none is left: the k-core, by peeling whole rounds."""

from dataclasses import dataclass

import duckdb
import numpy as np

from userclue.data.columns import to_numpy

_AT_ONCE = 1 << 18


@dataclass(frozen=True, eq=False)
class Core:
    """What stays of a log.

    users bool [U], items bool [I] by code; user_events int64 [U]: events of each user within the core, 0 for those gone;
    events lost to each rule; rounds until nothing changed.
    """

    users: np.ndarray
    items: np.ndarray
    user_events: np.ndarray
    lost_to_users: int
    lost_to_items: int
    rounds: int


def k_core(connection: duckdb.DuckDBPyConnection, user_events: np.ndarray, n_items: int, min_user_events: int, min_item_users: int) -> Core:
    """Largest part of the log in which every user has `min_user_events` events and every item `min_item_users` distinct users.

    Reads the tables raw(u, i), users(u, code), items(i, code). user_events: int64 [U], events of each user. An event whose user and
    item fall in one round is lost to its user's rule. Rounds stream over distinct (user, item) pairs; memory is O(U + I).
    """
    if min_item_users <= 1:
        return without_thin_users(user_events, n_items, min_user_events)
    users, items = np.ones(len(user_events), bool), np.ones(n_items, bool)
    connection.execute(
        "CREATE OR REPLACE TABLE pairs AS SELECT users.code AS u, items.code AS i, n FROM "
        "(SELECT u, i, count(*) AS n FROM raw GROUP BY u, i) JOIN users USING (u) JOIN items USING (i)"
    )
    lost_to_users = lost_to_items = rounds = alive = 0
    while True:
        rounds += 1
        events, item_users = _count(connection, users, items)
        thin, rare = users & (events < min_user_events), items & (item_users < min_item_users)
        if rounds > 1:
            lost_to_items += alive - int(events.sum())
        if not (thin.any() or rare.any()):
            break
        users, items = users & ~thin, items & ~rare
        of_thin = int(events[thin].sum())
        lost_to_users += of_thin
        alive = int(events.sum()) - of_thin
    connection.execute("DROP TABLE pairs")
    return Core(users, items, events, lost_to_users, lost_to_items, rounds)


def without_thin_users(user_events: np.ndarray, n_items: int, min_user_events: int) -> Core:
    """The core where no item is rare: one round, for which the events themselves are not asked."""
    users = user_events >= min_user_events
    return Core(users, np.ones(n_items, bool), np.where(users, user_events, 0), int(user_events[~users].sum()), 0, 1)


def _count(connection: duckdb.DuckDBPyConnection, users: np.ndarray, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(events of each user, distinct users of each item), int64, among pairs whose user and item are still in."""
    events, item_users = np.zeros(len(users), np.int64), np.zeros(len(items), np.int64)
    for batch in connection.sql("SELECT u, i, n FROM pairs").to_arrow_reader(_AT_ONCE):
        u, i, n = (to_numpy(column) for column in batch.columns)
        inside = users[u] & items[i]
        np.add.at(events, u[inside], n[inside])
        np.add.at(item_users, i[inside], 1)
    return events, item_users
