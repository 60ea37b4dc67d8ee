#include "worker_state.hpp"

#include <nixbuild/base/error.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <type_traits>
#include <utility>

/// A session of a builder's client (`recursive-nix`). Its store is what the builder sees: its
/// inputs, and what has been added or built through such sessions since; of everything else it
/// learns nothing, not even that it is valid. What Nix says to its builders' clients is the model.
namespace nixbuild::server {

namespace worker = protocol::worker;

namespace {

template <class T, class... Any>
constexpr bool is_any_of = (std::is_same_v<T, Any> || ...);

[[noreturn]] void keep_from_builders(std::string_view operation, std::string_view why) {
  throw Error(Reaction::Unsupported,
              "worker.inside",
              fmt::format("{} is not offered to builders: {}", operation, why));
}

} // namespace

bool WorkerState::allows(const model::StorePath& path) const {
  return caller_.inside->allows(path);
}

void WorkerState::expect_allowed(std::span<const model::StorePath> paths) const {
  for (const auto& path : paths) {
    if (!allows(path)) {
      fail_invalid(path);
    }
  }
}

aio::Task<void> WorkerState::admit(model::StorePaths paths) {
  if (caller_.inside != nullptr) {
    const auto inside = caller_.inside;
    co_await inside->admit(std::move(paths));
  }
}

std::optional<worker::Reply> WorkerState::answer_inside(worker::Request& question) const {
  auto visit = [this]<class T>(T& asked) -> std::optional<worker::Reply> {
    if constexpr (std::is_same_v<T, worker::IsValidPath>) {
      return worker::NumberReply{allows(asked.path) ? 1U : 0U};
    } else if constexpr (std::is_same_v<T, worker::QueryPathInfo>) {
      worker::QueryPathInfoReply reply;
      if (allows(asked.path)) {
        reply.info = parts_.store.db().path_info(account_, asked.path);
      }
      if (reply.info) {
        // What is not the same for everybody who builds this.
        reply.info->deriver.reset();
        reply.info->registration_time = 0;
        reply.info->ultimate = false;
        reply.info->signatures.clear();
      }
      return reply;
    } else if constexpr (std::is_same_v<T, worker::QueryAllValidPaths>) {
      return worker::PathsReply{caller_.inside->paths()};
    } else if constexpr (is_any_of<T, worker::QueryReferrers, worker::QueryValidDerivers>) {
      return worker::PathsReply{};
    } else if constexpr (std::is_same_v<T, worker::QueryDeriver>) {
      expect_allowed({&asked.path, 1});
      return worker::OptionalPathReply{};
    } else if constexpr (is_any_of<T,
                                   worker::QueryDerivationOutputs,
                                   worker::QueryDerivationOutputNames,
                                   worker::QueryDerivationOutputMap>) {
      expect_allowed({&asked.path, 1});
    } else if constexpr (std::is_same_v<T, worker::QueryPathFromHashPart>) {
      const auto all = caller_.inside->paths();
      const auto found = std::find_if(all.begin(), all.end(), [&](const auto& path) {
        return path.hash_part() == asked.hash_part;
      });
      return worker::OptionalPathReply{found == all.end() ? std::nullopt : std::optional(*found)};
    } else if constexpr (std::is_same_v<T, worker::QueryValidPaths>) {
      std::erase_if(asked.paths, [this](const auto& path) { return !allows(path); });
    } else if constexpr (std::is_same_v<T, worker::QueryMissing>) {
      std::erase_if(asked.targets, [this](const auto& target) { return !allows(target.path); });
    } else if constexpr (std::is_same_v<T, worker::QueryRealisation>) {
      worker::RealisationsReply reply{asked.id, {}};
      auto found = parts_.store.db().realisation(account_, realisation_key(asked.id));
      if (found && allows(found->path)) {
        reply.realisations.push_back(std::move(*found));
      }
      return reply;
    }
    return std::nullopt; // those of other caches: there are none
  };
  return std::visit(visit, question);
}

bool WorkerState::settle_inside(const worker::Request& request) {
  const auto operation = worker::name_of(request);
  auto visit = [this, operation]<class T>(const T& asked) {
    if constexpr (std::is_same_v<T, worker::NarFromPath>) {
      expect_allowed({&asked.path, 1});
    } else if constexpr (is_any_of<T, worker::AddToStore, worker::AddTextToStore>) {
      expect_allowed(asked.references);
    } else if constexpr (is_any_of<T, worker::BuildPaths, worker::BuildPathsWithResults>) {
      if (asked.mode != worker::BuildMode::Normal) {
        keep_from_builders(operation, "only ordinary builds are");
      }
      for (const auto& target : asked.targets) {
        expect_allowed({&target.path, 1});
      }
    } else if constexpr (std::is_same_v<T, worker::EnsurePath>) {
      expect_allowed({&asked.path, 1});
    } else if constexpr (is_any_of<T,
                                   worker::AddTempRoot,
                                   worker::AddIndirectRoot,
                                   worker::AddPermRoot,
                                   worker::OptimiseStore>) {
      // What the builder has been told of is held for as long as it runs.
      if constexpr (std::is_same_v<T, worker::AddPermRoot>) {
        conclude(worker::TextReply{asked.link});
      } else {
        conclude(worker::NumberReply{1});
      }
      return true;
    } else if constexpr (std::is_same_v<T, worker::FindRoots>) {
      conclude(worker::RootsReply{});
      return true;
    } else if constexpr (std::is_same_v<T, worker::CollectGarbage>) {
      conclude(worker::GarbageReply{});
      return true;
    } else if constexpr (std::is_same_v<T, worker::AddToStoreNar>) {
      if (asked.info.content_address.empty() || !frames_) {
        keep_from_builders(operation, "what they add is named after its contents");
      }
      auto references = asked.info.references;
      std::erase(references, asked.info.path);
      expect_allowed(references);
    } else if constexpr (std::is_same_v<T, worker::AddMultipleToStore>) {
      keep_from_builders(operation, "paths are added one by one");
    } else if constexpr (!is_any_of<T, worker::SyncWithGC, worker::SetOptions>) {
      keep_from_builders(operation, "the store is not theirs");
    }
    return false;
  };
  return std::visit(visit, request);
}

} // namespace nixbuild::server
