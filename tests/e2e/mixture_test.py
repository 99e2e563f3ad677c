"""A mixture of experts through real processes: every layout answers as a plain forward pass does;
expert load is shown, and a placement that follows it lowers the measured imbalance."""

import concurrent.futures
import json
import pathlib
import random
import subprocess
import sys
import tempfile
import time

import grpc

from harness import BIN, Cluster, admin_pb, collect, error_of, request, smollm2
from mixtral import Mixtral

ANSWER = 24
# TP, PP, DP, expert parallelism. Seven experts divide by none of the numbers of ranks.
LAYOUTS = [(1, 1, 1, False), (3, 1, 1, False), (2, 1, 1, True), (3, 1, 1, True), (2, 2, 1, True),
           (1, 1, 2, True), (2, 1, 2, True), (1, 2, 2, True)]


def flags(tp, pp, dp, ep):
    return ["--dtype", "float32", "--compute-dtype", "float32", "--tensor-parallel-size", tp,
            "--pipeline-parallel-size", pp, "--data-parallel-size", dp,
            *(["--enable-expert-parallel"] if ep else []),
            "--max-model-len", 256, "--max-num-seqs", 8, "--max-num-batched-tokens", 64,
            "--threads", 1]


def answers(cluster, prompts, count=ANSWER):
    """All at once."""
    def run(prompt):
        return collect(cluster.stub.GenerateStream(
            request(prompt, max_tokens=count, ignore_eos=True)))[0]
    with concurrent.futures.ThreadPoolExecutor(len(prompts)) as pool:
        return list(pool.map(run, prompts))


def check_layouts(model):
    generator = random.Random(3)
    prompts = [[generator.randrange(model.vocabulary) for _ in range(length)]
               for length in (1, 5, 17, 30, 64, 90)]
    expected = [model.greedy(prompt, ANSWER) for prompt in prompts]
    for layout in LAYOUTS:
        begin = time.time()
        with Cluster(model.directory, *flags(*layout)) as cluster:
            assert answers(cluster, prompts) == expected, layout
            load = cluster.admin.GetExpertLoad(admin_pb.GetExpertLoadRequest())
            tokens = sum(map(len, prompts)) + len(prompts) * (ANSWER - 1)
            for layer in load.layers:
                # A step planned ahead may compute a token that nobody waits for.
                routed = sum(layer.expert_tokens)
                assert tokens * 2 <= routed <= (tokens + 4 * len(prompts)) * 2, (layout, routed)
            assert [layer.layer for layer in load.layers] == list(range(model.layers))
        print(f"TP={layout[0]} PP={layout[1]} DP={layout[2]} EP={layout[3]}: {len(prompts)} answers "
              f"equal, {time.time() - begin:.1f} s", flush=True)


def status(cluster, *flags):
    return subprocess.run([BIN / "shardline", "status", "--address", cluster.address, "--experts",
                           *flags], check=True, capture_output=True, text=True).stdout


def imbalances(cluster):
    load = json.loads(status(cluster, "--json"))
    return [layer["imbalance"] for layer in load["layers"]]


def check_placement(model, directory):
    """Prompts of few different tokens use few experts. Their beginnings differ: what the prefix
    cache has is not computed, and not counted."""
    layout = flags(1, 1, 2, True)
    placement = pathlib.Path(directory) / "experts.txt"
    prompts = [[i] + [7, 7, 7, 9] * 50 for i in range(4)]
    with Cluster(model.directory, *layout) as cluster:
        code, message, _ = error_of(lambda: cluster.admin.PlanExpertPlacement(
            admin_pb.PlanExpertPlacementRequest()))
        assert code == grpc.StatusCode.FAILED_PRECONDITION and "no load" in message, message
        first = answers(cluster, prompts)
        before = imbalances(cluster)
        assert "layer 0   imbalance" in status(cluster)
        said = status(cluster, "--save-placement", placement, "--spare-experts", "2")
        assert f"--expert-placement {placement}" in said, said
    with Cluster(model.directory, *layout, "--expert-placement", placement) as cluster:
        assert answers(cluster, prompts) == first
        after = imbalances(cluster)
    print("imbalance by layer before", before, "and after", after, flush=True)
    assert max(before) > 1.25, before
    assert all(b < a for a, b in zip(before, after)), (before, after)
    excess = [sum(layer - 1 for layer in layers) for layers in (before, after)]
    assert excess[1] < excess[0] / 3, (before, after)
    return placement


def refusal(model, *flags):
    result = subprocess.run([BIN / "shardline", "up", str(model), "--listen", "127.0.0.1:0",
                             *map(str, flags)], capture_output=True, text=True, timeout=60)
    assert result.returncode == 2, (result.returncode, result.stderr)
    return result.stderr


def check_refusals(model, placement):
    assert "add --enable-expert-parallel" in refusal(model.directory, "--data-parallel-size", 2)
    assert "this one has none" in refusal(smollm2(), "--data-parallel-size", 2)
    assert "the model has no experts" in refusal(smollm2(), "--enable-expert-parallel")
    assert "needs --enable-expert-parallel" in refusal(model.directory, "--expert-placement",
                                                      placement)
    assert "is for 2 ranks a stage; the layout has 3" in refusal(
        model.directory, "--expert-placement", placement, "--tensor-parallel-size", 3,
        "--enable-expert-parallel")
    with Cluster(smollm2()) as cluster:
        code, message, _ = error_of(
            lambda: cluster.admin.GetExpertLoad(admin_pb.GetExpertLoadRequest()))
        assert code == grpc.StatusCode.FAILED_PRECONDITION, message
        assert "has no mixture of experts" in message, message


def main():
    with tempfile.TemporaryDirectory(prefix="shardline-mixture.") as directory:
        model = Mixtral(pathlib.Path(directory) / "tiny-mixtral", "F32", layers=3, hidden=96,
                        heads=6, kv_heads=2, feed_forward=120, experts=7, vocabulary=211,
                        scale=0.15)
        check_layouts(model)
        check_refusals(model, check_placement(model, directory))


if __name__ == "__main__":
    sys.exit(main())
