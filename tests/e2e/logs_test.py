"""Logs as JSON: every line of coordinator and ranks is an object, calls are there with request and
trace, and nothing that a client sends gets into a log as it is."""

import json
import pathlib
import re
import sys

import grpc

from harness import Cluster, collect, error_of, request, smollm2, wait_for

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
HOSTILE_TRACES = [f"00-{TRACE.upper()}-{PARENT}-01", f"00-{TRACE}-{PARENT}-01-more", "x" * 3000,
                  f"ff-{TRACE}-{PARENT}-01", f"00-{'0' * 32}-{PARENT}-01", '{"level":"error"}',
                  f"00-{TRACE}-{PARENT}-0", "~" * 55]
HOSTILE_IDS = ['a\n{"level":"error","message":"forged"}', "\x1b[2J\x00", "ends\r\n", "\u2028\u0085é",
               'x" code="OK']


def entries(cluster):
    """{log's name: objects of its lines}; a line that is still being written does not count."""
    found = {}
    for path in pathlib.Path(cluster.logs.name).glob("*.log"):
        text = path.read_text()
        assert all(ch == "\n" or 0x20 <= ord(ch) < 0x7f for ch in text), f"{path.name} is not plain"
        lines = text[:text.rfind("\n") + 1].splitlines()
        found[path.name] = [json.loads(line) for line in lines
                            if not line.startswith("listening on ")]
    return found


def call(cluster, request_id):
    """What the log says of the call."""
    def found():
        return [line for line in entries(cluster)["coordinator.log"]
                if line["message"] == "call ended" and line["request_id"] == request_id]
    line, = wait_for(found, f"the call of {request_id!r} in the log")
    return line


def named(request_id, *arguments, **sampling):
    message = request(*arguments, **sampling)
    message.request_id = request_id
    return message


def calls_and_traces(cluster):
    metadata = (("traceparent", f"00-{TRACE}-{PARENT}-01"),)
    collect(cluster.stub.GenerateStream(named("streamed", "Once upon a time", 5), metadata=metadata))
    line = call(cluster, "streamed")
    assert line.items() >= {"method": "GenerateStream", "code": "OK", "trace_id": TRACE,
                            "parent_id": PARENT, "sampled": 1, "prompt_tokens": 4,
                            "completion_tokens": 5, "level": "info",
                            "process": "coordinator"}.items(), line
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"]), line
    assert 0 < line["seconds"] < 60, line
    answer = cluster.stub.Generate(request("Once upon a time", 3))
    line = call(cluster, answer.request_id)
    assert line["method"] == "Generate" and "trace_id" not in line, line
    error_of(lambda: cluster.stub.Generate(named("refused", "", 3), metadata=metadata))
    line = call(cluster, "refused")
    assert line["code"] == "INVALID_ARGUMENT" and line["trace_id"] == TRACE, line
    stream = cluster.stub.GenerateStream(named("left", "Once upon a time", 400, ignore_eos=True))
    next(stream)
    stream.cancel()
    assert call(cluster, "left")["code"] == "CANCELLED"


def hostile(cluster):
    for i, trace in enumerate(HOSTILE_TRACES):
        cluster.stub.Generate(named(f"hostile-{i}", "Hi", 1), metadata=(("traceparent", trace),))
    good = ("traceparent", f"00-{TRACE}-{PARENT}-01")
    cluster.stub.Generate(named("two", "Hi", 1), metadata=(good, good))
    for request_id in ("two", *(f"hostile-{i}" for i in range(len(HOSTILE_TRACES)))):
        line = call(cluster, request_id)
        assert line["code"] == "OK" and not {"trace_id", "parent_id", "sampled"} & line.keys(), line
    for request_id in HOSTILE_IDS:
        cluster.stub.Generate(named(request_id, "Hi", 1))
        assert call(cluster, request_id)["code"] == "OK"
    assert not any(line.get("message") == "forged" or line["level"] == "error"
                   for lines in entries(cluster).values() for line in lines)
    # Of a log, a text is 256 bytes at most.
    code, _, _ = error_of(lambda: cluster.stub.Generate(named("y" * 5000, "Hi", 1)))
    assert code == grpc.StatusCode.INVALID_ARGUMENT, code
    assert call(cluster, "y" * 256)["code"] == "INVALID_ARGUMENT"


def main():
    with Cluster(smollm2(), "--log-format", "json", "--max-model-len", 512) as cluster:
        for check in (calls_and_traces, hostile):
            check(cluster)
            print(f"{check.__name__}: ok", flush=True)
        ranks = entries(cluster)["ranks.log"]
        assert any(line["process"] == "rank 0/1" and "warm after" in line["message"]
                   for line in ranks), ranks


if __name__ == "__main__":
    sys.exit(main())
