"""Real processes for end-to-end tests: a cluster by `shardline up`, a client from the protos."""

import contextlib
import importlib
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time

import grpc

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ["SHARDLINE_BIN"])
GOLDEN = ROOT / "tests" / "golden"


def smollm2():
    path = os.environ.get("SHARDLINE_SMOLLM2_GGUF")
    if not path or not os.path.exists(path):
        sys.exit("SHARDLINE_SMOLLM2_GGUF must name the file that scripts/fetch_smollm2.sh fetches")
    return path


def generated_protos():
    """Python modules made from proto/ as a client's own build would make them."""
    from grpc_tools import protoc
    import grpc_tools
    out = tempfile.mkdtemp(prefix="shardline-protos.")
    include = os.path.join(os.path.dirname(grpc_tools.__file__), "_proto")
    protos = sorted(str(p.relative_to(ROOT / "proto")) for p in (ROOT / "proto").rglob("*.proto"))
    code = protoc.main(["protoc", f"-I{ROOT / 'proto'}", f"-I{include}", f"--python_out={out}",
                        f"--grpc_python_out={out}", *protos])
    assert code == 0, "protoc failed"
    sys.path.insert(0, out)
    module = lambda name: importlib.import_module(f"shardline.v1.{name}")
    return [module(f"{proto}_{kind}") for proto in ("generation", "admin", "worker_control")
            for kind in ("pb2", "pb2_grpc")]


pb, pb_grpc, admin_pb, admin_grpc, control_pb, control_grpc = generated_protos()


def processes_of(address):
    """Processes whose command line names the address: a cluster's coordinator and ranks."""
    port = address.rsplit(":", 1)[1]
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                if "shardline-" in command and f":{port}" in command:
                    found.append((int(entry.name), command))
    return found


class Cluster:
    """`shardline up` with a free port; stopped and checked for leftovers on exit."""

    def __init__(self, model, *flags):
        self.logs = tempfile.TemporaryDirectory(prefix="shardline-e2e.")
        command = [str(BIN / "shardline"), "up", str(model), "--listen", "127.0.0.1:0",
                   "--log-dir", self.logs.name, *map(str, flags)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                        text=True)
        line = self.process.stdout.readline()
        match = re.match(r"ready address=(\S+)", line)
        if not match:
            raise RuntimeError(f"the cluster did not start: {line}{self.process.stderr.read()}")
        self.address = match.group(1)
        self.channel = grpc.insecure_channel(self.address)
        self.stub = pb_grpc.GenerationStub(self.channel)
        self.admin = admin_grpc.AdminStub(self.channel)

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        self.channel.close()
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        if kind is None:
            assert code == 0, f"up ended with {code}: {self.process.stderr.read()}{self.log_text()}"
            deadline = time.time() + 5
            while processes_of(self.address) and time.time() < deadline:
                time.sleep(0.05)
            assert not processes_of(self.address), processes_of(self.address)
        else:
            print(self.log_text(), file=sys.stderr)
        self.logs.cleanup()

    def log_text(self):
        return "".join(f"--- {p.name}\n{p.read_text()}"
                       for p in pathlib.Path(self.logs.name).glob("*.log"))

    def status(self):
        return self.admin.GetStatus(admin_pb.GetStatusRequest())


def request(prompt, max_tokens=16, **sampling):
    """A request from text or token ids; greedy unless told otherwise."""
    sampling.setdefault("temperature", 0)
    message = pb.GenerateRequest(sampling=pb.SamplingParams(max_tokens=max_tokens, **sampling))
    if isinstance(prompt, str):
        message.prompt = prompt
    else:
        message.prompt_token_ids.ids.extend(prompt)
    return message


def collect(stream):
    """(token ids, text, last message) of a stream."""
    tokens, text, last = [], "", None
    for message in stream:
        tokens.extend(message.token_ids)
        text += message.text
        last = message
    return tokens, text, last


def wait_for(condition, what, seconds=20, every=0.02):
    """Polls until `condition()` is true; it says what did not happen otherwise."""
    deadline = time.time() + seconds
    while not (result := condition()):
        assert time.time() < deadline, f"not within {seconds} s: {what}"
        time.sleep(every)
    return result


def error_of(call):
    """(code, message, trailing metadata) of the error that the call must raise."""
    try:
        call()
    except grpc.RpcError as error:
        return error.code(), error.details(), dict(error.trailing_metadata() or ())
    raise AssertionError("the call succeeded")


class Coordinator:
    """A coordinator alone, for ranks that a test starts or plays itself; killed on exit."""

    def __init__(self, model, *flags, listen="127.0.0.1:0"):
        self.log = tempfile.TemporaryFile("a+")  # the child shares our place in it
        self.process = subprocess.Popen(
            [str(BIN / "shardline-coordinator"), str(model), "--listen", listen,
             *map(str, flags)], stdout=subprocess.PIPE, stderr=self.log, text=True)
        line = self.process.stdout.readline()
        if not line.startswith("listening on "):
            raise RuntimeError(f"the coordinator did not start: {self.log_text()}")
        self.address = line.split()[-1]
        self.channel = grpc.insecure_channel(self.address)
        self.stub = pb_grpc.GenerationStub(self.channel)
        self.admin = admin_grpc.AdminStub(self.channel)

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        self.channel.close()
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        if kind is not None:
            print(self.log_text(), file=sys.stderr)
        self.log.close()

    def log_text(self):
        self.log.seek(0)
        return self.log.read()

    def status(self):
        return self.admin.GetStatus(admin_pb.GetStatusRequest())
