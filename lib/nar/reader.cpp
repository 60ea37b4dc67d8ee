#include "nar/tokens.hpp"
#include "nar/tree_rules.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/nar/name.hpp>
#include <nixbuild/nar/reader.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <utility>

namespace nixbuild::nar {

namespace {

enum class At : std::uint8_t {
  Magic,        ///< magic, `(`, `type`
  Type,         ///< the node's type
  RegularHead,  ///< [executable] contents, size
  Contents,     ///< the file's bytes
  RegularClose, ///< padding and the closing brackets
  Symlink,      ///< target and the closing brackets
  Directory,    ///< an entry up to the type of its node, or the closing brackets
  Finished,
};

[[noreturn]] void reject(std::string_view code, std::uint64_t offset, std::string_view what) {
  throw Error(Reaction::Reject, code, fmt::format("{} at byte {} of the archive", what, offset));
}

/// Throws for bytes that are not the literal: tells wrong padding from a wrong token.
[[noreturn]] void
reject_literal(const std::uint8_t* bytes, ByteView literal, std::uint64_t offset) {
  std::size_t at = 0;
  while (bytes[at] == literal[at]) {
    ++at;
  }
  std::size_t token = 0;
  for (;;) {
    const std::size_t length = literal[token];
    const std::size_t padded = length + padding_of(length);
    if (at < token + 8 + padded) {
      const auto text = text_of(literal.subspan(token + 8, length));
      if (at >= token + 8 + length) {
        reject("nar.padding", offset + at, fmt::format("padding of '{}' is not zero", text));
      }
      reject("nar.syntax", offset + token, fmt::format("expected '{}'", text));
    }
    token += 8 + padded;
  }
}

void expect(const std::uint8_t* bytes, ByteView literal, std::uint64_t offset) {
  if (std::memcmp(bytes, literal.data(), literal.size()) != 0) [[unlikely]] {
    reject_literal(bytes, literal, offset);
  }
}

void expect_padding(const std::uint8_t* bytes, std::uint64_t count, std::uint64_t offset) {
  for (std::uint64_t i = 0; i < count; ++i) {
    if (bytes[i] != 0) {
      reject("nar.padding", offset + i, "padding is not zero");
    }
  }
}

} // namespace

/// Each step needs a run of tokens as a whole. It is parsed where it lies; only a run that a
/// chunk's end cuts is gathered in `carry`, which takes exactly the bytes that the step asked for.
struct Reader::State {
  State(EventSink& out, const Limits& limits) : sink(&out), rules(limits) {}

  std::size_t feed(ByteView bytes);

  EventSink* sink;
  TreeRules rules;
  At at = At::Magic;
  bool dead = false;
  std::uint64_t parsed = 0;    ///< offset of what the next step looks at
  std::uint64_t remaining = 0; ///< of the file's contents
  std::uint64_t padding = 0;   ///< behind the contents
  std::size_t need = 0;        ///< bytes the starved step wants in all
  Bytes carry;

private:
  std::size_t step(const std::uint8_t* p, std::size_t n);
  std::size_t type(const std::uint8_t* p, std::size_t n);
  std::size_t regular_head(const std::uint8_t* p, std::size_t n);
  std::size_t regular_close(const std::uint8_t* p, std::size_t n);
  std::size_t symlink(const std::uint8_t* p, std::size_t n);
  std::size_t directory(const std::uint8_t* p, std::size_t n);
  std::size_t resume(ByteView bytes);

  [[nodiscard]] ByteView closing() const {
    return rules.level() == 0 ? ByteView(kClose) : ByteView(kCloseBoth);
  }

  void node_end() { at = rules.level() == 0 ? At::Finished : At::Directory; }

