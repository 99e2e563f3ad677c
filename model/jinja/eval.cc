#include "model/jinja/eval.h"

#include <algorithm>
#include <cmath>
#include <ctime>
#include <utility>

#include "absl/strings/str_cat.h"
#include "model/jinja/builtins.h"
#include "model/jinja/lexer.h"
#include "model/jinja/text.h"
#include "model/jinja/value.h"
#include "model/unicode.h"

namespace shardline::jinja {
namespace {

using Kind = Node::Kind;

constexpr int64_t kMaxRange = 100'000;
constexpr int kMaxNesting = 64;         // of data that a template builds
constexpr int kDepthFactor = 8;         // evaluation may go this much deeper than the source nests
constexpr int64_t kBytesPerStep = 128;  // bytes read or copied that count as a step

/// Walks the tree. The first error sticks; every function returns at once after it.
class Evaluator {
 public:
  Evaluator(const Json& context, const model::ChatTemplateLimits& limits) : limits_(limits) {
    scopes_.emplace_back();
    const Value shared = Value::Of(context);
    for (const auto& [key, item] : shared.json().items()) scopes_[0][key] = shared.Part(item);
  }

  absl::StatusOr<std::string> Run(const Node& root) {
    std::string out;
    Execute(root, out);
    if (!status_.ok()) return status_;
    return out;
  }

 private:
  enum class Flow { kNext, kBreak, kContinue };
  using Scope = std::map<std::string, Value>;

  bool ok() const { return status_.ok(); }
  Value Fail(const Node& node, std::string_view what) {
    if (ok()) status_ = ErrorAtLine(node.line, what);
    return {};
  }
  Value Exhausted(const Node& node, std::string_view what) {
    if (ok()) {
      status_ = absl::ResourceExhaustedError(
          absl::StrCat("chat template: line ", node.line, ": ", std::string(what)));
    }
    return {};
  }
  bool Step(const Node& node) {
    ++steps_;
    if (steps_ > limits_.max_steps) Exhausted(node, "too many steps");
    if (depth_ > kDepthFactor * limits_.max_depth) Exhausted(node, "nested too deep");
    return ok();
  }
  class Deeper {
   public:
    explicit Deeper(int& depth) : depth_(depth) { ++depth_; }
    ~Deeper() { --depth_; }

   private:
    int& depth_;
  };
  /// What is read and copied counts as work, so that steps bound time and memory.
  bool Work(const Node& node, int64_t bytes) {
    steps_ += std::min(bytes, limits_.max_steps * kBytesPerStep) / kBytesPerStep;
    if (steps_ > limits_.max_steps) Exhausted(node, "too many steps");
    return ok();
  }
  /// Before a value of so many bytes is made.
  bool Charge(const Node& node, int64_t bytes) {
    if (bytes > limits_.max_output_bytes) Exhausted(node, "too long a text or list");
    return Work(node, bytes);
  }
  void Append(const Node& node, std::string_view text, std::string& out) {
    if (static_cast<int64_t>(out.size() + text.size()) > limits_.max_output_bytes) {
      Exhausted(node, "too long a text");
    }
    if (Work(node, static_cast<int64_t>(text.size()))) out += text;
  }
  int64_t WeightOf(const Value& value) const { return value.IsData() ? Weight(value.json()) : 0; }

  template <typename T>
  Value Settle(const Node& node, absl::StatusOr<T> result) {
    if (!result.ok()) {
      if (result.status().code() == absl::StatusCode::kResourceExhausted) {
        return Exhausted(node, std::string(result.status().message()));
      }
      return Fail(node, std::string(result.status().message()));
    }
    Value value;
    if constexpr (std::is_same_v<T, bool>) {
      value = Value::Of(*result);
    } else {
      value = *std::move(result);
    }
    Charge(node, WeightOf(value));
    return value;
  }

  // Statements.

