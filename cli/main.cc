// shardline: the command that people use; `shardline --help` explains it.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <iostream>
#include <iterator>

#include "cli/batch.h"
#include "cli/bench.h"
#include "cli/chat.h"
#include "cli/drain.h"
#include "cli/exit_code.h"
#include "cli/flags.h"
#include "cli/generate.h"
#include "cli/health.h"
#include "cli/interrupt.h"
#include "cli/status.h"
#include "cli/up.h"

namespace {

using namespace shardline::cli;  // NOLINT: this file is the command's surface

constexpr char kFooter[] = R"(`shardline COMMAND --help` explains a command.
Every flag is also an environment variable: --max-tokens is SHARDLINE_MAX_TOKENS.

Exit codes:
  0  ok
  1  internal or unexpected
  2  bad flag or request; no such model
  3  unavailable: nothing answers at the address, or it does not serve
  4  resource exhausted: the queue is full
  5  deadline passed
  6  cancelled: interrupted, or nobody reads the output
  7  the cluster did not start, or could not be kept running
  8  batch: every line is answered, some with an error

Examples:
  shardline up model.gguf --tensor-parallel-size 2
  shardline generate --chat "What is the capital of France?"
  shardline chat
  shardline status)";

constexpr char kUpFooter[] = R"(Runs in the foreground. Prints one line on stdout when it serves:
  ready address=HOST:PORT model=NAME ...
Ctrl-C or SIGTERM lets running requests finish, then stops everything; a second one stops at once.
Ranks that die or hang are started again; what they ran goes on, on another replica if there is one.

Examples:
  shardline up model.gguf
  shardline up model.gguf --tensor-parallel-size 2 --listen 127.0.0.1:0
  shardline up model.gguf --replicas 2 --tensor-parallel-size 2
  shardline up models/llama --pipeline-parallel-size 2 --max-model-len 4096 --log-dir logs)";

constexpr char kGenerateFooter[] = R"(Without --chat the model goes on from the text as it is.
Without PROMPT, or with -, the prompt is read from stdin, less one newline at its end.

Examples:
  shardline generate "Once upon a time" --max-tokens 50
  shardline generate --chat --temperature 0 --stats "Name three rivers."
  shardline generate --json --seed 7 --stop END < prompt.txt)";

constexpr char kBatchFooter[] =
    R"(A line of INPUT is one request, a JSON object:
  {"id": "a", "prompt": "Once upon a time", "max_tokens": 50, "temperature": 0}
  {"id": "b", "messages": [{"role": "user", "content": "Name three rivers."}]}
or OpenAI's batch line, for /v1/chat/completions or /v1/completions:
  {"custom_id": "c", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": ...}}
Each gets exactly one line of OUTPUT, in the order in which they finish. A batch that was stopped or
killed goes on where it was when the same command is given again. Flags hold for lines that do not
say otherwise.

Examples:
  shardline batch --input prompts.jsonl --output results.jsonl
  shardline batch --input prompts.jsonl --output results.jsonl --max-tokens 200 --temperature 0)";

constexpr char kBenchFooter[] =
    R"(Prompts are random tokens, answers have the length that is asked for. A trace has a JSON object a
line, in the form of published ones:
  {"timestamp": 1500, "input_length": 700, "output_length": 40, "hash_ids": [3, 9]}
with milliseconds, tokens and, if there, ids of the prompt's blocks of 512 tokens.

Examples:
  shardline bench --concurrency 32 --requests 200
  shardline bench --rate 4 --prompt-tokens 500 --prompt-spread 0.8 --shared-prefix 256 --json
  shardline bench --trace conversation.jsonl --first-token-objective 500 --token-objective 50)";

constexpr char kChatFooter[] =
    R"(/reset forgets the conversation, /exit or Ctrl-D ends it, Ctrl-C stops an answer.
From a pipe, each line is a message.

Examples:
  shardline chat --system "You answer in one sentence."
  printf 'My name is Ada.\nWhat is my name?\n' | shardline chat --temperature 0)";

