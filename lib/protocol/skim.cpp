#include "protocol/skim.hpp"

#include "protocol/word.hpp"

#include <nixbuild/base/error.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace nixbuild::protocol::wire {

namespace {

/// Whether the steps after one of this kind and value are left out.
bool skips(StepKind kind, std::uint64_t value) {
  return value == 0 ? kind == StepKind::WordOrSkip || kind == StepKind::StringOrSkip
                    : kind == StepKind::SkipOnWord;
}

} // namespace

Skimmer::Skimmer(std::string_view message, Shape shape, const Limits& limits)
    : message_(message), shape_(std::move(shape)), limits_(limits) {}

bool Skimmer::advance(ByteView bytes) {
  for (;;) {
    settle();
    if (next_ == shape_.steps().size()) {
      return true;
    }
    if (!step(bytes)) {
      return false;
    }
  }
}

void Skimmer::settle() {
  while (!loops_.empty() && next_ == loops_.back().end) {
    Loop& loop = loops_.back();
    if (--loop.left > 0) {
      next_ = loop.begin;
      return;
    }
    loops_.pop_back();
  }
}

bool Skimmer::step(ByteView bytes) {
  const Step& step = shape_.steps()[next_];
  check_limit(step, "bytes in one message", position_ + kWordBytes, limits_.message_bytes);
  if (bytes.size() - position_ < kWordBytes) {
    return false;
  }
  const std::uint64_t value = load_word(bytes.subspan(position_));
  switch (step.kind) {
  case StepKind::Word:
  case StepKind::WordOrSkip:
  case StepKind::SkipOnWord:
    position_ += kWordBytes;
    break;
  case StepKind::String:
  case StepKind::StringOrSkip:
    if (!string(step, bytes, value)) {
      return false;
    }
    break;
  case StepKind::WordOrString:
    if (!word_or_string(step, bytes, value)) {
      return false;
    }
    break;
  case StepKind::Repeat:
    position_ += kWordBytes;
    begin_loop(step, value);
    return true;
  }
  next_ += 1 + (skips(step.kind, value) ? step.body : 0);
  return true;
}

bool Skimmer::word_or_string(const Step& step, ByteView bytes, std::uint64_t tag) {
  const std::size_t begin = position_;
  check_limit(step, "bytes in one message", begin + 2 * kWordBytes, limits_.message_bytes);
  if (bytes.size() - begin < 2 * kWordBytes) {
    return false;
  }
  position_ += kWordBytes;
  if (tag == 0) {
    position_ += kWordBytes;
  } else if (!string(step, bytes, load_word(bytes.subspan(position_)))) {
    position_ = begin;
    return false;
  }
  return true;
}

bool Skimmer::string(const Step& step, ByteView bytes, std::uint64_t size) {
  check_limit(step, "bytes in one string", size, limits_.string_bytes);
  const std::size_t length = static_cast<std::size_t>(size);
  const std::size_t end = position_ + kWordBytes + padded(length);
  check_limit(step, "bytes in one message", end, limits_.message_bytes);
  if (bytes.size() < end) {
    return false;
  }
  const auto padding = bytes.first(end).subspan(position_ + kWordBytes + length);
  if (std::any_of(padding.begin(), padding.end(), [](std::uint8_t byte) { return byte != 0; })) {
    throw Error(Reaction::Reject,
                "wire.padding",
                fmt::format("{}: {}: the padding of a string is not zero", message_, step.field));
  }
  position_ = end;
  return true;
}

void Skimmer::begin_loop(const Step& step, std::uint64_t count) {
  check_limit(step, "elements in one list", count, limits_.elements);
  const std::size_t begin = next_ + 1;
  const std::size_t end = begin + step.body;
  if (count == 0) {
    next_ = end;
    return;
  }
  next_ = begin;
  loops_.push_back({begin, end, count});
}

void Skimmer::check_limit(const Step& step,
                          std::string_view what,
                          std::uint64_t value,
                          std::uint64_t limit) const {
  if (value > limit) {
    throw Error(Reaction::Reject,
                "wire.limit",
                fmt::format("{}: {}: {} {} exceed {}", message_, step.field, value, what, limit));
  }
}

} // namespace nixbuild::protocol::wire
