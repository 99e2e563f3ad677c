#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace shardline::model {

/// Unicode's normalization forms (UAX #15).
enum class NormalForm : uint8_t { kNfc, kNfd, kNfkc, kNfkd };

/// `text` (valid UTF-8) in that form. Decompositions and compositions are ICU's; the marks of one
/// letter are sorted in n log n, so that a text of nothing but marks takes no quadratic time.
std::string Normalized(std::string_view text, NormalForm form);

}  // namespace shardline::model