  Flow Execute(const Node& node, std::string& out) {
    const Deeper deeper(depth_);
    if (!Step(node)) return Flow::kNext;
    switch (node.kind) {
      case Kind::kBlock:
        for (const NodePtr& kid : node.kids) {
          const Flow flow = Execute(*kid, out);
          if (flow != Flow::kNext || !ok()) return flow;
        }
        return Flow::kNext;
      case Kind::kText:
        Append(node, node.text, out);
        return Flow::kNext;
      case Kind::kOutput:
        Output(node, Eval(*node.kids[0]), out);
        return Flow::kNext;
      case Kind::kIf:
        for (size_t i = 0; i + 1 < node.kids.size(); i += 2) {
          const bool taken = Truth(Eval(*node.kids[i]));
          if (!ok()) return Flow::kNext;
          if (taken) return Execute(*node.kids[i + 1], out);
        }
        return node.kids.size() % 2 == 1 ? Execute(*node.kids.back(), out) : Flow::kNext;
      case Kind::kFor:
        return ExecuteFor(node, out);
      case Kind::kSet:
        Assign(node, Eval(*node.kids[0]));
        return Flow::kNext;
      case Kind::kSetBlock: {
        std::string text;
        scopes_.emplace_back();
        Execute(*node.kids[0], text);
        scopes_.pop_back();
        Assign(node, Value::Of(std::move(text)));
        return Flow::kNext;
      }
      case Kind::kMacro: {
        Value macro;
        macro.kind = Value::Kind::kMacro;
        macro.macro = &node;
        macro.name = node.text;
        scopes_.back()[node.text] = macro;
        return Flow::kNext;
      }
      case Kind::kBreak:
        return Flow::kBreak;
      case Kind::kContinue:
        return Flow::kContinue;
      default:
        Fail(node, "not a statement");
        return Flow::kNext;
    }
  }

  void Output(const Node& node, const Value& value, std::string& out) {
    if (!ok() || !Charge(node, WeightOf(value))) return;
    Append(node, ToText(value), out);
  }

  void Assign(const Node& node, Value value) {
    if (!ok()) return;
    if (node.names.size() == 1) {
      scopes_.back()[node.names[0]] = std::move(value);
      return;
    }
    const Value object = Lookup(node.names[0]);
    if (object.kind != Value::Kind::kNamespace) {
      Fail(node, absl::StrCat("\"", node.names[0],
                              "\" is not a namespace; only its attributes can "
                              "be set"));
      return;
    }
    if (value.kind == Value::Kind::kNamespace) {
      Fail(node, "a namespace cannot hold a namespace");
      return;
    }
    (*object.members)[node.names[1]] = std::move(value);
  }

  Flow ExecuteFor(const Node& node, std::string& out) {
    const Value iterable = Eval(*node.kids[0]);
    if (!ok()) return Flow::kNext;
    absl::StatusOr<std::vector<Value>> all = Elements(node, iterable);
    if (!all.ok()) return Flow::kNext;
    std::vector<Value> items;
    for (Value& item : *all) {
      if (node.kids[1] != nullptr) {
        scopes_.emplace_back();
        const bool kept = BindTargets(node, item) && Truth(Eval(*node.kids[1]));
        scopes_.pop_back();
        if (!ok()) return Flow::kNext;
        if (!kept) continue;
      }
      items.push_back(std::move(item));
    }
    if (items.empty()) {
      return node.kids[3] != nullptr ? Execute(*node.kids[3], out) : Flow::kNext;
    }
    const int64_t count = static_cast<int64_t>(items.size());
    for (int64_t i = 0; i < count && ok(); ++i) {
      scopes_.emplace_back();
      Value loop;
      loop.kind = Value::Kind::kNamespace;
      loop.name = "loop";
      loop.members = std::make_shared<Scope>(
          Scope{{"index", Value::Of(i + 1)},
                {"index0", Value::Of(i)},
                {"revindex", Value::Of(count - i)},
                {"revindex0", Value::Of(count - i - 1)},
                {"first", Value::Of(i == 0)},
                {"last", Value::Of(i + 1 == count)},
                {"length", Value::Of(count)},
                {"previtem", i > 0 ? items[i - 1] : Value::Undefined("previtem")},
                {"nextitem", i + 1 < count ? items[i + 1] : Value::Undefined("nextitem")}});
      scopes_.back()["loop"] = std::move(loop);
      const Flow flow = BindTargets(node, items[i]) ? Execute(*node.kids[2], out) : Flow::kNext;
      scopes_.pop_back();
      if (flow == Flow::kBreak) break;
    }
    return Flow::kNext;
  }

