#include "syscall_filter.hpp"

#include "files.hpp"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/stat.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace nixbuild::guest {

namespace {

constexpr std::uint32_t kNone = 0xffff'ffff;
constexpr std::uint32_t kX32Bit = 0x4000'0000;
constexpr std::uint32_t kFchmodat2 = 452;
/// setxattrat, getxattrat, listxattrat, removexattrat: the same numbers everywhere.
constexpr std::uint32_t kFirstXattrAt = 463;
constexpr std::uint32_t kLastXattrAt = 466;

/// Numbers of one ABI. The twelve xattr calls follow each other in each of them.
struct Abi {
  std::uint32_t architecture;
  std::uint32_t chmod;
  std::uint32_t fchmod;
  std::uint32_t fchmodat;
  std::uint32_t first_xattr;
  std::uint32_t last_xattr;
};

constexpr std::array<Abi, 3> kAbis{{
    {AUDIT_ARCH_X86_64, 90, 91, 268, 188, 199},
    {AUDIT_ARCH_I386, 15, 94, 306, 226, 237},
    {AUDIT_ARCH_AARCH64, kNone, 52, 53, 5, 16},
}};

using Program = std::vector<sock_filter>;

void add(Program& program, unsigned code, std::uint32_t value) {
  program.push_back({static_cast<std::uint16_t>(code), 0, 0, value});
}

/// Continues with the next instruction when the accumulator matches, else skips `skip` of them.
void unless_skip(Program& program, unsigned test, std::uint32_t value, std::uint8_t skip) {
  program.push_back({static_cast<std::uint16_t>(BPF_JMP | test | BPF_K), 0, skip, value});
}

void answer(Program& program, int error) {
  add(program, BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<std::uint32_t>(error));
}

void deny_set_id(Program& program, std::uint32_t number, std::size_t mode_argument) {
  if (number == kNone) {
    return;
  }
  const auto offset = offsetof(seccomp_data, args) + mode_argument * sizeof(std::uint64_t);
  unless_skip(program, BPF_JEQ, number, 4);
  add(program, BPF_LD | BPF_W | BPF_ABS, static_cast<std::uint32_t>(offset));
  unless_skip(program, BPF_JSET, S_ISUID | S_ISGID, 1);
  answer(program, EPERM);
  add(program, BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
}

void deny_range(Program& program, std::uint32_t first, std::uint32_t last) {
  unless_skip(program, BPF_JGE, first, 2);
  // Beyond the range: jump over the answer.
  program.push_back({BPF_JMP | BPF_JGT | BPF_K, 1, 0, last});
  answer(program, ENOTSUP);
}

Program abi_part(const Abi& abi) {
  Program program;
  add(program, BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr));
  if (abi.architecture == AUDIT_ARCH_X86_64) {
    add(program, BPF_ALU | BPF_AND | BPF_K, ~kX32Bit);
  }
  deny_range(program, abi.first_xattr, abi.last_xattr);
  deny_range(program, kFirstXattrAt, kLastXattrAt);
  deny_set_id(program, abi.chmod, 1);
  deny_set_id(program, abi.fchmod, 1);
  deny_set_id(program, abi.fchmodat, 2);
  deny_set_id(program, kFchmodat2, 2);
  add(program, BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
  return program;
}

} // namespace

void install_syscall_filter() {
  Program program;
  add(program, BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, arch));
  for (const auto& abi : kAbis) {
    const auto part = abi_part(abi);
    unless_skip(program, BPF_JEQ, abi.architecture, static_cast<std::uint8_t>(part.size()));
    program.insert(program.end(), part.begin(), part.end());
  }
  add(program, BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
  const sock_fprog filter{static_cast<unsigned short>(program.size()), program.data()};
  system_call(kCode, "installing the system call filter", [&] {
    return ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter, 0, 0);
  });
}

} // namespace nixbuild::guest
