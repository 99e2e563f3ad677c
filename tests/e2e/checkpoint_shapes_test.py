#!/usr/bin/env python3
"""Each model of scripts/make_checkpoint.py, at its full size in files with holes, is one that the
coordinator opens: every tensor is there, of the shape that the family says, and none is left over."""
import json
import pathlib
import subprocess
import sys
import tempfile

import harness

sys.path.insert(0, str(harness.ROOT / "scripts"))
import checkpoint_shapes  # noqa: E402

MAKE = [sys.executable, str(harness.ROOT / "scripts" / "make_checkpoint.py")]


def make(directory, *flags):
    return subprocess.run([*MAKE, *flags, str(directory)], capture_output=True, text=True)


def main():
    with tempfile.TemporaryDirectory(prefix="shardline-shapes.") as directory:
        for name in checkpoint_shapes.MODELS:
            model = pathlib.Path(directory) / name
            made = make(model, "--like", name, "--sparse")
            assert made.returncode == 0, made.stderr
            with harness.Coordinator(model) as coordinator:
                ids = coordinator.stub.Tokenize(harness.pb.TokenizeRequest(text="Grüße, 世界")).token_ids
                text = coordinator.stub.Detokenize(harness.pb.DetokenizeRequest(token_ids=ids)).text
                assert text == "Grüße, 世界", text
            print(name, "opens")

        # One tensor of another shape is noticed.
        model = pathlib.Path(directory) / "wrong"
        assert make(model, "--like", "gpt2", "--layers", "1", "--sparse").returncode == 0
        config = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps({**config, "n_inner": 3000}))
        opened = subprocess.run([str(harness.BIN / "shardline-coordinator"), str(model), "--listen", "127.0.0.1:0"],
                                capture_output=True, text=True, timeout=60)
        assert opened.returncode != 0 and "h.0.mlp.c_fc" in opened.stdout + opened.stderr, opened

        # The same arguments give the same bytes; flags that cannot be are refused.
        files = []
        for seed in (1, 1, 2):
            model = pathlib.Path(directory) / f"same{len(files)}"
            assert make(model, "--like", "gpt2", "--layers", "1", "--seed", str(seed)).returncode == 0
            files.append((model / "model-00001-of-00001.safetensors").read_bytes())
        assert files[0] == files[1] and files[0] != files[2]
        for flags in (("--like", "gpt-5"), ("--like", "gpt2", "--layers", "0"), ("--like", "gpt2", "--max-shard-gb", "0")):
            assert make(pathlib.Path(directory) / "refused", *flags).returncode == 2, flags
        refused = make(model, "--like", "gpt2")
        assert refused.returncode == 2 and "is not empty" in refused.stderr


if __name__ == "__main__":
    main()
