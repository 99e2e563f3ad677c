// shardline: the command that people use; `shardline --help` explains it.
#include <unistd.h>

#include <cctype>
#include <csignal>
#include <iostream>
#include <iterator>
#include <memory>
#include <type_traits>

#include <CLI/CLI.hpp>

#include "cli/exit_code.h"
#include "cli/generate.h"
#include "cli/interrupt.h"
#include "cli/status.h"
#include "cli/up.h"

namespace {

using namespace shardline::cli;  // NOLINT: this file is the command's surface

constexpr char kFooter[] = R"(Every flag is also an environment variable: --max-tokens is SHARDLINE_MAX_TOKENS.

Exit codes: 0 ok, 1 internal, 2 bad flag or request, 3 nothing serves there, 4 queue full,
5 deadline passed, 6 cancelled, 7 the cluster did not start or could not be kept running.

Examples:
  shardline up model.gguf --tensor-parallel-size 2
  shardline generate --chat "What is the capital of France?"
  shardline status)";

std::string Variable(const std::string& flag) {
  std::string variable = "SHARDLINE_" + flag;
  for (char& c : variable) c = c == '-' ? '_' : static_cast<char>(std::toupper(c));
  return variable;
}

template <typename T>
CLI::Option* Option(CLI::App& app, const std::string& name, T& value, const std::string& help) {
  return app.add_option("--" + name, value, help)->envname(Variable(name))->capture_default_str();
}

CLI::Option* Flag(CLI::App& app, const std::string& name, bool& value, const std::string& help) {
  return app.add_flag("--" + name, value, help)->envname(Variable(name));
}

void AddClient(CLI::App& app, ClientOptions& client) {
  Option(app, "address", client.address, "The coordinator's HOST:PORT");
  Option(app, "timeout", client.timeout, "Seconds that the request may take; 0: no limit")
      ->check(CLI::Range(0.0, 1e6));
}

/// Sampling flags set a field only when given: the server has the defaults.
void AddSampling(CLI::App& app, shardline::v1::SamplingParams& sampling) {
  const auto number = [&app](const std::string& name, const std::string& help, auto set) {
    using T = std::remove_cvref_t<typename decltype(set)::argument_type>;
    app.add_option_function<T>("--" + name, set, help)->envname(Variable(name));
  };
  auto* const s = &sampling;
  number("max-tokens", "Tokens to generate at most",
         std::function<void(const uint32_t&)>([s](uint32_t v) { s->set_max_tokens(v); }));
  number("temperature", "0 is greedy (default: the model's, else 1)",
         std::function<void(const float&)>([s](float v) { s->set_temperature(v); }));
  number("top-p", "Nucleus: smallest set of likeliest tokens with this probability",
         std::function<void(const float&)>([s](float v) { s->set_top_p(v); }));
  number("top-k", "Only the likeliest K tokens; 0: all",
         std::function<void(const uint32_t&)>([s](uint32_t v) { s->set_top_k(v); }));
  number("min-p", "Only tokens with this share of the likeliest one's probability",
         std::function<void(const float&)>([s](float v) { s->set_min_p(v); }));
  number("seed", "Same request and seed, same tokens",
         std::function<void(const uint64_t&)>([s](uint64_t v) { s->set_seed(v); }));
  app.add_option_function<std::vector<std::string>>(
         "--stop",
         [s](const std::vector<std::string>& stops) {
           for (const std::string& stop : stops) s->add_stop(stop);
         },
         "End before this text; may be given several times")
      ->allow_extra_args(false)
      ->envname(Variable("stop"));
  app.add_flag_function(
         "--ignore-eos", [s](int64_t) { s->set_ignore_eos(true); },
         "Go on past the end-of-sequence token")
      ->envname(Variable("ignore-eos"));
}

/// Flags of `up` that the coordinator reads; given ones are passed on as they are.
void AddPassedOn(CLI::App& app, std::vector<std::string>& passed) {
  const auto pass = [&](const std::string& name, const std::string& help) {
    app.add_option_function<std::string>(
           "--" + name,
           [&passed, name](const std::string& value) {
             passed.push_back("--" + name + "=" + value);
           },
           help)
        ->envname(Variable(name));
  };
  pass("served-model-name", "Name for clients (default: from the path)");
  pass("dtype", "Weights: auto (as stored), float32, bfloat16");
  pass("kv-cache-dtype", "KV cache: auto, float32, bfloat16");
  pass("kv-cache-memory", "Bytes of KV cache a rank; 0: automatic");
  pass("max-model-len", "Longest prompt and answer together, in tokens");
  pass("max-num-seqs", "Sequences that run at once");
  pass("max-num-batched-tokens", "Tokens in one step");
  pass("max-queued-requests", "Requests that may wait");
  pass("max-queued-tokens", "Prompt tokens that may wait");
  pass("attach-timeout", "Seconds from the first rank to the last");
  pass("step-timeout", "Seconds until a silent replica counts as lost");
}

