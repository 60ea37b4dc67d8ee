#pragma once

#include <nixbuild/base/api.hpp>
#include <nixbuild/base/bytes.hpp>
#include <nixbuild/sandbox/guest_job.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

/// What the host and the guest say to each other over three virtio ports, and a fourth one for a
/// builder with a store socket (channels.hpp, admission.hpp). No I/O: bytes in, messages out. The
/// host believes nothing: every length, count, order and index is checked.
///
/// Port `nixbuild.ctl`, both ways, all integers little-endian:
///
///     frame   := u32 payload-length  u32 type  payload
///
///     guest                              host
///     Hello{version, boot time}       →
///                                     ←  Job
///     Started                         →                  left out when the builder could not be
///     Exited{GuestExit}               →                  started, and by a probe
///                                     ←  SendOutput{index}        (any number of times, one at a
///     OutputEnd{index, error}         →                           time)
///                                     ←  Input{bytes, size}       (while a terminal is open)
///                                     ←  PowerOff                 (at any time)
///     Failure{text}                   →                  instead of any message; the last one
///
/// Port `nixbuild.log`, guest to host: the raw bytes of the builder's pty. All of them are written
/// before Exited, which says how many they are; so the host can drain the log first.
///
/// Port `nixbuild.out`, guest to host: the archive of the output that was asked for:
///
///     output  := (u32 length, 1 to 1 MiB  bytes)*  u32 0
///
/// It always ends with the zero, also when OutputEnd tells of an error. The output behind the last
/// one is a terminal with a shell in the builder's place: its bytes come as they are written, Input
/// is typed into it, and it ends with the shell.
namespace nixbuild::sandbox::guest {

inline constexpr std::uint32_t kProtocolVersion = 6;
inline constexpr std::size_t kHeaderBytes = 8;
/// Largest payload that the host takes from a guest.
inline constexpr std::size_t kMaxGuestPayload = 64 * kKiB;
/// Largest payload that a guest takes from the host: a job holds a whole environment.
inline constexpr std::size_t kMaxHostPayload = 64 * kMiB;
inline constexpr std::size_t kMaxOutputFrame = 1 * kMiB;
inline constexpr std::size_t kMaxOutputs = 4096;
/// Bytes of one text that a guest sends (a message, why an output cannot be archived).
inline constexpr std::size_t kMaxText = 16 * kKiB;
/// Bytes that are typed at once.
inline constexpr std::size_t kMaxInput = 16 * kKiB;

struct Hello {
  std::uint32_t version = kProtocolVersion;
  std::chrono::microseconds boot_time{0}; ///< kernel start to this message

  bool operator==(const Hello&) const = default;
};

/// The builder runs.
struct Started {
  bool operator==(const Started&) const = default;
};

struct Exited {
  GuestExit exit;

  bool operator==(const Exited&) const = default;
};

/// The output's archive has been written to its port, all of it unless there is an error text.
struct OutputEnd {
  std::uint32_t index = 0;
  std::string error;

  bool operator==(const OutputEnd&) const = default;
};

/// The guest cannot go on.
struct Failure {
  std::string text;

  bool operator==(const Failure&) const = default;
};

struct Job {
  GuestJob job;

  bool operator==(const Job&) const = default;
};

struct SendOutput {
  std::uint32_t index = 0;

  bool operator==(const SendOutput&) const = default;
};

/// What somebody types, and how large their terminal is; zeros: not known. All of it empty: they
/// have hung up, and the shell is ended.
struct Input {
  std::string bytes;
  std::uint32_t rows = 0;
  std::uint32_t columns = 0;

  bool operator==(const Input&) const = default;
};

struct PowerOff {
  bool operator==(const PowerOff&) const = default;
};

using FromGuest = std::variant<Hello, Started, Exited, OutputEnd, Failure>;
using ToGuest = std::variant<Job, SendOutput, PowerOff, Input>;

/// One whole frame. Errors: `sandbox.protocol` (the payload exceeds its limit, a text or count
/// exceeds its own).
[[nodiscard]] NIXBUILD_API std::string encode(const FromGuest& message);
[[nodiscard]] NIXBUILD_API std::string encode(const ToGuest& message);

/// Takes frames out of a byte stream. Memory: what was fed and not yet taken; feed no more than a
/// few hundred KiB ahead.
class NIXBUILD_API FrameBuffer {
public:
  struct Frame {
    std::uint32_t type = 0;
    ByteView payload; ///< valid until the next call of feed or next
  };

  explicit FrameBuffer(std::size_t max_payload) : max_payload_(max_payload) {}

  void feed(ByteView bytes);
  /// The next whole frame, or nothing until more bytes come. Errors: `sandbox.protocol` (length
  /// beyond the limit; told as soon as the length is there).
  [[nodiscard]] std::optional<Frame> next();

  /// Bytes that wait for the rest of their frame.
  [[nodiscard]] std::size_t pending() const noexcept { return buffer_.size() - taken_; }

private:
  std::size_t max_payload_;
  std::string buffer_;
  std::size_t taken_ = 0;
};

/// Errors: `sandbox.protocol` (unknown type, payload too short or too long, a text, count or
/// enumerator out of range).
[[nodiscard]] NIXBUILD_API FromGuest decode_from_guest(const FrameBuffer::Frame& frame);
[[nodiscard]] NIXBUILD_API ToGuest decode_to_guest(const FrameBuffer::Frame& frame);

/// Takes the frames of the output port apart. Constant memory.
class NIXBUILD_API OutputFrames {
public:
  /// Hands the contents to `sink` until the output has ended; returns how many bytes of `bytes`
  /// were consumed: less than given only when the output ended inside. Errors: `sandbox.protocol`
  /// (frame longer than kMaxOutputFrame).
  std::size_t feed(ByteView bytes, ByteSink& sink);

