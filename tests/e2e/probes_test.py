"""The probes and the termination sequence of deploy/k8s's coordinator against real processes."""

import signal
import subprocess
import threading

import yaml

from harness import BIN, ROOT, Cluster, Coordinator, collect, request, smollm2, wait_for

DEPLOYMENT = next(yaml.safe_load_all((ROOT / "deploy/k8s/base/coordinator.yaml").read_text()))
CONTAINER = DEPLOYMENT["spec"]["template"]["spec"]["containers"][0]


def probe(name, address):
    """Whether the manifest's probe passes, run as a kubelet would but for the address."""
    command = CONTAINER[name]["exec"]["command"]
    result = subprocess.run([str(BIN / command[0]), *command[1:], "--address", address],
                            capture_output=True, text=True,
                            timeout=CONTAINER[name]["timeoutSeconds"] * 4)
    return result.returncode == 0


def without_replicas():
    with Coordinator(smollm2()) as coordinator:
        wait_for(lambda: probe("startupProbe", coordinator.address), "the startup probe")
        assert probe("livenessProbe", coordinator.address)
        assert not probe("readinessProbe", coordinator.address)
        # A coordinator that does not get to run is not alive.
        coordinator.process.send_signal(signal.SIGSTOP)
        assert not probe("livenessProbe", coordinator.address)
        coordinator.process.send_signal(signal.SIGCONT)
        wait_for(lambda: probe("livenessProbe", coordinator.address), "it to live again")


def termination():
    """SIGTERM: not ready any more, alive until the last answer has ended, exit code 0."""
    with Cluster(smollm2()) as cluster:
        wait_for(lambda: probe("readinessProbe", cluster.address), "the readiness probe")
        assert probe("livenessProbe", cluster.address)
        stream = cluster.stub.GenerateStream(request("Once upon a time", 200, ignore_eos=True))
        next(stream)
        answer = []
        reader = threading.Thread(target=lambda: answer.append(collect(stream)))
        reader.start()
        cluster.process.send_signal(signal.SIGTERM)
        wait_for(lambda: not probe("readinessProbe", cluster.address), "it to be unready")
        reader.join()
        tokens, _, last = answer[0]
        assert last.finish_reason, last
        assert cluster.process.wait(timeout=DEPLOYMENT["spec"]["template"]["spec"][
            "terminationGracePeriodSeconds"]) == 0


def main():
    for check in (without_replicas, termination):
        check()
        print(f"{check.__name__}: ok", flush=True)


if __name__ == "__main__":
    main()
