#include "tests/fuzz/model_use.h"

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "kernels/device.h"
#include "parallel/partition.h"
#include "worker/weights_loader.h"

namespace shardline::fuzz {

void Promise(bool kept, const char* what) {
  if (kept) return;
  std::fprintf(stderr, "broken promise: %s\n", what);
  std::abort();
}

void LoadEveryShard(const model::Model& model) {
  static const std::unique_ptr<kernels::Device> device =
      kernels::Device::Create({.threads = 1}).value();
  const auto bound = model::Bind(model.family.table, model.family.ignored, *model.checkpoint);
  Promise(bound.ok(), "what OpenModel bound binds again");
  const parallel::ModelDims dims =
      model::DimsOf(model.family.spec, model::FeedForwardGranularity(*bound));
  const parallel::Layout layouts[] = {{}, {.tp = 2}, {.tp = 3}, {.pp = 2}, {.pp = 2, .tp = 2}};
  for (const parallel::Layout& layout : layouts) {
    const auto shards = parallel::PlanShards(dims, layout);
    if (!shards.ok()) continue;
    for (const parallel::RankShard& shard : *shards) {
      for (const worker::WeightFormat format :
           {worker::WeightFormat::kAsStored, worker::WeightFormat::kBFloat16}) {
        const auto loaded =
            worker::LoadShard(*device, *bound, model.family.spec.tied_embeddings, dims, shard,
                              {.format = format}, [](int64_t, int64_t) {});
        if (!loaded.ok()) return;
      }
    }
  }
}

void EncodeAndDecode(const model::Tokenizer& tokenizer, std::string_view text) {
  for (const bool special : {false, true}) {
    const auto tokens = tokenizer.Encode(text, {.parse_special = special, .add_special = special});
    if (!tokens.ok()) continue;
    for (const bool skip : {false, true}) {
      const auto whole = tokenizer.Decode(*tokens, skip);
      Promise(whole.ok(), "Encode gives ids of the vocabulary");
      model::IncrementalDetokenizer detokenizer(tokenizer, skip);
      std::string pieces;
      for (const int32_t token : *tokens) pieces += detokenizer.Push(token);
      pieces += detokenizer.Finish();
      Promise(pieces == *whole, "a stream of tokens decodes to the text of all of them");
    }
  }
}

}  // namespace shardline::fuzz
