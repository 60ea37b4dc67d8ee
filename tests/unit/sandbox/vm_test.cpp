// Real machines: QEMU, a distribution's kernel and nixbuild-guest. Each takes seconds under
// emulation, so they are run apart: `unit-sandbox [vm]`, with NIXBUILD_TEST_KERNEL_DIR naming a
// folder that holds boot/ and lib/modules/.

#include "executor_rig.hpp"
#include "support/fake_executor.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/segment/compose.hpp>
#include <nixbuild/segment/writer.hpp>

#include <catch2/catch.hpp>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <set>
#include <sstream>

using namespace nixbuild;
using namespace nixbuild::sandbox;
using namespace nixbuild::tests;
namespace fs = std::filesystem;
namespace asio = boost::asio;

namespace {

constexpr const char* kShellPath = "1111111111111111111111111111111a-shell";
constexpr const char* kOutPath = "2222222222222222222222222222222a-out";
constexpr const char* kDocPath = "3333333333333333333333333333333a-doc";

class BytesSink final : public segment::PatchableSink {
public:
  void append(ByteView piece) override { bytes.insert(bytes.end(), piece.begin(), piece.end()); }

  void patch(std::uint64_t offset, ByteView piece) override {
    std::copy(piece.begin(), piece.end(), bytes.begin() + static_cast<std::ptrdiff_t>(offset));
  }

  Bytes bytes;
};

std::string read_text(const fs::path& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

DiskExtent in_memory(std::string_view contents) {
  UniqueFd file(::memfd_create("test", MFD_CLOEXEC));
  REQUIRE(::write(file.get(), contents.data(), contents.size()) ==
          static_cast<ssize_t>(contents.size()));
  const auto again = "/proc/self/fd/" + std::to_string(file.get());
  return {UniqueFd(::open(again.c_str(), O_RDONLY | O_CLOEXEC)), 0, contents.size()};
}

/// A disk with one store path: a static busybox.
std::vector<DiskExtent> shell_disk() {
  std::string data;
  StringSink data_sink(data);
  BytesSink metadata;
  segment::Writer writer(data_sink, metadata);
  const auto busybox = read_text("/bin/busybox");
  writer.directory();
  writer.entry("bin");
  writer.directory();
  writer.entry("busybox");
  writer.regular(true, busybox.size());
  writer.contents(bytes_of(busybox));
  writer.regular_end();
  writer.entry("sh");
  writer.symlink("busybox");
  writer.directory_end();
  writer.directory_end();
  writer.finish();
  std::string head;
  StringSink head_sink(head);
  const std::vector<segment::Part> parts{{kShellPath, metadata.bytes, data.size()}};
  const auto disk = segment::compose("/nix/store", parts, head_sink);
  std::vector<DiskExtent> extents;
  extents.push_back(in_memory(head));
  if (!disk.data.empty()) {
    extents.push_back(in_memory(data));
  }
  return extents;
}

/// A build of a script by the shell of the disk.
ExecutionPlan script_plan(const std::string& script) {
  ExecutionPlan plan;
  plan.id = "vm-1";
  plan.disk = shell_disk();
  plan.scratch_bytes = 2 * kGiB;
  const std::string shell = std::string("/nix/store/") + kShellPath + "/bin/";
  plan.job.builder = shell + "sh";
  plan.job.arguments = {"-c", script};
  plan.job.environment = {{"PATH", shell.substr(0, shell.size() - 1)},
                          {"busybox", shell + "busybox"},
                          {"doc", std::string("/nix/store/") + kDocPath},
                          {"out", std::string("/nix/store/") + kOutPath}};
  plan.job.files = {{"greeting", "hello from the build folder\n"}};
  plan.job.outputs = {{"out", kOutPath}, {"doc", kDocPath}};
  plan.job.hosts = "127.0.0.1 localhost\n";
  return plan;
}

class VmRig {
public:
  static bool possible() {
    if (std::getenv("NIXBUILD_TEST_KERNEL_DIR") == nullptr || !fs::exists(GUEST_PATH)) {
      WARN("skipped: NIXBUILD_TEST_KERNEL_DIR is not set, or no guest program was built");
      return false;
    }
    return true;
  }

  QemuExecutorSettings settings() {
    QemuExecutorSettings settings;
    settings.runner = RUNNER_PATH;
    settings.guest = GUEST_PATH;
    settings.run_directory = folder.path() / "run";
    settings.kernel_cache = folder.path() / "kernels";
    settings.kernel = newest_kernel(std::getenv("NIXBUILD_TEST_KERNEL_DIR"));
    settings.grace = std::chrono::seconds(1);
    return settings;
  }

  bool nothing_left() {
    return eventually([&] {
      std::size_t count = 0;
      for (const auto& entry : fs::directory_iterator(folder.path() / "run")) {
        count += entry.path().filename().string().starts_with('.') ? 0U : 1U;
      }
      return count == 0;
    });
  }

  ScratchFolder folder;
  asio::io_context io;
};

struct Result {
  Record record;
  std::vector<std::string> outputs;
  MachineUsage usage;
};

aio::Task<Result> build(Executor& executor, ExecutionPlan plan) {
  const auto execution = co_await executor.start(std::move(plan));
  Result result;
  result.record = co_await follow(*execution);
  for (std::size_t i = 0; i < result.record.exit.outputs.size(); ++i) {
    std::string output;
    if (result.record.exit.outputs[i].present) {
      output = co_await collect(*execution, i);
    }
    result.outputs.push_back(std::move(output));
  }
  co_await execution->finish();
  result.usage = execution->usage();
  co_return result;
}

std::string phases_of(const Record& record) {
  std::string text;
  for (std::size_t i = 0; i < record.phases.size(); ++i) {
    text += record.phases[i] + " " + std::to_string(record.phase_times[i].count() / 1000) + " ms  ";
  }
  return text;
}

std::set<std::string> lines_after(const std::string& text, const std::string& key) {
  std::set<std::string> values;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) {
    if (line.starts_with(key)) {
      values.insert(line.substr(key.size()));
    }
  }
  return values;
}

} // namespace

