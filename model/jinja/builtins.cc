#include "model/jinja/builtins.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <functional>

#include "absl/strings/str_cat.h"
#include "model/jinja/parser.h"
#include "model/jinja/text.h"

namespace shardline::jinja {
namespace {

constexpr std::string_view kFilters[] = {
    "trim",  "upper",   "lower",      "length",     "count",  "join",   "replace",    "default",
    "d",     "first",   "last",       "list",       "tojson", "string", "int",        "float",
    "items", "map",     "selectattr", "rejectattr", "select", "reject", "capitalize", "title",
    "safe",  "reverse", "indent",     "abs",        "unique", "sort",   "dictsort"};
constexpr std::string_view kTests[] = {
    "defined", "undefined", "none",     "string",      "number", "integer", "float",   "boolean",
    "mapping", "iterable",  "sequence", "true",        "false",  "eq",      "equalto", "ne",
    "in",      "odd",       "even",     "divisibleby", "lower",  "upper"};
constexpr std::string_view kStringMethods[] = {
    "strip", "lstrip", "rstrip",     "startswith", "endswith", "split",      "replace", "upper",
    "lower", "title",  "capitalize", "find",       "count",    "splitlines", "join"};
constexpr std::string_view kDictMethods[] = {"items", "keys", "values", "get"};

constexpr size_t kMaxCharacters = 1 << 18;

template <size_t N>
bool Lists(const std::string_view (&names)[N], std::string_view name) {
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

absl::Status Bad(std::string_view what) { return absl::InvalidArgumentError(std::string(what)); }

std::string Capitalize(std::string_view text) {
  if (text.empty()) return "";
  const size_t first = CodePointBytes(text);
  return Upper(text.substr(0, first)) + Lower(text.substr(first));
}

std::string Title(std::string_view text) {
  std::string out;
  bool inside = false;
  for (size_t i = 0; i < text.size();) {
    const size_t bytes = CodePointBytes(text.substr(i));
    const bool letter = IsAlphabetic(DecodeCodePoint(text.substr(i)));
    out += inside ? Lower(text.substr(i, bytes)) : Upper(text.substr(i, bytes));
    inside = letter;
    i += bytes;
  }
  return out;
}

absl::StatusOr<Value> Replace(const std::string& text, const std::string& from,
                              const std::string& to, int64_t count, int64_t max_bytes) {
  std::string out;
  size_t at = 0;
  if (from.empty()) return Bad("replace() of an empty text is not supported");
  while (count != 0) {
    const size_t found = FindText(text, from, at);
    if (found == std::string::npos) break;
    out.append(text, at, found - at);
    out += to;
    at = found + from.size();
    if (count > 0) --count;
    if (static_cast<int64_t>(out.size()) > max_bytes) {
      return absl::ResourceExhaustedError("replace() makes a text that is too long");
    }
  }
  return Value::Of(out + text.substr(at));
}

absl::StatusOr<Value> Join(const Value& list, const std::string& separator, int64_t max_bytes) {
  const absl::StatusOr<std::vector<Value>> items = Iterate(list);
  if (!items.ok()) return items.status();
  std::string out;
  for (size_t i = 0; i < items->size(); ++i) {
    if (i > 0) out += separator;
    out += ToText((*items)[i]);
    if (static_cast<int64_t>(out.size()) > max_bytes) {
      return absl::ResourceExhaustedError("join() makes a text that is too long");
    }
  }
  return Value::Of(std::move(out));
}

absl::StatusOr<Value> Length(const Value& input) {
  if (input.IsUndefined()) return Value::Of(0);
  if (input.IsString()) return Value::Of(static_cast<int64_t>(CodePointCount(input.string())));
  if (input.IsArray() || input.IsObject()) {
    return Value::Of(static_cast<int64_t>(input.json().size()));
  }
  return Bad("length of something that has none");
}

Value Strip(const std::string& text, Side side, const Arguments& args) {
  const Value* characters = args.Get(0, "chars");
  return Value::Of(std::string(characters != nullptr && characters->IsString()
                                   ? StripCharacters(text, side, characters->string())
                                   : StripSpace(text, side)));
}

Value Items(const Json& object) {
  Json items = Json::array();
  for (const auto& [key, item] : object.items()) items.push_back(Json::array({key, item}));
  return Value::Of(std::move(items));
}

Value ListOf(const std::vector<Value>& values) {
  Json list = Json::array();
  for (const Value& value : values) list.push_back(value.IsData() ? value.json() : Json());
  return Value::Of(std::move(list));
}

/// map, select and the like: over elements, or over an attribute of each.
absl::StatusOr<Value> FilterList(std::string_view name, const Value& input, const Arguments& args,
                                 int64_t max_bytes) {
  const absl::StatusOr<std::vector<Value>> items = Iterate(input);
  if (!items.ok()) return items.status();
  std::vector<Value> kept;
  const bool by_attribute = name == "selectattr" || name == "rejectattr";
  if (name == "map") {
    const Value* attribute = args.Get(SIZE_MAX, "attribute");
    for (const Value& item : *items) {
      if (attribute != nullptr && attribute->IsString()) {
        kept.push_back(Member(item, attribute->string()));
        continue;
      }
      Arguments rest = args;
      if (rest.positional.empty() || !rest.positional[0].IsString()) return Bad("map() of what?");
      const std::string filter = rest.positional[0].string();
      rest.positional.erase(rest.positional.begin());
      if (!IsFilter(filter) || filter == "map") {
        return Bad(absl::StrCat("the filter \"", filter, "\" is not supported"));
      }
      const absl::StatusOr<Value> mapped = CallFilter(filter, item, rest, max_bytes);
      if (!mapped.ok()) return mapped.status();
      kept.push_back(*mapped);
    }
    return ListOf(kept);
  }
  Arguments rest = args;
  std::string attribute;
  if (by_attribute) {
    if (rest.positional.empty() || !rest.positional[0].IsString()) return Bad("which attribute?");
    attribute = rest.positional[0].string();
    rest.positional.erase(rest.positional.begin());
  }
  std::string test;
  if (!rest.positional.empty() && rest.positional[0].IsString()) {
    test = rest.positional[0].string();
    rest.positional.erase(rest.positional.begin());
  }
  const bool keep = name == "select" || name == "selectattr";
  for (const Value& item : *items) {
    const Value subject = by_attribute ? Member(item, attribute) : item;
    absl::StatusOr<bool> passes = Truth(subject);
    if (!test.empty()) {
      if (!IsTest(test)) return Bad(absl::StrCat("the test \"", test, "\" is not supported"));
      passes = CallTest(test, subject, rest);
    }
    if (!passes.ok()) return passes.status();
    if (*passes == keep) kept.push_back(item);
  }
  return ListOf(kept);
}

absl::StatusOr<Value> Sorted(const Value& input, const Arguments& args) {
  absl::StatusOr<std::vector<Value>> items = Iterate(input);
  if (!items.ok()) return items.status();
  const std::string attribute = args.Text(SIZE_MAX, "attribute", "");
  absl::Status status;
  std::stable_sort(items->begin(), items->end(), [&](const Value& a, const Value& b) {
    const absl::StatusOr<bool> less =
        attribute.empty() ? Less(a, b) : Less(Member(a, attribute), Member(b, attribute));
    if (!less.ok()) status = less.status();
    return less.ok() && *less;
  });
  if (!status.ok()) return status;
  const Value* reverse = args.Get(0, "reverse");
  if (reverse != nullptr && Truth(*reverse)) std::reverse(items->begin(), items->end());
  return ListOf(*items);
}

absl::StatusOr<Value> Indent(const Value& input, const Arguments& args, int64_t max_bytes) {
  const int64_t width = std::clamp<int64_t>(args.Integer(0, "width", 4), 0, 1000);
  const Value* first = args.Get(1, "first");
  std::string out;
  bool begin = true;
  const std::string text = ToText(input);
  for (const std::string_view line : SplitLines(text)) {
    if (!begin) out += '\n';
    if ((begin ? first != nullptr && Truth(*first) : !line.empty())) out += std::string(width, ' ');
    out += line;
    begin = false;
    if (static_cast<int64_t>(out.size()) > max_bytes) {
      return absl::ResourceExhaustedError("indent() makes a text that is too long");
    }
  }
  return Value::Of(std::move(out));
}

absl::StatusOr<Value> ToInteger(const Value& input, const Arguments& args) {
  const int64_t otherwise = args.Integer(0, "default", 0);
  if (input.IsInteger()) return input;
  if (input.IsData() && input.json().is_boolean()) return Value::Of(int64_t{Truth(input)});
  double number = 0;
  if (input.IsData() && input.json().is_number()) {
    number = input.json().get<double>();
  } else if (input.IsString()) {
    const std::string text(StripSpace(input.string(), Side::kBoth));
    char* end = nullptr;
    number = std::strtod(text.c_str(), &end);
    if (text.empty() || *end != '\0') return Value::Of(otherwise);
  } else {
    return Value::Of(otherwise);
  }
  if (!(std::abs(number) < 9e18)) return Value::Of(otherwise);
  return Value::Of(static_cast<int64_t>(number));
}

}  // namespace

bool IsFilter(std::string_view name) { return Lists(kFilters, name); }
bool IsTest(std::string_view name) { return Lists(kTests, name); }

bool HasMethod(const Value& receiver, std::string_view name) {
  return (receiver.IsString() && Lists(kStringMethods, name)) ||
         (receiver.IsObject() && Lists(kDictMethods, name));
}

const Value* Arguments::Get(size_t index, const char* name) const {
  if (index < positional.size()) return &positional[index];
  const auto found = named.find(name);
  return found == named.end() ? nullptr : &found->second;
}
std::string Arguments::Text(size_t index, const char* name, std::string_view otherwise) const {
  const Value* value = Get(index, name);
  return value != nullptr && value->IsString() ? value->string() : std::string(otherwise);
}
int64_t Arguments::Integer(size_t index, const char* name, int64_t otherwise) const {
  const Value* value = Get(index, name);
  return value != nullptr && value->IsInteger() ? value->json().get<int64_t>() : otherwise;
}

Value Member(const Value& object, const std::string& name) {
  if (object.IsObject()) {
    const auto found = object.json().find(name);
    if (found != object.json().end()) return object.Part(*found);
  }
  return Value::Undefined(name);
}

absl::StatusOr<std::vector<Value>> Iterate(const Value& value) {
  std::vector<Value> items;
  if (value.IsUndefined()) return items;
  if (value.IsArray()) {
    for (const Json& item : value.json()) items.push_back(value.Part(item));
  } else if (value.IsObject()) {
    for (const auto& [key, item] : value.json().items()) items.push_back(Value::Of(key));
  } else if (value.IsString()) {
    const std::string_view text = value.string();
    if (text.size() > kMaxCharacters) {
      return absl::ResourceExhaustedError("too long a text to be taken apart into characters");
    }
    for (size_t i = 0; i < text.size();) {
      const size_t bytes = CodePointBytes(text.substr(i));
      items.push_back(Value::Of(std::string(text.substr(i, bytes))));
      i += bytes;
    }
  } else {
    return Bad("cannot iterate over this");
  }
  return items;
}

bool Equal(const Value& a, const Value& b) {
  if (!a.IsData() || !b.IsData()) return a.IsUndefined() && b.IsUndefined();
  return a.json() == b.json();
}

absl::StatusOr<bool> Less(const Value& a, const Value& b) {
  if (a.IsString() && b.IsString()) return a.string() < b.string();
  if (a.IsData() && b.IsData() && a.json().is_number() && b.json().is_number()) {
    return a.json() < b.json();
  }
  return Bad("cannot order values of these types");
}

absl::StatusOr<bool> Contains(const Value& container, const Value& item) {
  if (container.IsString()) {
    if (!item.IsString()) return Bad("only a text can be in a text");
    return FindText(container.string(), item.string()) != std::string::npos;
  }
  if (container.IsObject()) return item.IsString() && container.json().contains(item.string());
  if (container.IsArray()) {
    for (const Json& one : container.json()) {
      if (Equal(container.Part(one), item)) return true;
    }
    return false;
  }
  if (container.IsUndefined()) return false;
  return Bad("\"in\" needs a text, a list or a dict");
}

int64_t FilterWork(std::string_view name, const Value& input) {
  if (!input.IsData()) return 0;
  if (name == "default" || name == "d") return 0;
  if (input.IsString()) return static_cast<int64_t>(input.string().size());
  const int64_t elements = static_cast<int64_t>(input.json().size());
  if (name == "length" || name == "count") return 0;
  if (name == "first" || name == "last") return elements * kElementBytes;
  if (name == "unique") return Weight(input.json()) + elements * elements;
  return Weight(input.json());
}

absl::StatusOr<Value> CallFilter(std::string_view name, const Value& input, const Arguments& args,
                                 int64_t max_bytes) {
  if (name == "default" || name == "d") {
    const Value* otherwise = args.Get(0, "default_value");
    const Value* boolean = args.Get(1, "boolean");
    const bool absent =
        input.IsUndefined() || (boolean != nullptr && Truth(*boolean) && !Truth(input));
    return !absent ? input : otherwise != nullptr ? *otherwise : Value::Of("");
  }
  if (name == "length" || name == "count") return Length(input);
  if (name == "map" || name == "select" || name == "reject" || name == "selectattr" ||
      name == "rejectattr") {
    return FilterList(name, input, args, max_bytes);
  }
  if (name == "join") return Join(input, args.Text(0, "d", ""), max_bytes);
  if (name == "sort") return Sorted(input, args);
  if (name == "int") return ToInteger(input, args);
  if (name == "string" || name == "safe") return Value::Of(ToText(input));
  if (name == "tojson") {
    if (!input.IsData()) return Bad("tojson of something that is not data");
    const int64_t indent = args.Integer(0, "indent", -1);
    return Value::Of(
        ToJsonText(input.json(), static_cast<int>(std::clamp<int64_t>(indent, -1, 16))));
  }
  if (name == "items" || name == "dictsort") {
    if (input.IsUndefined()) return Value::Of(Json::array());
    if (!input.IsObject()) return Bad("items of something that is not a dict");
    return Items(input.json());
  }
  if (name == "float") {
    if (input.IsData() && input.json().is_number()) return Value::Of(input.json().get<double>());
    return Value::Of(std::strtod(ToText(input).c_str(), nullptr));
  }
  if (name == "abs") {
    if (input.IsInteger() && input.json().get<int64_t>() != INT64_MIN) {
      return Value::Of(std::abs(input.json().get<int64_t>()));
    }
    if (input.IsData() && input.json().is_number_float()) {
      return Value::Of(std::abs(input.json().get<double>()));
    }
    return Bad("abs of something that is not a number");
  }
  if (name == "first" || name == "last" || name == "list" || name == "reverse" ||
      name == "unique") {
    absl::StatusOr<std::vector<Value>> items = Iterate(input);
    if (!items.ok()) return items.status();
    if (name == "first") return items->empty() ? Value::Undefined("first") : items->front();
    if (name == "last") return items->empty() ? Value::Undefined("last") : items->back();
    if (name == "reverse") std::reverse(items->begin(), items->end());
    if (name == "reverse" && input.IsString()) return Join(ListOf(*items), "", max_bytes);
    if (name == "unique") {
      std::vector<Value> once;
      for (const Value& item : *items) {
        if (std::none_of(once.begin(), once.end(),
                         [&](const Value& o) { return Equal(o, item); })) {
          once.push_back(item);
        }
      }
      return ListOf(once);
    }
    return ListOf(*items);
  }
  if (name == "indent") return Indent(input, args, max_bytes);
  // What is left turns text into text.
  const std::string text = ToText(input);
  if (name == "trim") return Strip(text, Side::kBoth, args);
  if (name == "upper") return Value::Of(Upper(text));
  if (name == "lower") return Value::Of(Lower(text));
  if (name == "capitalize") return Value::Of(Capitalize(text));
  if (name == "title") return Value::Of(Title(text));
  if (name == "replace") {
    return Replace(text, args.Text(0, "old", ""), args.Text(1, "new", ""),
                   args.Integer(2, "count", -1), max_bytes);
  }
  return Bad(absl::StrCat("the filter \"", std::string(name), "\" is not supported"));
}

absl::StatusOr<bool> CallTest(std::string_view name, const Value& input, const Arguments& args) {
  const bool data = input.IsData();
  if (name == "defined") return !input.IsUndefined();
  if (name == "undefined") return input.IsUndefined();
  if (name == "none") return data && input.json().is_null();
  if (name == "string") return input.IsString();
  if (name == "number") return data && (input.json().is_number() || input.json().is_boolean());
  if (name == "integer") return input.IsInteger();
  if (name == "float") return data && input.json().is_number_float();
  if (name == "boolean") return data && input.json().is_boolean();
  if (name == "mapping") return input.IsObject();
  if (name == "iterable" || name == "sequence") {
    return input.IsUndefined() || input.IsString() || input.IsArray() || input.IsObject();
  }
  if (name == "true") return data && input.json().is_boolean() && input.json().get<bool>();
  if (name == "false") return data && input.json().is_boolean() && !input.json().get<bool>();
  if (name == "lower") return input.IsString() && Lower(input.string()) == input.string();
  if (name == "upper") return input.IsString() && Upper(input.string()) == input.string();
  if (name == "odd" || name == "even") {
    if (!input.IsInteger()) return Bad("only integers are odd or even");
    return (input.json().get<int64_t>() % 2 != 0) == (name == "odd");
  }
  const Value* other = args.Get(0, "other");
  if (other == nullptr)
    return Bad(absl::StrCat("the test \"", std::string(name), "\" compares with what?"));
  if (name == "eq" || name == "equalto") return Equal(input, *other);
  if (name == "ne") return !Equal(input, *other);
  if (name == "in") return Contains(*other, input);
  if (!input.IsInteger() || !other->IsInteger() || other->json().get<int64_t>() == 0 ||
      other->json().get<int64_t>() == -1) {
    return Bad("divisibleby needs integers");
  }
  return input.json().get<int64_t>() % other->json().get<int64_t>() == 0;
}

absl::StatusOr<Value> CallMethod(const Value& receiver, const std::string& name,
                                 const Arguments& args, int64_t max_bytes) {
  if (receiver.IsObject()) {
    const Json& object = receiver.json();
    if (name == "items") return Items(object);
    if (name == "get") {
      const std::string key = args.Text(0, "key", "");
      if (object.contains(key)) return receiver.Part(object.at(key));
      const Value* otherwise = args.Get(1, "default");
      return otherwise != nullptr ? *otherwise : Value::Of(nullptr);
    }
    Json list = Json::array();
    for (const auto& [key, item] : object.items()) {
      if (name == "keys") {
        list.push_back(key);
      } else {
        list.push_back(item);
      }
    }
    return Value::Of(std::move(list));
  }
  const std::string& text = receiver.string();
  if (name == "strip") return Strip(text, Side::kBoth, args);
  if (name == "lstrip") return Strip(text, Side::kLeft, args);
  if (name == "rstrip") return Strip(text, Side::kRight, args);
  if (name == "upper" || name == "lower" || name == "title" || name == "capitalize") {
    return CallFilter(name, receiver, args, max_bytes);
  }
  if (name == "replace") {
    return Replace(text, args.Text(0, "old", ""), args.Text(1, "new", ""),
                   args.Integer(2, "count", -1), max_bytes);
  }
  if (name == "join") {
    return args.positional.empty() ? absl::StatusOr<Value>(Bad("join() of what?"))
                                   : Join(args.positional[0], text, max_bytes);
  }
  if (name == "splitlines") {
    Json lines = Json::array();
    for (const std::string_view line : SplitLines(text)) lines.push_back(std::string(line));
    return Value::Of(std::move(lines));
  }
  if (name == "startswith" || name == "endswith") {
    const Value* affix = args.Get(0, "prefix");
    if (affix == nullptr) return Bad(absl::StrCat(name, "() of what?"));
    const Json list = affix->IsArray() ? affix->json() : Json::array({ToText(*affix)});
    for (const Json& one : list) {
      if (!one.is_string()) continue;
      const std::string& part = one.get_ref<const std::string&>();
      if (name == "startswith" ? text.starts_with(part) : text.ends_with(part)) {
        return Value::Of(true);
      }
    }
    return Value::Of(false);
  }
  if (name == "find" || name == "count") {
    const std::string part = args.Text(0, "sub", "");
    if (part.empty()) return Bad(absl::StrCat(name, "() needs a text"));
    if (name == "find") {
      const size_t found = FindText(text, part);
      return Value::Of(found == std::string::npos
                           ? int64_t{-1}
                           : static_cast<int64_t>(CodePointCount(text.substr(0, found))));
    }
    int64_t count = 0;
    for (size_t at = FindText(text, part); at != std::string::npos;
         at = FindText(text, part, at + part.size())) {
      ++count;
    }
    return Value::Of(count);
  }
  // split
  const std::string separator = args.Text(0, "sep", "");
  int64_t left = args.Integer(1, "maxsplit", -1);
  Json parts = Json::array();
  if (separator.empty()) {
    std::string_view rest = StripSpace(text, Side::kLeft);
    while (!rest.empty()) {
      size_t end = 0;
      if (left == 0) {
        end = rest.size();
      } else {
        while (end < rest.size() && !IsSpace(DecodeCodePoint(rest.substr(end)))) {
          end += CodePointBytes(rest.substr(end));
        }
      }
      parts.push_back(std::string(rest.substr(0, end)));
      rest = StripSpace(rest.substr(end), Side::kLeft);
      --left;
    }
    return Value::Of(std::move(parts));
  }
  size_t at = 0;
  for (; left != 0; --left) {
    const size_t found = FindText(text, separator, at);
    if (found == std::string::npos) break;
    parts.push_back(text.substr(at, found - at));
    at = found + separator.size();
  }
  parts.push_back(text.substr(at));
  return Value::Of(std::move(parts));
}

}  // namespace shardline::jinja
