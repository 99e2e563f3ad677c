"""`shardline batch` against a real cluster: every line answered once, whatever is killed meanwhile."""

import collections
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

from harness import BIN, Cluster, processes_of, smollm2, wait_for

LINES = 60


def prompts(count=LINES):
    """Lines of both formats; some sample, and so need their seed."""
    lines = []
    for i in range(count):
        text = f"Question {i}: what comes after {i}?"
        sampling = {"max_tokens": 6 + i % 12, "temperature": 0.8 if i % 3 == 0 else 0}
        if i % 2 == 0:
            lines.append({"id": f"line {i}", "prompt": text, **sampling})
        else:
            body = {"messages": [{"role": "user", "content": text}], "stream": False, **sampling}
            lines.append({"custom_id": f"line {i}", "method": "POST",
                          "url": "/v1/chat/completions", "body": body})
    return lines


def write(path, lines):
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n"
                            for line in lines))


def command(address, source, results, *flags):
    return [str(BIN / "shardline"), "batch", "--address", address, "--input", str(source),
            "--output", str(results), *map(str, flags)]


def batch(*arguments):
    return subprocess.run(command(*arguments), text=True, capture_output=True, timeout=300)


def answers(path):
    """{id: answer text or error} of an output; every id once."""
    ids, found = [], {}
    for line in path.read_text().splitlines():
        answer = json.loads(line)
        key = answer.get("custom_id", answer.get("id"))
        ids.append(key)
        if "custom_id" in answer:
            body = answer["response"]["body"]
            found[key] = (body["choices"][0]["message"]["content"] if "choices" in body
                          else body["error"])
        else:
            found[key] = answer.get("text", answer.get("error"))
    twice = [key for key, count in collections.Counter(ids).items() if count > 1]
    assert not twice, twice
    return found


