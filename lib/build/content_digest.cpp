#include "content_digest.hpp"

#include "steps.hpp"

#include <nixbuild/nar/git_digest.hpp>

#include <fmt/format.h>

namespace nixbuild::build {

namespace {

using Method = model::ContentAddressMethod;

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

struct ContentDigest::State {
  Method method;
  Hasher archive;
  FlatDigest flat;
  nar::GitDigest git;
  nar::Reader reader;

  explicit State(const model::MethodAlgorithm& how)
      : method(how.method), archive(how.algorithm), flat(how.algorithm), git(how.algorithm),
        reader(sink()) {}

  nar::EventSink& sink() {
    if (method == Method::Git) {
      return git;
    }
    return flat;
  }
};

ContentDigest::ContentDigest(const model::MethodAlgorithm& how)
    : state_(std::make_unique<State>(how)) {}

ContentDigest::~ContentDigest() = default;
ContentDigest::ContentDigest(ContentDigest&&) noexcept = default;

void ContentDigest::feed(ByteView nar) {
  if (state_->method == Method::NixArchive) {
    state_->archive.update(nar);
  } else {
    state_->reader.feed(nar);
  }
}

void ContentDigest::append_offsets(std::span<const std::uint64_t> offsets) {
  for (const auto offset : offsets) {
    const auto text = fmt::format("|{}", offset);
    state_->archive.update(bytes_of(text));
  }
}

Hash ContentDigest::finish(std::string_view derivation) {
  if (state_->method == Method::NixArchive) {
    return state_->archive.finish();
  }
  if (state_->method == Method::Git) {
    return state_->git.finish();
  }
  if (!state_->flat.plain()) {
    throw BuildFailure(
        model::BuildStatus::OutputRejected,
        fmt::format("output path of fixed-output derivation '{}' should be a non-executable "
                    "regular file since recursive hashing is not enabled",
                    derivation));
  }
  return state_->flat.finish();
}

} // namespace nixbuild::build
