#include <nixbuild/base/encoding.hpp>
#include <nixbuild/base/error.hpp>

#include <fmt/format.h>

#include <array>

namespace nixbuild {

namespace {

constexpr std::string_view kHexDigits = "0123456789abcdef";
constexpr std::string_view kNix32Digits = "0123456789abcdfghijklmnpqrsvwxyz";
constexpr std::string_view kBase64Digits =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
constexpr std::uint8_t kInvalid = 0xff;

using DigitTable = std::array<std::uint8_t, 256>;

constexpr DigitTable digit_table(std::string_view digits) {
  DigitTable table{};
  for (auto& value : table) {
    value = kInvalid;
  }
  for (std::size_t i = 0; i < digits.size(); ++i) {
    table[static_cast<unsigned char>(digits[i])] = static_cast<std::uint8_t>(i);
  }
  return table;
}

constexpr DigitTable kNix32Values = digit_table(kNix32Digits);
constexpr DigitTable kBase64Values = digit_table(kBase64Digits);

std::uint8_t value_of(const DigitTable& table, char c) {
  return table[static_cast<unsigned char>(c)];
}

int hex_value(char c) {
  if (c >= '0' && c <= '9') {
    return c - '0';
  }
  if (c >= 'a' && c <= 'f') {
    return c - 'a' + 10;
  }
  if (c >= 'A' && c <= 'F') {
    return c - 'A' + 10;
  }
  return -1;
}

[[noreturn]] void reject(std::string_view code, std::string message) {
  throw Error(Reaction::Reject, code, std::move(message));
}

} // namespace

std::string hex_encode(ByteView bytes) {
  std::string out;
  out.reserve(bytes.size() * 2);
  for (const auto byte : bytes) {
    out.push_back(kHexDigits[byte >> 4]);
    out.push_back(kHexDigits[byte & 15]);
  }
  return out;
}

Bytes hex_decode(std::string_view text) {
  if (text.size() % 2 != 0) {
    reject("encoding.hex", fmt::format("hexadecimal text has the odd length {}", text.size()));
  }
  Bytes out;
  out.reserve(text.size() / 2);
  for (std::size_t i = 0; i < text.size(); i += 2) {
    const int high = hex_value(text[i]);
    const int low = hex_value(text[i + 1]);
    if (high < 0 || low < 0) {
      reject("encoding.hex", fmt::format("not a hexadecimal digit at offset {}", i));
    }
    out.push_back(static_cast<std::uint8_t>(high * 16 + low));
  }
  return out;
}

std::string base64_encode(ByteView bytes) {
  std::string out;
  out.reserve((bytes.size() + 2) / 3 * 4);
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    const std::size_t left = bytes.size() - i;
    const std::uint32_t group = static_cast<std::uint32_t>(bytes[i]) << 16 |
                                (left > 1 ? static_cast<std::uint32_t>(bytes[i + 1]) << 8 : 0) |
                                (left > 2 ? static_cast<std::uint32_t>(bytes[i + 2]) : 0);
    out.push_back(kBase64Digits[group >> 18 & 63]);
    out.push_back(kBase64Digits[group >> 12 & 63]);
    out.push_back(left > 1 ? kBase64Digits[group >> 6 & 63] : '=');
    out.push_back(left > 2 ? kBase64Digits[group & 63] : '=');
  }
  return out;
}

Bytes base64_decode(std::string_view text) {
  if (text.size() % 4 != 0) {
    reject("encoding.base64",
           fmt::format("base64 text has length {}, not a multiple of 4", text.size()));
  }
  Bytes out;
  out.reserve(text.size() / 4 * 3);
  for (std::size_t i = 0; i < text.size(); i += 4) {
    const bool last = i + 4 == text.size();
    const std::size_t padding = last && text[i + 3] == '=' ? (text[i + 2] == '=' ? 2 : 1) : 0;
    std::uint32_t group = 0;
    for (std::size_t k = 0; k < 4 - padding; ++k) {
      const auto value = value_of(kBase64Values, text[i + k]);
      if (value == kInvalid) {
        reject("encoding.base64", fmt::format("not a base64 digit at offset {}", i + k));
      }
      group |= static_cast<std::uint32_t>(value) << (18 - 6 * k);
    }
    if ((padding == 1 && (group & 0xff) != 0) || (padding == 2 && (group & 0xffff) != 0)) {
      reject("encoding.base64", "base64 text ends in bits that are not zero");
    }
    out.push_back(static_cast<std::uint8_t>(group >> 16));
    if (padding < 2) {
      out.push_back(static_cast<std::uint8_t>(group >> 8));
    }
    if (padding < 1) {
      out.push_back(static_cast<std::uint8_t>(group));
    }
  }
  return out;
}

std::string nix32_encode(ByteView bytes) {
  const std::size_t length = nix32_length(bytes.size());
  std::string out;
  out.reserve(length);
  for (std::size_t n = length; n-- > 0;) {
    const std::size_t bit = n * 5;
    const std::size_t byte = bit / 8;
    const std::size_t shift = bit % 8;
    unsigned value = static_cast<unsigned>(bytes[byte]) >> shift;
    if (byte + 1 < bytes.size()) {
      value |= static_cast<unsigned>(bytes[byte + 1]) << (8 - shift);
    }
    out.push_back(kNix32Digits[value & 31]);
  }
  return out;
}

Bytes nix32_decode(std::string_view text, std::size_t size) {
  if (text.size() != nix32_length(size)) {
    reject("encoding.nix32",
           fmt::format(
               "base-32 text has {} characters, expected {}", text.size(), nix32_length(size)));
  }
  Bytes out(size);
  for (std::size_t n = 0; n < text.size(); ++n) {
    const auto value = value_of(kNix32Values, text[text.size() - 1 - n]);
    if (value == kInvalid) {
      reject("encoding.nix32",
             fmt::format("not a base-32 digit at offset {}", text.size() - 1 - n));
    }
    const std::size_t bit = n * 5;
    const std::size_t byte = bit / 8;
    const std::size_t shift = bit % 8;
    const unsigned shifted = static_cast<unsigned>(value) << shift;
    out[byte] = static_cast<std::uint8_t>(out[byte] | (shifted & 0xff));
    const unsigned carry = shifted >> 8;
    if (byte + 1 < size) {
      out[byte + 1] = static_cast<std::uint8_t>(out[byte + 1] | carry);
    } else if (carry != 0) {
      reject("encoding.nix32", "base-32 text ends in bits that are not zero");
    }
  }
  return out;
}

bool is_nix32(char c) noexcept {
  return value_of(kNix32Values, c) != kInvalid;
}

} // namespace nixbuild
