"""Published models' configurations, and the tensors that their checkpoints hold."""

# The configuration, as config.json of the published checkpoint states it.
LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu", "rms_norm_eps": 1e-5,
         "rope_theta": 10000.0, "tie_word_embeddings": False, "attention_bias": False, "bos_token_id": 1, "eos_token_id": 2}
GPT = {"activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "bos_token_id": 50256, "eos_token_id": 50256}


def sized(base, vocabulary, hidden, layers, heads, kv_heads, feed_forward, positions, **other):
    return {**base, "vocab_size": vocabulary, "hidden_size": hidden, "num_hidden_layers": layers,
            "num_attention_heads": heads, "num_key_value_heads": kv_heads, "intermediate_size": feed_forward,
            "max_position_embeddings": positions, **other}


def gpt(kind, architecture, vocabulary, hidden, layers, heads, positions, **other):
    return {**GPT, "model_type": kind, "architectures": [architecture], "vocab_size": vocabulary, "n_embd": hidden,
            "n_layer": layers, "n_head": heads, "n_positions": positions, **other}


MISTRAL = {**LLAMA, "model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": 4096}
MIXTRAL = {**LLAMA, "model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "sliding_window": None,
           "rope_theta": 1e6, "num_local_experts": 8, "num_experts_per_tok": 2}
QWEN2 = {**LLAMA, "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "rms_norm_eps": 1e-6, "rope_theta": 1e6,
         "use_sliding_window": False, "bos_token_id": 151643, "eos_token_id": 151643}
STARCODER2 = {"model_type": "starcoder2", "architectures": ["Starcoder2ForCausalLM"], "hidden_act": "gelu_pytorch_tanh",
              "norm_epsilon": 1e-5, "use_bias": True, "tie_word_embeddings": True, "bos_token_id": 0, "eos_token_id": 0}
PHI = {"model_type": "phi", "architectures": ["PhiForCausalLM"], "hidden_act": "gelu_new", "layer_norm_eps": 1e-5,
       "rope_theta": 10000.0, "tie_word_embeddings": False, "partial_rotary_factor": 0.4, "qk_layernorm": False,
       "bos_token_id": 50256, "eos_token_id": 50256}

MODELS = {
    "tinyllama-1.1b": sized(LLAMA, 32000, 2048, 22, 32, 4, 5632, 2048),
    "llama-2-7b": sized(LLAMA, 32000, 4096, 32, 32, 32, 11008, 4096),
    "llama-2-13b": sized(LLAMA, 32000, 5120, 40, 40, 40, 13824, 4096),
    "llama-2-70b": sized(LLAMA, 32000, 8192, 80, 64, 8, 28672, 4096),
    "llama-3-8b": sized(LLAMA, 128256, 4096, 32, 32, 8, 14336, 8192, rope_theta=5e5, bos_token_id=128000,
                        eos_token_id=128001),
    "code-llama-34b": sized(LLAMA, 32000, 8192, 48, 64, 8, 22016, 16384, rope_theta=1e6),
    "deepseek-coder-33b": sized(LLAMA, 32256, 7168, 62, 56, 8, 19200, 16384, rope_theta=1e5, rms_norm_eps=1e-6,
                                rope_scaling={"factor": 4.0, "type": "linear"}, bos_token_id=32013, eos_token_id=32014),
    "yi-6b": sized(LLAMA, 64000, 4096, 32, 32, 4, 11008, 4096, rope_theta=5e6),
    "yi-34b": sized(LLAMA, 64000, 7168, 60, 56, 8, 20480, 4096, rope_theta=5e6),
    "mistral-7b": sized(MISTRAL, 32000, 4096, 32, 32, 8, 14336, 32768),
    "mixtral-8x7b": sized(MIXTRAL, 32000, 4096, 32, 32, 8, 14336, 32768),
    "mixtral-8x22b": sized(MIXTRAL, 32768, 6144, 56, 48, 8, 16384, 65536),
    "qwen2-0.5b": sized(QWEN2, 151936, 896, 24, 14, 2, 4864, 131072, tie_word_embeddings=True),
    "qwen2-7b": sized(QWEN2, 152064, 3584, 28, 28, 4, 18944, 131072),
    "starcoder2-3b": sized(STARCODER2, 49152, 3072, 30, 24, 2, 12288, 16384, rope_theta=999999.4420358813,
                           sliding_window=4096),
    "starcoder2-15b": sized(STARCODER2, 49152, 6144, 40, 48, 4, 24576, 16384, rope_theta=1e5, sliding_window=4096),
    "phi-2": sized(PHI, 51200, 2560, 32, 32, 32, 10240, 2048),
    "gpt2": gpt("gpt2", "GPT2LMHeadModel", 50257, 768, 12, 12, 1024),
    "gpt2-xl": gpt("gpt2", "GPT2LMHeadModel", 50257, 1600, 48, 25, 1024),
    "starcoder": gpt("gpt_bigcode", "GPTBigCodeForCausalLM", 49152, 6144, 40, 48, 8192, multi_query=True,
                     n_inner=24576, activation_function="gelu", bos_token_id=0, eos_token_id=0),
    "wizardcoder-1b": gpt("gpt_bigcode", "GPTBigCodeForCausalLM", 49153, 2048, 24, 16, 8192, multi_query=True,
                          n_inner=8192, activation_function="gelu_pytorch_tanh", bos_token_id=0, eos_token_id=0),
}


def linear(name, rows, cols, bias=False):
    yield name + ".weight", (rows, cols)
    if bias:
        yield name + ".bias", (rows,)


def norm(name, size, bias=False):
    yield name + ".weight", (size,)
    if bias:
        yield name + ".bias", (size,)


def gpt_tensors(config):
    """GPT-2 stores matrices [in, out], GPT-BigCode [out, in]."""
    hidden = config["n_embd"]
    inner = config.get("n_inner") or 4 * hidden
    bigcode = config["model_type"] == "gpt_bigcode"
    prefix = "transformer." if bigcode else ""
    qkv = hidden + 2 * (hidden // config["n_head"]) if bigcode else 3 * hidden

    def matrix(name, outputs, inputs):
        yield name + ".weight", (outputs, inputs) if bigcode else (inputs, outputs)
        yield name + ".bias", (outputs,)

    yield prefix + "wte.weight", (config["vocab_size"], hidden)
    yield prefix + "wpe.weight", (config["n_positions"], hidden)
    for layer in range(config["n_layer"]):
        at = f"{prefix}h.{layer}."
        yield from norm(at + "ln_1", hidden, bias=True)
        yield from matrix(at + "attn.c_attn", qkv, hidden)
        yield from matrix(at + "attn.c_proj", hidden, hidden)
        yield from norm(at + "ln_2", hidden, bias=True)
        yield from matrix(at + "mlp.c_fc", inner, hidden)
        yield from matrix(at + "mlp.c_proj", hidden, inner)
    yield from norm(prefix + "ln_f", hidden, bias=True)


def feed_forward_tensors(config, at):
    hidden, inner, kind = config["hidden_size"], config["intermediate_size"], config["model_type"]
    if kind == "mixtral":
        yield from linear(at + "block_sparse_moe.gate", config["num_local_experts"], hidden)
        for expert in range(config["num_local_experts"]):
            of = f"{at}block_sparse_moe.experts.{expert}."
            yield from linear(of + "w1", inner, hidden)
            yield from linear(of + "w2", hidden, inner)
            yield from linear(of + "w3", inner, hidden)
    elif kind == "starcoder2":
        yield from linear(at + "mlp.c_fc", inner, hidden, bias=True)
        yield from linear(at + "mlp.c_proj", hidden, inner, bias=True)
    elif kind == "phi":
        yield from linear(at + "mlp.fc1", inner, hidden, bias=True)
        yield from linear(at + "mlp.fc2", hidden, inner, bias=True)
    else:
        yield from linear(at + "mlp.gate_proj", inner, hidden)
        yield from linear(at + "mlp.up_proj", inner, hidden)
        yield from linear(at + "mlp.down_proj", hidden, inner)


def tensors(config):
    """(name, shape) of every tensor, in the order of a checkpoint."""
    kind = config["model_type"]
    if kind in ("gpt2", "gpt_bigcode"):
        yield from gpt_tensors(config)
        return
    hidden = config["hidden_size"]
    head = hidden // config["num_attention_heads"]
    kv = head * config["num_key_value_heads"]
    biased = kind in ("starcoder2", "phi")  # everywhere
    yield "model.embed_tokens.weight", (config["vocab_size"], hidden)
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        yield from norm(at + "input_layernorm", hidden, biased)
        for name, rows in (("q_proj", hidden), ("k_proj", kv), ("v_proj", kv)):
            yield from linear(at + "self_attn." + name, rows, hidden, bias=biased or kind == "qwen2")
        yield from linear(at + "self_attn." + ("dense" if kind == "phi" else "o_proj"), hidden, hidden, biased)
        if kind != "phi":  # which has attention and feed-forward side by side
            yield from norm(at + "post_attention_layernorm", hidden, biased)
        yield from feed_forward_tensors(config, at)
    yield from norm("model.final_layernorm" if kind == "phi" else "model.norm", hidden, biased)
    if not config["tie_word_embeddings"]:
        yield from linear("lm_head", config["vocab_size"], hidden, bias=kind == "phi")


def with_layers(config, layers):
    key = "n_layer" if "n_layer" in config else "num_hidden_layers"
    return {**config, key: layers or config[key]}
