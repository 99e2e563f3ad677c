"""Checkpoints that are truncated, bit-flipped or hostile, given to the real programs: one line of
error that names the file and what is wrong, exit code 2, soon; or, where the damage does not show,
a model that is served. Never a crash.

The seeds of the fuzz targets are whole small models of every family and format.
"""

import pathlib
import random
import shutil
import struct
import subprocess
import sys
import tempfile

from harness import BIN, ROOT, smollm2

SEEDS = ROOT / "tests" / "fuzz" / "seeds"
DAMAGES = 12  # of each seed
SECONDS = 30
HOSTILE = [struct.pack("<Q", number) for number in (0, 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63,
                                                    2**64 - 1, 2**64 - 32)]


def unpack(archive, directory):
    """tests/fuzz/archive.h says how an archive looks."""
    for part in (b"\n" + archive).split(b"\n%% ")[1:]:
        name, content = part.split(b"\n", 1)
        (directory / name.decode()).write_bytes(content)


def damaged(content, chance):
    kind = chance.randrange(4)
    at = chance.randrange(len(content))
    if kind == 0:
        return content[:at], f"cut off at {at}"
    if kind == 1:
        bit = 1 << chance.randrange(8)
        return (content[:at] + bytes([content[at] ^ bit]) + content[at + 1:],
                f"bit {bit} of byte {at} flipped")
    if kind == 2:
        return content[:at] + chance.choice(HOSTILE) + content[at + 8:], f"number at {at}"
    return content[:at] + content[at + chance.randrange(1, 40):], f"bytes missing at {at}"


def outcome(model, where):
    """"refused" or "served"."""
    process = subprocess.Popen(
        [str(BIN / "shardline-coordinator"), str(model), "--listen", "127.0.0.1:0", "--log-level",
         "error"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        if process.stdout.readline().startswith("listening on "):
            return "served"
        _, errors = process.communicate(timeout=SECONDS)
        assert process.returncode == 2, (where, process.returncode, errors)
        lines = errors.splitlines()
        assert len(lines) == 1 and lines[0].startswith("error: "), (where, errors)
        assert str(model) in lines[0] or "tokenizer.json" in lines[0] or \
            any(word in lines[0] for word in ("the model", "--max-model-len")), (where, errors)
        assert len(lines[0]) < 1000, (where, errors)
        return "refused"
    finally:
        process.kill()
        process.communicate()


def check_damages(scratch):
    chance = random.Random(20)
    counts = {"refused": 0, "served": 0}
    for seed in sorted(SEEDS.glob("gguf/*")) + sorted(SEEDS.glob("safetensors/*")):
        model = scratch / seed.name
        for number in range(DAMAGES + 1):
            shutil.rmtree(model, ignore_errors=True)
            if seed.parent.name == "gguf":
                model = scratch / f"{seed.name}.gguf"
                victim = model
                victim.write_bytes(seed.read_bytes())
            else:
                model.mkdir()
                unpack(seed.read_bytes(), model)
                victim = chance.choice(sorted(model.iterdir()))
            where = f"{seed.name}: {victim.name} whole"
            if number > 0:
                content, what = damaged(victim.read_bytes(), chance)
                victim.write_bytes(content)
                where = f"{seed.name}: {victim.name}, {what}"
            result = outcome(model, where)
            assert number > 0 or result == "served", where
            counts[result] += 1
    print(counts, flush=True)
    assert counts["refused"] > counts["served"], counts


def check_the_command(scratch):
    """`shardline up` says the same, and starts nothing."""
    whole = pathlib.Path(smollm2())
    cut = scratch / "cut.gguf"
    with open(whole, "rb") as file:
        cut.write_bytes(file.read(1_000_000))
    other = scratch / "other"
    other.mkdir()
    (other / "config.json").write_text('{"model_type": "abacus"}')
    for model, arguments, words in [
            (cut, [], ["cut.gguf", "truncated or corrupt"]),
            (other, [], ["other", "safetensors"]),
            (scratch / "none", [], ["no model at", "none"]),
            (whole, ["--tensor-parallel-size", "10"], ["--tensor-parallel-size 10", "9"]),
            (whole, ["--pipeline-parallel-size", "31"], ["--pipeline-parallel-size 31", "30"])]:
        result = subprocess.run([str(BIN / "shardline"), "up", str(model), "--listen",
                                 "127.0.0.1:0", *arguments], capture_output=True, text=True,
                                timeout=SECONDS)
        assert result.returncode == 2 and result.stdout == "", result
        lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1 and all(word in lines[0] for word in words), result.stderr


def main():
    with tempfile.TemporaryDirectory(prefix="shardline-e2e.") as scratch:
        check_damages(pathlib.Path(scratch))
        check_the_command(pathlib.Path(scratch))


if __name__ == "__main__":
    sys.exit(main())
