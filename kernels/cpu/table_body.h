// Included last by level_*.cc: the level's table of functions.

namespace shardline::kernels::cpu::SHARDLINE_LEVEL {

#define SHARDLINE_PER_DTYPE(f)                                                               \
  {                                                                                          \
    f<DType::kF32>, f<DType::kF16>, f<DType::kBF16>, f<DType::kQ8_0>, f<DType::kQ4_0>,       \
        f<DType::kQ4_1>, f<DType::kQ5_0>, f<DType::kQ5_1>, f<DType::kQ4_K>, f<DType::kQ5_K>, \
        f<DType::kQ6_K>, f<DType::kE4M3>                                                     \
  }

constexpr KernelTable MakeTable(const char* name) {
  return {
      .name = name,
      .lanes = kLanes,
      .tile_rows = kTileRows,
      .dequantize = SHARDLINE_PER_DTYPE(DequantizeRow),
      .dots = SHARDLINE_PER_DTYPE(Dots),
      .pack = Pack,
      .gemm = SHARDLINE_PER_DTYPE(Gemm),
      .rms_norm = RmsNormRow,
      .layer_norm = LayerNormRow,
      .soft_cap = SoftCapRow,
      .add = AddTo,
      .activate = {Activate<Silu>, Activate<GeluErf>, Activate<GeluTanh>, Activate<Relu>},
      .gated = {Gated<Silu>, Gated<GeluErf>, Gated<GeluTanh>, Gated<Relu>},
      .exponential = Exponential,
      .attention = Attend,
      .maximum = Maximum,
      .sum_exp = SumExp,
      .panels = nullptr,
  };
}

}  // namespace shardline::kernels::cpu::SHARDLINE_LEVEL
