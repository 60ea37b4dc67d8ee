#include "sandbox/machine_files.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/sandbox/machine_trial.hpp>
#include <nixbuild/sandbox/vmdk.hpp>
#include <nixbuild/segment/compose.hpp>
#include <nixbuild/segment/writer.hpp>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <thread>
#include <utility>
#include <variant>

namespace nixbuild::sandbox {

namespace fs = std::filesystem;

namespace {

constexpr const char* kTrialName = "00000000000000000000000000000000-trial";
constexpr std::string_view kTrialWord = "mounted";
constexpr std::int32_t kUnreadable = 3;

class MetadataSink final : public segment::PatchableSink {
public:
  void append(ByteView piece) override { bytes.insert(bytes.end(), piece.begin(), piece.end()); }

  void patch(std::uint64_t offset, ByteView piece) override {
    std::copy(piece.begin(), piece.end(), bytes.begin() + static_cast<std::ptrdiff_t>(offset));
  }

  Bytes bytes;
};

/// A store of one path, which is a file with one word.
DiskExtent trial_disk() {
  std::string data;
  StringSink data_sink(data);
  MetadataSink metadata;
  segment::Writer writer(data_sink, metadata);
  const auto line = std::string(kTrialWord) + "\n";
  writer.regular(false, line.size());
  writer.contents(bytes_of(line));
  writer.regular_end();
  writer.finish();
  std::string head;
  StringSink head_sink(head);
  const segment::Part part{kTrialName, metadata.bytes, data.size()};
  (void)segment::compose("/nix/store", std::span(&part, 1), head_sink);
  head += data;
  const auto length = head.size();
  return {sealed_file(head), 0, length};
}

ExecutionPlan trial_plan() {
  ExecutionPlan plan;
  plan.id = "trial";
  plan.disk.push_back(trial_disk());
  plan.job.builder = "/bin/sh";
  plan.job.arguments = {"-c",
                        fmt::format("read word <{}/{} && [ \"$word\" = {} ] || exit {}",
                                    plan.job.store_dir,
                                    kTrialName,
                                    kTrialWord,
                                    kUnreadable)};
  return plan;
}

aio::Task<GuestExit> run_trial(Executor& executor, ExecutionPlan plan) {
  const auto execution = co_await executor.start(std::move(plan));
  for (;;) {
    auto event = co_await execution->next_event();
    if (auto* end = std::get_if<BuilderExited>(&event)) {
      co_await execution->finish();
      co_return std::move(end->exit);
    }
  }
}

/// Why that was no machine for builds; empty when it was one.
std::string complaint_about(const GuestExit& exit) {
  if (exit.end == GuestEnd::Exited && exit.code == 0) {
    return {};
  }
  if (exit.end == GuestEnd::Exited && exit.code == kUnreadable) {
    return "a builder cannot read its inputs";
  }
  return exit.message.empty() ? fmt::format("a builder that does nothing ended with {}", exit.code)
                              : exit.message;
}

/// One machine, from its beginning to its end; what was wrong with it.
std::string complaint_of(const QemuExecutorSettings& settings) {
  boost::asio::io_context io;
  const auto executor = make_qemu_executor(io.get_executor(), settings);
  std::string complaint;
  std::exception_ptr fault;
  auto task = run_trial(*executor, trial_plan());
  boost::asio::co_spawn(io, std::move(task), [&](std::exception_ptr error, GuestExit exit) {
    fault = std::move(error);
    complaint = fault ? std::string() : complaint_about(exit);
  });
  io.run();
  if (fault) {
    try {
      std::rethrow_exception(fault);
    } catch (const Error& error) {
      complaint = error.message();
    }
  }
  return complaint;
}

/// Below the run directory, so that the trial's log and sockets are as private as a build's.
class TrialFolder {
public:
  explicit TrialFolder(const fs::path& parent) {
    std::error_code ignored;
    fs::create_directories(parent, ignored);
    std::string name = (parent / ".trial-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) {
      throw_system_error("sandbox.spawn", name);
    }
    path_ = std::move(name);
  }

  /// The runner is a process of its own that tidies up at its end: it may just be about it.
  ~TrialFolder() {
    constexpr int attempts = 100;
    constexpr auto pause = std::chrono::milliseconds(20);
    std::error_code ignored;
    for (int attempt = 0; attempt < attempts; ++attempt) {
      fs::remove_all(path_, ignored);
      if (!fs::exists(path_, ignored)) {
        return;
      }
      std::this_thread::sleep_for(pause);
    }
  }

  TrialFolder(const TrialFolder&) = delete;
  TrialFolder& operator=(const TrialFolder&) = delete;

  [[nodiscard]] const fs::path& path() const noexcept { return path_; }

private:
  fs::path path_;
};

fs::path memory_of(const QemuExecutorSettings& settings, const ImportedKernel& kernel) {
  auto path = plain_initramfs(settings, kernel);
  return path.replace_extension(".works");
}

void remember(const fs::path& path) {
  // Whoever may not write there tries again another time.
  const UniqueFd file(::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0444));
}

} // namespace

bool machine_is_known_to_work(const QemuExecutorSettings& settings) {
  const auto kernel = find_or_import_kernel(settings.kernel_cache, settings.kernel);
  std::error_code ignored;
  return fs::exists(memory_of(settings, kernel), ignored);
}

MachineTrial try_machine(QemuExecutorSettings settings) {
  const auto began = std::chrono::steady_clock::now();
  const auto kernel = find_or_import_kernel(settings.kernel_cache, settings.kernel);
  const auto memory = memory_of(settings, kernel);
  const TrialFolder folder(settings.run_directory);
  settings.run_directory = folder.path();
  settings.log = nullptr; // whoever asks tells what became of it
  // Builds and their network helpers have the two ranges before.
  settings.uid_base += 2 * settings.uid_count;
  settings.uid_count = 1;
  MachineTrial trial;
  const bool may_fall_back = settings.accelerator == AcceleratorChoice::Auto;
  trial.accelerator = accelerator_of(settings).accelerator;
  for (;;) {
    settings.accelerator =
        trial.accelerator == Accelerator::Kvm ? AcceleratorChoice::Kvm : AcceleratorChoice::Tcg;
    trial.reason = complaint_of(settings);
    trial.works = trial.reason.empty();
    if (trial.works || trial.accelerator == Accelerator::Tcg || !may_fall_back) {
      break;
    }
    trial.kvm_trouble = std::exchange(trial.reason, {});
    trial.accelerator = Accelerator::Tcg;
  }
  if (trial.works) {
    remember(memory);
  }
  trial.took = std::chrono::duration_cast<std::chrono::milliseconds>(
      std::chrono::steady_clock::now() - began);
  return trial;
}

} // namespace nixbuild::sandbox
