#!/usr/bin/env python3
"""Tiny random checkpoints of every decoder family, with what Hugging Face transformers computes.

    pip install torch transformers gguf numpy safetensors
    python tests/golden/make_families.py [NAME ...]        # all, or some

Each model is made by transformers' own configuration class and save_pretrained, with odd sizes on
purpose; where published checkpoints state a configuration in the older form, it is rewritten to that
form and transformers reads it again before it computes. Weights are random values that bfloat16
holds exactly, so that a file in bfloat16 is also the exact float32 model.

Writes families/NAME/: config.json, model.safetensors, model.gguf for the families that GGUF names
(family_gguf.py), and
  oracle.json   per sequence: tokens (prompt, then greedy ones), the prompt's length, the smallest gap
                between the best two logits; the error of transformers' own bfloat16 run
  logits.bin    little-endian float32 [token][vocabulary] of the first `logit_rows` tokens of each
                sequence in turn: the logits after that token
"""
import json
import os
import shutil
import sys

import numpy as np
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

import family_gguf
from family_cases import CASES

GREEDY = 48
DECODED_ROWS = 24  # greedy tokens whose logits are kept
PROMPTS = (1, 6, 29)
MIN_GAP = 5e-4  # of the logits' range: no token hangs on a rounding error
MODES = {"attn_implementation": "eager", "experts_implementation": "eager"}


def randomise(model, seed):
    """Every parameter matters: biases are not 0, norms not 1, attention is not flat."""
    generator = torch.Generator().manual_seed(seed)
    gemma = model.config.model_type.startswith("gemma")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 1:
                scale, centre = 0.3, 1.0 if "norm" in name or "ln_" in name else 0.0
                if gemma:  # stored less 1; large after a block, or the embedding drowns all layers
                    centre = 1.5 if "post_" in name else 0.0
                if name.endswith(".bias"):
                    centre = 0.0
            elif "embed" in name or "wte" in name or "wpe" in name:
                scale, centre = 0.15 if gemma else 0.3, 0.0
            else:
                inputs = parameter.shape[-1]
                if model.config.model_type == "gpt2" and "c_" in name:
                    inputs = parameter.shape[0]
                scale, centre = 2.0 / inputs ** 0.5, 0.0
            parameter.copy_(centre + scale * noise)


def older_form(config, older):
    """The configuration as files stated it before "rope_parameters" and other renamings."""
    if older is None:
        return config
    rope = config.pop("rope_parameters")
    if config["model_type"] == "qwen3_moe":
        config["num_experts"] = config.pop("num_local_experts")
    config["torch_dtype"] = config.pop("dtype")
    if older == "gemma3":
        config["rope_theta"] = rope["full_attention"]["rope_theta"]
        config["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        config["rope_scaling"] = None
        config["sliding_window_pattern"] = 6
        config.pop("layer_types")
        return config
    config["rope_theta"] = rope.pop("rope_theta")
    if "partial_rotary_factor" in rope:
        config["partial_rotary_factor"] = rope.pop("partial_rotary_factor")
    kind = rope.pop("rope_type")
    config["rope_scaling"] = None if kind == "default" else {older: kind, **rope}
    return config


def all_logits(model, tokens):
    with torch.no_grad():
        return model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0].float()


def greedy(model, prompt):
    """Prompt and GREEDY tokens, by decoding with a cache; the smallest gap in parts of the range."""
    tokens, gap, cache, step = list(prompt), float("inf"), None, list(prompt)
    rows = []
    with torch.no_grad():
        for _ in range(GREEDY):
            output = model(input_ids=torch.tensor([step]), past_key_values=cache, use_cache=True)
            cache, logits = output.past_key_values, output.logits[0, -1]
            rows.append(logits)
            best = torch.topk(logits, 2)
            spread = float(logits.max() - logits.min())
            gap = min(gap, float(best.values[0] - best.values[1]) / spread)
            step = [int(best.indices[0])]
            tokens += step
    whole = all_logits(model, tokens[:-1])[len(prompt) - 1:]
    difference = float((whole - torch.stack(rows)).abs().max() / (whole.max() - whole.min()))
    assert difference < 1e-5, f"transformers disagrees with itself by {difference}"
    return tokens, gap


