#include "logging/log.h"

#include <grpc/support/log.h>
#include <spdlog/formatter.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <chrono>
#include <cstdio>
#include <ctime>
#include <memory>
#include <string_view>

#include "logging/event_fields.h"

namespace shardline::logging {
namespace {

/// One JSON object a line.
class JsonFormatter : public spdlog::formatter {
 public:
  void format(const spdlog::details::log_msg& message, spdlog::memory_buf_t& line) override {
    Append("{\"time\":\"", line);
    AppendTime(message.time, line);
    Append("\",\"level\":\"", line);
    Append(ViewOf(spdlog::level::to_string_view(message.level)), line);
    Append("\",\"process\":", line);
    Append(JsonText(ViewOf(message.logger_name)), line);
    Append(",\"message\":", line);
    Append(JsonText(ViewOf(message.payload)), line);
    if (const EventFields::Fields* fields = EventFields::Current()) {
      for (const auto& [key, value] : *fields) {
        Append(",\"", line);
        Append(key, line);
        Append("\":", line);
        Append(value, line);
      }
    }
    Append("}\n", line);
  }

  std::unique_ptr<spdlog::formatter> clone() const override {
    return std::make_unique<JsonFormatter>();
  }

 private:
  static std::string_view ViewOf(spdlog::string_view_t text) { return {text.data(), text.size()}; }
  static void Append(std::string_view text, spdlog::memory_buf_t& line) {
    line.append(text.data(), text.data() + text.size());
  }
  static void AppendTime(spdlog::log_clock::time_point time, spdlog::memory_buf_t& line) {
    using std::chrono::milliseconds;
    const auto since = std::chrono::duration_cast<milliseconds>(time.time_since_epoch());
    const std::time_t seconds = since.count() / 1000;
    std::tm utc{};
    gmtime_r(&seconds, &utc);
    char text[40];
    const size_t size = std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &utc);
    Append(std::string_view(text, size), line);
    std::snprintf(text, sizeof(text), ".%03dZ", static_cast<int>(since.count() % 1000));
    Append(std::string_view(text), line);
  }
};

void LogFromGrpc(gpr_log_func_args* message) {
  const auto level = message->severity == GPR_LOG_SEVERITY_ERROR  ? spdlog::level::err
                     : message->severity == GPR_LOG_SEVERITY_INFO ? spdlog::level::info
                                                                  : spdlog::level::debug;
  // Its threads may speak when spdlog's own statics are gone.
  static const auto* const logger = new std::shared_ptr<spdlog::logger>(spdlog::default_logger());
  (*logger)->log(level, "gRPC: {}", message->message);
}

}  // namespace

void StartLogging(const LogOptions& options) {
  spdlog::set_default_logger(spdlog::stderr_color_mt(options.process));
  if (options.format == "json") {
    SetFormat(Format::kJson);
    spdlog::set_formatter(std::make_unique<JsonFormatter>());
  } else {
    SetFormat(Format::kText);
    spdlog::set_pattern("%Y-%m-%dT%H:%M:%S.%e %^%l%$ %n: %v");
  }
  spdlog::set_level(spdlog::level::from_str(options.level));
  gpr_set_log_function(LogFromGrpc);
}

}  // namespace shardline::logging
