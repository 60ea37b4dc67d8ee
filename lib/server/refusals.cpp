#include "refusals.hpp"

#include <fmt/format.h>

namespace nixbuild::server {

namespace {

/// Kinds that are told apart; a client has no more than this to choose from without effort.
constexpr std::size_t kMostKinds = 20;

} // namespace

void Refusals::note(std::string_view request, const Error& error) {
  if (const auto known = more_.find(error.code()); known != more_.end()) {
    ++known->second;
  } else if (more_.size() < kMostKinds) {
    more_.emplace(error.code(), 0);
    log_.info(fmt::format("{}: {} [{}]", request, error.what(), error.code()));
  } else {
    ++others_;
  }
}

Refusals::~Refusals() {
  try {
    std::string text;
    std::uint64_t sum = others_;
    for (const auto& [code, count] : more_) {
      if (count > 0) {
        text += fmt::format("{}{} [{}]", text.empty() ? "" : ", ", count, code);
        sum += count;
      }
    }
    if (sum > 0) {
      log_.info(fmt::format("a session ended with {} more requests that failed: {}{}",
                            sum,
                            text,
                            others_ > 0
                                ? fmt::format("{}{} others", text.empty() ? "" : ", ", others_)
                                : std::string()));
    }
  } catch (const std::exception&) {
    // There is no memory for a line.
  }
}

} // namespace nixbuild::server
