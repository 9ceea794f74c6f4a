"""What the paper prints (Cheng et al., ICDM 2021): Tables I, II and III. Its figures give no numbers."""

# Table I. ColdRec: users, items of the source, longest history, target items, most targets. Profiling: the source's items are not said.
TABLE1: dict[str, dict[str, int]] = {
    "ColdRec-1": {"users": 1_649_095, "source_items": 191_014, "source_length": 50, "classes": 20_342, "most_targets": 3},
    "ColdRec-2": {"users": 1_472_248, "source_items": 645_980, "source_length": 100, "classes": 17_879, "most_targets": 5},
    "AgeEst": {"users": 1_551_357, "source_items": 646_279, "source_length": 100},
    "GenEst": {"users": 1_548_844, "source_items": 645_729, "source_length": 100},
    "LifeEst": {"users": 1_075_010, "source_items": 487_728, "source_length": 100},
    "MovieLens30": {"users": 876_162, "source_items": 23_515, "source_length": 30},
    "MovieLens50": {"users": 552_438, "source_items": 23_515, "source_length": 50},
}
_TABLE2: dict[str, tuple[float | tuple[float, float], ...]] = {
    "nfm": ((0.0070, 0.0075), (0.0420, 0.0363), 0.6156, 0.8940, 0.5135),
    "deepfm": ((0.0090, 0.0100), (0.0434, 0.0373), 0.6312, 0.9025, 0.5153),
    "clue_zero": ((0.0119, 0.0129), (0.0464, 0.0393), 0.6248, 0.9015, 0.5123),
    "peterrec": ((0.0123, 0.0134), (0.0470, 0.0397), 0.6369, 0.9056, 0.5191),
    "clue": ((0.0139, 0.0150), (0.0481, 0.0403), 0.6268, 0.9019, 0.5354),
}
_TABLE3 = {
    "mask": ((0.0494, 0.1178), (0.0420, 0.1006)),
    "crop": ((0.0483, 0.1163), (0.0395, 0.0953)),
    "permute": ((0.0489, 0.1169), (0.0406, 0.0980)),
    "dropout": ((0.0509, 0.1203), (0.0419, 0.0999)),
}


def _scores(value: float | tuple[float, float]) -> dict[str, float]:
    return {"accuracy": value} if isinstance(value, float) else {"mrr@10": value[0], "recall@10": value[1]}


# (data set, system, variant) -> metric -> value.
PRINTED: dict[str, dict[tuple[str, str, str], dict[str, float]]] = {
    "table2": {
        (slot, system, ""): _scores(value)
        for system, values in _TABLE2.items()
        for slot, value in zip(("ColdRec-1", "ColdRec-2", "AgeEst", "GenEst", "LifeEst"), values, strict=True)
    },
    "table3": {
        (slot, "clue", view): _scores(value)
        for view, values in _TABLE3.items()
        for slot, value in zip(("MovieLens30", "MovieLens50"), values, strict=True)
    },
}
REMARKS = {
    "table2": "In the paper's Table II, ColdRec-2 has MRR@10 above Recall@10: impossible where both average one relevant item an instance.",
    "fig3": "The paper prints no numbers for Figure 3; it says that CLUE is above all others, and self-attention above GRU4Rec and Caser.",
    "fig4": "The paper prints no numbers for Figure 4; it says that CLUE is above the others at every share, most at 40 %.",
    "fig5": "The paper prints no numbers for Figure 5; it says that the result is largely sensitive to the probability.",
    "fig6": "The paper's Figure 6: without either part the loss quickly reaches −1 and the users fall together.",
    "fig7": "The paper's Figure 7, by PCA on GenEst: PeterRec's users lie in a narrow space compared with CLUE's.",
}


def printed(experiment: str, slot: str, system: str, variant: str, metric: str) -> float | None:
    """The paper's value, or None where it prints none."""
    return PRINTED.get(experiment, {}).get((slot, system, variant), {}).get(metric)
