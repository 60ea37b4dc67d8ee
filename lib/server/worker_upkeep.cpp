#include "worker_state.hpp"

#include <nixbuild/base/error.hpp>

#include <fmt/format.h>

#include <charconv>
#include <limits>
#include <utility>

namespace nixbuild::server {

namespace worker = protocol::worker;

aio::Task<void> WorkerState::perform(worker::AddTempRoot& request) {
  lease_.add(request.path);
  conclude(worker::NumberReply{1});
  co_return;
}

// Roots are links in a file system that client and store share; here they share none.

aio::Task<void> WorkerState::perform(worker::AddIndirectRoot&) {
  throw Error(Reaction::Unsupported,
              "worker.roots",
              "links as roots are not offered: the store is not on the client's file system");
  co_return;
}

aio::Task<void> WorkerState::perform(worker::AddPermRoot&) {
  throw Error(Reaction::Unsupported,
              "worker.roots",
              "links as roots are not offered: the store is not on the client's file system");
  co_return;
}

aio::Task<void> WorkerState::perform(worker::SyncWithGC&) {
  conclude(worker::NumberReply{1});
  co_return;
}

aio::Task<void> WorkerState::perform(worker::FindRoots&) {
  conclude(worker::RootsReply{});
  co_return;
}

namespace {

std::chrono::seconds seconds_of(const std::string& name, const std::string& text) {
  std::uint32_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) {
    throw Error(Reaction::Reject,
                "worker.option",
                fmt::format("option '{}' is not a number of seconds: '{}'",
                            name,
                            std::string_view(text).substr(0, 100)));
  }
  return std::chrono::seconds(value);
}

} // namespace

aio::Task<void> WorkerState::perform(worker::SetOptions& request) {
  keep_going_ = request.keep_going;
  options_.keep_failed = request.keep_failed;
  options_.max_silent_time = request.max_silent_time;
  for (const auto& [name, value] : request.overrides) {
    if (name == "timeout" || name == "build-timeout") {
      options_.timeout = seconds_of(name, value);
    } else if (name == "max-silent-time" || name == "build-max-silent-time") {
      options_.max_silent_time = seconds_of(name, value);
    } else if (name == "keep-going") {
      keep_going_ = value == "true" || value == "1";
    }
    // Other options of a client's Nix mean nothing to this server.
  }
  conclude(worker::EmptyReply{});
  co_return;
}

aio::Task<void> WorkerState::perform(worker::CollectGarbage& request) {
  constexpr auto kEverything = std::numeric_limits<std::uint64_t>::max() >> 1;
  if (request.action != worker::GcAction::DeleteDead || !request.whole_store ||
      request.max_freed < kEverything) {
    throw Error(Reaction::Unsupported,
                "worker.gc",
                "only a whole collection of garbage is offered (nix store gc); see nixbuild gc");
  }
  auto work = [this] {
    return parts_.store.collect_garbage(account_, {});
  };
  const auto result = co_await parts_.pool.run(std::move(work));
  say(worker::LogText{fmt::format("{} store paths deleted\n", result.paths_removed)});
  conclude(worker::GarbageReply{{}, result.bytes_freed});
}

/// Contents are stored once anyway.
aio::Task<void> WorkerState::perform(worker::OptimiseStore&) {
  conclude(worker::NumberReply{1});
  co_return;
}

aio::Task<void> WorkerState::perform(worker::VerifyStore& request) {
  if (request.repair) {
    throw Error(Reaction::Unsupported, "worker.repair", "repairing paths is not offered");
  }
  std::uint64_t errors = 0;
  if (request.check_contents) {
    auto work = [this] {
      return parts_.store.verify(account_, {});
    };
    const auto findings = co_await parts_.pool.run(std::move(work));
    for (const auto& finding : findings) {
      say(worker::LogText{
          fmt::format("path '{}': {}\n", parts_.store.dir().print(finding.path), finding.message)});
    }
    errors = findings.empty() ? 0 : 1;
  }
  conclude(worker::NumberReply{errors});
}

} // namespace nixbuild::server
