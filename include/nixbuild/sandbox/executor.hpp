#pragma once

#include <nixbuild/aio/task.hpp>
#include <nixbuild/base/bytes.hpp>
#include <nixbuild/base/descriptor.hpp>
#include <nixbuild/base/error.hpp>
#include <nixbuild/sandbox/guest_job.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace nixbuild::sandbox {

/// A piece of the composed input disk: `length` bytes of `fd` from `offset` on.
struct DiskExtent {
  UniqueFd fd; ///< opened read-only
  std::uint64_t offset = 0;
  std::uint64_t length = 0;
};

/// One build, ready to run on one machine.
struct ExecutionPlan {
  std::string
      id; ///< of the build attempt, never used again; names the run directory; `[0-9a-zA-Z-]{1,64}`
  unsigned cpus = 1;
  std::uint64_t memory_bytes = 512 * kMiB;
  /// The scratch disk, which takes everything that the builder writes. It may become smaller where
  /// the host has no room for it. 0: none, files lie in half of the memory.
  std::uint64_t scratch_bytes = 0;
  GuestJob job;
  std::vector<DiskExtent> disk; ///< in disk order, without gaps, whole 4 KiB blocks
};

/// Some of the build's log: raw bytes of the pty.
struct LogChunk {
  std::string bytes;
};

/// A phase began: `compose`, `spawn`, `boot`, `mount`, `build`, `outputs`, `down`.
struct PhaseBegan {
  std::string phase;
  std::chrono::microseconds since_start{0};
};

/// The builder is gone and all its log has been delivered.
struct BuilderExited {
  GuestExit exit;
  /// Processor time of the emulator while the builder ran, as the host counts it; nothing where the
  /// backend does not measure.
  std::optional<std::chrono::microseconds> cpu_of_host;
};

/// A stream of the machine of a job with a store socket. Channel 0 comes first, and is for
/// admissions (admission.hpp); each other one is a client of the builder's that says hello in Nix's
/// worker protocol. Closing the socket ends it.
struct StoreConversation {
  unsigned channel = 0;
  UniqueFd socket;
};

using ExecutionEvent = std::variant<LogChunk, PhaseBegan, BuilderExited, StoreConversation>;

/// What the machine of a build took from its host, all processes of the emulator together.
struct MachineUsage {
  std::uint64_t peak_rss_bytes = 0;
  std::chrono::microseconds cpu_user{0};
  std::chrono::microseconds cpu_system{0};
};

/// A running build. Used from one strand. Destroying it kills the build and waits for nothing.
class Execution {
public:
  virtual ~Execution() = default;

  /// The next event; after BuilderExited none may be asked for. Errors: `sandbox.lost` (the VM or
  /// its runner died), `sandbox.host` (it ended by itself, or gave up, before its builder ran: what
  /// the next one here would do, too), `sandbox.protocol` (the guest broke its protocol),
  /// `sandbox.spawn`.
  /// Honours terminal cancellation. Back-pressure: while nobody calls, the guest blocks.
  virtual aio::Task<ExecutionEvent> next_event() = 0;

  /// Asks for the NAR of output `index` of the job; then `read_output` until it returns 0.
  virtual aio::Task<void> open_output(std::size_t index) = 0;
  /// At least one byte, or 0 at the end of the archive. Errors as next_event, and
  /// `sandbox.output` with the guest's reason.
  virtual aio::Task<std::size_t> read_output(MutableBytes buffer) = 0;

  /// Starts a shell in the builder's place, after its end: same tree, environment, user and limits,
  /// at a terminal. Then `read_output` gives what it writes, until it ends. Errors as open_output,
  /// and `sandbox.no-terminal` where the backend has none.
  virtual aio::Task<void> open_terminal() {
    throw Error(Reaction::Unsupported, "sandbox.no-terminal", "this sandbox offers no terminal");
    co_return;
  }

  /// Types into the terminal; `rows` and `columns` are its size, 0: not known. At most 16 KiB at
  /// once; nothing at all hangs up, and the shell ends. May run while read_output waits.
  virtual aio::Task<void> type_in(std::string bytes, std::uint32_t rows, std::uint32_t columns) {
    static_cast<void>(bytes);
    static_cast<void>(rows);
    static_cast<void>(columns);
    co_return;
  }

