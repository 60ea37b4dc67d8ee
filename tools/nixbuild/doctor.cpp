#include "here.hpp"
#include "server/admin_text.hpp"
#include "server/host_faults.hpp"

#include <nixbuild/base/descriptor.hpp>
#include <nixbuild/sandbox/cgroup.hpp>
#include <nixbuild/sandbox/kernel.hpp>
#include <nixbuild/sandbox/machine_trial.hpp>
#include <nixbuild/sandbox/probe.hpp>
#include <nixbuild/sandbox/qemu_executor.hpp>
#include <nixbuild/server/config.hpp>
#include <nixbuild/server/handoff.hpp>
#include <nixbuild/server/machine_settings.hpp>

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <elf.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

namespace nixbuild::tool {

namespace fs = std::filesystem;
namespace json = boost::json;

namespace {

/// A daemon whose threads all wait for something answers later than this.
constexpr std::chrono::seconds kDaemonPatience{10};

enum class Level : std::uint8_t { Ok, Warning, Problem };

struct Finding {
  std::string check;
  Level level = Level::Ok;
  std::string says;
  std::string advice; ///< what to do; empty when all is well
};

std::string_view name_of(Level level) {
  return level == Level::Ok ? "ok" : level == Level::Warning ? "warning" : "problem";
}

struct Patient {
  Globals globals;
  server::Config config;
  sandbox::QemuExecutorSettings defaults;
};

/// The folder itself, or the nearest one above that exists.
fs::path existing_folder(fs::path folder) {
  std::error_code ignored;
  while (!fs::exists(folder, ignored) && folder.has_relative_path()) {
    folder = folder.parent_path();
  }
  return folder;
}

Finding check_state_dir(const Patient& patient) {
  Finding finding{"state directory", Level::Ok, patient.globals.state_dir, ""};

  struct stat info {};

  if (::stat(patient.globals.state_dir.c_str(), &info) != 0) {
    const auto above = existing_folder(fs::absolute(patient.globals.state_dir));
    finding.says += " does not exist yet; it is made when it is needed";
    if (::access(above.c_str(), W_OK | X_OK) != 0) {
      finding.level = Level::Problem;
      finding.says = fmt::format("{} does not exist", patient.globals.state_dir);
      finding.advice =
          fmt::format("{} is not writable for you: give --state-dir or run this as the user that "
                      "the daemon runs as",
                      above.string());
    }
    return finding;
  }
  if (!S_ISDIR(info.st_mode)) {
    finding.level = Level::Problem;
    finding.says += " is not a directory";
    finding.advice = "give another --state-dir";
  } else if (::access(patient.globals.state_dir.c_str(), R_OK | W_OK | X_OK) != 0) {
    finding.level = Level::Problem;
    finding.says += " is not yours to use";
    finding.advice = fmt::format("run this as uid {}, or give another --state-dir", info.st_uid);
  } else if ((info.st_mode & 0077) != 0) {
    finding.level = Level::Warning;
    finding.says += fmt::format(" has mode {:o}: other users can look into it",
                                static_cast<unsigned>(info.st_mode & 07777));
    finding.advice = "chmod 700 " + patient.globals.state_dir;
  }
  return finding;
}

/// What the daemon says about its own loops, or nothing when it does not answer in time.
std::optional<std::string> ask_for_health(const UniqueFd& daemon) {
  int ends[2] = {-1, -1};
  system_call("doctor.daemon", "making a pipe", [&] { return ::pipe2(ends, O_CLOEXEC); });
  const UniqueFd answer(ends[0]);
  UniqueFd written(ends[1]);
  const UniqueFd nothing(::open("/dev/null", O_RDWR | O_CLOEXEC));
  server::Handoff handoff;
  handoff.kind = server::HandoffKind::Admin;
  handoff.arguments = {"health", "--json"};
  server::send_handoff(daemon, handoff, {nothing.get(), written.get(), nothing.get()});
  written.reset();
  const auto until = std::chrono::steady_clock::now() + kDaemonPatience;
  std::string text;
  std::array<char, 4096> buffer{};
  for (;;) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
        until - std::chrono::steady_clock::now());
    pollfd entry{answer.get(), POLLIN, 0};
    if (left.count() <= 0 || ::poll(&entry, 1, static_cast<int>(left.count())) == 0) {
      return std::nullopt;
    }
    const auto count = ::read(answer.get(), buffer.data(), buffer.size());
    if (count == 0) {
      return text;
    }
    if (count > 0) {
      text.append(buffer.data(), static_cast<std::size_t>(count));
    }
  }
}

