"""A real Prometheus scrapes a running cluster: promtool passes its metrics and rules, and every query
of the dashboard and of the alerts has an answer there."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

import grpc

from harness import ROOT, Cluster, admin_pb, collect, error_of, request, smollm2, wait_for
from mixtral import Mixtral
from slurm_cluster import free_port

MONITORING = ROOT / "deploy" / "monitoring"
# Nothing went wrong, so these have nothing to show; they must be valid all the same.
EMPTY_WHEN_WELL = re.compile(r"> |< |>= |== 0")


def get(url):
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode()


def value(text, name, **labels):
    """The sum of a metric's samples with these labels."""
    found = [float(line.rsplit(" ", 1)[1]) for line in text.splitlines()
             if re.match(rf"{name}(\{{|\s)", line)
             and all(f'{key}="{wanted}"' in line for key, wanted in labels.items())]
    assert found, (name, labels)
    return sum(found)


class Prometheus:
    def __init__(self, *targets):
        self.folder = tempfile.TemporaryDirectory(prefix="shardline-prometheus.")
        self.url = f"http://127.0.0.1:{free_port()}"
        config = (MONITORING / "prometheus.yml").read_text()
        config = config.replace('"127.0.0.1:9400"', json.dumps(targets)[1:-1]).replace("5s", "500ms")
        config = config.replace("rules.yml", str(MONITORING / "rules.yml"))
        path = f"{self.folder.name}/prometheus.yml"
        with open(path, "w") as file:
            file.write(config)
        self.process = subprocess.Popen(
            ["prometheus", f"--config.file={path}", f"--storage.tsdb.path={self.folder.name}/data",
             f"--web.listen-address={self.url.removeprefix('http://')}"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        self.folder.cleanup()

    def query(self, expression):
        try:
            answer = get(f"{self.url}/api/v1/query?" + urllib.parse.urlencode({"query": expression}))
        except urllib.error.HTTPError as error:
            assert error.code == 503, f"{expression}: {error.read().decode()}"  # it starts
            return []
        except OSError:
            return []
        return json.loads(answer)["data"]["result"]


def load(cluster, mixture, stop):
    """Requests of every kind of end, until told to stop."""
    while not stop.is_set():
        mixture.stub.Generate(request([3, 1, 4, 1, 5, 9, 2, 6], 8))
        stream = cluster.stub.GenerateStream(request("Count: one two three four " * 8, 12))
        assert len(collect(stream)[0]) == 12
        cancelled = cluster.stub.GenerateStream(request("Cancel me", 400))
        next(cancelled)
        cancelled.cancel()


def main():
    if not shutil.which("prometheus"):
        sys.exit("needs Prometheus (scripts/setup.sh --dev installs it)")
    rules = subprocess.run(["promtool", "check", "rules", str(MONITORING / "rules.yml")],
                           capture_output=True, text=True)
    assert rules.returncode == 0, rules
    ports = [free_port(), free_port()]
    targets = [f"127.0.0.1:{port}" for port in ports]
    with tempfile.TemporaryDirectory(prefix="shardline-mixture.") as folder:
        Mixtral(folder, "F32", layers=2, hidden=64, heads=4, kv_heads=2, feed_forward=96, experts=4,
                vocabulary=211, scale=0.05)
        with Cluster(smollm2(), "--pipeline-parallel-size", 2, "--metrics-listen",
                     targets[0]) as cluster, \
                Cluster(folder, "--tensor-parallel-size", 2, "--enable-expert-parallel", "--dtype",
                        "float32", "--served-model-name", "mixture", "--metrics-listen",
                        targets[1]) as mixture, Prometheus(*targets) as prometheus:
            scraped(cluster, mixture, prometheus)
            check_numbers(cluster, mixture, *(get(f"http://{target}/metrics") for target in targets))
    print("ok")


def scraped(cluster, mixture, prometheus):
    """Every query of the dashboard and of the alerts, while both clusters are at work."""
    stop = threading.Event()
    loader = threading.Thread(target=load, args=(cluster, mixture, stop))
    loader.start()
    try:
        wait_for(lambda: len(prometheus.query(
            'shardline_request_success_total{finished_reason="length"} > 2')) == 2, "scrapes", 60)
        code = error_of(lambda: cluster.stub.Generate(request("", 4)))[0]
        assert code == grpc.StatusCode.INVALID_ARGUMENT, code

        queries = re.findall(r'"expr": "((?:[^"\\]|\\.)*)"',
                             (MONITORING / "grafana-dashboard.json").read_text())
        queries = [json.loads(f'"{query}"') for query in queries]
        assert len(queries) > 15, queries
        for query in queries:
            query = query.replace("$model", ".*").replace("$__rate_interval", "30s")
            wait_for(lambda: prometheus.query(query), query, 60)
        answer = json.loads(get(f"{prometheus.url}/api/v1/rules"))["data"]["groups"]
        alerts = [rule for group in answer for rule in group["rules"]]
        assert len(alerts) >= 5, alerts
        for alert in alerts:
            assert alert["health"] in ("ok", "unknown") and alert["state"] == "inactive", alert
            assert EMPTY_WHEN_WELL.search(alert["query"]), alert
            wanted = re.findall(r"(shardline_\w+|up)\b", alert["query"])
            assert wanted and all(prometheus.query(metric) for metric in wanted), alert
    finally:
        stop.set()
        loader.join()


def check_numbers(cluster, mixture, text, mixture_text):
    """What both serve when nothing runs any more is what they say of themselves."""
    for scrape in (text, mixture_text):
        check = subprocess.run(["promtool", "check", "metrics"], input=scrape, capture_output=True,
                               text=True)
        assert check.returncode == 0 and not check.stderr and not check.stdout, check
    # The numbers are the cluster's own.
    status = cluster.status()
    assert value(text, "shardline_generation_tokens_total") <= status.counters.generated_tokens
    ends = {end: value(text, "shardline_request_success_total", finished_reason=end)
            for end in ("stop", "length", "abort")}
    assert ends["length"] >= 2 and ends["abort"] >= 2, ends
    first = value(text, "shardline_time_to_first_token_seconds_count")
    assert value(text, "shardline_request_queue_time_seconds_count") >= first >= ends["length"]
    assert value(text, "shardline_e2e_request_latency_seconds_count") == (
        ends["length"] + ends["stop"])
    assert value(text, "shardline_replica_state", state="serving") == 1
    assert 0 <= value(text, "shardline_kv_cache_usage_perc") <= 1
    listed = set(re.findall(r"`shardline_(\w+)`", (ROOT / "docs" / "metrics.md").read_text()))
    served, with_experts = (set(re.findall(r"^# TYPE shardline_(\w+)", scrape, re.MULTILINE))
                            for scrape in (text, mixture_text))
    assert listed == with_experts, listed ^ with_experts
    assert served == {name for name in listed if not name.startswith("expert_")}, listed ^ served
    load = mixture.admin.GetExpertLoad(admin_pb.GetExpertLoadRequest())
    for layer in load.layers:
        labels = {"layer": layer.layer, "replica": 0, "model_name": "mixture"}
        for rank, tokens in enumerate(layer.rank_tokens):
            assert value(mixture_text, "shardline_expert_rank_tokens_total", rank=rank,
                         **labels) == tokens > 0, (rank, layer)
        share = max(layer.expert_tokens) / sum(layer.expert_tokens)
        assert abs(value(mixture_text, "shardline_expert_hottest_share", **labels) - share) < 1e-9


if __name__ == "__main__":
    sys.exit(main())
