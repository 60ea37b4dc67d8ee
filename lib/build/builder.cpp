#include "attempt.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/build/builder.hpp>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <set>

namespace nixbuild::build {

namespace asio = boost::asio;

namespace {

using std::chrono::microseconds;
using std::chrono::seconds;

constexpr std::chrono::milliseconds kWatchTick{100};
constexpr std::size_t kOutputBuffer = 1024 * 1024;

enum class Stop { None, Cancelled, Silence, Timeout, LogLimit, Lost };

/// What the watchdog looks at, shared by it and the attempt; both run on one strand.
struct Watch {
  sandbox::Execution* execution = nullptr;
  MonotonicTime started;
  MonotonicTime last_output;
  bool builder_running = false;
  Stop reason = Stop::None;
  bool ended = false;

  void stop(Stop why) {
    if (reason == Stop::None && execution != nullptr) {
      reason = why;
      execution->cancel();
    }
  }
};

struct WatchLimits {
  seconds silence{0};
  seconds timeout{0};
  seconds lost{0};
};

/// Ends a build that was cancelled, says nothing, or takes too long.
aio::Task<void> watch_over(std::shared_ptr<Watch> watch,
                           std::shared_ptr<BuildControl> control,
                           WatchLimits limits,
                           const Clock& clock) {
  asio::steady_timer timer(co_await asio::this_coro::executor);
  while (!watch->ended) {
    timer.expires_after(kWatchTick);
    co_await timer.async_wait(asio::use_awaitable);
    if (watch->ended) {
      co_return;
    }
    const auto now = clock.monotonic();
    if (control->cancelled()) {
      watch->stop(Stop::Cancelled);
    } else if (limits.timeout.count() > 0 && watch->builder_running &&
               now - watch->started >= limits.timeout) {
      watch->stop(Stop::Timeout);
    } else if (limits.silence.count() > 0 && watch->builder_running &&
               now - watch->last_output >= limits.silence) {
      watch->stop(Stop::Silence);
    } else if (!watch->builder_running && now - watch->last_output >= limits.lost) {
      watch->stop(Stop::Lost);
    }
  }
}

/// One build's life.
class Attempt {
public:
  Attempt(const Builder::Parts& parts,
          const BuilderSettings& settings,
          BuildRequest request,
          std::shared_ptr<LogFeed> feed,
          std::shared_ptr<BuildControl> control)
      : parts_(parts), settings_(settings), request_(std::move(request)), feed_(std::move(feed)),
        control_(std::move(control)), lease_(parts.store.lease(request_.account)),
        watch_(std::make_shared<Watch>()),
        drv_text_(parts.store.dir().print(request_.derivation_path)) {}

  aio::Task<model::BuildResult> run(const std::function<void(std::int64_t)>& on_number);

private:
  aio::Task<void> record();
  aio::Task<bool> outputs_valid();
  void name_outputs();
  aio::Task<void> resolve_inputs();
  aio::Task<ComputeLease> lease_machine();
  aio::Task<void> choose_accelerator();
  aio::Task<void> start();
  aio::Task<sandbox::GuestExit> follow();
  aio::Task<void> take_log(std::string bytes);
  void judge(const sandbox::GuestExit& exit) const;
  void judge_outputs(const sandbox::GuestExit& exit) const;
  aio::Task<void> collect();
  aio::Task<model::PathInfo> collect_output(std::size_t index);
  aio::Task<void> register_outputs();
  [[noreturn]] void throw_stopped() const;
  void note_phase(const std::string& phase, microseconds at);
  [[nodiscard]] std::int64_t now_us() const;
  [[nodiscard]] std::string phases_json() const;
  model::BuildResult success(model::BuildStatus status) const;

  const Builder::Parts& parts_;
  const BuilderSettings& settings_;
  BuildRequest request_;
  std::shared_ptr<LogFeed> feed_;
  std::shared_ptr<BuildControl> control_;
  store::Lease lease_;
  std::shared_ptr<Watch> watch_;
  std::string drv_text_;

