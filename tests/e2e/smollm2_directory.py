"""SmolLM2 as a Hugging Face directory, made from the GGUF file with the `gguf` package: the float32
values that its blocks stand for, in sharded safetensors with an index, and the side files."""

import gzip
import json
import pathlib
import struct

import gguf
import numpy as np

from harness import GOLDEN

SHARDS = 3
NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}
LAYER_NAMES = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
               "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
               "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
               "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}


def hugging_face_name(name):
    base, kind = name.rsplit(".", 1)
    if base.startswith("blk."):
        _, layer, part = base.split(".", 2)
        return f"model.layers.{layer}.{LAYER_NAMES[part]}.{kind}"
    return f"{NAMES[base]}.{kind}"


def in_halves(weight, heads):
    """GGUF has the rows of a head's rotated pairs side by side; Hugging Face in two halves."""
    rows, cols = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, cols).swapaxes(1, 2).reshape(rows, cols)


def write_safetensors(path, tensors):
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, values in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(values.shape),
                        "data_offsets": [at, at + values.nbytes]}
        at += values.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for values in tensors.values():
            file.write(np.ascontiguousarray(values, "<f4").data)


def rescale(weights, heads, kv_heads):
    """The same function with other weights: columns of each matrix are scaled at random and what
    comes before, a norm or the rows of another matrix, by the inverse. What lay on the grid of a
    quantised file does not lie on any grid afterwards."""
    random = np.random.default_rng(1)

    def scales(count):
        return np.exp(random.uniform(-0.25, 0.25, count)).astype(np.float32)

    layers = 1 + max(int(name.split(".")[2]) for name in weights if ".layers." in name)
    for layer in range(layers):
        def weight(part):
            return weights[f"model.layers.{layer}.{part}.weight"]

        for norm, users in (("input_layernorm", ("self_attn.q_proj", "self_attn.k_proj",
                                                 "self_attn.v_proj")),
                            ("post_attention_layernorm", ("mlp.gate_proj", "mlp.up_proj"))):
            scale = scales(weight(norm).size)
            weight(norm)[...] /= scale
            for user in users:
                weight(user)[...] *= scale
        values = weight("self_attn.v_proj")
        scale = scales(values.shape[0])
        values *= scale[:, None]
        # A KV head's values go to each of its query heads.
        of_heads = np.repeat(scale.reshape(kv_heads, -1), heads // kv_heads, axis=0)
        weight("self_attn.o_proj")[...] /= of_heads.reshape(-1)
        scale = scales(weight("mlp.up_proj").shape[0])
        weight("mlp.up_proj")[...] *= scale[:, None]
        weight("mlp.down_proj")[...] /= scale


def write_smollm2_directory(gguf_path, directory, off_grid=False):
    """Some 540 MB. `off_grid`: with weights of the same function that no 4 bits hold (rescale)."""
    directory = pathlib.Path(directory)
    reader = gguf.GGUFReader(gguf_path)

    def value(key):
        return reader.fields[key].contents()

    heads, kv_heads = value("llama.attention.head_count"), value("llama.attention.head_count_kv")
    tokens = value("tokenizer.ggml.tokens")
    bos, eos = value("tokenizer.ggml.bos_token_id"), value("tokenizer.ggml.eos_token_id")
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "float32",
        "vocab_size": len(tokens), "hidden_size": value("llama.embedding_length"),
        "num_hidden_layers": value("llama.block_count"), "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "intermediate_size": value("llama.feed_forward_length"),
        "max_position_embeddings": value("llama.context_length"), "hidden_act": "silu",
        "rms_norm_eps": float(value("llama.attention.layer_norm_rms_epsilon")),
        "rope_theta": float(value("llama.rope.freq_base")), "rope_scaling": None,
        "attention_bias": False, "mlp_bias": False, "tie_word_embeddings": True,
        "bos_token_id": bos, "eos_token_id": eos}
    side_files = {
        "config.json": config,
        "generation_config.json": {"bos_token_id": bos, "eos_token_id": eos},
        "tokenizer_config.json": {"bos_token": tokens[bos], "eos_token": tokens[eos],
                                  "chat_template": value("tokenizer.chat_template")}}
    for name, content in side_files.items():
        (directory / name).write_text(json.dumps(content))
    with gzip.open(GOLDEN / "smollm2" / "tokenizer.json.gz") as file:
        (directory / "tokenizer.json").write_bytes(file.read())

    weights = {}
    for tensor in reader.tensors:
        weight = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        for part, count in (("attn_q", heads), ("attn_k", kv_heads)):
            if tensor.name.endswith(f".{part}.weight"):
                weight = in_halves(weight, count)
        weights[hugging_face_name(tensor.name)] = weight
    if off_grid:
        rescale(weights, heads, kv_heads)
    shards = [{} for _ in range(SHARDS)]
    for index, (name, weight) in enumerate(weights.items()):
        shards[index * SHARDS // len(weights)][name] = weight
    places = {}
    for index, shard in enumerate(shards):
        name = f"model-{index + 1:05}-of-{SHARDS:05}.safetensors"
        write_safetensors(directory / name, shard)
        places.update(dict.fromkeys(shard, name))
    (directory / "model.safetensors.index.json").write_text(json.dumps(
        {"metadata": {"total_size": sum(w.nbytes for s in shards for w in s.values())},
         "weight_map": places}))
