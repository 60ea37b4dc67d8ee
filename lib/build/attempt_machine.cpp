#include "attempt.hpp"
#include "guest_figures.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/sandbox/scratch_room.hpp>

#include <boost/asio/this_coro.hpp>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <limits>
#include <utility>

namespace nixbuild::build {

using std::chrono::microseconds;

namespace {
/// More than the channels of a machine: those that have just ended are still being noticed.
constexpr long kMostConversations = 32;
} // namespace

/// Takes up the machine that an earlier daemon started; false when it is gone.
aio::Task<bool> Attempt::adopt(const store::OpenBuild& open) {
  if (open.plan.empty()) {
    co_return false;
  }
  const std::uint64_t told = record_.log_bytes - std::min(record_.log_bytes, open.log_base);
  std::string plan = open.plan;
  try {
    execution_ = co_await parts_.executor.adopt(std::move(plan), output_names_.size(), told);
  } catch (...) {
    // Nobody knows what became of it: a later daemon may have more luck.
    left_open_ = true;
    throw;
  }
  if (!execution_) {
    co_return false;
  }
  if (options_.talks_to_store()) {
    // What it was talking about went with the earlier daemon, and its outputs may refer to that.
    execution_->cancel();
    execution_.reset();
    co_return false;
  }
  adopted_ = true;
  if (const auto age = execution_->age()) {
    set_clock(record_.started_us, *age);
  }
  control_->set_began(parts_.clock.monotonic() - microseconds(now_us() - record_.started_us));
  builder_log_bytes_ = told;
  fresh_line_ = false;
  co_await watch();
  // It does not wait for capacity, but others shall wait for its.
  auto wanted = queue_request();
  scheduler::RunningAttempt running;
  running.node = "local";
  running.cpus = record_.cpus;
  running.memory_bytes = record_.memory_bytes;
  running.started = parts_.clock.monotonic();
  wanted.running = running;
  machine_ = parts_.leases.adopt(std::move(wanted));
  co_return true;
}

/// Machine after machine until one brings the build to its end.
aio::Task<model::BuildResult> Attempt::build() {
  for (;;) {
    const auto round = co_await use_machine();
    if (round == Round::Done) {
      break;
    }
    watch_->ended = true;
    watch_->end.notify();
    watch_->execution = nullptr;
    if (execution_) {
      execution_->cancel();
      execution_.reset();
    }
    adopted_ = false;
    builder_ended_ = false;
    builder_store_.reset();
    phases_.clear();
    if (control_->cancelled() || control_->left_running()) {
      throw_stopped();
    }
    if (round == Round::Again) {
      continue;
    }
    prepare_again(round);
    auto line =
        round == Round::OutOfMemory
            ? fmt::format("out of memory with {} MiB: starting again with more",
                          record_.memory_bytes >> 20)
            : fmt::format("the machine was lost: starting again on another one ({})", lost_why_);
    std::replace(line.begin(), line.end(), '\n', ' ');
    co_await say(std::move(line));
  }
  model::BuildResult result = success(model::BuildStatus::Built);
  result.times_built = 1;
  result.cpu_user = exit_.cpu_user;
  result.cpu_system = exit_.cpu_system;
  co_return result;
}

/// The most memory that the build may be given, whoever asks.
std::uint64_t Attempt::memory_bound() const {
  const auto most = std::max(settings_.memory_bytes, settings_.max_memory_bytes);
  return policy_.max_memory_bytes == 0 ? most : std::min(policy_.max_memory_bytes, most);
}

scheduler::Measurements Attempt::measured() const {
  scheduler::Measurements figures;
  if (exit_.peak_memory_bytes != 0) {
    figures.peak_memory_bytes = exit_.peak_memory_bytes;
  }
  if (cpu_taken_.count() != 0) {
    figures.cpu_time = std::chrono::duration_cast<scheduler::CpuTime>(cpu_taken_);
  }
  return figures;
}

scheduler::Outcome Attempt::outcome_for(const model::BuildResult& result) const {
  if (model::is_success(result.status)) {
    return scheduler::Outcome::Succeeded;
  }
  if (result.status == model::BuildStatus::TimedOut) {
    return scheduler::Outcome::TimedOut;
  }
  return repeatable_ ? scheduler::Outcome::BuilderFailed : scheduler::Outcome::Cancelled;
}

/// Asks the scheduler for the next machine, or ends the build where there may be none.
void Attempt::prepare_again(Round round) {
  const auto outcome =
      round == Round::OutOfMemory ? scheduler::Outcome::OutOfMemory : scheduler::Outcome::Lost;
  lost_ += round == Round::Lost ? 1 : 0;
  queued_again_ = machine_.finish(outcome, measured());
  if (!queued_again_ && round == Round::OutOfMemory) {
    judge(exit_);
  }
  if (!queued_again_) {
    throw BuildFailure(model::BuildStatus::TransientFailure,
                       fmt::format("the virtual machine of '{}' was lost {}: {}",
                                   drv_text_,
                                   lost_ == 1 ? "once" : fmt::format("{} times", lost_),
                                   lost_why_));
  }
}

aio::Task<Attempt::Round> Attempt::use_machine() {
  std::string fault;
  try {
    if (!execution_) {
      co_await make_machine();
    }
    co_return co_await follow_to_the_end();
  } catch (const Error& error) {
    if (watch_->reason != Stop::None || !sandbox::is_host_fault(error)) {
      throw;
    }
    fault = error.message();
  }
  co_return co_await take_host_fault(std::move(fault));
}

aio::Task<void> Attempt::make_machine() {
  if (!std::exchange(same_machine_, false)) {
    co_await lease_machine();
  }
  co_await choose_accelerator();
  if (waited_ || record_.attempt > 0) {
    auto line = fmt::format("building with {} {} and {} MiB of memory ({})",
                            record_.cpus,
                            record_.cpus == 1 ? "cpu" : "cpus",
                            record_.memory_bytes >> 20,
                            record_.accelerator);
    co_await say(std::move(line));
  }
  record_.started_us = now_us();
  control_->set_began(parts_.clock.monotonic());
  co_await start();
}

/// What would meet the next machine here as well is tried once: the build goes on at once by other
/// means, or fails as nothing of its own, so that whoever asked may try another host.
aio::Task<Attempt::Round> Attempt::take_host_fault(std::string reason) {
  auto ask = [this, &reason] {
    return parts_.executor.host_failed(reason);
  };
  const auto verdict = co_await parts_.pool.run(std::move(ask));
  std::replace(reason.begin(), reason.end(), '\n', ' ');
  parts_.log.warning(
      fmt::format("build {}: its machine could not run here: {}", record_.id, reason));
  if (verdict.use == sandbox::HostVerdict::Use::Emulation) {
    same_machine_ = true;
    auto line = fmt::format("KVM cannot be used here any more: starting again under software "
                            "emulation, which is slow and no security boundary ({})",
                            reason);
    co_await say(std::move(line));
    co_return Round::Again;
  }
  throw BuildFailure(
      model::BuildStatus::TransientFailure,
      fmt::format(
          "the virtual machine of '{}' could not run on this host, which is no fault of the "
          "build: {}",
          drv_text_,
          reason));
}

/// What the guest says about itself, as far as its host can believe it.
void Attempt::take_figures(sandbox::BuilderExited end) {
  MachineFacts facts;
  facts.cpus = record_.cpus;
  facts.memory_bytes = record_.memory_bytes;
  // The most that the disk can have; where the host's disk had less room, it has less.
  facts.scratch_bytes =
      sandbox::scratch_size(policy_.disk_bytes, std::numeric_limits<std::uint64_t>::max());
  facts.age = microseconds(std::max<std::int64_t>(now_us() - record_.started_us, 0));
  facts.cpu = end.cpu_of_host;
  exit_ = believable(std::move(end.exit), facts);
  // Accounts are charged by the host's own count, which no guest can make larger or smaller.
  cpu_taken_ = facts.cpu.value_or(exit_.cpu_user + exit_.cpu_system);
}

aio::Task<Attempt::Round> Attempt::follow_to_the_end() {
  std::exception_ptr fault;
  try {
    auto end = co_await follow();
    take_figures(std::move(end));
    record_.peak_memory_bytes = std::max(record_.peak_memory_bytes, exit_.peak_memory_bytes);
    record_.cpu_us += static_cast<std::uint64_t>(cpu_taken_.count());
    if (watch_->reason != Stop::None) {
      throw_stopped();
    }
    co_await settle_unexecuted();
    builder_ended_ = exit_.end != sandbox::GuestEnd::SetupFailed;
    record_.disk_bytes = exit_.disk_bytes;
    // More memory is no cure for a full disk, and twice the memory is given once: who needs more
    // begins with it next time, or says so in a setting.
    const bool out_of_disk = exit_.disk_full && exit_.code != 0;
    const bool out_of_memory = exit_.end == sandbox::GuestEnd::OutOfMemory;
    if (out_of_memory && !enlarged_ && record_.memory_bytes < memory_bound()) {
      enlarged_ = true;
      co_return Round::OutOfMemory;
    }
    // A build with a network fails by that more often than by itself.
    repeatable_ = exit_.code != 0 && !out_of_memory && !out_of_disk &&
                  exit_.end != sandbox::GuestEnd::SetupFailed && !has_network(kind_);
    judge(exit_);
    if (request_.check) {
      co_await compare_outputs();
    } else {
      co_await collect();
    }
    repeatable_ = true;
    co_return Round::Done;
  } catch (const Error& error) {
    if (error.code() == "sandbox.log-limit") {
      // The machine was ended before its log came so far.
      repeatable_ = false;
      throw BuildFailure(model::BuildStatus::LogLimitExceeded,
                         fmt::format("{} killed after writing more than {} bytes of log output",
                                     drv_text_,
                                     settings_.max_log_bytes));
    }
    const bool lost = watch_->reason == Stop::None && error.code() == "sandbox.lost";
    if (!lost && watch_->reason != Stop::Lost) {
      throw;
    }
    lost_why_ = error.message();
  }
  if (watch_->reason == Stop::Lost) {
    lost_why_ = fmt::format("it did not answer for {} seconds", settings_.lost_after.count());
  }
  co_return Round::Lost;
}

/// A builder that is no program of the machine's fails by itself, as for Nix: the reason is in the
/// log.
aio::Task<void> Attempt::settle_unexecuted() {
  const bool unexecuted =
      exit_.end == sandbox::GuestEnd::SetupFailed &&
      exit_.message.starts_with(fmt::format("executing '{}'", request_.derivation.builder));
  if (!unexecuted) {
    co_return;
  }
  std::string reason = fmt::format("{}error: {}\n", fresh_line_ ? "" : "\n", exit_.message);
  co_await take_log(std::move(reason));
  exit_.end = sandbox::GuestEnd::Exited;
  exit_.code = 1;
}

/// Gives a client of the builder's to whoever serves it.
aio::Task<void> Attempt::converse(sandbox::StoreConversation begun) {
  if (begun.channel == 0) {
    auto derivations = request_.waiting;
    derivations.push_back(request_.derivation_path);
    auto machine = std::make_unique<aio::ByteStream>(co_await boost::asio::this_coro::executor,
                                                     std::move(begun.socket));
    const BuilderStore::Parts parts{parts_.store, parts_.pool, request_.account};
    builder_store_ = std::make_shared<BuilderStore>(
        parts, inputs_->closure, std::move(derivations), std::move(machine));
    co_return;
  }
  const bool room = conversations_.use_count() <= kMostConversations;
  if (!builder_store_ || !parts_.converse || !room) {
    co_return; // the socket closes
  }
  BuilderConversation conversation;
  conversation.store = builder_store_;
  conversation.account = request_.account;
  conversation.socket = std::move(begun.socket);
  conversation.place = conversations_;
  parts_.converse(std::move(conversation));
}

aio::Task<sandbox::BuilderExited> Attempt::follow() {
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
        watch_->timed = true;
        // An adopted builder has been running: its time began with its machine.
        const microseconds running(std::max<std::int64_t>(now_us() - record_.started_us, 0));
        watch_->started = adopted_ ? watch_->last_output - running : watch_->last_output;
      }
    } else if (auto* begun = std::get_if<sandbox::StoreConversation>(&event)) {
      co_await converse(std::move(*begun));
    } else {
      watch_->builder_running = false;
      watch_->last_output = parts_.clock.monotonic();
      co_return std::get<sandbox::BuilderExited>(std::move(event));
    }
  }
}

} // namespace nixbuild::build