void ReadPromptFromStdin(std::string& prompt) {
  if (!prompt.empty() && prompt != "-") return;
  if (prompt.empty() && isatty(STDIN_FILENO) != 0) return;
  prompt.assign(std::istreambuf_iterator<char>(std::cin), {});
}

}  // namespace

int main(int argc, char** argv) {
  BlockStopSignals();
  std::signal(SIGPIPE, SIG_IGN);
  CLI::App app("Shardline: serves language models that no single device can hold.");
  app.set_version_flag("--version", "shardline " SHARDLINE_VERSION);
  app.require_subcommand(1);
  app.footer(kFooter);

  UpOptions up_options;
  CLI::App& up = *app.add_subcommand(
      "up", "Start a cluster on this machine: a coordinator and one MPI rank a device");
  up.footer("Runs in the foreground; Ctrl-C stops all of it. Prints one line when it serves:\n"
            "  ready address=HOST:PORT model=NAME ...\n\n"
            "Example: shardline up model.gguf --tensor-parallel-size 2 --listen 127.0.0.1:0");
  up.add_option("MODEL", up_options.model,
                "A .gguf file, or a Hugging Face directory with config.json and safetensors")
      ->required()
      ->envname("SHARDLINE_MODEL");
  Option(up, "tensor-parallel-size", up_options.tensor_parallel_size, "Ranks that share each layer")
      ->check(CLI::Range(1, 4096));
  Option(up, "pipeline-parallel-size", up_options.pipeline_parallel_size,
         "Stages that the layers are split in")
      ->check(CLI::Range(1, 4096));
  Option(up, "listen", up_options.listen, "HOST:PORT for clients; port 0: a free one");
  Option(up, "threads", up_options.threads, "Compute threads a rank; 0: the CPUs shared out")
      ->check(CLI::Range(0, 1024));
  Option(up, "start-timeout", up_options.start_timeout, "Seconds until it must serve")
      ->check(CLI::Range(1, 86400));
  Option(up, "drain-timeout", up_options.drain_timeout,
         "Seconds that running requests get when it is stopped")
      ->check(CLI::Range(1, 86400));
  Option(up, "log-dir", up_options.log_dir,
         "Where logs are kept (default: a temporary directory, kept when something fails)");
  AddPassedOn(up, up_options.coordinator_flags);

  GenerateOptions generate_options;
  CLI::App& generate = *app.add_subcommand("generate", "Stream one answer");
  generate.footer("The prompt may also come on stdin.\n\n"
                  "Example: shardline generate --chat --temperature 0 \"Name three rivers.\"");
  generate.add_option("PROMPT", generate_options.prompt, "The text to go on from; - reads stdin");
  Flag(generate, "chat", generate_options.chat, "The prompt is a user's message: use the template");
  Option(generate, "system", generate_options.system, "System message, with --chat");
  Flag(generate, "json", generate_options.json, "One JSON object a message instead of text");
  Flag(generate, "stats", generate_options.stats, "Print the speed to stderr");
  AddClient(generate, generate_options.client);
  AddSampling(generate, generate_options.sampling);

  GenerateOptions chat_options;
  CLI::App& chat = *app.add_subcommand("chat", "Talk to the model");
  Option(chat, "system", chat_options.system, "System message");
  Flag(chat, "stats", chat_options.stats, "Print the speed to stderr");
  AddClient(chat, chat_options.client);
  AddSampling(chat, chat_options.sampling);

  ClientOptions status_client;
  bool status_json = false;
  CLI::App& status = *app.add_subcommand("status", "Show the cluster; exit code 0 when it serves");
  Flag(status, "json", status_json, "As one JSON object");
  AddClient(status, status_client);

  ClientOptions models_client;
  CLI::App& models = *app.add_subcommand("models", "List the served models");
  AddClient(models, models_client);

  ClientOptions tokenize_client;
  std::string tokenize_text;
  CLI::App& tokenize = *app.add_subcommand("tokenize", "Show the token ids of a text");
  tokenize.add_option("TEXT", tokenize_text, "The text; - reads stdin");
  AddClient(tokenize, tokenize_client);

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kOk : kUsage;
  }
  if (up) return RunUp(up_options);
  if (generate) {
    ReadPromptFromStdin(generate_options.prompt);
    return RunGenerate(generate_options);
  }
  if (chat) return RunChat(chat_options);
  if (status) return RunStatus(status_client, status_json);
  if (models) return RunModels(models_client);
  ReadPromptFromStdin(tokenize_text);
  return RunTokenize(tokenize_client, tokenize_text);
}
