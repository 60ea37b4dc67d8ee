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

/// Where in the window the text of `change` stands first, from `at` on; its end: nowhere.
std::size_t HashRewriter::find(const Change& change, std::size_t at) const {
  const void* found =
      at + kLength > window_.size()
          ? nullptr
          : ::memmem(window_.data() + at, window_.size() - at, change.from.data(), kLength);
  return found == nullptr
             ? window_.size()
             : static_cast<std::size_t>(static_cast<const char*>(found) - window_.data());
}

/// From left to right over all changes: nothing that begins inside of a text that was replaced is
/// one, neither now nor when more of the stream is there.
void HashRewriter::apply_changes() {
  std::vector<std::size_t> places(changes_.size());
  std::size_t from = next_ > position_ ? static_cast<std::size_t>(next_ - position_) : 0;
  for (std::size_t i = 0; i < changes_.size(); ++i) {
    places[i] = find(changes_[i], from);
  }
  for (;;) {
    const auto first = std::min_element(places.begin(), places.end());
    if (first == places.end() || *first == window_.size()) {
      return;
    }
    const auto& change = changes_[static_cast<std::size_t>(first - places.begin())];
    if (change.noted) {
      if (noted_.size() >= kMostNoted) {
        throw Error(Reaction::Reject,
                    "build.occurrences",
                    "an output refers to itself more than a million times");
      }
      noted_.push_back(position_ + *first);
    }
    window_.replace(*first, kLength, change.to);
    from = *first + kLength;
    next_ = position_ + from;
    for (std::size_t i = 0; i < changes_.size(); ++i) {
      if (places[i] < from) {
        places[i] = find(changes_[i], from);
      }
    }
  }
}

ByteView HashRewriter::feed(ByteView bytes) {
  window_.erase(0, settled_);
  position_ += settled_;
  window_.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  apply_changes();
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
