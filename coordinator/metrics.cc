#include "coordinator/metrics.h"

#include <prometheus/collectable.h>
#include <prometheus/counter.h>
#include <prometheus/exposer.h>
#include <prometheus/histogram.h>
#include <prometheus/metric_family.h>
#include <prometheus/registry.h>

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace shardline::coordinator {
namespace {

using prometheus::ClientMetric;
using prometheus::Histogram;
using prometheus::MetricFamily;
using prometheus::MetricType;

// Seconds.
const Histogram::BucketBoundaries kWaitBuckets = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1,
                                                  0.25,  0.5,    1,     2.5,  5,     10,   25,
                                                  50,    100,    250,   500,  1000};
const Histogram::BucketBoundaries kTokenBuckets = {0.001, 0.0025, 0.005, 0.01, 0.02, 0.03,
                                                   0.04,  0.05,   0.075, 0.1,  0.15, 0.2,
                                                   0.3,   0.5,    1,     2.5,  10};

/// Families of one scrape.
class Families {
 public:
  explicit Families(std::string model) : model_({"model_name", std::move(model)}) {}

  /// Begins a family; Add adds to it.
  void Begin(const char* name, MetricType type, const char* help) {
    MetricFamily& family = families_.emplace_back();
    family.name = absl::StrCat("shardline_", name);
    family.help = help;
    family.type = type;
  }
  void Add(double value, std::vector<ClientMetric::Label> labels = {}) {
    ClientMetric metric;
    metric.label = std::move(labels);
    metric.label.push_back(model_);
    metric.gauge.value = value;
    metric.counter.value = value;
    families_.back().metric.push_back(std::move(metric));
  }
  void Gauge(const char* name, const char* help, double value) {
    Begin(name, MetricType::Gauge, help);
    Add(value);
  }
  void Counter(const char* name, const char* help, double value) {
    Begin(name, MetricType::Counter, help);
    Add(value);
  }
  std::vector<MetricFamily> Take() { return std::move(families_); }

 private:
  const ClientMetric::Label model_;
  std::vector<MetricFamily> families_;
};

constexpr std::pair<v1::ReplicaState, const char*> kStates[] = {
    {v1::REPLICA_STATE_WAITING, "waiting"},
    {v1::REPLICA_STATE_LOADING, "loading"},
    {v1::REPLICA_STATE_WARMING, "warming"},
    {v1::REPLICA_STATE_SERVING, "serving"}};

/// One family over all replicas, from one number of each.
template <typename Number>
void AddReplicas(const v1::GetStatusResponse& status, const char* name, MetricType type,
                 const char* help, const Number& number, Families& families) {
  families.Begin(name, type, help);
  for (const v1::ReplicaStatus& replica : status.replicas()) {
    families.Add(number(replica), {{"replica", replica.name()}});
  }
}

void AddReplicaFamilies(const v1::GetStatusResponse& status, Families& families) {
  families.Begin("replica_state", MetricType::Gauge, "1 for the state that the replica is in");
  for (const v1::ReplicaStatus& replica : status.replicas()) {
    for (const auto& [state, name] : kStates) {
      families.Add(replica.state() == state ? 1 : 0,
                   {{"replica", replica.name()}, {"state", name}});
    }
  }
  const auto add = [&](const char* name, MetricType type, const char* help, const auto& number) {
    AddReplicas(status, name, type, help, number, families);
  };
  add("replica_draining", MetricType::Gauge, "1 while the replica takes no new requests",
      [](const v1::ReplicaStatus& replica) { return replica.draining(); });
  add("replica_epoch", MetricType::Gauge, "The replica's life: a new one begins when it is lost",
      [](const v1::ReplicaStatus& replica) { return static_cast<double>(replica.epoch()); });
  add("kv_cache_usage_perc", MetricType::Gauge, "Share of KV blocks that sequences hold; 1 is all",
      [](const v1::ReplicaStatus& replica) {
        return replica.kv_blocks_total() == 0
                   ? 0.0
                   : static_cast<double>(replica.kv_blocks_used()) / replica.kv_blocks_total();
      });
  add("prefix_cache_queries_total", MetricType::Counter, "Prompt tokens looked up",
      [](const v1::ReplicaStatus& replica) {
        return static_cast<double>(replica.prompt_tokens_computed() +
                                   replica.prompt_tokens_cached());
      });
  add("prefix_cache_hits_total", MetricType::Counter, "Prompt tokens found, and not computed",
      [](const v1::ReplicaStatus& replica) {
        return static_cast<double>(replica.prompt_tokens_cached());
      });
  add("replica_steps_total", MetricType::Counter, "Steps that the replica has answered",
      [](const v1::ReplicaStatus& replica) { return static_cast<double>(replica.steps()); });
  add("replica_active_seconds_total", MetricType::Counter,
      "Time in which the replica had steps to do",
      [](const v1::ReplicaStatus& replica) { return replica.active_seconds(); });
  families.Begin(
      "stage_busy_seconds_total", MetricType::Counter,
      "Time that a rank spent in steps, without waiting for other stages; what is missing "
      "to replica_active_seconds_total is its bubble");
  for (const v1::ReplicaStatus& replica : status.replicas()) {
    for (const v1::RankStatus& rank : replica.ranks()) {
      families.Add(rank.busy_seconds(), {{"replica", replica.name()},
                                         {"rank", absl::StrCat(rank.rank())},
                                         {"stage", absl::StrCat(rank.stage())}});
    }
  }
}

/// What the status says, at each scrape.
class StatusCollector : public prometheus::Collectable {
 public:
  StatusCollector(std::string model, std::function<v1::GetStatusResponse()> status)
      : model_(std::move(model)), status_(std::move(status)) {}

  std::vector<MetricFamily> Collect() const override {
    const v1::GetStatusResponse status = status_();
    Families families(model_);
    families.Gauge("serving", "1 when requests can be answered", status.serving());
    families.Gauge("num_requests_running", "Requests that replicas work on",
                   status.queue().running());
    families.Gauge("num_requests_waiting", "Requests in the queue", status.queue().waiting());
    families.Gauge("num_tokens_waiting", "Prompt tokens in the queue",
                   status.queue().waiting_tokens());
    families.Counter("requests_rejected_total", "Requests refused: a full queue, or no replica",
                     static_cast<double>(status.counters().requests_rejected()));
    families.Counter("requests_resumed_total",
                     "Times that a request went back to the queue: preempted, or its replica lost",
                     static_cast<double>(status.counters().requests_resumed()));
    AddReplicaFamilies(status, families);
    return families.Take();
  }

 private:
  const std::string model_;
  const std::function<v1::GetStatusResponse()> status_;
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

  absl::StatusOr<int> Listen(const std::string& address,
                             std::function<v1::GetStatusResponse()> status) override {
    const size_t colon = address.rfind(':');
    if (colon == std::string::npos || colon == 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("--metrics-listen is \"", address, "\"; it must be HOST:PORT"));
    }
    collector_ = std::make_shared<StatusCollector>(model_, std::move(status));
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

  std::shared_ptr<StatusCollector> collector_;
  std::unique_ptr<prometheus::Exposer> exposer_;  // last: its threads use the others
};

}  // namespace

std::unique_ptr<Metrics> Metrics::Create(const std::string& model) {
  return std::make_unique<MetricsImpl>(model);
}

}  // namespace shardline::coordinator