  /// Iterate(), each element a step; the status is set when it fails.
  absl::StatusOr<std::vector<Value>> Elements(const Node& node, const Value& value) {
    absl::StatusOr<std::vector<Value>> all = Iterate(value);
    if (!all.ok()) {
      Settle(node, absl::StatusOr<Value>(all.status()));
    } else if (!Work(node, static_cast<int64_t>(all->size()) * kBytesPerStep)) {
      return status_;
    }
    return all;
  }

  bool BindTargets(const Node& node, const Value& item) {
    if (node.names.size() == 1) {
      scopes_.back()[node.names[0]] = item;
      return true;
    }
    if (!item.IsArray() || item.json().size() != node.names.size()) {
      Fail(node, absl::StrCat("cannot unpack an element into ", node.names.size(), " names"));
      return false;
    }
    for (size_t i = 0; i < node.names.size(); ++i) {
      scopes_.back()[node.names[i]] = item.Part(item.json()[i]);
    }
    return true;
  }

  Value Lookup(const std::string& name) const {
    for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope) {
      const auto found = scope->find(name);
      if (found != scope->end()) return found->second;
    }
    for (const char* builtin : {"raise_exception", "range", "namespace", "strftime_now", "dict"}) {
      if (name != builtin) continue;
      Value function;
      function.kind = Value::Kind::kFunction;
      function.name = name;
      return function;
    }
    return Value::Undefined(name);
  }

  // Expressions.

  Value Eval(const Node& node) {
    const Deeper deeper(depth_);
    if (!Step(node)) return {};
    switch (node.kind) {
      case Kind::kConstant:
        return Value::Share(node.constant);
      case Kind::kName:
        return Lookup(node.text);
      case Kind::kList:
        return EvalList(node);
      case Kind::kDict:
        return EvalDict(node);
      case Kind::kUnary:
        return EvalUnary(node);
      case Kind::kBinary:
        return EvalBinary(node);
      case Kind::kCondition:
        if (Truth(Eval(*node.kids[1]))) return Eval(*node.kids[0]);
        return node.kids[2] != nullptr ? Eval(*node.kids[2]) : Value();
      case Kind::kAttribute:
        return EvalMember(node, Eval(*node.kids[0]), node.text, true);
      case Kind::kItem:
        return EvalItem(node);
      case Kind::kSlice:
        return EvalSlice(node);
      case Kind::kCall:
        return EvalCall(node);
      case Kind::kFilter: {
        const Value input = Eval(*node.kids[0]);
        const Arguments args = EvalArguments(node);
        if (!ok() || !Work(node, FilterWork(node.text, input) + WeightOf(args))) return {};
        return Settle(node, CallFilter(node.text, input, args, limits_.max_output_bytes));
      }
      case Kind::kTest: {
        const Value input = Eval(*node.kids[0]);
        const Arguments args = EvalArguments(node);
        if (!ok() || !Work(node, WeightOf(args))) return {};
        if (input.IsString()) Work(node, WeightOf(input));
        return Settle(node, CallTest(node.text, input, args));
      }
      default:
        return Fail(node, "not an expression");
    }
  }

  int64_t WeightOf(const Arguments& args) const {
    int64_t bytes = 0;
    for (const Value& value : args.positional) bytes += WeightOf(value);
    for (const auto& [name, value] : args.named) bytes += WeightOf(value);
    return bytes;
  }

  Arguments EvalArguments(const Node& node) {
    Arguments args;
    for (size_t i = 1; i < node.kids.size() && ok(); ++i) {
      args.positional.push_back(Eval(*node.kids[i]));
    }
    for (const auto& [name, value] : node.named) {
      if (ok()) args.named[name] = Eval(*value);
    }
    return args;
  }

