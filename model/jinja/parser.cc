#include "model/jinja/parser.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "model/jinja/lexer.h"

namespace shardline::jinja {
namespace {

using Kind = Node::Kind;

/// Recursive descent. The first error sticks and moves to the end of the tokens, so that every loop
/// ends soon after it.
class Parser {
 public:
  Parser(std::vector<Token> tokens, int max_depth)
      : tokens_(std::move(tokens)), max_depth_(max_depth) {}

  absl::StatusOr<NodePtr> Run() {
    NodePtr body = ParseBody({});
    if (status_.ok() && !Is(Token::Kind::kEnd)) Fail("unexpected text after the template");
    if (!status_.ok()) return status_;
    return body;
  }

 private:
  const Token& Current() const { return tokens_[at_]; }
  bool Is(Token::Kind kind) const { return Current().kind == kind; }
  bool IsOperator(std::string_view text) const {
    return Is(Token::Kind::kOperator) && Current().text == text;
  }
  bool IsWord(std::string_view text) const {
    return Is(Token::Kind::kName) && Current().text == text;
  }
  Token Take() {
    Token token = Current();
    if (at_ + 1 < tokens_.size()) ++at_;
    return token;
  }
  bool SkipOperator(std::string_view text) {
    if (!IsOperator(text)) return false;
    Take();
    return true;
  }
  bool SkipWord(std::string_view text) {
    if (!IsWord(text)) return false;
    Take();
    return true;
  }
  void Fail(std::string_view what) {
    if (status_.ok()) status_ = ErrorAtLine(Current().line, what);
    at_ = tokens_.size() - 1;
  }
  void FailHere() {
    Fail(Is(Token::Kind::kEnd) ? std::string("the template ends too soon")
                               : absl::StrCat("unexpected \"", Current().text.substr(0, 40), "\""));
  }
  void Expect(std::string_view text) {
    if (!SkipOperator(text)) FailHere();
  }
  std::string TakeName() {
    if (!Is(Token::Kind::kName)) {
      FailHere();
      return "";
    }
    return Take().text;
  }
  void EndBlock() {
    if (!Is(Token::Kind::kBlockEnd)) return FailHere();
    Take();
  }
  NodePtr Make(Kind kind) const {
    auto node = std::make_unique<Node>();
    node->kind = kind;
    node->line = Current().line;
    return node;
  }
  NodePtr MakeBinary(std::string op, NodePtr left, NodePtr right) const {
    NodePtr node = Make(Kind::kBinary);
    node->text = std::move(op);
    node->kids.push_back(std::move(left));
    node->kids.push_back(std::move(right));
    return node;
  }

  /// Bounds recursion, and with it the depth of the tree that the evaluator recurses over.
  class Deeper {
   public:
    explicit Deeper(Parser& parser) : parser_(parser) {
      if (++parser_.depth_ > parser_.max_depth_ && parser_.status_.ok()) {
        parser_.status_ = absl::ResourceExhaustedError(
            absl::StrCat("chat template: line ", parser_.Current().line, ": nested deeper than ",
                         parser_.max_depth_, " levels"));
        parser_.at_ = parser_.tokens_.size() - 1;
      }
    }
    ~Deeper() { --parser_.depth_; }

   private:
    Parser& parser_;
  };
  /// Chains such as a.b.c or 1 + 2 + 3 nest to the left without recursion; they count as depth too.
  bool LinkTooLong(int& links) {
    if (++links + depth_ <= max_depth_) return false;
    const Deeper at_limit(*this);
    if (status_.ok()) {
      status_ = absl::ResourceExhaustedError(absl::StrCat(
          "chat template: line ", Current().line, ": a chain longer than ", max_depth_, " links"));
      at_ = tokens_.size() - 1;
    }
    return true;
  }

  // Statements.

  /// Statements up to a block tag whose name is in `ends`; that name is the current token.
  NodePtr ParseBody(std::initializer_list<std::string_view> ends) {
    const Deeper deeper(*this);
    NodePtr body = Make(Kind::kBlock);
    while (status_.ok() && !Is(Token::Kind::kEnd)) {
      if (Is(Token::Kind::kText)) {
        NodePtr text = Make(Kind::kText);
        text->text = Take().text;
        body->kids.push_back(std::move(text));
      } else if (Is(Token::Kind::kVariableBegin)) {
        Take();
        NodePtr output = Make(Kind::kOutput);
        output->kids.push_back(ParseTuple());
        if (!Is(Token::Kind::kVariableEnd)) FailHere();
        Take();
        body->kids.push_back(std::move(output));
      } else if (Is(Token::Kind::kBlockBegin)) {
        Take();
        if (std::any_of(ends.begin(), ends.end(), [&](auto end) { return IsWord(end); })) {
          return body;
        }
        body->kids.push_back(ParseStatement());
      } else {
        FailHere();
      }
    }
    if (ends.size() > 0) FailHere();
    return body;
  }

