#include "sandbox/runner/machine.hpp"

#include "sandbox/runner/egress_filter.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/sandbox/qemu_command.hpp>

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/magic.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <vector>

namespace nixbuild::sandbox::runner {

namespace fs = std::filesystem;

namespace {

constexpr const char* kMachineCode = "sandbox.spawn";
constexpr const char* kEmulatorLog = "qemu.log";
constexpr std::size_t kLastWords = 2000;
/// What the emulator takes beside the guest's memory, in a memory limit: itself, a kernel image in
/// pieces, the tables of the disk; and for tables of pages a part of that memory.
constexpr std::uint64_t kOverhead = 256 * kMiB;
constexpr std::uint64_t kPageTablePart = 128;
constexpr std::uint64_t kTranslationCache = 320 * kMiB;

/// Both ends of a port; ours does not block.
std::pair<UniqueFd, UniqueFd> make_port() {
  int ends[2];
  system_call(kMachineCode, "socketpair", [&] {
    return ::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends);
  });
  std::pair<UniqueFd, UniqueFd> port{UniqueFd(ends[0]), UniqueFd(ends[1])};
  system_call(
      kMachineCode, "O_NONBLOCK", [&] { return ::fcntl(ends[0], F_SETFL, O_RDWR | O_NONBLOCK); });
  return port;
}

JailSettings jail_settings(const Start& start, std::size_t extents) {
  JailSettings settings;
  settings.directory = fs::current_path();
  settings.kvm = start.kvm;
  settings.threads = 160 + 2 * start.cpus;
  settings.descriptors = static_cast<unsigned>(256 + 4 * extents);
  settings.files = start.qemu_files;
  settings.file_bytes = std::max(settings.file_bytes, start.scratch_bytes);
  return settings;
}

/// Programs that test threads expect a second cpu, and what they use together stays what the build
/// was given. Emulated cpus are another matter: starting a second one costs every build.
unsigned virtual_cpus(unsigned given, Accelerator accelerator) {
  const auto here = ::sysconf(_SC_NPROCESSORS_ONLN);
  return accelerator == Accelerator::Kvm && here > 1 ? std::max(given, 2U) : given;
}

/// Where no control group limits memory: what the emulator may map. Far more than it uses, since
/// address space is not memory, and far less than a large host has.
std::uint64_t address_space([[maybe_unused]] const Start& start, [[maybe_unused]] unsigned cpus) {
#ifdef __SANITIZE_ADDRESS__
  return 0; // its shadow needs all of it
#else
  constexpr std::uint64_t base = 4 * kGiB;
  constexpr std::uint64_t each_cpu = 128 * kMiB;
  return start.memory_bytes + base + cpus * each_cpu;
#endif
}

bool lies_in_memory(const char* folder) {
  struct statfs info {};

  return ::statfs(folder, &info) == 0 && info.f_type == TMPFS_MAGIC;
}

MachineCgroup make_cgroup(const Start& start, unsigned processes) {
  if (start.cgroup_parent.empty()) {
    return {};
  }
  CgroupLimits limits;
  limits.memory_bytes = start.memory_bytes + start.memory_bytes / kPageTablePart + kOverhead +
                        (start.kvm ? 0 : kTranslationCache);
  if (lies_in_memory(".")) {
    limits.memory_bytes += start.scratch_bytes; // what is written to that disk counts as memory
  }
  limits.cpus = start.cpus + 1; // the emulator has work of its own
  limits.processes = processes;
  return {fs::path(start.cgroup_parent) / start.cgroup_name, limits};
}

EgressRules egress_rules(const Start& start) {
  std::vector<AddressBlock> allowed;
  std::istringstream words(start.network_allow);
  for (std::string word; words >> word;) {
    const auto block = parse_address_block(word);
    if (!block) {
      throw Error(
          Reaction::Reject, kMachineCode, fmt::format("'{}' is no block of IPv4 addresses", word));
    }
    allowed.push_back(*block);
  }
  return {own_addresses(), std::move(allowed)};
}

} // namespace

UidSlot::UidSlot(const std::string& directory, std::uint32_t base, std::uint32_t count) {
  for (std::uint32_t slot = 0; slot < count; ++slot) {
    const auto path = fmt::format("{}/{}", directory, base + slot);
    UniqueFd file(system_call(kMachineCode, path, [&] {
      return ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    }));
    if (::flock(file.get(), LOCK_EX | LOCK_NB) == 0) {
      lock_ = std::move(file);
      uid_ = base + slot;
      return;
    }
  }
  throw Error(
      Reaction::Busy, kMachineCode, fmt::format("all {} uids of the pool are in use", count));
}