  /// 0 for "starved", after noting how many bytes would do.
  std::size_t starve(std::uint64_t wanted) {
    need = static_cast<std::size_t>(wanted);
    return 0;
  }
};

std::size_t Reader::State::type(const std::uint8_t* p, std::size_t n) {
  if (n < 16) {
    return starve(16);
  }
  // The seven characters and their one byte of padding are told apart by the first character.
  if (p[0] == kDirectory[0]) {
    if (n < kDirectory.size()) {
      return starve(kDirectory.size());
    }
    expect(p, kDirectory, parsed);
    rules.node(parsed);
    rules.enter_directory();
    at = At::Directory;
    sink->directory();
    return kDirectory.size();
  }
  if (std::memcmp(p, kRegular.data(), 15) == 0) {
    expect(p, kRegular, parsed);
    rules.node(parsed);
    at = At::RegularHead;
    return kRegular.size();
  }
  if (std::memcmp(p, kSymlink.data(), 15) != 0) {
    reject("nar.syntax", parsed, "unknown node type");
  }
  expect(p, kSymlink, parsed);
  rules.node(parsed);
  at = At::Symlink;
  return kSymlink.size();
}

std::size_t Reader::State::regular_head(const std::uint8_t* p, std::size_t n) {
  if (n < kContents.size() + 8) {
    return starve(kContents.size() + 8);
  }
  const bool executable = p[0] == kExecutable[0];
  const ByteView head = executable ? ByteView(kExecutable) : ByteView(kContents);
  if (n < head.size() + 8) {
    return starve(head.size() + 8);
  }
  expect(p, head, parsed);
  const std::size_t used = head.size() + 8;
  remaining = load_u64(p + head.size());
  rules.total(parsed + used, remaining);
  padding = padding_of(remaining);
  sink->regular(executable, remaining);
  at = At::Contents;
  if (remaining == 0) {
    sink->regular_end();
    at = At::RegularClose;
  }
  return used;
}

std::size_t Reader::State::regular_close(const std::uint8_t* p, std::size_t n) {
  const ByteView close = closing();
  const auto used = static_cast<std::size_t>(padding) + close.size();
  if (n < used) {
    return starve(used);
  }
  expect_padding(p, padding, parsed);
  expect(p + padding, close, parsed + padding);
  node_end();
  return used;
}

std::size_t Reader::State::symlink(const std::uint8_t* p, std::size_t n) {
  const std::size_t begin = kTarget.size() + 8;
  if (n < begin) {
    return starve(begin);
  }
  expect(p, kTarget, parsed);
  const std::uint64_t length = load_u64(p + kTarget.size());
  rules.target_length(length, parsed + kTarget.size());
  const ByteView close = closing();
  const auto text_bytes = static_cast<std::size_t>(length);
  const auto padded = text_bytes + static_cast<std::size_t>(padding_of(length));
  if (n < begin + padded + close.size()) {
    return starve(begin + padded + close.size());
  }
  const auto target = text_of(ByteView(p + begin, text_bytes));
  rules.target(target, parsed + begin);
  expect_padding(p + begin + text_bytes, padding_of(length), parsed + begin + length);
  expect(p + begin + padded, close, parsed + begin + padded);
  sink->symlink(target);
  node_end();
  return begin + padded + close.size();
}

std::size_t Reader::State::directory(const std::uint8_t* p, std::size_t n) {
  if (n < 16) {
    return starve(16);
  }
  if (p[0] == kClose[0]) {
    const ByteView close = rules.level() == 1 ? ByteView(kClose) : ByteView(kCloseBoth);
    if (n < close.size()) {
      return starve(close.size());
    }
    expect(p, close, parsed);
    rules.leave_directory();
    sink->directory_end();
    node_end();
    return close.size();
  }
  if (p[0] != kEntry[0]) {
    reject_literal(p, kEntry, parsed);
  }
  const std::size_t begin = kEntry.size() + 8;
  if (n < begin) {
    return starve(begin);
  }
  expect(p, kEntry, parsed);
  const std::uint64_t length = load_u64(p + kEntry.size());
  rules.name_length(length, parsed + kEntry.size());
  const auto name_bytes = static_cast<std::size_t>(length);
  const auto padded = name_bytes + static_cast<std::size_t>(padding_of(length));
  const std::size_t used = begin + padded + kNode.size();
  if (n < used) {
    return starve(used);
  }
  const auto name = text_of(ByteView(p + begin, name_bytes));
  rules.name(name, parsed + begin);
  expect_padding(p + begin + name_bytes, padding_of(length), parsed + begin + length);
  expect(p + begin + padded, kNode, parsed + begin + padded);
  sink->entry(name);
  at = At::Type;
  return used;
}

std::size_t Reader::State::step(const std::uint8_t* p, std::size_t n) {
  switch (at) {
  case At::Magic:
    if (n < kMagic.size()) {
      return starve(kMagic.size());
    }
    expect(p, kMagic, parsed);
    at = At::Type;
    return kMagic.size();
  case At::Type:
    return type(p, n);
  case At::RegularHead:
    return regular_head(p, n);
  case At::RegularClose:
    return regular_close(p, n);
  case At::Symlink:
    return symlink(p, n);
  case At::Directory:
    return directory(p, n);
  case At::Contents:
  case At::Finished:
    break;
  }
  throw Error(Reaction::Internal, "nar.syntax", "NAR reader in a state without a step");
}

/// Completes the gathered run from `bytes`; returns how many were taken.
std::size_t Reader::State::resume(ByteView bytes) {
  const std::size_t taken = std::min(bytes.size(), need - carry.size());
  carry.insert(carry.end(), bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(taken));
  if (carry.size() == need) {
    if (const std::size_t used = step(carry.data(), carry.size()); used != 0) {
      parsed += used;
      carry.clear();
    }
  }
  return taken;
}

std::size_t Reader::State::feed(ByteView bytes) {
  const std::uint8_t* p = bytes.data();
  const std::uint8_t* const end = p + bytes.size();
  while (at != At::Finished && p != end) {
    const auto left = static_cast<std::size_t>(end - p);
    if (at == At::Contents) {
      const auto taken = static_cast<std::size_t>(std::min<std::uint64_t>(left, remaining));
      sink->contents({p, taken});
      p += taken;
      parsed += taken;
      remaining -= taken;
      if (remaining == 0) {
        sink->regular_end();
        at = At::RegularClose;
      }
    } else if (!carry.empty()) {
      p += resume({p, left});
    } else if (const std::size_t used = step(p, left); used != 0) {
      p += used;
      parsed += used;
    } else {
      carry.assign(p, end);
      p = end;
    }
  }
  rules.total(parsed + carry.size(), 0);
  return bytes.size() - static_cast<std::size_t>(end - p);
}

Reader::Reader(EventSink& sink, const Limits& limits)
    : state_(std::make_unique<State>(sink, limits)) {}

Reader::~Reader() = default;
Reader::Reader(Reader&&) noexcept = default;
Reader& Reader::operator=(Reader&&) noexcept = default;

std::size_t Reader::feed(ByteView bytes) {
  if (state_->dead) {
    reject("nar.syntax", offset(), "reading goes on after an error");
  }
  state_->dead = true;
  const std::size_t taken = state_->feed(bytes);
  state_->dead = false;
  return taken;
}

bool Reader::finished() const noexcept {
  return state_->at == At::Finished && !state_->dead;
}

std::uint64_t Reader::offset() const noexcept {
  return state_->parsed + state_->carry.size();
}

void Reader::expect_finished() const {
  if (!finished()) {
    reject("nar.truncated", offset(), "input ends before the archive does");
  }
}

} // namespace nixbuild::nar
