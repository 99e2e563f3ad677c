#pragma once

#include <cstdint>

#include "kernels/device.h"
#include "kernels/ops.h"
#include "kernels/row_sampling.h"

/// How a token gets from the end of one step to the beginning of the next without the host. Ops as
/// those of ops.h: they touch device memory only and never wait.
namespace shardline::kernels {

/// out[t] = tokens[t], or, where that is negative, sampled[-1 - tokens[t]]: the token that the slot
/// with this number sampled last.
void FeedTokens(Device& device, Indices tokens, Indices sampled, int32_t* out);

/// DrawTokens (row_sampling.h) with questions and answers in device memory: out [count], the best
/// of this shard for each row.
void EnqueueDraws(Device& device, Tensor logits, int32_t vocabulary_begin, const DrawRow* rows,
                  int64_t count, Candidate* out);

/// Of `ranks` shards' candidates [ranks, slots.size()], the best of each row: tokens[i], and
/// sampled[slots[i]] likewise. A row without any yields token 0.
void PickTokens(Device& device, const Candidate* candidates, int ranks, Indices slots,
                int32_t* tokens, int32_t* sampled);

}  // namespace shardline::kernels
