// nixbuildd: the daemon. Sessions, store, builds; see --help.

#include "server/daemon_log.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/base/private_files.hpp>
#include <nixbuild/sandbox/qemu_executor.hpp>
#include <nixbuild/server/daemon.hpp>
#include <nixbuild/server/handoff.hpp>
#include <nixbuild/server/machine_settings.hpp>

#include <boost/program_options.hpp>
#include <fcntl.h>
#include <malloc.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <string>

namespace {

namespace po = boost::program_options;

/// The first socket of a service manager (LISTEN_PID, LISTEN_FDS), or none.
nixbuild::UniqueFd socket_of_service_manager() {
  const char* pid = std::getenv("LISTEN_PID");
  const char* count = std::getenv("LISTEN_FDS");
  if (pid == nullptr || count == nullptr || std::atol(pid) != ::getpid() || std::atoi(count) < 1) {
    return {};
  }
  ::fcntl(3, F_SETFD, FD_CLOEXEC);
  return nixbuild::UniqueFd(3);
}

po::options_description describe_options() {
  po::options_description options("Options");
  auto add = options.add_options();
  add("help,h", "show this help");
  add("state-dir",
      po::value<std::string>()->default_value(""),
      "where everything is kept (default: $NIXBUILD_STATE_DIR, /var/lib/nixbuild for system users, "
      "else $XDG_STATE_HOME/nixbuild)");
  add("config",
      po::value<std::string>()->default_value(""),
      "configuration file (TOML); every key has a default");
  add("foreground", "stay in the foreground (the daemon never detaches by itself: always so)");
  add("verbose,v", "log more");
  add("autostarted", "end after an idle time (set by nixbuild-serve when it starts the daemon)");
  add("ready-fd", po::value<int>(), "write one byte here when sessions can come");
  return options;
}

/// Whoever insists on KVM learns at the start that there is none, not with the first build.
void check_accelerator(const nixbuild::sandbox::QemuExecutorSettings& settings,
                       nixbuild::Log& log) {
  if (settings.accelerator != nixbuild::sandbox::AcceleratorChoice::Kvm) {
    return;
  }
  try {
    (void)nixbuild::sandbox::accelerator_of(settings);
  } catch (const nixbuild::Error& error) {
    log.error("builds will fail: " + error.message());
  }
}

int run(const po::variables_map& given) {
  nixbuild::server::DaemonSettings settings;
  settings.state_dir = nixbuild::server::find_state_dir(given["state-dir"].as<std::string>());
  nixbuild::server::DaemonLog::Settings log_settings;
  log_settings.verbose = given.count("verbose") > 0;
  nixbuild::server::DaemonLog log(STDERR_FILENO, settings.state_dir + "/daemon.log", log_settings);
  settings.config = nixbuild::server::load_config(given["config"].as<std::string>());
  settings.autostarted = given.count("autostarted") > 0;
  settings.listener = socket_of_service_manager();
  if (given.count("ready-fd") > 0) {
    settings.ready.reset(given["ready-fd"].as<int>());
  }
  const auto config = settings.config;
  const std::filesystem::path state_dir = settings.state_dir;
  // Before there are threads: this process may have to move.
  auto cgroups = nixbuild::sandbox::prepare_cgroups(config.cgroup);
  nixbuild::server::ExecutorFactory factory =
      [config, state_dir, cgroups, &log](boost::asio::any_io_executor executor) {
        auto sandbox = nixbuild::server::machine_settings(config, state_dir);
        sandbox.cgroups = cgroups;
        sandbox.log = &log;
        return nixbuild::sandbox::make_qemu_executor(executor, std::move(sandbox));
      };
  check_accelerator(nixbuild::server::machine_settings(config, state_dir), log);
  nixbuild::server::Daemon daemon(std::move(settings), std::move(factory), log);
  const int status = daemon.run();
  if (daemon.stuck()) {
    log.error("threads are still blocked; what they do is left undone");
    ::_exit(status);
  }
  return status;
}

} // namespace

int main(int argc, char** argv) {
  nixbuild::make_files_private();
  // An allocation arena a thread would multiply what a large transfer leaves behind.
  constexpr int arenas = 2;
  ::mallopt(M_ARENA_MAX, arenas);
  const auto options = describe_options();
  po::variables_map given;
  try {
    po::store(po::parse_command_line(argc, argv, options), given);
    po::notify(given);
  } catch (const po::error& error) {
    std::cerr << "error: " << error.what() << "\nTry nixbuildd --help.\n";
    return 2;
  }
  if (given.count("help") > 0) {
    std::cout
        << "Usage: nixbuildd [--state-dir DIR] [--config FILE] [--foreground]\n\n"
           "Serves Nix clients that nixbuild-serve hands over, builds in virtual machines, and\n"
           "keeps the store. nixbuild-serve starts it by itself where none runs.\n\n"
        << options;
    return 0;
  }
  try {
    return run(given);
  } catch (const nixbuild::Error& error) {
    std::cerr << "error: " << error.what() << "\n";
    return nixbuild::exit_code_of(error.reaction());
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << "\n";
    return 70;
  }
}