Finding check_daemon(const Patient& patient) {
  Finding finding{"daemon", Level::Ok, "runs", ""};
  const auto daemon = server::connect_to_daemon(patient.globals.state_dir);
  if (!daemon) {
    finding.says = "does not run; the first client or command starts it";
    return finding;
  }
  const auto log = patient.globals.state_dir + "/daemon.log, or the journal,";
  std::optional<std::string> text;
  try {
    text = ask_for_health(*daemon);
  } catch (const Error& error) {
    return {"daemon", Level::Problem, error.message(), log + " says more"};
  }
  if (!text) {
    return {"daemon", Level::Problem, "does not answer", log + " says more"};
  }
  boost::system::error_code error;
  const auto loops = json::parse(*text, error);
  if (error || !loops.is_array()) {
    return {"daemon", Level::Warning, "runs, and does not say how: is it an older one?", ""};
  }
  for (const auto& loop : loops.as_array()) {
    const auto& fields = loop.as_object();
    const std::string name(fields.at("loop").as_string());
    const std::string state(fields.at("state").as_string());
    const auto age = fields.at("ageSeconds").to_number<double>();
    if (state != "ok") {
      finding.level = Level::Problem;
      finding.advice = log + " says more";
      finding.says += fmt::format("; its loop '{}' is {} for {:.0f} s {}",
                                  name,
                                  state,
                                  age,
                                  std::string(fields.at("error").as_string()));
    } else if (name == "tick" || name == "sync") {
      finding.says += fmt::format(", {} {:.0f} s ago", name, age);
    }
  }
  return finding;
}

Finding check_program(const std::string& name) {
  try {
    return {name, Level::Ok, server::find_program(name), ""};
  } catch (const Error& error) {
    return {name, Level::Problem, error.message(), "install the whole project, or build all of it"};
  }
}

Finding check_accelerator(const Patient& patient) {
  Finding finding{"accelerator", Level::Ok, "", ""};
  if (patient.config.accelerator == "tcg") {
    finding.level = Level::Warning;
    finding.says = "software emulation, as configured: slow, and no security boundary";
    finding.advice = "sandbox.accelerator = \"auto\" uses KVM where it works";
    return finding;
  }
  // As the emulators' user, where they have one of their own.
  sandbox::KvmProbeSettings settings;
  if (::geteuid() == 0) {
    settings.uid = patient.defaults.uid_base;
  }
  const auto probe = sandbox::probe_kvm(settings);
  const auto took = std::chrono::duration_cast<std::chrono::milliseconds>(probe.took).count();
  if (probe.accelerator == sandbox::Accelerator::Kvm) {
    finding.says = fmt::format("KVM works ({} ms): {}", took, probe.reason);
    return finding;
  }
  const bool required = patient.config.accelerator == "kvm";
  finding.level = required ? Level::Problem : Level::Warning;
  finding.says = fmt::format("KVM does not work: {}", probe.reason);
  finding.advice =
      required ? "the configuration insists on KVM: mend it or set sandbox.accelerator = \"auto\""
               : "builds run in software emulation, 10 to 25 times slower and no security "
                 "boundary: fine "
                 "for your own builds; else enable (nested) virtualisation or join the group kvm";
  return finding;
}

