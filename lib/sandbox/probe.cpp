#include <nixbuild/base/descriptor.hpp>
#include <nixbuild/base/error.hpp>
#include <nixbuild/sandbox/probe.hpp>

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/kvm.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <span>

namespace nixbuild::sandbox {

namespace {

constexpr std::size_t kGuestMemory = 64 * 1024;
constexpr std::uint8_t kAnswer = 0x4b;
constexpr std::uint16_t kPort = 0x10;

/// Guest physical layout, all within the first 64 KiB.
constexpr std::size_t kPml4 = 0x1000;
constexpr std::size_t kPdpt = 0x2000;
constexpr std::size_t kDirectory = 0x3000;
constexpr std::size_t kGdt = 0x4000;
constexpr std::size_t kIdt = 0x5000;
constexpr std::size_t kCodeAddress = 0x6000;
constexpr std::size_t kHandlerAddress = 0x7000;
constexpr std::size_t kStackTop = 0x9000;

/// 20 million rounds take a processor about 10 ms, an instruction emulator longer than any
/// deadline.
constexpr std::array<std::uint8_t, 15> kProgram{
    0xb9,
    0x00,
    0x2d,
    0x31,
    0x01, // mov ecx, 20000000
    0xff,
    0xc9, // dec ecx
    0x75,
    0xfc, // jnz -4
    0xcc, // int3
    0x88,
    0xd8, // mov al, bl
    0xe6,
    kPort, // out kPort, al
    0xf4,  // hlt
};
constexpr std::array<std::uint8_t, 4> kInt3Handler{
    0xb3,
    kAnswer, // mov bl, kAnswer
    0x48,
    0xcf, // iretq
};

enum class Step : int {
  User,
  Open,
  CreateVm,
  Memory,
  CreateCpu,
  MapCpu,
  Registers,
  Run,
  BadExit,
  BadAnswer,
  Done,
};

struct Outcome {
  Step step;
  int detail; ///< errno, exit reason or byte
};

void write_guest(std::uint8_t* memory) noexcept {
  const auto put64 = [memory](std::size_t at, std::uint64_t value) {
    std::memcpy(memory + at, &value, sizeof value);
  };
  put64(kPml4, kPdpt | 3);
  put64(kPdpt, kDirectory | 3);
  put64(kDirectory, 0x83); // one 2 MiB page at 0
  put64(kGdt + 8, 0x00af9b000000ffff);
  put64(kGdt + 16, 0x00cf93000000ffff);
  put64(kIdt + 3 * 16, std::uint64_t{0x8e} << 40 | std::uint64_t{8} << 16 | kHandlerAddress);
  std::memcpy(memory + kCodeAddress, kProgram.data(), kProgram.size());
  std::memcpy(memory + kHandlerAddress, kInt3Handler.data(), kInt3Handler.size());
}

void set_segment(kvm_segment& segment, std::uint16_t selector, std::uint8_t type) noexcept {
  segment = {};
  segment.limit = 0xffffffff;
  segment.selector = selector;
  segment.type = type;
  segment.present = 1;
  segment.s = 1;
  segment.g = 1;
  segment.l = type == 11 ? 1 : 0;
  segment.db = type == 11 ? 0 : 1;
}

bool set_registers(int cpu) noexcept {
  kvm_sregs special{};
  if (::ioctl(cpu, KVM_GET_SREGS, &special) != 0) {
    return false;
  }
  special.cr3 = kPml4;
  special.cr4 = 0x20;       // PAE
  special.cr0 = 0x80000011; // PG, ET, PE
  special.efer = 0x500;     // LMA, LME
  special.gdt.base = kGdt;
  special.gdt.limit = 23;
  special.idt.base = kIdt;
  special.idt.limit = 4095;
  set_segment(special.cs, 8, 11);
  for (auto* segment : {&special.ds, &special.es, &special.fs, &special.gs, &special.ss}) {
    set_segment(*segment, 16, 3);
  }
  kvm_regs general{};
  general.rip = kCodeAddress;
  general.rsp = kStackTop;
  general.rflags = 2;
  return ::ioctl(cpu, KVM_SET_SREGS, &special) == 0 && ::ioctl(cpu, KVM_SET_REGS, &general) == 0;
}

Outcome run_guest(int cpu, kvm_run* run) noexcept {
  bool answered = false;
  for (;;) {
    if (::ioctl(cpu, KVM_RUN, 0) != 0) {
      if (errno == EINTR) {
        continue;
      }
      return {Step::Run, errno};
    }
    if (run->exit_reason == KVM_EXIT_HLT && answered) {
      return {Step::Done, 0};
    }
    if (run->exit_reason != KVM_EXIT_IO || run->io.port != kPort) {
      return {Step::BadExit, static_cast<int>(run->exit_reason)};
    }
    const auto byte = *(reinterpret_cast<const std::uint8_t*>(run) + run->io.data_offset);
    if (byte != kAnswer) {
      return {Step::BadAnswer, byte};
    }
    answered = true;
  }
}

/// Becomes the user that an emulator is, as the jail makes it one.
bool become(uid_t uid, std::span<const gid_t> groups) noexcept {
  const auto gid = static_cast<gid_t>(uid);
  // Not by the C library, which would have all threads of the parent follow. Another uid forgets
  // whose death ends it.
  return ::syscall(SYS_setgroups, groups.size(), groups.data()) == 0 &&
         ::syscall(SYS_setresgid, gid, gid, gid) == 0 &&
         ::syscall(SYS_setresuid, uid, uid, uid) == 0 && ::prctl(PR_SET_PDEATHSIG, SIGKILL) == 0;
}

/// Only system calls: it runs in a child of a process that may have threads.
Outcome try_kvm(const KvmProbeSettings& settings, std::span<const gid_t> groups) noexcept {
  if (settings.uid && !become(*settings.uid, groups)) {
    return {Step::User, errno};
  }
  const int kvm = ::open(settings.device, O_RDWR | O_CLOEXEC);
  if (kvm < 0) {
    return {Step::Open, errno};
  }
  const int machine = ::ioctl(kvm, KVM_CREATE_VM, 0);
  if (machine < 0) {
    return {Step::CreateVm, errno};
  }
  ::ioctl(machine, KVM_SET_TSS_ADDR, 0xfffbd000);
  void* memory =
      ::mmap(nullptr, kGuestMemory, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) {
    return {Step::Memory, errno};
  }
  write_guest(static_cast<std::uint8_t*>(memory));
  kvm_userspace_memory_region region{};
  region.memory_size = kGuestMemory;
  region.userspace_addr = reinterpret_cast<std::uint64_t>(memory);
  if (::ioctl(machine, KVM_SET_USER_MEMORY_REGION, &region) != 0) {
    return {Step::Memory, errno};
  }
  const int cpu = ::ioctl(machine, KVM_CREATE_VCPU, 0);
  if (cpu < 0) {
    return {Step::CreateCpu, errno};
  }
  const int size = ::ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
  void* run = size < static_cast<int>(sizeof(kvm_run)) ? MAP_FAILED
                                                       : ::mmap(nullptr,
                                                                static_cast<std::size_t>(size),
                                                                PROT_READ | PROT_WRITE,
                                                                MAP_SHARED,
                                                                cpu,
                                                                0);
  if (run == MAP_FAILED) {
    return {Step::MapCpu, errno};
  }
  if (!set_registers(cpu)) {
    return {Step::Registers, errno};
  }
  return run_guest(cpu, static_cast<kvm_run*>(run));
}

std::string explain(const Outcome& outcome, const KvmProbeSettings& settings) {
  switch (outcome.step) {
  case Step::User:
    return fmt::format(
        "the probe cannot become uid {}: {}", *settings.uid, std::strerror(outcome.detail));
  case Step::Open:
    if (settings.uid && outcome.detail == EACCES) {
      return fmt::format("{} cannot be opened by the emulators' user (uid {}, with the device's "
                         "group unless that is root's): {}; chgrp kvm and chmod 660 let it",
                         settings.device,
                         *settings.uid,
                         std::strerror(outcome.detail));
    }
    return fmt::format("{} cannot be opened: {}", settings.device, std::strerror(outcome.detail));
  case Step::CreateVm:
  case Step::Memory:
  case Step::CreateCpu:
  case Step::MapCpu:
  case Step::Registers:
    return fmt::format("KVM makes no machine: {}", std::strerror(outcome.detail));
  case Step::Run:
    return fmt::format("KVM does not run a test guest: {}", std::strerror(outcome.detail));
  case Step::BadExit:
    return fmt::format("KVM fails on a test guest (exit reason {}{})",
                       outcome.detail,
                       outcome.detail == KVM_EXIT_INTERNAL_ERROR ? ", instruction emulation failed"
                                                                 : "");
  case Step::BadAnswer:
    return fmt::format("KVM runs a test guest wrongly (answer {:#x})", outcome.detail);
  case Step::Done:
    return "KVM runs a test guest";
  }
  return {};
}

} // namespace

AcceleratorChoice accelerator_choice_of(std::string_view text) {
  if (text == "auto") {
    return AcceleratorChoice::Auto;
  }
  if (text == "kvm") {
    return AcceleratorChoice::Kvm;
  }
  if (text == "tcg") {
    return AcceleratorChoice::Tcg;
  }
  throw Error(Reaction::Reject,
              "sandbox.accelerator",
              fmt::format("'{}' is no accelerator: auto, kvm or tcg", text));
}

std::vector<gid_t> kvm_groups() {
  struct stat status {};

  return ::stat("/dev/kvm", &status) == 0 && status.st_gid != 0 ? std::vector<gid_t>{status.st_gid}
                                                                : std::vector<gid_t>();
}

AcceleratorProbe probe_kvm(const KvmProbeSettings& settings) {
  const auto groups = kvm_groups();
  const auto start = std::chrono::steady_clock::now();
  AcceleratorProbe probe;
  int ends[2];
  system_call("sandbox.accelerator", "pipe", [&] { return ::pipe2(ends, O_CLOEXEC); });
  const UniqueFd reader(ends[0]);
  UniqueFd writer(ends[1]);
  const pid_t child = system_call("sandbox.accelerator", "fork", [] { return ::fork(); });
  if (child == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    const auto outcome = try_kvm(settings, groups);
    [[maybe_unused]] const auto told = ::write(writer.get(), &outcome, sizeof outcome);
    ::_exit(0);
  }
  writer.reset();
  pollfd wait{reader.get(), POLLIN, 0};
  const int ready = ::poll(&wait, 1, static_cast<int>(settings.deadline.count()));
  Outcome outcome{Step::Run, EIO};
  if (ready > 0 && ::read(reader.get(), &outcome, sizeof outcome) == sizeof outcome) {
    probe.reason = explain(outcome, settings);
    probe.accelerator = outcome.step == Step::Done ? Accelerator::Kvm : Accelerator::Tcg;
  } else {
    probe.reason =
        fmt::format("KVM does not get a test guest done within {} ms", settings.deadline.count());
  }
  ::kill(child, SIGKILL);
  while (::waitpid(child, nullptr, 0) < 0 && errno == EINTR) {
  }
  probe.took = std::chrono::duration_cast<std::chrono::microseconds>(
      std::chrono::steady_clock::now() - start);
  return probe;
}

AcceleratorProbe choose_accelerator(AcceleratorChoice choice, std::optional<uid_t> uid) {
  if (choice == AcceleratorChoice::Tcg) {
    return {Accelerator::Tcg, "emulation was asked for", {}};
  }
  KvmProbeSettings settings;
  settings.uid = uid;
  auto probe = probe_kvm(settings);
  if (choice == AcceleratorChoice::Kvm && probe.accelerator != Accelerator::Kvm) {
    throw Error(Reaction::Unsupported,
                "sandbox.accelerator",
                fmt::format("the configuration insists on KVM (sandbox.accelerator = \"kvm\"), and "
                            "there is none: {}",
                            probe.reason));
  }
  return probe;
}

} // namespace nixbuild::sandbox
