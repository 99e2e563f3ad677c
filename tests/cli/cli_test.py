"""What `shardline` says and returns when used wrongly, or with nothing to talk to.

Usage: cli_test.py PATH_OF_SHARDLINE. Only the standard library is needed.
"""

import os
import pathlib
import pty
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest

SHARDLINE = pathlib.Path(sys.argv.pop(1)).resolve()
CLEAN = {k: v for k, v in os.environ.items() if not k.startswith("SHARDLINE_")}
NOBODY = "127.0.0.1:1"  # tcpmux: nothing listens there


def run(*arguments, stdin="", program=SHARDLINE, **environment):
    return subprocess.run([str(program), *map(str, arguments)], input=stdin, text=True,
                          capture_output=True, timeout=60, env={**CLEAN, **environment})


class Usage(unittest.TestCase):
    def fails(self, code, words, *arguments, **more):
        result = run(*arguments, **more)
        self.assertEqual(result.returncode, code, result)
        self.assertIn(words, result.stderr + result.stdout)
        return result

    def test_help_teaches(self):
        text = run("--help").stdout
        for words in ["Exit codes", "Examples", "SHARDLINE_MAX_TOKENS", "generate", "status"]:
            self.assertIn(words, text)
        for command in ["up", "generate", "batch", "chat", "status", "health", "drain", "undrain", "models",
                        "tokenize"]:
            result = run(command, "--help")
            self.assertEqual(result.returncode, 0)
            self.assertIn("Example", result.stdout, command)

    def test_every_flag_is_an_environment_variable(self):
        flags = {}
        commands = [(SHARDLINE, c) for c in ["up", "generate", "batch", "chat", "status", "models", "tokenize"]]
        for program, *command in [*commands, *((SHARDLINE.parent / name,) for name in
                                               ["shardline-coordinator", "shardline-worker"])]:
            text = run(*command, "--help", program=program).stdout
            flags[(program.name, *command)] = set()
            # A long flag's help begins on the next line.
            for flag, line in re.findall(r"^  (?:-\w,)?--([\w-]+)(.*)$", text, re.MULTILINE):
                if flag not in ("help", "version"):
                    variable = "SHARDLINE_" + flag.upper().replace("-", "_")
                    self.assertIn(f"(Env:{variable})", line, (program, command))
                    flags[(program.name, *command)].add(flag)
        self.assertTrue(all(flags.values()), flags)
        # What can be said to the coordinator can be said to `up`.
        self.assertEqual(flags[("shardline-coordinator",)] - flags[("shardline", "up")], set())
        # A variable counts as its flag does: a bad value is refused, and named.
        for program, variable, value in [
                ("shardline-coordinator", "SHARDLINE_TENSOR_PARALLEL_SIZE", "two"),
                ("shardline-coordinator", "SHARDLINE_STEP_TIMEOUT", "0"),
                ("shardline-coordinator", "SHARDLINE_LOG_LEVEL", "loud"),
                ("shardline-coordinator", "SHARDLINE_REPLICAS", "0"),
                ("shardline-coordinator", "SHARDLINE_HEARTBEAT_TIMEOUT", "-1"),
                ("shardline-coordinator", "SHARDLINE_ENABLE_PREFIX_CACHING", "perhaps"),
                ("shardline-coordinator", "SHARDLINE_MAX_NUM_SEQS", "0"),
                ("shardline-coordinator", "SHARDLINE_MAX_NUM_BATCHED_TOKENS", "0"),
                ("shardline-coordinator", "SHARDLINE_MAX_MODEL_LEN", "-1"),
                ("shardline-coordinator", "SHARDLINE_MAX_QUEUED_REQUESTS", "0"),
                ("shardline-coordinator", "SHARDLINE_MAX_QUEUED_TOKENS", "0"),
                ("shardline-worker", "SHARDLINE_THREADS", "-1"),
                ("shardline-worker", "SHARDLINE_LOG_LEVEL", "loud")]:
            result = run(*(["x.gguf"] if program == "shardline-coordinator" else []),
                         program=SHARDLINE.parent / program, **{variable: value})
            self.assertEqual(result.returncode, 2, result)
            self.assertIn("--" + variable[10:].lower().replace("_", "-"), result.stderr)

    def test_version(self):
        self.assertRegex(run("--version").stdout, r"^shardline \d+\.\d+\.\d+\n$")

    def test_usage_errors(self):
        self.fails(2, "Subcommands")
        self.fails(2, "frobnicate", "frobnicate")
        self.fails(2, "--frobnicate", "generate", "--frobnicate", "x")
        self.fails(2, "--max-tokens", "generate", "--max-tokens", "-3", "x")
        self.fails(2, "--temperature", "generate", "--temperature", "warm", "x")
        self.fails(2, "--timeout", "generate", "--timeout", "-1", "x")
        self.fails(2, "--raw", "generate", "--raw", "--chat", "x")
        self.fails(2, "--system", "generate", "--system", "Be brief.", "x")
        self.fails(2, "no text", "generate")
        self.fails(2, "no text", "tokenize", "-")

    def test_environment_is_read_and_checked(self):
        self.fails(3, NOBODY, "status", SHARDLINE_ADDRESS=NOBODY)
        self.fails(2, "--temperature", "generate", "x", SHARDLINE_TEMPERATURE="warm")
        self.fails(3, "127.0.0.1:2", "status", "--address", "127.0.0.1:2", SHARDLINE_ADDRESS=NOBODY)

    def test_nobody_there(self):
        for command in [["generate", "x"], ["generate", "--chat", "x"], ["status"], ["models"],
                        ["tokenize", "x"]]:
            result = self.fails(3, f"cannot connect to {NOBODY}", *command, "--address", NOBODY)
            lines = result.stderr.splitlines()
            self.assertTrue(lines[0].startswith("error: UNAVAILABLE: "), lines)
            self.assertTrue(lines[1].startswith("hint: "), lines)
            self.assertEqual(len(lines), 2)
            self.assertEqual(result.stdout, "")
        self.fails(3, "cannot connect", "chat", "--address", NOBODY, stdin="Hello\nAgain\n")
        self.assertEqual(run("chat", "--address", NOBODY, stdin="").returncode, 0)

    def test_proxy_of_the_environment_is_not_used(self):
        self.fails(3, f"cannot connect to {NOBODY}", "status", "--address", NOBODY,
                   http_proxy="http://127.0.0.1:3", grpc_proxy="http://127.0.0.1:3")

    def test_a_server_that_never_answers(self):
        with socket.create_server(("127.0.0.1", 0)) as silent:
            address = f"127.0.0.1:{silent.getsockname()[1]}"
            self.fails(5, "--timeout", "generate", "--timeout", "0.5", "--address", address, "x")
            for number in (signal.SIGINT, signal.SIGTERM):
                client = subprocess.Popen([str(SHARDLINE), "generate", "--address", address, "x"],
                                          stderr=subprocess.PIPE, text=True, env=CLEAN)
                time.sleep(0.3)
                client.send_signal(number)
                _, errors = client.communicate(timeout=10)
                self.assertEqual(client.returncode, 6, errors)
                self.assertIn("CANCELLED: interrupted", errors)


