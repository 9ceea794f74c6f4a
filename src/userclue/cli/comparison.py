"""The comparison table: the model and every baseline, each metric with its interval, then the verdict in words."""

from typing import Any

from userclue.cli.console import Report

Metrics = dict[str, dict[str, float]]


def show_comparison(report: Report, facts: dict[str, Any]) -> None:
    """Print the comparison of a fitted model, and for sequential the second one without the items already seen."""
    title = f"{facts['task']}: {facts.get('label', '')}, {facts['users']:,} test users"
    _table(report, title, facts["system"], facts["metrics"], facts["baselines"])
    report.show(*(f"  {sentence}" for sentence in facts["verdict"]))
    if "unseen" in facts:
        unseen = facts["unseen"]
        _table(report, f"{title}, items in the history left out", facts["system"], unseen["metrics"], unseen["baselines"])
        report.show(*(f"  {sentence}" for sentence in unseen["verdict"]))
    if "by_user" in facts:
        by_user = facts["by_user"]
        _table(report, f"{title}, each user's mean counting once", facts["system"], by_user["metrics"], by_user["baselines"])
        report.show(*(f"  {sentence}" for sentence in by_user["verdict"]))
    report.show(facts["conditions"])
    for name, why in facts.get("undefined", {}).items():
        report.show(f"{name} is not defined here: {why}")


def _table(report: Report, title: str, system: str, metrics: Metrics, baselines: dict[str, Metrics]) -> None:
    systems = {system: metrics, **baselines}
    best = {name: max(values[name]["value"] for values in systems.values()) for name in metrics}
    rows = [[label, *(_cell(values[name], values[name]["value"] == best[name]) for name in metrics)] for label, values in systems.items()]
    report.show_table(title, {"system": "left", **{f"{name} (* best)": "right" for name in metrics}}, rows)


def _cell(metric: dict[str, float], best: bool) -> str:
    return f"{'* ' if best else ''}{metric['value']:.4f} [{metric['low']:.4f}, {metric['high']:.4f}]"
