#include "model/json_access.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "model/unicode.h"

namespace shardline::model {
namespace {

constexpr int kMaxNesting = 64;

/// Nesting depth of `text`, strings skipped. The parser itself does not recurse, but what walks the
/// result does.
int Nesting(std::string_view text) {
  int depth = 0;
  int deepest = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') {
        ++i;
      } else if (c == '"') {
        in_string = false;
      }
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      deepest = std::max(deepest, ++depth);
    } else if (c == '}' || c == ']') {
      --depth;
    }
  }
  return deepest;
}

}  // namespace

absl::StatusOr<nlohmann::json> ParseJson(std::string_view text, const std::string& origin) {
  if (Nesting(text) > kMaxNesting) {
    return absl::InvalidArgumentError(
        absl::StrCat(origin, ": JSON nested deeper than ", kMaxNesting, " levels"));
  }
  try {
    return nlohmann::json::parse(text);
  } catch (const nlohmann::json::exception& error) {
    return absl::InvalidArgumentError(
        absl::StrCat(origin, ": not valid JSON: ", Printable(error.what())));
  }
}

const nlohmann::json* JsonAccess::Find(std::string_view key) const {
  if (!object_.is_object()) return nullptr;
  const auto found = object_.find(std::string(key));
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

bool JsonAccess::Has(std::string_view key) const { return Find(key) != nullptr; }

bool JsonAccess::Holds(std::string_view key) const {
  return object_.is_object() && object_.contains(std::string(key));
}

absl::Status JsonAccess::Error(std::string_view key, std::string_view what) const {
  const nlohmann::json* value = Find(key);
  std::string found = "missing";
  if (value != nullptr) {
    found = value->is_structured()
                ? value->type_name()
                : Printable(value->dump(-1, ' ', false, nlohmann::json::error_handler_t::replace)
                                .substr(0, 100));
  }
  return absl::InvalidArgumentError(absl::StrCat(origin_, ": \"", std::string(key), "\" must be ",
                                                 std::string(what), "; it is ", found));
}

absl::StatusOr<int64_t> JsonAccess::Int(std::string_view key, int64_t low, int64_t high) const {
  const nlohmann::json* value = Find(key);
  const std::string expected = absl::StrCat("an integer in [", low, ", ", high, "]");
  if (value == nullptr || !value->is_number_integer()) return Error(key, expected);
  if (value->is_number_unsigned() && value->get<uint64_t>() > INT64_MAX) {
    return Error(key, expected);
  }
  const int64_t number = value->get<int64_t>();
  if (number < low || number > high) return Error(key, expected);
  return number;
}

absl::StatusOr<int64_t> JsonAccess::IntOr(std::string_view key, int64_t low, int64_t high,
                                          int64_t otherwise) const {
  return Has(key) ? Int(key, low, high) : otherwise;
}

absl::StatusOr<double> JsonAccess::Number(std::string_view key, double low, double high) const {
  const nlohmann::json* value = Find(key);
  const std::string expected = absl::StrCat("a number in [", low, ", ", high, "]");
  if (value == nullptr || !value->is_number()) return Error(key, expected);
  const double number = value->get<double>();
  if (!(number >= low && number <= high)) return Error(key, expected);
  return number;
}

absl::StatusOr<double> JsonAccess::NumberOr(std::string_view key, double low, double high,
                                            double otherwise) const {
  return Has(key) ? Number(key, low, high) : otherwise;
}

absl::StatusOr<bool> JsonAccess::BoolOr(std::string_view key, bool otherwise) const {
  const nlohmann::json* value = Find(key);
  if (value == nullptr) return otherwise;
  if (!value->is_boolean()) return Error(key, "true or false");
  return value->get<bool>();
}

absl::StatusOr<std::string> JsonAccess::String(std::string_view key) const {
  const nlohmann::json* value = Find(key);
  if (value == nullptr || !value->is_string()) return Error(key, "a string");
  const std::string& text = value->get_ref<const std::string&>();
  if (FindInvalidUtf8(text) != std::string_view::npos) return Error(key, "a string of UTF-8");
  return text;
}

absl::StatusOr<std::string> JsonAccess::StringOr(std::string_view key,
                                                 std::string otherwise) const {
  if (!Has(key)) return otherwise;
  return String(key);
}

}  // namespace shardline::model