/// The argument, or stdin for "-" or, unless that is a terminal, for none. False when neither.
bool ReadText(const CLI::Option& argument, std::string& text) {
  const bool given = argument.count() > 0;
  if (given && text != "-") return true;
  if (!given && isatty(STDIN_FILENO) != 0) return false;
  text.assign(std::istreambuf_iterator<char>(std::cin), {});
  if (text.ends_with('\n')) text.pop_back();
  return !text.empty();
}

ExitCode NoText() { return ReportUsage("there is no text; give it as an argument, or pipe it in"); }

struct Commands {
  UpOptions up;
  GenerateOptions generate, chat;
  BatchOptions batch;
  BenchOptions bench;
  StatusOptions status;
  ClientOptions health, drain, undrain, models, tokenize;
  std::string service;  // health
  bool raw = false;
  bool wait = false;
  std::string replica;
  std::string text;
};

void AddGenerate(CLI::App& app, Commands& commands) {
  CLI::App& generate = *app.add_subcommand("generate", "Stream one answer to stdout");
  generate.footer(kGenerateFooter);
  generate.add_option("PROMPT", commands.generate.prompt, "The text to go on from; - reads stdin");
  GenerateOptions& options = commands.generate;
  CLI::Option* chat = AddFlag(generate, "chat", options.chat,
                              "The prompt is a user's message: put it in the chat template");
  AddFlag(generate, "raw", commands.raw, "The prompt is text to go on from (the default)")
      ->excludes(chat);
  AddOption(generate, "system", options.system, "System message, with --chat");
  AddFlag(generate, "json", options.json, "One JSON object a message instead of text");
  AddFlag(generate, "stats", options.stats, "Print tokens and speed to stderr");
  AddClientFlags(generate, options.client);
  AddSamplingFlags(generate, options.sampling);
  AddRequestFlags(generate, options.request);
}

