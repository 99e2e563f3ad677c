#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/statusor.h"
#include "model/chat_template.h"
#include "model/jinja/parser.h"

namespace shardline::jinja {

/// Renders a parsed template. Errors as ChatTemplate::Render.
absl::StatusOr<std::string> Evaluate(const Node& root, const nlohmann::json& context,
                                     const model::ChatTemplateLimits& limits);

}  // namespace shardline::jinja
