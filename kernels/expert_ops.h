#pragma once

#include <cstdint>
#include <span>

#include "kernels/device.h"
#include "kernels/ops.h"

/// Experts that are spread over ranks: who computes what, and tokens on their way there and back.
/// Ops as those of ops.h: they touch device memory only and never wait. E experts, T tokens, k
/// experts a token.
namespace shardline::kernels {

/// Which ranks hold each expert: ranks[first[e]] ... ranks[first[e + 1] - 1], ascending, one at
/// least. Of several, HolderTurn (holder_turn.h) names the one that computes a token.
struct ExpertHolders {
  Indices first;  // [E + 1]
  Indices ranks;
};

/// counts[e] += how many of the first `tokens` tokens chose e. counts [E] in device memory.
void CountChoices(Device& device, const Routing& routing, int64_t tokens,
                  std::span<uint64_t> counts);

/// Leaves the choices that `rank` computes; the others become expert -1. *kept += those left; it
/// lies in device memory.
void KeepChoices(Device& device, const ExpertHolders& holders, int rank, Indices positions,
                 const Routing& routing, uint64_t* kept);

/// Whose tokens go where: this rank sends a token if its position modulo `turns` is `turn`, once to
/// every rank that computes an expert it chose.
struct DispatchRule {
  ExpertHolders holders;
  int ranks = 1;
  int turns = 1, turn = 0;
};
/// A step's records: one for each token and rank that it goes to, by rank and then by token.
struct DispatchRecords {
  int32_t* counts = nullptr;  // [ranks]
  int32_t* places = nullptr;  // [ranks, T] a token's record to a rank, or -1
};
/// Fills `records`.
void PlanDispatch(Device& device, const DispatchRule& rule, Indices positions,
                  const Routing& routing, const DispatchRecords& records);

/// Bytes of a record: k experts (-1: computed elsewhere), k weights, the token's row.
inline int64_t DispatchRecordBytes(int experts_per_token, int64_t hidden) {
  return experts_per_token * static_cast<int64_t>(sizeof(int32_t) + sizeof(float)) +
         hidden * static_cast<int64_t>(sizeof(float));
}
/// Writes the records that were planned. x [T, H].
void PackDispatch(Device& device, const DispatchRule& rule, Indices positions,
                  const Routing& routing, const DispatchRecords& records, Tensor x, void* packed);
/// Takes rows.rows records apart: rows [R, H], `routing` of R tokens. *choices += how many of their
/// experts are not -1; it lies in device memory.
void UnpackDispatch(Device& device, const void* packed, const Routing& routing, Tensor rows,
                    uint64_t* choices);
/// out[t] = sum of the token's rows of `returned`, which has one a record, in rank order; zeros for
/// a token without any. out [T, H].
void CombineDispatch(Device& device, const DispatchRecords& records, int ranks, Tensor returned,
                     Tensor out);

}  // namespace shardline::kernels
