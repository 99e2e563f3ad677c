#!/usr/bin/env python3
"""Times from `shardline up`, and from `sbatch` in a real Slurm on this host, to the first token.

    SHARDLINE_BIN=build/cpu/bin tests/bench/start_times.py [--runs 3] [--cold] [--slurm] [MODEL]

Phases, by the coordinator's log: launch (until every rank has attached; with Slurm its scheduling is
a column of its own), load (weights), warm-up (until the replica serves), and answer (until a client
that was told so has the first token). The table is in Markdown; docs/start-times.md has one.
"""

import argparse
import datetime
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time

import grpc

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
from harness import BIN, ROOT, pb_grpc, request, smollm2  # noqa: E402
from slurm_cluster import Slurm  # noqa: E402

PHASES = ["schedule", "launch", "load", "warm-up", "answer"]
LAYOUTS = {"1 rank": (1, 1), "TP=2": (2, 1), "PP=2": (1, 2)}
WORDS = {"listening": ": waiting for", "attached": "ranks attached; loading",
         "loaded": ": weights loaded", "serving": "replica serves"}


def first_token(address):
    with grpc.insecure_channel(address) as channel:
        next(pb_grpc.GenerationStub(channel).GenerateStream(request("Once upon a time", 4)))
    return time.time()


def moments(log):
    """When the coordinator said what."""
    found = {}
    for line in log.read_text().splitlines():
        if line.startswith("{"):
            entry = json.loads(line)
            for name, words in WORDS.items():
                if words in entry["message"]:
                    stamp = entry["time"].replace("Z", "+00:00")
                    found.setdefault(name, datetime.datetime.fromisoformat(stamp).timestamp())
    return found


def split(begin, log, token, scheduled):
    """Seconds by phase, which add up to the whole. `scheduled`: Slurm's part ends with the
    coordinator's first word."""
    at = moments(log)
    start = at["listening"] if scheduled else begin
    return {"schedule": start - begin, "launch": at["attached"] - start,
            "load": at["loaded"] - at["attached"], "warm-up": at["serving"] - at["loaded"],
            "answer": token - at["serving"], "whole": token - begin}


def evict(model):
    """Takes the model out of the page cache, and nothing else."""
    os.sync()
    path = pathlib.Path(model)
    for file in [path] if path.is_file() else path.iterdir():
        descriptor = os.open(file, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def up(model, tensor, pipeline):
    with tempfile.TemporaryDirectory(prefix="shardline-start.") as logs:
        begin = time.time()
        process = subprocess.Popen(
            [str(BIN / "shardline"), "up", model, "--listen", "127.0.0.1:0", "--log-format", "json",
             "--log-dir", logs, "--tensor-parallel-size", str(tensor), "--pipeline-parallel-size",
             str(pipeline)], stdout=subprocess.PIPE, text=True)
        address = process.stdout.readline().split("address=")[1].split()[0]
        token = first_token(address)
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
        return split(begin, pathlib.Path(logs) / "coordinator.log", token, scheduled=False)


def sbatch(slurm, model, tensor, pipeline):
    """One rank a node for stages, two on one node else."""
    with tempfile.TemporaryDirectory(prefix="shardline-start.") as name:
        folder = pathlib.Path(name)
        out = folder / "job.out"
        begin = time.time()
        job = slurm.submit(f"--nodes={pipeline}", f"--ntasks-per-node={tensor}", f"--output={out}",
                           "--export=ALL", ROOT / "deploy/slurm/serve.sbatch",
                           SHARDLINE_MODEL=model, SHARDLINE_BIN=str(BIN),
                           SHARDLINE_LOG_DIR=str(folder / "logs"), SHARDLINE_LOG_FORMAT="json")
        while not out.exists() or "ready address=" not in out.read_text():
            assert slurm.state(job) in ("PENDING", "CONFIGURING", "RUNNING"), out.read_text()
            time.sleep(0.05)
        token = first_token((folder / "logs/address").read_text().strip())
        slurm.run("scancel", job)
        slurm.wait_for(lambda: slurm.state(job) in ("CANCELLED", ""), "the job's end")
        return split(begin, folder / "logs/coordinator.log", token, scheduled=True)


def row(name, runs):
    middle = {phase: statistics.median(run[phase] for run in runs) for phase in [*PHASES, "whole"]}
    most = max(run["whole"] for run in runs)
    print(f"| {name} | " + " | ".join(f"{middle[phase]:.2f}" for phase in PHASES)
          + f" | {middle['whole']:.2f} | {most:.2f} |", flush=True)


def main():
    arguments = argparse.ArgumentParser(description=__doc__,
                                        formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("model", nargs="?", default=None, help="default: SmolLM2")
    arguments.add_argument("--runs", type=int, default=3, help="of each row; medians are shown")
    arguments.add_argument("--cold", action="store_true", help="the model is not in the page cache")
    arguments.add_argument("--slurm", action="store_true", help="rows by sbatch too; needs root")
    options = arguments.parse_args()
    model = options.model or smollm2()

    def measure(start, *layout):
        if options.cold:
            evict(model)
        return start(*layout)

    print("| start | " + " | ".join(PHASES) + " | whole (median) | whole (most) |\n"
          + "|---|" + "---|" * (len(PHASES) + 2), flush=True)
    for name, layout in LAYOUTS.items():
        row(f"`shardline up`, {name}",
            [measure(up, model, *layout) for _ in range(options.runs)])
    if options.slurm:
        with Slurm() as slurm:
            for name, layout in LAYOUTS.items():
                row(f"`sbatch`, {name}",
                    [measure(lambda *l: sbatch(slurm, *l), model, *layout)
                     for _ in range(options.runs)])


if __name__ == "__main__":
    main()
