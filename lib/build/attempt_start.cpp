#include "attempt.hpp"
#include "environment.hpp"
#include "references_graph.hpp"

#include <nixbuild/aio/event.hpp>
#include <nixbuild/base/error.hpp>
#include <nixbuild/store/nix_database.hpp>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <set>
#include <utility>

namespace nixbuild::build {

using std::chrono::microseconds;

void Attempt::name_outputs() {
  options_ = read_options(request_.derivation, request_.derivation_path.base_name());
  kind_ = model::derivation_kind(request_.derivation);
  if (kind_ == model::OutputKind::Deferred) {
    throw BuildFailure(
        model::BuildStatus::InputRejected,
        fmt::format("derivation '{}' has outputs whose paths are still to be made of "
                    "what its inputs come out as: it has to be resolved before",
                    drv_text_));
  }
  const auto& dir = parts_.store.dir();
  for (const auto& [name, output] : request_.derivation.outputs) {
    output_names_.push_back(name);
    output_paths_.push_back(output.path ? *output.path
                                        : model::scratch_path(dir, request_.derivation_path, name));
  }
}

aio::Task<bool> Attempt::outputs_valid() {
  auto work = [this] {
    return known_outputs(parts_.store, request_, inputs_->lease);
  };
  const auto known = co_await parts_.pool.run(std::move(work));
  if (!known) {
    co_return false;
  }
  made_paths_.clear();
  for (const auto& name : output_names_) {
    const auto& output = known->at(name);
    made_paths_.push_back(output.path);
    output_signatures_[name] = output.signatures;
  }
  co_return true;
}

aio::Task<void> Attempt::resolve_inputs() {
  if (inputs_ == nullptr) {
    auto work = [this] {
      return resolve(parts_.store, request_);
    };
    inputs_ = co_await parts_.pool.run(std::move(work));
  }
}

void Attempt::check_inputs() {
  if (inputs_->missing) {
    throw BuildFailure(
        model::BuildStatus::MiscFailure,
        fmt::format("dependency '{}' of '{}' does not exist, and substitution is disabled",
                    parts_.store.dir().print(*inputs_->missing),
                    drv_text_));
  }
}

namespace {

constexpr std::chrono::seconds kQuietWait{1};
/// A job has to fit into one frame (guest::kMaxHostPayload), with its environment and files.
constexpr std::size_t kMostDatabase = 32 * kMiB;

/// Who waits for capacity, and the line that says so; all on one strand. It owns what it uses: the
/// waiting build may be gone first.
struct Wait {
  bool over = false;
  bool writing = false;
  std::uint64_t written = 0;
  aio::Event done;
};

aio::Task<void> tell_of_waiting(std::shared_ptr<Wait> wait,
                                store::LogStore* logs,
                                aio::BlockingPool* pool,
                                std::shared_ptr<LogFeed> feed,
                                std::int64_t build,
                                std::function<std::string()> explain) {
  boost::asio::steady_timer timer(co_await boost::asio::this_coro::executor, kQuietWait);
  co_await timer.async_wait(boost::asio::use_awaitable);
  if (wait->over) {
    co_return;
  }
  wait->writing = true;
  const std::string line = explain();
  auto work = [logs, build, &line] {
    logs->append(build, bytes_of(line));
  };
  co_await pool->run(std::move(work));
  feed->append(bytes_of(line));
  wait->written = line.size();
  wait->writing = false;
  wait->done.notify();
}

} // namespace

namespace {

/// `hello-2.12.1`.
std::string package_of(const model::StorePath& derivation) {
  std::string name(derivation.name());
  if (name.ends_with(".drv")) {
    name.resize(name.size() - 4);
  }
  return name;
}

} // namespace

scheduler::BuildRequest Attempt::queue_request() const {
  const auto& placement = request_.placement;
  scheduler::BuildRequest wanted;
  wanted.id = static_cast<scheduler::BuildId>(record_.id);
  wanted.account = std::to_string(request_.account.value);
  wanted.key = placement.key;
  wanted.tags = placement.tags;
  wanted.name = package_of(request_.derivation_path);
  wanted.platform = model::is_builtin(request_.derivation) ? scheduler::kEveryPlatform
                                                           : request_.derivation.platform;
  wanted.features = options_.required_features;
  wanted.priority = placement.priority;
  wanted.builds_behind = placement.builds_behind;
  wanted.lane = placement.interactive ? scheduler::Lane::Interactive : scheduler::Lane::Batch;
  wanted.max_restarts = policy_.max_restarts;
  wanted.last_attempt = record_.attempt;
  auto& bounds = wanted.bounds;
  bounds.min_cpus = placement.min_cpus.value_or(1);
  bounds.max_cpus = placement.max_cpus.value_or(std::max(settings_.cpus, settings_.max_cpus));
  bounds.max_cpus = std::max(bounds.max_cpus, bounds.min_cpus);
  bounds.default_cpus =
      std::clamp(placement.default_cpus.value_or(settings_.cpus), bounds.min_cpus, bounds.max_cpus);
  bounds.max_memory = memory_bound();
  bounds.min_memory =
      std::min(placement.min_memory_bytes.value_or(settings_.min_memory_bytes), bounds.max_memory);
  bounds.default_memory_per_cpu = placement.default_memory_per_cpu_bytes.value_or(
      settings_.memory_bytes / std::max(settings_.cpus, 1U));
  return wanted;
}

aio::Task<void> Attempt::lease_machine() {
  auto wait = std::make_shared<Wait>();
  std::function<std::string()> explain = [desk = &parts_.leases, id = record_.id] {
    const auto why = desk->explain(static_cast<scheduler::BuildId>(id));
    return fmt::format("[nixbuild] waiting: {}\n", why ? why->detail : "its turn has come");
  };
  auto telling =
      tell_of_waiting(wait, &parts_.logs, &parts_.pool, feed_, record_.id, std::move(explain));
  boost::asio::co_spawn(
      co_await boost::asio::this_coro::executor, std::move(telling), boost::asio::detached);
  std::string refusal;
  try {
    auto control = control_;
    std::function<bool()> give_up = [control] {
      return control->cancelled() || control->left_running();
    };
    if (std::exchange(queued_again_, false)) {
      co_await parts_.leases.again(machine_, std::move(give_up));
    } else {
      auto wanted = queue_request();
      std::function<bool()> insist = [control] {
        return control->hurried();
      };
      machine_ =
          co_await parts_.leases.acquire(std::move(wanted), std::move(give_up), std::move(insist));
    }
    wait->over = true;
    while (wait->writing) {
      const auto seen = wait->done.count();
      co_await wait->done.wait(seen);
    }
    record_.cpus = machine_.cpus();
    record_.memory_bytes = machine_.memory_bytes();
    record_.log_bytes += wait->written;
    waited_ = wait->written > 0;
    co_return;
  } catch (const Error& error) {
    wait->over = true;
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
        model::BuildStatus::TransientFailure,
        fmt::format("the virtual machine of '{}' is not made: this builder has no usable KVM and "
                    "serves {} accounts; software emulation does not keep them apart "
                    "(sandbox.allow-emulation permits it)",
                    drv_text_,
                    accounts));
  }
  if (record_.attempt > 0) {
    co_return; // said with the first one
  }
  std::string notice(kEmulationNotice);
  co_await say(std::move(notice));
}

