#!/usr/bin/env python3
"""A rank holds its shard and nothing else: true-shape checkpoints of two layers on TP=2 x PP=2.

The expected bytes are worked out here from the published shapes and the rules of tensor and pipeline
parallelism, without the code under test. Anonymous memory (RssAnon) may be the shard, the KV cache,
the step's activations and a constant, within 5 % of the shard; file pages are let go of.
"""
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import harness

sys.path.insert(0, str(harness.ROOT / "scripts"))
import checkpoint_shapes  # noqa: E402

TP, PP, LAYERS = 2, 2, 2
KV_BYTES = 4 << 20
TOLERANCE = 0.05  # of the shard
# What a rank holds beside weights, KV cache and activations: MPI, gRPC, the allocator's reserve.
PROCESS_BYTES = 48 << 20
FILE_BYTES = 160 << 20  # the program and its libraries
SKIPPED = 77
COLUMNS = ("o_proj", "down_proj", "w2")  # split by columns; other matrices by rows


def shard_bytes(config, stage):
    """Bytes of one rank of the stage: matrices in bfloat16, vectors in float32."""
    layers = config["num_hidden_layers"] // PP
    total = 0
    for name, shape in checkpoint_shapes.tensors(config):
        layer = re.match(r"model\.layers\.(\d+)\.", name)
        if layer:
            if int(layer.group(1)) // layers != stage:
                continue
        elif stage != (0 if "embed_tokens" in name else PP - 1):
            continue
        if len(shape) == 1:
            total += shape[0] * 4
        elif name.endswith("block_sparse_moe.gate.weight"):  # every rank routes
            total += shape[0] * shape[1] * 2
        else:
            total += shape[0] * shape[1] * 2 // TP
    return total


def resident(pid):
    """(anonymous, file) bytes."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return [int(re.search(rf"^{key}:\s+(\d+) kB", status, re.M).group(1)) * 1024 for key in ("RssAnon", "RssFile")]


def available():
    return int(re.search(r"MemAvailable:\s+(\d+)", pathlib.Path("/proc/meminfo").read_text()).group(1)) * 1024


def check(name, directory):
    config = checkpoint_shapes.with_layers(checkpoint_shapes.MODELS[name], LAYERS)
    expected = [shard_bytes(config, stage) for stage in range(PP)]
    needed = TP * sum(expected)
    if available() < needed + (2 << 30) or shutil.disk_usage(directory).free < needed + (2 << 30):
        print(f"skipped: {name} needs {needed / 1e9:.1f} GB of memory and of disk, and 2 GB beside it")
        return False
    model = pathlib.Path(directory) / name
    subprocess.run([sys.executable, str(harness.ROOT / "scripts" / "make_checkpoint.py"), "--like", name, "--layers",
                    str(LAYERS), "--seed", "1", str(model)], check=True)
    with harness.Cluster(model, "--tensor-parallel-size", TP, "--pipeline-parallel-size", PP, "--max-model-len", 64,
                         "--max-num-seqs", 1, "--max-num-batched-tokens", 64, "--kv-cache-memory", KV_BYTES) as cluster:
        tokens, _, _ = harness.collect(cluster.stub.GenerateStream(harness.request("It loads.", 3, ignore_eos=True)))
        assert len(tokens) == 3, tokens
        ranks = cluster.status().replicas[0].ranks
        assert len(ranks) == TP * PP
        for rank in ranks:
            shard = expected[rank.stage]
            assert rank.bytes_total == shard, f"rank {rank.rank} says {rank.bytes_total} bytes, the shapes {shard}"
            anonymous, file = resident(rank.pid)
            beside = anonymous - shard - KV_BYTES - PROCESS_BYTES
            print(f"{name} rank {rank.rank} stage {rank.stage}: shard {shard / 1e6:.1f} MB, anonymous {anonymous / 1e6:.1f} MB "
                  f"({100 * beside / shard:+.1f} % beside KV cache and process), file pages {file / 1e6:.1f} MB")
            assert abs(beside) <= TOLERANCE * shard
            assert file <= FILE_BYTES, "file pages were not let go of"
        print("\n".join(re.findall(r"loaded layers .*", cluster.log_text())))
    shutil.rmtree(model)
    return True


def main():
    with tempfile.TemporaryDirectory(prefix="shardline-memory.") as directory:
        done = [check(name, directory) for name in ("yi-34b", "mixtral-8x7b")]
    sys.exit(0 if all(done) else SKIPPED)


if __name__ == "__main__":
    main()
