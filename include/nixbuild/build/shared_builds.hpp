#pragma once

#include <nixbuild/aio/task_group.hpp>
#include <nixbuild/base/api.hpp>
#include <nixbuild/build/builder.hpp>

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace nixbuild::build {

struct SharedBuild;

/// One asker's part in a build that others may share. Leaving (destroying it) before the end leaves
/// the build to the others; the last one leaving does with it what the askers' policies say. Used
/// from any strand, by one owner.
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

struct SharedBuildsSettings {
  /// How long a build that was taken up from an earlier daemon waits at least for somebody who asks
  /// for it again: its askers have been cut off, which was not their wish.
  std::chrono::seconds return_grace{600};
};

/// Lets equal builds of one account run once (decision D5): the first asker starts it, later ones
/// attach and see the log from its first line, and what becomes of it when the last one has left
/// is the askers' choice. Thread safe.
class NIXBUILD_API SharedBuilds {
public:
  /// Both outlive it.
  SharedBuilds(Builder& builder, aio::TaskGroup& tasks, SharedBuildsSettings settings = {});
  ~SharedBuilds();

  /// Attaches to the running build of the same account with the same derivation, the same input
  /// contents and the same limits, or starts one. Looks at the database before it does.
  aio::Task<Attachment> ask(BuildRequest request);
  /// Attaches to a running build by its number; nothing when the account has no such one.
  [[nodiscard]] std::optional<Attachment> attach(store::AccountId account, std::int64_t number);
  /// Ends a running build, whoever waits for it; false when the account has no such one.
  bool cancel(store::AccountId account, std::int64_t number);

  /// Takes up what an earlier daemon left open, before anybody asks: builds whose machines may
  /// still run go on; others are queued again, at once where their policy keeps them, else as soon
  /// as somebody asks for them within `return_grace`, after which they are recorded as
  /// interrupted. Returns the plans of the machines that are still wanted. Blocking.
  [[nodiscard]] std::vector<std::string> take_up();
  /// This daemon is about to end: from now on builds are left to the next one, running or waiting,
  /// and nobody's leaving ends one.
  void leave_running();

  [[nodiscard]] std::size_t running() const;
  /// When the machine was started that a build of the account has at the moment, by a clock that
  /// nobody sets; nothing when it has none.
  [[nodiscard]] std::optional<MonotonicTime> running_since(store::AccountId account,
                                                           std::int64_t number) const;
  /// What is built is signed with it; absent: with none.
  [[nodiscard]] const model::SigningKey* signing_key() const noexcept;

private:
  struct State;
  std::shared_ptr<State> state_;
};

} // namespace nixbuild::build
