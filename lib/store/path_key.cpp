#include "path_key.hpp"

namespace nixbuild::store {

namespace {

constexpr std::string_view kAlphabet = "0123456789abcdfghijklmnpqrsvwxyz";

constexpr std::array<std::uint8_t, 256> make_values() {
  std::array<std::uint8_t, 256> values{};
  for (std::size_t i = 0; i < kAlphabet.size(); ++i) {
    values[static_cast<unsigned char>(kAlphabet[i])] = static_cast<std::uint8_t>(i);
  }
  return values;
}

constexpr auto kValues = make_values();

} // namespace

PathKey key_of_hash_part(std::string_view hash_part) noexcept {
  PathKey key{};
  for (std::size_t group = 0; group < 4; ++group) {
    std::uint64_t bits = 0;
    for (std::size_t i = 0; i < 8; ++i) {
      bits = bits << 5 | kValues[static_cast<unsigned char>(hash_part[group * 8 + i])];
    }
    for (std::size_t i = 0; i < 5; ++i) {
      key[group * 5 + i] = static_cast<std::uint8_t>(bits >> (8 * (4 - i)));
    }
  }
  return key;
}

void append_hash_part(ByteView key, std::string& out) {
  const auto start = out.size();
  out.resize(start + model::StorePath::kHashLength);
  for (std::size_t group = 0; group < 4; ++group) {
    std::uint64_t bits = 0;
    for (std::size_t i = 0; i < 5; ++i) {
      bits = bits << 8 | key[group * 5 + i];
    }
    for (std::size_t i = 0; i < 8; ++i) {
      out[start + group * 8 + i] = kAlphabet[bits >> (5 * (7 - i)) & 31];
    }
  }
}

model::StorePath path_of(ByteView key, std::string_view name) {
  std::string text;
  text.reserve(model::StorePath::kHashLength + 1 + name.size());
  append_hash_part(key, text);
  text.push_back('-');
  text.append(name);
  return model::StorePath::parse(text);
}

} // namespace nixbuild::store
