"""The command behind `make bench`."""

import argparse
import datetime
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

from benchmarks.environments import default_folder, python_of
from benchmarks.plan import BY_DEFAULT, MEASUREMENTS, OURS, PEERS, RATES, Place
from benchmarks.runner import run_in_turn, say
from benchmarks.table import markdown

RESULTS = Path(__file__).resolve().parent / "RESULTS.md"


def machine(run: str, repetitions: int) -> dict[str, Any]:
    """The machine, without its name and without any path."""
    processor = platform.processor() or platform.machine()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), processor)
    except OSError:
        pass
    return {
        "kind": "machine",
        "run": run,
        "repetitions": repetitions,
        "processor": processor,
        "cores": os.cpu_count(),
        "memory_gb": round(memory),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
    }


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks/run", description="Measure userclue beside its peers and beside the machine's floor.")
    parser.add_argument("--data", type=Path, required=True, help="folder of MovieLens-1M, as experiments/convert.py expects it")
    parser.add_argument("--out", type=Path, required=True, help="folder for rows.jsonl, RESULTS.md and the generated logs")
    parser.add_argument(
        "--envs", type=Path, default=default_folder(), help="folder of the peers' environments (default: in the user's cache)"
    )
    parser.add_argument(
        "--only", nargs="+", choices=sorted(MEASUREMENTS), default=BY_DEFAULT, metavar="NAME", help=" · ".join(MEASUREMENTS)
    )
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=PEERS, metavar="PEER", help="which peers (default: all)")
    parser.add_argument("--threads", nargs="+", type=int, default=[1], help="threads of each process; growth uses the first number alone")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument(
        "--python", default=sys.executable, help="interpreter for the peers' environments (their versions want 3.11 or 3.12)"
    )
    parser.add_argument("--device", default="cpu", help="of userclue's own training and embedding; peers stay on the CPU")
    parser.add_argument("--huge", action="store_true", help="prepare 10^8 events too (3 GB of CSV)")
    parser.add_argument("--small", action="store_true", help="a quick trial: 10^5 events in place of 10^6 and 10^7")
    parser.add_argument("--limit", type=float, default=1800.0, help="seconds one repetition of one system may take")
    parser.add_argument("--publish", action="store_true", help="write benchmarks/RESULTS.md too")
    return parser.parse_args()


def main() -> None:
    chosen = options()
    run = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    out = chosen.out.resolve()
    work = out / "work"
    work.mkdir(parents=True, exist_ok=True)
    place = Place(chosen.data.resolve(), work, chosen.device, chosen.huge, (100_000,) if chosen.small else Place.sizes)
    failed = 0
    with (out / "rows.jsonl").open("a", encoding="utf-8") as file:

        def keep(row: dict[str, Any]) -> None:
            nonlocal failed
            failed += row["kind"] in ("failed", "left out")
            file.write(json.dumps({**row, "run": run}) + "\n")
            file.flush()

        keep(machine(run, chosen.repetitions))
        pythons = {OURS: Path(sys.executable), RATES: Path(sys.executable)}
        for peer in chosen.peers:
            try:
                pythons[peer] = python_of(peer, chosen.envs.resolve(), chosen.python)
            except RuntimeError as error:
                say(f"{peer} is left out: {error}")
                keep({"kind": "left out", "system": peer, "reason": str(error)})
        for name in chosen.only:
            growth = name.startswith("growth")
            for threads in chosen.threads[:1] if growth else chosen.threads:
                cases = MEASUREMENTS[name](place)
                for together in [list(cases)] if growth else ([case] for case in cases):
                    for row in run_in_turn(together, pythons, threads, chosen.repetitions, work / "logs", chosen.limit):
                        keep(row)
                        if row["kind"] == "failed":
                            say(f"{row['system']} failed: {row['reason']}")
    page = markdown([json.loads(line) for line in (out / "rows.jsonl").read_text(encoding="utf-8").splitlines()])
    for target in [out / "RESULTS.md", *([RESULTS] if chosen.publish else [])]:
        target.write_text(page, encoding="utf-8")
    print(page)
    if failed:
        sys.exit(f"bench: {failed} system(s) failed or were left out, see above; the reasons are in {out / 'rows.jsonl'}")


if __name__ == "__main__":
    main()
