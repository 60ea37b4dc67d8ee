#pragma once

#include <nixbuild/aio/task_group.hpp>
#include <nixbuild/base/api.hpp>
#include <nixbuild/build/builder.hpp>

#include <cstdint>
#include <memory>

namespace nixbuild::build {

struct SharedBuild;

/// One asker's part in a build that others may share. Leaving (destroying it) before the end
/// cancels the build when nobody else waits for it. Used from any strand, by one owner.
class NIXBUILD_API Attachment {
public:
  ~Attachment();
  Attachment(Attachment&&) noexcept;
  Attachment& operator=(Attachment&&) noexcept;

  [[nodiscard]] LogFeed& feed() noexcept;
  /// 0 until the build has one (it never gets one when its outputs were valid already).
  [[nodiscard]] std::int64_t number() const noexcept;

  /// True when somebody else had started the build.
  [[nodiscard]] bool joined() const noexcept { return joined_; }

  /// Waits for the end. Rethrows what Builder::run threw.
  aio::Task<model::BuildResult> result();

private:
  friend class SharedBuilds;
  Attachment() = default;
  std::shared_ptr<SharedBuild> build_;
  bool joined_ = false;
};

/// Lets equal builds of one account run once (decision D5): the first asker starts it, later ones
/// attach and see the log from its first line, the last one leaving ends it. Thread safe.
class NIXBUILD_API SharedBuilds {
public:
  /// Both outlive it.
  SharedBuilds(Builder& builder, aio::TaskGroup& tasks);
  ~SharedBuilds();

  [[nodiscard]] Attachment ask(BuildRequest request);
  [[nodiscard]] std::size_t running() const;

private:
  struct State;
  std::shared_ptr<State> state_;
};

} // namespace nixbuild::build