  store::BuildRecord record_;
  std::vector<std::string> output_names_;
  model::StorePaths output_paths_;
  std::map<std::string, std::vector<std::string>> output_signatures_;
  model::StorePaths closure_;
  std::unique_ptr<sandbox::Execution> execution_;
  std::vector<model::PathInfo> built_;
  std::vector<std::pair<std::string, microseconds>> phases_;
};

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
  asio::co_spawn(co_await asio::this_coro::executor, std::move(watchdog), asio::detached);
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

void Attempt::judge(const sandbox::GuestExit& exit) const {
  using model::BuildStatus;
  const bool fixed = model::derivation_kind(request_.derivation) == model::OutputKind::Fixed;
  const auto failure = fixed ? BuildStatus::TransientFailure : BuildStatus::PermanentFailure;
  switch (exit.end) {
  case sandbox::GuestEnd::Exited:
    if (exit.code != 0) {
      throw BuildFailure(
          failure, fmt::format("builder for '{}' failed with exit code {}", drv_text_, exit.code));
    }
    break;
  case sandbox::GuestEnd::Signalled:
    throw BuildFailure(failure,
                       fmt::format("builder for '{}' failed due to signal {} ({})",
                                   drv_text_,
                                   exit.code,
                                   ::strsignal(exit.code)));
  case sandbox::GuestEnd::SetupFailed:
    throw BuildFailure(
        BuildStatus::MiscFailure,
        fmt::format("builder for '{}' could not be started: {}", drv_text_, exit.message));
  case sandbox::GuestEnd::OutOfMemory:
    throw BuildFailure(failure,
                       fmt::format("builder for '{}' ran out of memory: its machine has {} MiB",
                                   drv_text_,
                                   settings_.memory_bytes >> 20));
  }
  judge_outputs(exit);
}

void Attempt::judge_outputs(const sandbox::GuestExit& exit) const {
  using model::BuildStatus;
  const auto& dir = parts_.store.dir();
  for (std::size_t i = 0; i < output_names_.size(); ++i) {
    if (i >= exit.outputs.size() || !exit.outputs[i].present) {
      throw BuildFailure(
          BuildStatus::OutputRejected,
          fmt::format("builder for '{}' failed to produce output path for output '{}' at '{}'",
                      drv_text_,
                      output_names_[i],
                      dir.print(output_paths_[i])));
    }
    if (exit.outputs[i].suspicious) {
      throw BuildFailure(
          BuildStatus::OutputRejected,
          fmt::format("suspicious ownership or permission on '{}'; rejecting this build output",
                      dir.print(output_paths_[i])));
    }
    if (!exit.outputs[i].problem.empty()) {
      throw BuildFailure(BuildStatus::MiscFailure, exit.outputs[i].problem);
    }
  }
}

aio::Task<model::PathInfo> Attempt::collect_output(std::size_t index) {
  store::ImportRequest incoming{.path = output_paths_[index],
                                .deriver = {},
                                .nar_hash = {},
                                .nar_size = {},
                                .references = {},
                                .signatures = {},
                                .content_address = {},
                                .scan_for = {}};
  incoming.deriver = request_.derivation_path;
  incoming.ultimate = true;
  incoming.scan_for = closure_;
  incoming.scan_for.insert(incoming.scan_for.end(), output_paths_.begin(), output_paths_.end());
  model::sort_unique(incoming.scan_for);
  auto import = parts_.store.begin_import(request_.account, std::move(incoming));

  std::optional<FixedOutputCheck> check;
  const auto& output = request_.derivation.outputs.at(output_names_[index]);
  if (output.kind() == model::OutputKind::Fixed) {
    check.emplace(output.fixed_address());
  }
  co_await execution_->open_output(index);
  Bytes buffer(kOutputBuffer);
  std::uint64_t total = 0;
  for (;;) {
    const std::size_t count = co_await execution_->read_output(buffer);
    if (count == 0) {
      break;
    }
    watch_->last_output = parts_.clock.monotonic();
    total += count;
    if (total > settings_.max_output_bytes) {
      throw BuildFailure(model::BuildStatus::OutputRejected,
                         fmt::format("output '{}' of '{}' is larger than {} bytes",
                                     output_names_[index],
                                     drv_text_,
                                     settings_.max_output_bytes));
    }
    auto work = [&import, &check, &buffer, count] {
      const auto bytes = ByteView(buffer).first(count);
      if (import.feed(bytes) != count) {
        throw Error(Reaction::Reject, "sandbox.output", "bytes follow the end of an output's NAR");
      }
      if (check) {
        check->feed(bytes);
      }
    };
    co_await parts_.pool.run(std::move(work));
  }
  if (check) {
    if (auto verdict = check->verdict(drv_text_); !verdict.empty()) {
      throw BuildFailure(model::BuildStatus::OutputRejected, std::move(verdict));
    }
  }
  auto seal = [&import] {
    return import.seal();
  };
  auto info = co_await parts_.pool.run(std::move(seal));
  if (check) {
    if (!info.references.empty()) {
      throw BuildFailure(model::BuildStatus::OutputRejected,
                         fmt::format("fixed output '{}' of '{}' refers to '{}', which fixed "
                                     "outputs may not",
                                     output_names_[index],
                                     drv_text_,
                                     parts_.store.dir().print(info.references.front())));
    }
    info.content_address = model::print(output.fixed_address());
  }
  co_return info;
}

aio::Task<void> Attempt::collect() {
  for (std::size_t index = 0; index < output_names_.size(); ++index) {
    auto info = co_await collect_output(index);
    built_.push_back(std::move(info));
  }
}

aio::Task<void> Attempt::register_outputs() {
  const auto order = order_of_outputs(built_, drv_text_);
  std::vector<model::PathInfo> infos;
  for (const auto index : order) {
    auto info = built_[index];
    if (parts_.signing_key != nullptr) {
      info.signatures.push_back(
          parts_.signing_key->sign(model::fingerprint(parts_.store.dir(), info)));
    }
    output_signatures_[output_names_[index]] = info.signatures;
    infos.push_back(std::move(info));
  }
  auto work = [this, &infos] {
    parts_.store.commit(request_.account, infos);
  };
  co_await parts_.pool.run(std::move(work));
}

model::BuildResult Attempt::success(model::BuildStatus status) const {
  model::BuildResult result;
  result.status = status;
  for (std::size_t i = 0; i < output_names_.size(); ++i) {
    model::Realisation realisation{output_paths_[i], {}};
    const auto signatures = output_signatures_.find(output_names_[i]);
    if (signatures != output_signatures_.end()) {
      realisation.signatures = signatures->second;
    }
    result.outputs.emplace(output_names_[i], std::move(realisation));
  }
  return result;
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

} // namespace

Builder::Builder(Parts parts, BuilderSettings settings) : parts_(parts), settings_(settings) {}

aio::Task<model::BuildResult> Builder::run(BuildRequest request,
                                           std::shared_ptr<LogFeed> feed,
                                           std::shared_ptr<BuildControl> control,
                                           std::function<void(std::int64_t)> on_number) {
  auto attempt = std::make_unique<Attempt>(
      parts_, settings_, std::move(request), std::move(feed), std::move(control));
  co_return co_await attempt->run(on_number);
}

} // namespace nixbuild::build