Finding check_kernel(const Patient& patient) {
  Finding finding{"kernel", Level::Ok, "", ""};
  const std::string import = "nixbuild kernel import VMLINUZ MODULES";
  const auto& configured = patient.config.kernel_image;
  if (!configured.empty()) {
    finding.says = configured + ", as configured";
    if (::access(configured.c_str(), R_OK) != 0) {
      finding.level = Level::Problem;
      finding.says += ", cannot be read";
      finding.advice = "correct sandbox.kernel-image, or make the file readable";
    }
    return finding;
  }
  try {
    const auto choice = sandbox::choose_kernel(kernel_cache(patient.globals), std::nullopt);
    finding.says =
        fmt::format("{} ({}), {}",
                    choice.cached ? choice.cached->source.string() : choice.source->image.string(),
                    choice.cached ? choice.cached->version : choice.source->version,
                    sandbox::words_of(choice.why));
  } catch (const Error& error) {
    finding.level = Level::Problem;
    finding.says = error.message();
    finding.advice =
        "as root: " + import + ", or install a kernel package (linux-image-cloud-amd64)";
  }
  return finding;
}

/// A folder for what is tried while there is no state directory.
class PassingFolder {
public:
  PassingFolder() : path_((fs::temp_directory_path() / "nixbuild-doctor-XXXXXX").string()) {
    system_call(
        "doctor.folder", path_, [this] { return ::mkdtemp(path_.data()) == nullptr ? -1 : 0; });
  }

  ~PassingFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }

  PassingFolder(const PassingFolder&) = delete;
  PassingFolder& operator=(const PassingFolder&) = delete;

  [[nodiscard]] const std::string& path() const noexcept { return path_; }

private:
  std::string path_;
};

/// One machine, as a build's, to where a builder has run in it.
Finding try_a_machine(const Patient& patient, bool trust_memory) {
  Finding finding{"machine", Level::Ok, "", ""};
  std::optional<PassingFolder> passing;
  std::string folder = patient.globals.state_dir;
  if (!fs::exists(folder)) {
    folder = passing.emplace().path();
  }
  const auto settings = server::machine_settings(patient.config, folder);
  if (trust_memory && sandbox::machine_is_known_to_work(settings)) {
    finding.says = "one with this kernel has booted, mounted its inputs and run a builder";
    return finding;
  }
  const auto trial = sandbox::try_machine(settings);
  if (!trial.works) {
    finding.level = Level::Problem;
    finding.says = "does not come as far as a builder: " + trial.reason;
    finding.advice = "import another kernel (nixbuild kernel import VMLINUZ MODULES), or mend what "
                     "is said to be missing; no build can run here";
    return finding;
  }
  finding.says = fmt::format("boots, mounts its inputs and runs a builder ({}, {} ms)",
                             sandbox::name_of(trial.accelerator),
                             trial.took.count());
  if (!trial.kvm_trouble.empty()) {
    finding.level = Level::Warning;
    finding.says += ", but under KVM it does not: " + trial.kvm_trouble;
    finding.advice = "mend KVM, or set sandbox.accelerator = \"tcg\" so that nobody tries it";
  }
  return finding;
}

/// `before`: what was found so far; where a part of a machine is missing there is nothing to try.
Finding check_machine(const Patient& patient, const std::vector<Finding>& before) {
  const auto fault = server::host_fault_in(patient.globals.state_dir);
  for (const auto& found : before) {
    if (found.level == Level::Problem) {
      return {"machine",
              Level::Warning,
              fmt::format("not tried, because of the {}", found.check),
              "mend that first"};
    }
  }
  Finding finding;
  try {
    finding = try_a_machine(patient, !fault);
  } catch (const Error& error) {
    finding = {"machine",
               Level::Warning,
               fmt::format("could not be tried: {}", error.message()),
               "run this as the user that the daemon runs as"};
  }
  if (fault) {
    finding.level = std::max(finding.level, Level::Warning);
    finding.says += "; the daemon says: " + *fault;
    finding.advice +=
        finding.advice.empty() ? "it tries again by itself; KVM only after a restart" : "";
  }
  return finding;
}

/// A text as one word of a shell's command.
std::string shell_word(const std::string& text) {
  std::string word = "'";
  for (const char c : text) {
    word += c == '\'' ? std::string("'\\''") : std::string(1, c);
  }
  return word + "'";
}

