#!/usr/bin/env python3
"""Seeds of the fuzz targets: small whole files of every kind, made by other people's libraries.

    pip install torch transformers tokenizers safetensors gguf numpy
    python tests/fuzz/make_seeds.py

Writes seeds/. tests/fuzz/seeds_test.cc checks that each is accepted: a seed that is refused at its
first byte would lead a fuzzer nowhere.
"""
import json
import os
import shutil
import struct
import zlib

import gguf
import numpy as np
import safetensors.torch
import tokenizers
import torch
import transformers
from gguf import GGMLQuantizationType as T
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, processors, trainers

HERE = os.path.dirname(os.path.abspath(__file__))
TEMPLATES = os.path.join(HERE, "..", "golden", "chat_templates")
SIZES = dict(vocab_size=12, hidden_size=8, num_hidden_layers=2, num_attention_heads=2,
             num_key_value_heads=1, intermediate_size=6, max_position_embeddings=16,
             bos_token_id=1, eos_token_id=2, pad_token_id=None)
GPT2 = dict(vocab_size=12, n_embd=8, n_layer=2, n_head=2, n_positions=16, bos_token_id=1,
            eos_token_id=2)
EXPERTS = dict(num_local_experts=3, num_experts=3, num_experts_per_tok=2, moe_intermediate_size=4,
               shared_expert_intermediate_size=5)
# model_type: what differs from SIZES.
HUGGING_FACE = {
    "llama": dict(tie_word_embeddings=True, rope_scaling=dict(
        rope_type="llama3", rope_theta=1e4, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
        original_max_position_embeddings=8)),
    "mistral": dict(sliding_window=4), "mixtral": EXPERTS, "qwen2": {}, "qwen2_moe": EXPERTS,
    "qwen3": dict(head_dim=4), "qwen3_moe": dict(head_dim=4, **EXPERTS),
    "gemma2": dict(head_dim=4), "gemma3_text": dict(head_dim=4), "phi": {}, "starcoder2": {},
    "gpt2": GPT2, "gpt_bigcode": dict(multi_query=True, **GPT2),
}
TEXT = "Hello, w\u00f6rld! <s>it's 2024\t  you're 你好 🙂</s>\r\n\u3000def f(x):\n    return x"


def write(target, name, content):
    folder = os.path.join(HERE, "seeds", target)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, name), "wb") as file:
        file.write(content)
    print(f"{target}/{name}: {len(content)} bytes")


def archive(files):
    """As tests/fuzz/archive.h reads it."""
    return b"\n".join(b"%% " + name.encode() + b"\n" + content for name, content in files.items())


def compact(value):
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def hugging_face():
    for index, (kind, changes) in enumerate(HUGGING_FACE.items()):
        config = transformers.AutoConfig.for_model(kind, **{**(SIZES if "n_embd" not in changes
                                                               else {}), **changes})
        model = transformers.AutoModelForCausalLM.from_config(config)
        scratch = f"/tmp/shardline-seeds-{os.getpid()}"
        model.to([torch.float32, torch.bfloat16, torch.float16][index % 3])
        # Every third in several files with an index.
        model.save_pretrained(scratch, max_shard_size="1KB" if index % 3 == 0 else "1GB")
        files = {}
        for name in sorted(os.listdir(scratch)):
            with open(os.path.join(scratch, name), "rb") as file:
                content = file.read()
            if name.endswith(".json"):
                content = compact(json.loads(content))
            elif name.endswith(".safetensors"):  # zeros: values teach a fuzzer nothing
                tensors = safetensors.torch.load(content)
                content = safetensors.torch.save({k: torch.zeros_like(v)
                                                  for k, v in tensors.items()})
            files[name] = content
        shutil.rmtree(scratch)
        write("safetensors", kind, archive(files))


def train(pre_tokenizer, **model):
    tokenizer = tokenizers.Tokenizer(models.BPE(**model))
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator([TEXT, "the world of hello you"], trainers.BpeTrainer(
        vocab_size=80, special_tokens=[AddedToken("<s>", special=True),
                                       AddedToken("</s>", special=True)]))
    return tokenizer


def tokenizer_files():
    level = pre_tokenizers.ByteLevel
    llama3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
              r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    split = pre_tokenizers.Split
    kinds = {
        "gpt2": train(level(add_prefix_space=False)),
        "prefix-space": train(level(add_prefix_space=True)),
        "digits": train(pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                                 level(add_prefix_space=False)])),
        "llama3": train(pre_tokenizers.Sequence([
            split(Regex(llama3), "isolated"), level(add_prefix_space=False, use_regex=False)]),
            ignore_merges=True),
        "splits": train(pre_tokenizers.Sequence([
            split(" ", "merged_with_next"), split("o", "contiguous"), split(Regex("l+"), "removed"),
            split(Regex("[a-e]"), "merged_with_previous", invert=True), level()])),
    }
    kinds["llama3"].post_processor = processors.Sequence([processors.ByteLevel(),
                                                          processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])])
    kinds["gpt2"].add_tokens([AddedToken("hello", single_word=True, lstrip=True, rstrip=True)])
    for name, tokenizer in kinds.items():
        write("tokenizer", name, archive({
            "tokenizer.json": compact(json.loads(tokenizer.to_str())),
            "tokenizer_config.json": compact({"bos_token": "<s>", "eos_token": {"content": "</s>"}}),
            "text": TEXT.encode()}))
    for pre in ("gpt-2", "smollm", "llama-bpe", "qwen2"):
        write("tokenizer", "gguf-" + pre, archive({
            "metadata.json": compact(gguf_tokenizer(kinds["gpt2"], pre)), "text": TEXT.encode()}))
    return kinds["gpt2"]