  /// Data to be put in a list or a dict.
  Json DataOf(const Node& node, const Value& value) {
    if (value.IsUndefined()) return nullptr;
    if (!value.IsData()) {
      Fail(node, "only data can be put in a list or a dict");
      return nullptr;
    }
    if (Nesting(value.json()) >= kMaxNesting) Exhausted(node, "data nested too deep");
    if (!Charge(node, WeightOf(value))) return nullptr;
    return value.json();
  }

  Value EvalList(const Node& node) {
    Json list = Json::array();
    for (const NodePtr& kid : node.kids) {
      list.push_back(DataOf(node, Eval(*kid)));
      if (!ok()) return {};
    }
    return Value::Of(std::move(list));
  }

  Value EvalDict(const Node& node) {
    Json dict = Json::object();
    for (size_t i = 0; i + 1 < node.kids.size(); i += 2) {
      const Value key = Eval(*node.kids[i]);
      if (ok() && !key.IsString()) return Fail(node, "keys of a dict must be text");
      const Value value = Eval(*node.kids[i + 1]);
      if (!ok()) return {};
      dict[key.string()] = DataOf(node, value);
    }
    return Value::Of(std::move(dict));
  }

  Value EvalUnary(const Node& node) {
    const Value operand = Eval(*node.kids[0]);
    if (!ok()) return {};
    if (node.text == "not") return Value::Of(!Truth(operand));
    if (!operand.IsData() || !operand.json().is_number()) {
      return Fail(node, absl::StrCat("\"", node.text, "\" needs a number"));
    }
    if (node.text == "+") return operand;
    if (!operand.IsInteger()) return Value::Of(-operand.json().get<double>());
    int64_t negated = 0;
    if (__builtin_sub_overflow(int64_t{0}, operand.json().get<int64_t>(), &negated)) {
      return Fail(node, "integer overflow");
    }
    return Value::Of(negated);
  }

  Value EvalBinary(const Node& node) {
    const std::string& op = node.text;
    const Value left = Eval(*node.kids[0]);
    if (!ok()) return {};
    if (op == "and") return Truth(left) ? Eval(*node.kids[1]) : left;
    if (op == "or") return Truth(left) ? left : Eval(*node.kids[1]);
    const Value right = Eval(*node.kids[1]);
    if (!ok()) return {};
    // Comparing and searching read both sides.
    if (op == "==" || op == "!=" || op == "in" || op == "not in") {
      const bool by_key = op.ends_with("in") && right.IsObject();
      if (!Work(node, by_key ? 0 : WeightOf(left) + WeightOf(right))) return {};
    }
    if (op == "==") return Value::Of(Equal(left, right));
    if (op == "!=") return Value::Of(!Equal(left, right));
    if (op == "in") return Settle(node, Contains(right, left));
    if (op == "not in") {
      const Value found = Settle(node, Contains(right, left));
      return Value::Of(!Truth(found));
    }
    if (op == "<") return Settle(node, Less(left, right));
    if (op == ">") return Settle(node, Less(right, left));
    if (op == "<=" || op == ">=") {
      const Value worse = Settle(node, op == "<=" ? Less(right, left) : Less(left, right));
      return Value::Of(!Truth(worse));
    }
    if (op == "~") {
      if (!Charge(node, WeightOf(left) + WeightOf(right))) return {};
      std::string text = ToText(left);
      text += ToText(right);
      return Value::Of(std::move(text));
    }
    return Arithmetic(node, op, left, right);
  }

