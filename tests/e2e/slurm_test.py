"""deploy/slurm in a real Slurm of two nodes on this host."""

import collections
import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import grpc

from harness import BIN, ROOT, admin_grpc, admin_pb, pb_grpc, collect, request, smollm2, wait_for
from slurm_cluster import Slurm

DEPLOY = ROOT / "deploy" / "slurm"
LINES = 200
SERVING = 4
PROMPT = "Once upon a time"


def ours(folder):
    """Processes of a job whose logs are in `folder`: their command line or environment names it."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and f"SHARDLINE_LOG_DIR={folder}\0".encode() in (
                    entry / "environ").read_bytes():
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                found.append((int(entry.name), command))
    return found


def submit(slurm, script, folder, *arguments, ranks_a_node=1, **environment):
    """On both nodes: two stages by default."""
    return slurm.submit("--nodes=2", f"--ntasks-per-node={ranks_a_node}", f"--output={folder}/job.out",
                        "--export=ALL", DEPLOY / script, *arguments,
                        SHARDLINE_MODEL=smollm2(), SHARDLINE_BIN=str(BIN),
                        SHARDLINE_LOG_DIR=str(folder / "logs"), **environment)


def answers(path):
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    twice = [key for key, n in collections.Counter(a["id"] for a in lines).items() if n > 1]
    assert not twice, twice
    return {a["id"]: a["text"] for a in lines}


def write_prompts(path):
    path.write_text("".join(json.dumps(
        {"id": f"q{i}", "prompt": f"Question {i}: what comes after {i}?", "max_tokens": 4 + i % 8,
         "temperature": 0.7 if i % 4 == 0 else 0}) + "\n" for i in range(LINES)))


def address_of(slurm, folder, job):
    file = folder / "logs" / "address"
    slurm.wait_for(lambda: "ready address=" in (folder / "job.out").read_text(),
                   f"job {job} to serve: {slurm.state(job)}", 120)
    return file.read_text().strip()


def stream(address):
    with grpc.insecure_channel(address) as channel:
        return collect(pb_grpc.GenerationStub(channel).GenerateStream(
            request(PROMPT, max_tokens=24)))[0]


def kill_a_rank(folder):
    rank = next(pid for pid, command in ours(folder / "logs")
                if "shardline-worker --coordinator" in command and "srun" not in command)
    os.kill(rank, signal.SIGKILL)


def service(slurm, folder):
    """Serves; a killed rank comes back, and its request goes on; scancel leaves nothing."""
    job = submit(slurm, "serve.sbatch", folder)
    address = address_of(slurm, folder, job)
    tokens = stream(address)
    assert len(tokens) == 24, tokens
    out = (folder / "job.out").read_text()
    assert "pipeline_parallel_size=2" in out and "tensor_parallel_size=1" in out, out

    source, whole = folder / "prompts.jsonl", folder / "whole.jsonl"
    write_prompts(source)
    result = subprocess.run([str(BIN / "shardline"), "batch", "--address", address, "--input",
                             str(source), "--output", str(whole)], text=True, capture_output=True)
    assert result.returncode == 0, result

    with grpc.insecure_channel(address) as channel:
        running = pb_grpc.GenerationStub(channel).GenerateStream(request(PROMPT, max_tokens=24))
        first = list(next(running).token_ids)
        kill_a_rank(folder)
        rest = collect(running)[0]
    assert first + rest == tokens, (first, rest, tokens)
    assert "starting it again" in (folder / "job.out").read_text()

    slurm.run("scancel", job)
    slurm.wait_for(lambda: slurm.state(job) in ("CANCELLED", ""), "the job to end")
    wait_for(lambda: not ours(folder / "logs"), f"nothing to be left: {ours(folder / 'logs')}", 30)
    return answers(whole)


def replicas(slurm, folder):
    """Two replicas, a node each: what one of them loses goes on in the other, and it comes back."""
    job = submit(slurm, "serve.sbatch", folder, ranks_a_node=2, SHARDLINE_REPLICAS="2")
    address = address_of(slurm, folder, job)
    with grpc.insecure_channel(address) as channel:
        admin = admin_grpc.AdminStub(channel)

        def states():
            """By replica: (state, epoch)."""
            status = admin.GetStatus(admin_pb.GetStatusRequest())
            return {r.name: (r.state, r.epoch) for r in status.replicas}
        both = lambda: all(state == SERVING for state, _ in states().values()) and states()
        before = wait_for(both, "both replicas to serve", 60)
        assert len(before) == 2, before
        for rank in admin.GetStatus(admin_pb.GetStatusRequest()).replicas[0].ranks:
            # Two ranks share a node's processors, and know it.
            threads = int(re.search(r"(\d+) threads?$", rank.device).group(1))
            assert threads <= max(1, os.cpu_count() // 2), rank
        assert "replicas=2 tensor_parallel_size=2" in (folder / "job.out").read_text()
        stub = pb_grpc.GenerationStub(channel)
        long = request(PROMPT, max_tokens=80, ignore_eos=True)
        tokens = list(stub.Generate(long).token_ids)
        running = [stub.GenerateStream(long) for _ in range(4)]  # some on each
        first = [list(next(stream).token_ids) for stream in running]
        kill_a_rank(folder)
        assert all(start + collect(stream)[0] == tokens for start, stream in zip(first, running))
        wait_for(lambda: states() != before and both(), "the lost replica to be back", 60)
        assert sum(states()[name] != before[name] for name in before) == 1, (before, states())
    slurm.run("scancel", job)
    slurm.wait_for(lambda: slurm.state(job) in ("CANCELLED", ""), "the job to end")
    wait_for(lambda: not ours(folder / "logs"), f"nothing to be left: {ours(folder / 'logs')}", 30)


def replicas_on_a_node(slurm, folder):
    """Four replicas, two a node: their steps run at the same time. When its time is up (`--signal` of
    the script) the job finishes what runs, and has completed."""
    job = submit(slurm, "serve.sbatch", folder, ranks_a_node=2, SHARDLINE_REPLICAS="4")
    with grpc.insecure_channel(address_of(slurm, folder, job)) as channel:
        admin = admin_grpc.AdminStub(channel)
        wait_for(lambda: [r.state for r in admin.GetStatus(
            admin_pb.GetStatusRequest()).replicas] == [SERVING] * 4, "four replicas to serve", 60)
        running = pb_grpc.GenerationStub(channel).GenerateStream(
            request(PROMPT, max_tokens=150, ignore_eos=True))
        first = list(next(running).token_ids)
        slurm.run("scancel", "--batch", "--signal=TERM", job)
        assert len(first + collect(running)[0]) == 150
    slurm.wait_for(lambda: slurm.state(job) == "COMPLETED", "the job to complete")
    wait_for(lambda: not ours(folder / "logs"), f"nothing to be left: {ours(folder / 'logs')}", 30)


def batch(slurm, folder, whole):
    """Requeued half-way, with a rank killed before: every line once, as in an undisturbed run."""
    source, results = folder / "prompts.jsonl", folder / "results.jsonl"
    write_prompts(source)
    job = submit(slurm, "batch.sbatch", folder, "--concurrency=4",
                 SHARDLINE_INPUT=str(source), SHARDLINE_OUTPUT=str(results))

    def count(least):
        return results.exists() and results.read_text().count("\n") >= least
    slurm.wait_for(lambda: count(20), "the first answers", 120)
    kill_a_rank(folder)
    slurm.wait_for(lambda: count(60), "answers after a rank was lost", 120)
    assert not count(LINES), "the batch ended before it could be disturbed"
    slurm.run("scontrol", "requeue", job)
    slurm.wait_for(lambda: slurm.state(job) == "COMPLETED", "the requeued job to complete", 240)
    out = (folder / "job.out").read_text()
    assert out.count("ready address=") == 2 and f"{LINES} of {LINES} lines answered" in out, out
    assert answers(results) == whole
    wait_for(lambda: not ours(folder / "logs"), f"nothing to be left: {ours(folder / 'logs')}", 30)


def wrong_layout(slurm, folder):
    for wrong, named in (({"SHARDLINE_TENSOR_PARALLEL_SIZE": "3"}, "are not the 2 tasks"),
                         ({"SHARDLINE_REPLICAS": "3"}, "SHARDLINE_REPLICAS (3)")):
        job = submit(slurm, "serve.sbatch", folder, **wrong)
        slurm.wait_for(lambda: slurm.state(job) == "FAILED", "the job to fail")
        assert named in (folder / "job.out").read_text(), wrong


def main():
    if os.geteuid() != 0 or not shutil.which("munged", path="/usr/sbin"):
        sys.exit("needs root, and Slurm's packages (scripts/setup.sh --dev installs them)")
    with tempfile.TemporaryDirectory(prefix="shardline-slurm-jobs.") as name, Slurm() as slurm:
        whole = None
        for check in (wrong_layout, replicas, replicas_on_a_node, service, batch):
            begin = time.time()
            folder = pathlib.Path(name) / check.__name__
            folder.mkdir()
            try:
                whole = check(slurm, folder, *([whole] if check is batch else []))
            except BaseException:
                for log in [folder / "job.out", *(folder / "logs").glob("*")]:
                    if log.exists():
                        print(f"--- {log.name}\n{log.read_text()[-3000:]}", file=sys.stderr)
                raise
            print(f"{check.__name__}: ok, {time.time() - begin:.1f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
