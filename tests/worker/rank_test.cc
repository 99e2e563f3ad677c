// One rank's life against a coordinator that has said all its words in advance, good or hostile.

#include "worker/rank.h"

#include <gtest/gtest.h>

#include <deque>
#include <functional>
#include <memory>
#include <ostream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "model/checkpoint.h"
#include "parallel/thread_communicator.h"
#include "tests/worker/tiny_llama.h"
#include "worker/plan_agreement.h"

namespace shardline::worker {
namespace {

using v1::CoordinatorMessage;
using v1::WorkerMessage;

/// What a rank said on one stream.
struct Said {
  std::vector<WorkerMessage> sent;
  bool closed = false;
};

class ScriptedClient final : public ControlClient {
 public:
  ScriptedClient(std::vector<CoordinatorMessage> script, Said& said)
      : script_(script.begin(), script.end()), said_(said) {}
  ~ScriptedClient() override {
    if (reader_.joinable()) reader_.join();
  }

  void Send(WorkerMessage message) override { said_.sent.push_back(std::move(message)); }
  void StartHeartbeat(std::function<v1::Heartbeat()> beat) override { beat(); }
  absl::StatusOr<CoordinatorMessage> Next() override {
    const absl::Status end = absl::UnavailableError("the script is over");
    // The rest of the script has come, and then the end, before a step of it is done.
    if (on_end_ && (script_.empty() || script_.front().has_step())) Read();
    if (script_.empty() && reader_.joinable()) {
      reader_.join();
      script_.insert(script_.end(), more_.begin(), more_.end());
    }
    if (script_.empty()) return end;
    CoordinatorMessage message = script_.front();
    script_.pop_front();
    return message;
  }
  absl::StatusOr<std::optional<CoordinatorMessage>> NextWithin(std::chrono::microseconds) override {
    absl::StatusOr<CoordinatorMessage> message = Next();
    if (!message.ok()) return message.status();
    return std::optional(*std::move(message));
  }
  void NotifyEnd(OnEnd on_end) override { on_end_ = std::move(on_end); }
  void Close() override { said_.closed = true; }

 private:
  void Read() {
    std::deque<v1::StepPlan> plans;
    for (const CoordinatorMessage& message : script_) {
      if (message.has_step()) plans.push_back(message.step());
    }
    reader_ =
        std::thread([this, on_end = std::exchange(on_end_, nullptr), plans = std::move(plans)] {
          more_ = on_end(absl::UnavailableError("the script is over"), plans);
        });
  }

