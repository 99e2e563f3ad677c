#include "coordinator/cluster_families.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"

namespace shardline::coordinator {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

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

double HottestShare(const google::protobuf::RepeatedField<uint64_t>& choices) {
  const double all = std::accumulate(choices.begin(), choices.end(), 0.0);
  if (all <= 0) return 0;
  return static_cast<double>(*std::max_element(choices.begin(), choices.end())) / all;
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

/// Without a mixture there are no such families.
void AddExpertFamilies(const std::vector<v1::GetExpertLoadResponse>& loads, Families& families) {
  if (loads.empty()) return;
  families.Begin(
      "expert_rank_tokens_total", MetricType::Counter,
      "How often a rank of a layer's stage computed an expert that a token chose, or its "
      "part of one");
  for (const v1::GetExpertLoadResponse& load : loads) {
    for (const v1::LayerExpertLoad& layer : load.layers()) {
      for (int rank = 0; rank < layer.rank_tokens_size(); ++rank) {
        families.Add(static_cast<double>(layer.rank_tokens(rank)),
                     {{"replica", load.replica()},
                      {"layer", absl::StrCat(layer.layer())},
                      {"rank", absl::StrCat(rank)}});
      }
    }
  }
  families.Begin("expert_hottest_share", MetricType::Gauge,
                 "Share of a layer's choices that fell on its most chosen expert");
  for (const v1::GetExpertLoadResponse& load : loads) {
    for (const v1::LayerExpertLoad& layer : load.layers()) {
      families.Add(HottestShare(layer.expert_tokens()),
                   {{"replica", load.replica()}, {"layer", absl::StrCat(layer.layer())}});
    }
  }
  families.Begin("expert_bytes_sent_total", MetricType::Counter,
                 "Bytes that a rank sent to others so that tokens meet their experts");
  for (const v1::GetExpertLoadResponse& load : loads) {
    for (const v1::RankTraffic& rank : load.ranks()) {
      families.Add(static_cast<double>(rank.bytes_sent()),
                   {{"replica", load.replica()}, {"rank", absl::StrCat(rank.rank())}});
    }
  }
}

}  // namespace

std::vector<MetricFamily> ClusterFamilies(const std::string& model,
                                          const v1::GetStatusResponse& status,
                                          const std::vector<v1::GetExpertLoadResponse>& loads) {
  Families families(model);
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
  AddExpertFamilies(loads, families);
  return families.Take();
}

}  // namespace shardline::coordinator
