#pragma once

#include <nixbuild/base/api.hpp>
#include <nixbuild/base/bytes.hpp>

#include <chrono>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <string_view>

namespace nixbuild::server {

/// What the configuration file may say. Every key is optional; an unknown key, a wrong type or a
/// value out of range is an error with its line.
struct Config {
  // [builds]
  unsigned cpus = 0;                    ///< cpus for all builds together; 0: all of the machine
  std::uint64_t memory_bytes = 0;       ///< memory for all builds together; 0: three quarters
  unsigned build_cpus = 0;              ///< cpus of one build; 0: at most 4, at most half of `cpus`
  std::uint64_t build_memory_bytes = 0; ///< memory of one build; 0: a fair part, 1 to 4 GiB
  std::uint64_t max_log_bytes = 256 * kMiB;
  std::uint64_t max_output_bytes = 64 * kGiB;
  /// How long builds are known after their end (usage, `builds`, results to use again), and how
  /// long their logs are; 0: for ever.
  std::chrono::days keep_builds{0};
  std::chrono::days keep_logs{0};
  /// Machines of failed builds that wait for a visitor at one time, with memory of their own; and
  /// for how long.
  unsigned kept_machines = 1;
  std::chrono::minutes kept_time{30};
  std::set<std::string> platforms; ///< empty: what the machine runs
  /// What every machine of ours has; `kvm` and others that depend on the host are the operator's.
  std::set<std::string> features = {
      "benchmark", "big-parallel", "ca-derivations", "nixos-test", "recursive-nix"};
  /// Memory that a build's machine may grow to after it ran out; 0: as much as `memory_bytes`.
  std::uint64_t max_build_memory_bytes = 0;
  // [sandbox]
  std::string accelerator = "auto"; ///< `auto`, `kvm` or `tcg`
  bool allow_emulation = false;     ///< emulation with more than one account
  std::string kernel_image;         ///< empty: the one imported last, else the newest in /boot
  std::string kernel_modules;
  std::string kernel_options; ///< words behind those that machines' kernels get anyhow
  /// How long a machine may take to boot, to mount its inputs, and between two pieces of an
  /// output; 0: 60 seconds, 300 under emulation.
  std::chrono::seconds guest_patience{0};
  std::string shell; ///< static busybox for /bin/sh; empty: looked for
  /// Absolute paths of the emulator and of passt; empty: Debian's places for them.
  std::string qemu;
  std::string network_helper;
  std::string disk_maker; ///< absolute path of mke2fs; empty: looked for
  /// Where machines get control groups: `auto` (the daemon's own group, where it was delegated),
  /// `none`, or the absolute path of a group of cgroup v2 that holds no processes.
  std::string cgroup = "auto";
  bool network = true; ///< fixed-output builds reach the public internet, where passt is there
  /// What they reach beyond that: `ADDRESS` or `ADDRESS/PREFIX`, IPv4.
  std::set<std::string> network_allow;
  /// CA bundle that they are given; absent file: none.
  std::string certificates = "/etc/ssl/certs/ca-certificates.crt";
  /// File of credentials by host for `builtin:fetchurl`; empty or absent: none.
  std::string netrc;
  std::map<std::string, std::string> impure_env; ///< for what derivations name in `impureEnvVars`
  // [daemon]
  /// For so long SIGTERM lets builds that run end; then they are left to the next daemon.
  std::chrono::seconds stop_wait{0};
  std::chrono::seconds idle_exit{600}; ///< an autostarted daemon ends after this time without work
  /// A second place for the list of keys, for an sshd whose lookup may not enter the state
  /// directory; empty: none.
  std::string keys_file;
  // [sessions]
  /// How long a client may say nothing: between two requests; within a request, or while it takes
  /// nothing of a reply; and while it takes nothing of a build's log on its standard error (then
  /// the session goes on without the log).
  std::chrono::seconds session_idle{86400};
  std::chrono::seconds session_stalled{600};
  std::chrono::seconds session_deaf{60};
  std::chrono::seconds session_greeting{30}; ///< from a session's begin to the client's hello
  /// Sessions that an account and one of its keys may have open at one time; 0: any number.
  unsigned account_sessions = 512;
  unsigned key_sessions = 256;
  // [settings]
  std::map<std::string, std::string> settings; ///< of every account; checked against the table
  // [http]
  std::string http_listen;        ///< `unix:PATH`, `ADDRESS:PORT`, `[ADDRESS]:PORT`; empty: off
  bool http_allow_remote = false; ///< an address beyond the loopback device
  std::string http_tokens;        ///< empty: `http-tokens` in the state directory
  // [store]
  std::string store_dir = "/nix/store";
};

/// Errors: `config.syntax`, `config.unknown-key`, `config.value`, each with file and line.
[[nodiscard]] NIXBUILD_API Config parse_config(std::string_view text, const std::string& file_name);
/// Reads a file; an empty name gives the defaults. Error `config.file`.
[[nodiscard]] NIXBUILD_API Config load_config(const std::string& file_name);

} // namespace nixbuild::server
