#include "protocol/coder.hpp"

#include <nixbuild/base/error.hpp>

#include <fmt/format.h>

#include <limits>

namespace nixbuild::protocol::wire {

namespace {

[[noreturn]] void throw_shape(std::string_view what) {
  throw Error(
      Reaction::Internal, "wire.shape", fmt::format("decoder and shape disagree: {}", what));
}

} // namespace

std::uint32_t Decoder::small() {
  const std::uint64_t value = word();
  if (value > std::numeric_limits<std::uint32_t>::max()) {
    throw Error(Reaction::Reject, "wire.integer", fmt::format("{} exceeds 32 bits", value));
  }
  return static_cast<std::uint32_t>(value);
}

std::string_view Decoder::string() {
  const std::size_t size = count();
  return text_of(take(padded(size)).first(size));
}

std::string_view Decoder::text() {
  const std::string_view out = string();
  if (out.find('\0') != std::string_view::npos) {
    throw Error(Reaction::Reject, "wire.string", "a text has a zero byte");
  }
  return out;
}

void Decoder::expect_end() const {
  if (!bytes_.empty()) {
    throw_shape("bytes are left over");
  }
}

ByteView Decoder::take(std::size_t size) {
  if (bytes_.size() < size) {
    throw_shape("bytes are missing");
  }
  const ByteView out = bytes_.first(size);
  bytes_ = bytes_.subspan(size);
  return out;
}

} // namespace nixbuild::protocol::wire
