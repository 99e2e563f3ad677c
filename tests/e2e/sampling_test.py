"""Penalties, biases, bad words, minimum length and log-probabilities of SmolLM2 are transformers'.

All cases are in flight at once, prompts in chunks of a few tokens; then again while a rank is killed
in mid-answer.
"""

import concurrent.futures
import json
import os
import signal
import sys

from harness import GOLDEN, Cluster, collect, pb, processes_of, request, smollm2

LAYOUTS = [(1, 1), (2, 2)]
MOST_TOKENS = 40
# Logits are within 1e-5 of their range, some 40 (tests/worker/smollm2_test.cc).
TOLERANCE = 1e-3


def message_of(case, **more):
    sampling = {**case["sampling"], **more}
    biases = sampling.pop("logit_bias", {})
    message = request(case["text"], max_tokens=MOST_TOKENS, **sampling)
    for token, bias in biases.items():
        message.sampling.logit_bias[int(token)] = bias
    return message


def check_scores(name, got, golden):
    """Each position's log-probabilities; a likeliest token may differ where two are as likely."""
    assert len(got) == len(golden), (name, len(got), len(golden))
    for at, (position, expected) in enumerate(zip(got, golden)):
        where = (name, at, position, expected)
        assert abs(position.token.logprob - expected["logprob"]) < TOLERANCE, where
        assert len(position.top) == len(expected["top"]), where
        for one, token, logprob in zip(position.top, expected["top"], expected["top_logprobs"]):
            assert abs(one.logprob - logprob) < TOLERANCE, where
            near = [l for l in expected["top_logprobs"] if abs(l - logprob) < 2 * TOLERANCE]
            assert one.token_id == token or len(near) > 1, where


def in_parallel(stub, messages):
    with concurrent.futures.ThreadPoolExecutor(len(messages)) as pool:
        return list(pool.map(stub.Generate, messages))


def goldens(cluster, cases):
    answers = in_parallel(cluster.stub,
                          [message_of(case, logprobs=5, prompt_logprobs=5) for case in cases])
    for case, answer in zip(cases, answers):
        assert list(answer.token_ids) == case["tokens"], (case["name"], answer.token_ids)
        check_scores(case["name"], answer.logprobs, case["scores"])
        check_scores(case["name"] + " prompt", answer.prompt_logprobs, case["prompt_scores"])
        for token, score in zip(answer.token_ids, answer.logprobs):
            assert score.token.token_id == token and score.token.bytes, score
    without = in_parallel(cluster.stub, [message_of(case) for case in cases])
    for case, answer in zip(cases, without):
        assert list(answer.token_ids) == case["tokens"] and not answer.logprobs, case["name"]


def through_a_loss(cluster, cases):
    """What looks back looks back on what an earlier life of the replica generated."""
    streams = [cluster.stub.GenerateStream(message_of(case, logprobs=5)) for case in cases]
    heads = [next(stream) for stream in streams]
    ranks = [pid for pid, command in processes_of(cluster.address) if "shardline-worker" in command]
    os.kill(ranks[0], signal.SIGKILL)
    for case, head, stream in zip(cases, heads, streams):
        tokens, _, last = collect(stream)
        assert list(head.token_ids) + tokens == case["tokens"], (case["name"], tokens)
        assert last.usage.completion_tokens == len(case["tokens"]), last
    assert cluster.status().counters.requests_resumed > 0


def several_answers(cluster):
    message = request("Once upon a time", max_tokens=12, temperature=1.0, seed=11, ignore_eos=True)
    alone = cluster.stub.Generate(message)
    message.sampling.n = 4
    together = cluster.stub.Generate(message)
    assert together.token_ids == alone.token_ids, (alone, together)
    answers = [list(together.token_ids)] + [list(a.token_ids) for a in together.further_answers]
    assert len({tuple(a) for a in answers}) == 4, answers
    assert together.usage.completion_tokens == 48, together.usage
    streamed = [[] for _ in range(4)]
    ends = [0] * 4
    messages = list(cluster.stub.GenerateStream(message))
    for part in messages:
        assert part.first_token == len(streamed[part.index]), part
        streamed[part.index].extend(part.token_ids)
        ends[part.index] += part.finish_reason != 0
    assert streamed == answers and ends == [1] * 4, (streamed, answers)
    assert [m.HasField("usage") for m in messages] == [False] * (len(messages) - 1) + [True]


def main():
    cases = json.loads((GOLDEN / "smollm2" / "sampling.json").read_text())["cases"]
    for tensor, pipeline in LAYOUTS:
        with Cluster(smollm2(), "--dtype", "float32", "--tensor-parallel-size", tensor,
                     "--pipeline-parallel-size", pipeline, "--max-model-len", 512,
                     "--max-num-seqs", 8, "--max-num-batched-tokens", 12) as cluster:
            goldens(cluster, cases)
            several_answers(cluster)
            if pipeline > 1:
                through_a_loss(cluster, [c for c in cases if len(c["tokens"]) > 30])
        print(f"TP={tensor} PP={pipeline}: {len(cases)} cases equal", flush=True)


if __name__ == "__main__":
    sys.exit(main())
