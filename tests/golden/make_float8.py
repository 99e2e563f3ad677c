#!/usr/bin/env python3
"""Tiny Llamas with float8 weights (E4M3), and what Hugging Face transformers computes with what the
weights stand for.

    pip install torch transformers gguf numpy safetensors
    python tests/golden/make_float8.py

transformers' own float8 layers need a GPU and round activations too. Here torch rounds the weights
and expands them again, and LlamaForCausalLM computes with the expanded ones: float8 of weights alone.

Writes families/NAME/ as make_families.py does:
  llama_fp8_block     quant_method fp8, a scale for 64 x 128 elements
  llama_fp8_channel   quant_method compressed-tensors, a scale a row
and quantized/float8_e4m3.{blocks,f32}: all finite numbers in blocks, and what torch expands them to.
"""
import json
import os
import shutil

import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

import make_families
from family_cases import Case, _rope, _sized

BLOCK = (64, 128)
LARGEST = 448.0
CASES = [
    (Case("llama_fp8_block", "llama", _sized(
        139, 128, 4, 2, 384, layers=2, rms_norm_eps=1e-5, rope_parameters=_rope(1e4))),
     {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": list(BLOCK)}),
    # A row of the down projection is no whole number of blocks of 128.
    (Case("llama_fp8_channel", "llama", _sized(
        127, 128, 4, 4, 200, layers=2, rms_norm_eps=1e-5, rope_parameters=_rope(1e4))),
     {"quant_method": "compressed-tensors", "format": "float-quantized", "ignore": ["lm_head"],
      "config_groups": {"group_0": {"targets": ["Linear"], "weights": {
          "num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True}}}}),
]


def rounded_weight(weight, by_block):
    """A matrix as float8 with its scales, and expanded."""
    rows, cols = weight.shape
    height, width = BLOCK if by_block else (1, cols)
    scale = torch.empty((rows + height - 1) // height, (cols + width - 1) // width)
    spread = torch.empty_like(weight)
    for i in range(scale.shape[0]):
        for j in range(scale.shape[1]):
            part = (slice(i * height, (i + 1) * height), slice(j * width, (j + 1) * width))
            scale[i, j] = weight[part].abs().max() / LARGEST
            spread[part] = scale[i, j]
    codes = (weight / spread).to(torch.float8_e4m3fn)
    return codes, scale, codes.float() * spread


def make(case, quantization, root):
    directory = os.path.join(root, "families", case.name)
    shutil.rmtree(directory, ignore_errors=True)
    os.makedirs(directory)
    config = AutoConfig.for_model(case.model_type, bos_token_id=0, eos_token_id=1, **case.config)
    model = AutoModelForCausalLM.from_config(config, **make_families.MODES).eval().float()
    make_families.randomise(model, case.seed)
    stored = {}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.endswith("_proj.weight"):
                parameter.copy_(parameter.bfloat16())
                stored[name] = parameter.bfloat16().contiguous()
                continue
            by_block = quantization["quant_method"] == "fp8"
            codes, scale, expanded = rounded_weight(parameter, by_block)
            stored[name] = codes
            stored[name + ("_scale_inv" if by_block else "_scale")] = scale
            parameter.copy_(expanded)
    save_file(stored, os.path.join(directory, "model.safetensors"))
    written = config.to_dict() | {"quantization_config": quantization, "dtype": "bfloat16",
                                  "architectures": ["LlamaForCausalLM"]}
    with open(os.path.join(directory, "config.json"), "w", encoding="utf-8") as file:
        json.dump(written, file, indent=1)
        file.write("\n")
    rounded = AutoModelForCausalLM.from_config(config, **make_families.MODES).eval()
    rounded.load_state_dict(model.state_dict())
    oracle = make_families.write_oracle(case, model, rounded.bfloat16(), directory)
    make_families.report(case, oracle, directory)


def make_blocks(root):
    codes = np.arange(256, dtype=np.uint8)
    codes = codes[(codes & 0x7f) != 0x7f]
    codes = np.concatenate([codes, codes[::-1], codes[5:9]]).reshape(4, 128)
    scales = np.array([[0.0123], [-3.5e-5], [0.0], [1.75]], "<f4")
    values = torch.from_numpy(codes.copy()).view(torch.float8_e4m3fn).float() * torch.from_numpy(scales)
    stem = os.path.join(root, "quantized", "float8_e4m3")
    np.concatenate([scales.view(np.uint8), codes], axis=1).tofile(stem + ".blocks")
    values.numpy().astype("<f4").tofile(stem + ".f32")


def main():
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    root = os.path.dirname(os.path.abspath(__file__))
    make_blocks(root)
    for case, quantization in CASES:
        make(case, quantization, root)


if __name__ == "__main__":
    main()