  Value Arithmetic(const Node& node, const std::string& op, const Value& left, const Value& right) {
    if (op == "+" && left.IsString() && right.IsString()) {
      if (!Charge(node, left.string().size() + right.string().size())) return {};
      return Value::Of(left.string() + right.string());
    }
    if (op == "+" && left.IsArray() && right.IsArray()) {
      if (!Charge(node, WeightOf(left) + WeightOf(right))) return {};
      Json list = left.json();
      for (const Json& item : right.json()) list.push_back(item);
      return Value::Of(std::move(list));
    }
    if (op == "*" && left.IsString() && right.IsInteger()) {
      const int64_t times = std::max<int64_t>(0, right.json().get<int64_t>());
      int64_t bytes = 0;
      if (__builtin_mul_overflow(times, static_cast<int64_t>(left.string().size()), &bytes) ||
          !Charge(node, bytes)) {
        return Exhausted(node, "too long a text");
      }
      std::string text;
      for (int64_t i = 0; i < (bytes > 0 ? times : 0); ++i) text += left.string();
      return Value::Of(std::move(text));
    }
    const auto is_number = [](const Value& v) { return v.IsData() && v.json().is_number(); };
    if (!is_number(left) || !is_number(right)) {
      return Fail(
          node,
          absl::StrCat("\"", op, "\" cannot be used on values of these types",
                       left.IsUndefined() || right.IsUndefined() ? " (one is undefined)" : ""));
    }
    if (left.IsInteger() && right.IsInteger() && op != "/" && op != "**") {
      return IntegerArithmetic(node, op, left.json().get<int64_t>(), right.json().get<int64_t>());
    }
    const double a = left.json().get<double>();
    const double b = right.json().get<double>();
    if (op == "+") return Value::Of(a + b);
    if (op == "-") return Value::Of(a - b);
    if (op == "*") return Value::Of(a * b);
    if (op == "**") {
      const double power = std::pow(a, b);
      if (left.IsInteger() && right.IsInteger() && b >= 0) {
        // Beyond what a double counts exactly, Python has integers without bound; we do not.
        if (!(std::abs(power) < 9e15)) return Fail(node, "integer overflow");
        return Value::Of(static_cast<int64_t>(power));
      }
      return Value::Of(power);
    }
    if (b == 0) return Fail(node, "division by zero");
    if (op == "/") return Value::Of(a / b);
    const double floor = std::floor(a / b);
    return Value::Of(op == "//" ? floor : a - floor * b);
  }

  Value IntegerArithmetic(const Node& node, const std::string& op, int64_t a, int64_t b) {
    int64_t result = 0;
    bool overflow = false;
    if (op == "+") {
      overflow = __builtin_add_overflow(a, b, &result);
    } else if (op == "-") {
      overflow = __builtin_sub_overflow(a, b, &result);
    } else if (op == "*") {
      overflow = __builtin_mul_overflow(a, b, &result);
    } else {
      if (b == 0) return Fail(node, "division by zero");
      overflow = a == INT64_MIN && b == -1;
      if (!overflow) {
        // Python rounds towards minus infinity.
        const int64_t remainder = a % b != 0 && (a % b < 0) != (b < 0) ? a % b + b : a % b;
        result = op == "%" ? remainder : (a - remainder) / b;
      }
    }
    return overflow ? Fail(node, "integer overflow") : Value::Of(result);
  }

  Value EvalMember(const Node& node, const Value& object, const std::string& name, bool methods) {
    if (!ok()) return {};
    if (object.IsUndefined()) {
      return Fail(node, absl::StrCat("\"", object.name, "\" is undefined"));
    }
    if (object.kind == Value::Kind::kNamespace) {
      const auto found = object.members->find(name);
      return found == object.members->end() ? Value::Undefined(name) : found->second;
    }
    // Jinja looks for a method first when written with a dot, for a key when with brackets.
    if (methods && object.IsData() && HasMethod(object, name)) {
      Value method = object;
      method.kind = Value::Kind::kMethod;
      method.name = name;
      return method;
    }
    return Member(object, name);
  }

  Value EvalItem(const Node& node) {
    const Value object = Eval(*node.kids[0]);
    const Value index = Eval(*node.kids[1]);
    if (!ok()) return {};
    if (index.IsString()) return EvalMember(node, object, index.string(), false);
    if (object.IsUndefined()) {
      return Fail(node, absl::StrCat("\"", object.name, "\" is undefined"));
    }
    if (!index.IsInteger()) return Fail(node, "an index must be an integer or a text");
    if (!object.IsString() && !object.IsArray()) return Value::Undefined("an element of no list");
    if (object.IsString() && !Work(node, WeightOf(object))) return {};
    const int64_t size = static_cast<int64_t>(object.IsArray() ? object.json().size()
                                                               : CodePointCount(object.string()));
    int64_t at = index.json().get<int64_t>();
    if (at < 0) at += size;
    if (at < 0 || at >= size) return Value::Undefined("an element beyond the end");
    if (object.IsArray()) return object.Part(object.json()[at]);
    const std::string_view rest =
        std::string_view(object.string()).substr(CodePointOffset(object.string(), at));
    return Value::Of(std::string(rest.substr(0, CodePointBytes(rest))));
  }

