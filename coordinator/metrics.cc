#include "coordinator/metrics.h"

#include <prometheus/collectable.h>
#include <prometheus/counter.h>
#include <prometheus/exposer.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "coordinator/cluster_families.h"

namespace shardline::coordinator {
namespace {

using prometheus::Histogram;

// Seconds.
const Histogram::BucketBoundaries kWaitBuckets = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1,
                                                  0.25,  0.5,    1,     2.5,  5,     10,   25,
                                                  50,    100,    250,   500,  1000};
const Histogram::BucketBoundaries kTokenBuckets = {0.001, 0.0025, 0.005, 0.01, 0.02, 0.03,
                                                   0.04,  0.05,   0.075, 0.1,  0.15, 0.2,
                                                   0.3,   0.5,    1,     2.5,  10};

/// What the cluster says, at each scrape.
class ClusterCollector : public prometheus::Collectable {
 public:
  ClusterCollector(std::string model, Metrics::Sources sources)
      : model_(std::move(model)), sources_(std::move(sources)) {}

  std::vector<prometheus::MetricFamily> Collect() const override {
    return ClusterFamilies(model_, sources_.status(), sources_.expert_load());
  }

 private:
  const std::string model_;
  const Metrics::Sources sources_;
};

class MetricsImpl final : public Metrics {
 public:
  explicit MetricsImpl(const std::string& model)
      : model_(model),
        queue_time_(Times("request_queue_time_seconds",
                          "From submission until a replica takes the request up", kWaitBuckets)),
        first_token_(Times("time_to_first_token_seconds", "From submission to the first token",
                           kWaitBuckets)),
        inter_token_(
            Times("inter_token_latency_seconds", "From one token to the next", kTokenBuckets)),
        whole_(Times("e2e_request_latency_seconds", "From submission to the last token",
                     kWaitBuckets)),
        prompt_tokens_(Count("prompt_tokens_total", "Tokens of accepted prompts", {})),
        generated_tokens_(Count("generation_tokens_total", "Tokens generated", {})),
        ends_{End("stop"), End("length"), End("abort")} {}

  void OnAccepted(int prompt_tokens) override { prompt_tokens_.Increment(prompt_tokens); }
  void OnAdmitted(Seconds queued) override { queue_time_.Observe(queued.count()); }
  void OnFirstToken(Seconds since_submitted) override {
    generated_tokens_.Increment();
    first_token_.Observe(since_submitted.count());
  }
  void OnNextToken(Seconds since_token_before) override {
    generated_tokens_.Increment();
    inter_token_.Observe(since_token_before.count());
  }
  void OnEnd(RequestEnd end, Seconds since_submitted) override {
    ends_[static_cast<int>(end)]->Increment();
    if (end != RequestEnd::kAbort) whole_.Observe(since_submitted.count());
  }

  absl::StatusOr<int> Listen(const std::string& address, Sources sources) override {
    const size_t colon = address.rfind(':');
    if (colon == std::string::npos || colon == 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("--metrics-listen is \"", address, "\"; it must be HOST:PORT"));
    }
    collector_ = std::make_shared<ClusterCollector>(model_, std::move(sources));
    try {
      exposer_ = std::make_unique<prometheus::Exposer>(address);
    } catch (const std::exception&) {  // the library's way; it does not say why
      return absl::UnavailableError(
          absl::StrCat("cannot listen on ", address,
                       " (--metrics-listen): the port is taken or the address is not this host's"));
    }
    exposer_->RegisterCollectable(registry_);
    exposer_->RegisterCollectable(collector_);
    return exposer_->GetListeningPorts().front();
  }

  void StopListening() override { exposer_.reset(); }

 private:
  Histogram& Times(const std::string& name, const std::string& help,
                   const Histogram::BucketBoundaries& buckets) {
    return prometheus::BuildHistogram()
        .Name("shardline_" + name)
        .Help(help)
        .Register(*registry_)
        .Add({{"model_name", model_}}, buckets);
  }
  prometheus::Counter& Count(const std::string& name, const std::string& help,
                             std::map<std::string, std::string> labels) {
    labels.emplace("model_name", model_);
    return prometheus::BuildCounter()
        .Name("shardline_" + name)
        .Help(help)
        .Register(*registry_)
        .Add(labels);
  }
  prometheus::Counter* End(const char* reason) {
    return &Count("request_success_total", "Requests that ended, by why",
                  {{"finished_reason", reason}});
  }

  const std::string model_;
  const std::shared_ptr<prometheus::Registry> registry_ =
      std::make_shared<prometheus::Registry>(prometheus::Registry::InsertBehavior::Merge);
  // In the registry.
  Histogram& queue_time_;
  Histogram& first_token_;
  Histogram& inter_token_;
  Histogram& whole_;
  prometheus::Counter& prompt_tokens_;
  prometheus::Counter& generated_tokens_;
  prometheus::Counter* const ends_[3];  // by RequestEnd

  std::shared_ptr<ClusterCollector> collector_;
  std::unique_ptr<prometheus::Exposer> exposer_;  // last: its threads use the others
};

}  // namespace

std::unique_ptr<Metrics> Metrics::Create(const std::string& model) {
  return std::make_unique<MetricsImpl>(model);
}

}  // namespace shardline::coordinator