  std::deque<CoordinatorMessage> script_;
  OnEnd on_end_;
  std::vector<CoordinatorMessage> more_;  // by the reader
  Said& said_;
  std::thread reader_;
};

struct Outcome {
  absl::Status status;
  std::vector<WorkerMessage> sent;  // but progress
  bool closed;
};

/// All ranks of a world with the same script, over the thread communicator.
std::vector<Outcome> RunRanks(int world, const std::vector<CoordinatorMessage>& script) {
  auto group = parallel::MakeThreadCommunicators(world);
  std::vector<Outcome> outcomes(world);
  std::vector<std::thread> threads;
  for (int r = 0; r < world; ++r) {
    threads.emplace_back([&, r] {
      auto device = kernels::Device::Create({.threads = 1, .processes = world});
      ASSERT_TRUE(device.ok()) << device.status();
      Said said;
      outcomes[r].status = RunRank({"launch-7"}, **device, *group[r],
                                   std::make_unique<ScriptedClient>(script, said), {});
      for (WorkerMessage& message : said.sent) {
        if (!message.has_progress()) outcomes[r].sent.push_back(std::move(message));
      }
      outcomes[r].closed = said.closed;
      group[r].reset();
    });
  }
  for (std::thread& thread : threads) thread.join();
  return outcomes;
}

v1::LoadPlan GoodLoad(const std::string& model) {
  v1::LoadPlan plan;
  plan.set_model_path(model);
  const auto checkpoint = model::Checkpoint::Open(model);
  if (checkpoint.ok()) plan.set_fingerprint((*checkpoint)->Fingerprint());
  plan.set_pipeline_parallel_size(1);
  plan.set_data_parallel_size(1);
  plan.set_tensor_parallel_size(1);
  plan.set_dtype("auto");
  plan.set_kv_cache_dtype("float32");
  plan.set_compute_dtype("float32");
  plan.set_quantization("none");
  plan.set_block_size(16);
  plan.set_max_num_seqs(2);
  plan.set_max_num_batched_tokens(32);
  plan.set_max_model_len(64);
  plan.set_kv_cache_bytes(1 << 20);
  plan.set_coordinator(1);
  return plan;
}

CoordinatorMessage Load(const v1::LoadPlan& plan) {
  CoordinatorMessage message;
  *message.mutable_load() = plan;
  return message;
}
CoordinatorMessage Start(uint32_t kv_blocks) {
  CoordinatorMessage message;
  message.mutable_start()->set_kv_blocks(kv_blocks);
  return message;
}
CoordinatorMessage Prefill() {
  CoordinatorMessage message;
  v1::StepPlan& plan = *message.mutable_step();
  plan.set_epoch(3);
  plan.set_step(1);
  plan.add_starts()->set_slot(1);
  v1::SlotWork& work = *plan.add_work();
  work.set_slot(1);
  for (const uint32_t token : {10, 20, 30}) work.add_tokens(token);
  work.add_new_blocks(2);
  work.set_sample(true);
  return message;
}
CoordinatorMessage Shutdown() {
  CoordinatorMessage message;
  message.mutable_shutdown()->set_reason("done");
  return message;
}

TEST(Rank, LoadsStartsStepsAndLeaves) {
  v1::LoadPlan plan = GoodLoad(TinyLlama().Write());
  plan.set_pipeline_parallel_size(2);
  plan.set_tensor_parallel_size(2);
  const auto outcomes = RunRanks(4, {Load(plan), Start(8), Prefill(), Shutdown()});
  uint32_t token = 0;
  for (int r = 0; r < 4; ++r) {
    SCOPED_TRACE(r);
    const Outcome& outcome = outcomes[r];
    EXPECT_TRUE(outcome.status.ok()) << outcome.status;
    // Tensor-parallel rank 0 of the last stage tells the result.
    ASSERT_EQ(outcome.sent.size(), r == 2 ? 4 : 3);
    const v1::Hello& hello = outcome.sent[0].hello();
    EXPECT_EQ(hello.rank(), r);
    EXPECT_EQ(hello.world_size(), 4);
    EXPECT_EQ(hello.launch_id(), "launch-7");
    EXPECT_FALSE(hello.host().empty());
    EXPECT_GT(hello.memory_bytes(), 0);
    ASSERT_TRUE(outcome.sent[1].has_loaded());
    // A block: keys and values of one head of 8 over one or two layers, 16 tokens, 4 bytes each.
    const uint32_t layers = r < 2 ? 2 : 1;
    EXPECT_EQ(outcome.sent[1].loaded().kv_blocks(), (1 << 20) / (layers * 2 * 8 * 16 * 4));
    EXPECT_GT(outcome.sent[1].loaded().weight_bytes(), 0);
    EXPECT_TRUE(outcome.sent[2].has_ready());
    if (r != 2) continue;
    const v1::StepResult& result = outcome.sent[3].result();
    EXPECT_EQ(result.epoch(), 3);
    EXPECT_EQ(result.step(), 1);
    ASSERT_EQ(result.sampled_size(), 1);
    EXPECT_EQ(result.sampled(0).slot(), 1);
    token = result.sampled(0).token();
  }
  plan.set_pipeline_parallel_size(1);
  plan.set_tensor_parallel_size(1);
  const auto alone = RunRanks(1, {Load(plan), Start(8), Prefill(), Shutdown()});
  ASSERT_EQ(alone[0].sent.size(), 4) << alone[0].status;
  EXPECT_EQ(alone[0].sent[3].result().sampled(0).token(), token);
}

TEST(Rank, ALostCoordinatorIsUnavailable) {
  const auto outcomes = RunRanks(1, {Load(GoodLoad(TinyLlama().Write()))});
  EXPECT_EQ(outcomes[0].status.code(), absl::StatusCode::kUnavailable);
  EXPECT_NE(outcomes[0].status.message().find("the script is over"), std::string::npos);
}

/// The rank gives up with an error that has `message` in it, and has told the coordinator the same.
void ExpectFailure(const std::vector<CoordinatorMessage>& script, const std::string& message) {
  const Outcome outcome = RunRanks(1, script)[0];
  EXPECT_FALSE(outcome.status.ok());
  EXPECT_NE(outcome.status.message().find(message), std::string::npos) << outcome.status;
  ASSERT_TRUE(outcome.sent.back().has_failure());
  EXPECT_EQ(outcome.sent.back().failure().message(), std::string(outcome.status.message()));
  EXPECT_TRUE(outcome.closed);
}

struct HostileLoad {
  std::string name;
  std::function<void(v1::LoadPlan&)> change;
  std::string message;
};
void PrintTo(const HostileLoad& load, std::ostream* out) { *out << load.name; }

class RankHostileLoad : public testing::TestWithParam<HostileLoad> {};

TEST_P(RankHostileLoad, IsRefusedByName) {
  v1::LoadPlan plan = GoodLoad(TinyLlama().Write());
  GetParam().change(plan);
  ExpectFailure({Load(plan), Start(4), Shutdown()}, GetParam().message);
}

INSTANTIATE_TEST_SUITE_P(
    Plans, RankHostileLoad,
    testing::Values(
        HostileLoad{"NoModel", [](auto& p) { p.set_model_path("/nowhere/at-all"); },
                    "/nowhere/at-all"},
        HostileLoad{"AnotherModel", [](auto& p) { p.set_fingerprint(p.fingerprint() + 1); },
                    "is not the checkpoint that the coordinator has"},
        HostileLoad{"NoTensorParallelSize", [](auto& p) { p.set_tensor_parallel_size(0); },
                    "tensor-parallel"},
        HostileLoad{"HugeLayout",
                    [](auto& p) {
                      p.set_tensor_parallel_size(1 << 16);
                      p.set_pipeline_parallel_size(1 << 16);
                    },
                    "parallel"},
        HostileLoad{"NegativeLayout", [](auto& p) { p.set_pipeline_parallel_size(UINT32_MAX); },
                    "pipeline-parallel"},
        HostileLoad{"AnotherWorld", [](auto& p) { p.set_tensor_parallel_size(2); },
                    "TP=2 is for 2 ranks, and this launch has 1"},
        HostileLoad{"Dtype", [](auto& p) { p.set_dtype("int3"); }, "dtype \"int3\""},
        HostileLoad{"ComputeDtype", [](auto& p) { p.set_compute_dtype("fp8"); },
                    "compute dtype \"fp8\""},
        HostileLoad{"Quantization", [](auto& p) { p.set_quantization("int3"); },
                    "quantization \"int3\""},
        HostileLoad{"KvDtype", [](auto& p) { p.set_kv_cache_dtype("fp8"); },
                    "KV cache dtype \"fp8\""},
        HostileLoad{"KvInt8", [](auto& p) { p.set_kv_cache_dtype("int8"); },
                    "needs heads of a multiple of 32 elements"},
        HostileLoad{"NoBlockSize", [](auto& p) { p.set_block_size(0); }, "block_size 0"},
        HostileLoad{"HugeBlockSize", [](auto& p) { p.set_block_size(UINT32_MAX); },
                    "block_size 4294967295"},
        HostileLoad{"NoSequences", [](auto& p) { p.set_max_num_seqs(0); }, "max_num_seqs 0"},
        HostileLoad{"HugeSequences", [](auto& p) { p.set_max_num_seqs(UINT32_MAX); },
                    "max_num_seqs 4294967295"},
        HostileLoad{"NoBatch", [](auto& p) { p.set_max_num_batched_tokens(0); },
                    "max_num_batched_tokens 0"},
        HostileLoad{"NoLength", [](auto& p) { p.set_max_model_len(0); }, "max_model_len 0"},
        HostileLoad{"HugeLength", [](auto& p) { p.set_max_model_len(UINT32_MAX); },
                    "max_model_len 4294967295"},
        HostileLoad{"TooLittleKv", [](auto& p) { p.set_kv_cache_bytes(1000); },
                    "and 1000 are granted (--kv-cache-memory)"},
        HostileLoad{"HugeKv", [](auto& p) { p.set_kv_cache_bytes(UINT64_MAX); },
                    "kv_cache_bytes 18446744073709551615"}),
    [](const auto& info) { return info.param.name; });

TEST(Rank, SplitsBeyondTheModelNameTheFlag) {
  v1::LoadPlan plan = GoodLoad(TinyLlama().Write());
  plan.set_pipeline_parallel_size(4);
  for (const Outcome& outcome : RunRanks(4, {Load(plan)})) {
    EXPECT_NE(outcome.status.message().find("--pipeline-parallel-size 4: the model has 3 layers"),
              std::string::npos)
        << outcome.status;
  }
  plan.set_pipeline_parallel_size(1);
  plan.set_tensor_parallel_size(5);
  for (const Outcome& outcome : RunRanks(5, {Load(plan)})) {
    EXPECT_NE(
        outcome.status.message().find("--tensor-parallel-size 5: the model has 4 query heads"),
        std::string::npos)
        << outcome.status;
  }
}

TEST(Rank, AnAbsentTensorIsNamed) {
  TinyLlama llama;
  llama.tensors.erase("model.layers.1.mlp.up_proj.weight");
  ExpectFailure({Load(GoodLoad(llama.Write()))}, "model.layers.1.mlp.up_proj.weight");
}

TEST(Rank, WordsOutOfTurnAreErrors) {
  const std::string model = TinyLlama().Write();
  const CoordinatorMessage load = Load(GoodLoad(model));
  ExpectFailure({Start(4)}, "told to start before weights were loaded");
  ExpectFailure({Prefill()}, "told to run a step before Start");
  ExpectFailure({load, Prefill()}, "told to run a step before Start");
  ExpectFailure({load, load}, "told to load twice");
  ExpectFailure({load, Start(4), Start(4)}, "told to start before weights were loaded");
  ExpectFailure({CoordinatorMessage()}, "without a body");
  ExpectFailure({load, Start(0)}, "told to start with 0 KV blocks");
  ExpectFailure({load, Start(UINT32_MAX)}, "told to start with 4294967295 KV blocks");
  CoordinatorMessage step = Prefill();
  step.mutable_step()->mutable_work(0)->set_slot(7);
  ExpectFailure({load, Start(8), step}, "bad step plan: slot 7 was not started");
}

/// Ranks whose streams end after their scripts, and that attach to the next ones.
std::vector<std::vector<Said>> RunRanksAgain(
    const std::vector<std::vector<std::vector<CoordinatorMessage>>>& scripts) {  // by rank, stream
  const int world = static_cast<int>(scripts.size());
  auto group = parallel::MakeThreadCommunicators(world);
  auto agreement = parallel::MakeThreadCommunicators(world);
  std::vector<std::vector<Said>> said(world);
  std::vector<std::thread> threads;
  for (int r = 0; r < world; ++r) {
    threads.emplace_back([&, r] {
      auto device = kernels::Device::Create({.threads = 1, .processes = world});
      ASSERT_TRUE(device.ok()) << device.status();
      said[r].resize(scripts[r].size());
      size_t next = 0;
      const auto connect = [&]() -> absl::StatusOr<std::unique_ptr<ControlClient>> {
        if (next == scripts[r].size()) return absl::UnavailableError("nobody is there");
        const size_t stream = next++;
        return std::make_unique<ScriptedClient>(scripts[r][stream], said[r][stream]);
      };
      const Reattaching reattaching{.connect = connect, .ranks = agreement[r].get()};
      const absl::Status status =
          RunRank({"launch-7"}, **device, *group[r], *connect(), reattaching);
      EXPECT_EQ(status.message(), "nobody is there");
    });
  }
  for (std::thread& thread : threads) thread.join();
  return said;
}

CoordinatorMessage Decode(uint64_t step, uint32_t position) {
  CoordinatorMessage message;
  v1::StepPlan& plan = *message.mutable_step();
  plan.set_epoch(3);
  plan.set_step(step);
  v1::SlotWork& work = *plan.add_work();
  work.set_slot(1);
  work.set_position(position);
  work.set_sample(true);
  return message;
}

TEST(Rank, AttachesAgainWithItsWeights) {
  v1::LoadPlan plan = GoodLoad(TinyLlama().Write());
  v1::LoadPlan later = plan;
  later.set_epoch(9);
  const std::vector<CoordinatorMessage> whole = {Load(plan), Start(8), Prefill()};
  const auto said = RunRanksAgain({{whole, {Load(later)}, {}, {Load(later), Start(8), Prefill()}}});
  ASSERT_EQ(said[0][0].sent.back().result().sampled_size(), 1);
  for (const Said& stream : said[0]) EXPECT_TRUE(stream.sent.front().has_hello());
  const std::vector<WorkerMessage>& last = said[0][3].sent;
  ASSERT_EQ(last.size(), 4);  // no progress: nothing is loaded
  EXPECT_TRUE(last[1].has_loaded());
  EXPECT_GT(last[1].loaded().weight_bytes(), 0);
  EXPECT_TRUE(last[2].has_ready());
  // The slot was free again, and its prompt gives the same token.
  EXPECT_EQ(last[3].result().sampled(0).token(),
            said[0][0].sent.back().result().sampled(0).token());
}

TEST(Rank, PlansThatSomeRanksGotAreRunByAll) {
  // In each layout every rank in turn is the only one that was told of the last steps, or the only
  // one that was not; and in the next life the pipeline is as if nothing had been on its way.
  for (const auto& [pp, tp] : {std::pair(1, 2), std::pair(2, 1), std::pair(2, 2)}) {
    const int world = pp * tp;
    v1::LoadPlan plan = GoodLoad(TinyLlama().Write());
    plan.set_pipeline_parallel_size(pp);
    plan.set_tensor_parallel_size(tp);
    const std::vector<CoordinatorMessage> all = {Load(plan), Start(8), Prefill(), Decode(1 + pp, 3),
                                                 Decode(1 + 2 * pp, 4)};
    for (int odd = 0; odd < world; ++odd) {
      for (const bool has_more : {false, true}) {
        for (size_t fewest = 2; fewest < all.size(); ++fewest) {
          SCOPED_TRACE(testing::Message() << "PP=" << pp << " TP=" << tp << " rank " << odd
                                          << (has_more ? " has" : " lacks") << " from " << fewest);
          std::vector<std::vector<std::vector<CoordinatorMessage>>> scripts(world);
          for (int r = 0; r < world; ++r) {
            const size_t count = (r == odd) == has_more ? all.size() : fewest;
            scripts[r] = {{all.begin(), all.begin() + count}, all};
          }
          const auto said = RunRanksAgain(scripts);
          const std::vector<WorkerMessage>& teller = said[world - tp][1].sent;
          ASSERT_EQ(teller.size(), 6);
          for (size_t i = 3; i < 6; ++i) EXPECT_EQ(teller[i].result().sampled_size(), 1);
        }
      }
    }
  }
}

TEST(Rank, MeetAgainWhateverCoordinatorsEachHasMet) {
  v1::LoadPlan plan = GoodLoad(TinyLlama().Write());
  plan.set_tensor_parallel_size(2);
  const auto load = [&plan](uint64_t coordinator) {
    plan.set_coordinator(coordinator);
    return Load(plan);
  };
  const auto whole = [&](uint64_t coordinator) {
    return std::vector<CoordinatorMessage>{load(coordinator), Start(8), Prefill()};
  };
  using Stream = std::vector<CoordinatorMessage>;
  // The second coordinator lives until only one rank has attached, or one was told to load, or one
  // was told to start; a third, until both had; and the last one serves.
  for (const auto& [one, other] :
       {std::pair(std::vector<Stream>{{}}, std::vector<Stream>{}),
        std::pair(std::vector<Stream>{{}, {}}, std::vector<Stream>{{}}),
        std::pair(std::vector<Stream>{{load(2)}}, std::vector<Stream>{{}}),
        std::pair(std::vector<Stream>{{load(2), Start(8)}}, std::vector<Stream>{{load(2)}}),
        std::pair(std::vector<Stream>{{load(2)}, {load(3), Start(8)}},
                  std::vector<Stream>{{load(2)}, {load(3), Start(8)}})}) {
    for (const bool swapped : {false, true}) {
      std::vector<std::vector<Stream>> scripts = {{whole(1)}, {whole(1)}};
      for (const Stream& stream : one) scripts[swapped ? 1 : 0].push_back(stream);
      for (const Stream& stream : other) scripts[swapped ? 0 : 1].push_back(stream);
      for (auto& script : scripts) script.push_back(whole(9));
      const auto said = RunRanksAgain(scripts);
      EXPECT_EQ(said[0].back().sent.back().result().sampled_size(), 1);
      EXPECT_TRUE(said[1].back().sent.back().has_ready());
    }
  }
}

TEST(Rank, LeavesWhenItsFirstCoordinatorIsLostBeforeItIsReady) {
  v1::LoadPlan plan = GoodLoad(TinyLlama().Write());
  auto device = kernels::Device::Create({.threads = 1});
  ASSERT_TRUE(device.ok()) << device.status();
  auto world = parallel::MakeThreadCommunicators(1);
  auto ranks = parallel::MakeThreadCommunicators(1);
  Said said;
  std::vector<bool> ends;
  const Reattaching reattaching{.ranks = ranks[0].get(),
                                .on_end = [&ends](bool again) { ends.push_back(again); }};
  const absl::Status status =
      RunRank({"launch-7"}, **device, *world[0],
              std::make_unique<ScriptedClient>(std::vector{Load(plan)}, said), reattaching);
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ends, std::vector{false});
}

TEST(PlanAgreement, PlansThatNobodyKeepsAreAnError) {
  auto ranks = parallel::MakeThreadCommunicators(2);
  v1::StepPlan first, last;
  first.set_epoch(3);
  first.set_step(5);
  last.set_epoch(3);
  last.set_step(8);
  absl::StatusOr<std::vector<v1::StepPlan>> behind;
  std::thread thread([&] { behind = AgreeOnPlans(*ranks[1], 7, true, {first}); });
  const auto ahead = AgreeOnPlans(*ranks[0], 7, true, {last});
  thread.join();
  EXPECT_EQ(ahead.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(behind.status().code(), absl::StatusCode::kFailedPrecondition);
}

/// What a rank without MPI, which does not name the group itself, says to a load plan.
absl::Status MeetWithoutMpi(const std::string& group_id) {
  auto device = kernels::Device::Create({.threads = 1});
  EXPECT_TRUE(device.ok()) << device.status();
  v1::LoadPlan plan = GoodLoad(TinyLlama().Write());
  plan.set_group_id(group_id);
  Said said;
  return RunRankWithoutMpi({"launch-7"}, **device, 1, 2,
                           std::make_unique<ScriptedClient>(std::vector{Load(plan)}, said), {});
}

TEST(RankWithoutMpi, NeedsTheGroupsIdAndAGpu) {
  const absl::Status missing = MeetWithoutMpi("");
  EXPECT_EQ(missing.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(missing.message().find("group id of 0 bytes"), absl::string_view::npos) << missing;
  // With an id the group forms on GPUs only: this device, or this build, has none.
  const absl::Status no_gpu = MeetWithoutMpi(std::string(128, 'x'));
  EXPECT_TRUE(absl::IsUnimplemented(no_gpu) || absl::IsInvalidArgument(no_gpu)) << no_gpu;
}

}  // namespace
}  // namespace shardline::worker
