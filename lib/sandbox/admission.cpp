#include <nixbuild/base/error.hpp>
#include <nixbuild/sandbox/admission.hpp>

#include <fmt/format.h>

namespace nixbuild::sandbox::admission {

std::string length_of(std::size_t length) {
  std::string bytes;
  for (unsigned i = 0; i < 4; ++i) {
    bytes.push_back(static_cast<char>(length >> (8 * i) & 0xff));
  }
  return bytes;
}

std::string counted(std::string_view bytes) {
  return length_of(bytes.size()).append(bytes);
}

std::size_t read_length(ByteView four, std::size_t limit) {
  std::size_t length = 0;
  for (std::size_t i = 0; i < 4; ++i) {
    length |= std::size_t{four[i]} << (8 * i);
  }
  if (length > limit) {
    throw Error(
        Reaction::Reject,
        "sandbox.protocol",
        fmt::format("{} bytes are announced of an admission; at most {} may be", length, limit));
  }
  return length;
}

} // namespace nixbuild::sandbox::admission
