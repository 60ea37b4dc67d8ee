#include "attempt.hpp"
#include "content_digest.hpp"
#include "references_graph.hpp"

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
#include <utility>

namespace nixbuild::build {

namespace {

constexpr std::size_t kOutputBuffer = 1024 * 1024;

/// How fast a machine gives what it has made. Only the time counts in which it is waited for.
class OutputPace {
public:
  OutputPace(std::uint64_t floor_bytes, std::chrono::milliseconds time)
      : floor_(floor_bytes), time_(time) {}

  bool is_too_slow(std::size_t count, MonotonicTime::duration waited) {
    bytes_ += count;
    waited_ += waited;
    if (waited_ < time_) {
      return false;
    }
    const auto seconds = std::chrono::duration<double>(std::exchange(waited_, {})).count();
    return static_cast<double>(std::exchange(bytes_, 0)) < static_cast<double>(floor_) * seconds;
  }

private:
  std::uint64_t floor_;
  std::chrono::milliseconds time_;
  std::uint64_t bytes_ = 0;
  MonotonicTime::duration waited_{0};
};

} // namespace

/// What a failure of the builder has behind it, when its disk is full.
std::string Attempt::disk_note(const sandbox::GuestExit& exit) const {
  if (!exit.disk_full) {
    return {};
  }
  std::string note = "\nnote: build failure may have been caused by lack of free disk space: ";
  if (exit.scratch_in_memory) {
    return note + fmt::format("its files lie in half of the machine's {} MiB of memory (setting "
                              "disk{})",
                              record_.memory_bytes >> 20,
                              policy_.disk_bytes == 0 ? " is 0" : "; this builder can make none");
  }
  note += fmt::format("its scratch disk has {} MiB (setting disk", exit.scratch_bytes >> 20);
  // The file system's own tables are a part of it.
  if (exit.scratch_bytes < policy_.disk_bytes / 10 * 9) {
    note += fmt::format(" is {} MiB; the builder's own disk had no room for more",
                        policy_.disk_bytes >> 20);
  }
  return note + ")";
}

void Attempt::judge(const sandbox::GuestExit& exit) const {
  using model::BuildStatus;
  const auto failure = has_network(kind_) || exit.disk_full ? BuildStatus::TransientFailure
                                                            : BuildStatus::PermanentFailure;
  switch (exit.end) {
  case sandbox::GuestEnd::Exited:
    if (exit.code != 0) {
      throw BuildFailure(failure,
                         fmt::format("builder for '{}' failed with exit code {}{}",
                                     drv_text_,
                                     exit.code,
                                     disk_note(exit)));
    }
    break;
  case sandbox::GuestEnd::Signalled:
    throw BuildFailure(failure,
                       fmt::format("builder for '{}' failed due to signal {} ({}){}",
                                   drv_text_,
                                   exit.code,
                                   ::strsignal(exit.code),
                                   disk_note(exit)));
  case sandbox::GuestEnd::SetupFailed:
    throw BuildFailure(
        BuildStatus::MiscFailure,
        fmt::format("builder for '{}' could not be started: {}", drv_text_, exit.message));
  case sandbox::GuestEnd::OutOfMemory:
    throw BuildFailure(failure,
                       fmt::format("builder for '{}' ran out of memory: its machine has {} MiB "
                                   "(settings min-mem, max-mem)",
                                   drv_text_,
                                   record_.memory_bytes >> 20));
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

store::ImportRequest Attempt::output_import(std::size_t index) const {
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
  if (!options_.undiscovered.contains(output_names_[index])) {
    incoming.scan_for = inputs_->closure;
    incoming.scan_for.insert(incoming.scan_for.end(), output_paths_.begin(), output_paths_.end());
    if (builder_store_) {
      const auto added = builder_store_->added();
      incoming.scan_for.insert(incoming.scan_for.end(), added.begin(), added.end());
    }
    model::sort_unique(incoming.scan_for);
  }
  return incoming;
}

/// Hands the NAR of an output to `take`, piece by piece, on the pool.
aio::Task<void> Attempt::read_output(std::size_t index, const std::function<void(ByteView)>& take) {
  co_await execution_->open_output(index);
  Bytes buffer(kOutputBuffer);
  std::uint64_t total = 0;
  OutputPace pace(settings_.output_floor_bytes, settings_.output_floor_time);
  for (;;) {
    const auto asked = parts_.clock.monotonic();
    const std::size_t count = co_await execution_->read_output(buffer);
    if (count == 0) {
      co_return;
    }
    watch_->last_output = parts_.clock.monotonic();
    if (pace.is_too_slow(count, watch_->last_output - asked)) {
      throw BuildFailure(model::BuildStatus::TimedOut,
                         fmt::format("the machine of '{}' gives its output '{}' at less than {} "
                                     "bytes a second",
                                     drv_text_,
                                     output_names_[index],
                                     settings_.output_floor_bytes));
    }
    total += count;
    if (total > settings_.max_output_bytes) {
      throw BuildFailure(model::BuildStatus::OutputRejected,
                         fmt::format("output '{}' of '{}' is larger than {} bytes",
                                     output_names_[index],
                                     drv_text_,
                                     settings_.max_output_bytes));
    }
    auto work = [&take, &buffer, count] {
      take(ByteView(buffer).first(count));
    };
    co_await parts_.pool.run(std::move(work));
  }
}

/// What has another hash than it should is kept where that hash puts it, as Nix does: the corrected
/// derivation needs no second download. A favour, not a part of the build.
aio::Task<void> Attempt::keep_misnamed(store::Import& import,
                                       std::string_view name,
                                       const model::ContentAddress& address) {
  auto keep = [this, &import, name, &address]() -> std::string {
    try {
      if (!import.found_references().empty()) {
        return {};
      }
      const auto info = import.seal_as_made(name, address);
      parts_.store.commit(request_.account, {&info, 1});
      return fmt::format("what came out is kept as {}", parts_.store.dir().print(info.path));
    } catch (const Error& error) {
      parts_.log.info(
          fmt::format("build {}: what came out is not kept: {}", record_.id, error.what()));
      return {};
    }
  };
  std::string kept = co_await parts_.pool.run(std::move(keep));
  if (!kept.empty()) {
    co_await say(std::move(kept));
  }
}

aio::Task<model::PathInfo> Attempt::collect_output(std::size_t index) {
  auto import = parts_.store.begin_import(request_.account, output_import(index));
  std::optional<ContentDigest> digest;
  std::optional<model::ContentAddress> expected;
  if (kind_ == model::OutputKind::Fixed) {
    expected = request_.derivation.outputs.at(output_names_[index]).fixed_address();
    digest.emplace(method_of(index));
  }
  const std::function<void(ByteView)> take = [&import, &digest](ByteView bytes) {
    feed_whole(import, bytes);
    if (digest) {
      digest->feed(bytes);
    }
  };
  co_await read_output(index, take);
  if (digest) {
    const auto got = digest->finish(drv_text_);
    if (got != expected->hash) {
      const model::ContentAddress address{expected->method, got};
      co_await keep_misnamed(import, output_paths_[index].name(), address);
    }
    check_fixed_output(expected->hash, got, drv_text_);
  }
  auto seal = [&import] {
    return import.seal();
  };
  auto info = co_await parts_.pool.run(std::move(seal));
  if (expected) {
    if (!info.references.empty()) {
      throw BuildFailure(model::BuildStatus::OutputRejected,
                         fmt::format("fixed output '{}' of '{}' refers to '{}', which fixed "
                                     "outputs may not",
                                     output_names_[index],
                                     drv_text_,
                                     parts_.store.dir().print(info.references.front())));
    }
    info.content_address = model::print(*expected);
  }
  co_return info;
}

namespace {

/// Contents that cannot have an address end the build; other errors are faults.
[[noreturn]] void throw_unnameable(const Error& error) {
  if (error.code() == "content-address.references" || error.code() == "build.occurrences") {
    throw BuildFailure(model::BuildStatus::OutputRejected, error.message());
  }
  throw error;
}

} // namespace

aio::Task<void> Attempt::collect() {
  built_.clear();
  if (made_of_contents(kind_)) {
    try {
      co_await collect_made();
    } catch (const Error& error) {
      throw_unnameable(error);
    }
  } else {
    for (std::size_t index = 0; index < output_names_.size(); ++index) {
      auto info = co_await collect_output(index);
      built_.push_back(std::move(info));
    }
  }
  made_paths_.clear();
  for (const auto& info : built_) {
    made_paths_.push_back(info.path);
  }
  inputs_->lease.add(made_paths_);
  const auto order = order_of_outputs(built_, drv_text_);
  auto check = [this] {
    check_output_rules(parts_.store, request_.account, options_, output_names_, built_);
  };
  co_await parts_.pool.run(std::move(check));
  built_ = signed_outputs(order);
}

/// `built_`, signed where the paths are proven, in that order.
std::vector<model::PathInfo> Attempt::signed_outputs(const std::vector<std::size_t>& order) {
  std::vector<model::PathInfo> infos;
  for (const auto index : order) {
    auto info = built_[index];
    if (parts_.signing_key != nullptr && proven()) {
      info.signatures.push_back(
          parts_.signing_key->sign(model::fingerprint(parts_.store.dir(), info)));
    }
    output_signatures_[output_names_[index]] = info.signatures;
    infos.push_back(std::move(info));
  }
  return infos;
}

model::BuildResult Attempt::success(model::BuildStatus status) const {
  model::BuildResult result;
  result.status = status;
  for (std::size_t i = 0; i < output_names_.size(); ++i) {
    model::Realisation realisation{made_paths_.at(i), {}};
    const auto signatures = output_signatures_.find(output_names_[i]);
    if (signatures != output_signatures_.end()) {
      realisation.signatures = signatures->second;
    }
    result.outputs.emplace(output_names_[i], std::move(realisation));
  }
  return result;
}

} // namespace nixbuild::build
