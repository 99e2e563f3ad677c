#pragma once

#include <functional>
#include <memory>
#include <string>

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

  /// Serves at HOST:PORT (port 0: a free one) until destroyed; returns the port. `status` is called
  /// on other threads. kInvalidArgument or kUnavailable naming --metrics-listen.
  virtual absl::StatusOr<int> Listen(const std::string& address,
                                     std::function<v1::GetStatusResponse()> status) = 0;
  /// Returns when `status` is called no more.
  virtual void StopListening() = 0;
};

}  // namespace shardline::coordinator