class Terminal(unittest.TestCase):
    def test_ctrl_c_at_the_prompt_does_not_end_a_chat(self):
        pid, terminal = pty.fork()
        if pid == 0:
            os.execve(SHARDLINE, [str(SHARDLINE), "chat", "--address", NOBODY], CLEAN)
        seen = ""

        def until(words, seconds=10):
            nonlocal seen
            end = time.time() + seconds
            while words not in seen:
                if not select.select([terminal], [], [], max(0, end - time.time()))[0]:
                    self.fail(f"no {words!r} in {seen!r}")
                seen += os.read(terminal, 1000).decode()
            seen = seen.split(words, 1)[1]

        until("> ")
        os.write(terminal, b"\x03")
        until("Ctrl-D ends")
        until("> ")
        os.write(terminal, b"Hello\n")  # an error ends the answer, not the program
        until("cannot connect")
        until("> ")
        os.write(terminal, b"/exit\n")
        self.assertEqual(os.waitpid(pid, 0)[1], 0)
        os.close(terminal)


class Up(unittest.TestCase):
    """`up` with programs that only pretend to be a cluster."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="shardline-cli-test.")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.shardline = self.folder / "shardline"
        shutil.copy(SHARDLINE, self.shardline)
        self.model = self.folder / "model.gguf"
        self.model.write_text("GGUF")
        self.temporary = self.folder / "tmp"
        self.temporary.mkdir()

    def program(self, name, script):
        path = self.folder / name
        path.write_text("#!/bin/sh\n" + script)
        path.chmod(0o755)

    def up(self, *arguments, **environment):
        environment.setdefault("PATH", f"{self.folder}:{CLEAN['PATH']}")
        return run("up", *arguments, program=self.shardline, TMPDIR=str(self.temporary),
                   **environment)

    def fails(self, code, words, result):
        self.assertEqual(result.returncode, code, result)
        self.assertIn(words, result.stderr)
        self.assertEqual(result.stdout, "")

    def test_wrong_arguments(self):
        self.fails(2, "MODEL", self.up())
        self.fails(2, "no model at \"/no/model\"", self.up("/no/model"))
        for listen in ["50051", ":50051", "localhost", "127.0.0.1:port", "127.0.0.1:65536"]:
            self.fails(2, "HOST:PORT", self.up(self.model, "--listen", listen))
        self.fails(2, "not an address of this host",
                   self.up(self.model, "--listen", "192.0.2.1:50051"))
        self.fails(2, "--tensor-parallel-size", self.up(self.model, "--tensor-parallel-size", "0"))
        self.fails(2, "--threads", self.up(self.model, "--threads", "-1"))

    def test_port_taken(self):
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            result = self.up(self.model, "--listen", f"127.0.0.1:{port}")
            self.fails(7, f"port {port} on 127.0.0.1 is taken", result)
            self.assertIn("--listen", result.stderr)

    def test_programs_missing(self):
        listen = ["--listen", "127.0.0.1:0"]
        self.fails(7, "shardline-coordinator is not", self.up(self.model, *listen, PATH="/none"))
        self.program("shardline-coordinator", "exit 0")
        self.fails(7, "shardline-worker is not", self.up(self.model, *listen, PATH="/none"))
        self.program("shardline-worker", "exit 0")
        self.fails(7, "mpirun is not", self.up(self.model, *listen, PATH="/none"))

    def test_coordinator_fails(self):
        self.program("shardline-worker", "exit 0")
        self.program("mpirun", "exit 0")
        up = lambda: self.up(self.model, "--listen", "127.0.0.1:0", "--dtype", "int3")
        self.program("shardline-coordinator", 'echo "error: the dtype is odd: $*" >&2; exit 2')
        result = up()
        self.fails(2, "error: the dtype is odd", result)
        self.assertIn("--dtype=int3", result.stderr)
        self.assertEqual(list(self.temporary.iterdir()), [])
        self.program("shardline-coordinator", "echo some last words; exit 9")
        self.fails(7, "exit code 9", up())
        self.assertIn("some last words", up().stderr)
        self.program("shardline-coordinator", "kill -9 $$")
        self.fails(7, "signal 9", up())
        (self.folder / "shardline-coordinator").write_text("not a program")
        self.fails(7, "cannot start", up())

    def test_interrupted_while_it_starts(self):
        self.program("shardline-worker", "exit 0")
        self.program("mpirun", "exit 0")
        self.program("shardline-coordinator", "exec sleep 1000")
        up = subprocess.Popen([str(self.shardline), "up", str(self.model), "--listen",
                               "127.0.0.1:0"], stderr=subprocess.PIPE, text=True,
                              env={**CLEAN, "TMPDIR": str(self.temporary),
                                   "PATH": f"{self.folder}:{CLEAN['PATH']}"})
        time.sleep(0.5)
        up.terminate()
        _, errors = up.communicate(timeout=10)
        self.assertEqual(up.returncode, 6, errors)
        self.assertEqual(list(self.temporary.iterdir()), [])

    def test_old_log_is_not_believed(self):
        logs = self.folder / "logs"
        logs.mkdir()
        (logs / "coordinator.log").write_text("listening on 127.0.0.1:2\nerror: of yesterday\n")
        self.program("shardline-worker", "exit 0")
        self.program("mpirun", "exit 0")
        self.program("shardline-coordinator", "echo error: of today; exit 2")
        result = self.up(self.model, "--listen", "127.0.0.1:0", "--log-dir", logs)
        self.fails(2, "of today", result)
        self.assertNotIn("yesterday", result.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
