#include "sandbox/runner/machine.hpp"

#include "sandbox/runner/egress_filter.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/sandbox/qemu_command.hpp>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <sstream>
#include <vector>

namespace nixbuild::sandbox::runner {

namespace fs = std::filesystem;

namespace {

constexpr const char* kMachineCode = "sandbox.spawn";
constexpr const char* kEmulatorLog = "qemu.log";
constexpr std::size_t kLastWords = 2000;
/// What the emulator takes beside the guest's memory, in a memory limit.
constexpr std::uint64_t kOverhead = 128 * kMiB;
constexpr std::uint64_t kTranslationCache = 256 * kMiB;

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
  // Where the emulator comes from another prefix, its libraries and firmware do, too.
  const auto folder = fs::path(start.qemu).parent_path();
  const auto prefix = folder.filename() == "bin" ? folder.parent_path() : folder;
  if (prefix != "/" && prefix != "/usr" && !start.qemu.starts_with("/nix/store/")) {
    settings.extra_binds.push_back(prefix);
  }
  settings.cgroup_parent = start.cgroup_parent;
  settings.cgroup_name = "build-" + start.id;
  settings.file_bytes = std::max(settings.file_bytes, start.scratch_bytes);
  settings.memory_max = start.memory_bytes + kOverhead + (start.kvm ? 0 : kTranslationCache);
  return settings;
}

/// Programs that test threads expect a second cpu, and what they use together stays what the build
/// was given. Emulated cpus are another matter: starting a second one costs every build.
unsigned virtual_cpus(unsigned given, Accelerator accelerator) {
  const auto here = ::sysconf(_SC_NPROCESSORS_ONLN);
  return accelerator == Accelerator::Kvm && here > 1 ? std::max(given, 2U) : given;
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
  if (start.uid_base != 0) {
    slot_.emplace(start.slot_directory, start.uid_base, start.uid_count);
    settings.uid = slot_->uid();
  }
  if (wants.network && !start.network_helper.empty()) {
    // The helpers' uids lie behind those of the emulators.
    network_.emplace(
        start.network_helper, slot_ ? slot_->uid() + start.uid_count : 0, egress_rules(start));
    fds.network = network_->emulator_end();
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
