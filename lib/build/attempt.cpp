#include "attempt.hpp"

#include <nixbuild/base/error.hpp>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>

namespace nixbuild::build {

using std::chrono::microseconds;

namespace {

std::int64_t time_of_day_us(const Clock& clock) {
  return std::chrono::duration_cast<microseconds>(clock.wall().time_since_epoch()).count();
}

} // namespace

Attempt::Attempt(const Builder::Parts& parts,
                 const BuilderSettings& settings,
                 BuildRequest request,
                 std::shared_ptr<LogFeed> feed,
                 std::shared_ptr<BuildControl> control,
                 std::shared_ptr<BuildInputs> inputs)
    : parts_(parts), settings_(settings), request_(std::move(request)),
      policy_(request_.policy.value_or(settings.policy)), feed_(std::move(feed)),
      control_(std::move(control)), inputs_(std::move(inputs)), watch_(std::make_shared<Watch>()),
      drv_text_(parts.store.dir().print(request_.derivation_path)) {
  set_clock(time_of_day_us(parts_.clock), microseconds(0));
}

Attempt::~Attempt() {
  watch_->ended = true;
  watch_->execution = nullptr;
  if (execution_ && control_->left_running()) {
    execution_->detach();
  }
}

/// It was this time of day so long ago.
void Attempt::set_clock(std::int64_t wall_us, microseconds ago) {
  clock_wall_us_ = wall_us;
  clock_at_ = parts_.clock.monotonic() - ago;
}

std::int64_t Attempt::now_us() const {
  const auto since = parts_.clock.monotonic() - clock_at_;
  return clock_wall_us_ + std::chrono::duration_cast<microseconds>(since).count();
}

aio::Task<void> Attempt::open_record() {
  auto work = [this] {
    return parts_.store.db().open_build(record_,
                                        request_text(parts_.store.dir(), request_, policy_));
  };
  record_.id = co_await parts_.pool.run(std::move(work));
}

void Attempt::note_phase(const std::string& phase, microseconds at) {
  phases_.emplace_back(phase, at);
}

aio::Task<void> Attempt::take_log(std::string bytes) {
  watch_->last_output = parts_.clock.monotonic();
  std::uint64_t limit = settings_.max_log_bytes;
  if (request_.options.max_log_bytes.value_or(0) != 0) {
    limit = std::min(limit, *request_.options.max_log_bytes);
  }
  if (builder_log_bytes_ + bytes.size() > limit) {
    bytes.resize(static_cast<std::size_t>(limit - std::min(limit, builder_log_bytes_)));
    watch_->stop(Stop::LogLimit);
  }
  if (bytes.empty()) {
    co_return;
  }
  builder_log_bytes_ += bytes.size();
  record_.log_bytes += bytes.size();
  fresh_line_ = bytes.back() == '\n';
  auto work = [this, &bytes] {
    parts_.logs.append(record_.id, bytes_of(bytes));
  };
  co_await parts_.pool.run(std::move(work));
  feed_->append(bytes_of(bytes));
}

/// A line of our own. The log's limit is for the builder.
aio::Task<void> Attempt::say(std::string line) {
  line = fmt::format("{}[nixbuild] {}\n", fresh_line_ ? "" : "\n", line);
  fresh_line_ = true;
  record_.log_bytes += line.size();
  auto work = [this, &line] {
    parts_.logs.append(record_.id, bytes_of(line));
  };
  co_await parts_.pool.run(std::move(work));
  feed_->append(bytes_of(line));
}

void Attempt::throw_stopped() const {
  using model::BuildStatus;
  switch (watch_->reason) {
  case Stop::Silence:
    throw BuildFailure(BuildStatus::TimedOut,
                       fmt::format("{} timed out after {} seconds of silence",
                                   drv_text_,
                                   request_.options.max_silent_time.count()));
  case Stop::Timeout:
    throw BuildFailure(
        BuildStatus::TimedOut,
        fmt::format("{} timed out after {} seconds", drv_text_, request_.options.timeout.count()));
  case Stop::LogLimit:
    throw BuildFailure(BuildStatus::LogLimitExceeded,
                       fmt::format("{} killed after writing more than {} bytes of log output",
                                   drv_text_,
                                   builder_log_bytes_));
  case Stop::Lost:
    throw BuildFailure(
        BuildStatus::TransientFailure,
        fmt::format("the virtual machine of '{}' did not answer for {} seconds and was ended",
                    drv_text_,
                    settings_.lost_after.count()));
  case Stop::Cancelled:
  case Stop::None:
    break;
  }
  throw Error(
      Reaction::Cancelled, "build.cancelled", fmt::format("build of {} was cancelled", drv_text_));
}

void Attempt::throw_superseded() const {
  throw Error(Reaction::Cancelled,
              "build.superseded",
              fmt::format("attempt {} of build {} is not the newest one: what it made is dropped",
                          record_.attempt,
                          record_.id));
}

std::string Attempt::phases_json() const {
  std::vector<std::string> members;
  for (const auto& [name, at] : phases_) {
    members.push_back(fmt::format("\"{}\":{}", name, at.count()));
  }
  return fmt::format("{{{}}}", fmt::join(members, ","));
}

void Attempt::describe() {
  record_.account = request_.account;
  record_.derivation = request_.derivation_path.base_name();
  record_.platform = request_.derivation.platform;
  record_.ssh_key = request_.placement.key;
  record_.tags = request_.placement.tags;
  record_.session = request_.session;
  record_.created_us = now_us();
  record_.cpus = settings_.cpus;
  record_.memory_bytes = settings_.memory_bytes;
}

aio::Task<model::BuildResult> Attempt::run(const std::function<void(std::int64_t)>& on_number) {
  describe();
  model::BuildResult result;
  std::exception_ptr fault;
  try {
    name_outputs();
    co_await resolve_inputs();
    const bool valid = co_await outputs_valid();
    if (valid && !request_.check) {
      feed_->close();
      co_return success(model::BuildStatus::AlreadyValid);
    }
    record_.key = request_.check ? std::nullopt : inputs_->key;
    co_await open_record();
    on_number(record_.id);
    expect_valid(valid);
    check_inputs();
    // Without a key nothing is found.
    if (!co_await reuse(result)) {
      result = co_await build();
    }
  } catch (...) {
    fault = std::current_exception();
  }
  co_return co_await conclude(std::move(result), fault);
}

aio::Task<model::BuildResult> Attempt::resume(store::OpenBuild open,
                                              const std::function<aio::Task<bool>()>& wanted) {
  record_ = open.record;
  record_.log_bytes = feed_->size();
  // The time of day may have been set back meanwhile.
  set_clock(std::max({now_us(), record_.created_us, record_.started_us}), microseconds(0));
  model::BuildResult result;
  std::exception_ptr fault;
  try {
    name_outputs();
    co_await resolve_inputs();
    const bool valid = co_await outputs_valid();
    const bool adopted = co_await adopt(open);
    if (valid && !request_.check) {
      // Registered just before the daemon's end, which left only the machine.
      result = success(model::BuildStatus::AlreadyValid);
    } else {
      expect_valid(valid);
      check_inputs();
      bool goes_on = adopted;
      if (!goes_on) {
        goes_on = co_await wanted();
      }
      if (!goes_on) {
        throw BuildFailure(model::BuildStatus::TransientFailure,
                           fmt::format("build of '{}' was interrupted: the daemon ended {}, and "
                                       "nobody came back for it",
                                       drv_text_,
                                       open.plan.empty() ? "while it waited" : "with its machine"));
      }
      result = co_await build();
    }
  } catch (...) {
    fault = std::current_exception();
  }
  co_return co_await conclude(std::move(result), fault);
}

/// Takes a failure that the client is told as a result; leaves the rest.
void Attempt::set_failure(model::BuildResult& result, const std::exception_ptr& fault) const {
  try {
    std::rethrow_exception(fault);
  } catch (const BuildFailure& failure) {
    result.status = failure.status();
    result.error = failure.message();
  } catch (const std::exception& error) {
    result.status = model::BuildStatus::MiscFailure;
    result.error = error.what();
  }
}

namespace {

bool is_told(const std::exception_ptr& fault) {
  try {
    std::rethrow_exception(fault);
  } catch (const BuildFailure&) {
    return true;
  } catch (...) {
    return false;
  }
}

} // namespace

aio::Task<model::BuildResult> Attempt::conclude(model::BuildResult result,
                                                std::exception_ptr fault) {
  if (fault && !is_told(fault) && control_->left_running()) {
    // The next daemon takes it up: the record stays open, the destructor lets the machine go.
    feed_->close();
    std::rethrow_exception(fault);
  }
  if (fault && !is_told(fault) && watch_->reason != Stop::None) {
    try {
      throw_stopped();
    } catch (...) {
      fault = std::current_exception();
    }
  }
  if (fault) {
    set_failure(result, fault);
    built_.clear(); // refused outputs are nobody's
  }
  watch_->ended = true;
  if (fault) {
    co_await keep_machine(result);
  }
  if (!settled_ && !left_open_ && record_.id != 0) {
    std::exception_ptr unrecorded;
    try {
      co_await end_record(result);
    } catch (...) {
      unrecorded = std::current_exception();
    }
    if (unrecorded) {
      // What was built could not be registered, which is worth a record of its own.
      fault = unrecorded;
      set_failure(result, fault);
      result.outputs.clear();
      built_.clear();
      repeatable_ = false;
      try {
        co_await end_record(result);
      } catch (const std::exception& error) {
        parts_.log.warning(fmt::format("the end of build {}: {}", record_.id, error.what()));
      }
    }
  }
  watch_->execution = nullptr;
  if (execution_ && model::is_success(result.status)) {
    co_await execution_->finish();
  } else if (execution_) {
    execution_->cancel();
  }
  execution_.reset();
  machine_.finish(outcome_for(result), measured());
  machine_ = ComputeLease();
  if (record_.id != 0 && !left_open_) {
    auto work = [this] {
      parts_.logs.finish(record_.id);
    };
    co_await parts_.pool.run(std::move(work));
  }
  feed_->close();
  if (fault && !is_told(fault) && control_->cancelled()) {
    std::rethrow_exception(fault);
  }
  result.start_time = record_.started_us / 1'000'000;
  result.stop_time = record_.stopped_us / 1'000'000;
  co_return result;
}

/// A builder that has failed by itself leaves its machine to whoever asked for that.
aio::Task<void> Attempt::keep_machine(const model::BuildResult& result) {
  const bool wanted = policy_.keep_failed || request_.options.keep_failed.value_or(false);
  if (!wanted || parts_.kept == nullptr || !builder_ended_ || !execution_ || settled_ ||
      control_->cancelled() || parts_.kept->settings().most == 0 ||
      model::is_builtin(request_.derivation) || // has credentials that no visitor may read
      result.status == model::BuildStatus::LogLimitExceeded) {
    co_return;
  }
  watch_->execution = nullptr;
  std::string line =
      parts_.kept->keep(record_.account, record_.id, execution_)
          ? fmt::format("the machine is kept for {} minutes; to look around in it: ssh -t HOST "
                        "nixbuild shell {}",
                        parts_.kept->settings().time.count(),
                        record_.id)
          : std::string("the machine is not kept: somebody is in each of those that are");
  try {
    co_await say(std::move(line));
  } catch (const std::exception&) {
    // The build has failed all the same, and is to be recorded.
  }
}

/// What later askers of the same key may be told.
std::optional<store::BuildOutcome> Attempt::outcome_of(const model::BuildResult& result) const {
  if (!record_.key || !repeatable_ || options_.talks_to_store()) {
    return std::nullopt;
  }
  store::BuildOutcome outcome;
  outcome.key = *record_.key;
  outcome.account = record_.account;
  outcome.build = record_.id;
  outcome.status = result.status;
  outcome.error = result.error;
  outcome.shared = policy_.share_results && !control_->is_private() && proven();
  if (watch_->reason == Stop::Timeout) {
    outcome.timeout_seconds = request_.options.timeout.count();
  } else if (watch_->reason == Stop::Silence) {
    outcome.silence_seconds = request_.options.max_silent_time.count();
  }
  for (const auto& info : built_) {
    outcome.outputs.push_back(info);
    outcome.outputs.back().deriver.reset();
    outcome.outputs.back().signatures.clear();
  }
  return outcome;
}

aio::Task<void> Attempt::end_record(const model::BuildResult& result) {
  record_.stopped_us = now_us();
  record_.phases = phases_json();
  record_.status = result.status;
  record_.error = result.error;
  record_.output_bytes = 0;
  record_.outputs.clear();
  for (const auto& info : built_) {
    record_.output_bytes += info.nar_size;
    const auto made = std::find(made_paths_.begin(), made_paths_.end(), info.path);
    const auto& name = output_names_.at(static_cast<std::size_t>(made - made_paths_.begin()));
    record_.outputs.push_back({name, info.path, info.nar_hash, info.nar_size});
  }
  std::sort(record_.outputs.begin(), record_.outputs.end(), [](const auto& a, const auto& b) {
    return a.name < b.name;
  });
  repeatable_ = repeatable_ || watch_->reason == Stop::Timeout || watch_->reason == Stop::Silence;
  const auto outcome = outcome_of(result);
  auto work = [this, &outcome] {
    const bool ended = parts_.store.end_build(record_, built_, outcome ? &*outcome : nullptr);
    if (ended) {
      // Should the daemon end right here, the outcome still leads to the same outputs.
      parts_.store.db().register_realisations(record_.account, realisations());
    }
    return ended;
  };
  const bool ended = co_await parts_.pool.run(std::move(work));
  if (!ended) {
    throw_superseded();
  }
  settled_ = true;
  if (parts_.on_end) {
    parts_.on_end(record_);
  }
}

} // namespace nixbuild::build
