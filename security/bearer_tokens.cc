#include "security/bearer_tokens.h"

#include <openssl/crypto.h>
#include <openssl/sha.h>

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "security/secret_file.h"

namespace shardline::security {
namespace {

constexpr size_t kLeastCharacters = 16;

absl::StatusOr<std::vector<std::string>> ReadLines(const std::string& path) {
  const absl::StatusOr<std::string> text = ReadSecretFile(path);
  if (!text.ok()) return text.status();
  std::vector<std::string> tokens;
  for (const absl::string_view line : absl::StrSplit(*text, '\n')) {
    const std::string token(absl::StripAsciiWhitespace(line));
    if (token.empty()) continue;
    // Neither here nor anywhere else is a token printed.
    if (token.size() < kLeastCharacters || !std::all_of(token.begin(), token.end(), [](char c) {
          return absl::ascii_isgraph(static_cast<unsigned char>(c));
        })) {
      return absl::InvalidArgumentError(absl::StrCat(
          "token file ", path, ": line ", tokens.size() + 1, " is no token of at least ",
          kLeastCharacters, " visible ASCII characters; `openssl rand -hex 32` makes one"));
    }
    tokens.push_back(token);
  }
  if (tokens.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("token file ", path, " holds no token"));
  }
  return tokens;
}

}  // namespace

absl::StatusOr<BearerTokens> BearerTokens::Read(const std::string& path) {
  const absl::StatusOr<std::vector<std::string>> tokens = ReadLines(path);
  if (!tokens.ok()) return tokens.status();
  BearerTokens made;
  for (const std::string& token : *tokens) {
    SHA256(reinterpret_cast<const unsigned char*>(token.data()), token.size(),
           made.digests_.emplace_back().data());
  }
  return made;
}

bool BearerTokens::Accept(std::string_view token) const {
  Digest digest;
  SHA256(reinterpret_cast<const unsigned char*>(token.data()), token.size(), digest.data());
  int accepted = 0;
  for (const Digest& known : digests_) {
    accepted |= static_cast<int>(CRYPTO_memcmp(known.data(), digest.data(), digest.size()) == 0);
  }
  return accepted != 0;
}

absl::StatusOr<std::string> ReadToken(const std::string& path) {
  absl::StatusOr<std::vector<std::string>> tokens = ReadLines(path);
  if (!tokens.ok()) return tokens.status();
  return std::move(tokens->front());
}

}  // namespace shardline::security
