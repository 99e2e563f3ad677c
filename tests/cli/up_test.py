"""Processes that `shardline up` starts: they live, come back and end as they should.

Usage: up_test.py PATH_OF_SHARDLINE, with SHARDLINE_SMOLLM2_GGUF naming the real model. Only the
standard library is needed.
"""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
import unittest
import uuid

SHARDLINE = pathlib.Path(sys.argv.pop(1)).resolve()
MODEL = os.environ.get("SHARDLINE_SMOLLM2_GGUF", "")
MPI_MEMORY = pathlib.Path("/dev/shm")


class Cluster:
    """`shardline up` whose processes can be found by a mark in their environment."""

    def __init__(self, *flags, ranks=2):
        self.mark = uuid.uuid4().hex
        self.temporary = tempfile.TemporaryDirectory(prefix="shardline-up-test.")
        self.errors = open(pathlib.Path(self.temporary.name) / "stderr", "w+")
        self.scratch = pathlib.Path(self.temporary.name) / "tmp"
        self.scratch.mkdir()
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("SHARDLINE_")}
        self.environment |= {"SHARDLINE_MARK": self.mark, "TMPDIR": str(self.scratch)}
        self.up = subprocess.Popen(
            [str(SHARDLINE), "up", MODEL, "--listen", "127.0.0.1:0", "--tensor-parallel-size",
             str(ranks), "--max-model-len", "2048", *flags],
            stdout=subprocess.PIPE, stderr=self.errors, text=True, env=self.environment)
        line = self.up.stdout.readline()
        match = re.match(r"ready address=(\S+) model=\S+ replicas=\d+ tensor_parallel_size=(\d+) "
                         r"pipeline_parallel_size=1 data_parallel_size=1 kv_tokens=(\d+) "
                         r"seconds=[\d.]+\n$", line)
        assert match, (line, self.error_text())
        self.address = match[1]

    def error_text(self):
        return pathlib.Path(self.errors.name).read_text()

    def processes(self):
        """{pid: name} of what is alive, `up` included."""
        found = {}
        for entry in pathlib.Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                if f"SHARDLINE_MARK={self.mark}".encode() in (entry / "environ").read_bytes():
                    found[int(entry.name)] = (entry / "comm").read_text().strip()
            except OSError:
                pass
        return found

    def kill(self, name, count=1):
        pids = [pid for pid, comm in self.processes().items() if comm == name[:15]]
        assert len(pids) >= count, (name, self.processes(), self.error_text())
        for pid in pids[:count]:
            os.kill(pid, signal.SIGKILL)

    def client(self, *arguments, **more):
        return subprocess.run([str(SHARDLINE), *arguments, "--address", self.address],
                              capture_output=True, text=True, timeout=60, **more)

    def generate(self, tokens, *flags):
        return subprocess.Popen(
            [str(SHARDLINE), "generate", "--address", self.address, "--temperature", "0",
             "--ignore-eos", "--max-tokens", str(tokens), "--json", *flags,
             "The capital of France is"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def wait_for_message(self, words, count=1, seconds=40):
        end = time.time() + seconds
        while self.error_text().count(words) < count:
            assert time.time() < end, (words, self.error_text())
            time.sleep(0.02)

    def wait_until_gone(self, seconds=10):
        end = time.time() + seconds
        while self.processes():
            assert time.time() < end, self.processes()
            time.sleep(0.05)

    def stop(self):
        self.up.send_signal(signal.SIGTERM)
        code = self.up.wait(timeout=60)
        assert not self.processes(), self.processes()
        assert not list(self.scratch.iterdir()), list(self.scratch.iterdir())
        return code

    def discard(self):
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass
        self.up.wait()
        self.up.stdout.close()
        self.errors.close()
        self.temporary.cleanup()


def tokens_of(json_lines):
    return [token for line in json_lines.splitlines()
            for token in json.loads(line).get("token_ids", [])]


class UpTest(unittest.TestCase):
    def cluster(self, *flags, **more):
        cluster = Cluster(*flags, **more)
        self.addCleanup(cluster.discard)
        return cluster

    def test_two_clusters_at_a_time_and_an_orderly_stop(self):
        memory = set(MPI_MEMORY.iterdir())
        one, two = self.cluster(), self.cluster(ranks=1)
        self.assertNotEqual(one.address, two.address)
        self.assertEqual(sorted(one.processes().values()),
                         sorted(["shardline", "shardline-coord", "mpirun", "shardline-worke",
                                 "shardline-worke"]))
        for cluster in (one, two):
            status = cluster.client("status", "--json")
            self.assertEqual(status.returncode, 0, status)
            self.assertEqual(json.loads(status.stdout)["replicas"][0]["state"],
                             "REPLICA_STATE_SERVING")
            self.assertEqual(cluster.client("generate", "--max-tokens", "3", "Hi").returncode, 0)
        self.assertEqual(one.stop(), 0)
        self.assertEqual(two.client("generate", "--max-tokens", "3", "Hi").returncode, 0)
        self.assertEqual(two.stop(), 0)
        self.assertEqual(set(MPI_MEMORY.iterdir()) - memory, set())

    def test_a_running_request_ends_before_the_cluster(self):
        cluster = self.cluster()
        request = cluster.generate(60)
        request.stdout.readline()
        self.assertEqual(cluster.stop(), 0)
        output, errors = request.communicate()
        self.assertEqual(request.returncode, 0, errors)
        self.assertIn("FINISH_REASON_LENGTH", output)

    def test_a_second_signal_stops_at_once(self):
        cluster = self.cluster()
        request = cluster.generate(1900, "--reattach-timeout", "0")
        request.stdout.readline()
        cluster.up.send_signal(signal.SIGINT)
        time.sleep(0.3)
        self.assertIsNone(cluster.up.poll())
        begin = time.time()
        cluster.stop()
        self.assertLess(time.time() - begin, 5)
        request.communicate()
        self.assertEqual(request.returncode, 3)

    def test_nothing_outlives_up(self):
        cluster = self.cluster()
        cluster.up.kill()
        cluster.wait_until_gone()

    def test_up_tells_that_the_coordinator_died(self):
        cluster = self.cluster()
        cluster.kill("shardline-coordinator")
        self.assertEqual(cluster.up.wait(timeout=20), 7)
        self.assertIn("the coordinator ended unasked (signal 9", cluster.error_text())
        log = re.search(r"the whole log: (\S+)\)", cluster.error_text())[1]
        self.assertIn("replica serves", pathlib.Path(log).read_text())
        self.assertEqual(cluster.processes(), {})

    def test_a_dead_coordinator_with_a_journal_comes_back_and_the_request_goes_on(self):
        with tempfile.TemporaryDirectory() as journal:
            cluster = self.cluster("--journal", journal)
            undisturbed, _ = cluster.generate(150).communicate()
            ranks = {pid for pid, name in cluster.processes().items() if name == "shardline-worke"}
            for count in (1, 2):
                request = cluster.generate(150)
                first = request.stdout.readline() + request.stdout.readline()
                cluster.kill("shardline-coordinator")
                cluster.wait_for_message("serving again", count)
                rest, errors = request.communicate(timeout=60)
                self.assertEqual(request.returncode, 0, errors)
                self.assertEqual(tokens_of(first + rest), tokens_of(undisturbed))
            # The ranks are the same: their weights were not loaded again.
            self.assertEqual(ranks, {pid for pid, name in cluster.processes().items()
                                     if name == "shardline-worke"})
            self.assertEqual(cluster.stop(), 0)

    def test_dead_ranks_come_back_and_the_request_goes_on(self):
        cluster = self.cluster()
        undisturbed, _ = cluster.generate(150).communicate()
        for count, victim in enumerate(["shardline-worker", "mpirun"], start=1):
            request = cluster.generate(150)
            first = request.stdout.readline()
            cluster.kill(victim)
            cluster.wait_for_message("serving again", count)
            rest, errors = request.communicate(timeout=60)
            self.assertEqual(request.returncode, 0, (victim, errors))
            self.assertEqual(tokens_of(first + rest), tokens_of(undisturbed), victim)
            names = list(cluster.processes().values())
            self.assertEqual((names.count("shardline-worke"), names.count("mpirun")), (2, 1), names)
        self.assertEqual(cluster.stop(), 0)

    def test_a_stopped_rank_is_ended_and_its_replica_started_again(self):
        cluster = self.cluster("--replicas", "2", ranks=1)
        undisturbed, _ = cluster.generate(40).communicate()
        victims = [pid for pid, name in cluster.processes().items() if name == "shardline-worke"]
        self.assertEqual(len(victims), 2)
        for count, victim in enumerate(victims, start=1):
            os.kill(victim, signal.SIGSTOP)
            request = cluster.generate(40)  # of whichever replica
            output, errors = request.communicate(timeout=60)
            self.assertEqual(request.returncode, 0, errors)
            self.assertEqual(tokens_of(output), tokens_of(undisturbed))
            cluster.wait_for_message("serving again", count)
            self.assertNotIn(victim, cluster.processes())
        self.assertRegex(cluster.error_text(), r"replica [01]: the ranks died")
        self.assertEqual(cluster.stop(), 0)

    def test_up_gives_up_on_ranks_that_keep_dying(self):
        cluster = self.cluster(ranks=1)
        for count in range(1, 5):
            cluster.kill("shardline-worker")
            cluster.wait_for_message("serving again", count)
        cluster.kill("shardline-worker")
        self.assertEqual(cluster.up.wait(timeout=30), 7)
        self.assertIn("the ranks died 5 times in a row", cluster.error_text())
        self.assertEqual(cluster.processes(), {})


if __name__ == "__main__":
    if not os.path.exists(MODEL):
        sys.exit("SHARDLINE_SMOLLM2_GGUF must name the file that scripts/fetch_smollm2.sh fetches")
    unittest.main(verbosity=2)