  NodePtr ParseStatement() {
    const std::string name = TakeName();
    if (name == "if") return ParseIf();
    if (name == "for") return ParseFor();
    if (name == "set") return ParseSet();
    if (name == "macro") return ParseMacro();
    if (name == "generation") {
      EndBlock();
      NodePtr body = ParseBody({"endgeneration"});
      Take();
      EndBlock();
      return body;
    }
    if (name == "break" || name == "continue") {
      if (loops_ == 0) Fail(absl::StrCat("\"", name, "\" outside of a loop"));
      EndBlock();
      return Make(name == "break" ? Kind::kBreak : Kind::kContinue);
    }
    Fail(absl::StrCat("the statement \"", name, "\" is not supported"));
    return Make(Kind::kBlock);
  }

  NodePtr ParseIf() {
    NodePtr node = Make(Kind::kIf);
    node->kids.push_back(ParseExpression());
    EndBlock();
    node->kids.push_back(ParseBody({"elif", "else", "endif"}));
    while (SkipWord("elif")) {
      node->kids.push_back(ParseExpression());
      EndBlock();
      node->kids.push_back(ParseBody({"elif", "else", "endif"}));
    }
    if (SkipWord("else")) {
      EndBlock();
      node->kids.push_back(ParseBody({"endif"}));
    }
    Take();
    EndBlock();
    return node;
  }

  NodePtr ParseFor() {
    NodePtr node = Make(Kind::kFor);
    do {
      node->names.push_back(TakeName());
    } while (SkipOperator(","));
    if (!SkipWord("in")) FailHere();
    node->kids.push_back(ParseOr());
    node->kids.push_back(SkipWord("if") ? ParseExpression() : nullptr);
    EndBlock();
    ++loops_;
    node->kids.push_back(ParseBody({"else", "endfor"}));
    --loops_;
    NodePtr otherwise;
    if (SkipWord("else")) {
      EndBlock();
      otherwise = ParseBody({"endfor"});
    }
    Take();
    EndBlock();
    node->kids.push_back(std::move(otherwise));
    return node;
  }

  NodePtr ParseSet() {
    NodePtr node = Make(Kind::kSet);
    node->names.push_back(TakeName());
    if (SkipOperator(".")) node->names.push_back(TakeName());
    if (SkipOperator("=")) {
      node->kids.push_back(ParseTuple());
      EndBlock();
      return node;
    }
    node->kind = Kind::kSetBlock;
    EndBlock();
    node->kids.push_back(ParseBody({"endset"}));
    Take();
    EndBlock();
    return node;
  }

  NodePtr ParseMacro() {
    NodePtr node = Make(Kind::kMacro);
    node->text = TakeName();
    Expect("(");
    while (status_.ok() && !IsOperator(")")) {
      node->names.push_back(TakeName());
      if (SkipOperator("=")) {
        node->named.emplace_back(node->names.back(), ParseExpression());
      } else if (!node->named.empty()) {
        Fail("a parameter without default follows one with a default");
      }
      if (!SkipOperator(",")) break;
    }
    Expect(")");
    EndBlock();
    const int outer_loops = std::exchange(loops_, 0);
    node->kids.push_back(ParseBody({"endmacro"}));
    loops_ = outer_loops;
    Take();
    EndBlock();
    return node;
  }

  // Expressions, loosest first.

  NodePtr ParseTuple() {
    NodePtr first = ParseExpression();
    if (!IsOperator(",")) return first;
    NodePtr list = Make(Kind::kList);
    list->kids.push_back(std::move(first));
    while (SkipOperator(",")) list->kids.push_back(ParseExpression());
    return list;
  }

  NodePtr ParseExpression() {
    const Deeper deeper(*this);
    NodePtr value = ParseOr();
    int links = 0;
    while (SkipWord("if")) {
      if (LinkTooLong(links)) break;
      NodePtr node = Make(Kind::kCondition);
      node->kids.push_back(std::move(value));
      node->kids.push_back(ParseOr());
      node->kids.push_back(SkipWord("else") ? ParseExpression() : nullptr);
      value = std::move(node);
    }
    return value;
  }

  NodePtr ParseOr() {
    NodePtr left = ParseAnd();
    for (int links = 0; SkipWord("or") && !LinkTooLong(links);) {
      left = MakeBinary("or", std::move(left), ParseAnd());
    }
    return left;
  }

