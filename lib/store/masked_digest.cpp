#include "masked_digest.hpp"

#include <nixbuild/base/error.hpp>

#include <fmt/format.h>

namespace nixbuild::store {

MaskedDigest::MaskedDigest(HashAlgorithm algorithm, std::string_view hash_part)
    : own_(hash_part), plain_(algorithm), with_offsets_(algorithm) {}

void MaskedDigest::take(std::size_t count) {
  const auto bytes = bytes_of(std::string_view(window_).substr(0, count));
  plain_.update(bytes);
  with_offsets_.update(bytes);
  window_.erase(0, count);
  position_ += count;
}

void MaskedDigest::update(ByteView bytes) {
  window_.append(text_of(bytes));
  for (std::size_t at = 0; (at = window_.find(own_, at)) != std::string::npos;) {
    if (occurrences_.size() == kMostOccurrences) {
      throw Error(Reaction::Reject,
                  "store.content-address",
                  fmt::format("contents refer to themselves more than {} times", kMostOccurrences));
    }
    window_.replace(at, own_.size(), own_.size(), '\0');
    occurrences_.push_back(position_ + at);
    at += own_.size();
  }
  // What may be the beginning of an occurrence waits for the next bytes.
  if (window_.size() >= own_.size()) {
    take(window_.size() - (own_.size() - 1));
  }
}

MaskedDigest::Digests MaskedDigest::finish() {
  take(window_.size());
  for (const auto offset : occurrences_) {
    with_offsets_.update(bytes_of(fmt::format("|{}", offset)));
  }
  return {plain_.finish(), with_offsets_.finish()};
}

} // namespace nixbuild::store
