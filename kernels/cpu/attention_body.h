// Included by level_*.cc after vector_body.h. Online softmax (Milakov and Gimelshein, 2018) in key
// tiles at absolute positions 0, kKeyTile, 2 kKeyTile, ...: what a query row adds up, and in which
// order, depends on its position alone.

namespace shardline::kernels::cpu::SHARDLINE_LEVEL {

/// Views into AttentionArgs::scratch.
struct AttentionState {
  int rows;
  int64_t width;       // head_dim, padded to whole vectors
  float* q;            // [rows, width]
  float* acc;          // [rows, width]
  float* scores;       // [rows, kKeyTile]
  float* max;          // [rows]
  float* sum;          // [rows]
  float* tile_keys;    // [kKeyTile, width], for rows that cannot be used in place
  float* tile_values;  // likewise
  const float* key[kKeyTile];
  const float* value[kKeyTile];
};

SHARDLINE_INLINE void LoadKvRow(const AttentionArgs& a, const uint8_t* row, float* copy,
                                const float** out) {
  const int64_t d = a.head_dim;
  if (a.cache_type == DType::kF32 && d % kLanes == 0) {
    *out = reinterpret_cast<const float*>(row);
    return;
  }
  if (a.cache_type == DType::kBF16) {
    Expand<DType::kBF16>(row, d, copy, kLanes);
  } else if (a.cache_type == DType::kQ8_0) {
    Expand<DType::kQ8_0>(row, d, copy, kLanes);
  } else {
    Expand<DType::kF32>(row, d, copy, kLanes);
  }
  *out = copy;
}

/// Scores of query row r against `count` keys of the tile.
SHARDLINE_INLINE void Scores(const AttentionArgs& a, const AttentionState& s, int r, int count) {
  float* scores = s.scores + r * kKeyTile;
  const float* q = s.q + r * s.width;
  for (int c = 0; c < count; c += kLanes) {
    const float* const* key = s.key + c;
    V acc[kLanes];
    SHARDLINE_UNROLL
    for (int j = 0; j < kLanes; ++j) acc[j] = Zero();
    for (int64_t d = 0; d < s.width; d += kLanes) {
      const V part = Load(q + d);
      SHARDLINE_UNROLL
      for (int j = 0; j < kLanes; ++j) acc[j] = Fma(part, Load(key[j] + d), acc[j]);
    }
    Store(scores + c, Mul(ReduceAll(acc), Set1(a.scale)));
  }
  if (a.soft_cap > 0) SoftCapRow(scores, count, a.soft_cap);
}

/// The keys of a tile that a row may see: [begin, end).
struct Span {
  int begin;
  int end;
};

/// Scores to weights, in place; rescales what the row has gathered under an older maximum.
SHARDLINE_INLINE void Weigh(const AttentionState& s, int r, Span keys) {
  float* scores = s.scores + r * kKeyTile;
  for (int c = 0; c < keys.begin; ++c) scores[c] = -__builtin_inff();
  for (int c = keys.end; c < kKeyTile; ++c) scores[c] = -__builtin_inff();
  V tile[kKeyTile / kLanes];
  V best = Set1(s.max[r]);
  for (int j = 0; j < kKeyTile / kLanes; ++j) {
    tile[j] = Load(scores + j * kLanes);
    best = Max(tile[j], best);
  }
  const float max = ReduceMax(best);
  V total = Zero();
  for (int j = 0; j < kKeyTile / kLanes; ++j) {
    tile[j] = Exp(Sub(tile[j], Set1(max)));
    Store(scores + j * kLanes, tile[j]);
    total = Add(total, tile[j]);
  }
  if (max != s.max[r]) {
    float factor[kLanes];
    Store(factor, Exp(Set1(s.max[r] - max)));
    s.max[r] = max;
    s.sum[r] *= factor[0];
    float* acc = s.acc + r * s.width;
    for (int64_t d = 0; d < s.width; d += kLanes)
      Store(acc + d, Mul(Load(acc + d), Set1(factor[0])));
  }
  s.sum[r] += ReduceAdd(total);
}

/// acc += weight * value over the keys for kRows rows, kColumns vectors of a head at a time.
template <int kRows, int kColumns>
SHARDLINE_INLINE void GatherColumns(const AttentionState& s, int r, Span keys, int64_t d) {
  V acc[kRows][kColumns];
  SHARDLINE_UNROLL
  for (int i = 0; i < kRows; ++i) {
    SHARDLINE_UNROLL
    for (int j = 0; j < kColumns; ++j) acc[i][j] = Load(s.acc + (r + i) * s.width + d + j * kLanes);
  }
  for (int c = keys.begin; c < keys.end; ++c) {
    V v[kColumns];
    SHARDLINE_UNROLL
    for (int j = 0; j < kColumns; ++j) v[j] = Load(s.value[c] + d + j * kLanes);
    SHARDLINE_UNROLL
    for (int i = 0; i < kRows; ++i) {
      const V weight = Set1(s.scores[(r + i) * kKeyTile + c]);
      SHARDLINE_UNROLL
      for (int j = 0; j < kColumns; ++j) acc[i][j] = Fma(weight, v[j], acc[i][j]);
    }
  }
  SHARDLINE_UNROLL
  for (int i = 0; i < kRows; ++i) {
    SHARDLINE_UNROLL
    for (int j = 0; j < kColumns; ++j) Store(s.acc + (r + i) * s.width + d + j * kLanes, acc[i][j]);
  }
}

template <int kRows>
SHARDLINE_INLINE void Gather(const AttentionState& s, int r, Span keys) {
  int64_t d = 0;
  for (; d + 4 * kLanes <= s.width; d += 4 * kLanes) GatherColumns<kRows, 4>(s, r, keys, d);
  for (; d < s.width; d += kLanes) GatherColumns<kRows, 1>(s, r, keys, d);
}

/// kRows rows that see the same keys of the tile.
template <int kRows>
void AttendTile(const AttentionArgs& a, const AttentionState& s, int r, Span keys) {
  for (int i = 0; i < kRows; ++i) {
    Scores(a, s, r + i, keys.end);
    Weigh(s, r + i, keys);
  }
  Gather<kRows>(s, r, keys);
}

/// `rows` of them, at most kHeadRows.
SHARDLINE_INLINE void AttendAlike(const AttentionArgs& a, const AttentionState& s, int r, int rows,
                                  Span keys) {
  static_assert(kHeadRows <= 4);
  if (rows == 1) return AttendTile<1>(a, s, r, keys);
  if (rows == 2) return AttendTile<2>(a, s, r, keys);
  if (rows == 3) return AttendTile<3>(a, s, r, keys);
  AttendTile<4>(a, s, r, keys);
}

/// Position of the first key that a token sees.
SHARDLINE_INLINE int64_t FirstKey(const AttentionArgs& a, int64_t position) {
  return a.window > 0 && position >= a.window ? position + 1 - a.window : 0;
}

SHARDLINE_INLINE int InTile(int64_t key) {
  return static_cast<int>(key < 0 ? 0 : key < kKeyTile ? key : kKeyTile);
}

/// What the row may see of the tile at `first`.
SHARDLINE_INLINE Span Visible(const AttentionArgs& a, int row, int64_t first) {
  const int64_t position = a.position[row / a.heads];
  return {InTile(FirstKey(a, position) - first), InTile(position + 1 - first)};
}

void Attend(const AttentionArgs& a) {
  AttentionState s;
  s.rows = a.tokens * a.heads;
  s.width = (a.head_dim + kLanes - 1) / kLanes * kLanes;
  s.q = a.scratch;
  s.acc = s.q + s.rows * s.width;
  s.tile_keys = s.acc + s.rows * s.width;
  s.tile_values = s.tile_keys + kKeyTile * s.width;
  s.scores = s.tile_values + kKeyTile * s.width;
  s.max = s.scores + s.rows * kKeyTile;
  s.sum = s.max + s.rows;

  int64_t context = 0, oldest = INT64_MAX;
  for (int r = 0; r < s.rows; ++r) {
    const float* q = a.q + r / a.heads * a.token_stride + r % a.heads * a.head_dim;
    Expand<DType::kF32>(reinterpret_cast<const uint8_t*>(q), a.head_dim, s.q + r * s.width, kLanes);
    for (int64_t d = 0; d < s.width; d += kLanes) Store(s.acc + r * s.width + d, Zero());
    s.max[r] = -__builtin_inff();
    s.sum[r] = 0;
    const int64_t seen = a.position[r / a.heads] + 1;
    context = seen > context ? seen : context;
    const int64_t first_key = FirstKey(a, seen - 1);
    oldest = first_key < oldest ? first_key : oldest;
  }
  for (int64_t first = oldest / kKeyTile * kKeyTile; first < context; first += kKeyTile) {
    const int64_t end = first + kKeyTile < context ? first + kKeyTile : context;
    for (int64_t k = first; k < end;) {
      const int64_t block = k / a.block_size, block_end = (block + 1) * a.block_size;
      int64_t offset = a.blocks[block] * a.block_stride + (k - block * a.block_size) * a.row_bytes;
      for (; k < end && k < block_end; ++k, offset += a.row_bytes) {
        const int64_t c = k - first;
        LoadKvRow(a, a.keys + offset, s.tile_keys + c * s.width, &s.key[c]);
        LoadKvRow(a, a.values + offset, s.tile_values + c * s.width, &s.value[c]);
      }
    }
    // So that scores can be computed in whole vectors.
    for (int64_t c = end - first; c < kKeyTile; ++c) s.key[c] = s.key[c - 1];
    for (int r = 0; r < s.rows;) {
      const Span keys = Visible(a, r, first);
      int alike = 1;
      while (alike < kHeadRows && r + alike < s.rows) {
        const Span other = Visible(a, r + alike, first);
        if (other.begin != keys.begin || other.end != keys.end) break;
        ++alike;
      }
      if (keys.begin < keys.end) AttendAlike(a, s, r, alike, keys);
      r += alike;
    }
  }
  for (int r = 0; r < s.rows; ++r) {
    float* out = a.out + r / a.heads * a.token_stride + r % a.heads * a.head_dim;
    const float* acc = s.acc + r * s.width;
    const V sum = Set1(s.sum[r]);
    int64_t d = 0;
    for (; d + kLanes <= a.head_dim; d += kLanes) Store(out + d, Div(Load(acc + d), sum));
    if (d < a.head_dim) StorePartial(out + d, Div(Load(acc + d), sum), a.head_dim - d);
  }
}

}  // namespace shardline::kernels::cpu::SHARDLINE_LEVEL