  /// Lets the VM go down and waits for it, at most a few seconds; then kills it.
  virtual aio::Task<void> finish() = 0;

  /// Known after finish; zeros where the backend does not measure or the machine was killed.
  [[nodiscard]] virtual MachineUsage usage() const { return {}; }

  /// How long the machine has run, by a clock that nobody sets. Known after Executor::adopt, where
  /// the backend can tell.
  [[nodiscard]] virtual std::optional<std::chrono::microseconds> age() const {
    return std::nullopt;
  }

  /// Kills the VM at once; pending calls end with `sandbox.cancelled`.
  virtual void cancel() noexcept = 0;

  /// Lets go of the build without ending it, where the backend can: pending calls end with
  /// `sandbox.cancelled`, destroying the object kills nothing, and Executor::adopt finds the build.
  virtual void detach() noexcept { cancel(); }
};

/// Whether an error of this room has its cause in the host (kernel, hypervisor, programs) and not
/// in the build: another machine here would meet it again.
[[nodiscard]] NIXBUILD_API bool is_host_fault(const Error& error) noexcept;

/// What a host is still good for, after a machine of its has ended by a fault of the host.
struct HostVerdict {
  enum class Use : std::uint8_t {
    AsBefore,  ///< machines work: it was this one, or it has passed
    Emulation, ///< KVM does not, and is not used any more; the build may start again at once
    Nothing,   ///< no machine works
  };

  Use use = Use::AsBefore;
  std::string reason; ///< why not as before
};

/// How well the machines that were started here were walled in.
struct WallReport {
  std::uint64_t machines = 0;
  std::uint64_t weaker = 0; ///< of them, machines with a shortfall
  std::string walls;        ///< of the last one
  std::string shortfall;    ///< what the last one did without, and why; empty: nothing
};

/// Starts builds on this machine. Backends: `qemu` (one runner process each), and a fake for tests.
class Executor {
public:
  virtual ~Executor() = default;
  /// Returns as soon as the runner has the plan. Errors: `sandbox.spawn`, `sandbox.disk`.
  virtual aio::Task<std::unique_ptr<Execution>> start(ExecutionPlan plan) = 0;

  /// Takes up the running or ended build of plan `id` that an earlier daemon started, which had
  /// `outputs` outputs: its events come again from the first phase on, its log from `log_offset`
  /// on. Null: there is no such build any more, and nothing of it is left behind.
  virtual aio::Task<std::unique_ptr<Execution>>
  adopt(std::string id, std::size_t outputs, std::uint64_t log_offset) {
    static_cast<void>(id);
    static_cast<void>(outputs);
    static_cast<void>(log_offset);
    co_return nullptr;
  }

  /// Ends the builds that earlier daemons have left here, but for those of the plans `kept`, and
  /// removes what others left behind that are gone.
  virtual aio::Task<void> sweep(std::vector<std::string> kept) {
    static_cast<void>(kept);
    co_return;
  }

  /// Makes sure that builds can start here and names the accelerator they will use. Errors: what
  /// keeps every build from starting (no kernel, no hypervisor).
  virtual aio::Task<std::string> prepare() { co_return accelerator(); }

  /// A machine has ended by a fault of this host, told as `reason`: tries one that has no build in
  /// it, and says what builds may count on from now on. Blocks for as long as that takes.
  virtual HostVerdict host_failed(const std::string& reason) {
    return {HostVerdict::Use::AsBefore, reason};
  }

  /// `kvm`, `tcg` or `fake`: told to people in logs and listings. Empty: not known before prepare.
  [[nodiscard]] virtual std::string accelerator() const = 0;

  /// What became of the walls of the machines so far. From any thread.
  [[nodiscard]] virtual WallReport walls() const { return {}; }

  /// Whether a job that wants a network gets one; known after prepare.
  [[nodiscard]] virtual bool offers_network() const { return true; }

  /// Its machines can have a scratch disk. Known after prepare.
  [[nodiscard]] virtual bool offers_disk() const { return true; }
};

} // namespace nixbuild::sandbox
