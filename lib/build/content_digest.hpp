#pragma once

#include <nixbuild/base/bytes.hpp>
#include <nixbuild/base/digest.hpp>
#include <nixbuild/model/content_address.hpp>

#include <memory>
#include <span>
#include <string_view>

namespace nixbuild::build {

/// The hash by which the contents of an output are addressed. Takes the NAR's bytes in any cut.
class ContentDigest {
public:
  explicit ContentDigest(const model::MethodAlgorithm& how);
  ~ContentDigest();
  ContentDigest(ContentDigest&&) noexcept;

  void feed(ByteView nar);
  /// Behind all bytes: `|` and the decimal number of each.
  void append_offsets(std::span<const std::uint64_t> offsets);
  /// Throws BuildFailure (OutputRejected), in Nix's words, where flat contents are no plain file.
  /// `derivation` is named in them.
  [[nodiscard]] Hash finish(std::string_view derivation);

private:
  struct State;
  std::unique_ptr<State> state_;
};

} // namespace nixbuild::build
