// Speed of a whole model without the cluster around it: ranks are threads of this process.
//   model_bench MODEL [--device cuda] [--threads N] [--tensor-parallel-size N] [--batch 1,8,32] ...
//   model_bench CONFIG.json --synthetic [--layers N] ...    random weights that were never in a
//   file
// One JSON object a line: tokens per second of a prompt, and of decoding several sequences at once
// behind a prompt of the same length, with the share of the memory's measured read rate that
// reading the weights once a step takes (of a mixture the experts that so many tokens choose
// between them if they choose evenly), and on a GPU the prompt's share of its measured matrix rate.
// Real time: the machine should do nothing else.

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/bench/machine_limits.h"
#include "tests/bench/synthetic_checkpoint.h"
#include "tests/worker/in_process_replica.h"
#include "tests/worker/step_driver.h"

namespace shardline::bench {
namespace {

using Clock = std::chrono::steady_clock;

struct Options {
  std::string model, dtype = "auto", compute = "auto", quantization = "none";
  std::string kv_cache_dtype = "bfloat16", device = "cpu";
  bool synthetic = false;
  int layers = 0;
  int64_t limit_bytes = int64_t{256} << 20, limit_side = 8192;
  int threads = 0, tensor_parallel = 1, prompt = 512, generate = 64, repeats = 5;
  std::vector<int> batches = {1};
};

double Seconds(Clock::time_point since) {
  return std::chrono::duration<double>(Clock::now() - since).count();
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

absl::StatusOr<worker::ReplicaOptions> MakeReplicaOptions(const Options& options) {
  worker::ReplicaOptions replica;
  const auto format = worker::ParseWeightFormat(options.dtype);
  if (!format.ok()) return format.status();
  const auto products = worker::ParseProducts(options.compute);
  if (!products.ok()) return products.status();
  const auto quantization = worker::ParseQuantization(options.quantization);
  if (!quantization.ok()) return quantization.status();
  replica.weights = *format;
  replica.products = *products;
  replica.quantization = *quantization;
  replica.kv_dtype = options.kv_cache_dtype == "float32" ? kernels::DType::kF32
                     : options.kv_cache_dtype == "int8"  ? kernels::DType::kQ8_0
                                                         : kernels::DType::kBF16;
  replica.layout.tp = options.tensor_parallel;
  replica.threads = options.threads;
  replica.max_num_seqs = *std::max_element(options.batches.begin(), options.batches.end());
  replica.max_num_batched_tokens = std::max(options.prompt, replica.max_num_seqs);
  replica.max_model_len = options.prompt + options.generate + 1;
  replica.observe_logits = false;
  if (options.device == "cuda") {
    replica.device = kernels::DeviceKind::kCuda;
    replica.recording = true;
  }
  return replica;
}

/// Feeds a prompt to every slot of [0, batch), one after the other; seconds of each.
absl::StatusOr<std::vector<double>> Prefill(worker::StepDriver& driver, int batch, int prompt) {
  std::vector<double> seconds;
  const int vocabulary = static_cast<int>(driver.replica().spec().vocabulary);
  std::vector<int32_t> tokens(prompt);
  for (int slot = 0; slot < batch; ++slot) {
    for (int i = 0; i < prompt; ++i) tokens[i] = (i * 7919 + slot * 31) % vocabulary;
    driver.Start(slot);
    driver.Feed(slot, tokens);
    const auto start = Clock::now();
    const auto output = driver.Step();
    if (!output.ok()) return output.status();
    seconds.push_back(Seconds(start));
  }
  return seconds;
}

absl::StatusOr<std::unique_ptr<worker::InProcessReplica>> Load(
    const Options& options, const worker::ReplicaOptions& replica_options) {
  if (!options.synthetic) return worker::InProcessReplica::Create(options.model, replica_options);
  absl::StatusOr<std::unique_ptr<model::Checkpoint>> checkpoint =
      MakeSyntheticCheckpoint(options.model, options.layers);
  if (!checkpoint.ok()) return checkpoint.status();
  return worker::InProcessReplica::Create(*std::move(checkpoint), replica_options);
}

/// Of the weights, what `tokens` tokens read or multiply with: all but experts that none chose.
double BytesFor(const worker::InProcessReplica& replica, double tokens) {
  const model::Mixture& mixture = replica.spec().mixture;
  const auto bytes = static_cast<double>(replica.step_weight_bytes());
  if (mixture.experts == 0) return bytes;
  const double left_out =
      std::pow(1.0 - static_cast<double>(mixture.experts_per_token) / mixture.experts, tokens);
  return bytes - left_out * static_cast<double>(replica.expert_weight_bytes());
}

absl::Status Bench(const Options& options) {
  const auto replica_options = MakeReplicaOptions(options);
  if (!replica_options.ok()) return replica_options.status();
  auto loaded_at = Clock::now();
  auto replica = Load(options, *replica_options);
  if (!replica.ok()) return replica.status();
  const double load_seconds = Seconds(loaded_at);
  const absl::Status warm = (*replica)->WarmUp();
  if (!warm.ok()) return warm;
  worker::StepDriver driver(**replica);
  const bool gpu = replica_options->device == kernels::DeviceKind::kCuda;
  auto device = kernels::Device::Create({.kind = replica_options->device,
                                         .threads = options.threads * options.tensor_parallel,
                                         .fast_products = gpu});
  if (!device.ok()) return device.status();
  const MachineLimits limits =
      gpu ? MeasureGpuLimits(**device, options.limit_bytes, options.limit_side)
          : MeasureLimits(**device, false);
  const double bytes = static_cast<double>((*replica)->step_weight_bytes());
  std::printf("%s\n", nlohmann::json{{"device", (*device)->Description()},
                                     {"model", options.model},
                                     {"load_seconds", load_seconds},
                                     {"weight_bytes_per_step", bytes},
                                     {"read_GB_per_s", limits.read_bytes / 1e9},
                                     {"fma_TFLOP_per_s", limits.fma_flops / 1e12},
                                     {"bf16_TFLOP_per_s", limits.bf16_flops / 1e12},
                                     {"int8_TOP_per_s", limits.int8_ops / 1e12},
                                     {"amx_bf16_TFLOP_per_s", limits.amx_bf16_flops / 1e12},
                                     {"amx_int8_TOP_per_s", limits.amx_int8_ops / 1e12}}
                          .dump()
                          .c_str());
  std::vector<double> prompt_seconds;
  for (const int batch : options.batches) {
    std::vector<double> step_seconds;
    for (int repeat = 0; repeat < options.repeats; ++repeat) {
      const auto prefill = Prefill(driver, batch, options.prompt);
      if (!prefill.ok()) return prefill.status();
      prompt_seconds.insert(prompt_seconds.end(), prefill->begin(), prefill->end());
      const auto start = Clock::now();
      for (int i = 0; i < options.generate; ++i) {
        for (int slot = 0; slot < batch; ++slot) driver.Feed(slot, {});
        const auto output = driver.Step();
        if (!output.ok()) return output.status();
      }
      step_seconds.push_back(Seconds(start) / options.generate);
      for (int slot = 0; slot < batch; ++slot) driver.Free(slot);
    }
    const double step = Median(step_seconds);
    const double read = BytesFor(**replica, batch) / limits.read_bytes;
    std::printf("%s\n", nlohmann::json{{"test", "decode"},
                                       {"batch", batch},
                                       {"tokens_per_s", batch / step},
                                       {"ceiling_tokens_per_s", batch / read},
                                       {"of_read", read / step}}
                            .dump()
                            .c_str());
  }
  nlohmann::json prompt = {{"test", "prompt"},
                           {"tokens", options.prompt},
                           {"tokens_per_s", options.prompt / Median(prompt_seconds)}};
  if (gpu && options.dtype == "bfloat16") {
    // Two operations a weight of two bytes; a token multiplies with the experts it chose.
    prompt["of_matrices"] =
        BytesFor(**replica, 1) * options.prompt / Median(prompt_seconds) / limits.bf16_flops;
  }
  std::printf("%s\n", prompt.dump().c_str());
  return absl::OkStatus();
}

int Run(int argc, char** argv) {
  Options options;
  CLI::App app("Speed of a whole model in this process");
  app.add_option("MODEL", options.model, "A .gguf file or a Hugging Face directory")->required();
  app.add_flag("--synthetic", options.synthetic, "MODEL is a config.json; weights are random");
  app.add_option("--layers", options.layers, "Of a synthetic model; 0: as configured");
  app.add_option("--device", options.device)->check(CLI::IsMember({"cpu", "cuda"}));
  app.add_option("--limit-bytes", options.limit_bytes, "Arrays of a GPU's limits");
  app.add_option("--limit-side", options.limit_side, "Matrices of a GPU's limits");
  app.add_option("--threads", options.threads, "Of each rank; 0: all CPUs");
  app.add_option("--tensor-parallel-size", options.tensor_parallel, "Ranks");
  app.add_option("--dtype", options.dtype, "auto, float32, bfloat16");
  app.add_option("--compute-dtype", options.compute, "auto, float32");
  app.add_option("--quantization", options.quantization, "none, int8, int4");
  app.add_option("--kv-cache-dtype", options.kv_cache_dtype, "float32, bfloat16, int8");
  app.add_option("--prompt", options.prompt, "Tokens")->check(CLI::Range(1, 1 << 20));
  app.add_option("--generate", options.generate, "Tokens")->check(CLI::Range(1, 1 << 20));
  app.add_option("--batch", options.batches, "Sequences decoded at once")->delimiter(',');
  app.add_option("--repeats", options.repeats, "Runs whose median counts")
      ->check(CLI::Range(1, 1000));
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error);
  }
  const absl::Status status = Bench(options);
  if (status.ok()) return 0;
  std::fprintf(stderr, "model_bench: %s\n", status.ToString().c_str());
  return 1;
}

}  // namespace
}  // namespace shardline::bench

int main(int argc, char** argv) { return shardline::bench::Run(argc, argv); }
