#include "sandbox/decompress.hpp"
#include "sandbox/guarded_file.hpp"
#include "sandbox/machine_files.hpp"
#include "sandbox/qemu_execution.hpp"
#include "sandbox/run_folders.hpp"
#include "sandbox/wall_notes.hpp"

#include <nixbuild/base/digest.hpp>
#include <nixbuild/base/encoding.hpp>
#include <nixbuild/base/error.hpp>
#include <nixbuild/sandbox/guest_protocol.hpp>
#include <nixbuild/sandbox/initramfs.hpp>
#include <nixbuild/sandbox/jail.hpp>
#include <nixbuild/sandbox/machine_trial.hpp>
#include <nixbuild/sandbox/qemu_executor.hpp>
#include <nixbuild/sandbox/scratch_room.hpp>

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <mutex>
#include <utility>
#include <vector>

namespace nixbuild::sandbox {

namespace fs = std::filesystem;

namespace {

constexpr std::size_t kMaxProgram = 256 * kMiB;
/// Seconds that an answer of the guest may take; emulation under load needs many times a CPU's
/// boot.
constexpr std::uint32_t kKvmPatience = 60;
constexpr std::uint32_t kTcgPatience = 300;

void check_id(const std::string& id) {
  if (!is_plan_id(id)) {
    throw Error(Reaction::Reject, "sandbox.spawn", fmt::format("'{}' is no build id", id));
  }
}

/// Owns the attributes of a posix_spawn.
class SpawnSetup {
public:
  SpawnSetup() {
    check(::posix_spawn_file_actions_init(&actions));
    check(::posix_spawnattr_init(&attributes));
  }

  ~SpawnSetup() {
    ::posix_spawn_file_actions_destroy(&actions);
    ::posix_spawnattr_destroy(&attributes);
  }

  SpawnSetup(const SpawnSetup&) = delete;
  SpawnSetup& operator=(const SpawnSetup&) = delete;

  static void check(int error) {
    if (error != 0) {
      throw_system_error("sandbox.spawn", "starting the runner", error);
    }
  }

