#include "cli/flags.h"

#include <cctype>
#include <cstdint>
#include <cstdlib>
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
  pass("expert-placement",
       "Where experts go: a file as `shardline status --experts --save-placement` makes");
  pass("served-model-name", "Name for clients (default: from the path)");
  pass("dtype", "Weights: auto (as stored), float32, bfloat16");
  pass("compute-dtype", "Products: float32, or auto (as fast as the device can)");
  pass("quantization", "Float weights when loaded: none, int8, int4");
  pass("kv-cache-dtype", "KV cache: auto, float32, bfloat16, int8");
  pass("kv-cache-memory", "Bytes of KV cache a rank; 0: automatic");
  pass("max-model-len", "Longest prompt and answer together, in tokens");
  pass("max-num-seqs", "Sequences that run at once, in each data-parallel group");
  pass("max-num-batched-tokens", "Tokens in one step of a data-parallel group");
  pass("enable-prefix-caching",
       "Keep computed prompts' KV blocks for requests that begin the same way: true, false");
  pass("max-queued-requests", "Requests that may wait");
  pass("max-queued-tokens", "Prompt tokens that may wait");
  pass("server-certificate", "PEM file: the certificate to serve over TLS with, and its chain");
  pass("server-key", "PEM file: the certificate's private key");
  pass("client-ca", "PEM file: clients and ranks must show a certificate of this authority");
  pass("api-token-file", "Tokens of clients, one a line (with the two files below)");
  pass("max-request-bytes", "Bytes of any message");
  pass("stalled-reader-timeout", "Seconds that a client may take nothing of its answer");
  pass("journal-sync", "true: they outlive a loss of power too");
  pass("journal-keep", "Seconds that the journal's requests await their readers after a restart");
  pass("journal-segment-bytes", "Size from which the journal is rewritten");
  pass("attach-timeout", "Seconds from the first rank to the last");
  pass("step-timeout", "Seconds until a silent replica counts as lost");
  pass("heartbeat-timeout",
       "Seconds of silence after which a rank is lost; 0: 4, or 0.7 when seen to be stopped");
}

void AddTlsFlags(CLI::App& app, security::ClientTls& tls) {
  AddOption(app, "tls-ca", tls.ca, "PEM file: who signs the server's certificate; turns TLS on");
  AddOption(app, "tls-certificate", tls.certificate, "PEM file: the certificate to show");
  AddOption(app, "tls-key", tls.key, "PEM file: its private key");
  AddOption(app, "tls-server-name", tls.server_name,
            "Name in the server's certificate (default: the address's host)");
}

/// "TOKEN=BIAS" into the map; false when it is not that.
bool AddBias(const std::string& text, v1::SamplingParams& sampling) {
  uint32_t token = 0;
  float bias = 0;
  const size_t equals = text.find('=');
  if (equals == std::string::npos || !CLI::detail::lexical_cast(text.substr(0, equals), token) ||
      !CLI::detail::lexical_cast(text.substr(equals + 1), bias)) {
    return false;
  }
  (*sampling.mutable_logit_bias())[token] = bias;
  return true;
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
  AddOption(app, "reattach-timeout", client.reattach_timeout,
            "Seconds to try to read a stream on when the server is lost; generate and chat")
      ->check(CLI::Range(0.0, 1e6));
  AddTlsFlags(app, client.security.tls);
  AddOption(
      app, "token-file", client.security.token_file,
      "File whose first line is the token to send; SHARDLINE_TOKEN may hold the token itself");
  if (const char* token = std::getenv("SHARDLINE_TOKEN")) client.security.token = token;
}

void AddRequestFlags(CLI::App& app, v1::GenerateRequest& request) {
  auto* const r = &request;
  AddSetter<uint32_t>(app, "n", "Answers to generate, with --json",
                      [r](uint32_t v) { r->mutable_sampling()->set_n(v); });
  AddSetter<uint32_t>(app, "logprobs",
                      "With --json: log-probabilities of each token and the K likeliest",
                      [r](uint32_t v) { r->mutable_sampling()->set_logprobs(v); });
  AddSetter<uint32_t>(app, "prompt-logprobs", "With --json: the same for the prompt's tokens",
                      [r](uint32_t v) { r->mutable_sampling()->set_prompt_logprobs(v); });
  AddSetter<std::string>(app, "request-id",
                         "Names the request: the same command attaches to it while it runs",
                         [r](const std::string& v) { r->set_request_id(v); });
  AddSetter<uint32_t>(app, "next-index", "Leave out the answer's first K tokens",
                      [r](uint32_t v) { r->add_next_index(v); });
  AddSetter<uint32_t>(app, "linger-seconds",
                      "Seconds that the request goes on without a reader, and its answer is kept",
                      [r](uint32_t v) { r->set_linger_seconds(v); });
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
  AddSetter<float>(app, "repetition-penalty", "Divides logits of tokens that are there already",
                   [s](float v) { s->set_repetition_penalty(v); });
  AddSetter<float>(app, "presence-penalty", "Taken off logits of tokens in the answer, once",
                   [s](float v) { s->set_presence_penalty(v); });
  AddSetter<float>(app, "frequency-penalty", "The same, as often as the token is there",
                   [s](float v) { s->set_frequency_penalty(v); });
  AddSetter<uint32_t>(app, "min-tokens", "Nothing ends the answer within so many tokens",
                      [s](uint32_t v) { s->set_min_tokens(v); });
  AddSetter<std::vector<std::string>>(
      app, "logit-bias", "TOKEN=BIAS, added to the token's logit; several times",
      [s](const std::vector<std::string>& biases) {
        for (const std::string& bias : biases) {
          if (AddBias(bias, *s)) continue;
          throw CLI::ValidationError("--logit-bias", "\"" + bias +
                                                         "\" is not TOKEN=BIAS, as in "
                                                         "198=-5");
        }
      })
      ->allow_extra_args(false);
  AddSetter<std::vector<std::string>>(app, "bad-word", "Never generate this text; several times",
                                      [s](const std::vector<std::string>& words) {
                                        for (const std::string& word : words)
                                          s->add_bad_words(word);
                                      })
      ->allow_extra_args(false);
  AddSetter<std::vector<uint32_t>>(app, "stop-token-id", "End at this token; several times",
                                   [s](const std::vector<uint32_t>& ids) {
                                     for (const uint32_t id : ids) s->add_stop_token_ids(id);
                                   })
      ->allow_extra_args(false);
  app.add_flag_function(
         "--include-stop", [s](int64_t count) { s->set_include_stop_str_in_output(count > 0); },
         "What stops the answer is part of its text")
      ->envname(VariableOf("include-stop"));
  app.add_flag_function(
         "--ignore-eos", [s](int64_t count) { s->set_ignore_eos(count > 0); },
         "Go on past the end-of-sequence token")
      ->envname(VariableOf("ignore-eos"));
}