  [[nodiscard]] bool ended() const noexcept { return ended_; }

  /// Ready for the next output.
  void restart() noexcept { *this = OutputFrames{}; }

private:
  std::uint32_t header_ = 0;
  unsigned header_bytes_ = 0;
  std::uint32_t left_ = 0;
  bool ended_ = false;
};

} // namespace nixbuild::sandbox::guest

namespace nixbuild::sandbox {

/// The values alone, as they stand in a frame's payload. Errors of the decoders:
/// `sandbox.protocol` (truncated, trailing bytes, limits); of the encoders: `sandbox.protocol` (a
/// limit is exceeded).
[[nodiscard]] NIXBUILD_API std::string encode_guest_job(const GuestJob& job);
[[nodiscard]] NIXBUILD_API GuestJob decode_guest_job(std::string_view payload);
[[nodiscard]] NIXBUILD_API std::string encode_guest_exit(const GuestExit& exit);
[[nodiscard]] NIXBUILD_API GuestExit decode_guest_exit(std::string_view payload);

/// What the host learns from a guest.
struct GuestHello {
  std::chrono::microseconds boot_time{0};
};

struct GuestStarted {};

/// Only given when all bytes of the log have been counted.
struct GuestExited {
  GuestExit exit;
};

/// The output has been received whole when `error` is empty.
struct GuestOutputEnd {
  std::uint32_t index = 0;
  std::string error;
};

/// The guest gave up; nothing will follow.
struct GuestFailure {
  std::string text;
};

using GuestEvent =
    std::variant<GuestHello, GuestStarted, GuestExited, GuestOutputEnd, GuestFailure>;

/// The host's side of a guest's life: a strict state machine between the three ports and their
/// owner. No I/O, not thread safe. Every violation is error `sandbox.protocol`, after which the
/// session is dead and the machine has to be killed.
///
///     feed_control / feed_log / feed_output   bytes that a port delivered
///     next_event                              after each of these, until it returns nothing
///     take_control                            bytes to write to the control port; the job is
///                                             among them as soon as the guest said Hello
class NIXBUILD_API GuestSession {
public:
  /// Error `sandbox.protocol` when the job is larger than a frame or has too many outputs.
  explicit GuestSession(const GuestJob& job);

  /// Errors: see decode_from_guest; a message that does not belong into this state; another
  /// protocol version; an exit that tells of more or fewer outputs than the job has; an end of an
  /// output that was not asked for.
  void feed_control(ByteView bytes);
  /// Counts log bytes; the contents stay with the caller. Errors: bytes before the job was sent,
  /// more than the guest announced.
  void feed_log(std::size_t size);
  /// Hands contents of the output to `sink`. Errors: bytes while no output is asked for or after
  /// its end, frame too long, end of the output told over the control port before all came when
  /// the order of the ports makes that impossible.
  void feed_output(ByteView bytes, ByteSink& sink);

  /// What has become known; nothing until more is fed.
  [[nodiscard]] std::optional<GuestEvent> next_event();

  /// Asks for an output. Only after GuestExited and not before the previous one has ended; error
  /// `sandbox.protocol` otherwise or for an index that the job does not have; that behind the last
  /// output is the terminal.
  void send_output(std::uint32_t index);
  /// Types into the terminal. Without one nothing happens: it may just have ended. Error
  /// `sandbox.protocol` for more than kMaxInput bytes.
  void type(const guest::Input& input);
  /// Lets the guest go down. At any time after GuestHello; earlier it has no effect.
  void power_off();

  /// Bytes for the control port; empties the queue.
  [[nodiscard]] std::string take_control();

  /// An output is under way: its port should be read.
  [[nodiscard]] bool receiving_output() const noexcept { return output_.has_value(); }

  /// The terminal is open: nobody knows when its next bytes come.
  [[nodiscard]] bool has_terminal() const noexcept { return output_ && output_->index == outputs_; }

  [[nodiscard]] bool exited() const noexcept { return state_ == State::Exited; }

private:
  enum class State : std::uint8_t { Booting, Preparing, Running, Exited, Down };

  struct Receiving {
    explicit Receiving(std::uint32_t output) : index(output) {}

    std::uint32_t index;
    std::optional<std::string> told; ///< error text of OutputEnd, once it came
  };

  void accept(guest::FromGuest message);
  void accept_exit(GuestExit exit);
  void release_exit();
  void release_output();

  State state_ = State::Booting;
  std::string job_frame_;
  std::size_t outputs_ = 0;
  bool probe_ = false;
  guest::FrameBuffer control_{guest::kMaxGuestPayload};
  guest::OutputFrames frames_;
  std::uint64_t log_bytes_ = 0;
  std::optional<GuestExit> exit_; ///< waits for the log
  std::optional<Receiving> output_;
  std::deque<GuestEvent> events_;
  std::string outgoing_;
};

} // namespace nixbuild::sandbox
