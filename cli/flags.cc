#include "cli/flags.h"

#include <cctype>
#include <cstdint>
#include <functional>

namespace shardline::cli {
namespace {

template <typename T>
CLI::Option* AddSetter(CLI::App& app, const std::string& name, const std::string& help,
                       std::function<void(const T&)> set) {
  return app.add_option_function<T>("--" + name, std::move(set), help)->envname(VariableOf(name));
}

/// Flags that the coordinator reads; given ones are passed on as they are.
void AddPassedOnFlags(CLI::App& app, std::vector<std::string>& passed) {
  const auto pass = [&](const std::string& name, const std::string& help) {
    AddSetter<std::string>(app, name, help, [&passed, name](const std::string& value) {
      passed.push_back("--" + name + "=" + value);
    });
  };
  pass("metrics-listen", "HOST:PORT of Prometheus' metrics, at /metrics (default: none)");
  pass("served-model-name", "Name for clients (default: from the path)");
  pass("dtype", "Weights: auto (as stored), float32, bfloat16");
  pass("kv-cache-dtype", "KV cache: auto, float32, bfloat16");
  pass("kv-cache-memory", "Bytes of KV cache a rank; 0: automatic");
  pass("max-model-len", "Longest prompt and answer together, in tokens");
  pass("max-num-seqs", "Sequences that run at once, in each data-parallel group");
  pass("max-num-batched-tokens", "Tokens in one step of a data-parallel group");
  pass("enable-prefix-caching",
       "Keep computed prompts' KV blocks for requests that begin the same way: true, false");
  pass("max-queued-requests", "Requests that may wait");
  pass("max-queued-tokens", "Prompt tokens that may wait");
  pass("attach-timeout", "Seconds from the first rank to the last");
  pass("step-timeout", "Seconds until a silent replica counts as lost");
  pass("heartbeat-timeout",
       "Seconds of silence after which a rank is lost; 0: 0.8 on this host, 4 on others");
}

}  // namespace

std::string VariableOf(const std::string& flag) {
  std::string variable = "SHARDLINE_" + flag;
  for (char& c : variable) c = c == '-' ? '_' : static_cast<char>(std::toupper(c));
  return variable;
}

CLI::Option* AddFlag(CLI::App& app, const std::string& name, bool& value, const std::string& help) {
  return app.add_flag("--" + name, value, help)->envname(VariableOf(name));
}

void AddClientFlags(CLI::App& app, ClientOptions& client) {
  AddOption(app, "address", client.address, "The coordinator's HOST:PORT");
  AddOption(app, "timeout", client.timeout, "Seconds that a request may take; 0: no limit")
      ->check(CLI::Range(0.0, 1e6));
}

void AddSamplingFlags(CLI::App& app, v1::SamplingParams& sampling) {
  auto* const s = &sampling;
  AddSetter<uint32_t>(app, "max-tokens", "Tokens to generate at most",
                      [s](uint32_t v) { s->set_max_tokens(v); });
  AddSetter<float>(app, "temperature", "0 is greedy (default: the model's, else 1)",
                   [s](float v) { s->set_temperature(v); });
  AddSetter<float>(app, "top-p", "Nucleus: smallest set of likeliest tokens with this probability",
                   [s](float v) { s->set_top_p(v); });
  AddSetter<uint32_t>(app, "top-k", "Only the likeliest K tokens; 0: all",
                      [s](uint32_t v) { s->set_top_k(v); });
  AddSetter<float>(app, "min-p", "Only tokens with this share of the likeliest one's probability",
                   [s](float v) { s->set_min_p(v); });
  AddSetter<uint64_t>(app, "seed", "Same request and seed, same tokens",
                      [s](uint64_t v) { s->set_seed(v); });
  AddSetter<std::vector<std::string>>(app, "stop",
                                      "End before this text; may be given several times",
                                      [s](const std::vector<std::string>& stops) {
                                        for (const std::string& stop : stops) s->add_stop(stop);
                                      })
      ->allow_extra_args(false);
  app.add_flag_function(
         "--ignore-eos", [s](int64_t count) { s->set_ignore_eos(count > 0); },
         "Go on past the end-of-sequence token")
      ->envname(VariableOf("ignore-eos"));
}

void AddUpFlags(CLI::App& app, UpOptions& up) {
  app.add_option("MODEL", up.model,
                 "A .gguf file, or a Hugging Face directory with config.json and safetensors")
      ->required()
      ->envname(VariableOf("model"));
  const CLI::Range size(1, 4096);
  AddOption(app, "replicas", up.replicas, "Copies of the model, each with ranks of its own")
      ->check(CLI::Range(1, 256));
  AddOption(app, "tensor-parallel-size", up.tensor_parallel_size, "Ranks that share each layer")
      ->check(size);
  AddOption(app, "pipeline-parallel-size", up.pipeline_parallel_size,
            "Stages that the layers are split in")
      ->check(size);
  AddOption(app, "data-parallel-size", up.data_parallel_size,
            "Groups of a stage that each run sequences of their own; needs "
            "--enable-expert-parallel")
      ->check(size);
  AddFlag(app, "enable-expert-parallel", up.enable_expert_parallel,
          "Mixture of experts: whole experts, placed over a stage's ranks");
  AddOption(app, "listen", up.listen, "HOST:PORT for clients; port 0: a free one");
  AddOption(app, "threads", up.threads, "Compute threads a rank; 0: the CPUs shared out")
      ->check(CLI::Range(0, 1024));
  AddOption(app, "start-timeout", up.start_timeout, "Seconds until it must serve")
      ->check(CLI::Range(1, 86400));
  AddOption(app, "drain-timeout", up.drain_timeout,
            "Seconds that running requests get when it is stopped")
      ->check(CLI::Range(1, 86400));
  AddOption(app, "log-level", up.log_level, "Of the log files: trace, debug, info, warn, error")
      ->check(CLI::IsMember({"trace", "debug", "info", "warn", "error"}));
  AddOption(app, "log-dir", up.log_dir,
            "Where logs are kept (default: a temporary directory, kept when something fails)");
  AddPassedOnFlags(app, up.coordinator_flags);
}

}  // namespace shardline::cli