Finding check_qemu(const Patient& patient) {
  const auto& set = patient.config.qemu;
  const auto program = set.empty() ? patient.defaults.qemu.string() : set;
  Finding finding{"qemu", Level::Ok, "", ""};
  const auto close = [](std::FILE* pipe) {
    ::pclose(pipe);
  };
  std::array<char, 256> line{};
  if (::access(program.c_str(), X_OK) == 0) {
    const std::unique_ptr<std::FILE, decltype(close)> pipe(
        ::popen((shell_word(program) + " --version 2>/dev/null").c_str(), "re"), close);
    if (pipe != nullptr && std::fgets(line.data(), line.size(), pipe.get()) != nullptr) {
      finding.says = line.data();
    }
  }
  while (!finding.says.empty() && finding.says.back() == '\n') {
    finding.says.pop_back();
  }
  if (finding.says.empty()) {
    finding.level = Level::Problem;
    finding.says = program + " is missing or does not start";
    finding.advice = "install the package qemu-system-x86, or set sandbox.qemu";
  }
  return finding;
}

/// Nothing when it is no 64-bit ELF program.
std::optional<bool> is_static_program(const std::string& name) {
  std::ifstream file(name, std::ios::binary);
  Elf64_Ehdr header{};
  if (!file.read(reinterpret_cast<char*>(&header), sizeof header) ||
      !std::equal(ELFMAG, ELFMAG + SELFMAG, header.e_ident)) {
    return std::nullopt;
  }
  file.seekg(static_cast<std::streamoff>(header.e_phoff));
  for (unsigned i = 0; i < header.e_phnum; ++i) {
    Elf64_Phdr program{};
    if (!file.read(reinterpret_cast<char*>(&program), sizeof program)) {
      return std::nullopt;
    }
    if (program.p_type == PT_INTERP) {
      return false;
    }
  }
  return true;
}

Finding check_shell(const Patient& patient) {
  const auto& set = patient.config.shell;
  const auto name = set.empty() ? patient.defaults.busybox.string() : set;
  Finding finding{"busybox", Level::Ok, name, ""};
  const auto is_static = is_static_program(name);
  if (!is_static) {
    finding.level = Level::Problem;
    finding.says += " is missing or no program";
    finding.advice = "install the package busybox-static, or set sandbox.shell";
  } else if (!*is_static) {
    finding.level = Level::Problem;
    finding.says += " is not statically linked: a build machine has no libraries for it";
    finding.advice = "install the package busybox-static, or set sandbox.shell";
  }
  return finding;
}

Finding check_network(const Patient& patient) {
  const auto& set = patient.config.network_helper;
  const auto program = set.empty() ? patient.defaults.network_helper.string() : set;
  Finding finding{"network helper", Level::Ok, program, ""};
  if (::access(program.c_str(), X_OK) != 0) {
    finding.level = Level::Warning;
    finding.says += " is missing: fixed-output builds (downloads) have no network";
    finding.advice = "install the package passt, or let the client download by itself";
  }
  return finding;
}

Finding check_scratch(const Patient& patient) {
  const auto& set = patient.config.disk_maker;
  const auto program = set.empty() ? sandbox::find_disk_maker().string() : set;
  Finding finding{"scratch disk", Level::Ok, "made by " + program, ""};
  if (program.empty() || ::access(program.c_str(), X_OK) != 0) {
    finding.level = Level::Warning;
    finding.says = (program.empty() ? "mke2fs" : program) +
                   " is missing: builders' files lie in half of their machine's memory";
    finding.advice = "install the package e2fsprogs, or set sandbox.mke2fs";
  }
  return finding;
}

/// Where machines get control groups. A daemon that runs knows; else this process stands for it.
Finding check_cgroup(const Patient& patient) {
  const auto home = sandbox::examine_cgroups(patient.config.cgroup);
  Finding finding{"cgroup", Level::Ok, "", ""};
  if (home.shortfall.empty()) {
    finding.says = "a daemon started from here limits machines below " + home.parent.string();
    return finding;
  }
  finding.level = Level::Warning;
  finding.says = "a daemon started from here has " + home.shortfall;
  finding.advice =
      "run the daemon as the systemd service (Delegate=yes), with systemd-run --user -p "
      "Delegate=yes, or set sandbox.cgroup; needs cgroup v2";
  return finding;
}

