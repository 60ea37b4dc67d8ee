#include "attempt.hpp"

#include <nixbuild/base/error.hpp>

#include <fmt/format.h>

#include <algorithm>

namespace nixbuild::build {

namespace {

/// How much of an earlier failure's log is told again: its end, where the reason stands.
constexpr std::uint64_t kRepeatedLog = 256 * kKiB;
constexpr std::size_t kLogPiece = 64 * kKiB;

} // namespace

/// Whether the outputs' paths are more than the account's own word.
bool Attempt::proven() const noexcept {
  return request_.proven || control_->is_proven();
}

/// Whether the failure stands for what this asker would see, too.
bool Attempt::may_repeat(const store::BuildOutcome& outcome) const {
  if (outcome.account != request_.account) {
    return false; // its log and its words are another account's
  }
  if (outcome.status == model::BuildStatus::PermanentFailure) {
    return policy_.reuse_failures;
  }
  if (outcome.status != model::BuildStatus::TimedOut || !policy_.reuse_timeouts) {
    return false;
  }
  const auto within = [](std::chrono::seconds asked, std::int64_t had) {
    return asked.count() > 0 && asked.count() <= had;
  };
  return within(request_.options.timeout, outcome.timeout_seconds) ||
         within(request_.options.max_silent_time, outcome.silence_seconds);
}

/// Ends the build without a machine where an earlier one of the same key tells how it ends.
aio::Task<bool> Attempt::reuse(model::BuildResult& result) {
  if (!record_.key) {
    co_return false;
  }
  auto look = [this] {
    const bool of_others = policy_.share_results && proven();
    return parts_.store.db().find_outcome(request_.account, *record_.key, of_others);
  };
  const auto outcome = co_await parts_.pool.run(std::move(look));
  if (!outcome) {
    co_return false;
  }
  if (outcome->status == model::BuildStatus::Built) {
    const bool reused = co_await reuse_success(*outcome);
    if (reused) {
      result = success(model::BuildStatus::AlreadyValid);
    }
    co_return reused;
  }
  if (!may_repeat(*outcome)) {
    co_return false;
  }
  record_.reused = outcome->build;
  auto line = fmt::format("this failed before, as build {}, and is not tried again; its log:",
                          outcome->build);
  co_await say(std::move(line));
  co_await repeat_log(outcome->build);
  result.status = outcome->status;
  result.error = outcome->error;
  co_return true;
}

aio::Task<void> Attempt::repeat_log(std::int64_t build) {
  auto read = [this, build] {
    std::string text;
    for (std::uint64_t at = 0;;) {
      const auto piece = parts_.logs.read(build, at, kLogPiece);
      if (!piece || piece->empty()) {
        return text;
      }
      at += piece->size();
      text += *piece;
      if (text.size() > 2 * kRepeatedLog) {
        text.erase(0, text.size() - kRepeatedLog);
      }
    }
  };
  std::string text = co_await parts_.pool.run(std::move(read));
  if (text.size() > kRepeatedLog) {
    text.erase(0, text.size() - kRepeatedLog);
  }
  co_await take_log(std::move(text));
}

/// Registers for this account what was built before. Names are this account's, contents are those
/// that the build made: what anybody has put under these names since then does not matter.
aio::Task<bool> Attempt::reuse_success(const store::BuildOutcome& outcome) {
  std::vector<model::PathInfo> infos;
  for (const auto& path : output_paths_) {
    const auto found =
        std::find_if(outcome.outputs.begin(), outcome.outputs.end(), [&](const auto& info) {
          // Every output of a derivation has a name of its own.
          return made_of_contents(kind_) ? info.path.name() == path.name() : info.path == path;
        });
    if (found == outcome.outputs.end()) {
      co_return false;
    }
    infos.push_back(*found);
    infos.back().deriver = request_.derivation_path;
    infos.back().ultimate = true;
  }
  auto named = [this, &infos] {
    // Contents that nobody names may be on their way out, or never have reached the disk.
    return std::all_of(infos.begin(), infos.end(), [&](const auto& info) {
      return parts_.store.db().nar_hash_in_use(info.nar_hash);
    });
  };
  if (!co_await parts_.pool.run(std::move(named))) {
    co_return false;
  }
  built_ = std::move(infos);
  made_paths_.clear();
  for (const auto& info : built_) {
    made_paths_.push_back(info.path);
  }
  inputs_->lease.add(made_paths_);
  built_ = signed_outputs(order_of_outputs(built_, drv_text_));
  const bool own = outcome.account == request_.account;
  record_.reused = own ? outcome.build : 0;
  record_.of_another = !own;
  auto line = own ? fmt::format("the result of build {} is used again", outcome.build)
                  : std::string("built before on this server from the same inputs: that result is "
                                "used");
  co_await say(std::move(line));
  const auto before = record_;
  model::BuildResult result;
  result.status = model::BuildStatus::AlreadyValid;
  try {
    co_await end_record(result);
  } catch (const Error& error) {
    // Collected at this very moment: then it is built.
    parts_.log.info(
        fmt::format("build {} cannot use an earlier result: {}", record_.id, error.what()));
    record_ = before;
    record_.reused = 0;
    record_.of_another = false;
    record_.status.reset();
    built_.clear();
    co_return false;
  }
  co_return true;
}

} // namespace nixbuild::build
