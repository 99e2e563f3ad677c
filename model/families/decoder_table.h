#pragma once

#include "absl/status/statusor.h"
#include "model/families/config_reader.h"
#include "model/family.h"

namespace shardline::model {

/// How the query, key and value projections of a layer are stored.
enum class QkvLayout : uint8_t {
  kSeparate,  // three tensors
  kStacked,   // one: all query rows, then key, then value
  kByHead,    // one: head by head, its query, key and value rows; as many KV heads as heads
};

/// The tensor names of a decoder checkpoint, without ".weight" and ".bias". What an architecture
/// lacks stays null; whether a tensor is expected is up to the spec.
struct DecoderNames {
  const char* embedding = nullptr;
  const char* position_embedding = nullptr;
  const char* final_norm = nullptr;
  const char* head = nullptr;
  const char* layer = nullptr;  // what comes before the layer's number; the rest follow "<number>."

  const char* attention_norm = nullptr;
  QkvLayout qkv_layout = QkvLayout::kSeparate;
  const char* qkv = nullptr;  // unless separate
  const char* query = nullptr;
  const char* key = nullptr;
  const char* value = nullptr;
  const char* query_norm = nullptr;
  const char* key_norm = nullptr;
  const char* attention_output = nullptr;
  const char* attention_post_norm = nullptr;

  const char* feed_forward_norm = nullptr;
  const char* gate = nullptr;
  const char* up = nullptr;
  const char* down = nullptr;
  const char* feed_forward_post_norm = nullptr;

  const char* router = nullptr;
  const char* experts = nullptr;  // before "<expert>."; null: one stacked tensor for all experts
  const char* expert_gate = nullptr;
  const char* expert_up = nullptr;
  const char* expert_down = nullptr;
  const char* shared_gate = nullptr;
  const char* shared_up = nullptr;
  const char* shared_down = nullptr;
  const char* shared_scale = nullptr;
  bool shared_scale_is_vector = false;  // stored [H] rather than [1, H]

  bool transposed = false;  // matrices of layers are stored [in, out]
  float norm_added = 0.0f;  // norm weights are stored less this
};

/// Hugging Face's names since Llama.
extern const DecoderNames kLlamaNames;
/// GGUF's names; query, key and value are stacked or apart as the file has them.
DecoderNames GgufNames(const Checkpoint& checkpoint);

/// The end of every family's description: the reader's first error, or the spec checked, with the
/// tensor table that its features imply.
absl::StatusOr<FamilyModel> DescribeDecoder(const Checkpoint& checkpoint, const ConfigReader& read,
                                            ModelSpec spec, const DecoderNames& names);

}  // namespace shardline::model