/// What the last machine had: what its runner tried, not what ought to work.
Finding check_walls(const Patient& patient) {
  Finding finding{"walls", Level::Ok, "", ""};
  const auto walls = sandbox::walls_of_last_machine(fs::path(patient.globals.state_dir) / "run");
  if (!walls) {
    finding.says = "no machine was started yet";
    return finding;
  }
  const auto count = 1 + std::count(walls->walls.begin(), walls->walls.end(), ',');
  finding.says = fmt::format("{} around the last machine's emulator: {}",
                             walls->walls.empty() ? 0 : count,
                             walls->walls.empty() ? "none" : walls->walls);
  if (!walls->shortfall.empty()) {
    finding.level = Level::Warning;
    finding.says += "; missing: " + walls->shortfall;
    finding.advice = "fine for one's own builds; else see docs/threat-model.md";
  }
  return finding;
}

Finding check_disk(const Patient& patient) {
  Finding finding{"disk space", Level::Ok, "", ""};
  const auto folder = existing_folder(fs::absolute(patient.globals.state_dir));

  struct statvfs info {};

  if (::statvfs(folder.c_str(), &info) != 0) {
    return {"disk space", Level::Warning, "cannot be asked for", "look at " + folder.string()};
  }
  const auto free = static_cast<std::uint64_t>(info.f_bavail) * info.f_frsize;
  finding.says = fmt::format("{} free for {}", server::human_size(free), patient.globals.state_dir);
  if (free < 10 * kGiB) {
    finding.level = free < kGiB ? Level::Problem : Level::Warning;
    finding.advice = "make room, or collect garbage: nixbuild gc";
  }
  return finding;
}

Finding check_descriptors() {
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  constexpr rlim_t enough = 65'536;
  Finding finding{"open files", Level::Ok, fmt::format("up to {}", limit.rlim_max), ""};
  if (limit.rlim_max < enough) {
    finding.level = limit.rlim_max < 4096 ? Level::Problem : Level::Warning;
    finding.advice = fmt::format("every session and build holds descriptors: raise the limit "
                                 "(ulimit -Hn, LimitNOFILE=) to {}",
                                 enough);
  }
  return finding;
}

std::vector<Finding> examine(const Patient& patient) {
  std::vector<Finding> findings{check_state_dir(patient),
                                check_daemon(patient),
                                check_program("nixbuildd"),
                                check_program("nixbuild-runner"),
                                check_program("nixbuild-guest"),
                                check_program("nixbuild-builtin"),
                                check_accelerator(patient),
                                check_kernel(patient),
                                check_qemu(patient),
                                check_shell(patient),
                                check_network(patient),
                                check_scratch(patient),
                                check_cgroup(patient),
                                check_walls(patient),
                                check_disk(patient),
                                check_descriptors()};
  findings.push_back(check_machine(patient, findings));
  return findings;
}

} // namespace

int doctor(const Globals& globals, const server::Command& command) {
  Patient patient;
  patient.globals = globals;
  std::vector<Finding> findings;
  try {
    patient.config = server::load_config(globals.config);
    findings.push_back({"configuration",
                        Level::Ok,
                        globals.config.empty() ? "built-in values" : globals.config,
                        ""});
  } catch (const Error& error) {
    findings.push_back({"configuration", Level::Problem, error.what(), "correct the file"});
  }
  for (auto& finding : examine(patient)) {
    findings.push_back(std::move(finding));
  }
  bool problem = false;
  json::array list;
  std::string text;
  for (const auto& finding : findings) {
    problem = problem || finding.level == Level::Problem;
    list.push_back(json::object{{"check", finding.check},
                                {"level", name_of(finding.level)},
                                {"says", finding.says},
                                {"advice", finding.advice}});
    text += fmt::format("{:<8} {:<16} {}\n",
                        name_of(finding.level),
                        finding.check,
                        server::printable(finding.says));
    if (!finding.advice.empty()) {
      text += fmt::format("{:<25} → {}\n", "", server::printable(finding.advice));
    }
  }
  print(command.has("--json") ? json::serialize(list) + "\n" : text);
  return problem ? 1 : 0;
}

} // namespace nixbuild::tool