  posix_spawn_file_actions_t actions{};
  posix_spawnattr_t attributes{};
};

/// Starts the runner, which puts itself into the background and survives this process.
void spawn_runner(const fs::path& program, const fs::path& directory, int socket) {
  const UniqueFd null(system_call(
      "sandbox.spawn", "/dev/null", [] { return ::open("/dev/null", O_RDONLY | O_CLOEXEC); }));
  const auto log_path = directory / "runner.log";
  const UniqueFd log(system_call("sandbox.spawn", log_path.c_str(), [&] {
    return ::open(log_path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  }));
  SpawnSetup setup;
  SpawnSetup::check(::posix_spawn_file_actions_adddup2(&setup.actions, null.get(), 0));
  SpawnSetup::check(::posix_spawn_file_actions_adddup2(&setup.actions, log.get(), 1));
  SpawnSetup::check(::posix_spawn_file_actions_adddup2(&setup.actions, log.get(), 2));
  SpawnSetup::check(::posix_spawn_file_actions_adddup2(&setup.actions, socket, 3));
  sigset_t signals;
  sigemptyset(&signals);
  ::posix_spawnattr_setsigmask(&setup.attributes, &signals);
  sigfillset(&signals);
  ::posix_spawnattr_setsigdefault(&setup.attributes, &signals);
  ::posix_spawnattr_setflags(&setup.attributes,
                             POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  std::array<std::string, 6> arguments{
      program.string(), "--run-dir", directory.string(), "--fd", "3", "--background"};
  std::array<char*, 7> argv{};
  std::transform(arguments.begin(), arguments.end(), argv.begin(), [](std::string& text) {
    return text.data();
  });
  std::array<char*, 1> environment{nullptr};
  pid_t pid = 0;
  SpawnSetup::check(::posix_spawn(
      &pid, program.c_str(), &setup.actions, &setup.attributes, argv.data(), environment.data()));
  // Only the short-lived first process: the runner itself is nobody's child here.
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
    throw Error(Reaction::Internal,
                "sandbox.spawn",
                fmt::format("{} did not start (wait status {})", program.string(), status));
  }
}

InitramfsInputs read_programs(const QemuExecutorSettings& settings, const ImportedKernel& kernel) {
  const auto read = [](const fs::path& path) {
    return read_file(path.c_str(), kMaxProgram, "sandbox.spawn");
  };
  InitramfsInputs inputs;
  inputs.guest = read(settings.guest);
  inputs.busybox = read(settings.busybox);
  for (const auto& module : kernel.modules) {
    auto contents = read(module.file);
    if (hex_encode(hash_of(HashAlgorithm::Sha256, contents).bytes()) != module.sha256) {
      throw Error(Reaction::Corrupt,
                  "sandbox.kernel-cache",
                  fmt::format("{} is not what was imported: remove its folder and import it again",
                              module.file.string()));
    }
    inputs.modules.push_back({module.name + ".ko", std::move(contents)});
  }
  return inputs;
}

/// The initramfs beside its kernel, under the name of its contents.
std::unique_ptr<GuardedFile> cache_initramfs(const fs::path& directory, ByteView contents) {
  const auto hash = hex_encode(hash_of(HashAlgorithm::Sha256, contents).bytes());
  const auto path = directory / fmt::format("initramfs-{}.img", hash.substr(0, 32));
  std::error_code ignored;
  if (fs::exists(path, ignored)) {
    try {
      return std::make_unique<GuardedFile>(path, hash);
    } catch (const Error&) {
      // Half of it, or changed by somebody: it is written anew.
    }
  }
  std::string staging = (directory / ".initramfs-XXXXXX").string();
  const UniqueFd fd(system_call(
      "sandbox.kernel-cache", staging, [&] { return ::mkostemp(staging.data(), O_CLOEXEC); }));
  while (!contents.empty()) {
    const auto put = system_call("sandbox.kernel-cache", staging, [&] {
      return ::write(fd.get(), contents.data(), contents.size());
    });
    contents = contents.subspan(static_cast<std::size_t>(put));
  }
  system_call("sandbox.kernel-cache", staging, [&] { return ::fchmod(fd.get(), 0444); });
  fs::rename(staging, path);
  return std::make_unique<GuardedFile>(path, hash);
}

/// What the emulator sees of the host, looked for again when it or the libraries have changed: an
/// upgrade may come while the daemon runs. Thread safe.
class SeenFiles {
public:
  explicit SeenFiles(fs::path program) : program_(std::move(program)) {}

  std::string get() {
    const std::lock_guard lock(mutex_);
    const auto mark = mark_of_files();
    if (files_.empty() || mark != mark_) {
      files_ = program_files(program_);
      mark_ = mark;
    }
    return files_;
  }

private:
  [[nodiscard]] std::string mark_of_files() const {
    std::string mark;
    for (const auto& file : {program_, fs::path("/etc/ld.so.cache")}) {
      struct stat status {};

      if (::stat(file.c_str(), &status) == 0) {
        mark +=
            fmt::format("{} {}.{} ", status.st_ino, status.st_mtim.tv_sec, status.st_mtim.tv_nsec);
      }
    }
    return mark;
  }

  fs::path program_;
  std::mutex mutex_;
  std::string mark_;
  std::string files_;
};

class QemuExecutor final : public Executor {
public:
  QemuExecutor(boost::asio::any_io_executor executor, QemuExecutorSettings settings)
      : executor_(std::move(executor)), settings_(std::move(settings)),
        walls_(fs::absolute(settings_.run_directory), settings_.cgroups.shortfall, settings_.log),
        qemu_files_(settings_.qemu) {
    for (const auto* program :
         {&settings_.runner, &settings_.guest, &settings_.busybox, &settings_.qemu}) {
      if (::access(program->c_str(), R_OK | X_OK) != 0) {
        throw_system_error("sandbox.spawn", program->string());
      }
    }
    if (::access(settings_.network_helper.c_str(), X_OK) != 0) {
      settings_.network_helper.clear();
    }
    if (settings_.disk_maker.empty()) {
      settings_.disk_maker = find_disk_maker();
    } else if (::access(settings_.disk_maker.c_str(), X_OK) != 0) {
      settings_.disk_maker.clear();
    }
    settings_.run_directory = fs::absolute(settings_.run_directory);
    make_folder(settings_.run_directory);
    make_folder(settings_.run_directory / ".slots");
    left_behind_ = plans_in(settings_.run_directory);
    accelerator_ = accelerator_of(settings_).accelerator;
    const auto kernel = find_or_import_kernel(settings_.kernel_cache, settings_.kernel);
    kernel_ = std::make_unique<GuardedFile>(kernel.image, kernel.image_sha256);
    initramfs_ = cached(kernel, read_programs(settings_, kernel));
    if (!settings_.builtin.empty()) {
      auto programs = read_programs(settings_, kernel);
      programs.builtin = read_file(settings_.builtin.c_str(), kMaxProgram, "sandbox.spawn");
      builtin_initramfs_ = cached(kernel, programs);
    }
  }

  [[nodiscard]] std::string accelerator() const override {
    return std::string(name_of(accelerator_));
  }

  [[nodiscard]] WallReport walls() const override { return walls_.report(); }

  [[nodiscard]] bool offers_network() const override { return !settings_.network_helper.empty(); }

  [[nodiscard]] bool offers_disk() const override { return !settings_.disk_maker.empty(); }

  HostVerdict host_failed(const std::string& reason) override {
    try {
      const auto trial = try_machine(settings_);
      if (!trial.works) {
        return {HostVerdict::Use::Nothing, trial.reason};
      }
      if (trial.accelerator == Accelerator::Tcg &&
          accelerator_.exchange(Accelerator::Tcg) != Accelerator::Tcg) {
        return {HostVerdict::Use::Emulation,
                trial.kvm_trouble.empty() ? reason : trial.kvm_trouble};
      }
      return {HostVerdict::Use::AsBefore, reason};
    } catch (const Error& error) {
      return {HostVerdict::Use::Nothing, error.message()};
    }
  }

  aio::Task<std::unique_ptr<Execution>> start(ExecutionPlan plan) override {
    check_id(plan.id);
    // That program is large, and most machines need none of it.
    const bool builtin = plan.job.builder.starts_with("builtin:");
    auto initramfs =
        (builtin && builtin_initramfs_ ? builtin_initramfs_ : initramfs_)->open_for_machine();
    auto kernel = kernel_->open_for_machine();
    const auto directory = settings_.run_directory / plan.id;
    // An existing one belongs to a runner of the same attempt: two in one folder must not be.
    system_call(
        "sandbox.spawn", directory.c_str(), [&] { return ::mkdir(directory.c_str(), 0700); });
    int ends[2];
    system_call("sandbox.spawn", "socketpair", [&] {
      return ::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends);
    });
    UniqueFd mine(ends[0]);
    UniqueFd theirs(ends[1]);
    const RunFolder folder{directory, cgroup_of(plan.id)};
    try {
      spawn_runner(settings_.runner, directory, theirs.get());
    } catch (...) {
      remove_left_behind(folder.directory, folder.cgroup);
      throw;
    }
    theirs.reset();
    auto execution = std::make_unique<QemuExecution>(
        executor_, std::move(mine), folder, plan.job.outputs.size());
    auto start = describe(plan);
    const auto accepted = co_await execution->begin(
        std::move(start), std::move(kernel), std::move(initramfs), std::move(plan.disk));
    walls_.note(accepted.jail_walls, accepted.jail_shortfall);
    co_return execution;
  }

  aio::Task<std::unique_ptr<Execution>>
  adopt(std::string id, std::size_t outputs, std::uint64_t log_offset) override {
    check_id(id);
    const auto directory = settings_.run_directory / id;
    auto socket = connect_to_runner(directory);
    if (!socket) {
      remove_left_behind(directory, cgroup_of(id));
      co_return nullptr;
    }
    const RunFolder folder{directory, cgroup_of(id)};
    const auto age = age_of_runner(socket);
    auto execution = std::make_unique<QemuExecution>(executor_, std::move(socket), folder, outputs);
    co_await execution->attach(log_offset, age);
    co_return execution;
  }

  aio::Task<void> sweep(std::vector<std::string> kept) override {
    for (const auto& id : std::exchange(left_behind_, {})) {
      if (std::find(kept.begin(), kept.end(), id) != kept.end()) {
        continue;
      }
      const auto directory = settings_.run_directory / id;
      if (const auto socket = connect_to_runner(directory)) {
        end_runner(socket);
      } else {
        remove_left_behind(directory, cgroup_of(id));
      }
    }
    co_return;
  }

private:
  /// The control group of a plan's machine. Daemons with other run folders may use the same parent.
  [[nodiscard]] fs::path cgroup_of(const std::string& id) const {
    if (settings_.cgroups.parent.empty()) {
      return {};
    }
    const auto here = settings_.run_directory.string();
    const auto mark = hex_encode(hash_of(HashAlgorithm::Sha256, bytes_of(here)).bytes());
    return settings_.cgroups.parent / fmt::format("build-{}-{}", mark.substr(0, 8), id);
  }

  static std::unique_ptr<GuardedFile> cached(const ImportedKernel& kernel,
                                             const InitramfsInputs& inputs) {
    return cache_initramfs(kernel.directory, build_initramfs(inputs));
  }

  static void make_folder(const fs::path& path) {
    std::error_code error;
    fs::create_directories(path, error);
    system_call("sandbox.spawn", path.c_str(), [&] { return ::chmod(path.c_str(), 0700); });
  }

  [[nodiscard]] runner::Start describe(const ExecutionPlan& plan) const {
    runner::Start start;
    start.id = plan.id;
    start.cpus = plan.cpus;
    start.memory_bytes = plan.memory_bytes;
    start.kvm = accelerator_ == Accelerator::Kvm;
    start.debug_console = settings_.debug_console;
    start.qemu = settings_.qemu;
    start.qemu_files = qemu_files_.get();
    start.kernel_options = settings_.kernel_options;
    if (::geteuid() == 0) {
      start.uid_base = settings_.uid_base;
      start.uid_count = settings_.uid_count;
    }
    start.slot_directory = settings_.run_directory / ".slots";
    start.cgroup_parent = settings_.cgroups.parent;
    start.cgroup_name = cgroup_of(plan.id).filename();
    start.cgroup_release = settings_.cgroups.left;
    start.network_helper = settings_.network_helper;
    start.network_allow = fmt::format("{}", fmt::join(settings_.network_allow, " "));
    start.disk_maker = settings_.disk_maker;

    struct statvfs room {};

    if (!start.disk_maker.empty() && ::statvfs(settings_.run_directory.c_str(), &room) == 0) {
      start.scratch_bytes =
          scratch_size(plan.scratch_bytes, std::uint64_t{room.f_bavail} * room.f_frsize);
    }
    start.log_limit_bytes = settings_.log_limit_bytes;
    start.patience_seconds = start.kvm ? kKvmPatience : kTcgPatience;
    if (settings_.guest_patience.count() > 0) {
      start.patience_seconds = static_cast<std::uint32_t>(settings_.guest_patience.count());
    }
    start.grace_seconds = static_cast<std::uint32_t>(settings_.grace.count());
    start.alone_seconds = static_cast<std::uint32_t>(settings_.alone.count());
    start.job = encode_guest_job(plan.job);
    return start;
  }

  boost::asio::any_io_executor executor_;
  QemuExecutorSettings settings_;
  WallNotes walls_;
  std::atomic<Accelerator> accelerator_ = Accelerator::Tcg;
  mutable SeenFiles qemu_files_;
  std::unique_ptr<GuardedFile> kernel_;
  std::unique_ptr<GuardedFile> initramfs_;
  std::unique_ptr<GuardedFile> builtin_initramfs_; ///< with nixbuild-builtin in it; null: none
  std::vector<std::string> left_behind_;           ///< plans of earlier daemons
};

} // namespace

fs::path find_disk_maker() {
  for (const auto* path : {"/usr/sbin/mke2fs",
                           "/sbin/mke2fs",
                           "/usr/bin/mke2fs",
                           "/run/current-system/sw/bin/mke2fs"}) {
    if (::access(path, X_OK) == 0) {
      return path;
    }
  }
  return {};
}

bool is_host_fault(const Error& error) noexcept {
  const auto& code = error.code();
  return code == "sandbox.host" || code == "sandbox.spawn" || code == "sandbox.accelerator" ||
         code == "sandbox.initramfs" || code.starts_with("sandbox.kernel-");
}

fs::path plain_initramfs(const QemuExecutorSettings& settings, const ImportedKernel& kernel) {
  return cache_initramfs(kernel.directory, build_initramfs(read_programs(settings, kernel)))
      ->path();
}

AcceleratorProbe accelerator_of(const QemuExecutorSettings& settings) {
  return choose_accelerator(settings.accelerator,
                            ::geteuid() == 0 ? std::optional<uid_t>(settings.uid_base)
                                             : std::nullopt);
}

std::unique_ptr<Executor> make_qemu_executor(boost::asio::any_io_executor executor,
                                             QemuExecutorSettings settings) {
  return std::make_unique<QemuExecutor>(std::move(executor), std::move(settings));
}

} // namespace nixbuild::sandbox
