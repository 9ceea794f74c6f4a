"""The model card: README.md of an artifact, from its configuration and last logged row."""

from collections.abc import Mapping
from typing import Any

_TEMPLATE = """\
# A userclue {what}

{purpose}

## Data
{data}

## Settings
{settings}

## State at the end of training
{state}

## Use
```python
import userclue as uc

encoder = uc.UserEncoder.from_pretrained("this/folder")
vectors = encoder.encode([["item id", "item id"]])   # float32 [users, {dim}]
```

## Intended use
User vectors of behaviour like that in the data above. Items unknown to the vocabulary ({items} items) are read as one neutral
token, so a population that has moved on needs a new model. A vector can reveal traits its owner never stated: treat it as the
personal data it was made from.
"""


def model_card(config: Mapping[str, Any], items: int, last_row: Mapping[str, Any], fitted: Mapping[str, Any] | None = None) -> str:
    """Markdown for README.md; `fitted` adds task, split and metrics."""
    purpose = "A user encoder, pre-trained without labels."
    if fitted is not None:
        metrics = ", ".join(f"{name} {m['value']:.4f} [{m['low']:.4f}, {m['high']:.4f}]" for name, m in fitted.get("metrics", {}).items())
        purpose = f"A model fitted to **{fitted['task']}** ({fitted['mode']}, split {fitted['split']['name']}). On the test part: "
        purpose += f"{metrics or 'not scored'}.\n\n"
        purpose += "\n".join(f"- {sentence}" for sentence in fitted.get("verdict", []))
    return _TEMPLATE.format(
        what="model" if fitted is None else f"{fitted['task']} model",
        purpose=purpose,
        data=_lines(config.get("data") or {}),
        settings=_lines({**config["encoder"], **(config.get("pretrain") or {})}),
        state=_lines(last_row),
        dim=config["encoder"]["dim"],
        items=items,
    )


def _lines(values: Mapping[str, Any]) -> str:
    return "\n".join(f"- {key}: {value}" for key, value in values.items()) or "- (nothing recorded)"