void AddBenchFlags(CLI::App& app, BenchOptions& bench) {
  LoadOptions& load = bench.load;
  const CLI::Range length(1, 1 << 24);
  const CLI::Range share(0.0, 1.0);
  AddOption(app, "requests", load.requests, "Requests to send")->check(CLI::Range(1, 10'000'000));
  AddOption(app, "rate", load.rate,
            "Requests a second, arriving by a Poisson process; 0: as --concurrency allows")
      ->check(CLI::Range(0.0, 1e6));
  AddOption(app, "concurrency", bench.concurrency,
            "Requests that are open at once; 0: 32, or any number with --rate or --trace")
      ->check(CLI::Range(0, 100'000));
  AddOption(app, "prompt-tokens", load.prompt.mean, "Length of prompts")->check(length);
  AddOption(app, "prompt-spread", load.prompt.spread, "Prompts vary by this share of their length")
      ->check(share);
  AddOption(app, "answer-tokens", load.answer.mean, "Length of answers")->check(length);
  AddOption(app, "answer-spread", load.answer.spread, "Answers vary by this share of their length")
      ->check(share);
  AddOption(app, "shared-prefix", load.shared_prefix, "First tokens that all prompts share")
      ->check(CLI::Range(0, 1 << 24));
  AddOption(app, "trace", load.trace, "A JSONL file of requests instead of the flags above")
      ->check(CLI::ExistingFile);
  AddOption(app, "load-seed", load.seed, "Same seed and flags, same load");
  AddOption(app, "first-token-objective", bench.objective.first_token_ms,
            "Milliseconds until the first token of a good request")
      ->check(CLI::Range(0.0, 1e9));
  AddOption(app, "token-objective", bench.objective.token_ms,
            "Milliseconds a token of a good request, on average")
      ->check(CLI::Range(0.0, 1e9));
  AddFlag(app, "json", bench.json, "As one line of JSON");
  AddClientFlags(app, bench.client);
  bench.sampling.set_temperature(0);
  bench.sampling.set_ignore_eos(true);
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
  AddOption(app, "device", up.device,
            "cpu, cuda (one rank a GPU), or auto: GPUs if this build and this host have any")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}));
  AddOption(app, "threads", up.threads, "Compute threads a rank; 0: the CPUs shared out")
      ->check(CLI::Range(0, 1024));
  AddOption(app, "cpu-affinity", up.cpu_affinity,
            "share: each rank keeps to an equal part of the CPUs, node by node; none: where the "
            "system puts it")
      ->check(CLI::IsMember({"none", "share"}));
  AddOption(app, "start-timeout", up.start_timeout, "Seconds until it must serve")
      ->check(CLI::Range(1, 86400));
  AddOption(app, "drain-timeout", up.drain_timeout,
            "Seconds that running requests get when it is stopped")
      ->check(CLI::Range(1, 86400));
  AddOption(app, "log-level", up.log_level, "Of the log files: trace, debug, info, warn, error")
      ->check(CLI::IsMember({"trace", "debug", "info", "warn", "error"}));
  AddOption(app, "log-format", up.log_format, "Of the log files: text, or json (an object a line)")
      ->check(CLI::IsMember({"text", "json"}));
  AddOption(app, "log-dir", up.log_dir,
            "Where logs are kept (default: a temporary directory, kept when something fails)");
  AddTlsFlags(app, up.security.tls);
  AddOption(app, "admin-token-file", up.admin_token_file, "Tokens of administrators");
  AddOption(app, "worker-token-file", up.worker_token_file, "Tokens of ranks");
  AddPassedOnFlags(app, up.coordinator_flags);
  AddSetter<std::string>(app, "journal",
                         "Directory in which requests and their tokens outlive the coordinator, "
                         "which is then restarted",
                         [&up](const std::string& value) {
                           up.has_journal = !value.empty();
                           up.coordinator_flags.push_back("--journal=" + value);
                         });
}

}  // namespace shardline::cli
