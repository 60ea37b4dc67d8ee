#include "protocol/skim.hpp"

#include "protocol/word.hpp"

#include <nixbuild/base/error.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace nixbuild::protocol::wire {

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
    position_ += kWordBytes;
    break;
  case StepKind::String:
  case StepKind::StringOrSkip:
    if (!string(step, bytes, value)) {
      return false;
    }
    break;
  case StepKind::Repeat:
    position_ += kWordBytes;
    begin_loop(step, value);
    return true;
  }
  const bool skips = step.kind == StepKind::WordOrSkip || step.kind == StepKind::StringOrSkip;
  next_ += 1 + (skips && value == 0 ? step.body : 0);
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
