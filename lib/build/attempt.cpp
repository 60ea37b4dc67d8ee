#include "attempt.hpp"

#include <nixbuild/base/error.hpp>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/this_coro.hpp>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <set>

namespace nixbuild::build {

using std::chrono::microseconds;

std::int64_t Attempt::now_us() const {
  return std::chrono::duration_cast<microseconds>(parts_.clock.wall().time_since_epoch()).count();
}

aio::Task<void> Attempt::record() {
  auto work = [this] {
    if (record_.id == 0) {
      record_.id = parts_.store.db().add_build(record_);
    } else {
      parts_.store.db().update_build(record_);
    }
  };
  co_await parts_.pool.run(std::move(work));
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
  if (record_.log_bytes + bytes.size() > limit) {
    bytes.resize(static_cast<std::size_t>(limit - record_.log_bytes));
    watch_->stop(Stop::LogLimit);
  }
  record_.log_bytes += bytes.size();
  auto work = [this, &bytes] {
    parts_.logs.append(record_.id, bytes_of(bytes));
  };
  co_await parts_.pool.run(std::move(work));
  feed_->append(bytes_of(bytes));
}

aio::Task<sandbox::GuestExit> Attempt::follow() {
  const auto base = phases_.empty() ? microseconds{0} : phases_.back().second;
  for (;;) {
    sandbox::ExecutionEvent event = co_await execution_->next_event();
    if (auto* chunk = std::get_if<sandbox::LogChunk>(&event)) {
      std::string bytes = std::move(chunk->bytes);
      co_await take_log(std::move(bytes));
    } else if (auto* phase = std::get_if<sandbox::PhaseBegan>(&event)) {
      note_phase(phase->phase, base + phase->since_start);
      watch_->last_output = parts_.clock.monotonic();
      if (phase->phase == "build") {
        watch_->builder_running = true;
        watch_->started = watch_->last_output;
      }
    } else {
      watch_->builder_running = false;
      watch_->last_output = parts_.clock.monotonic();
      co_return std::get<sandbox::BuilderExited>(std::move(event)).exit;
    }
  }
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
                                   record_.log_bytes));
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

std::string Attempt::phases_json() const {
  std::vector<std::string> members;
  for (const auto& [name, at] : phases_) {
    members.push_back(fmt::format("\"{}\":{}", name, at.count()));
  }
  return fmt::format("{{{}}}", fmt::join(members, ","));
}

aio::Task<model::BuildResult> Attempt::run(const std::function<void(std::int64_t)>& on_number) {
  record_.account = request_.account;
  record_.derivation = request_.derivation_path.base_name();
  record_.platform = request_.derivation.platform;
  record_.created_us = now_us();
  record_.cpus = settings_.cpus;
  record_.memory_bytes = settings_.memory_bytes;

  model::BuildResult result;
  std::exception_ptr fault;
  try {
    name_outputs();
    if (co_await outputs_valid()) {
      feed_->close();
      co_return success(model::BuildStatus::AlreadyValid);
    }
    co_await record();
    on_number(record_.id);
    co_await resolve_inputs();
    const auto machine = co_await lease_machine();
    co_await choose_accelerator();
    record_.started_us = now_us();
    co_await start();
    const auto exit = co_await follow();
    record_.peak_memory_bytes = exit.peak_memory_bytes;
    record_.cpu_us = static_cast<std::uint64_t>((exit.cpu_user + exit.cpu_system).count());
    if (watch_->reason != Stop::None) {
      throw_stopped();
    }
    judge(exit);
    co_await collect();
    co_await register_outputs();
    result = success(model::BuildStatus::Built);
    result.times_built = 1;
    result.cpu_user = exit.cpu_user;
    result.cpu_system = exit.cpu_system;
  } catch (const BuildFailure& failure) {
    result.status = failure.status();
    result.error = failure.message();
  } catch (...) {
    fault = std::current_exception();
  }
  if (fault && watch_->reason != Stop::None) {
    try {
      throw_stopped();
    } catch (const BuildFailure& failure) {
      result.status = failure.status();
      result.error = failure.message();
      fault = nullptr;
    } catch (...) {
      fault = std::current_exception();
    }
  }
  watch_->ended = true;
  if (execution_) {
    if (!fault && result.status == model::BuildStatus::Built) {
      co_await execution_->finish();
    } else {
      execution_->cancel();
    }
    watch_->execution = nullptr;
    execution_.reset();
  }
  feed_->close();
  record_.stopped_us = now_us();
  record_.phases = phases_json();
  if (fault) {
    try {
      std::rethrow_exception(fault);
    } catch (const std::exception& error) {
      record_.error = error.what();
      result.error = error.what();
    }
    result.status = model::BuildStatus::MiscFailure;
  }
  record_.status = result.status;
  record_.error = result.error;
  if (record_.id != 0) {
    auto work = [this] {
      parts_.logs.finish(record_.id);
    };
    co_await parts_.pool.run(std::move(work));
    co_await record();
  }
  if (fault && control_->cancelled()) {
    std::rethrow_exception(fault);
  }
  result.start_time = record_.started_us / 1'000'000;
  result.stop_time = record_.stopped_us / 1'000'000;
  co_return result;
}

} // namespace nixbuild::build
