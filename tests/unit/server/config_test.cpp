#include <nixbuild/base/error.hpp>
#include <nixbuild/scheduler/history.hpp>
#include <nixbuild/server/config.hpp>
#include <nixbuild/server/daemon.hpp>

#include <catch2/catch.hpp>

#include <string>

namespace config_test {

using namespace nixbuild;

namespace {

Error error_of(const std::string& text) {
  try {
    (void)server::parse_config(text, "nixbuild.toml");
  } catch (const Error& error) {
    return error;
  }
  FAIL("accepted: " << text);
  throw std::logic_error("unreachable");
}

} // namespace

TEST_CASE("config: every key is optional", "[server]") {
  const auto config = server::parse_config("", "nixbuild.toml");
  CHECK(config.accelerator == "auto");
  CHECK(config.idle_exit == std::chrono::seconds(600));
}

TEST_CASE("config: every key is read", "[server]") {
  const auto config = server::parse_config(R"(
[builds]
cpus = 8
memory-mib = 4096
build-cpus = 2
build-memory-mib = 512
max-log-mib = 3
max-output-mib = 5
keep-builds-days = 400
keep-logs-days = 7
kept-machines = 3
kept-minutes = 5
max-build-memory-mib = 2048
platforms = ["x86_64-linux"]
features = ["kvm"]
[sandbox]
accelerator = "tcg"
allow-emulation = true
kernel-image = "/boot/vmlinuz-x"
kernel-modules = "/lib/modules/x"
kernel-options = "nokaslr loglevel=7"
guest-patience-seconds = 900
shell = "/bin/busybox"
qemu = "/opt/qemu/bin/qemu-system-x86_64"
network-helper = "/opt/passt/bin/passt"
mke2fs = "/opt/e2fs/sbin/mke2fs"
network = false
network-allow = ["10.1.0.0/16", "192.168.3.4"]
certificates = "/etc/ca.pem"
netrc = "/etc/netrc"
cgroup = "/sys/fs/cgroup/builds"
impure-env = {http_proxy = "http://proxy:3128"}
[daemon]
idle-exit-seconds = 7
stop-wait-seconds = 9
keys-file = "/run/nixbuild/keys"
[sessions]
idle-seconds = 3600
stalled-seconds = 30
greeting-seconds = 7
most-of-account = 9
most-of-key = 0
deaf-seconds = 5
[settings]
max-cpu = 8
max-log-size = "64MiB"
keep-builds-running = true
default-permissions = ["store:read", "build:read"]
[store]
dir = "/gnu/store"
)",
                                           "nixbuild.toml");
  CHECK(config.cpus == 8);
  CHECK(config.kernel_options == "nokaslr loglevel=7");
  CHECK(config.guest_patience == std::chrono::seconds(900));
  CHECK(config.memory_bytes == 4096 * kMiB);
  CHECK(config.build_cpus == 2);
  CHECK(config.build_memory_bytes == 512 * kMiB);
  CHECK(config.max_log_bytes == 3 * kMiB);
  CHECK(config.max_output_bytes == 5 * kMiB);
  CHECK(config.keep_builds == std::chrono::days(400));
  CHECK(config.keep_logs == std::chrono::days(7));
  CHECK(config.max_build_memory_bytes == 2 * kGiB);
  CHECK(config.platforms == std::set<std::string>{"x86_64-linux"});
  CHECK(config.features == std::set<std::string>{"kvm"});
  CHECK(config.accelerator == "tcg");
  CHECK(config.allow_emulation);
  CHECK(config.stop_wait == std::chrono::seconds(9));
  CHECK(config.kept_machines == 3);
  CHECK(config.kept_time == std::chrono::minutes(5));
  CHECK(config.session_idle == std::chrono::hours(1));
  CHECK(config.session_stalled == std::chrono::seconds(30));
  CHECK(config.session_deaf == std::chrono::seconds(5));
  CHECK(config.session_greeting == std::chrono::seconds(7));
  CHECK(config.account_sessions == 9);
  CHECK(config.key_sessions == 0);
  CHECK(config.kernel_image == "/boot/vmlinuz-x");
  CHECK(config.kernel_modules == "/lib/modules/x");
  CHECK(config.shell == "/bin/busybox");
  CHECK(config.qemu == "/opt/qemu/bin/qemu-system-x86_64");
  CHECK(config.network_helper == "/opt/passt/bin/passt");
  CHECK(config.disk_maker == "/opt/e2fs/sbin/mke2fs");
  CHECK_FALSE(config.network);
  CHECK(config.network_allow == std::set<std::string>{"10.1.0.0/16", "192.168.3.4"});
  CHECK(config.certificates == "/etc/ca.pem");
  CHECK(config.netrc == "/etc/netrc");
  CHECK(config.cgroup == "/sys/fs/cgroup/builds");
  CHECK(config.impure_env ==
        std::map<std::string, std::string>{{"http_proxy", "http://proxy:3128"}});
  CHECK(config.idle_exit == std::chrono::seconds(7));
  CHECK(config.keys_file == "/run/nixbuild/keys");
  CHECK(config.settings ==
        std::map<std::string, std::string>{{"default-permissions", "store:read build:read"},
                                           {"keep-builds-running", "true"},
                                           {"max-cpu", "8"},
                                           {"max-log-size", "64MiB"}});
  CHECK(config.store_dir == "/gnu/store");
}