/// The record of a machine is durable before the machine is there.
aio::Task<void> Attempt::begin_attempt(const std::string& plan) {
  ++record_.attempt;
  auto work = [this, &plan] {
    return parts_.store.db().begin_attempt(record_, plan, record_.log_bytes);
  };
  const bool begun = co_await parts_.pool.run(std::move(work));
  if (!begun) {
    throw_superseded();
  }
}

/// Only what a derivation has the hash of may come from outside, and what is impure by name.
aio::Task<void> Attempt::connect(sandbox::GuestJob& job) {
  if (!settings_.network || !parts_.executor.offers_network()) {
    std::string notice = settings_.network
                             ? "no network: the machine of this builder has no passt"
                             : "no network: this builder's settings give none (sandbox.network)";
    co_await say(std::move(notice));
    co_return;
  }
  job.network = true;
  job.certificates = settings_.network->certificates;
  job.services = settings_.network->services;
}

/// What the builder process is given: environment, arguments, files. Blocking.
void Attempt::furnish(sandbox::GuestJob& job) {
  auto& store = parts_.store;
  const auto rewrites = placeholder_rewrites(store.dir(), job.outputs);
  const Surroundings surroundings{
      .dir = store.dir(),
      .build_cores = std::max(settings_.build_cores, record_.cpus),
      .impure = settings_.network ? &settings_.network->impure_environment : nullptr};
  fill_environment(job, request_, options_, surroundings, rewrites);
  if (model::is_builtin(request_.derivation)) {
    set_up_builtin(job, job.network ? &*settings_.network : nullptr);
  }
  if (policy_.input_database) {
    std::vector<model::PathInfo> infos;
    store.db().path_infos(
        request_.account, inputs_->closure, [&infos](const auto& info) { infos.push_back(info); });
    job.input_database = store::nix_database(store.dir(), infos);
    if (job.input_database.size() > kMostDatabase) {
      throw BuildFailure(
          model::BuildStatus::MiscFailure,
          fmt::format("the database of the {} inputs of '{}' has more than {} MiB, the most that "
                      "a machine is given (setting input-database)",
                      infos.size(),
                      drv_text_,
                      kMostDatabase / kMiB));
    }
  }
  const auto graphs =
      export_references(store, request_.account, options_, inputs_->closure, drv_text_);
  if (options_.structured) {
    const auto& attributes = request_.derivation.environment.at("__json");
    add_structured_files(job, store.dir(), attributes, graphs, rewrites);
  } else {
    add_graph_files(job, store.dir(), graphs);
  }
}

