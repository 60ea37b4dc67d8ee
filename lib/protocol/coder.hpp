#pragma once

#include "protocol/dialect.hpp"
#include "protocol/word.hpp"

#include <nixbuild/model/store_path.hpp>
#include <nixbuild/protocol/wire.hpp>

#include <cstdint>
#include <string>
#include <string_view>

namespace nixbuild::protocol::wire {

/// Reads a message that a Skimmer has found complete.
class Decoder {
public:
  Decoder(ByteView bytes, const model::StoreDir& dir, const Dialect& dialect)
      : bytes_(bytes), dir_(dir), dialect_(dialect) {}

  [[nodiscard]] const Dialect& dialect() const noexcept { return dialect_; }

  [[nodiscard]] const model::StoreDir& dir() const noexcept { return dir_; }

  /// The field being read, for errors. Static text.
  void enter(std::string_view field) noexcept { field_ = field; }

  [[nodiscard]] std::string_view field() const noexcept { return field_; }

  [[nodiscard]] std::uint64_t word() { return load_word(take(kWordBytes)); }

  /// Error `wire.integer` above 32 bits.
  [[nodiscard]] std::uint32_t small();

  /// A count of elements that stand in the message.
  [[nodiscard]] std::size_t count() { return static_cast<std::size_t>(word()); }

  /// Valid as long as the message's bytes.
  [[nodiscard]] std::string_view string();
  /// A string that becomes a C string one day. Error `wire.string` when it has a zero byte.
  [[nodiscard]] std::string_view text();

  [[nodiscard]] model::StorePath path() { return dir_.parse(string()); }

  /// Error (Internal) `wire.shape` unless everything was read: shape and decoder disagree.
  void expect_end() const;

private:
  [[nodiscard]] ByteView take(std::size_t size);

  ByteView bytes_;
  const model::StoreDir& dir_;
  Dialect dialect_;
  std::string_view field_ = "command";
};

/// Appends the parts of messages to a string.
class Encoder {
public:
  Encoder(std::string& out, const model::StoreDir& dir, const Dialect& dialect)
      : out_(out), dir_(dir), dialect_(dialect) {}

  [[nodiscard]] const Dialect& dialect() const noexcept { return dialect_; }

  [[nodiscard]] const model::StoreDir& dir() const noexcept { return dir_; }

  void word(std::uint64_t value) { append_word(out_, value); }

  void string(std::string_view text) {
    word(text.size());
    out_ += text;
    pad(text.size());
  }

  void path(const model::StorePath& path) {
    const std::size_t size = dir_.text().size() + 1 + path.base_name().size();
    word(size);
    out_ += dir_.text();
    out_ += '/';
    out_ += path.base_name();
    pad(size);
  }

private:
  void pad(std::size_t size) { out_.append(padded(size) - size, '\0'); }

  std::string& out_;
  const model::StoreDir& dir_;
  Dialect dialect_;
};

} // namespace nixbuild::protocol::wire
