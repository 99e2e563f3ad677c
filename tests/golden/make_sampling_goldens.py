#!/usr/bin/env python3
"""Greedy tokens of SmolLM2 under logits processors, and log-probabilities, by transformers.

    pip install torch transformers tokenizers gguf numpy
    python tests/golden/make_sampling_goldens.py SmolLM2-135M-Instruct.Q4_1.gguf

Repetition penalty, bad words, biases and minimum length are transformers' own processors. Frequency
and presence penalties, which transformers lacks, are the formula that OpenAI's API reference gives:
logit[t] - count[t] * frequency - (count[t] > 0) * presence, counts over the answer.

Writes smollm2/sampling.json.
"""
import json
import os
import sys

import gguf
import torch
import transformers
from transformers import (LogitsProcessor, LogitsProcessorList, MinNewTokensLengthLogitsProcessor,
                          NoBadWordsLogitsProcessor, RepetitionPenaltyLogitsProcessor,
                          SequenceBiasLogitsProcessor)

from make_smollm2 import build_tokenizer

TOKENS = 40
MIN_GAP = 1e-3
TOP = 5
SHORT = "The capital of France is"
STORY = "Once upon a time, in a small village by the sea, there lived"
EOS = 2

CASES = [
    ("repetition", SHORT, {"repetition_penalty": 1.3}),
    ("repetition-below-1", STORY, {"repetition_penalty": 0.9}),
    ("frequency", SHORT, {"frequency_penalty": 0.7}),
    ("presence", SHORT, {"presence_penalty": 1.5}),
    ("negative", STORY, {"frequency_penalty": -0.3, "presence_penalty": -0.5}),
    ("bias", SHORT, {"logit_bias": {"7042": -100.0, "198": -4.5, "30": 2.25}}),
    ("bad-words", STORY, {"bad_words": ["wise", "kind woman", "skilled", "beautiful"]}),
    ("min-tokens", SHORT, {"min_tokens": 24, "logit_bias": {str(EOS): 30.0}}),
    ("all", STORY, {"repetition_penalty": 1.2, "frequency_penalty": 0.25, "presence_penalty": 0.4,
                    "logit_bias": {"28": -1.5, "30": 1.0}, "bad_words": ["the", "sea"],
                    "min_tokens": 30}),
]


class CountPenalty(LogitsProcessor):
    def __init__(self, prompt_length, frequency, presence):
        self.prompt_length, self.frequency, self.presence = prompt_length, frequency, presence

    def __call__(self, input_ids, scores):
        counts = torch.bincount(input_ids[0, self.prompt_length:], minlength=scores.shape[1])
        return scores - self.frequency * counts - self.presence * (counts > 0)


def bad_word_ids(tokenizer, words):
    """Each word as it begins a text and as it follows a space."""
    found = []
    for word in words:
        for text in (word, " " + word):
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            if ids not in found:
                found.append(ids)
    return found


def processors(tokenizer, prompt_length, sampling):
    """In the order that the API promises."""
    made = LogitsProcessorList()
    if bias := sampling.get("logit_bias"):
        made.append(SequenceBiasLogitsProcessor([[[int(t)], float(b)] for t, b in bias.items()]))
    if "repetition_penalty" in sampling:
        made.append(RepetitionPenaltyLogitsProcessor(sampling["repetition_penalty"]))
    if {"frequency_penalty", "presence_penalty"} & set(sampling):
        made.append(CountPenalty(prompt_length, sampling.get("frequency_penalty", 0),
                                 sampling.get("presence_penalty", 0)))
    if words := sampling.get("bad_words"):
        made.append(NoBadWordsLogitsProcessor(bad_word_ids(tokenizer, words), eos_token_id=EOS))
    if "min_tokens" in sampling:
        made.append(MinNewTokensLengthLogitsProcessor(prompt_length, sampling["min_tokens"], EOS,
                                                      device="cpu"))
    return made


def top_of(logprobs, token):
    best = torch.topk(logprobs, TOP)
    return {"logprob": float(logprobs[token]), "top": best.indices.tolist(),
            "top_logprobs": best.values.tolist()}


def main():
    path = sys.argv[1]
    out = os.path.join(os.path.dirname(os.path.abspath(__file__)), "smollm2")
    tokenizer = build_tokenizer(gguf.GGUFReader(path))
    model = transformers.AutoModelForCausalLM.from_pretrained(
        os.path.dirname(os.path.abspath(path)), gguf_file=os.path.basename(path),
        dtype=torch.float32, attn_implementation="eager").eval()
    golden = {"versions": {"transformers": transformers.__version__, "torch": torch.__version__},
              "cases": []}
    for name, text, sampling in CASES:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        process = processors(tokenizer, len(ids), sampling)
        tokens, scores, gap, cache, step = [], [], float("inf"), None, torch.tensor([ids])
        prompt_scores = []
        with torch.no_grad():
            while len(tokens) < TOKENS and EOS not in tokens:
                output = model(input_ids=step, past_key_values=cache, use_cache=True)
                cache = output.past_key_values
                logprobs = torch.log_softmax(output.logits[0].double(), dim=-1)
                if not tokens:
                    prompt_scores = [top_of(logprobs[i], ids[i + 1]) for i in range(len(ids) - 1)]
                raw = output.logits[0, -1:].clone()
                changed = process(torch.tensor([ids + tokens]), raw)[0]
                best = torch.topk(changed, 2)
                gap = min(gap, float(best.values[0] - best.values[1]))
                tokens.append(int(best.indices[0]))
                scores.append(top_of(logprobs[-1], tokens[-1]))
                step = torch.tensor([[tokens[-1]]])
        print(f"{name}: smallest gap {gap:.5f}:", repr(tokenizer.decode(tokens)))
        assert gap > MIN_GAP, f"{name}: a near tie; change the case"
        golden["cases"].append({"name": name, "text": text, "sampling": sampling, "tokens": tokens,
                                "smallest_gap": gap, "scores": scores,
                                "prompt_scores": prompt_scores})
    with open(os.path.join(out, "sampling.json"), "w", encoding="utf-8") as file:
        json.dump(golden, file, ensure_ascii=False, separators=(",", ":"))


if __name__ == "__main__":
    main()
