#pragma once

#include <nixbuild/base/api.hpp>
#include <nixbuild/base/digest.hpp>
#include <nixbuild/nar/event.hpp>

#include <memory>

namespace nixbuild::nar {

/// The name that Git gives to a tree of files: of a file or a symlink its blob's, of a directory
/// its tree's, where empty directories count, too. What the root itself is (executable, symlink)
/// has no part in it, as with Nix's method `git`. One pass; memory: the names and digests of the
/// directories that are open. Source: Git's object format; protocol facts 4.7.
class NIXBUILD_API GitDigest final : public EventSink {
public:
  explicit GitDigest(HashAlgorithm algorithm);
  ~GitDigest() override;
  GitDigest(GitDigest&&) noexcept;
  GitDigest& operator=(GitDigest&&) = delete;

  void regular(bool executable, std::uint64_t size) override;
  void contents(ByteView bytes) override;
  void regular_end() override;
  void symlink(std::string_view target) override;
  void directory() override;
  void entry(std::string_view name) override;
  void directory_end() override;

  /// After the last event. Error `nar.truncated` before it.
  [[nodiscard]] Hash finish() const;

private:
  struct State;
  std::unique_ptr<State> state_;
};

} // namespace nixbuild::nar