def undisturbed(cluster, folder):
    source, results = folder / "prompts.jsonl", folder / "whole.jsonl"
    write(source, prompts())
    result = batch(cluster.address, source, results)
    assert result.returncode == 0, result
    assert f"{LINES} of {LINES} lines answered" in result.stderr, result.stderr
    found = answers(results)
    assert set(found) == {f"line {i}" for i in range(LINES)}, found.keys()
    assert all(isinstance(text, str) for text in found.values()), found
    again = batch(cluster.address, source, results)
    assert again.returncode == 0 and f"{LINES} before and 0 now" in again.stderr, again
    # OpenAI's shape, by what its users read of it.
    openai = next(a for a in map(json.loads, results.read_text().splitlines()) if "custom_id" in a)
    body = openai["response"]["body"]
    assert openai["response"]["status_code"] == 200 and openai["error"] is None
    assert body["object"] == "chat.completion" and body["choices"][0]["finish_reason"] in (
        "stop", "length")
    usage = body["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    return found


def killed(cluster, folder, whole):
    """The client dies twice, a rank once: what comes out is what an undisturbed run gives."""
    source, results = folder / "prompts.jsonl", folder / "killed.jsonl"
    for rank_too, stop, code in ((False, signal.SIGKILL, -9), (True, signal.SIGTERM, 6)):
        begin = results.read_text().count("\n") if results.exists() else 0
        running = subprocess.Popen(command(cluster.address, source, results, "--concurrency", 4),
                                   stderr=subprocess.PIPE, text=True)
        wait_for(lambda: results.exists() and results.read_text().count("\n") >= begin + 8,
                 "some answers", 120)
        if rank_too:
            rank = next(pid for pid, name in processes_of(cluster.address)
                        if "shardline-worker" in name and "mpirun" not in name)
            os.kill(rank, signal.SIGKILL)
            wait_for(lambda: results.read_text().count("\n") >= begin + 16, "answers after it", 120)
        running.send_signal(stop)
        assert running.wait(timeout=60) == code, running.stderr.read()
        running.stderr.close()
    with results.open("a") as file:  # what a kill in mid-write leaves
        file.write('{"id": "line 5", "te')
    result = batch(cluster.address, source, results)
    assert result.returncode == 0, result
    assert answers(results) == whole


def bad_lines(cluster, folder):
    """Each is answered with what is wrong with it; the others are not touched."""
    good = {"id": "good", "prompt": "Hello", "max_tokens": 2}
    chat = {"custom_id": "chat", "url": "/v1/chat/completions"}
    lines = [good, "not JSON", "[]", {"id": "none"}, {"id": "both", "prompt": "a", "messages": []},
             {"id": "unknown", "prompt": "a", "max_tokenz": 3},
             {"id": "hot", "prompt": "a", "temperature": -1},
             {"id": "url", "url": "/v1/embeddings", "body": {}},
             chat | {"body": {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}},
             "", {"id": "model", "model": "another", "prompt": "a"}]
    expected = {"line-2": "not valid JSON", "line-3": "JSON object", "none": "exactly one",
                "both": "exactly one", "unknown": "max_tokenz", "hot": "temperature", "url": "url",
                "chat": "type \"text\"", "model": "another"}
    source, results = folder / "bad.jsonl", folder / "bad.out.jsonl"
    write(source, lines)
    result = batch(cluster.address, source, results)
    assert result.returncode == 8, result
    found = answers(results)
    assert isinstance(found.pop("good"), str)
    assert set(found) == set(expected), found
    for key, words in expected.items():
        assert words in found[key]["message"], (key, found[key])


def everything_asked_for(cluster, folder):
    """Several answers and log-probabilities come out of each format."""
    ask = {"n": 3, "max_tokens": 4, "temperature": 1, "seed": 7, "ignore_eos": True}
    turn = {"messages": [{"role": "user", "content": "Hello"}]}
    lines = [{"id": "own", "prompt": "Hello there", "logprobs": 2, "prompt_logprobs": 1, **ask},
             {"custom_id": "chat", "url": "/v1/chat/completions",
              "body": {**turn, "logprobs": True, "top_logprobs": 2, **ask}},
             {"custom_id": "text", "url": "/v1/completions",
              "body": {"prompt": "Hello there", "logprobs": 2, **ask}},
             {"custom_id": "none", "url": "/v1/chat/completions",
              "body": {**turn, "logprobs": False, **ask}}]
    source, results = folder / "all.jsonl", folder / "all.out.jsonl"
    write(source, lines)
    result = batch(cluster.address, source, results)
    assert result.returncode == 0, result
    found = {a.get("custom_id", a["id"]): a for a in map(json.loads, results.read_text().splitlines())}
    own = [found["own"], *found["own"]["further_answers"]]
    assert len(own) == 3 and len({a["text"] for a in own}) > 1, own
    for answer in own:
        assert len(answer["token_ids"]) == len(answer["logprobs"]) == 4, answer
        for token, position in zip(answer["token_ids"], answer["logprobs"]):
            assert position["token"]["token_id"] == token and len(position["top"]) == 2, position
            assert position["top"][0]["logprob"] >= position["token"]["logprob"], position
    assert "prompt_logprobs" in found["own"]
    chat, text, none = (found[key]["response"]["body"]["choices"] for key in ("chat", "text", "none"))
    assert [c["index"] for c in chat] == [0, 1, 2] and len(text) == len(none) == 3
    for choice in chat:
        content = choice["logprobs"]["content"]
        assert len(content) == 4 and all(len(c["top_logprobs"]) == 2 for c in content), content
        assert all(bytes(c["bytes"]).decode(errors="replace") == c["token"] for c in content), content
    for answer, choice in zip(own, text):  # the same prompt and seed
        assert choice["text"] == answer["text"]
        assert len(choice["logprobs"]["tokens"]) == len(choice["logprobs"]["token_logprobs"]) == 4
    assert all(c["logprobs"] is None for c in none)


def bad_files(cluster, folder):
    source, results = folder / "two.jsonl", folder / "other.jsonl"
    write(source, [{"id": "a", "prompt": "x"}, {"prompt": "y"}, {"id": "a", "prompt": "z"}])
    result = batch(cluster.address, source, results)
    assert result.returncode == 2 and "lines 1 and 3" in result.stderr, result
    write(source, [{"id": "a", "prompt": "x", "max_tokens": 1}])
    for text, words in (("hello\n", "line 1"), ('{"id": "z", "text": ""}\n', "another batch")):
        results.write_text(text)
        result = batch(cluster.address, source, results)
        assert result.returncode == 2 and words in result.stderr, result
        assert results.read_text() == text
    result = batch(cluster.address, source, folder)
    assert result.returncode == 2 and "--output" in result.stderr, result
    begin = time.time()
    result = batch("127.0.0.1:1", source, folder / "none.jsonl", "--retry-timeout", 0.3)
    assert result.returncode == 3 and time.time() - begin < 20, result
    # A full disk: nothing is lost, and the batch says so.
    result = batch(cluster.address, source, "/dev/full")
    assert result.returncode != 0 and "/dev/full" in result.stderr, result


def main():
    with tempfile.TemporaryDirectory(prefix="shardline-batch.") as name, \
            Cluster(smollm2(), "--tensor-parallel-size", 2) as cluster:
        folder = pathlib.Path(name)
        whole = undisturbed(cluster, folder)
        killed(cluster, folder, whole)
        bad_lines(cluster, folder)
        everything_asked_for(cluster, folder)
        bad_files(cluster, folder)
    print("ok")


if __name__ == "__main__":
    sys.exit(main())
