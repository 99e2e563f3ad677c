#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "coordinator/request_observer.h"
#include "shardline/v1/admin.pb.h"

namespace shardline::coordinator {

/// The coordinator's numbers in Prometheus' text format, over HTTP at /metrics. Counters and times
/// of requests are kept here; all else is read from the cluster's status at each scrape. Every
/// metric carries the label model_name. docs/metrics.md lists them. Thread-safe.
class Metrics : public RequestObserver {
 public:
  /// `model` is the label's value.
  static std::unique_ptr<Metrics> Create(const std::string& model);

  /// What is read at each scrape, on other threads.
  struct Sources {
    std::function<v1::GetStatusResponse()> status;
    /// Of each replica that serves; nothing without a mixture of experts.
    std::function<std::vector<v1::GetExpertLoadResponse>()> expert_load;
  };
  /// Serves at HOST:PORT (port 0: a free one) until destroyed; returns the port. kInvalidArgument
  /// or kUnavailable naming --metrics-listen.
  virtual absl::StatusOr<int> Listen(const std::string& address, Sources sources) = 0;
  /// Returns when the sources are read no more.
  virtual void StopListening() = 0;
};

}  // namespace shardline::coordinator
