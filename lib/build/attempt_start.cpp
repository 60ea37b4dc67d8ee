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

void Attempt::name_outputs() {
  const auto kind = model::derivation_kind(request_.derivation);
  if (kind != model::OutputKind::InputAddressed && kind != model::OutputKind::Fixed) {
    throw BuildFailure(model::BuildStatus::MiscFailure,
                       fmt::format("derivation '{}' has content-addressed, impure or deferred "
                                   "outputs, which this builder does not offer yet",
                                   drv_text_));
  }
  for (const auto& [name, output] : request_.derivation.outputs) {
    output_names_.push_back(name);
    output_paths_.push_back(*output.path);
  }
}

aio::Task<bool> Attempt::outputs_valid() {
  // Leased first: what is found valid must still be valid when the client asks for it.
  lease_.add(output_paths_);
  auto work = [this] {
    std::size_t valid = 0;
    auto count = [&](const model::PathInfo& info) {
      ++valid;
      for (std::size_t i = 0; i < output_paths_.size(); ++i) {
        if (output_paths_[i] == info.path) {
          output_signatures_[output_names_[i]] = info.signatures;
        }
      }
    };
    parts_.store.db().path_infos(request_.account, output_paths_, count);
    return valid == output_paths_.size();
  };
  co_return co_await parts_.pool.run(std::move(work));
}

aio::Task<void> Attempt::resolve_inputs() {
  lease_.add(request_.derivation.input_sources);
  auto work = [this] {
    auto& db = parts_.store.db();
    const auto& sources = request_.derivation.input_sources;
    const auto valid = db.valid_paths(request_.account, sources);
    if (valid.size() != sources.size()) {
      const std::set<model::StorePath> known(valid.begin(), valid.end());
      for (const auto& path : sources) {
        if (!known.contains(path)) {
          throw BuildFailure(
              model::BuildStatus::MiscFailure,
              fmt::format("dependency '{}' of '{}' does not exist, and substitution is disabled",
                          parts_.store.dir().print(path),
                          drv_text_));
        }
      }
    }
    closure_ = db.closure(request_.account, sources);
  };
  co_await parts_.pool.run(std::move(work));
  lease_.add(closure_);
}

aio::Task<ComputeLease> Attempt::lease_machine() {
  scheduler::LeaseRequest wanted;
  wanted.capacity.cpus = settings_.cpus;
  wanted.capacity.memory_bytes = settings_.memory_bytes;
  wanted.platform = request_.derivation.platform;
  const auto features = request_.derivation.environment.find("requiredSystemFeatures");
  if (features != request_.derivation.environment.end()) {
    std::string word;
    for (const char c : features->second + " ") {
      if (c == ' ' || c == '\t' || c == '\n') {
        if (!word.empty()) {
          wanted.features.insert(std::exchange(word, {}));
        }
      } else {
        word.push_back(c);
      }
    }
  }
  std::string refusal;
  try {
    auto control = control_;
    std::function<bool()> give_up = [control] {
      return control->cancelled();
    };
    co_return co_await parts_.leases.acquire(std::move(wanted), std::move(give_up));
  } catch (const Error& error) {
    if (error.reaction() != Reaction::Unsupported) {
      throw;
    }
    refusal = error.message();
  }
  throw BuildFailure(model::BuildStatus::MiscFailure,
                     fmt::format("a '{}' machine is required to build '{}': {}",
                                 request_.derivation.platform,
                                 drv_text_,
                                 refusal));
}

aio::Task<void> Attempt::choose_accelerator() {
  record_.accelerator = co_await parts_.executor.prepare();
  if (record_.accelerator != "tcg") {
    co_return;
  }
  auto count = [this] {
    return parts_.store.db().accounts().size();
  };
  const std::size_t accounts = co_await parts_.pool.run(std::move(count));
  if (accounts > 1 && !settings_.allow_emulation) {
    throw BuildFailure(
        model::BuildStatus::MiscFailure,
        fmt::format("this builder has no usable KVM and serves {} accounts; software "
                    "emulation does not keep them apart (sandbox.allow-emulation "
                    "permits it)",
                    accounts));
  }
  std::string notice = "[nixbuild] no usable KVM: building under software emulation, which is slow "
                       "and no security boundary\n";
  co_await take_log(std::move(notice));
}

aio::Task<void> Attempt::start() {
  sandbox::ExecutionPlan plan;
  plan.id = fmt::format("{}-1", record_.id);
  plan.cpus = settings_.cpus;
  plan.memory_bytes = settings_.memory_bytes;
  auto& job = plan.job;
  job.store_dir = parts_.store.dir().text();
  job.builder = request_.derivation.builder;
  job.arguments = request_.derivation.arguments;
  job.scratch_bytes = settings_.scratch_bytes;
  job.linux32 = request_.derivation.platform == "i686-linux";
  job.hosts = "127.0.0.1 localhost\n::1 localhost\n";
  for (std::size_t i = 0; i < output_names_.size(); ++i) {
    sandbox::GuestOutput output;
    output.name = output_names_[i];
    output.store_name = output_paths_[i].base_name();
    job.outputs.push_back(std::move(output));
  }
  fill_environment(job, request_, parts_.store.dir(), settings_.build_cores);

  const auto composing = parts_.clock.monotonic();
  auto work = [this] {
    return compose_inputs(parts_.store, request_.account, closure_);
  };
  auto disk = co_await parts_.pool.run(std::move(work));
  plan.disk = std::move(disk.extents);
  note_phase("compose", microseconds{0});
  const auto composed =
      std::chrono::duration_cast<microseconds>(parts_.clock.monotonic() - composing);
  note_phase("spawn", composed);

  watch_->started = parts_.clock.monotonic();
  watch_->last_output = watch_->started;
  execution_ = co_await parts_.executor.start(std::move(plan));
  watch_->execution = execution_.get();
  WatchLimits limits;
  limits.silence = request_.options.max_silent_time;
  limits.timeout = request_.options.timeout;
  limits.lost = settings_.lost_after;
  auto watchdog = watch_over(watch_, control_, limits, parts_.clock);
  boost::asio::co_spawn(
      co_await boost::asio::this_coro::executor, std::move(watchdog), boost::asio::detached);
}

} // namespace nixbuild::build
