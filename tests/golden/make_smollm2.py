#!/usr/bin/env python3
"""Greedy tokens and logits of SmolLM2-135M-Instruct, by Hugging Face transformers in float32.

    pip install torch transformers tokenizers gguf numpy
    python tests/golden/make_smollm2.py SmolLM2-135M-Instruct.Q4_1.gguf

The weights are the GGUF's, dequantised by transformers. The tokenizer is built by the `tokenizers`
library from the GGUF's vocabulary and merges, with the pre-tokenizer of the model's own
tokenizer.json: every digit alone, then byte-level with the GPT-2 pattern. (transformers' conversion
of a GGUF tokenizer leaves the digits together.)

Writes smollm2/greedy.json, smollm2/logits.json + logits.bin (little-endian float32) and
smollm2/tokenizer.json.gz.
"""
import gzip
import json
import os
import sys

import gguf
import numpy as np
import tokenizers
import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

TOKENS = 64
LOGIT_STRIDE = 7
LOGIT_TOP = 64
MIN_GAP = 1e-3

SENTENCE = [
    "The harbour town woke slowly, and the first boats left before the light.",
    "A clerk wrote down 417 crates of oranges, 23 of lemons and one of something unnamed.",
    "Nobody asked why the clock on the tower had stopped at ten past four.",
    "In the market a boy sold paper birds that turned their heads with the wind.",
    "The old engineer said that every bridge is an argument with a river.",
    "When the rain came, the streets emptied and the gutters began to speak.",
    "She kept the letters in a tin box, sorted by the colour of their stamps.",
    "At noon the radio played a march, then the news, then nothing at all.",
]

PROMPTS = [
    ("short", "The capital of France is", None),
    ("code", "def fibonacci(n):\n    \"\"\"Return the n-th Fibonacci number.\"\"\"\n    if n < 2:\n", None),
    ("chinese", "中国的首都是北京。今天天气很好,我们去", None),
    ("emoji", "I love pizza 🍕🍕 and my family 👨‍👩‍👧‍👦! The best day ever was 🎉 when", None),
    ("digits", "Phone numbers: 555-0199, 555-0123. Pi is 3.14159265 and 2024 + 17 =", None),
    ("chat", None, [{"role": "user", "content": "What is the capital of France?"}]),
    ("chat-system", None, [
        {"role": "system", "content": "You are a terse assistant."},
        {"role": "user", "content": "Name three colours of the rainbow."},
        {"role": "assistant", "content": "Red, green, blue."},
        {"role": "user", "content": "And three more?"}]),
    ("long", " ".join(SENTENCE[(i * 5 + i // 8) % 8] for i in range(72)) + " Then", None),
]


def build_tokenizer(reader):
    def strings(key):
        field = reader.fields[key]
        return [bytes(field.parts[i]).decode("utf-8") for i in field.data]

    tokens = strings("tokenizer.ggml.tokens")
    merges = [tuple(m.split(" ")) for m in strings("tokenizer.ggml.merges")]
    field = reader.fields["tokenizer.ggml.token_type"]
    types = [int(field.parts[i][0]) for i in field.data]
    tokenizer = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True)])
    tokenizer.decoder = decoders.ByteLevel()
    control = [t for t, kind in zip(tokens, types) if kind == 3]
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in control])
    return tokenizer


def chat_text(reader, messages):
    from transformers.utils.chat_template_utils import render_jinja_template
    template = bytes(reader.fields["tokenizer.chat_template"].parts[-1]).decode("utf-8")
    rendered, _ = render_jinja_template(
        conversations=[messages], chat_template=template, add_generation_prompt=True,
        bos_token="<|im_start|>", eos_token="<|im_end|>")
    return rendered[0]


def main():
    path = sys.argv[1]
    out = os.path.join(os.path.dirname(os.path.abspath(__file__)), "smollm2")
    os.makedirs(out, exist_ok=True)
    reader = gguf.GGUFReader(path)
    tokenizer = build_tokenizer(reader)
    with gzip.GzipFile(os.path.join(out, "tokenizer.json.gz"), "wb", mtime=0) as file:
        file.write(tokenizer.to_str().encode("utf-8"))
    model = transformers.AutoModelForCausalLM.from_pretrained(
        os.path.dirname(os.path.abspath(path)), gguf_file=os.path.basename(path),
        dtype=torch.float32, attn_implementation="eager").eval()
    print(model.config)
    eos = int(reader.fields["tokenizer.ggml.eos_token_id"].parts[-1][0])
    golden = {"versions": {"transformers": transformers.__version__, "torch": torch.__version__,
                           "tokenizers": tokenizers.__version__}, "prompts": []}
    blobs, logit_index = [], []
    for name, text, messages in PROMPTS:
        rendered = text if messages is None else chat_text(reader, messages)
        ids = tokenizer.encode(rendered, add_special_tokens=False).ids
        tokens, gap, cache = [], float("inf"), None
        step = torch.tensor([ids])
        with torch.no_grad():
            for index in range(TOKENS):
                output = model(input_ids=step, past_key_values=cache, use_cache=True)
                cache = output.past_key_values
                logits = output.logits[0, -1]
                best = torch.topk(logits, 2)
                gap = min(gap, float(best.values[0] - best.values[1]))
                if name in ("short", "chinese", "chat") and index < 5:
                    top = torch.topk(logits, LOGIT_TOP)
                    chosen = sorted(set(range(0, logits.numel(), LOGIT_STRIDE)) |
                                    set(top.indices.tolist()))
                    logit_index.append({"prompt": name, "step": index, "count": len(chosen),
                                        "top": top.indices.tolist(),
                                        "min": float(logits.min()), "max": float(logits.max())})
                    blobs.append(logits[chosen].numpy().astype("<f4"))
                tokens.append(int(best.indices[0]))
                step = torch.tensor([[tokens[-1]]])
        print(f"{name}: {len(ids)} prompt tokens, smallest gap {gap:.5f}:",
              repr(tokenizer.decode(tokens)))
        assert gap > MIN_GAP, f"{name}: a near tie; change the prompt"
        golden["prompts"].append({
            "name": name, "text": rendered, "messages": messages, "prompt_tokens": ids,
            "tokens": tokens, "smallest_gap": gap,
            "eos_at": tokens.index(eos) if eos in tokens else -1})
    with open(os.path.join(out, "greedy.json"), "w", encoding="utf-8") as file:
        json.dump(golden, file, ensure_ascii=False, separators=(",", ":"))
    with open(os.path.join(out, "logits.json"), "w", encoding="utf-8") as file:
        json.dump({"stride": LOGIT_STRIDE, "entries": logit_index}, file, separators=(",", ":"))
    np.concatenate(blobs).tofile(os.path.join(out, "logits.bin"))


if __name__ == "__main__":
    main()
