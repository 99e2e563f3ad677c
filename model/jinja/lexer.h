#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace shardline::jinja {

struct Token {
  enum class Kind {
    kText,
    kVariableBegin,
    kVariableEnd,
    kBlockBegin,
    kBlockEnd,
    kName,
    kString,
    kInteger,
    kFloat,
    kOperator,
    kEnd,
  };

  Kind kind = Kind::kEnd;
  int line = 1;
  std::string text;  // name, operator, unescaped string or template text
  int64_t integer = 0;
  double number = 0;
};

/// Splits a template as Jinja does with trim_blocks and lstrip_blocks; comments and raw blocks are
/// resolved here. The result ends with kEnd. kInvalidArgument names the line.
absl::StatusOr<std::vector<Token>> Tokenize(std::string_view source);

/// The error of every stage that knows a line.
absl::Status ErrorAtLine(int line, std::string_view message);

}  // namespace shardline::jinja
