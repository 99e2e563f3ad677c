#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "cli/bench.h"
#include "cli/client.h"
#include "cli/up.h"
#include "shardline/v1/generation.pb.h"

namespace shardline::cli {

/// Environment variable of a flag: "max-tokens" is SHARDLINE_MAX_TOKENS.
std::string VariableOf(const std::string& flag);

template <typename T>
CLI::Option* AddOption(CLI::App& app, const std::string& name, T& value, const std::string& help) {
  return app.add_option("--" + name, value, help)->envname(VariableOf(name))->capture_default_str();
}

CLI::Option* AddFlag(CLI::App& app, const std::string& name, bool& value, const std::string& help);

/// --address, --timeout, TLS and token.
void AddClientFlags(CLI::App& app, ClientOptions& client);

/// Sampling flags; each sets its field only when given, since the server has the defaults.
void AddSamplingFlags(CLI::App& app, v1::SamplingParams& sampling);

/// What `generate` takes beside them.
void AddRequestFlags(CLI::App& app, v1::GenerateRequest& request);

/// Everything that `bench` takes.
void AddBenchFlags(CLI::App& app, BenchOptions& bench);

/// Everything that `up` takes.
void AddUpFlags(CLI::App& app, UpOptions& up);

}  // namespace shardline::cli