  Value EvalSlice(const Node& node) {
    const Value object = Eval(*node.kids[0]);
    int64_t bounds[3] = {0, 0, 1};
    bool given[3] = {};
    for (int i = 0; i < 3 && ok(); ++i) {
      if (node.kids[i + 1] == nullptr) continue;
      const Value bound = Eval(*node.kids[i + 1]);
      if (ok() && bound.IsData() && bound.json().is_null()) continue;
      if (ok() && !bound.IsInteger()) return Fail(node, "slice bounds must be integers");
      if (ok()) bounds[i] = bound.json().get<int64_t>();
      given[i] = true;
    }
    if (!ok()) return {};
    if (!object.IsString() && !object.IsArray())
      return Fail(node, "only texts and lists have slices");
    if (!Charge(node, WeightOf(object))) return {};
    const int64_t size = static_cast<int64_t>(object.IsArray() ? object.json().size()
                                                               : CodePointCount(object.string()));
    const int64_t step = std::clamp<int64_t>(bounds[2], -size - 1, size + 1);
    if (step == 0) return Fail(node, "a slice's step cannot be 0");
    const int64_t low = step > 0 ? 0 : -1;
    const int64_t high = step > 0 ? size : size - 1;
    const auto place = [&](int i, int64_t otherwise) {
      if (!given[i]) return otherwise;
      const int64_t at = bounds[i] < 0 ? std::max(bounds[i], -size - 1) + size : bounds[i];
      return std::clamp(at, low, high);
    };
    const int64_t start = place(0, step > 0 ? 0 : size - 1);
    const int64_t stop = place(1, step > 0 ? size : -1);
    if (object.IsString() && step == 1) {
      const size_t begin = CodePointOffset(object.string(), start);
      const size_t end = CodePointOffset(object.string(), std::max(start, stop));
      return Value::Of(object.string().substr(begin, end - begin));
    }
    const absl::StatusOr<std::vector<Value>> items = Elements(node, object);
    if (!items.ok()) return {};
    Json list = Json::array();
    std::string text;
    for (int64_t i = start; step > 0 ? i < stop : i > stop; i += step) {
      if (object.IsString()) {
        text += (*items)[i].string();
      } else {
        list.push_back((*items)[i].json());
      }
    }
    return object.IsString() ? Value::Of(std::move(text)) : Value::Of(std::move(list));
  }

  Value EvalCall(const Node& node) {
    const Value callee = Eval(*node.kids[0]);
    const Arguments args = EvalArguments(node);
    if (!ok()) return {};
    switch (callee.kind) {
      case Value::Kind::kMacro:
        return CallMacro(node, *callee.macro, args);
      case Value::Kind::kFunction:
        return CallFunction(node, callee.name, args);
      case Value::Kind::kMethod: {
        const Value receiver = Value::Share(callee.data);
        const bool by_key = receiver.IsObject() && callee.name == "get";
        if (!Work(node, WeightOf(args) + (by_key ? 0 : WeightOf(receiver)))) return {};
        return Settle(node, CallMethod(receiver, callee.name, args, limits_.max_output_bytes));
      }
      default:
        return Fail(node, absl::StrCat("\"", callee.IsUndefined() ? callee.name : "this",
                                       "\" cannot be called"));
    }
  }

