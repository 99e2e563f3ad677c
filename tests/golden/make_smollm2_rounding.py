#!/usr/bin/env python3
"""How far rounding inside the model moves the logits of SmolLM2, by the oracle's own arithmetic.

    pip install torch transformers gguf numpy
    python tests/golden/make_smollm2_rounding.py SmolLM2-135M-Instruct.Q4_1.gguf

Runs transformers over the rows of smollm2/logits.json again, in float32 but for what enters every
product with a weight matrix: that is rounded to 8 bits with a scale for each 32 elements, as CPU
kernels over packed weights do it (llama.cpp's Q8_0 and Q8_1). Eight times: once to nearest, seven
times up or down at random (stochastic rounding), so that the numbers do not hang on one pattern of
errors. And once all in bfloat16, which is how such models are commonly served.

Writes smollm2/rounding.json: for each run the root mean square and the largest of the differences
from float32, in parts of each row's range of logits.
"""
import json
import os
import sys

import numpy as np
import torch
import transformers

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "smollm2")
BLOCK = 32
RUNS = 8


def rounded(x, generator):
    blocks = x.reshape(*x.shape[:-1], -1, BLOCK)
    scale = blocks.abs().amax(-1, keepdim=True) / 127
    steps = blocks / torch.where(scale == 0, 1, scale)
    steps = steps.round() if generator is None else (
        steps + torch.rand(steps.shape, generator=generator)).floor()
    return (steps * scale).reshape(x.shape)


def main():
    path = os.path.abspath(sys.argv[1])
    with open(os.path.join(OUT, "greedy.json"), encoding="utf-8") as file:
        prompts = {p["name"]: p for p in json.load(file)["prompts"]}
    with open(os.path.join(OUT, "logits.json"), encoding="utf-8") as file:
        index = json.load(file)
    expected = np.fromfile(os.path.join(OUT, "logits.bin"), "<f4")
    model = transformers.AutoModelForCausalLM.from_pretrained(
        os.path.dirname(path), gguf_file=os.path.basename(path), dtype=torch.float32,
        attn_implementation="eager").eval()

    def differences():
        """(root mean square, largest), in parts of the rows' ranges."""
        squares, largest, count, at = 0.0, 0.0, 0, 0
        logits = {}
        for entry in index["entries"]:
            prompt = prompts[entry["prompt"]]
            if entry["prompt"] not in logits:
                ids = prompt["prompt_tokens"] + prompt["tokens"][:4]
                with torch.no_grad():
                    logits[entry["prompt"]] = model(torch.tensor([ids])).logits[0].float()
            row = logits[entry["prompt"]][len(prompt["prompt_tokens"]) - 1 + entry["step"]]
            chosen = sorted(set(range(0, row.numel(), index["stride"])) | set(entry["top"]))
            error = row[chosen].numpy() - expected[at:at + len(chosen)]
            at += len(chosen)
            error = np.abs(error.astype(np.float64)) / (entry["max"] - entry["min"])
            squares += float((error ** 2).sum())
            largest = max(largest, float(error.max()))
            count += error.size
        assert at == expected.size
        return {"rms": (squares / count) ** 0.5, "largest": largest}

    result = {"versions": {"transformers": transformers.__version__, "torch": torch.__version__},
              "float32": differences(), "int8": []}
    generator = None
    hooks = [module.register_forward_pre_hook(lambda _, inputs: (rounded(inputs[0], generator),))
             for module in model.modules() if isinstance(module, torch.nn.Linear)]
    for run in range(RUNS):
        generator = None if run == 0 else torch.Generator().manual_seed(run)
        result["int8"].append(differences())
        print(result["int8"][-1], flush=True)
    for hook in hooks:
        hook.remove()
    model.to(torch.bfloat16)
    result["bfloat16"] = differences()
    print(result)
    with open(os.path.join(OUT, "rounding.json"), "w", encoding="utf-8") as file:
        json.dump(result, file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    main()
