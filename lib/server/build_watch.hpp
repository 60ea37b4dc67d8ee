#pragma once

#include <nixbuild/aio/byte_stream.hpp>
#include <nixbuild/aio/task.hpp>
#include <nixbuild/build/shared_builds.hpp>
#include <nixbuild/server/serve_session.hpp>

#include <boost/asio/any_io_executor.hpp>

#include <memory>
#include <string>

namespace nixbuild::server {

/// Notices when the client leaves while builds run for it. Lives on the session's strand; ends its
/// watching when destroyed.
class HangUpWatch {
public:
  /// `muted` is cancelled when the client leaves, so that nobody waits for it to read any more.
  HangUpWatch(boost::asio::any_io_executor strand,
              std::shared_ptr<aio::ByteStream> in,
              std::shared_ptr<aio::ByteStream> muted);
  ~HangUpWatch();
  HangUpWatch(const HangUpWatch&) = delete;
  HangUpWatch& operator=(const HangUpWatch&) = delete;

  [[nodiscard]] bool gone() const noexcept;

private:
  struct State;
  std::shared_ptr<State> state_;
};

/// Where the log of one build goes.
class LogListener {
public:
  virtual ~LogListener() = default;
  /// The next bytes of the log. May wait for a slow client: the build does not wait for it.
  virtual aio::Task<void> take_log(std::string bytes) = 0;
};

/// Who waits for a build. All of it outlives the waiting.
struct BuildAsker {
  const SessionCaller& caller;
  store::Lease& lease;
  const HangUpWatch& client;
  const bool& stop;
  /// Its session has been told that builders run under emulation (LogHead).
  std::shared_ptr<bool> emulation_told;
};

/// Follows a build to its end: hands its log to `listener` from the first line on and returns its
/// result, whose outputs the asker's lease has. Errors: `session.client-gone` soon after the client
/// has left, `session.stopped` soon after `stop` has become true, and what the build threw. The
/// attachment is given back either way.
aio::Task<model::BuildResult> follow_build(const SessionParts& parts,
                                           const BuildAsker& asker,
                                           build::Attachment attachment,
                                           LogListener& listener);

/// The session is at its end: what it was sent of its builds goes into their records. A failure is
/// logged and no more.
aio::Task<void> note_sent(const SessionParts& parts, const SessionCaller& caller);

} // namespace nixbuild::server
