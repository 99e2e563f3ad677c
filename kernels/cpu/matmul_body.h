// Included by level_*.cc after decode_body.h. Every y[t, n] is one vector accumulator that walks K
// in steps of kLanes (the last step zero-padded), then one fixed horizontal sum, then the bias; the
// tilings below differ in which of them run side by side, never in the order within one.

namespace shardline::kernels::cpu::SHARDLINE_LEVEL {

/// Stores sums[0, columns) of row t at column n, with the bias.
SHARDLINE_INLINE void Finish(const MatMulArgs& a, int64_t t, int64_t n, int columns,
                             const float* sums) {
  float* y = a.y + t * a.n + n;
  for (int c = 0; c < columns; ++c) y[c] = a.bias ? sums[c] + a.bias[n + c] : sums[c];
}

/// One tile of kRows x rows and kColumns w rows (1 or 4), w decoded in registers.
template <DType kType, int kRows, int kColumns>
SHARDLINE_INLINE void DotTile(const MatMulArgs& a, int64_t t, int64_t n) {
  V acc[kRows][kPanelRows];
  for (int r = 0; r < kRows; ++r) {
    for (int c = 0; c < kPanelRows; ++c) acc[r][c] = Zero();
  }
  const float* x[kRows];
  for (int r = 0; r < kRows; ++r) x[r] = a.x + (t + r) * a.k;
  const uint8_t* w[kColumns];
  for (int c = 0; c < kColumns; ++c) w[c] = a.w + (n + c) * a.row_bytes;

  if constexpr (kPlain<kType>) {
    constexpr int kBytes = kPlainBytes<kType>;
    int64_t k = 0;
    for (; k + kLanes <= a.k; k += kLanes) {
      V xv[kRows];
      SHARDLINE_UNROLL
      for (int r = 0; r < kRows; ++r) xv[r] = Load(x[r] + k);
      SHARDLINE_UNROLL
      for (int c = 0; c < kColumns; ++c) {
        const V wv = LoadPlain<kType>(w[c] + k * kBytes);
        SHARDLINE_UNROLL
        for (int r = 0; r < kRows; ++r) acc[r][c] = Fma(xv[r], wv, acc[r][c]);
      }
    }
    if (k < a.k) {
      for (int c = 0; c < kColumns; ++c) {
        const V wv = LoadPlainPartial<kType>(w[c] + k * kBytes, a.k - k);
        for (int r = 0; r < kRows; ++r) {
          acc[r][c] = Fma(LoadPartial(x[r] + k, a.k - k), wv, acc[r][c]);
        }
      }
    }
  } else {
    using F = Format<kType>;
    for (int64_t k = 0; k < a.k; k += F::kUnits * kUnit) {
      typename F::Header header[kColumns];
      for (int c = 0; c < kColumns; ++c) F::Read(w[c], header[c]);
      SHARDLINE_UNROLL_UNITS
      for (int u = 0; u < F::kUnits; ++u) {
        SHARDLINE_UNROLL_UNITS
        for (int c = 0; c < kColumns; ++c) {
          V wv[kUnitVectors];
          F::Unit(w[c], header[c], u, wv);
          SHARDLINE_UNROLL
          for (int j = 0; j < kUnitVectors; ++j) {
            SHARDLINE_UNROLL
            for (int r = 0; r < kRows; ++r) {
              acc[r][c] = Fma(Load(x[r] + k + u * kUnit + j * kLanes), wv[j], acc[r][c]);
            }
          }
        }
      }
      for (int c = 0; c < kColumns; ++c) w[c] += F::kBytes;
    }
  }
  for (int r = 0; r < kRows; ++r) {
    float sums[kPanelRows];
    Reduce4(acc[r][0], acc[r][1], acc[r][2], acc[r][3], sums);
    Finish(a, t + r, n, kColumns, sums);
  }
}

template <DType kType, int kRows>
SHARDLINE_INLINE void DotColumns(const MatMulArgs& a, int64_t t, int64_t n0, int64_t n1) {
  if (n1 - n0 == kPanelRows) {
    DotTile<kType, kRows, kPanelRows>(a, t, n0);
  } else {
    for (int64_t n = n0; n < n1; ++n) DotTile<kType, kRows, 1>(a, t, n);
  }
}

template <DType kType>
void Dots(const MatMulArgs& a, int64_t t0, int64_t t1, int64_t n0, int64_t n1) {
  static_assert(kDirectRows == 4);
  for (int64_t n = n0; n < n1; n += kPanelRows) {
    const int64_t end = n + kPanelRows < n1 ? n + kPanelRows : n1;
    int64_t t = t0;
    for (; t + 4 <= t1; t += 4) DotColumns<kType, 4>(a, t, n, end);
    if (t1 - t == 3) DotColumns<kType, 3>(a, t, n, end);
    if (t1 - t == 2) DotColumns<kType, 2>(a, t, n, end);
    if (t1 - t == 1) DotColumns<kType, 1>(a, t, n, end);
  }
}

void Pack(const float* x, int64_t k, int64_t rows, int64_t t0, int64_t t1, float* packed) {
  const int64_t steps = (k + kLanes - 1) / kLanes;
  for (int64_t t = t0; t < t1; ++t) {
    const float* row = x + t * k;
    float* out = packed + (t / kTileRows * steps * kTileRows + t % kTileRows) * kLanes;
    for (int64_t s = 0; s < steps; ++s, out += kTileRows * kLanes) {
      const int64_t left = k - s * kLanes;
      Store(out, left >= kLanes ? Load(row + s * kLanes) : LoadPartial(row + s * kLanes, left));
    }
  }
  // The last tile's missing rows: zeros, so that a whole tile can be computed.
  for (int64_t t = t1; t1 == rows && t % kTileRows != 0; ++t) {
    float* out = packed + (t / kTileRows * steps * kTileRows + t % kTileRows) * kLanes;
    for (int64_t s = 0; s < steps; ++s, out += kTileRows * kLanes) Store(out, Zero());
  }
}

/// The register tile: kTileRows packed x rows times one packed panel over `steps` vectors. The
/// accumulators come from and go to `saved` unless this is the first or the last part of K.
SHARDLINE_INLINE void PanelTile(const float* x, const float* panel, int64_t steps, bool first,
                                bool last, float* saved, float sums[kTileRows][kPanelRows]) {
  V acc[kTileRows][kPanelRows];
  SHARDLINE_UNROLL
  for (int r = 0; r < kTileRows; ++r) {
    SHARDLINE_UNROLL
    for (int c = 0; c < kPanelRows; ++c) {
      acc[r][c] = first ? Zero() : Load(saved + (r * kPanelRows + c) * kLanes);
    }
  }
  for (int64_t s = 0; s < steps; ++s) {
    V w[kPanelRows];
    SHARDLINE_UNROLL
    for (int c = 0; c < kPanelRows; ++c) w[c] = Load(panel + c * kLanes);
    SHARDLINE_UNROLL
    for (int r = 0; r < kTileRows; ++r) {
      const V xv = Load(x + r * kLanes);
      SHARDLINE_UNROLL
      for (int c = 0; c < kPanelRows; ++c) acc[r][c] = Fma(xv, w[c], acc[r][c]);
    }
    x += kTileRows * kLanes;
    panel += kPanelRows * kLanes;
  }
  if (last) {
    SHARDLINE_UNROLL
    for (int r = 0; r < kTileRows; ++r) {
      Reduce4(acc[r][0], acc[r][1], acc[r][2], acc[r][3], sums[r]);
    }
  } else {
    SHARDLINE_UNROLL
    for (int r = 0; r < kTileRows; ++r) {
      SHARDLINE_UNROLL
      for (int c = 0; c < kPanelRows; ++c) Store(saved + (r * kPanelRows + c) * kLanes, acc[r][c]);
    }
  }
}

/// One part of K of one w block against all tiles of [t0, t1).
void PanelSweep(const MatMulArgs& a, const float* packed, int64_t t0, int64_t t1, int64_t n,
                int64_t n1, int64_t k, int64_t depth, const float* panels, float* saved) {
  const int64_t all_steps = (a.k + kLanes - 1) / kLanes;
  const int64_t steps = (depth + kLanes - 1) / kLanes;
  const bool first = k == 0, last = k + depth == a.k;
  for (int64_t t = t0; t < t1; t += kTileRows) {
    const float* x = packed + (t * all_steps + k / kLanes * kTileRows) * kLanes;
    const float* panel = panels;
    for (int64_t c = n; c < n1; c += kPanelRows) {
      float sums[kTileRows][kPanelRows];
      PanelTile(x, panel, steps, first, last, saved, sums);
      saved += kTileRows * kPanelRows * kLanes;
      panel += steps * kPanelRows * kLanes;
      if (!last) continue;
      const int columns = n1 - c < kPanelRows ? static_cast<int>(n1 - c) : kPanelRows;
      for (int r = 0; r < kTileRows && t + r < t1; ++r) Finish(a, t + r, c, columns, sums[r]);
    }
  }
}

template <DType kType>
void Gemm(const MatMulArgs& a, const float* packed, int64_t t0, int64_t t1, int64_t n0, int64_t n1,
          float* scratch) {
  float* panels = scratch;
  float* saved = scratch + kGemmColumns * kGemmDepth;
  for (int64_t t = t0; t < t1; t += kGemmRows) {
    const int64_t t_end = t + kGemmRows < t1 ? t + kGemmRows : t1;
    for (int64_t n = n0; n < n1; n += kGemmColumns) {
      const int64_t n_end = n + kGemmColumns < n1 ? n + kGemmColumns : n1;
      for (int64_t k = 0; k < a.k; k += kGemmDepth) {
        const int64_t depth = k + kGemmDepth < a.k ? kGemmDepth : a.k - k;
        const int64_t steps = (depth + kLanes - 1) / kLanes;
        const int64_t padded = (n_end - n + kPanelRows - 1) / kPanelRows * kPanelRows;
        for (int64_t c = 0; c < padded; ++c) {
          // Beyond the end the last row once more; those sums are not stored.
          const int64_t row = n + c < n_end ? n + c : n_end - 1;
          float* panel = panels + (c / kPanelRows * steps * kPanelRows + c % kPanelRows) * kLanes;
          const uint8_t* w = a.w + row * a.row_bytes;
          if constexpr (kPlain<kType>) {
            w += k * kPlainBytes<kType>;
          } else {
            w += k / (Format<kType>::kUnits * kUnit) * Format<kType>::kBytes;
          }
          Expand<kType>(w, depth, panel, kPanelRows * kLanes);
        }
        PanelSweep(a, packed, t, t_end, n, n_end, k, depth, panels, saved);
      }
    }
  }
}

}  // namespace shardline::kernels::cpu::SHARDLINE_LEVEL
