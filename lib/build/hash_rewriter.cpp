#include "hash_rewriter.hpp"

#include <nixbuild/base/error.hpp>

#include <algorithm>
#include <cstring>

namespace nixbuild::build {

void HashRewriter::replace(std::string_view from, std::string_view to, bool noted) {
  if (from.size() != kLength || to.size() != kLength) {
    throw Error(Reaction::Internal, "build.rewrite", "hash parts have 32 bytes");
  }
  changes_.push_back({std::string(from), std::string(to), noted});
}

void HashRewriter::apply(const Change& change) {
  std::size_t at = 0;
  while (at + kLength <= window_.size()) {
    const void* found =
        ::memmem(window_.data() + at, window_.size() - at, change.from.data(), kLength);
    if (found == nullptr) {
      return;
    }
    at = static_cast<std::size_t>(static_cast<const char*>(found) - window_.data());
    if (change.noted) {
      if (noted_.size() >= kMostNoted) {
        throw Error(Reaction::Reject,
                    "build.occurrences",
                    "an output refers to itself more than a million times");
      }
      noted_.push_back(position_ + at);
    }
    window_.replace(at, kLength, change.to);
    at += kLength;
  }
}

ByteView HashRewriter::feed(ByteView bytes) {
  window_.erase(0, settled_);
  position_ += settled_;
  window_.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  for (const auto& change : changes_) {
    apply(change);
  }
  // A text may begin in the last bytes.
  settled_ = window_.size() - std::min(window_.size(), kLength - 1);
  return bytes_of(window_).first(settled_);
}

ByteView HashRewriter::finish() {
  window_.erase(0, settled_);
  position_ += settled_;
  settled_ = window_.size();
  return bytes_of(window_);
}

} // namespace nixbuild::build
