#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "model/chat_template.h"

namespace shardline::jinja {

struct Node;
using NodePtr = std::unique_ptr<Node>;

/// A statement or an expression of a template. What `kids` are is said at each kind.
struct Node {
  enum class Kind {
    // Expressions.
    kConstant,   // constant
    kName,       // text
    kList,       // kids: elements (a tuple is a list)
    kDict,       // kids: key, value, key, value, ...
    kUnary,      // text: "-", "+", "not"; kids: operand
    kBinary,     // text: operator, "and", "or", "in", "not in"; kids: left, right
    kCondition,  // kids: value, condition, otherwise (may be null)
    kAttribute,  // text; kids: object
    kItem,       // kids: object, index
    kSlice,      // kids: object, start, stop, step (the last three may be null)
    kCall,       // kids: callee, arguments...; named
    kFilter,     // text; kids: input, arguments...; named
    kTest,       // text; kids: input, arguments...
    // Statements.
    kText,      // text
    kOutput,    // kids: expression
    kIf,        // kids: condition, body, condition, body, ..., else body (without condition)
    kFor,       // names: targets; kids: iterable, filter (may be null), body, else body (or null)
    kSet,       // names: target, and attribute of a namespace if two; kids: value
    kSetBlock,  // names: target; kids: body
    kMacro,     // text: name; names: parameters; named: defaults; kids: body
    kBlock,     // kids: statements
    kBreak,
    kContinue,
  };

  Kind kind;
  int line = 1;
  std::string text;
  std::shared_ptr<const nlohmann::json> constant;
  std::vector<NodePtr> kids;
  std::vector<std::string> names;
  std::vector<std::pair<std::string, NodePtr>> named;
};

/// The template as one kBlock. kInvalidArgument with the line for a syntax error or what is not
/// supported; kResourceExhausted when it nests deeper than the limit.
absl::StatusOr<NodePtr> ParseTemplate(std::string_view source,
                                      const model::ChatTemplateLimits& limits);

/// Whether the evaluator has a filter or test of this name.
bool IsFilter(std::string_view name);
bool IsTest(std::string_view name);

}  // namespace shardline::jinja
