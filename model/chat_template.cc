#include "model/chat_template.h"

#include <utility>

#include "model/jinja/eval.h"
#include "model/jinja/parser.h"

namespace shardline::model {
namespace {

class JinjaTemplate : public ChatTemplate {
 public:
  JinjaTemplate(jinja::NodePtr root, const ChatTemplateLimits& limits)
      : root_(std::move(root)), limits_(limits) {}

  absl::StatusOr<std::string> Render(const nlohmann::json& context) const override {
    return jinja::Evaluate(*root_, context, limits_);
  }

 private:
  const jinja::NodePtr root_;
  const ChatTemplateLimits limits_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ChatTemplate>> ChatTemplate::Parse(
    std::string_view source, const ChatTemplateLimits& limits) {
  absl::StatusOr<jinja::NodePtr> root = jinja::ParseTemplate(source, limits);
  if (!root.ok()) return root.status();
  return std::make_unique<JinjaTemplate>(*std::move(root), limits);
}

}  // namespace shardline::model
