// Included by level_amx.cc, and by tests with emulated tiles, after amx_body.h.
// Attention over a cache in bfloat16 on tile registers. Everything is computed transposed: keys, or
// elements of a head, in the rows of a tile, query rows in its columns. So keys are tiles as they
// lie in the cache, and the online softmax (Milakov and Gimelshein, 2018) goes down the rows with a
// query row in each lane of a vector, no sums across lanes. Queries and softmax weights are rounded
// to bfloat16. What a query row adds up, and in which order, depends on its position alone: keys go
// in steps of kTileAttentionKeys at absolute positions, and keys that it does not see add zeros.

namespace shardline::kernels::cpu {
namespace {

constexpr int kKeys = kTileAttentionKeys;
constexpr int64_t kTileBytes = 1024;
constexpr int64_t kKeyTiles = kKeys / kTileHeight;
constexpr int64_t kKeySteps = kKeys / kStep;

/// Rows and columns change places: 16 x 16 words of 32 bits.
SHARDLINE_INLINE void Transpose(__m512i (&rows)[16]) {
  __m512i pairs[16], fours[16];
  SHARDLINE_UNROLL
  for (int i = 0; i < 16; i += 2) {
    pairs[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
    pairs[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
  }
  // fours[4i + j]: in quarter q, column 4q + j of rows 4i to 4i + 3.
  SHARDLINE_UNROLL
  for (int i = 0; i < 16; i += 4) {
    SHARDLINE_UNROLL
    for (int j = 0; j < 2; ++j) {
      fours[i + 2 * j] = _mm512_unpacklo_epi64(pairs[i + j], pairs[i + j + 2]);
      fours[i + 2 * j + 1] = _mm512_unpackhi_epi64(pairs[i + j], pairs[i + j + 2]);
    }
  }
  SHARDLINE_UNROLL
  for (int j = 0; j < 4; ++j) {
    const __m512i even0 = _mm512_shuffle_i32x4(fours[j], fours[4 + j], 0x88);
    const __m512i even1 = _mm512_shuffle_i32x4(fours[8 + j], fours[12 + j], 0x88);
    const __m512i odd0 = _mm512_shuffle_i32x4(fours[j], fours[4 + j], 0xdd);
    const __m512i odd1 = _mm512_shuffle_i32x4(fours[8 + j], fours[12 + j], 0xdd);
    rows[j] = _mm512_shuffle_i32x4(even0, even1, 0x88);
    rows[4 + j] = _mm512_shuffle_i32x4(odd0, odd1, 0x88);
    rows[8 + j] = _mm512_shuffle_i32x4(even0, even1, 0xdd);
    rows[12 + j] = _mm512_shuffle_i32x4(odd0, odd1, 0xdd);
  }
}

/// Tiles [kM][kN] of sums += x [kM] * w [kN] over `steps` of K; from zeros where `fresh`. A tile of
/// w or of sums is in one piece, those of w follow each other.
template <class Tiles, int kM, int kN>
SHARDLINE_INLINE void AddProducts(const uint8_t* const* x, int64_t x_stride, int64_t x_step,
                                  const uint8_t* const* w, int64_t steps, float* const* sums,
                                  bool fresh) {
  ForEach<kM * kN>([&]<int kSum>() {
    if (fresh) {
      Tiles::template Zero<kSum>();
    } else {
      Tiles::template Load<kSum>(sums[kSum], kTileStride);
    }
  });
  for (int64_t step = 0; step < steps; ++step) {
    ForEach<kM>(
        [&]<int kRow>() { Tiles::template Load<4 + kRow>(x[kRow] + step * x_step, x_stride); });
    ForEach<kN>([&]<int kColumn>() {
      Tiles::template Load<6 + kColumn>(w[kColumn] + step * kTileBytes, kTileStride);
      ForEach<kM>([&]<int kRow>() {
        Tiles::template AddBfloat16<kRow * kN + kColumn, 4 + kRow, 6 + kColumn>();
      });
    });
  }
  ForEach<kM * kN>([&]<int kSum>() { Tiles::template Store<kSum>(sums[kSum], kTileStride); });
}

/// A group of query rows with one KV head.
template <class Tiles>
class TileAttention {
 public:
  static void Run(const AttentionArgs& a) {
    Tiles::Configure(kTileHeight, kTileRowBytes);
    TileAttention(a).Attend();
    Tiles::Release();
  }

 private:
  static constexpr int kLanes = kWidth;

  explicit TileAttention(const AttentionArgs& a)
      : a_(a),
        rows_(a.tokens * a.heads),
        columns_((rows_ + kLanes - 1) / kLanes),
        row_bytes_(int64_t{a.head_dim} * 2),
        head_steps_(a.head_dim / kStep) {
    auto* place = a.scratch;
    const auto take = [&place](int64_t floats) {
      float* const taken = place;
      place += floats;
      return taken;
    };
    q_ = reinterpret_cast<uint8_t*>(take(columns_ * a.head_dim * kLanes / 2));
    sums_ = take(columns_ * a.head_dim * kLanes);
    scores_ = take(columns_ * kKeys * kLanes);
    weights_ = reinterpret_cast<uint8_t*>(take(columns_ * kKeys * kLanes / 2));
    values_ = reinterpret_cast<uint8_t*>(take(a.head_dim * kKeys / 2));
    max_ = take(columns_ * kLanes);
    total_ = take(columns_ * kLanes);
  }

  SHARDLINE_INLINE int64_t Smaller(int64_t a, int64_t b) { return a < b ? a : b; }
  SHARDLINE_INLINE int64_t Larger(int64_t a, int64_t b) { return a > b ? a : b; }

  /// Of a query row in q and in out.
  int64_t PlaceOf(int64_t row) const {
    return row / a_.heads * a_.token_stride + row % a_.heads * a_.head_dim;
  }
  int64_t Position(int64_t row) const { return a_.position[row / a_.heads]; }
  int64_t FirstKey(int64_t position) const {
    return a_.window > 0 && position >= a_.window ? position + 1 - a_.window : 0;
  }
  const uint8_t* KvRow(const uint8_t* from, int64_t key) const {
    return from + a_.blocks[key / a_.block_size] * a_.block_stride +
           key % a_.block_size * row_bytes_;
  }

  void Attend() {
    context_ = 0;
    oldest_ = INT64_MAX;
    for (int64_t row = 0; row < rows_; row += a_.heads) {
      context_ = Larger(context_, Position(row) + 1);
      oldest_ = Smaller(oldest_, FirstKey(Position(row)));
    }
    for (int64_t c = 0; c < columns_; ++c) {
      PackQueries(c);
      _mm512_store_ps(max_ + c * kLanes, _mm512_set1_ps(-__builtin_inff()));
      _mm512_store_ps(total_ + c * kLanes, _mm512_setzero_ps());
    }
    for (int64_t i = 0; i < columns_ * a_.head_dim; ++i) {
      _mm512_store_ps(sums_ + i * kLanes, _mm512_setzero_ps());
    }
    for (int64_t first = oldest_ / kKeys * kKeys; first < context_; first += kKeys) {
      const int64_t tiles = (Smaller(kKeys, context_ - first) + kTileHeight - 1) / kTileHeight;
      Score(first, tiles);
      for (int64_t c = 0; c < columns_; ++c) Weigh(c, first, tiles * kTileHeight);
      Gather(first, tiles);
    }
    for (int64_t c = 0; c < columns_; ++c) Finish(c);
  }

  /// Queries of 16 rows as tiles: pairs of elements in rows, query rows in columns.
  void PackQueries(int64_t c) {
    for (int64_t step = 0; step < head_steps_; ++step) {
      __m512i words[16];
      for (int lane = 0; lane < kLanes; ++lane) {
        const int64_t row = c * kLanes + lane;
        words[lane] = _mm512_setzero_si512();
        if (row >= rows_) continue;
        const float* const q = a_.q + PlaceOf(row) + step * kStep;
        words[lane] = RoundPair(_mm512_loadu_ps(q), _mm512_loadu_ps(q + kLanes));
      }
      Transpose(words);
      uint8_t* const tile = q_ + (c * head_steps_ + step) * kTileBytes;
      for (int i = 0; i < 16; ++i) _mm512_store_si512(tile + i * 64, words[i]);
    }
  }

  /// Two vectors in bfloat16, the first in the low half.
  SHARDLINE_INLINE __m512i RoundPair(__m512 low, __m512 high) {
    return (__m512i)_mm512_cvtne2ps_pbh(high, low);
  }

  /// scores = keys * queries, of the keys' tiles that have any that is seen.
  void Score(int64_t first, int64_t tiles) {
    for (int64_t t = 0; t < tiles; t += 2) {
      const uint8_t* keys[2];
      const int kM = t + 1 < tiles ? 2 : 1;
      for (int m = 0; m < kM; ++m) keys[m] = KvRow(a_.keys, first + (t + m) * kTileHeight);
      for (int64_t c = 0; c < columns_; c += 2) {
        const int kN = c + 1 < columns_ ? 2 : 1;
        const uint8_t* queries[2];
        float* sums[4];
        for (int n = 0; n < kN; ++n) {
          queries[n] = q_ + (c + n) * head_steps_ * kTileBytes;
          for (int m = 0; m < kM; ++m) {
            sums[m * kN + n] = scores_ + ((c + n) * kKeyTiles + t + m) * kTileFloats;
          }
        }
        Add(kM, kN, keys, row_bytes_, kStep * 2, queries, head_steps_, sums, true);
      }
    }
  }

  static void Add(int m, int n, const uint8_t* const* x, int64_t x_stride, int64_t x_step,
                  const uint8_t* const* w, int64_t steps, float* const* sums, bool fresh) {
    if (m == 2 && n == 2) {
      AddProducts<Tiles, 2, 2>(x, x_stride, x_step, w, steps, sums, fresh);
    } else if (m == 2) {
      AddProducts<Tiles, 2, 1>(x, x_stride, x_step, w, steps, sums, fresh);
    } else if (n == 2) {
      AddProducts<Tiles, 1, 2>(x, x_stride, x_step, w, steps, sums, fresh);
    } else {
      AddProducts<Tiles, 1, 1>(x, x_stride, x_step, w, steps, sums, fresh);
    }
  }

  /// Which lanes of a column see a key.
  struct Sight {
    __m512i from, to;  // the first key and the last
    bool all;          // all lanes see all keys of this step
  };
  Sight SightOf(int64_t c, int64_t first, int64_t count) const {
    alignas(64) int32_t from[kLanes], to[kLanes];
    bool all = true;
    for (int lane = 0; lane < kLanes; ++lane) {
      const int64_t row = c * kLanes + lane;
      to[lane] = row < rows_ ? static_cast<int32_t>(Position(row)) : -1;
      from[lane] = row < rows_ ? static_cast<int32_t>(FirstKey(to[lane])) : 0;
      all = all && (row >= rows_ || (from[lane] <= first && to[lane] >= first + count - 1));
    }
    return {_mm512_load_si512(from), _mm512_load_si512(to), all};
  }

  /// Scores of a column of query rows to weights; rescales what they have gathered under an older
  /// maximum.
  void Weigh(int64_t c, int64_t first, int64_t count) {
    float* const scores = scores_ + c * kKeys * kLanes;
    const __m512 scale = _mm512_set1_ps(a_.scale), nothing = _mm512_set1_ps(-__builtin_inff());
    const KernelTable& vectors = *Avx512Bf16Kernels();
    if (a_.soft_cap > 0) {
      for (int64_t i = 0; i < count * kLanes; i += kLanes) {
        _mm512_store_ps(scores + i, _mm512_mul_ps(_mm512_load_ps(scores + i), scale));
      }
      vectors.soft_cap(scores, count * kLanes, a_.soft_cap);
    }
    const __m512 factor = a_.soft_cap > 0 ? _mm512_set1_ps(1.0f) : scale;
    const Sight sight = SightOf(c, first, count);
    const __m512 old_max = _mm512_load_ps(max_ + c * kLanes);
    __m512 max = old_max;
    for (int64_t k = 0; k < count; ++k) {
      __m512 score = _mm512_mul_ps(_mm512_load_ps(scores + k * kLanes), factor);
      if (!sight.all) {
        const __m512i key = _mm512_set1_epi32(static_cast<int32_t>(first + k));
        const __mmask16 seen =
            _mm512_cmple_epi32_mask(sight.from, key) & _mm512_cmple_epi32_mask(key, sight.to);
        score = _mm512_mask_blend_ps(seen, nothing, score);
      }
      _mm512_store_ps(scores + k * kLanes, score);
      max = _mm512_max_ps(score, max);
    }
    // Rows that have seen nothing yet stay as they are.
    const __mmask16 some = _mm512_cmp_ps_mask(max, nothing, _CMP_NEQ_UQ);
    const __m512 subtrahend = _mm512_maskz_mov_ps(some, max);
    for (int64_t k = 0; k < count; ++k) {
      _mm512_store_ps(scores + k * kLanes,
                      _mm512_sub_ps(_mm512_load_ps(scores + k * kLanes), subtrahend));
    }
    vectors.exponential(scores, count * kLanes, scores);
    __m512 parts[4];
    for (__m512& part : parts) part = _mm512_setzero_ps();
    for (int64_t k = 0; k < count; k += 4) {
      SHARDLINE_UNROLL
      for (int i = 0; i < 4; ++i) {
        parts[i] = _mm512_add_ps(parts[i], _mm512_load_ps(scores + (k + i) * kLanes));
      }
    }
    const __m512 sum =
        _mm512_add_ps(_mm512_add_ps(parts[0], parts[1]), _mm512_add_ps(parts[2], parts[3]));
    float* const total = total_ + c * kLanes;
    if (_mm512_cmp_ps_mask(max, old_max, _CMP_NEQ_UQ) != 0) {
      alignas(64) float shrink[kLanes];
      _mm512_store_ps(shrink, _mm512_maskz_sub_ps(some, old_max, subtrahend));
      vectors.exponential(shrink, kLanes, shrink);
      const __m512 by = _mm512_load_ps(shrink);
      float* const sums = sums_ + c * a_.head_dim * kLanes;
      for (int64_t d = 0; d < a_.head_dim; ++d) {
        _mm512_store_ps(sums + d * kLanes, _mm512_mul_ps(_mm512_load_ps(sums + d * kLanes), by));
      }
      _mm512_store_ps(total, _mm512_mul_ps(_mm512_load_ps(total), by));
      _mm512_store_ps(max_ + c * kLanes, max);
    }
    _mm512_store_ps(total, _mm512_add_ps(_mm512_load_ps(total), sum));
    PackWeights(c, count);
  }

  /// Weights as tiles: pairs of keys in rows, query rows in columns.
  void PackWeights(int64_t c, int64_t count) {
    const float* const scores = scores_ + c * kKeys * kLanes;
    uint8_t* const weights = weights_ + c * kKeySteps * kTileBytes;
    alignas(64) static constexpr uint16_t kBesides[32] = {
        0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
        8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    const __m512i besides = _mm512_load_si512(kBesides);
    for (int64_t k = 0; k < count; k += 2) {
      const __m512i pair =
          RoundPair(_mm512_load_ps(scores + k * kLanes), _mm512_load_ps(scores + (k + 1) * kLanes));
      _mm512_store_si512(weights + k * 32, _mm512_permutexvar_epi16(besides, pair));
    }
    for (int64_t k = count; k % kStep != 0; k += 2) {
      _mm512_store_si512(weights + k * 32, _mm512_setzero_si512());
    }
  }

  /// sums += values * weights.
  void Gather(int64_t first, int64_t tiles) {
    const int64_t steps = (tiles * kTileHeight + kStep - 1) / kStep;
    for (int64_t step = 0; step < steps; ++step) TransposeValues(first, step);
    const int64_t step_bytes = a_.head_dim * kTileStride;
    for (int64_t d = 0; d < a_.head_dim; d += 2 * kTileHeight) {
      const uint8_t* values[2] = {values_ + d * kTileStride,
                                  values_ + (d + kTileHeight) * kTileStride};
      for (int64_t c = 0; c < columns_; c += 2) {
        const int kN = c + 1 < columns_ ? 2 : 1;
        const uint8_t* weights[2];
        float* sums[4];
        for (int n = 0; n < kN; ++n) {
          weights[n] = weights_ + (c + n) * kKeySteps * kTileBytes;
          float* const of_column = sums_ + ((c + n) * a_.head_dim + d) * kLanes;
          sums[n] = of_column;
          sums[kN + n] = of_column + kTileFloats;
        }
        Add(2, kN, values, kTileStride, step_bytes, weights, steps, sums, false);
      }
    }
  }

  /// Values of 32 keys, elements in rows and keys in columns; of keys that no row sees, zeros.
  void TransposeValues(int64_t first, int64_t step) {
    const int64_t begin = first + step * kStep;
    const uint8_t* rows[kStep];
    for (int64_t i = 0; i < kStep; ++i) {
      const int64_t key = begin + i;
      rows[i] = key >= oldest_ && key < context_ ? KvRow(a_.values, key) : nullptr;
    }
    uint8_t* const out = values_ + step * a_.head_dim * kTileStride;
    for (int64_t d = 0; d < a_.head_dim; d += kStep) {
      __m512i low[16], high[16];  // in quarter q, elements 8q to 8q + 3, 8q + 4 to 8q + 7
      for (int pair = 0; pair < 16; ++pair) {
        const __m512i even = LoadValues(rows[2 * pair], d), odd = LoadValues(rows[2 * pair + 1], d);
        low[pair] = _mm512_unpacklo_epi16(even, odd);
        high[pair] = _mm512_unpackhi_epi16(even, odd);
      }
      Transpose(low);
      Transpose(high);
      for (int i = 0; i < 16; ++i) {
        uint8_t* const row = out + (d + i / 4 * 8 + i % 4) * kTileStride;
        _mm512_store_si512(row, low[i]);
        _mm512_store_si512(row + 4 * kTileStride, high[i]);
      }
    }
  }

  SHARDLINE_INLINE __m512i LoadValues(const uint8_t* row, int64_t element) {
    return row == nullptr ? _mm512_setzero_si512() : LoadWords(row + element * 2);
  }

  void Finish(int64_t c) {
    const __m512 total = _mm512_load_ps(total_ + c * kLanes);
    for (int64_t d = 0; d < a_.head_dim; d += kTileHeight) {
      __m512i words[16];
      const float* const sums = sums_ + (c * a_.head_dim + d) * kLanes;
      for (int i = 0; i < 16; ++i) {
        words[i] = _mm512_castps_si512(_mm512_div_ps(_mm512_load_ps(sums + i * kLanes), total));
      }
      Transpose(words);
      for (int64_t lane = 0; lane < Smaller(kLanes, rows_ - c * kLanes); ++lane) {
        _mm512_storeu_ps(a_.out + PlaceOf(c * kLanes + lane) + d, _mm512_castsi512_ps(words[lane]));
      }
    }
  }

  const AttentionArgs& a_;
  const int64_t rows_;       // query rows
  const int64_t columns_;    // of 16 query rows
  const int64_t row_bytes_;  // of a key or value
  const int64_t head_steps_;
  int64_t context_, oldest_;  // keys [oldest_, context_) are seen by some row
  uint8_t* q_;                // [columns_][head_steps_] tiles
  float* sums_;               // [columns_][head_dim][16]
  float* scores_;             // [columns_][kKeys][16]
  uint8_t* weights_;          // [columns_][kKeySteps] tiles
  uint8_t* values_;           // [kKeySteps][head_dim] rows of 32 keys
  float* max_;                // [columns_][16]
  float* total_;              // [columns_][16]
};

template <class Tiles>
PanelTable TilePanels() {
  PanelTable table = *Avx512Bf16Kernels()->panels;
  table.bfloat16.multiply = MultiplyTiles<Bfloat16Tiles<Tiles>>;
  table.q8_0.multiply = MultiplyTiles<Int8Tiles<Tiles, Q8_0>>;
  table.q4_0.multiply = MultiplyTiles<Int8Tiles<Tiles, Q4_0>>;
  table.q4_1.multiply = MultiplyTiles<Int8Tiles<Tiles, Q4_1>>;
  table.attention = TileAttention<Tiles>::Run;
  return table;
}

}  // namespace
}  // namespace shardline::kernels::cpu
