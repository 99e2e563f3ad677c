#pragma once

#include <cstdint>

#include "kernels/dtype.h"

/// What an instruction-set level provides: plain functions over host memory, one thread each. The
/// bodies (*_body.h) are written once over the vector primitives of simd_*.h and compiled per level
/// in level_*.cc. No standard-library code may be instantiated in those files: the linker could
/// keep the copy compiled with the widest instructions for the whole program.
namespace shardline::kernels::cpu {

constexpr int kDTypes = 12;
constexpr int kActivations = 4;
constexpr int kPanelRows = 4;   // rows of w per register tile
constexpr int kKeyTile = 32;    // keys per step of the online softmax, at absolute positions
constexpr int kDirectRows = 4;  // most x rows per pass of `dots`

/// y[t, n] = x[t] . w[n] + bias[n] for one range of rows and columns.
struct MatMulArgs {
  const float* x;     // [T, K]
  const uint8_t* w;   // [N, row_bytes]
  const float* bias;  // [N] or null
  float* y;           // [T, N]
  int64_t k;
  int64_t n;  // N, the stride of y
  int64_t row_bytes;
};

/// Query rows that share one KV head and one sequence: tokens x heads, token-major.
struct AttentionArgs {
  const float* q;           // first token's first head of the group
  float* out;               // like q
  int64_t token_stride;     // floats from one token's row to the next
  const int32_t* position;  // [tokens]
  int tokens;
  int heads;
  int head_dim;
  float scale;
  int window;             // 0: none
  float soft_cap;         // 0: none
  const int32_t* blocks;  // the sequence's block table
  int block_size;
  const uint8_t* keys;  // the KV head's part of block 0
  const uint8_t* values;
  int64_t block_stride;  // bytes from one block to the next
  int64_t row_bytes;     // of one token's key
  DType cache_type;      // float32, bfloat16 or q8_0
  float* scratch;        // AttentionScratch() floats, 64-byte aligned
};

struct PanelTable;  // panels.h

struct KernelTable {
  const char* name;
  int lanes;
  int tile_rows;  // x rows per register tile of `gemm`

  /// Expands `count` elements (whole blocks) to float32.
  void (*dequantize[kDTypes])(const uint8_t* source, int64_t count, float* out);

  /// Rows [t0, t1) x columns [n0, n1) straight from packed w; for few rows.
  void (*dots[kDTypes])(const MatMulArgs& args, int64_t t0, int64_t t1, int64_t n0, int64_t n1);

  /// Rearranges rows [t0, t1) of x, a whole number of tiles but at the end, for `gemm`. A tile is
  /// [ceil(K / lanes)][tile_rows][lanes], zero-padded.
  void (*pack)(const float* x, int64_t k, int64_t rows, int64_t t0, int64_t t1, float* packed);

  /// As `dots`, from packed x (that of all rows), with w expanded a panel at a time; t0 is a
  /// multiple of tile_rows. Same bits as `dots`. scratch: GemmScratch() floats, 64-byte aligned.
  void (*gemm[kDTypes])(const MatMulArgs& args, const float* packed, int64_t t0, int64_t t1,
                        int64_t n0, int64_t n1, float* scratch);

  void (*rms_norm)(const float* x, const float* weight, int64_t count, float epsilon, float* y);
  /// bias may be null.
  void (*layer_norm)(const float* x, const float* weight, const float* bias, int64_t count,
                     float epsilon, float* y);
  void (*soft_cap)(float* x, int64_t count, float cap);
  void (*add)(float* x, const float* delta, int64_t count);
  /// In the order of kernels::Activation.
  void (*activate[kActivations])(float* x, int64_t count);
  void (*gated[kActivations])(const float* gate, const float* up, int64_t count, float* out);
  void (*exponential)(const float* x, int64_t count, float* out);
  void (*attention)(const AttentionArgs& args);
  /// Maximum, NaN skipped; -infinity when nothing is left.
  float (*maximum)(const float* x, int64_t count);
  /// sum of exp((x - max) * scale), NaN counted as 0.
  double (*sum_exp)(const float* x, int64_t count, float max, float scale);

  /// Products of low precision; null where the level has none.
  const PanelTable* panels;
};

/// Rows of x in one pass of gemm, and floats of scratch that it needs for them.
constexpr int64_t kGemmRows = 192;
constexpr int64_t kGemmColumns = 8;
constexpr int64_t kGemmDepth = 512;
constexpr int64_t GemmScratch() {
  return kGemmColumns * kGemmDepth + (kGemmRows + 8) * kGemmColumns * 16;
}
/// Query rows per call of `attention`, and its scratch.
constexpr int kAttentionRows = 48;
constexpr int64_t AttentionScratch(int head_dim, int rows) {
  const int64_t padded = (head_dim + 15) / 16 * 16;
  return rows * (2 * padded + kKeyTile + 2) + 2 * kKeyTile * padded + 64;
}
/// The same of PanelTable::attention, and keys per step of its online softmax.
constexpr int kTileAttentionRows = 64;
constexpr int kTileAttentionKeys = 64;
constexpr int kTileAttentionHeadUnit = 32;   // head_dim is a multiple of it
constexpr int kTileAttentionBlockUnit = 16;  // so is block_size
constexpr int64_t TileAttentionScratch(int head_dim, int rows) {
  const int64_t lanes = (rows + 15) / 16 * 16;
  return lanes * (head_dim * 3 / 2 + kTileAttentionKeys * 3 / 2 + 2) +
         int64_t{head_dim} * kTileAttentionKeys / 2;
}

/// A level with other products and another name.
KernelTable WithPanels(const KernelTable& level, const char* name, const PanelTable* panels);

/// The levels; null where the build's target has none.
const KernelTable* PortableKernels();
const KernelTable* Avx2Kernels();
const KernelTable* Avx2Int8Kernels();  // and int8 products
const KernelTable* Avx512Kernels();
const KernelTable* Avx512VnniKernels();  // and int8 products
const KernelTable* Avx512Bf16Kernels();  // and those of bfloat16
const KernelTable* AmxKernels();         // those of bfloat16 on tile registers

}  // namespace shardline::kernels::cpu
