// nixbuildd: the daemon. Sessions, store, builds; see --help.

#include <nixbuild/base/error.hpp>
#include <nixbuild/sandbox/qemu_executor.hpp>
#include <nixbuild/server/daemon.hpp>
#include <nixbuild/server/handoff.hpp>

#include <boost/program_options.hpp>
#include <fcntl.h>
#include <malloc.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <iostream>
#include <mutex>
#include <string>

namespace {

namespace po = boost::program_options;
using nixbuild::LogLevel;

/// Lines on standard error: time, level, message.
class StderrLog final : public nixbuild::Log {
public:
  explicit StderrLog(bool verbose) : verbose_(verbose) {}

  void write(LogLevel level, std::string_view message) noexcept override {
    if (level == LogLevel::Debug && !verbose_) {
      return;
    }
    const char* names[] = {"debug", "info", "warning", "error"};
    const auto now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
    std::tm parts{};
    ::gmtime_r(&now, &parts);
    char time[32];
    std::strftime(time, sizeof time, "%Y-%m-%dT%H:%M:%SZ", &parts);
    const std::lock_guard lock(mutex_);
    std::fprintf(stderr,
                 "%s %s %.*s\n",
                 time,
                 names[static_cast<int>(level)],
                 static_cast<int>(message.size()),
                 message.data());
  }

private:
  bool verbose_;
  std::mutex mutex_;
};

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

nixbuild::sandbox::QemuExecutorSettings sandbox_settings(const nixbuild::server::Config& config,
                                                         const std::filesystem::path& state_dir,
                                                         nixbuild::sandbox::CgroupHome cgroups) {
  nixbuild::sandbox::QemuExecutorSettings settings;
  settings.runner = nixbuild::server::find_program("nixbuild-runner");
  settings.guest = nixbuild::server::find_program("nixbuild-guest");
  settings.builtin = nixbuild::server::find_program("nixbuild-builtin");
  settings.run_directory = state_dir / "run";
  settings.kernel_cache = state_dir / "kernels";
  settings.accelerator = nixbuild::sandbox::accelerator_choice_of(config.accelerator);
  settings.cgroups = std::move(cgroups);
  settings.log_limit_bytes = config.max_log_bytes;
  settings.network_allow.assign(config.network_allow.begin(), config.network_allow.end());
  if (!config.shell.empty()) {
    settings.busybox = config.shell;
  }
  if (!config.qemu.empty()) {
    settings.qemu = config.qemu;
  }
  if (!config.network_helper.empty()) {
    settings.network_helper = config.network_helper;
  }
  if (!config.kernel_image.empty()) {
    nixbuild::sandbox::KernelSource kernel;
    kernel.image = config.kernel_image;
    kernel.modules = config.kernel_modules;
    settings.kernel = kernel;
  }
  return settings;
}

int run(const po::variables_map& given) {
  StderrLog log(given.count("verbose") > 0);
  nixbuild::server::DaemonSettings settings;
  settings.state_dir = nixbuild::server::find_state_dir(given["state-dir"].as<std::string>());
  settings.config = nixbuild::server::load_config(given["config"].as<std::string>());
  settings.autostarted = given.count("autostarted") > 0;
  settings.listener = socket_of_service_manager();
  if (given.count("ready-fd") > 0) {
    settings.ready.reset(given["ready-fd"].as<int>());
  }
  const auto config = settings.config;
  const std::filesystem::path state_dir = settings.state_dir;
  // Before there are threads: this process may have to move.
  const auto cgroups = nixbuild::sandbox::prepare_cgroups(config.cgroup);
  nixbuild::server::ExecutorFactory factory =
      [config, state_dir, cgroups, &log](boost::asio::any_io_executor executor) {
        auto sandbox = sandbox_settings(config, state_dir, cgroups);
        sandbox.log = &log;
        return nixbuild::sandbox::make_qemu_executor(executor, std::move(sandbox));
      };
  nixbuild::server::Daemon daemon(std::move(settings), std::move(factory), log);
  return daemon.run();
}

} // namespace

int main(int argc, char** argv) {
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
