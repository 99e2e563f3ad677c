#!/usr/bin/env python3
"""Greedy tokens of Gemma 3 270M, by Hugging Face transformers in float32 over the GGUF's weights.

    pip install torch transformers tokenizers gguf numpy
    python tests/golden/make_gemma3.py "$(scripts/fetch_gemma3.sh)"

The weights are the GGUF's (Q4_K, Q5_0, Q6_K, Q8_0), dequantised by transformers, and the tokenizer is what
transformers makes of the GGUF's vocabulary. Writes gemma3/greedy.json.
"""
import json
import os
import sys

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

TOKENS = 32
MIN_GAP = 1e-3
LONG = ("The harbour town woke slowly, and the first boats left before the light. A clerk wrote down "
        "417 crates of oranges, 23 of lemons and one of something unnamed. Nobody asked why the clock "
        "on the tower had stopped at ten past four. ")
PROMPTS = [
    ("short", "The capital of France is"),
    ("code", "def fibonacci(n):\n    \"\"\"Return the n-th Fibonacci number.\"\"\"\n    if n < 2:\n"),
    ("german", "Die Hauptstadt von Deutschland ist"),
    ("long", LONG * 10 + "In the end"),  # beyond the window of 512
]


def main():
    path = os.path.abspath(sys.argv[1])
    place = {"pretrained_model_name_or_path": os.path.dirname(path),
             "gguf_file": os.path.basename(path)}
    tokenizer = AutoTokenizer.from_pretrained(**place)
    model = AutoModelForCausalLM.from_pretrained(
        **place, dtype=torch.float32, attn_implementation="eager").eval()
    print(model.config)
    golden = {"versions": {"transformers": transformers.__version__, "torch": torch.__version__},
              "prompts": []}
    for name, text in PROMPTS:
        ids = tokenizer(text).input_ids
        tokens, gap, cache, step = [], float("inf"), None, ids
        with torch.no_grad():
            for _ in range(TOKENS):
                output = model(input_ids=torch.tensor([step]), past_key_values=cache,
                               use_cache=True)
                cache, logits = output.past_key_values, output.logits[0, -1]
                best = torch.topk(logits, 2)
                gap = min(gap, float(best.values[0] - best.values[1]))
                step = [int(best.indices[0])]
                tokens += step
        print(f"{name}: {len(ids)} prompt tokens {ids[:8]}, smallest gap {gap:.5f}:",
              repr(tokenizer.decode(tokens)), flush=True)
        assert gap > MIN_GAP, f"{name}: a near tie; change the prompt"
        golden["prompts"].append({"name": name, "text": text, "prompt_tokens": ids,
                                  "tokens": tokens, "smallest_gap": gap})
    out = os.path.join(os.path.dirname(os.path.abspath(__file__)), "gemma3")
    os.makedirs(out, exist_ok=True)
    with open(os.path.join(out, "greedy.json"), "w", encoding="utf-8") as file:
        json.dump(golden, file, ensure_ascii=False, separators=(",", ":"))


if __name__ == "__main__":
    main()
