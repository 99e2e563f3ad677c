#pragma once

#include "kernels/device.h"

namespace shardline::bench {

/// What this machine can do with a device's threads, measured now; 0 where the CPU lacks the
/// instructions. Rates count a multiply and an add as two.
struct MachineLimits {
  double read_bytes = 0;      // per second, from memory, each byte once
  double fma_flops = 0;       // float32 fused multiply-add in the widest vectors
  double bf16_flops = 0;      // vdpbf16ps
  double int8_ops = 0;        // vpdpbusd
  double amx_bf16_flops = 0;  // tdpbf16ps, where the device's level is "amx"
  double amx_int8_ops = 0;    // tdpbsud
};

/// Takes about a second. Best of several tries: what neighbours take away is no limit. `cpu_time`,
/// for a device of one thread: in that thread's CPU time.
MachineLimits MeasureLimits(kernels::Device& device, bool cpu_time);

/// The same of a GPU: memory by adding two arrays of `bytes` each (three times that in all), and
/// bfloat16 matrices by a cube of `side` with products as fast as the device has them.
MachineLimits MeasureGpuLimits(kernels::Device& device, int64_t bytes, int64_t side);

}  // namespace shardline::bench