  NodePtr ParseAnd() {
    NodePtr left = ParseNot();
    for (int links = 0; SkipWord("and") && !LinkTooLong(links);) {
      left = MakeBinary("and", std::move(left), ParseNot());
    }
    return left;
  }

  NodePtr ParseNot() {
    if (!IsWord("not")) return ParseCompare();
    const Deeper deeper(*this);
    NodePtr node = Make(Kind::kUnary);
    node->text = Take().text;
    node->kids.push_back(ParseNot());
    return node;
  }

  NodePtr ParseCompare() {
    NodePtr left = ParseLeft({"+", "-"});
    for (int links = 0; status_.ok() && !LinkTooLong(links);) {
      std::string op;
      for (const char* one : {"==", "!=", "<=", ">=", "<", ">"}) {
        if (op.empty() && IsOperator(one)) op = Take().text;
      }
      if (op.empty() && SkipWord("in")) op = "in";
      if (op.empty() && IsWord("not") && at_ + 1 < tokens_.size() &&
          tokens_[at_ + 1].kind == Token::Kind::kName && tokens_[at_ + 1].text == "in") {
        Take();
        Take();
        op = "not in";
      }
      if (op.empty()) break;
      left = MakeBinary(op, std::move(left), ParseLeft({"+", "-"}));
    }
    return left;
  }

  /// Left-associative operators: + and -, over ~, over * / // %.
  NodePtr ParseLeft(std::initializer_list<const char*> operators) {
    const std::string_view first = *operators.begin();
    const auto operand = [&] {
      if (first == "+") return ParseLeft({"~"});
      if (first == "~") return ParseLeft({"*", "//", "/", "%"});
      return ParsePower();
    };
    NodePtr left = operand();
    for (int links = 0; status_.ok() && !LinkTooLong(links);) {
      std::string op;
      for (const char* one : operators) {
        if (op.empty() && IsOperator(one)) op = Take().text;
      }
      if (op.empty()) break;
      left = MakeBinary(op, std::move(left), operand());
    }
    return left;
  }

  /// Unlike Python's, Jinja's ** is left-associative and binds less than a sign.
  NodePtr ParsePower() {
    NodePtr left = ParseUnary(true);
    for (int links = 0; SkipOperator("**") && !LinkTooLong(links);) {
      left = MakeBinary("**", std::move(left), ParseUnary(true));
    }
    return left;
  }

  NodePtr ParseUnary(bool with_filters) {
    const Deeper deeper(*this);
    NodePtr node;
    if (IsOperator("-") || IsOperator("+")) {
      node = Make(Kind::kUnary);
      node->text = Take().text;
      node->kids.push_back(ParseUnary(false));
    } else {
      node = ParsePrimary();
    }
    node = ParsePostfix(std::move(node));
    return with_filters ? ParseFilters(std::move(node)) : std::move(node);
  }

  NodePtr MakeConstant(nlohmann::json value) const {
    NodePtr node = Make(Kind::kConstant);
    node->constant = std::make_shared<const nlohmann::json>(std::move(value));
    return node;
  }

  NodePtr ParsePrimary() {
    if (Is(Token::Kind::kString)) {
      std::string text;
      while (Is(Token::Kind::kString)) text += Take().text;  // neighbours are one
      return MakeConstant(std::move(text));
    }
    if (Is(Token::Kind::kInteger)) return MakeConstant(Take().integer);
    if (Is(Token::Kind::kFloat)) return MakeConstant(Take().number);
    if (Is(Token::Kind::kName)) {
      const std::string name = Current().text;
      if (name == "true" || name == "True") return Take(), MakeConstant(true);
      if (name == "false" || name == "False") return Take(), MakeConstant(false);
      if (name == "none" || name == "None") return Take(), MakeConstant(nullptr);
      NodePtr node = Make(Kind::kName);
      node->text = Take().text;
      return node;
    }
    if (SkipOperator("(")) {
      if (SkipOperator(")")) return Make(Kind::kList);
      NodePtr inner = ParseTuple();
      Expect(")");
      return inner;
    }
    if (SkipOperator("[")) {
      NodePtr list = Make(Kind::kList);
      while (status_.ok() && !IsOperator("]")) {
        list->kids.push_back(ParseExpression());
        if (!SkipOperator(",")) break;
      }
      Expect("]");
      return list;
    }
    if (SkipOperator("{")) {
      NodePtr dict = Make(Kind::kDict);
      while (status_.ok() && !IsOperator("}")) {
        dict->kids.push_back(ParseExpression());
        Expect(":");
        dict->kids.push_back(ParseExpression());
        if (!SkipOperator(",")) break;
      }
      Expect("}");
      return dict;
    }
    FailHere();
    return Make(Kind::kList);
  }

