#pragma once

#include <nixbuild/base/bytes.hpp>
#include <nixbuild/protocol/wire.hpp>

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

/// Finds the end of a message before it is decoded. The shape of a message (derived from its field
/// table) says where words, strings and lists stand; the skimmer walks it as bytes arrive, looks at
/// every byte once however they are cut, and checks lengths, counts and padding on the way.
namespace nixbuild::protocol::wire {

enum class StepKind : std::uint8_t {
  Word,         ///< 8 bytes
  String,       ///< length, bytes, zero padding
  Repeat,       ///< a count; the next `body` steps that often
  WordOrSkip,   ///< a word; when it is zero the next `body` steps are left out
  SkipOnWord,   ///< a word; unless it is zero the next `body` steps are left out
  WordOrString, ///< a word; a word follows it when it is zero, otherwise a string
  StringOrSkip, ///< a string; when it is empty the next `body` steps are left out
};

struct Step {
  StepKind kind;
  std::size_t body;
  std::string_view field; ///< static text
};

class Shape {
public:
  void add(StepKind kind, std::string_view field) { steps_.push_back({kind, 0, field}); }

  /// A step whose body is what `fill` adds.
  template <class Fill>
  void add(StepKind kind, std::string_view field, Fill fill) {
    const std::size_t at = steps_.size();
    add(kind, field);
    fill();
    steps_[at].body = steps_.size() - at - 1;
  }

  [[nodiscard]] const std::vector<Step>& steps() const noexcept { return steps_; }

private:
  std::vector<Step> steps_;
};

class Skimmer {
public:
  /// `message` is a static name.
  Skimmer(std::string_view message, Shape shape, const Limits& limits);

  /// `bytes` is the message from its first byte on, as far as it has arrived; it only grows between
  /// calls. True once it is complete. Errors: `wire.limit`, `wire.padding`.
  [[nodiscard]] bool advance(ByteView bytes);

  /// Bytes of the message, once complete.
  [[nodiscard]] std::size_t size() const noexcept { return position_; }

private:
  struct Loop {
    std::size_t begin;
    std::size_t end;
    std::uint64_t left;
  };

  /// Leaves finished loops, begins the next round of others.
  void settle();
  /// Makes one step; false when bytes are missing.
  [[nodiscard]] bool step(ByteView bytes);
  [[nodiscard]] bool word_or_string(const Step& step, ByteView bytes, std::uint64_t tag);
  [[nodiscard]] bool string(const Step& step, ByteView bytes, std::uint64_t size);
  void begin_loop(const Step& step, std::uint64_t count);
  void check_limit(const Step& step,
                   std::string_view what,
                   std::uint64_t value,
                   std::uint64_t limit) const;

  std::string_view message_;
  Shape shape_;
  Limits limits_;
  std::vector<Loop> loops_;
  std::size_t next_ = 0;
  std::size_t position_ = 0;
};

} // namespace nixbuild::protocol::wire
