#pragma once

#include <nixbuild/base/api.hpp>

#include <exception>
#include <string>
#include <string_view>

namespace nixbuild {

/// What the one who meets an error can do about it. Everything outside the process (wire status,
/// HTTP status, exit code) is derived from the reaction, never from the code or the message.
enum class Reaction {
  Reject,       ///< The input is wrong and will be wrong again.
  NotFound,     ///< The named object does not exist.
  Denied,       ///< The caller may not do this.
  Busy,         ///< No capacity now; the same request may succeed later.
  Disconnected, ///< The other side went away.
  Timeout,      ///< A deadline passed.
  Cancelled,    ///< Somebody asked for the work to stop.
  Unsupported,  ///< A well-formed request for something that is not offered.
  Corrupt,      ///< Our own durable state does not hold together.
  Internal,     ///< A fault of this program or its host.
};

/// The one exception class of the library.
///
/// `code` is stable and dotted (`nar.unsorted-entry`); programs may test it. `message` names the
/// object and, where a limit was broken, the limit. Context frames are added once per room boundary
/// and printed before the message, outermost first.
class NIXBUILD_API Error : public std::exception {
public:
  Error(Reaction reaction, std::string_view code, std::string message);

  [[nodiscard]] Reaction reaction() const noexcept { return reaction_; }

  [[nodiscard]] const std::string& code() const noexcept { return code_; }

  [[nodiscard]] const std::string& message() const noexcept { return message_; }

  /// Context frames joined with ": " and then the message. Valid as long as the object lives.
  [[nodiscard]] const char* what() const noexcept override { return what_.c_str(); }

  /// Puts `frame` before what has been said so far ("importing /nix/store/…").
  Error& add_context(std::string_view frame);

private:
  Reaction reaction_;
  std::string code_;
  std::string message_;
  std::string what_;
};

/// Exit status of a command that ended with this reaction: 1 failed as asked, 3 refused,
/// 4 not found, 5 busy or timed out, 70 internal. (2, usage, is the command line's own.)
[[nodiscard]] NIXBUILD_API int exit_code_of(Reaction reaction) noexcept;

/// Lower-case name of a reaction, for logs and JSON ("not-found").
[[nodiscard]] NIXBUILD_API std::string_view name_of(Reaction reaction) noexcept;

/// Throws an Error for the current `errno` (or `error_number` where given): code `code`, message
/// "`what`: strerror". ENOSPC, EDQUOT and EMFILE become Busy, ENOENT NotFound, EACCES and EPERM
/// Denied, EPIPE and ECONNRESET Disconnected, everything else Internal.
[[noreturn]] NIXBUILD_API void
throw_system_error(std::string_view code, std::string_view what, int error_number = 0);

} // namespace nixbuild
