"""The models of make_families.py: for each a family's features at sizes that divide badly."""
from dataclasses import dataclass


@dataclass
class Case:
    name: str
    model_type: str
    config: dict
    gguf: str = ""  # the architecture's name in GGUF; empty: no file
    older: str | None = None  # the form of rope_scaling that published configurations have
    seed: int = 0


def _gpt2(**other):
    return {"n_layer": 3, "n_embd": 35, "n_head": 5, "n_inner": 61, "n_positions": 97, **other}


def _sized(vocabulary, hidden, heads, kv_heads, feed_forward, layers=3, **other):
    return {"vocab_size": vocabulary, "hidden_size": hidden, "num_attention_heads": heads,
            "num_key_value_heads": kv_heads, "intermediate_size": feed_forward,
            "num_hidden_layers": layers, "max_position_embeddings": 251, **other}


def _rope(theta, kind="default", **other):
    return {"rope_theta": theta, "rope_type": kind, **other}


WINDOW = 11  # far shorter than the sequences, and no multiple of a KV block

CASES = [
    Case("gpt2", "gpt2", _gpt2(vocab_size=131), gguf="gpt2"),
    Case("bigcode", "gpt_bigcode", _gpt2(vocab_size=137, n_head=7),
         gguf="starcoder"),
    Case("bigcode_heads", "gpt_bigcode", _gpt2(vocab_size=127, multi_query=False)),
    Case("starcoder2", "starcoder2",
         _sized(139, 36, 6, 2, 53, sliding_window=WINDOW, rope_parameters=_rope(1e5)),
         older="type"),
    Case("starcoder2_all", "starcoder2", _sized(131, 36, 6, 2, 53, rope_parameters=_rope(1e5)),
         gguf="starcoder2"),
    Case("phi2", "phi", _sized(149, 50, 5, 5, 61, rope_parameters=_rope(
        1e4, partial_rotary_factor=0.4)), gguf="phi2", older="type"),
    Case("llama2", "llama", _sized(151, 42, 7, 7, 59, rms_norm_eps=1e-5,
                                   rope_parameters=_rope(1e4)), gguf="llama", older="type"),
    Case("llama3", "llama", _sized(
        157, 45, 9, 3, 67, head_dim=10, rms_norm_eps=1e-5, tie_word_embeddings=True,
        rope_parameters=_rope(5e5, "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                              original_max_position_embeddings=64)),
        gguf="llama", older="rope_type"),
    Case("code_llama", "llama", _sized(163, 40, 5, 5, 61, rms_norm_eps=1e-5,
                                       rope_parameters=_rope(1e6)), gguf="llama"),
    Case("deepseek_coder", "llama", _sized(131, 40, 10, 5, 71, rope_parameters=_rope(
        1e5, "linear", factor=4.0)), gguf="llama", older="type"),
    Case("yi", "llama", _sized(127, 42, 7, 1, 73, rms_norm_eps=1e-5,
                               rope_parameters=_rope(5e6)), gguf="llama"),
    Case("mistral", "mistral", _sized(
        137, 40, 8, 2, 57, head_dim=6, rms_norm_eps=1e-5, sliding_window=WINDOW,
        rope_parameters=_rope(1e4)), older="type"),
    Case("mixtral", "mixtral", _sized(
        139, 36, 6, 2, 29, num_local_experts=5, num_experts_per_tok=2, rms_norm_eps=1e-5,
        sliding_window=None, rope_parameters=_rope(1e6)), gguf="llama", older="type"),
    Case("qwen2", "qwen2", _sized(149, 36, 9, 3, 61, rms_norm_eps=1e-6, tie_word_embeddings=True,
                                  rope_parameters=_rope(1e6)), gguf="qwen2", older="type"),
    Case("qwen2_window", "qwen2", _sized(
        151, 36, 9, 3, 61, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1,
        rope_parameters=_rope(1e6))),
    Case("qwen3", "qwen3", _sized(157, 36, 6, 3, 61, head_dim=10, tie_word_embeddings=True,
                                  rope_parameters=_rope(1e6)), gguf="qwen3"),
    Case("qwen2_moe", "qwen2_moe", _sized(
        163, 36, 6, 6, 43, moe_intermediate_size=17, shared_expert_intermediate_size=31,
        num_experts=7, num_experts_per_tok=3, decoder_sparse_step=1, rope_parameters=_rope(1e6)),
        gguf="qwen2moe"),
    Case("qwen3_moe", "qwen3_moe", _sized(
        131, 36, 6, 3, 43, layers=4, head_dim=8, moe_intermediate_size=19, num_experts=7,
        num_experts_per_tok=3, norm_topk_prob=True, mlp_only_layers=[1],
        rope_parameters=_rope(1e6)), older="type"),
    Case("qwen3_moe_all", "qwen3_moe", _sized(
        127, 36, 6, 3, 43, head_dim=8, moe_intermediate_size=19, num_experts=5,
        num_experts_per_tok=2, norm_topk_prob=True, rope_parameters=_rope(1e6)), gguf="qwen3moe"),
    Case("stablelm", "stablelm", _sized(
        137, 40, 5, 5, 59, use_qkv_bias=True, rope_parameters=_rope(
            1e4, partial_rotary_factor=0.5)), gguf="stablelm", older="type"),
    Case("stablelm_parallel", "stablelm", _sized(
        139, 48, 6, 2, 61, use_parallel_residual=True, rope_parameters=_rope(
            1e4, partial_rotary_factor=0.25)), gguf="stablelm"),
    Case("gemma2", "gemma2", _sized(
        137, 36, 6, 3, 53, head_dim=8, sliding_window=WINDOW, query_pre_attn_scalar=8,
        attn_logit_softcapping=5.0, final_logit_softcapping=9.0, rope_parameters=_rope(1e4)),
        gguf="gemma2", older="type"),
    Case("gemma2_scalar", "gemma2", _sized(
        139, 36, 6, 2, 53, head_dim=8, sliding_window=WINDOW, query_pre_attn_scalar=21,
        rope_parameters=_rope(1e4))),
    Case("gemma3", "gemma3_text", _sized(
        149, 30, 5, 1, 47, layers=7, head_dim=8, sliding_window=WINDOW, query_pre_attn_scalar=8,
        rope_parameters={"full_attention": _rope(1e6), "sliding_attention": _rope(1e4)}),
        gguf="gemma3", older="gemma3"),
    Case("gemma3_scaled", "gemma3_text", _sized(
        151, 30, 6, 2, 47, layers=4, head_dim=8, sliding_window=WINDOW, query_pre_attn_scalar=13,
        layer_types=["sliding_attention", "full_attention", "full_attention", "sliding_attention"],
        rope_parameters={"full_attention": _rope(1e6, "linear", factor=8.0),
                         "sliding_attention": _rope(1e4)})),
]
