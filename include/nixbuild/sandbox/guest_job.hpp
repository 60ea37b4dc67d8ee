#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace nixbuild::sandbox {

/// What a guest's network interface is given when the job has a network. The host's helper must
/// serve exactly these.
inline constexpr const char* kGuestAddress = "10.0.2.15";
inline constexpr const char* kGuestNetmask = "255.255.255.0";
inline constexpr const char* kGuestGateway = "10.0.2.2";
/// Name server that the guest is told; the helper forwards to the host's.
inline constexpr const char* kGuestNameServer = "10.0.2.3";

/// Name of the store socket in the build directory.
inline constexpr const char* kStoreSocket = ".nix-socket";

/// A file that is put into the build directory, mode 0644.
struct GuestFile {
  std::string name; ///< one path component
  std::string contents;

  bool operator==(const GuestFile&) const = default;
};

/// A path under the store directory that the build is to make.
struct GuestOutput {
  std::string name;       ///< output name (`out`)
  std::string store_name; ///< base name under the store directory

  bool operator==(const GuestOutput&) const = default;
};

/// Everything that the guest needs to run one builder as Nix would. Values only: it crosses the
/// control port. Source of the details: protocol facts 5.1 and 5.2.
struct GuestJob {
  std::string store_dir = "/nix/store";
  std::string build_dir = "/build";
  std::string builder; ///< executed as is
  std::vector<std::string> arguments;
  std::vector<std::pair<std::string, std::string>> environment; ///< sorted by name, complete
  std::vector<GuestFile> files;
  std::vector<GuestOutput> outputs;
  std::uint32_t uid = 1000;
  std::uint32_t gid = 100;
  bool linux32 = false;    ///< personality PER_LINUX32
  bool network = false;    ///< fixed-output: a network device is there and is brought up
  std::string hosts;       ///< contents of /etc/hosts
  std::string resolv_conf; ///< contents of /etc/resolv.conf; empty: no such file
  std::string services;    ///< contents of /etc/services; empty: no such file
  /// Contents of /etc/ssl/certs/ca-certificates.crt; empty: no such file.
  std::string certificates;
  /// Contents of /nix/var/nix/db/db.sqlite (beside `store_dir`), given to the builder with the
  /// folders around it; empty: no such folder.
  std::string input_database;
  /// The builder finds a Nix daemon's socket at kStoreSocket in its build directory, whose
  /// conversations go to the host (executor.hpp, StoreConversation).
  bool store_socket = false;
  bool probe_only = false; ///< answer and power off: used to measure a boot

  bool operator==(const GuestJob&) const = default;
};

/// How one output looks after the builder has ended, as the guest says (never trusted).
struct GuestOutputState {
  bool present = false;
  bool suspicious =
      false;           ///< group- or world-writable top level that is no symlink, or foreign owner
  std::string problem; ///< empty, or why it cannot be archived ("… is a socket")

  bool operator==(const GuestOutputState&) const = default;
};

enum class GuestEnd : std::uint8_t {
  Exited,      ///< `code` is the exit status
  Signalled,   ///< `code` is the signal number
  SetupFailed, ///< the builder never ran; `message` says why (missing builder, …)
  OutOfMemory, ///< killed by the guest kernel's memory limit
};

struct GuestExit {
  GuestEnd end = GuestEnd::Exited;
  std::int32_t code = 0;
  std::string message;
  std::vector<GuestOutputState> outputs; ///< in the job's order
  std::chrono::microseconds cpu_user{0};
  std::chrono::microseconds cpu_system{0};
  std::uint64_t peak_memory_bytes = 0;
  std::uint64_t disk_bytes = 0;           ///< in use on the scratch disk when the builder had ended
  bool disk_full = false;                 ///< then hardly anything was left of it
  std::uint64_t scratch_bytes = 0;        ///< size of what takes a builder's files
  bool scratch_in_memory = false;         ///< that is no disk
  std::uint64_t log_bytes = 0;            ///< of the whole log, all written before this was sent
  std::chrono::microseconds boot_time{0}; ///< kernel start to init
  std::chrono::microseconds mount_time{0};   ///< inputs and scratch
  std::chrono::microseconds builder_time{0}; ///< start to end of the builder

  bool operator==(const GuestExit&) const = default;
};

} // namespace nixbuild::sandbox
