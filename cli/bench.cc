#include "cli/bench.h"

#include <cstdio>
#include <iostream>

#include "absl/strings/str_cat.h"
#include "cli/interrupt.h"
#include "cli/load_run.h"
#include "cli/status_line.h"

namespace shardline::cli {
namespace {

constexpr int kDefaultConcurrency = 32;
constexpr std::chrono::seconds kLinePause(5);

std::string ProgressText(const LoadProgress& progress, double seconds) {
  char text[160];
  std::snprintf(text, sizeof(text), "  %zu of %zu requests, %zu open, %.0f tokens/s",
                progress.ended, progress.total, progress.sent - progress.ended,
                seconds > 0 ? static_cast<double>(progress.tokens) / seconds : 0.0);
  return ProgressBar(progress.total == 0 ? 1.0
                                         : static_cast<double>(progress.ended) /
                                               static_cast<double>(progress.total)) +
         text;
}

}  // namespace

ExitCode RunBench(const BenchOptions& options) {
  const auto channel = Connect(options.client);
  if (!channel.ok()) return ReportUsage(std::string(channel.status().message()));
  const auto stub = v1::Generation::NewStub(*channel);
  grpc::ClientContext context;
  SetDeadline(options.client.timeout, context);
  v1::ListModelsResponse models;
  const grpc::Status listed = stub->ListModels(&context, {}, &models);
  if (!listed.ok()) return Report(listed, options.client.address);
  if (models.models().empty()) return ReportUsage("the server has no model");
  const absl::StatusOr<std::vector<LoadItem>> load =
      MakeLoad(options.load, models.models(0).vocabulary_size());
  if (!load.ok()) return ReportUsage(std::string(load.status().message()));
  for (const LoadItem& item : *load) {
    if (item.prompt.size() + item.max_tokens > models.models(0).max_model_len()) {
      return ReportUsage(absl::StrCat("a request of ", item.prompt.size(), " + ", item.max_tokens,
                                      " tokens is longer than the model's ",
                                      models.models(0).max_model_len()));
    }
  }

  LoadRunOptions run{options.concurrency, options.client.timeout, options.sampling};
  if (run.concurrency == 0 && options.load.rate == 0 && options.load.trace.empty()) {
    run.concurrency = kDefaultConcurrency;
  }
  StatusLine line(kLinePause);
  const auto begin = std::chrono::steady_clock::now();
  bool interrupted = false;
  const std::vector<RequestTimes> times =
      RunLoad(*stub, *load, run, [&](const LoadProgress& progress) {
        const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - begin;
        if (line.Due()) line.Show(ProgressText(progress, passed.count()));
        interrupted = TakeStopSignal(0) != 0;
        return !interrupted;
      });
  line.Clear();
  const BenchReport report = MakeReport(times, options.objective);
  std::cout << (options.json ? report.ToJson().dump() + "\n" : report.ToTable()) << std::flush;
  if (interrupted) return Report({grpc::StatusCode::CANCELLED, "interrupted"}, "");
  return report.failed == 0 ? kOk : kSomeFailed;
}

}  // namespace shardline::cli