  NodePtr ParsePostfix(NodePtr node) {
    for (int links = 0; status_.ok() && !LinkTooLong(links);) {
      if (SkipOperator(".")) {
        NodePtr attribute = Make(Kind::kAttribute);
        attribute->text = TakeName();
        attribute->kids.push_back(std::move(node));
        node = std::move(attribute);
      } else if (SkipOperator("[")) {
        node = ParseSubscript(std::move(node));
      } else if (IsOperator("(")) {
        NodePtr call = Make(Kind::kCall);
        call->kids.push_back(std::move(node));
        ParseArguments(*call);
        node = std::move(call);
      } else {
        break;
      }
    }
    return node;
  }

  NodePtr ParseSubscript(NodePtr object) {
    NodePtr node = Make(Kind::kItem);
    node->kids.push_back(std::move(object));
    NodePtr part = IsOperator(":") ? nullptr : ParseExpression();
    if (IsOperator(":")) {
      node->kind = Kind::kSlice;
      node->kids.push_back(std::move(part));
      for (int i = 0; i < 2; ++i) {
        const bool given = SkipOperator(":") && !IsOperator("]") && !IsOperator(":");
        node->kids.push_back(given ? ParseExpression() : nullptr);
      }
    } else {
      node->kids.push_back(std::move(part));
    }
    Expect("]");
    return node;
  }

  void ParseArguments(Node& call) {
    Expect("(");
    while (status_.ok() && !IsOperator(")")) {
      if (Is(Token::Kind::kName) && tokens_[at_ + 1].kind == Token::Kind::kOperator &&
          tokens_[at_ + 1].text == "=") {
        std::string name = Take().text;
        Take();
        call.named.emplace_back(std::move(name), ParseExpression());
      } else {
        call.kids.push_back(ParseExpression());
      }
      if (!SkipOperator(",")) break;
    }
    Expect(")");
  }

  NodePtr ParseFilters(NodePtr node) {
    for (int links = 0; status_.ok() && !LinkTooLong(links);) {
      if (SkipOperator("|")) {
        NodePtr filter = Make(Kind::kFilter);
        filter->text = TakeName();
        if (status_.ok() && !IsFilter(filter->text)) {
          Fail(absl::StrCat("the filter \"", filter->text, "\" is not supported"));
        }
        filter->kids.push_back(std::move(node));
        if (IsOperator("(")) ParseArguments(*filter);
        node = ParsePostfix(std::move(filter));
      } else if (SkipWord("is")) {
        node = ParseTest(std::move(node));
      } else {
        break;
      }
    }
    return node;
  }

  NodePtr ParseTest(NodePtr input) {
    const bool negate = SkipWord("not");
    NodePtr test = Make(Kind::kTest);
    test->text = TakeName();
    if (status_.ok() && !IsTest(test->text)) {
      Fail(absl::StrCat("the test \"", test->text, "\" is not supported"));
    }
    test->kids.push_back(std::move(input));
    if (IsOperator("(")) {
      ParseArguments(*test);
    } else if (Is(Token::Kind::kString) || Is(Token::Kind::kInteger) || IsOperator("[") ||
               (Is(Token::Kind::kName) && !IsWord("and") && !IsWord("or") && !IsWord("else") &&
                !IsWord("if") && !IsWord("is") && !IsWord("in") && !IsWord("not"))) {
      test->kids.push_back(ParsePostfix(ParsePrimary()));
    }
    if (!negate) return test;
    NodePtr negation = Make(Kind::kUnary);
    negation->text = "not";
    negation->kids.push_back(std::move(test));
    return negation;
  }

  const std::vector<Token> tokens_;
  const int max_depth_;
  size_t at_ = 0;
  int depth_ = 0;
  int loops_ = 0;
  absl::Status status_;
};

}  // namespace

absl::StatusOr<NodePtr> ParseTemplate(std::string_view source,
                                      const model::ChatTemplateLimits& limits) {
  if (static_cast<int64_t>(source.size()) > limits.max_source_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat("chat template: ", source.size(),
                                                     " bytes; at most ", limits.max_source_bytes));
  }
  absl::StatusOr<std::vector<Token>> tokens = Tokenize(source);
  if (!tokens.ok()) return tokens.status();
  return Parser(*std::move(tokens), limits.max_depth).Run();
}

}  // namespace shardline::jinja
