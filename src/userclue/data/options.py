"""Settings of `prepare`, checked together; an unknown one names the nearest known."""

from typing import Literal

from pydantic import ConfigDict, Field

from userclue.config import Settings


class PrepareOptions(Settings):
    """How a log becomes a dataset. Recorded in the dataset's manifest."""

    model_config = ConfigDict(strict=True)

    user_col: str = Field("user_id", description="column of the user")
    item_col: str = Field("item_id", description="column of the item")
    time_col: str | None = Field("timestamp", description="column of the time; without one, input order counts")
    layout: Literal["auto", "events", "sequences", "peterrec"] = Field(
        "auto", description="a row an event, a line a user, or PeterRec's lines `items,,targets`"
    )
    targets: Literal["auto", "items", "labels"] = Field("auto", description="with layout peterrec: what the targets are")
    time_unit: Literal["s", "ms", "us", "ns"] | None = Field(None, description="unit of numeric times; detected if not given")
    min_user_events: int = Field(1, ge=1, description="drop users with fewer events")
    min_item_users: int = Field(1, ge=1, description="drop items of fewer users")
    window: int | None = Field(None, ge=1, description="cut histories into windows of so many events, each a user of its own")
    duplicates: Literal["keep", "drop"] = Field("keep", description="events that repeat user, item and time")
    until: str | int | float | None = Field(None, description="drop events at or after this time (ISO or epoch)")
    on_error: Literal["fail", "quarantine"] = Field("fail", description="bad rows: stop, or set them aside and go on")
    max_bad_share: float = Field(0.5, ge=0, le=1, description="with quarantine: stop when more than this share of the rows is bad")
    grow: bool = Field(False, description="with --vocabulary: number unknown items after the known ones")
