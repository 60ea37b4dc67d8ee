#include <nixbuild/base/encoding.hpp>
#include <nixbuild/base/error.hpp>
#include <nixbuild/model/hash_text.hpp>

#include <fmt/format.h>

namespace nixbuild::model {

namespace {

/// No digest text of any algorithm and encoding is longer; more of a text is not shown.
constexpr std::size_t kShownBytes = 200;

[[noreturn]] void reject_hash(std::string_view code, std::string message) {
  throw Error(Reaction::Reject, code, std::move(message));
}

HashAlgorithm algorithm_named(std::string_view name, std::optional<HashAlgorithm> assumed) {
  const auto algorithm = hash_algorithm_of(name);
  if (!algorithm) {
    reject_hash("hash.algorithm",
                fmt::format("unknown hash algorithm '{}'", name.substr(0, kShownBytes)));
  }
  if (assumed && *assumed != *algorithm) {
    reject_hash("hash.algorithm",
                fmt::format("a {} hash stands where {} is expected", name, name_of(*assumed)));
  }
  return *algorithm;
}

Bytes decode_digest(std::string_view text, HashAlgorithm algorithm, bool only_base64) {
  const std::size_t size = digest_size(algorithm);
  if (text.size() == (size + 2) / 3 * 4) {
    return base64_decode(text);
  }
  if (!only_base64 && text.size() == size * 2) {
    return hex_decode(text);
  }
  if (!only_base64 && text.size() == nix32_length(size)) {
    return nix32_decode(text, size);
  }
  reject_hash("hash.length",
              fmt::format("'{}' has {} characters, which is no {} digest",
                          text.substr(0, kShownBytes),
                          text.size(),
                          name_of(algorithm)));
}

} // namespace

std::string hash_hex(const Hash& hash) {
  return hex_encode(hash.bytes());
}

std::string hash_nix32(const Hash& hash) {
  return fmt::format("{}:{}", name_of(hash.algorithm()), nix32_encode(hash.bytes()));
}

std::string hash_sri(const Hash& hash) {
  return fmt::format("{}-{}", name_of(hash.algorithm()), base64_encode(hash.bytes()));
}

Hash parse_hash(std::string_view text, std::optional<HashAlgorithm> assumed) {
  // Neither character occurs in hexadecimal, Nix's base 32, or base 64.
  const auto separator = text.find_first_of(":-");
  if (separator == std::string_view::npos) {
    if (!assumed) {
      reject_hash("hash.algorithm",
                  fmt::format("hash '{}' does not say its algorithm", text.substr(0, kShownBytes)));
    }
    return Hash(*assumed, decode_digest(text, *assumed, false));
  }
  const auto algorithm = algorithm_named(text.substr(0, separator), assumed);
  const bool sri = text[separator] == '-';
  return Hash(algorithm, decode_digest(text.substr(separator + 1), algorithm, sri));
}

} // namespace nixbuild::model
