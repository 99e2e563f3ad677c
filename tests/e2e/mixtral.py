"""Random Mixtral checkpoints, and a plain forward pass over them that tells tokens and routing."""

import json
import pathlib

import numpy as np

POOL = 1 << 24  # random numbers, of which every tensor takes a stretch


class Mixtral:
    """Shape as in config.json. Weights are written as float32 or bfloat16."""

    def __init__(self, directory, dtype, *, layers, hidden, heads, kv_heads, feed_forward, experts,
                 vocabulary, scale, seed=1):
        self.directory = pathlib.Path(directory)
        self.dtype = dtype
        self.layers, self.heads, self.kv_heads, self.experts = layers, heads, kv_heads, experts
        self.per_token = 2
        self.head_dim = hidden // heads
        self.hidden = hidden
        self.vocabulary = vocabulary
        kv = kv_heads * self.head_dim
        self.shapes = {"model.embed_tokens": (vocabulary, hidden)}
        for layer in range(layers):
            base = f"model.layers.{layer}."
            self.shapes |= {
                base + "input_layernorm": (hidden,), base + "post_attention_layernorm": (hidden,),
                base + "self_attn.q_proj": (hidden, hidden), base + "self_attn.k_proj": (kv, hidden),
                base + "self_attn.v_proj": (kv, hidden), base + "self_attn.o_proj": (hidden, hidden),
                base + "block_sparse_moe.gate": (experts, hidden)}
            for expert in range(experts):
                one = f"{base}block_sparse_moe.experts.{expert}."
                self.shapes |= {one + "w1": (feed_forward, hidden),
                                one + "w2": (hidden, feed_forward),
                                one + "w3": (feed_forward, hidden)}
        self.shapes |= {"model.norm": (hidden,), "lm_head": (vocabulary, hidden)}
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / "config.json").write_text(json.dumps({
            "model_type": "mixtral", "vocab_size": vocabulary, "hidden_size": hidden,
            "num_hidden_layers": layers, "num_attention_heads": heads,
            "num_key_value_heads": kv_heads, "intermediate_size": feed_forward,
            "num_local_experts": experts, "num_experts_per_tok": self.per_token,
            "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 1e6,
            "sliding_window": None, "tie_word_embeddings": False}))
        self._write(scale, seed)

    def _write(self, scale, seed):
        element = 2 if self.dtype == "BF16" else 4
        header, offset = {}, 0
        for name, shape in self.shapes.items():
            end = offset + int(np.prod(shape)) * element
            header[name + ".weight"] = {"dtype": self.dtype, "shape": shape,
                                        "data_offsets": [offset, end]}
            offset = end
        text = json.dumps(header).encode()
        self.data_begin = 8 + len(text)
        self.header = header
        generator = np.random.default_rng(seed)
        pool = self._stored(generator.standard_normal(POOL, dtype=np.float32) * scale)
        with open(self.directory / "model.safetensors", "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name, shape in self.shapes.items():
                count = int(np.prod(shape))
                if len(shape) == 1:  # a norm's weights
                    file.write(self._stored(np.ones(count, np.float32)).tobytes())
                    continue
                at = int(generator.integers(POOL))
                while count > 0:
                    part = pool[at:at + count]
                    file.write(part.tobytes())
                    count, at = count - len(part), 0

    def _stored(self, values):
        if self.dtype == "F32":
            return values.astype(np.float32)
        return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)

    def weight(self, name):
        """As float32."""
        begin, end = self.header[name + ".weight"]["data_offsets"]
        stored = np.uint16 if self.dtype == "BF16" else np.float32
        data = np.memmap(self.directory / "model.safetensors", stored, "r", self.data_begin + begin,
                         (end - begin) // np.dtype(stored).itemsize)
        if self.dtype == "BF16":
            data = (data.astype(np.uint32) << 16).view(np.float32)
        return np.asarray(data).reshape(self.shapes[name])

    def forward(self, tokens):
        """(logits after every token, the experts that every layer chose for every token)."""
        x = self.weight("model.embed_tokens")[tokens]
        routing = []
        for layer in range(self.layers):
            base = f"model.layers.{layer}."
            x = x + self._attention(base, self._norm(x, base + "input_layernorm"))
            normed = self._norm(x, base + "post_attention_layernorm")
            added, chosen = self._mixture(base + "block_sparse_moe.", normed)
            x = x + added
            routing.append(chosen)
        return self._norm(x, "model.norm") @ self.weight("lm_head").T, routing

    def greedy(self, prompt, count):
        tokens = list(prompt)
        for _ in range(count):
            tokens.append(int(np.argmax(self.forward(tokens)[0][-1])))
        return tokens[len(prompt):]

    def _norm(self, x, name):
        return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + 1e-5) * self.weight(name)

    def _attention(self, base, x):
        count = len(x)
        half = self.head_dim // 2
        angles = np.arange(count)[:, None] / 1e6 ** (np.arange(half) / half)
        cos, sin = np.cos(angles)[:, None].astype(x.dtype), np.sin(angles)[:, None].astype(x.dtype)

        def project(name, heads, rotate):
            y = (x @ self.weight(base + "self_attn." + name).T).reshape(count, heads, self.head_dim)
            if not rotate:
                return y
            a, b = y[..., :half], y[..., half:]
            return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)

        query = project("q_proj", self.heads, True)
        group = self.heads // self.kv_heads
        key = np.repeat(project("k_proj", self.kv_heads, True), group, axis=1)
        value = np.repeat(project("v_proj", self.kv_heads, False), group, axis=1)
        scores = np.einsum("qhd,khd->hqk", query, key) / np.sqrt(self.head_dim)
        scores = np.where(np.tri(count, dtype=bool), scores, -np.inf)
        out = np.einsum("hqk,khd->qhd", self._softmax(scores), value)
        return out.reshape(count, -1) @ self.weight(base + "self_attn.o_proj").T

    def _mixture(self, base, x):
        logits = x @ self.weight(base + "gate").T
        chosen = np.argsort(-logits, axis=-1, kind="stable")[:, :self.per_token]
        weights = self._softmax(np.take_along_axis(logits, chosen, axis=-1))
        out = np.zeros_like(x)
        for expert in range(self.experts):
            rows, choice = np.nonzero(chosen == expert)
            if len(rows) == 0:
                continue
            one = f"{base}experts.{expert}."
            gate = x[rows] @ self.weight(one + "w1").T
            inner = gate / (1 + np.exp(-gate)) * (x[rows] @ self.weight(one + "w3").T)
            out[rows] += weights[rows, choice][:, None] * (inner @ self.weight(one + "w2").T)
        return out, chosen

    @staticmethod
    def _softmax(x):
        e = np.exp(x - x.max(axis=-1, keepdims=True))
        return e / e.sum(axis=-1, keepdims=True)
