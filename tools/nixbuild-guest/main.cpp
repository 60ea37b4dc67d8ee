// Process 1 of a build's machine: takes one job from the host, runs its builder as Nix would, and
// hands its outputs out as archives. See sandbox/guest_protocol.hpp.

#include "build_root.hpp"
#include "builder.hpp"
#include "files.hpp"
#include "host_link.hpp"
#include "machine.hpp"
#include "module_loader.hpp"
#include "network.hpp"
#include "outputs.hpp"
#include "store_socket.hpp"
#include "supervise.hpp"
#include "terminal.hpp"

#include <nixbuild/base/error.hpp>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <iterator>
#include <optional>

using namespace nixbuild;
using namespace nixbuild::guest;

namespace {

constexpr std::chrono::seconds kLastWords{10};

/// A kernel without a console starts process 1 without standard streams; whatever is opened next
/// must not become one.
void reserve_standard_streams() {
  int fd = 0;
  do {
    fd = ::open("/", O_PATH);
  } while (fd >= 0 && fd <= STDERR_FILENO);
  ::close(fd);
}

sandbox::GuestJob receive_job(HostLink& host) {
  auto message = host.receive();
  if (std::holds_alternative<sandbox::guest::PowerOff>(message)) {
    power_off();
  }
  auto* job = std::get_if<sandbox::guest::Job>(&message);
  if (job == nullptr) {
    throw Error(Reaction::Reject, "guest.host", "the host sent no job");
  }
  return std::move(job->job);
}

sandbox::GuestExit run_builder(
    const sandbox::GuestJob& job, const std::string& root, int initramfs, int log, HostLink& host) {
  auto builder = start_builder(job, root, initramfs);
  if (!builder.failure.empty()) {
    sandbox::GuestExit exit;
    exit.end = sandbox::GuestEnd::SetupFailed;
    exit.code = 1;
    exit.message = builder.failure.substr(0, sandbox::guest::kMaxText);
    return exit;
  }
  host.send(sandbox::guest::Started{});
  return supervise(std::move(builder), root, log, host);
}

void serve_outputs(const sandbox::GuestJob& job,
                   const std::string& root,
                   int initramfs,
                   int port,
                   HostLink& host) {
  const auto store = store_in(root, job);
  for (;;) {
    const auto message = host.receive();
    if (std::holds_alternative<sandbox::guest::Input>(message)) {
      continue; // for a shell that has just ended
    }
    const auto* request = std::get_if<sandbox::guest::SendOutput>(&message);
    if (request == nullptr || request->index > job.outputs.size()) {
      return;
    }
    if (request->index < job.outputs.size()) {
      send_output(job, store, request->index, port, host);
    } else {
      serve_terminal(job, root, initramfs, request->index, port, host);
    }
  }
}

void work(int initramfs, HostLink& host) {
  const auto log = open_port("nixbuild.log", O_WRONLY);
  const auto output = open_port("nixbuild.out", O_WRONLY);
  const auto boot = time_since_boot();
  sandbox::guest::Hello hello;
  hello.boot_time = boot;
  host.send(hello);
  const auto job = receive_job(host);

  sandbox::guest::Exited exited;
  std::string root;
  if (job.probe_only) {
    exited.exit.outputs.resize(job.outputs.size());
  } else {
    const auto start = time_since_boot();
    if (job.network) {
      raise_loopback();
      raise_network();
    }
    root = make_build_root(job, initramfs);
    const auto mounted = time_since_boot() - start;
    std::optional<StoreSocket> store;
    if (job.store_socket) {
      store.emplace(job, root);
    }
    exited.exit = run_builder(job, root, initramfs, log.get(), host);
    store.reset();
    exited.exit.mount_time = mounted;
    exited.exit.outputs = output_states(job, store_in(root, job));
  }
  exited.exit.boot_time = boot;
  host.send(exited);
  serve_outputs(job, root, initramfs, output.get(), host);
}

} // namespace

int main(int count, char** words) {
  if (::getpid() != 1) {
    // The kernel's modprobe: `-q -- NAME`.
    return count == 4 ? load_on_demand(words[3]) : 1;
  }
  reserve_standard_streams();
  ::umask(0);
  ::signal(SIGPIPE, SIG_IGN);
  std::optional<HostLink> host;
  std::string untaken; // modules that this kernel did not take; what is missing now may be theirs
  try {
    const auto initramfs = enter_memory_root();
    tune_kernel();
    untaken = load_modules(initramfs.get());
    offer_modules(initramfs.get());
    host.emplace(open_port("nixbuild.ctl", O_RDWR));
    work(initramfs.get(), *host);
  } catch (const std::exception& error) {
    say_to_kernel(std::string("nixbuild-guest: ") + error.what());
    try {
      if (host) {
        std::string said = error.what();
        said += untaken.empty() ? "" : " (modules that the kernel did not take: " + untaken + ")";
        host->send(sandbox::guest::Failure{said.substr(0, sandbox::guest::kMaxText)});
        // The machine ends with the host's answer; a host that gives none is not waited for.
        ::alarm(static_cast<unsigned>(kLastWords.count()));
        ::signal(SIGALRM, [](int) { power_off(); });
        (void)host->receive();
      }
    } catch (const std::exception&) {
      // There is nobody left to tell.
    }
  }
  power_off();
}
