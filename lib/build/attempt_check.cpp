#include "attempt.hpp"
#include "content_digest.hpp"
#include "tree_comparison.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/nar/reader.hpp>

#include <fmt/format.h>

#include <optional>

/// Building again what is valid, to see whether it comes out the same.
namespace nixbuild::build {

namespace {

/// Differences that are described, of each output.
constexpr std::size_t kMostLines = 50;

} // namespace

void Attempt::expect_valid(bool valid) const {
  if (!request_.check) {
    return;
  }
  if (!valid) {
    throw BuildFailure(
        model::BuildStatus::MiscFailure,
        fmt::format("some outputs of '{}' are not valid, so checking is not possible", drv_text_));
  }
  if (made_of_contents(kind_)) {
    throw BuildFailure(
        model::BuildStatus::MiscFailure,
        fmt::format("'{}' has content-addressed outputs, which are not compared: other contents "
                    "would be another path",
                    drv_text_));
  }
}

/// Whether the output has come out as it is registered; what differs is told in the log.
aio::Task<bool> Attempt::compare_output(std::size_t index) {
  const auto path = made_paths_.at(index);
  auto open = [this, &path] {
    return std::make_unique<store::Export>(parts_.store.open_export(request_.account, path));
  };
  const auto registered = co_await parts_.pool.run(std::move(open));
  TreeComparison comparison(*registered, kMostLines);
  nar::Reader reader(comparison);
  std::optional<ContentDigest> digest;
  if (kind_ == model::OutputKind::Fixed) {
    digest.emplace(method_of(index));
  }
  const std::function<void(ByteView)> take = [this, &reader, &digest](ByteView bytes) {
    if (reader.feed(bytes) < bytes.size()) {
      throw BuildFailure(model::BuildStatus::OutputRejected,
                         fmt::format("bytes follow the archive of an output of '{}'", drv_text_));
    }
    if (digest) {
      digest->feed(bytes);
    }
  };
  co_await read_output(index, take);
  reader.expect_finished();
  if (digest) {
    const auto expected = request_.derivation.outputs.at(output_names_[index]).fixed_address();
    check_fixed_output(expected.hash, digest->finish(drv_text_), drv_text_);
  }
  if (comparison.differences() == 0) {
    co_return true;
  }
  const auto name = parts_.store.dir().print(path);
  for (const auto& difference : comparison.lines()) {
    std::string line = fmt::format("{} differs: {}", name, difference);
    co_await say(std::move(line));
  }
  if (const auto more = comparison.differences() - comparison.lines().size(); more > 0) {
    std::string line = fmt::format("{} differs in {} more places", name, more);
    co_await say(std::move(line));
  }
  co_return false;
}

aio::Task<void> Attempt::compare_outputs() {
  std::string different;
  for (std::size_t index = 0; index < output_names_.size(); ++index) {
    const bool same = co_await compare_output(index);
    if (!same && different.empty()) {
      different = parts_.store.dir().print(made_paths_[index]);
    }
  }
  if (!different.empty()) {
    throw BuildFailure(model::BuildStatus::NotDeterministic,
                       fmt::format("derivation '{}' may not be deterministic: output '{}' differs",
                                   drv_text_,
                                   different));
  }
  co_await say("built again: every output is the same");
}

} // namespace nixbuild::build