def find_prompt(model, length, vocabulary, generator):
    for _ in range(200):
        prompt = generator.integers(0, vocabulary, length).tolist()
        tokens, gap = greedy(model, prompt)
        if gap > MIN_GAP:
            return tokens, gap
    raise SystemExit("no prompt without a near tie")


def make(case, root):
    directory = os.path.join(root, case.name)
    shutil.rmtree(directory, ignore_errors=True)
    config = AutoConfig.for_model(case.model_type, bos_token_id=0, eos_token_id=1, **case.config)
    model = AutoModelForCausalLM.from_config(config, **MODES).eval()
    randomise(model, case.seed)
    model.to(torch.bfloat16).save_pretrained(directory)
    path = os.path.join(directory, "generation_config.json")
    if os.path.exists(path):
        os.remove(path)
    path = os.path.join(directory, "config.json")
    with open(path, encoding="utf-8") as file:
        written = older_form(json.load(file), case.older)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(written, file, indent=1)
        file.write("\n")

    exact = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, **MODES).eval()
    for name, parameter in exact.named_parameters():
        assert torch.equal(parameter, dict(model.named_parameters())[name].float()), name
    rounded = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.bfloat16, **MODES).eval()
    oracle = write_oracle(case, exact, rounded, directory)
    read_back = ""
    if case.gguf:
        family_gguf.write(case, exact, os.path.join(directory, "model.gguf"))
        read_back = "gguf " + family_gguf.check(case, exact, directory)
    report(case, oracle, directory, read_back)


def write_oracle(case, exact, rounded, directory):
    """oracle.json and logits.bin of a model in float32 and the same in bfloat16."""
    generator = np.random.default_rng(case.seed)
    vocabulary = case.config["vocab_size"]
    oracle = {"versions": {"transformers": transformers.__version__, "torch": torch.__version__},
              "sequences": []}
    blobs, errors, distinct = [], [], set()
    for length in PROMPTS:
        tokens, gap = find_prompt(exact, length, vocabulary, generator)
        logits = all_logits(exact, tokens[:length + DECODED_ROWS])
        spread = float(logits.max() - logits.min())
        errors.append(((all_logits(rounded, tokens[:len(logits)]) - logits) / spread).numpy())
        blobs.append(logits.numpy().astype("<f4"))
        distinct.update(tokens[length:])
        oracle["sequences"].append({"prompt": length, "tokens": tokens, "gap": gap,
                                    "logit_rows": len(logits)})
    error = np.concatenate([e.ravel() for e in errors])
    oracle["bfloat16_error"] = {"max": float(np.abs(error).max()),
                                "rms": float(np.sqrt((error ** 2).mean()))}
    assert len(distinct) > 8, f"{case.name} repeats itself: {len(distinct)} different tokens"
    np.concatenate(blobs).tofile(os.path.join(directory, "logits.bin"))
    with open(os.path.join(directory, "oracle.json"), "w", encoding="utf-8") as file:
        json.dump(oracle, file, separators=(",", ":"))
        file.write("\n")
    oracle["distinct"] = len(distinct)
    return oracle


def report(case, oracle, directory, read_back=""):
    size = sum(os.path.getsize(os.path.join(directory, f)) for f in os.listdir(directory))
    print(f"{case.name:16} {size >> 10:4} KB  {oracle['distinct']:3} tokens  bfloat16 error "
          f"{oracle['bfloat16_error']['max']:.3g}  {read_back}", flush=True)


def main():
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "families")
    for case in CASES:
        if len(sys.argv) == 1 or case.name in sys.argv[1:]:
            make(case, root)


if __name__ == "__main__":
    main()
