#include "activity_log.hpp"
#include "derivation_hashes.hpp"
#include "sent_derivation.hpp"
#include "worker_state.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/store/derivation_file.hpp>

#include <boost/asio/this_coro.hpp>
#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace nixbuild::server {

namespace asio = boost::asio;
namespace worker = protocol::worker;

namespace {

/// Derivations that a session may have built and ask about by hash afterwards.
constexpr std::size_t kMostTargets = 10'000;

/// How outputs are named to peers that name them by hash. Of those whose paths follow from the
/// derivation clients look at the output's name alone.
std::map<std::string, Hash>
keys_of(const model::StoreDir& dir, DerivationHashes& hashes, const model::Derivation& derivation) {
  return has_realisations(model::derivation_kind(derivation))
             ? hashes.names_of(derivation)
             : model::realisation_hashes(dir, derivation);
}

/// What Nix's own server says where the protocol has room for only one message.
std::string failure_text(const model::StoreDir& dir, const TargetResult& failed) {
  if (!failed.result.error.empty()) {
    return failed.result.error;
  }
  return fmt::format("build of '{}' failed: {}",
                     dir.print(failed.target.path),
                     model::name_of(failed.result.status));
}

model::StorePaths paths_made(const std::vector<TargetResult>& results) {
  model::StorePaths paths;
  for (const auto& [target, result] : results) {
    for (const auto& [name, output] : result.outputs) {
      paths.push_back(output.path);
    }
  }
  return paths;
}

} // namespace

/// Whether valid outputs are built again and compared.
bool WorkerState::is_check(worker::BuildMode mode) {
  if (mode == worker::BuildMode::Repair) {
    throw Error(Reaction::Unsupported, "worker.repair", "repairing paths is not offered");
  }
  return mode == worker::BuildMode::Check;
}

aio::Task<std::vector<TargetResult>> WorkerState::build(std::vector<protocol::DerivedPath> targets,
                                                        worker::BuildMode mode) {
  for (const auto& target : targets) {
    if (target.path.is_derivation() && targets_.size() < kMostTargets) {
      targets_.insert(target.path);
    }
  }
  GraphOrder order;
  order.emulation_told = emulation_told_;
  order.check = is_check(mode);
  order.options = options_;
  order.keep_going = keep_going_;
  order.may_build = may_build_;
  order.listen = [this](const model::StorePath& derivation) {
    return std::make_unique<ActivityLog>(
        out_, peer_, last_activity_, parts_.store.dir().print(derivation), log_lines_);
  };
  const auto strand = co_await asio::this_coro::executor;
  auto client = std::make_shared<HangUpWatch>(strand, in_, out_->shared_stream());
  co_return co_await build_targets(
      parts_, caller_, lease_, std::move(targets), std::move(order), std::move(client));
}

aio::Task<void> WorkerState::say_other_failures(std::span<const TargetResult> results) {
  for (const auto& [target, result] : results) {
    const bool own =
        !model::is_success(result.status) && result.status != model::BuildStatus::DependencyFailed;
    if (own) {
      say(worker::LogText{"error: " + result.error + "\n"});
    }
  }
  co_await send();
}

aio::Task<void> WorkerState::perform(worker::BuildPaths& request) {
  const auto results = co_await build(std::move(request.targets), request.mode);
  const auto failed = std::find_if(results.begin(), results.end(), [](const TargetResult& target) {
    return !model::is_success(target.result.status);
  });
  if (failed != results.end()) {
    const std::span<const TargetResult> others(failed + 1, results.end());
    co_await say_other_failures(others);
    throw Error(Reaction::Reject, "worker.build-failed", failure_text(parts_.store.dir(), *failed));
  }
  co_await admit(paths_made(results));
  conclude(worker::NumberReply{1});
}

aio::Task<void> WorkerState::perform(worker::BuildPathsWithResults& request) {
  auto results = co_await build(std::move(request.targets), request.mode);
  co_await admit(paths_made(results));
  auto keys = [this, &results] {
    DerivationHashes hashes(parts_.store, account_);
    worker::BuildsReply reply;
    for (auto& [target, result] : results) {
      worker::TargetResult told{target, {std::move(result), {}}};
      if (!told.reply.result.outputs.empty() && target.path.is_derivation()) {
        const auto derivation = store::load_derivation(parts_.store, account_, target.path);
        told.reply.keys = keys_of(parts_.store.dir(), hashes, derivation);
      }
      reply.results.push_back(std::move(told));
    }
    return reply;
  };
  const auto reply = co_await parts_.pool.run(std::move(keys));
  conclude(reply);
}

aio::Task<void> WorkerState::expect_buildable(const model::BasicDerivation& derivation) {
  bool known = true;
  for (const auto& [name, output] : derivation.outputs) {
    if (!output.path) {
      known = false;
      break;
    }
    const bool there = co_await valid(*output.path);
    known = known && there;
  }
  if (!known) {
    throw Error(builds_nothing());
  }
}

aio::Task<void> WorkerState::perform(worker::BuildDerivation& request) {
  const bool check = is_check(request.mode);
  if (!may_build_) {
    co_await expect_buildable(request.derivation);
  }
  lease_.add(request.derivation.input_sources);
  for (const auto& [name, output] : request.derivation.outputs) {
    if (output.path) {
      lease_.add(*output.path);
    }
  }
  worker::BuildReply reply;
  reply.keys = model::realisation_hashes(parts_.store.dir(), request.derivation);
  auto wanted = caller_.order(request.path, std::move(request.derivation), options_);
  wanted.check = check;
  if (auto refusal = co_await judge(parts_, wanted)) {
    reply.result = std::move(*refusal);
    conclude(reply);
    co_return;
  }
  auto attachment = co_await parts_.builds.ask(std::move(wanted));
  const HangUpWatch client(co_await asio::this_coro::executor, in_, out_->shared_stream());
  const auto printed = parts_.store.dir().print(request.path);
  ActivityLog log(out_, peer_, last_activity_, printed, log_lines_);
  co_await log.begin();
  const bool never = false;
  const BuildAsker asker{caller_, lease_, client, never, emulation_told_};
  reply.result = co_await follow_build(parts_, asker, std::move(attachment), log);
  co_await log.end(reply.result);
  if (!model::is_success(reply.result.status)) {
    reply.result.error += log.explanation(caller_.inside != nullptr ? std::string() : printed);
  }
  conclude(reply);
}

aio::Task<void> WorkerState::perform(worker::EnsurePath& request) {
  const bool present = co_await valid(request.path);
  if (!present) {
    throw Error(Reaction::NotFound,
                "worker.invalid-path",
                fmt::format("path '{}' does not exist and cannot be created: nothing is fetched "
                            "from other caches",
                            parts_.store.dir().print(request.path)));
  }
  conclude(worker::NumberReply{1});
}

} // namespace nixbuild::server
