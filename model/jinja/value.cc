#include "model/jinja/value.h"

#include <algorithm>

#include "model/jinja/text.h"

namespace shardline::jinja {
namespace {

std::string Quote(const std::string& text) {
  // As repr(): single quotes, unless that would need escapes that double quotes spare.
  const bool use_double =
      text.find('\'') != std::string::npos && text.find('"') == std::string::npos;
  const char quote = use_double ? '"' : '\'';
  std::string out(1, quote);
  for (const char c : text) {
    if (c == '\n') {
      out += "\\n";
    } else if (c == '\t') {
      out += "\\t";
    } else if (c == '\r') {
      out += "\\r";
    } else {
      if (c == quote || c == '\\') out += '\\';
      out += c;
    }
  }
  return out + quote;
}

std::string Repr(const Json& json) {
  if (json.is_null()) return "None";
  if (json.is_boolean()) return json.get<bool>() ? "True" : "False";
  if (json.is_string()) return Quote(json.get_ref<const std::string&>());
  if (json.is_number_float()) return FloatRepr(json.get<double>());
  if (json.is_array()) {
    std::string out = "[";
    for (const Json& item : json) out += (out.size() > 1 ? ", " : "") + Repr(item);
    return out + "]";
  }
  if (json.is_object()) {
    std::string out = "{";
    for (const auto& [key, item] : json.items()) {
      out += (out.size() > 1 ? ", " : "") + Quote(key) + ": " + Repr(item);
    }
    return out + "}";
  }
  return json.dump();
}

}  // namespace

bool Truth(const Value& value) {
  if (value.IsUndefined()) return false;
  if (!value.IsData()) return true;
  const Json& json = value.json();
  if (json.is_null()) return false;
  if (json.is_boolean()) return json.get<bool>();
  if (json.is_number()) return json.get<double>() != 0;
  if (json.is_string()) return !value.string().empty();
  return !json.empty();
}

std::string ToText(const Value& value) {
  if (value.IsUndefined()) return "";
  if (!value.IsData()) return "<" + value.name + ">";
  return value.IsString() ? value.string() : Repr(value.json());
}

std::string ToJsonText(const Json& json, int indent) {
  // json.dumps writes ", " and ": " between items unless it indents.
  if (indent >= 0) return json.dump(indent, ' ', false, Json::error_handler_t::replace);
  if (json.is_array()) {
    std::string out = "[";
    for (const Json& item : json) out += (out.size() > 1 ? ", " : "") + ToJsonText(item, -1);
    return out + "]";
  }
  if (json.is_object()) {
    std::string out = "{";
    for (const auto& [key, item] : json.items()) {
      out += (out.size() > 1 ? ", " : "") +
             Json(key).dump(-1, ' ', false, Json::error_handler_t::replace) + ": " +
             ToJsonText(item, -1);
    }
    return out + "}";
  }
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

int Nesting(const Json& json) {
  int deepest = 0;
  if (!json.is_structured()) return 0;
  for (const Json& item : json) deepest = std::max(deepest, Nesting(item));
  return deepest + 1;
}

int64_t Weight(const Json& json) {
  if (json.is_string()) {
    return kElementBytes + static_cast<int64_t>(json.get_ref<const std::string&>().size());
  }
  int64_t bytes = kElementBytes;
  if (json.is_object()) {
    for (const auto& [key, item] : json.items()) {
      bytes += 2 * kElementBytes + static_cast<int64_t>(key.size()) + Weight(item);
    }
  } else if (json.is_array()) {
    for (const Json& item : json) bytes += Weight(item);
  }
  return bytes;
}

}  // namespace shardline::jinja
