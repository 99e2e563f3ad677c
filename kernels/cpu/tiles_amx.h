// Included by level_amx.cc. The tile registers of AMX, as amx_body.h uses them.

namespace shardline::kernels::cpu {
namespace {

/// Eight tiles of the calling thread. Register names are template arguments, since instructions
/// hold them. Not the compiler's intrinsics: those do not say which memory an instruction reads, so
/// that stores before it may be dropped (GCC 12 does so with a configuration on the stack).
struct AmxTiles {
  /// Gives the registers their shapes and clears them: `height` rows of x, of so many bytes each.
  static void Configure(int height, int x_bytes) {
    struct alignas(64) Palette {
      uint8_t palette = 1;
      uint8_t start_row = 0;
      uint8_t reserved[14] = {};
      uint16_t row_bytes[16] = {};
      uint8_t rows[16] = {};
    } palette;
    static_assert(sizeof(Palette) == 64);
    for (int tile = 0; tile < 8; ++tile) {
      palette.row_bytes[tile] = static_cast<uint16_t>(tile == 4 || tile == 5 ? x_bytes : 64);
      palette.rows[tile] = static_cast<uint8_t>(tile < 6 ? height : x_bytes / 4);
    }
    asm volatile("ldtilecfg %0" : : "m"(palette));
  }
  /// Leaves the registers unused, so that the system need not save them.
  static void Release() { asm volatile("tilerelease"); }

  template <int kTile>
  SHARDLINE_INLINE void Zero() {
    asm volatile("tilezero %%tmm%c0" : : "i"(kTile));
  }
  /// The tile's rows, `stride` bytes apart.
  template <int kTile>
  SHARDLINE_INLINE void Load(const void* from, int64_t stride) {
    asm volatile("tileloadd (%1,%2,1), %%tmm%c0" : : "i"(kTile), "r"(from), "r"(stride) : "memory");
  }
  /// The same of what is not to stay in the first-level cache.
  template <int kTile>
  SHARDLINE_INLINE void LoadPassing(const void* from, int64_t stride) {
    asm volatile("tileloaddt1 (%1,%2,1), %%tmm%c0"
                 :
                 : "i"(kTile), "r"(from), "r"(stride)
                 : "memory");
  }
  template <int kTile>
  SHARDLINE_INLINE void Store(void* to, int64_t stride) {
    asm volatile("tilestored %%tmm%c0, (%1,%2,1)" : : "i"(kTile), "r"(to), "r"(stride) : "memory");
  }
  /// sum += x * w in bfloat16, by rules of its own: no subnormals, nearest even, MXCSR unread.
  template <int kSum, int kX, int kW>
  SHARDLINE_INLINE void AddBfloat16() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSum), "i"(kX), "i"(kW));
  }
  /// sum += x * w in signed int8, sums in int32.
  template <int kSum, int kX, int kW>
  SHARDLINE_INLINE void AddInt8() {
    asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSum), "i"(kX), "i"(kW));
  }
};

}  // namespace
}  // namespace shardline::kernels::cpu