Machine::Machine(const Start& start,
                 const UniqueFd& kernel,
                 const UniqueFd& initramfs,
                 MappedDisk disk,
                 MachineExtras wants) {
  std::vector<VmdkExtent> lines;
  QemuDescriptors fds;
  for (std::size_t i = 0; i < disk.extents.size(); ++i) {
    const auto& extent = disk.extents[i];
    lines.push_back({extent_path(i), extent.offset, extent.length});
    fds.extents.push_back(extent.fd.get());
  }
  const auto descriptor = sealed_file(vmdk_descriptor(lines));
  auto [control_end, control_there] = make_port();
  auto [log_end, log_there] = make_port();
  auto [output_end, output_there] = make_port();
  fds.kernel = kernel.get();
  fds.initramfs = initramfs.get();
  fds.disk = descriptor.get();
  fds.control = control_there.get();
  fds.log = log_there.get();
  fds.output = output_there.get();
  if (wants.scratch != nullptr) {
    fds.scratch = wants.scratch->fd();
  }
  std::pair<UniqueFd, UniqueFd> store_port;
  if (wants.store) {
    store_port = make_port();
    fds.store = store_port.second.get();
  }

  QemuMachine machine;
  machine.binary = start.qemu;
  machine.accelerator = start.kvm ? Accelerator::Kvm : Accelerator::Tcg;
  machine.cpus = virtual_cpus(start.cpus, machine.accelerator);
  machine.memory_bytes = start.memory_bytes;
  machine.debug_console = start.debug_console;
  machine.kernel_options = start.kernel_options;
  auto settings = jail_settings(start, disk.extents.size());
  if (fds.scratch) {
    // Nobody else has it: it lies in this run folder, which no emulator sees.
    settings.writable.push_back(*fds.scratch);
  }
  if (start.uid_base != 0) {
    slot_.emplace(start.slot_directory, start.uid_base, start.uid_count);
    settings.uid = slot_->uid();
  }
  cgroup_ = make_cgroup(start, settings.threads);
  if (!cgroup_.limits_memory()) {
    settings.address_space = address_space(start, machine.cpus);
  }
  if (cgroup_.exists() || !cgroup_.shortfall().empty()) {
    settings.cgroup = &cgroup_;
  }
  if (wants.network && !start.network_helper.empty()) {
    // The helpers' uids lie behind those of the emulators.
    network_.emplace(
        start.network_helper, slot_ ? slot_->uid() + start.uid_count : 0, egress_rules(start));
    fds.network = network_->emulator_end();
    network_->join(cgroup_);
  }
  const auto command = qemu_command(machine, fds);
  const UniqueFd words(system_call(kMachineCode, kEmulatorLog, [] {
    return ::open(kEmulatorLog, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
  }));
  process = start_jailed(settings, command.arguments, command.descriptors, words.get());
  if (network_) {
    network_->close_emulator_end();
  }
  control = std::move(control_end);
  log = std::move(log_end);
  output = std::move(output_end);
  store = std::move(store_port.first);
}

Measured Machine::measure() const {
  Measured measured;
  std::ifstream file(fmt::format("/proc/{}/stat", process.pid()));
  std::string text;
  std::getline(file, text);
  // The name in brackets may hold anything. Behind it: the third field and more.
  const auto fields = text.rfind(") ");
  if (fields == std::string::npos) {
    return measured;
  }
  std::istringstream words(text.substr(fields + 2));
  constexpr int skipped = 11; // from the state to the faults
  std::string field;
  for (int i = 0; i < skipped; ++i) {
    words >> field;
  }
  std::uint64_t user = 0;
  std::uint64_t system = 0;
  words >> user >> system;
  const auto tick = std::uint64_t{1'000'000} / static_cast<std::uint64_t>(::sysconf(_SC_CLK_TCK));
  measured.cpu_user_us = user * tick;
  measured.cpu_system_us = system * tick;
  return measured;
}

std::string Machine::fate() const {
  return cgroup_.ran_out_of_memory() ? "the emulator took more memory than its machine may" : "";
}

std::string Machine::last_words() {
  const UniqueFd file(::open(kEmulatorLog, O_RDONLY | O_CLOEXEC));
  const auto size = file ? ::lseek(file.get(), 0, SEEK_END) : 0;
  if (size <= 0) {
    return {};
  }
  std::string text(kLastWords, '\0');
  const auto from =
      size > static_cast<off_t>(kLastWords) ? size - static_cast<off_t>(kLastWords) : 0;
  const auto got = ::pread(file.get(), text.data(), text.size(), from);
  text.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
  return text;
}

} // namespace nixbuild::sandbox::runner
