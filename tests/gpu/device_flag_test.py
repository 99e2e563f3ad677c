"""What a worker says of --device and --bootstrap on a host without a GPU.
Usage: device_flag_test.py WORKER BUILT_WITH_CUDA"""

import os
import subprocess
import sys

WORKER, WITH_CUDA = sys.argv[1], sys.argv[2] == "ON"


def run(*flags):
    environment = dict(os.environ, CUDA_VISIBLE_DEVICES="")  # no GPU, even where there is one
    done = subprocess.run([WORKER, "--coordinator", "127.0.0.1:1", "--attach-timeout", "1", *flags],
                          env=environment, capture_output=True, text=True, timeout=50)
    return done.returncode, done.stderr


def expect(code, words, *flags):
    found, text = run(*flags)
    assert found == code and words in text, f"{flags}: exit code {found}, stderr:\n{text}"


def main():
    no_gpu = "device cuda: " + ("" if WITH_CUDA else "this build has no CUDA backend")
    expect(7, no_gpu, "--device", "cuda")
    if WITH_CUDA:
        expect(7, "--device cpu computes on the CPU", "--device", "cuda")
    expect(7, no_gpu, "--device", "cuda", "--bootstrap", "coordinator", "--rank", "0",
           "--world-size", "1")
    # auto goes on to the CPU, says so, and then finds no coordinator.
    expect(3, "computing on the CPU: " + no_gpu, "--device", "auto")
    expect(2, "--bootstrap=coordinator needs --device=cuda", "--bootstrap", "coordinator")
    expect(2, "--world-size", "--device", "cuda", "--bootstrap", "coordinator")
    expect(2, "--rank=3 --world-size=2", "--device", "cuda", "--bootstrap", "coordinator", "--rank",
           "3", "--world-size", "2")


if __name__ == "__main__":
    main()