TEST_CASE("vm: a job runs from its composed disk to its outputs", "[.][vm][guest][sandbox]") {
  if (!VmRig::possible()) {
    return;
  }
  VmRig rig;
  const auto executor = make_qemu_executor(rig.io.get_executor(), rig.settings());
  // More files than memory.
  auto plan = script_plan("$busybox cat greeting; echo pwd $PWD; $busybox ls /nix/store; "
                          "$busybox dd if=/dev/zero of=big bs=1M count=300 && echo made > $out");
  plan.memory_bytes = 256 * kMiB;
  const auto result = run_on(rig.io, build(*executor, std::move(plan)));
  INFO(result.record.log << result.record.exit.message);
  WARN(phases_of(result.record) << result.usage.peak_rss_bytes / kMiB << " MiB");
  CHECK(result.record.exit.end == GuestEnd::Exited);
  CHECK(result.record.exit.code == 0);
  CHECK_FALSE(result.record.exit.scratch_in_memory);
  CHECK(result.record.exit.disk_bytes > 300 * kMiB);
  CHECK(result.record.exit.scratch_bytes > 19 * kGiB / 10);
  CHECK(result.record.log.find("hello from the build folder") != std::string::npos);
  CHECK(result.record.log.find("pwd /build") != std::string::npos);
  CHECK(result.record.log.find(kShellPath) != std::string::npos);
  REQUIRE(result.outputs.size() == 2);
  CHECK((result.outputs[0] == nar_of_file("made\n")));
  CHECK(result.outputs[1].empty()); // was not made
  CHECK(result.usage.peak_rss_bytes > 50 * kMiB);
  CHECK(result.usage.cpu_user.count() > 0);
  CHECK(rig.nothing_left());
}

TEST_CASE("vm: a failing builder's status comes through", "[.][vm][sandbox]") {
  if (!VmRig::possible()) {
    return;
  }
  VmRig rig;
  const auto executor = make_qemu_executor(rig.io.get_executor(), rig.settings());
  const auto result = run_on(rig.io, build(*executor, script_plan("echo oops; exit 3")));
  CHECK(result.record.exit.end == GuestEnd::Exited);
  CHECK(result.record.exit.code == 3);
  CHECK(result.record.log.find("oops") != std::string::npos);
}

TEST_CASE("vm: a machine that panics is a fault of the host, not a success", "[.][vm][sandbox]") {
  if (!VmRig::possible()) {
    return;
  }
  VmRig rig;
  auto settings = rig.settings();
  settings.kernel_options = "rdinit=/does-not-exist root=/dev/none";
  settings.debug_console = true;
  const auto executor = make_qemu_executor(rig.io.get_executor(), std::move(settings));
  try {
    run_on(rig.io, build(*executor, script_plan("true")));
    FAIL("a build without a guest succeeded");
  } catch (const Error& error) {
    CHECK(error.code() == "sandbox.host");
    CHECK(error.message().find("panic") != std::string::npos);
  }
  CHECK(rig.nothing_left());
}

