#pragma once

#include <nixbuild/base/api.hpp>
#include <nixbuild/base/bytes.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

/// What the daemon and a runner say to each other over a local stream socket. No I/O.
///
/// Frame: u32 payload length | u8 type | payload, little endian. Texts: u32 length | bytes.
/// Descriptors travel beside the bytes (SCM_RIGHTS) and are taken in order by the messages that
/// name them: Start takes the kernel and the initramfs, Extents and Conversation one each.
///
///     daemon                      runner
///     Start, Extents…, Attach  →
///                              ←  Accepted, Phase | Log | Conversation …, Measured,
///                                 Exited
///     Output{index}            →
///                              ←  OutputData…, OutputEnd | OutputFailed      (any number of times)
///     Input{bytes, size}       →                     while the output behind the last one is open
///     Finish                   →
///                              ←  Down
///
/// A daemon that comes back connects to the runner's socket and sends Attach with the log offset
/// that it has stored: phases, the log from there on and Exited are told again, so nothing depends
/// on what an earlier connection had seen. Failed may come at any time and is the last word.
namespace nixbuild::sandbox::runner {

inline constexpr std::uint32_t kVersion = 8;
inline constexpr std::size_t kHeaderBytes = 5;
/// A job holds a whole environment; everything else stays far below.
inline constexpr std::size_t kMaxPayload = 80 * kMiB;
inline constexpr std::size_t kMaxText = 64 * kKiB;
inline constexpr std::size_t kMaxData = 256 * kKiB;
/// The kernel takes 253 descriptors with one message.
inline constexpr std::size_t kMaxExtentsPerMessage = 200;

struct Start {
  std::uint32_t version = kVersion;
  std::string id;
  std::uint32_t cpus = 1;
  std::uint64_t memory_bytes = 0;
  bool kvm = false;
  bool debug_console = false;
  std::string qemu;       ///< absolute path of the binary
  std::string qemu_files; ///< what it sees of the host, from program_files
  std::string kernel_options;
  std::uint32_t uid_base = 0; ///< first uid of the pool; 0: none
  std::uint32_t uid_count = 0;
  std::string slot_directory; ///< where uids of the pool are locked
  std::string cgroup_parent;  ///< where the machine's control group is made; empty: none
  std::string cgroup_name;
  bool cgroup_release = false;     ///< a daemon may have to be started in cgroup_parent itself
  std::string network_helper;      ///< passt; empty: no network can be given
  std::string network_allow;       ///< address blocks with blanks between, for EgressRules
  std::string disk_maker;          ///< mke2fs; empty: no scratch disk can be made
  std::uint64_t scratch_bytes = 0; ///< of the scratch disk; 0: none
  std::uint64_t log_limit_bytes = 0;
  std::uint32_t patience_seconds = 60; ///< within which the guest must answer, by each step
  std::uint32_t grace_seconds = 600;   ///< how long a finished build waits without a daemon
  std::uint32_t alone_seconds = 3600;  ///< how long a builder runs on without a daemon
  std::uint32_t extents = 0;           ///< how many will follow
  std::string job;                     ///< encoded for the guest

  bool operator==(const Start&) const = default;
};

struct Extents {
  struct Range {
    std::uint64_t offset = 0;
    std::uint64_t length = 0;
    bool operator==(const Range&) const = default;
  };

  std::vector<Range> ranges; ///< one descriptor each; at most kMaxExtentsPerMessage
  bool operator==(const Extents&) const = default;
};

struct Attach {
  std::uint64_t log_offset = 0;
  bool operator==(const Attach&) const = default;
};

struct Output {
  std::uint32_t index = 0;
  bool operator==(const Output&) const = default;
};

/// Typed into the terminal, as guest::Input.
struct Input {
  std::string bytes;
  std::uint32_t rows = 0;
  std::uint32_t columns = 0;
  bool operator==(const Input&) const = default;
};

struct Finish {
  bool operator==(const Finish&) const = default;
};

struct Kill {
  bool operator==(const Kill&) const = default;
};

struct Accepted {
  std::uint32_t version = kVersion;
  std::uint32_t runner_pid = 0;
  std::uint32_t emulator_pid = 0;
  std::string jail_walls;
  std::string jail_shortfall; ///< empty: nothing is missing
  bool operator==(const Accepted&) const = default;
};

struct Phase {
  std::string name;
  std::uint64_t since_start_us = 0;
  bool operator==(const Phase&) const = default;
};

struct LogData {
  std::uint64_t offset = 0;
  std::string bytes; ///< at most kMaxData
  bool operator==(const LogData&) const = default;
};

/// What the emulator has used from the builder's start to its end, as the host counts it. Before
/// Exited.
struct Measured {
  std::uint64_t cpu_user_us = 0;
  std::uint64_t cpu_system_us = 0;
  bool operator==(const Measured&) const = default;
};

struct Exited {
  std::string exit; ///< as the guest encoded it
  bool operator==(const Exited&) const = default;
};

/// A stream of the machine's store port, with the socket that carries it from now on: channel 0
/// once, the others as the builder opens them. Nobody is told again of those of an earlier daemon.
struct Conversation {
  std::uint32_t channel = 0;
  bool operator==(const Conversation&) const = default;
};

struct OutputData {
  std::string bytes; ///< at most kMaxData
  bool operator==(const OutputData&) const = default;
};

struct OutputEnd {
  bool operator==(const OutputEnd&) const = default;
};

struct OutputFailed {
  std::string reason;
  bool operator==(const OutputFailed&) const = default;
};

struct Failed {
  std::string code; ///< an error code of this room
  std::string message;
  bool operator==(const Failed&) const = default;
};

struct Down {
  std::uint64_t peak_rss_bytes = 0; ///< of the emulator
  std::uint64_t cpu_user_us = 0;
  std::uint64_t cpu_system_us = 0;
  bool operator==(const Down&) const = default;
};

using Message = std::variant<Start,
                             Extents,
                             Attach,
                             Output,
                             Finish,
                             Kill,
                             Accepted,
                             Phase,
                             LogData,
                             Exited,
                             OutputData,
                             OutputEnd,
                             OutputFailed,
                             Failed,
                             Down,
                             Input,
                             Conversation,
                             Measured>;

/// One whole frame. Errors: `sandbox.runner-protocol` (a part exceeds its limit).
[[nodiscard]] NIXBUILD_API std::string encode(const Message& message);

/// Takes frames out of a byte stream. Memory: what was fed and not yet taken.
class NIXBUILD_API Decoder {
public:
  void feed(ByteView bytes);
  /// The next message, or nothing until more bytes come. Errors: `sandbox.runner-protocol` (unknown
  /// type, length beyond kMaxPayload, text beyond its limit, payload too short or too long).
  [[nodiscard]] std::optional<Message> next();

  /// Bytes of an unfinished frame that are waiting.
  [[nodiscard]] std::size_t pending() const noexcept { return buffer_.size() - taken_; }

private:
  std::string buffer_;
  std::size_t taken_ = 0;
};

} // namespace nixbuild::sandbox::runner
