"""Options that several commands share, and the options that a settings class brings along, one for each of its fields."""

import inspect
import types
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

import typer

from userclue.config import Settings, parse_assignments, read_toml

Json = Annotated[bool, typer.Option("--json", help="Print exactly one JSON object instead of a table.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the output if it is there.")]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="Threads to use; all cores if not given.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of everything random.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file of settings; options on the command line override it.")]
Assignments = Annotated[list[str] | None, typer.Option("--set", help="One more setting, as key=value; may be repeated.")]
UnusedSeed = Annotated[int, typer.Option("--seed", min=0, help="Nothing is random here; taken so that every command takes it.")]
UserColumn = Annotated[str, typer.Option("--user-col", help="Column of the user.")]
ItemColumn = Annotated[str, typer.Option("--item-col", help="Column of the item.")]
TimeColumn = Annotated[str | None, typer.Option("--time-col", help="Column of the time; `timestamp` where there is one, else input order.")]


def with_settings(
    settings: type[Settings], presets: Mapping[str, Any] | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command one option for every field of `settings`, and --config and --set; those given reach it as `values`.

    Where the job has `presets`, --preset too, as `preset` among the values.

    Precedence: command line, then --set, then --config, then the preset and defaults (which are the command's own affair).
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def run(*args: Any, config: Path | None, set_: list[str] | None, **given: Any) -> None:
            own = {name: given.pop(name) for name in settings.model_fields}
            values = read_toml(config) if config is not None else {}
            values |= parse_assignments(set_ or [])
            values |= {name: value for name, value in own.items() if value is not None}
            if presets is not None:
                values["preset"] = given.pop("preset")
            command(*args, values=values, **given)

        kept = [p for p in inspect.signature(command).parameters.values() if p.name != "values"]
        shared = [
            inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=ConfigFile),
            inspect.Parameter("set_", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Assignments),
        ]
        if presets is not None:
            about = Annotated[str, typer.Option("--preset", help=f"Settings to start from: {', '.join(presets)}.")]
            shared.insert(0, inspect.Parameter("preset", inspect.Parameter.KEYWORD_ONLY, default=next(iter(presets)), annotation=about))
        fields = [_option(name, field) for name, field in settings.model_fields.items()]
        run.__signature__ = inspect.Signature([*kept, *fields, *shared])  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in [*kept, *fields, *shared]} | {"return": None}
        return run

    return decorate


def _option(name: str, field: Any) -> inspect.Parameter:
    flag = name.replace("_", "-")
    kind = _without_none(field.annotation)
    default = "" if field.default is None else f" (default {str(field.default).lower() if kind is bool else field.default})"
    names = (f"--{flag}/--no-{flag}",) if kind is bool else (f"--{flag}",)
    option = typer.Option(*names, help=f"{field.description or ''}{default}", show_default=False, rich_help_panel="Settings")
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option])


def _without_none(annotation: Any) -> Any:
    if get_origin(annotation) in (Union, types.UnionType):
        return next(part for part in get_args(annotation) if part is not type(None))
    return annotation