void AddBatch(CLI::App& app, BatchOptions& options) {
  CLI::App& batch = *app.add_subcommand("batch", "Answer a file of requests, resumably");
  batch.footer(kBatchFooter);
  AddOption(batch, "input", options.input, "A file of requests, one JSON object a line")
      ->required()
      ->check(CLI::ExistingFile);
  AddOption(batch, "output", options.output, "Where the answers go, a line each")->required();
  AddOption(batch, "concurrency", options.concurrency, "Requests that are open at once")
      ->check(CLI::Range(1, 100'000));
  AddOption(batch, "retry-timeout", options.retry_timeout,
            "Seconds without any answer until a busy or absent server is given up")
      ->check(CLI::Range(0.0, 1e9));
  AddOption(batch, "batch-seed", options.defaults.seed,
            "Lines without a seed get one from this and their id");
  AddClientFlags(batch, options.client);
  AddSamplingFlags(batch, options.defaults.sampling);
}

void AddCommands(CLI::App& app, Commands& commands) {
  CLI::App& up = *app.add_subcommand(
      "up", "Start a cluster on this machine: a coordinator, and one MPI rank a device");
  up.footer(kUpFooter);
  AddUpFlags(up, commands.up);

  AddGenerate(app, commands);
  AddBatch(app, commands.batch);

  CLI::App& bench = *app.add_subcommand("bench", "Measure a server under load");
  bench.footer(kBenchFooter);
  AddBenchFlags(bench, commands.bench);

  CLI::App& chat = *app.add_subcommand("chat", "Talk to the model");
  chat.footer(kChatFooter);
  AddOption(chat, "system", commands.chat.system, "System message");
  AddFlag(chat, "stats", commands.chat.stats, "Print tokens and speed to stderr");
  AddClientFlags(chat, commands.chat.client);
  AddSamplingFlags(chat, commands.chat.sampling);

  CLI::App& status = *app.add_subcommand("status", "Show the cluster; exit code 0 if it serves");
  status.footer(
      "Examples:\n  shardline status --watch\n"
      "  shardline status --experts --save-placement experts.txt --spare-experts 2\n"
      "  until shardline status >/dev/null 2>&1; do sleep 1; done");
  AddFlag(status, "json", commands.status.json, "As one line of JSON");
  CLI::Option* watch =
      AddFlag(status, "watch", commands.status.watch, "Again each second, until Ctrl-C");
  CLI::Option* experts = AddFlag(status, "experts", commands.status.experts,
                                 "How a mixture's experts were used, by layer and rank");
  AddOption(status, "replica", commands.status.replica,
            "Whose experts (default: the first that serves)")
      ->needs(experts);
  AddOption(status, "save-placement", commands.status.save_placement,
            "Write a placement of the experts that follows their load, for --expert-placement")
      ->needs(experts)
      ->excludes(watch);
  AddOption(status, "spare-experts", commands.status.spare_experts,
            "Copies of hot experts in that placement, a layer")
      ->needs(experts);
  AddClientFlags(status, commands.status.client);

  CLI::App& health = *app.add_subcommand("health", "Ask the health service; for probes");
  health.footer(
      "Examples:\n  shardline health                     # exit code 0 if requests are answered\n"
      "  shardline health --service liveness  # if the coordinator works, with or without "
      "replicas");
  AddOption(health, "service", commands.service, "\"\": some replica answers; liveness");
  AddClientFlags(health, commands.health);

  CLI::App& drain = *app.add_subcommand("drain", "Let a replica finish and take nothing new");
  drain.footer("Example:\n  shardline drain 1 --wait");
  drain.add_option("REPLICA", commands.replica, "Its name, as `shardline status` shows it")
      ->required();
  AddFlag(drain, "wait", commands.wait, "Return when it runs nothing any more");
  AddClientFlags(drain, commands.drain);

  CLI::App& undrain = *app.add_subcommand("undrain", "Let a replica take requests again");
  undrain.footer("Example:\n  shardline undrain 1");
  undrain.add_option("REPLICA", commands.replica, "Its name, as `shardline status` shows it")
      ->required();
  AddClientFlags(undrain, commands.undrain);

  CLI::App& models = *app.add_subcommand("models", "List the served models");
  models.footer("Example:\n  shardline models --address 127.0.0.1:50051");
  AddClientFlags(models, commands.models);

  CLI::App& tokenize = *app.add_subcommand("tokenize", "Show the token ids of a text");
  tokenize.footer("Example:\n  shardline tokenize \"Hello, world\"");
  tokenize.add_option("TEXT", commands.text, "The text; - reads stdin");
  AddClientFlags(tokenize, commands.tokenize);
}

ExitCode Run(const CLI::App& app, Commands& commands) {
  if (app.got_subcommand("up")) {
    BlockStopSignals();
    return RunUp(commands.up);
  }
  if (app.got_subcommand("generate")) {
    if (!commands.generate.system.empty() && !commands.generate.chat) {
      return ReportUsage("--system needs --chat");
    }
    if (!ReadText(*app.get_subcommand("generate")->get_option("PROMPT"), commands.generate.prompt))
      return NoText();
    BlockStopSignals();
    return RunGenerate(commands.generate);
  }
  if (app.got_subcommand("batch")) {
    BlockStopSignals();
    return RunBatch(commands.batch);
  }
  if (app.got_subcommand("bench")) {
    BlockStopSignals();
    return RunBench(commands.bench);
  }
  if (app.got_subcommand("chat")) {
    BlockStopSignals();
    return RunChat(commands.chat);
  }
  if (app.got_subcommand("health")) return RunHealth(commands.health, commands.service);
  if (app.got_subcommand("status")) {
    return RunStatus(commands.status);
  }
  if (app.got_subcommand("drain")) {
    return RunDrain(commands.drain, commands.replica, commands.wait);
  }
  if (app.got_subcommand("undrain")) return RunUndrain(commands.undrain, commands.replica);
  if (app.got_subcommand("models")) return RunModels(commands.models);
  if (!ReadText(*app.get_subcommand("tokenize")->get_option("TEXT"), commands.text))
    return NoText();
  return RunTokenize(commands.tokenize, commands.text);
}

}  // namespace

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);
  CLI::App app("Shardline: serves language models that no single device can hold.");
  app.set_version_flag("--version", "shardline " SHARDLINE_VERSION);
  app.require_subcommand(0, 1);  // none is handled below, after unknown words have been named
  app.footer(kFooter);
  Commands commands;
  AddCommands(app, commands);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kOk : kUsage;
  }
  if (app.get_subcommands().empty()) {
    std::cerr << app.help();
    return kUsage;
  }
  return Run(app, commands);
}
