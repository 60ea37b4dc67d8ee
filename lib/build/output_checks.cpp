#include "steps.hpp"

#include <nixbuild/model/hash_text.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <functional>

namespace nixbuild::build {

namespace {

/// Digests the contents of an archive that must be one plain file.
class FlatDigest final : public nar::EventSink {
public:
  explicit FlatDigest(HashAlgorithm algorithm) : hasher_(algorithm) {}

  void regular(bool executable, std::uint64_t) override { plain_ = !executable; }

  void contents(ByteView bytes) override { hasher_.update(bytes); }

  void regular_end() override {}

  void symlink(std::string_view) override {}

  void directory() override {}

  void entry(std::string_view) override { plain_ = false; }

  void directory_end() override { plain_ = false; }

  [[nodiscard]] bool plain() const noexcept { return plain_; }

  [[nodiscard]] Hash finish() { return hasher_.finish(); }

private:
  Hasher hasher_;
  bool plain_ = false;
};

} // namespace

struct FixedOutputCheck::State {
  model::ContentAddress expected;
  Hasher archive;
  FlatDigest flat;
  nar::Reader reader;

  explicit State(const model::ContentAddress& address)
      : expected(address), archive(address.hash.algorithm()), flat(address.hash.algorithm()),
        reader(flat) {}
};

FixedOutputCheck::FixedOutputCheck(const model::ContentAddress& expected)
    : state_(std::make_unique<State>(expected)) {}

FixedOutputCheck::~FixedOutputCheck() = default;
FixedOutputCheck::FixedOutputCheck(FixedOutputCheck&&) noexcept = default;

void FixedOutputCheck::feed(ByteView nar) {
  if (state_->expected.method == model::ContentAddressMethod::NixArchive) {
    state_->archive.update(nar);
  } else {
    state_->reader.feed(nar);
  }
}

std::string FixedOutputCheck::verdict(std::string_view derivation) {
  Hash got;
  switch (state_->expected.method) {
  case model::ContentAddressMethod::NixArchive:
    got = state_->archive.finish();
    break;
  case model::ContentAddressMethod::Flat:
  case model::ContentAddressMethod::Text:
    if (!state_->flat.plain()) {
      return fmt::format("output path of fixed-output derivation '{}' should be a non-executable "
                         "regular file since recursive hashing is not enabled",
                         derivation);
    }
    got = state_->flat.finish();
    break;
  case model::ContentAddressMethod::Git:
    return fmt::format("derivation '{}' asks for git hashing, which this builder does not offer",
                       derivation);
  }
  if (got == state_->expected.hash) {
    return {};
  }
  return fmt::format("hash mismatch in fixed-output derivation '{}':\n"
                     "         specified: {}\n"
                     "            got:    {}",
                     derivation,
                     model::hash_sri(state_->expected.hash),
                     model::hash_sri(got));
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
