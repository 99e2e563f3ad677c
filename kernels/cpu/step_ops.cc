// How a token gets from the end of one step to the beginning of the next.
#include <algorithm>
#include <cmath>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/row_sampling.h"

namespace shardline::kernels::cpu {

void FeedTokens(CpuDevice&, Indices tokens, Indices sampled, int32_t* out) {
  for (size_t t = 0; t < tokens.size(); ++t) {
    out[t] = tokens[t] < 0 ? sampled[-1 - tokens[t]] : tokens[t];
  }
}

void EnqueueDraws(CpuDevice& device, Tensor logits, int32_t vocabulary_begin, const DrawRow* rows,
                  int64_t count, Candidate* out) {
  DrawTokens(device, logits, vocabulary_begin, {rows, static_cast<size_t>(count)},
             {out, static_cast<size_t>(count)});
}

void PickTokens(CpuDevice&, const Candidate* candidates, int ranks, Indices slots, int32_t* tokens,
                int32_t* sampled) {
  for (size_t i = 0; i < slots.size(); ++i) {
    Candidate best = {-INFINITY, -1};
    for (int rank = 0; rank < ranks; ++rank) {
      const Candidate& candidate = candidates[rank * slots.size() + i];
      if (candidate.token >= 0 && (best.token < 0 || Better(candidate, best))) best = candidate;
    }
    tokens[i] = std::max(best.token, 0);
    sampled[slots[i]] = tokens[i];
  }
}

}  // namespace shardline::kernels::cpu
