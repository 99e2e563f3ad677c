// Included after panel_body.h: how a panel of int8 or int4 weights lies in memory.

namespace shardline::kernels::cpu {
namespace {

constexpr int kBlock = 32;

/// kBits of an element of w, which is stored plus kOffset; kMinimum: a block has a minimum too.
template <DType kType, int kBits_, int kOffset_, bool kMinimum_>
struct Int8Format {
  static constexpr DType kDType = kType;
  static constexpr int kBits = kBits_;
  static constexpr int kOffset = kOffset_;
  static constexpr bool kMinimum = kMinimum_;
  static constexpr int kStep = kBlock;
  static constexpr int kBlockBytes = kBlock * kWidth * kBits / 8;
  static constexpr int kScaleBytes = kWidth * 2;
  static constexpr int kHeadBytes = kScaleBytes * (kMinimum ? 2 : 1);

  SHARDLINE_INLINE const uint8_t* Heads(const uint8_t* panel, int64_t begin) {
    return panel + begin / kBlock * kHeadBytes;
  }
  SHARDLINE_INLINE const uint8_t* Words(const PanelArgs& a, const uint8_t* panel, int64_t begin) {
    return panel + a.k / kBlock * kHeadBytes + begin / kBlock * kBlockBytes;
  }
  SHARDLINE_INLINE void WantPanel(const PanelArgs& a, const uint8_t* panel, int64_t begin,
                                  int64_t end, Wanted& wanted) {
    const int64_t blocks = (end - begin) / kBlock;
    Want(wanted, Heads(panel, begin), blocks * kHeadBytes);
    Want(wanted, Words(a, panel, begin), blocks * kBlockBytes);
  }
};

using Q8_0 = Int8Format<DType::kQ8_0, 8, 128, false>;
using Q4_0 = Int8Format<DType::kQ4_0, 4, 8, false>;
using Q4_1 = Int8Format<DType::kQ4_1, 4, 0, true>;

}  // namespace
}  // namespace shardline::kernels::cpu