  Value CallMacro(const Node& node, const Node& macro, const Arguments& args) {
    if (args.positional.size() > macro.names.size()) {
      return Fail(node, absl::StrCat("macro \"", macro.text, "\" takes ", macro.names.size(),
                                     " arguments"));
    }
    Scope scope;
    for (const auto& [name, value] : macro.named) scope[name] = Eval(*value);
    for (size_t i = 0; i < args.positional.size(); ++i) scope[macro.names[i]] = args.positional[i];
    for (const auto& [name, value] : args.named) {
      if (std::find(macro.names.begin(), macro.names.end(), name) == macro.names.end()) {
        return Fail(node,
                    absl::StrCat("macro \"", macro.text, "\" has no argument \"", name, "\""));
      }
      scope[name] = value;
    }
    for (const std::string& name : macro.names) scope.try_emplace(name, Value::Undefined(name));
    // A macro sees the template's own variables, not those of its caller.
    std::vector<Scope> callers;
    for (size_t i = 1; i < scopes_.size(); ++i) callers.push_back(std::move(scopes_[i]));
    scopes_.resize(1);
    scopes_.push_back(std::move(scope));
    std::string text;
    Execute(*macro.kids[0], text);
    scopes_.resize(1);
    for (Scope& caller : callers) scopes_.push_back(std::move(caller));
    Charge(node, static_cast<int64_t>(text.size()));
    return Value::Of(std::move(text));
  }

  Value CallFunction(const Node& node, const std::string& name, const Arguments& args) {
    if (name == "raise_exception") {
      if (ok()) {
        status_ = absl::InvalidArgumentError(
            absl::StrCat("the chat template refuses: ",
                         args.positional.empty()
                             ? ""
                             : model::Printable(ToText(args.positional[0]).substr(0, 1000))));
      }
      return {};
    }
    if (name == "range") return Range(node, args);
    if (name == "strftime_now") {
      const std::time_t now = std::time(nullptr);
      std::tm local{};
      localtime_r(&now, &local);
      char text[256] = "";
      const std::string format = args.Text(0, "format", "%Y-%m-%d");
      if (format.empty() || std::strftime(text, sizeof(text), format.c_str(), &local) == 0) {
        return Fail(node, "strftime_now() with a format that is empty or too long");
      }
      return Value::Of(std::string(text));
    }
    if (name == "dict") {
      Json dict = Json::object();
      for (const auto& [key, value] : args.named) dict[key] = DataOf(node, value);
      return Value::Of(std::move(dict));
    }
    Value created;
    created.kind = Value::Kind::kNamespace;
    created.name = "namespace";
    created.members = std::make_shared<Scope>(args.named);
    for (const auto& [key, value] : args.named) {
      if (value.kind == Value::Kind::kNamespace) {
        return Fail(node, "a namespace cannot hold a namespace");
      }
    }
    return created;
  }

  Value Range(const Node& node, const Arguments& args) {
    int64_t bounds[3] = {0, 0, 1};
    const size_t count = args.positional.size();
    if (count < 1 || count > 3) return Fail(node, "range() takes 1 to 3 integers");
    for (size_t i = 0; i < count; ++i) {
      if (!args.positional[i].IsInteger()) return Fail(node, "range() takes 1 to 3 integers");
      bounds[count == 1 ? 1 : i] = args.positional[i].json().get<int64_t>();
    }
    const auto [start, stop, step] = bounds;
    if (step == 0) return Fail(node, "range() with a step of 0");
    Json list = Json::array();
    int64_t at = start;
    while (step > 0 ? at < stop : at > stop) {
      if (static_cast<int64_t>(list.size()) >= kMaxRange)
        return Exhausted(node, "too long a range");
      list.push_back(at);
      if (__builtin_add_overflow(at, step, &at)) break;
    }
    steps_ += static_cast<int64_t>(list.size());
    return Value::Of(std::move(list));
  }

  const model::ChatTemplateLimits limits_;
  std::vector<Scope> scopes_;
  int64_t steps_ = 0;
  int depth_ = 0;
  absl::Status status_;
};

}  // namespace

absl::StatusOr<std::string> Evaluate(const Node& root, const Json& context,
                                     const model::ChatTemplateLimits& limits) {
  if (!context.is_object() || Nesting(context) > kMaxNesting) {
    return absl::InvalidArgumentError("chat template: the context must be an object, not too deep");
  }
  return Evaluator(context, limits).Run(root);
}

}  // namespace shardline::jinja
