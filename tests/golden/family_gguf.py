"""GGUF files of make_families.py's models, as llama.cpp's converter writes them.

Tensor names come from the gguf library's own name maps, metadata keys from its writer. The converter's
conventions beside names: Llama's query and key rows reordered so that rotated pairs are neighbours,
GPT-2's matrices transposed to [out, in], Gemma's norms plus 1, the experts of a layer stacked in one
tensor, a matrix of one row as a vector, Llama 3's rotary scaling as a divisor a frequency.
"""
import re

import gguf
import numpy as np
import torch
from transformers import AutoModelForCausalLM

STARTS_AT_ONE = ("gemma2", "gemma3")
# What transformers reads back itself: not these architectures, and of some its reader knows the tensors
# but not all of the metadata.
NOT_READ_BACK = ("starcoder", "phi2")
TENSORS_ONLY = ("gpt2", "starcoder2_all", "llama3", "deepseek_coder",
                "qwen3", "qwen2_moe", "qwen3_moe_all", "gemma2", "gemma3", "stablelm",
                "stablelm_parallel")


def _metadata(writer, case, config, tensors):
    """config: the model's, with transformers' names for every family."""
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    if case.gguf == "starcoder":
        kv_heads = 1
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(getattr(config, "intermediate_size", None) or config.n_inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    if head_dim * heads != config.hidden_size or case.gguf in ("qwen3", "qwen3moe") + STARTS_AT_ONE:
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    for key in ("layer_norm_epsilon", "layer_norm_eps", "norm_epsilon"):
        if hasattr(config, key):
            writer.add_layer_norm_eps(getattr(config, key))
    if hasattr(config, "rms_norm_eps"):
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if case.gguf in ("gpt2", "starcoder"):
        return
    rope = config.rope_parameters
    if case.gguf == "gemma3":
        rope = rope["full_attention"]
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_rope_dimension_count(int(head_dim * rope.get("partial_rotary_factor", 1.0)))
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "llama3":
        tensors["rope_freqs.weight"] = _divisors(rope, head_dim)
    if case.gguf == "stablelm":
        writer.add_parallel_residual(config.use_parallel_residual)
    if case.gguf in STARTS_AT_ONE:
        writer.add_sliding_window(config.sliding_window)
    if case.gguf == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    experts = getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None)
    if experts:
        writer.add_expert_count(experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
        if case.gguf != "llama":
            writer.add_expert_feed_forward_length(config.moe_intermediate_size)
        if case.gguf == "qwen2moe":
            writer.add_expert_shared_feed_forward_length(config.shared_expert_intermediate_size)


def _divisors(rope, head_dim):
    """What each frequency is divided by: long waves by the factor, short ones by 1."""
    wavelengths = 2 * np.pi * rope["rope_theta"] ** (np.arange(0, head_dim, 2) / head_dim)
    turns = rope["original_max_position_embeddings"] / wavelengths
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    return (1 / ((1 - smooth) / rope["factor"] + smooth)).astype(np.float32)


def _neighbours(weight, heads):
    """Rows of each head from halves to pairs: 0, n/2, 1, n/2 + 1, ..."""
    rows = weight.reshape(heads, 2, -1, *weight.shape[1:])
    return rows.swapaxes(1, 2).reshape(weight.shape)


def _tensors(case, model, names):
    """GGUF name -> float32 array."""
    config, tensors, experts = model.config, {}, {}
    tied = config.tie_word_embeddings
    for name, value in _stored(model).items():
        if name == "lm_head.weight" and tied:
            continue
        value = value.float().numpy()
        if case.gguf == "gpt2" and re.search(r"(c_attn|c_proj|c_fc)\.weight$", name):
            value = value.T
        if case.gguf in STARTS_AT_ONE and name.endswith("norm.weight"):
            value = value + 1
        if case.gguf == "llama" and ".q_proj." in name:
            value = _neighbours(value, config.num_attention_heads)
        if case.gguf == "llama" and ".k_proj." in name:
            value = _neighbours(value, config.num_key_value_heads)
        expert = re.search(r"experts\.(\d+)\.", name)
        if expert:
            name = name.replace(expert.group(0), "experts.")
            name = re.sub(r"^model\.(.*)block_sparse_moe", r"\1feed_forward", name)
            experts.setdefault(name, {})[int(expert.group(1))] = value
            continue
        tensors[_gguf_name(names, name)] = value
    for name, parts in experts.items():
        tensors[_gguf_name(names, name)] = np.stack([parts[i] for i in sorted(parts)])
    return tensors


def _stored(model):
    """The tensors under the names that save_pretrained gives them."""
    import tempfile
    from safetensors.torch import load_file
    with tempfile.TemporaryDirectory() as directory:
        model.save_pretrained(directory)
        return load_file(f"{directory}/model.safetensors")


def _gguf_name(names, name):
    found = names.get_name(name, try_suffixes=(".weight", ".bias"))
    assert found is not None, f"gguf names no tensor {name}"
    return found


def write(case, model, path):
    architecture = next(a for a, n in gguf.MODEL_ARCH_NAMES.items() if n == case.gguf)
    names = gguf.get_tensor_name_map(architecture, model.config.num_hidden_layers)
    tensors = _tensors(case, model, names)
    writer = gguf.GGUFWriter(path, case.gguf)
    _metadata(writer, case, model.config, tensors)
    for name, value in tensors.items():
        value = np.ascontiguousarray(value.squeeze(), dtype=np.float32)
        if value.ndim == 1 or "ffn_gate_inp" in name:
            writer.add_tensor(name, value)
            continue
        kind = gguf.GGMLQuantizationType.BF16
        writer.add_tensor(name, gguf.quantize(value, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def check(case, model, directory):
    """transformers reads the file back: the same logits. What of it was checked, for people."""
    if case.gguf in NOT_READ_BACK or (case.gguf == "llama" and case.model_type != "llama"):
        return case.gguf
    known = {"config": model.config} if case.name in TENSORS_ONLY else {}
    again = AutoModelForCausalLM.from_pretrained(
        directory, gguf_file="model.gguf", dtype=torch.float32, attn_implementation="eager",
        **known).eval()
    tokens = torch.arange(40)[None] % model.config.vocab_size
    with torch.no_grad():
        expected, found = model(tokens).logits, again(tokens).logits
    difference = float((expected - found).abs().max() / (expected.max() - expected.min()))
    assert difference < 1e-5, f"{case.name}: read back with difference {difference}"
    return f"{case.gguf}, {'tensors ' if known else ''}read back"