TEST_CASE("config: mistakes are told with file and line", "[server][reject]") {
  const auto unknown = error_of("[builds]\n\ncups = 3\n");
  CHECK(unknown.code() == "config.unknown-key");
  CHECK(unknown.message() == "nixbuild.toml:3: section 'builds' has no key 'cups'");
  CHECK(error_of("[bulids]\ncpus = 1\n").code() == "config.unknown-key");
  CHECK(error_of("cpus = 1\n").code() == "config.unknown-key");
  CHECK(error_of("[sessions]\ngreeting-seconds = 0\n").code() == "config.value");
  CHECK(error_of("[sessions]\nmost-of-account = -1\n").code() == "config.value");
  CHECK(error_of("[sessions]\nmost-of-key = \"few\"\n").code() == "config.value");
  CHECK(error_of("[builds]\ncpus = \"many\"\n").code() == "config.value");
  CHECK(error_of("[builds]\ncpus = 0\n").code() == "config.value");
  CHECK(error_of("[builds]\ncpus = -1\n").code() == "config.value");
  // Quotas count a whole month.
  CHECK(error_of("[builds]\nkeep-builds-days = 31\n").code() == "config.value");
  CHECK(error_of("[sandbox]\ncgroup = \"builds\"\n").code() == "config.value");
  const auto choice = error_of("[sandbox]\naccelerator = \"xen\"\n");
  CHECK(choice.code() == "config.value");
  CHECK(choice.message().find("one of auto, kvm, tcg") != std::string::npos);
  for (const char* block : {"10.0.0.1/8", "example.org", "::1", ""}) {
    const auto wrong = error_of(std::string("[sandbox]\nnetwork-allow = [\"") + block + "\"]\n");
    CHECK(wrong.code() == "config.value");
    CHECK(wrong.message().find("list of IPv4 addresses or blocks") != std::string::npos);
  }
  CHECK(error_of("[sandbox]\nimpure-env = [\"a\"]\n").code() == "config.value");
  CHECK(error_of("[sandbox]\nimpure-env = {a = 1}\n").code() == "config.value");
  CHECK(error_of("[sandbox]\nqemu = \"qemu\"\n").message().find("absolute path") !=
        std::string::npos);
  CHECK(error_of("[builds\n").code() == "config.syntax");
  const auto setting = error_of("[settings]\nmax-cpus = 3\n");
  CHECK(setting.code() == "config.unknown-key");
  CHECK(setting.message().find("'max-cpu'") != std::string::npos);
  CHECK(error_of("[settings]\nmax-cpu = 0\n").code() == "config.value");
  CHECK(error_of("[settings]\nmax-cpu = 1.5\n").code() == "config.value");
  CHECK(error_of("[settings]\nmax-cpu = [1]\n").code() == "config.value");
  CHECK(error_of("settings = 1\n").code() == "config.unknown-key");
}

TEST_CASE("config: a file that is not there is told by name", "[server][reject]") {
  try {
    (void)server::load_config("/nonexistent/nixbuild.toml");
    FAIL("read");
  } catch (const Error& error) {
    CHECK(error.code() == "config.file");
    CHECK(error.reaction() == Reaction::NotFound);
  }
}

TEST_CASE("machine share: builds always fit into the machine", "[server][property]") {
  for (const unsigned cpus : {1U, 2U, 3U, 8U, 64U}) {
    for (const std::uint64_t gib : {1ULL, 2ULL, 24ULL, 512ULL}) {
      CAPTURE(cpus, gib);
      const auto share = server::share_of({}, cpus, gib * kGiB);
      CHECK(share.build_cpus >= 1);
      CHECK(share.build_cpus <= share.cpus);
      CHECK(share.build_memory_bytes <= share.memory_bytes);
      CHECK(share.build_memory_bytes % kMiB == 0);
    }
  }
  server::Config config;
  config.build_cpus = 16;
  CHECK(server::share_of(config, 2, kGiB).build_cpus == 2);
}

TEST_CASE("machine share: two builds of the usual size run at once on every common machine",
          "[server]") {
  for (const unsigned cpus : {2U, 4U, 8U}) {
    for (const std::uint64_t gigabytes : {4ULL, 6ULL, 8ULL, 16ULL}) {
      // Firmware and kernel keep some of it, on one machine more than on another.
      for (std::uint64_t kept = 0; kept < 500; kept += 7) {
        CAPTURE(cpus, gigabytes, kept);
        const auto share = server::share_of({}, cpus, gigabytes * kGiB - kept * kMiB);
        scheduler::SizeBounds bounds;
        bounds.max_cpus = share.cpus;
        bounds.default_cpus = share.build_cpus;
        bounds.max_memory = share.memory_bytes;
        bounds.default_memory_per_cpu = share.build_memory_bytes / share.build_cpus;
        const auto size = scheduler::size_of_build({}, bounds, std::nullopt, 0);
        REQUIRE(2 * size.cpus <= share.cpus);
        REQUIRE(2 * size.memory_bytes <= share.memory_bytes);
        REQUIRE(size.memory_bytes >= kGiB);
        // As is one that has been measured to need as much as the usual one has.
        scheduler::Prediction used;
        used.exceeded_memory = size.memory_bytes / 2;
        REQUIRE(2 * scheduler::size_of_build({}, bounds, used, 0).memory_bytes <=
                share.memory_bytes);
      }
    }
  }
}

} // namespace config_test
