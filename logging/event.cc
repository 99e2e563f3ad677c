#include "logging/event.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <atomic>
#include <cctype>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "logging/event_fields.h"

namespace shardline::logging {
namespace {

constexpr size_t kLongestText = 256;

std::atomic<Format> line_format = Format::kText;
thread_local const EventFields::Fields* current_fields = nullptr;

/// As it stands where nothing can be mistaken, else as JSON.
std::string TextOf(const std::string& json) {
  const std::string_view inner = json.size() > 2 && json.front() == '"'
                                     ? std::string_view(json).substr(1, json.size() - 2)
                                     : std::string_view(json);
  const bool plain = std::all_of(inner.begin(), inner.end(), [](unsigned char c) {
    return std::isalnum(c) != 0 || std::string_view("-_.:/+").find(c) != std::string_view::npos;
  });
  return plain ? std::string(inner) : json;
}

}  // namespace

void SetFormat(Format format) { line_format = format; }

std::string JsonText(std::string_view value) {
  return nlohmann::json(value).dump(-1, ' ', /*ensure_ascii=*/true,
                                    nlohmann::json::error_handler_t::replace);
}

const EventFields::Fields* EventFields::Current() { return current_fields; }

void EventFields::Log(const Event& event, int level) {
  const auto spdlog_level = static_cast<spdlog::level::level_enum>(level);
  if (!spdlog::should_log(spdlog_level)) return;
  if (line_format == Format::kJson) {
    current_fields = &event.fields_;
    spdlog::log(spdlog_level, "{}", event.what_);
    current_fields = nullptr;
    return;
  }
  std::string line = event.what_;
  for (const auto& [key, value] : event.fields_) {
    absl::StrAppend(&line, " ", key, "=", TextOf(value));
  }
  spdlog::log(spdlog_level, "{}", line);
}

Event& Event::With(std::string_view key, std::string_view value) {
  fields_.emplace_back(key, JsonText(value.substr(0, kLongestText)));
  return *this;
}

Event& Event::With(std::string_view key, int64_t value) {
  fields_.emplace_back(key, absl::StrCat(value));
  return *this;
}

Event& Event::With(std::string_view key, double value) {
  fields_.emplace_back(key, nlohmann::json(value).dump());
  return *this;
}

void Event::Info() const { EventFields::Log(*this, spdlog::level::info); }
void Event::Warn() const { EventFields::Log(*this, spdlog::level::warn); }

}  // namespace shardline::logging
