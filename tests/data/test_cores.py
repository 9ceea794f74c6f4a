from collections import Counter

import duckdb
import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from userclue.data.coding import code_ids
from userclue.data.cores import k_core

Events = list[tuple[int, int]]


def by_force(events: Events, min_user_events: int, min_item_users: int) -> Events:
    """Take out one thin user or rare item at a time until there is none."""
    while True:
        users = Counter(user for user, _ in events)
        items = {item: len({user for user, one in events if one == item}) for _, item in events}
        thin = next((user for user, n in users.items() if n < min_user_events), None)
        rare = next((item for item, n in items.items() if n < min_item_users), None)
        if thin is None and rare is None:
            return events
        events = [(user, item) for user, item in events if user != thin and (thin is not None or item != rare)]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=60), st.integers(1, 5), st.integers(1, 5))
def test_the_core_is_what_brute_force_leaves(events: Events, min_user_events: int, min_item_users: int) -> None:
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.register("given", pa.table({"u": [user for user, _ in events], "i": [item for _, item in events]}))
        connection.execute("CREATE TABLE raw AS SELECT * FROM given")
        per_user, n_items = code_ids(connection)
        core = k_core(connection, per_user, n_items, min_user_events, min_item_users)
    users, items = sorted({user for user, _ in events}), sorted({item for _, item in events})
    left = by_force(events, min_user_events, min_item_users)
    inside = [(user, item) for user, item in events if core.users[users.index(user)] and core.items[items.index(item)]]
    assert inside == left
    assert core.user_events.tolist() == [sum(one == user for one, _ in left) for user in users]
    assert core.lost_to_users + core.lost_to_items == len(events) - len(left)
    assert min_item_users > 1 or core.lost_to_items == 0
    assert min_user_events > 1 or core.lost_to_users == 0


def test_rounds_follow_one_another() -> None:
    """A chain in which every round uncovers one more."""
    events = [(n, item) for n in range(20) for item in (n, n + 1)]
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.register("given", pa.table({"u": [user for user, _ in events], "i": [item for _, item in events]}))
        connection.execute("CREATE TABLE raw AS SELECT * FROM given")
        per_user, n_items = code_ids(connection)
        core = k_core(connection, per_user, n_items, 2, 2)
    assert not core.users.any()
    assert core.rounds > 5
    assert core.lost_to_users + core.lost_to_items == 40
    assert np.all(core.user_events == 0)
