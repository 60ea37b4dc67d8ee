#pragma once

#include <nixbuild/aio/blocking_pool.hpp>
#include <nixbuild/aio/byte_stream.hpp>
#include <nixbuild/aio/event.hpp>
#include <nixbuild/aio/task.hpp>
#include <nixbuild/base/api.hpp>
#include <nixbuild/base/descriptor.hpp>
#include <nixbuild/store/store.hpp>

#include <memory>
#include <mutex>
#include <set>
#include <vector>

namespace nixbuild::build {

/// The store as one builder sees it that talks to a store (`recursive-nix`): the closure of its
/// inputs, and what has been let into its machine since. Thread safe; used by the build and by the
/// sessions of the builder's clients, which may outlive the machine.
class NIXBUILD_API BuilderStore {
public:
  struct Parts {
    store::Store& store; ///< outlives it
    aio::BlockingPool& pool;
    store::AccountId account;
  };

  /// `machine` takes admissions (sandbox/admission.hpp). `derivations` are those whose builders
  /// wait for each other, the outermost first, the one of this builder last.
  BuilderStore(Parts parts,
               const model::StorePaths& inputs,
               std::vector<model::StorePath> derivations,
               std::unique_ptr<aio::ByteStream> machine);
  ~BuilderStore();
  BuilderStore(const BuilderStore&) = delete;
  BuilderStore& operator=(const BuilderStore&) = delete;

  [[nodiscard]] bool allows(const model::StorePath& path) const;
  /// All that it allows, sorted.
  [[nodiscard]] model::StorePaths paths() const;
  /// What has been let in since the builder began, sorted.
  [[nodiscard]] model::StorePaths added() const;

  [[nodiscard]] const std::vector<model::StorePath>& derivations() const noexcept {
    return derivations_;
  }

  /// Lets valid paths in, with all that they refer to: they are leased for as long as this lives,
  /// and when it returns they are in the machine's store. One call at a time gets through; others
  /// wait. Errors: `build.admission` (the machine refused a path, or has ended), `store.*`.
  aio::Task<void> admit(model::StorePaths paths);

private:
  aio::Task<void> admit_in_turn(model::StorePaths paths);
  aio::Task<void> send(const model::StorePath& path);
  aio::Task<std::string> read_answer();

  Parts parts_;
  std::vector<model::StorePath> derivations_;
  std::unique_ptr<aio::ByteStream> machine_;
  store::Lease lease_;
  mutable std::mutex mutex_;
  std::set<model::StorePath> allowed_;
  std::set<model::StorePath> added_;
  bool admitting_ = false;
  bool broken_ = false; ///< an admission was cut short: nobody knows where the stream stands
  aio::Event turn_;
};

/// A client of a builder that has opened a conversation with its store: it says hello in the worker
/// protocol. Closing the socket ends it.
struct BuilderConversation {
  std::shared_ptr<BuilderStore> store;
  store::AccountId account;
  UniqueFd socket;
  std::shared_ptr<void> place; ///< held as long as the conversation lives
};

} // namespace nixbuild::build
