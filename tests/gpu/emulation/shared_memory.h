#pragma once

/// The program's __shared__ variables: those in kernels and in functions of headers.
namespace shardline::emulation {

/// Fills with NaN what `kernel` may use: its own variables, and those of functions in headers.
void PoisonSharedMemory(const void* kernel);

/// The name of a variable that is not as PoisonSharedMemory leaves it; null: none. Once a kernel's
/// own are poisoned again, one of a function that is neither a kernel nor in a header.
const char* TouchedSharedVariable();

}  // namespace shardline::emulation
