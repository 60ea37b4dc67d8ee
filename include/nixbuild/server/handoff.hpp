#pragma once

#include <nixbuild/base/api.hpp>
#include <nixbuild/base/bytes.hpp>
#include <nixbuild/base/descriptor.hpp>

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

/// How a front program hands a session over to the daemon: one message with the three standard
/// descriptors beside it, then one answer, the exit status. No data passes through the front.
namespace nixbuild::server {

enum class HandoffKind : std::uint32_t {
  Serve = 1,  ///< the serve protocol on the descriptors
  Worker = 2, ///< the worker protocol on the descriptors
  Admin = 3,  ///< an administration command; its words are `arguments`
};

struct Handoff {
  HandoffKind kind = HandoffKind::Serve;
  bool write = false;   ///< `--write` was given
  bool limited = false; ///< came over SSH: administration is limited to the account
  std::string account = "default";
  std::int64_t key = 0; ///< number of the SSH key that logged in; 0: none
  std::vector<std::string> arguments;
  std::vector<std::string> environment; ///< `NIXBUILD…=value` only

  bool operator==(const Handoff&) const = default;
};

/// Largest message, and largest number of strings in it.
inline constexpr std::size_t kHandoffBytes = 256 * 1024;
inline constexpr std::size_t kHandoffStrings = 4096;

[[nodiscard]] NIXBUILD_API std::string encode(const Handoff& handoff);
/// A whole message without its length prefix. Errors: `handoff.malformed`, `handoff.limit`.
[[nodiscard]] NIXBUILD_API Handoff decode_handoff(std::string_view message);

/// Connects to the daemon of a state directory; nothing when none listens there.
[[nodiscard]] NIXBUILD_API std::optional<UniqueFd> connect_to_daemon(const std::string& state_dir);
/// Makes the listening socket of a state directory, mode 0600. Error `daemon.socket`.
[[nodiscard]] NIXBUILD_API UniqueFd listen_for_handoffs(const std::string& state_dir);

/// Sends the message with three descriptors, which the session reads from, writes to and complains
/// on. Blocking.
NIXBUILD_API void send_handoff(const UniqueFd& daemon,
                               const Handoff& handoff,
                               const std::array<int, 3>& descriptors = {0, 1, 2});
/// Waits until the daemon has taken the session; false when it ended before it had (then the
/// session may be handed to another one).
[[nodiscard]] NIXBUILD_API bool wait_for_acceptance(const UniqueFd& daemon);
/// Waits for the session's end; the exit status, or 70 when the daemon went away.
[[nodiscard]] NIXBUILD_API int wait_for_exit_status(const UniqueFd& daemon);

struct ReceivedHandoff {
  Handoff handoff;
  std::array<UniqueFd, 3> descriptors;
};

/// Receives one message. Blocking, at most `seconds`. Errors: `handoff.malformed`,
/// `handoff.limit`, `handoff.timeout`.
[[nodiscard]] NIXBUILD_API ReceivedHandoff receive_handoff(const UniqueFd& peer, int seconds);
/// Tells the front that the session is the daemon's now.
NIXBUILD_API void send_acceptance(const UniqueFd& peer) noexcept;
/// Ends the session for the front.
NIXBUILD_API void send_exit_status(const UniqueFd& peer, int status) noexcept;

/// `--state-dir`, else `$NIXBUILD_STATE_DIR`, else `/var/lib/nixbuild` for root and system users,
/// else `$XDG_STATE_HOME/nixbuild` (`~/.local/state/nixbuild`). Error `state-dir.unknown`.
[[nodiscard]] NIXBUILD_API std::string find_state_dir(const std::string& given);

/// The full path of another program of this project: beside the running one, in
/// `../libexec/nixbuild` of an installation, or in its own folder of a build tree. Error
/// `program.missing` naming the places looked at.
[[nodiscard]] NIXBUILD_API std::string find_program(const std::string& name);

/// Connects to the daemon of a state directory and starts one when none runs (`autostart`): it is
/// detached from the caller and logs to `daemon.log` in the state directory. Errors:
/// `daemon.not-running`, `daemon.start` (with where its log is), `program.missing`.
[[nodiscard]] NIXBUILD_API UniqueFd reach_daemon(const std::string& state_dir,
                                                 const std::string& config_file,
                                                 bool autostart);
/// Hands over to the daemon (started when `autostart`) and waits for the end. Returns the exit
/// status.
[[nodiscard]] NIXBUILD_API int run_through_daemon(const std::string& state_dir,
                                                  const std::string& config_file,
                                                  bool autostart,
                                                  const Handoff& handoff);

} // namespace nixbuild::server
