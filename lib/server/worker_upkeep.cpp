#include "long_work.hpp"
#include "worker_state.hpp"

#include <nixbuild/base/error.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <iterator>
#include <limits>
#include <utility>

namespace nixbuild::server {

namespace worker = protocol::worker;

/// On threads of its own, in the account's turn.
template <class Work>
aio::Task<std::invoke_result_t<Work&>> WorkerState::run_long(Work work) {
  if (parts_.long_work == nullptr) {
    co_return co_await parts_.pool.run(std::move(work));
  }
  std::function<void()> always;
  const auto turn = co_await parts_.long_work->turn(account_, std::move(always));
  co_return co_await parts_.long_work->pool.run(std::move(work));
}

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

/// What sessions and builds of the account hold at the moment; there are no roots beside that.
aio::Task<void> WorkerState::perform(worker::FindRoots&) {
  auto look = [this] {
    return parts_.store.leased_paths(account_);
  };
  const auto leased = co_await parts_.pool.run(std::move(look));
  worker::RootsReply reply;
  for (const auto& path : leased) {
    reply.roots.push_back({"{temp:nixbuild}", path});
  }
  conclude(reply);
}

namespace {

/// Clients that set no limit to a collection send the largest number there is.
constexpr auto kNoLimit = std::numeric_limits<std::uint64_t>::max() >> 1;

template <class Number>
Number whole_number(const std::string& name, const std::string& text, std::string_view what) {
  Number value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) {
    throw Error(Reaction::Reject,
                "worker.option",
                fmt::format("option '{}' is not a number of {}: '{}'",
                            name,
                            what,
                            std::string_view(text).substr(0, 100)));
  }
  return value;
}

std::chrono::seconds seconds_of(const std::string& name, const std::string& text) {
  return std::chrono::seconds(whole_number<std::uint32_t>(name, text, "seconds"));
}

} // namespace

aio::Task<void> WorkerState::perform(worker::SetOptions& request) {
  keep_going_ = request.keep_going;
  options_.keep_failed = request.keep_failed;
  options_.max_silent_time = request.max_silent_time;
  may_build_ = request.max_build_jobs > 0;
  for (const auto& [name, value] : request.overrides) {
    if (name == "timeout" || name == "build-timeout") {
      options_.timeout = seconds_of(name, value);
    } else if (name == "max-silent-time" || name == "build-max-silent-time") {
      options_.max_silent_time = seconds_of(name, value);
    } else if (name == "keep-going") {
      keep_going_ = value == "true" || value == "1";
    } else if (name == "keep-failed") {
      options_.keep_failed = value == "true" || value == "1";
    } else if (name == "max-build-log-size" || name == "build-max-log-size") {
      options_.max_log_bytes = whole_number<std::uint64_t>(name, value, "bytes");
    } else if (name == "log-lines") {
      log_lines_ = whole_number<std::uint32_t>(name, value, "lines");
    }
    // Other options of a client's Nix mean nothing to this server.
  }
  conclude(worker::EmptyReply{});
  co_return;
}

/// What the client asks to delete it does not hold any more. Blocking.
worker::GarbageReply WorkerState::collect(const worker::CollectGarbage& request) {
  using worker::GcAction;
  worker::GarbageReply reply;
  const auto tell = [&](const model::StorePaths& paths) {
    for (const auto& path : paths) {
      reply.paths.push_back(parts_.store.dir().print(path));
    }
  };
  if (request.action == GcAction::ReturnLive || request.action == GcAction::ReturnDead) {
    const auto live = parts_.store.live_paths(account_, {});
    if (request.action == GcAction::ReturnLive) {
      tell(live);
      return reply;
    }
    const auto all = parts_.store.db().all_paths(account_);
    model::StorePaths dead;
    std::set_difference(all.begin(), all.end(), live.begin(), live.end(), std::back_inserter(dead));
    tell(dead);
    return reply;
  }
  store::GcOrder order;
  if (!request.whole_store) {
    order.only = request.paths;
    // Peers that cannot say it mean it: older versions of Nix delete what refers to the path, too.
    order.with_referrers = request.delete_referrers ||
                           !peer_.features.contains(std::string(worker::kDeleteDeadSpecific));
  }
  if (request.max_freed < kNoLimit) {
    order.enough_bytes = request.max_freed;
  }
  const auto result = parts_.store.collect(account_, order);
  tell(result.removed);
  reply.bytes_freed = result.bytes_freed;
  return reply;
}

aio::Task<void> WorkerState::perform(worker::CollectGarbage& request) {
  if (!request.whole_store) {
    lease_ = parts_.store.lease(account_);
  }
  auto work = [this, &request] {
    return collect(request);
  };
  const auto reply = co_await run_long(std::move(work));
  conclude(reply);
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
    const auto findings = co_await run_long(std::move(work));
    for (const auto& finding : findings) {
      say(worker::LogText{
          fmt::format("path '{}': {}\n", parts_.store.dir().print(finding.path), finding.message)});
    }
    errors = findings.empty() ? 0 : 1;
  }
  conclude(worker::NumberReply{errors});
}

} // namespace nixbuild::server