aio::Task<void> Attempt::start() {
  sandbox::ExecutionPlan plan;
  plan.id = fmt::format("{}-{}", record_.id, record_.attempt + 1);
  plan.cpus = record_.cpus;
  plan.memory_bytes = record_.memory_bytes;
  plan.scratch_bytes = policy_.disk_bytes;
  auto& job = plan.job;
  job.store_dir = parts_.store.dir().text();
  job.builder = request_.derivation.builder;
  job.linux32 = request_.derivation.platform == "i686-linux";
  job.hosts = "127.0.0.1 localhost\n::1 localhost\n";
  for (std::size_t i = 0; i < output_names_.size(); ++i) {
    sandbox::GuestOutput output;
    output.name = output_names_[i];
    output.store_name = output_paths_[i].base_name();
    job.outputs.push_back(std::move(output));
  }
  job.store_socket = options_.talks_to_store() && parts_.converse;
  if (has_network(kind_)) {
    co_await connect(job);
  }
  if (plan.scratch_bytes != 0 && !parts_.executor.offers_disk() && record_.attempt == 0) {
    std::string notice =
        "no scratch disk: this builder has no mke2fs (package e2fsprogs), so files "
        "lie in half of the machine's memory";
    co_await say(std::move(notice));
  }
  const auto composing = parts_.clock.monotonic();
  auto work = [this, &job] {
    furnish(job);
    return compose_inputs(parts_.store, request_.account, inputs_->closure);
  };
  auto disk = co_await parts_.pool.run(std::move(work));
  plan.disk = std::move(disk.extents);
  note_phase("compose", microseconds{0});
  const auto composed =
      std::chrono::duration_cast<microseconds>(parts_.clock.monotonic() - composing);
  note_phase("spawn", composed);

  const std::string id = plan.id;
  co_await begin_attempt(id);
  execution_ = co_await parts_.executor.start(std::move(plan));
  co_await watch();
}

aio::Task<void> Attempt::watch() {
  watch_ = std::make_shared<Watch>();
  watch_->started = parts_.clock.monotonic();
  watch_->last_output = watch_->started;
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
