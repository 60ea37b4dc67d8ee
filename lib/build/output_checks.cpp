#include "steps.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/model/hash_text.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <functional>

namespace nixbuild::build {

void feed_whole(store::Import& import, ByteView bytes) {
  if (import.feed(bytes) != bytes.size()) {
    throw Error(Reaction::Reject, "sandbox.output", "bytes follow the end of an output's NAR");
  }
}

void check_fixed_output(const Hash& expected, const Hash& got, std::string_view derivation) {
  if (got != expected) {
    throw BuildFailure(model::BuildStatus::OutputRejected,
                       fmt::format("hash mismatch in fixed-output derivation '{}':\n"
                                   "         specified: {}\n"
                                   "            got:    {}",
                                   derivation,
                                   model::hash_sri(expected),
                                   model::hash_sri(got)));
  }
}

std::vector<std::size_t> order_of_outputs(const std::vector<model::PathInfo>& infos,
                                          std::string_view derivation) {
  enum class Mark { New, Open, Done };
  std::vector<Mark> marks(infos.size(), Mark::New);
  std::vector<std::size_t> order;
  const std::function<void(std::size_t)> visit = [&](std::size_t index) {
    marks[index] = Mark::Open;
    for (std::size_t other = 0; other < infos.size(); ++other) {
      const auto& references = infos[index].references;
      if (other == index ||
          !std::binary_search(references.begin(), references.end(), infos[other].path)) {
        continue;
      }
      if (marks[other] == Mark::Open) {
        throw BuildFailure(model::BuildStatus::OutputRejected,
                           fmt::format("cycle detected in build of '{}' in the references of "
                                       "output '{}' from output '{}'",
                                       derivation,
                                       infos[other].path.name(),
                                       infos[index].path.name()));
      }
      if (marks[other] == Mark::New) {
        visit(other);
      }
    }
    marks[index] = Mark::Done;
    order.push_back(index);
  };
  for (std::size_t index = 0; index < infos.size(); ++index) {
    if (marks[index] == Mark::New) {
      visit(index);
    }
  }
  return order;
}

} // namespace nixbuild::build