TEST_CASE("vm: only a job with a network has an interface", "[.][vm][sandbox]") {
  if (!VmRig::possible()) {
    return;
  }
  VmRig rig;
  auto settings = rig.settings();
  REQUIRE(fs::exists(settings.network_helper)); // the package passt
  const auto executor = make_qemu_executor(rig.io.get_executor(), std::move(settings));
  const std::string script = "$busybox cat /proc/net/dev /proc/net/route /etc/resolv.conf";
  const auto without = run_on(rig.io, build(*executor, script_plan(script)));
  CHECK(without.record.log.find("eth0") == std::string::npos);
  CHECK(without.record.log.find("nameserver") == std::string::npos);

  auto plan = script_plan(script);
  plan.id = "vm-2";
  plan.job.network = true;
  const auto with = run_on(rig.io, build(*executor, std::move(plan)));
  INFO(with.record.log);
  CHECK(with.record.log.find("eth0") != std::string::npos);
  CHECK(with.record.log.find("0202000A") != std::string::npos); // the route over 10.0.2.2
  CHECK(with.record.log.find("nameserver 10.0.2.3") != std::string::npos);
  CHECK(rig.nothing_left());
}

namespace {

/// Everything that /proc says about the emulator while it runs.
struct Inspection {
  std::string status;
  std::string mounts;
  std::set<std::string> files;
};

/// The emulator whose log lies in this run folder.
std::optional<fs::path> find_emulator(const fs::path& log) {
  std::error_code ignored;
  for (const auto& process : fs::directory_iterator("/proc", ignored)) {
    const auto command = fs::read_symlink(process.path() / "exe", ignored).filename().string();
    if (command.starts_with("qemu-system") &&
        fs::read_symlink(process.path() / "fd/1", ignored) == log) {
      return process.path();
    }
  }
  return std::nullopt;
}

aio::Task<Inspection> inspect(Executor& executor, ExecutionPlan plan, fs::path log) {
  const auto execution = co_await executor.start(std::move(plan));
  for (std::string phase; phase != "mount";) {
    auto event = co_await execution->next_event();
    if (auto* began = std::get_if<PhaseBegan>(&event)) {
      phase = began->phase;
    }
  }
  Inspection seen;
  const auto process = find_emulator(log);
  REQUIRE(process);
  seen.status = read_text(*process / "status");
  seen.mounts = read_text(*process / "mounts");
  for (const auto& file : fs::directory_iterator(*process / "fd")) {
    std::error_code ignored;
    seen.files.insert(fs::read_symlink(file.path(), ignored).string());
  }
  execution->cancel();
  co_return seen;
}

} // namespace

TEST_CASE("vm: the emulator runs in its jail with nothing but its files", "[.][vm][sandbox]") {
  if (!VmRig::possible()) {
    return;
  }
  if (::geteuid() != 0) {
    WARN("skipped: only root may look");
    return;
  }
  VmRig rig;
  const auto executor = make_qemu_executor(rig.io.get_executor(), rig.settings());
  const auto seen = run_on(
      rig.io, inspect(*executor, script_plan("true"), rig.folder.path() / "run/vm-1/qemu.log"));
  const std::set<std::string> none{"\t0000000000000000"};
  for (const auto* set : {"CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"}) {
    CHECK(lines_after(seen.status, set) == none);
  }
  CHECK(lines_after(seen.status, "NoNewPrivs:") == std::set<std::string>{"\t1"});
  CHECK(lines_after(seen.status, "Seccomp:") == std::set<std::string>{"\t2"});
  const auto uid = *lines_after(seen.status, "Uid:").begin();
  CHECK(uid.starts_with("\t700"));
  CHECK(seen.mounts.find("nixbuild / tmpfs ro") == 0);
  CHECK(seen.mounts.find("/home") == std::string::npos);
  for (const auto& file : seen.files) {
    INFO(file);
    const bool expected = file == "/dev/null" || file == "/dev/kvm" ||
                          file.starts_with("socket:") || file.starts_with("anon_inode:") ||
                          file.starts_with("/memfd:") || file.ends_with("/qemu.log") ||
                          file.ends_with("/vmlinux") || file.ends_with("/vm-1/scratch") ||
                          file.find("/initramfs-") != std::string::npos;
    CHECK(expected);
  }
  CHECK(rig.nothing_left());
}