def gguf_tokenizer(tokenizer, pre):
    file = json.loads(tokenizer.to_str())
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    special = {t["content"]: 3 if t["special"] else 4 for t in file["added_tokens"]}
    return {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": pre,
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.token_type": [special.get(t, 1) for t in tokens],
            "tokenizer.ggml.merges": [" ".join(pair) for pair in file["model"]["merges"]],
            "tokenizer.ggml.bos_token_id": 0, "tokenizer.ggml.eos_token_id": 1,
            "tokenizer.ggml.add_bos_token": True}


def gguf_files(tokenizer):
    """One layer of 32, quantised in turn by every format of that block size."""
    formats = [T.F32, T.F16, T.BF16, T.Q8_0, T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1]
    for index, (name, experts, biases) in enumerate([
            ("llama", 0, False), ("llama", 2, False), ("qwen2", 0, True), ("gemma2", 0, False)]):
        path = f"/tmp/shardline-seeds-{os.getpid()}.gguf"
        writer = gguf.GGUFWriter(path, name)
        for key, value in gguf_tokenizer(tokenizer, "smollm").items():
            if isinstance(value, list):
                writer.add_array(key, value)
            elif isinstance(value, bool):
                writer.add_bool(key, value)
            elif isinstance(value, int):
                writer.add_uint32(key, value)
            else:
                writer.add_string(key, value)
        writer.add_chat_template("{% for m in messages %}{{ m.role + m.content }}{% endfor %}")
        writer.add_context_length(16)
        writer.add_embedding_length(32)
        writer.add_block_count(1)
        writer.add_head_count(2)
        writer.add_head_count_kv(1)
        writer.add_feed_forward_length(32)
        writer.add_layer_norm_rms_eps(1e-5)
        used = 0

        def tensor(label, *shape):
            nonlocal used
            kind = T.F32
            if len(shape) > 1:
                kind = formats[(used + 3 * index) % len(formats)]
                used += 1
            data = gguf.quants.quantize(np.zeros(shape, np.float32), kind)
            writer.add_tensor(label, data, raw_dtype=kind)

        tensor("token_embd.weight", tokenizer.get_vocab_size(), 32)
        tensor("output_norm.weight", 32)
        layer = "blk.0."
        for norm in ["attn_norm", "ffn_norm"] + ["post_attention_norm",
                                                 "post_ffw_norm"] * (name == "gemma2"):
            tensor(layer + norm + ".weight", 32)
        for part, rows in (("attn_q", 32), ("attn_k", 16), ("attn_v", 16)):
            tensor(layer + part + ".weight", rows, 32)
            if biases:
                tensor(layer + part + ".bias", rows)
        tensor(layer + "attn_output.weight", 32, 32)
        stacked = (experts,) if experts else ()
        suffix = "_exps.weight" if experts else ".weight"
        for part in ("ffn_gate", "ffn_up", "ffn_down"):
            tensor(layer + part + suffix, *stacked, 32, 32)
        if experts:
            writer.add_expert_count(experts)
            writer.add_expert_used_count(1)
            tensor(layer + "ffn_gate_inp.weight", experts, 32)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        with open(path, "rb") as file:
            write("gguf", name + ("-experts" if experts else ""), file.read())
        os.remove(path)


def chat_templates():
    with open(os.path.join(TEMPLATES, "golden.json"), encoding="utf-8") as file:
        golden = json.load(file)
    conversations = list(golden["conversations"].values())
    for index, name in enumerate(sorted(os.listdir(TEMPLATES))):
        if not name.endswith(".jinja"):
            continue
        with open(os.path.join(TEMPLATES, name), "rb") as file:
            source = file.read()
        context = {"add_generation_prompt": True, "bos_token": "<s>", "eos_token": "</s>",
                   **conversations[index % len(conversations)]}
        write("chat_template", name.removesuffix(".jinja"),
              archive({"template": source, "context": compact(context)}))


def journals():
    """Segments by our description of them in journal/segment.h, and another's CRC-32."""
    def frame(salt, payload):
        header = struct.pack("<II", len(payload), zlib.crc32(payload))
        return header + struct.pack("<I", zlib.crc32(header, salt)) + payload

    for name, payloads in {"one": [b"a"], "three": [b"first", b"x" * 300, bytes(4)]}.items():
        salt = len(payloads) * 0x01020304
        header = b"SHLDJNL1" + struct.pack("<I", salt)
        write("journal", name, header + struct.pack("<I", zlib.crc32(header))
              + b"".join(frame(salt, payload) for payload in payloads))


def main():
    shutil.rmtree(os.path.join(HERE, "seeds"), ignore_errors=True)
    torch.manual_seed(1)
    hugging_face()
    gguf_files(tokenizer_files())
    chat_templates()
    journals()


if __name__ == "__main__":
    main()
