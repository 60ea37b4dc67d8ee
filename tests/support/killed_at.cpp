// Runs a program and kills it with SIGKILL before or after its n-th durable write or message:
//
//     killed-at N PROGRAM [ARGUMENT…]
//
// Entries into such system calls and exits from them count, of all threads, from the program's
// first accept on. Prints how many there were. Exit status: 0 when it was killed or ended with 0,
// 77 where processes may not be traced, else 1.

#include "support/traced_process.hpp"

#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <set>
#include <string_view>

using namespace nixbuild::tests;

namespace {

/// Calls that change what outlives the process, or that tell somebody something.
const std::set<std::uint64_t> kEffects = {
    SYS_write,           SYS_writev,    SYS_pwrite64,
    SYS_pwritev,         SYS_fsync,     SYS_fdatasync,
    SYS_sendmsg,         SYS_sendto,    SYS_renameat,
    SYS_renameat2,       SYS_linkat,    SYS_unlinkat,
    SYS_mkdirat,         SYS_ftruncate, SYS_fallocate,
    SYS_copy_file_range, SYS_kill,      SYS_pidfd_send_signal,
#ifdef SYS_rename
    SYS_rename,          SYS_link,      SYS_unlink,
    SYS_mkdir,           SYS_rmdir,
#endif
};

/// What wakes a thread of the same process is no message: eight bytes to an event descriptor.
constexpr std::uint64_t kWakeUp = 8;

bool is_effect(const TracedCall& call) {
  const bool write = call.number == SYS_write;
  return kEffects.contains(call.number) && !(write && call.arguments[2] == kWakeUp);
}

} // namespace

int main(int argc, char** argv) {
  std::size_t limit = 0;
  if (argc < 3 ||
      std::from_chars(argv[1], argv[1] + std::strlen(argv[1]), limit).ec != std::errc{}) {
    std::fputs("usage: killed-at N PROGRAM [ARGUMENT...]\n", stderr);
    return 2;
  }
  // The program gets its own SIGTERM (the test knows its number); this one only waits.
  ::signal(SIGTERM, SIG_IGN);
  bool begun = false;
  const auto counts = [&](const TracedCall& call) {
    begun = begun || call.number == SYS_accept4 || call.number == SYS_accept;
    return begun && is_effect(call);
  };
  const auto traced = run_killed_at(
      limit,
      [&] {
        ::signal(SIGTERM, SIG_DFL);
        ::execv(argv[2], argv + 2);
        ::_exit(127);
      },
      counts);
  if (!traced) {
    std::fputs("killed-at: processes may not be traced here\n", stderr);
    return 77;
  }
  std::printf("%zu%s\n", traced->stops, traced->killed ? " killed" : "");
  return traced->failed() ? 1 : 0;
}
