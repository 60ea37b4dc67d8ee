#include "admin_call.hpp"

#include <nixbuild/aio/event.hpp>
#include <nixbuild/base/error.hpp>
#include <nixbuild/build/kept_machines.hpp>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <fmt/format.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <utility>

/// `nixbuild shell ID`: the caller's terminal and the one in the machine.
namespace nixbuild::server {

namespace asio = boost::asio;

namespace {

constexpr std::chrono::hours kSilentTypist{4};
constexpr std::chrono::seconds kSlowScreen{60};
/// Whatever still runs when no more input comes may take so long.
constexpr std::chrono::hours kAfterInput{1};
constexpr std::chrono::seconds kFarewell{10};
constexpr std::chrono::seconds kEndAgain{1};
/// What ends a shell that reads from a terminal.
constexpr std::string_view kEndOfInput = "\x04";

/// The caller's terminal passes bytes as they are: the one in the machine echoes and edits. One
/// that is no terminal stays as it is.
class RawTerminal {
public:
  explicit RawTerminal(int fd) : fd_(fd), is_one_(::tcgetattr(fd, &before_) == 0) {
    if (is_one_) {
      termios raw = before_;
      ::cfmakeraw(&raw);
      ::tcsetattr(fd_, TCSANOW, &raw);
    }
  }

  ~RawTerminal() {
    if (is_one_) {
      ::tcsetattr(fd_, TCSANOW, &before_);
    }
  }

  RawTerminal(const RawTerminal&) = delete;
  RawTerminal& operator=(const RawTerminal&) = delete;

private:
  int fd_;
  termios before_{};
  bool is_one_;
};

/// Shared by the two directions, both on the session's strand.
struct Visitor {
  Visitor(build::KeptMachines::Visit of, std::shared_ptr<aio::ByteStream> from, const Clock& time)
      : visit(std::move(of)), in(std::move(from)), clock(time) {}

  build::KeptMachines::Visit visit;
  std::shared_ptr<aio::ByteStream> in;
  const Clock& clock;
  bool typing = true;
  bool over = false; ///< nobody types any more
  bool shell_ended = false;
  bool left = false; ///< both directions have ended
  aio::Event changed;

  /// With the caller's size, which may have changed. Of a caller without one, nothing is no news.
  aio::Task<void> type(std::string bytes) {
    winsize size{};
    const bool known = ::ioctl(in->native(), TIOCGWINSZ, &size) == 0;
    const std::uint32_t rows = known ? size.ws_row : 0;
    const std::uint32_t columns = known ? size.ws_col : 0;
    if (!bytes.empty() || (rows != 0 && columns != 0)) {
      co_await visit.execution().type_in(std::move(bytes), rows, columns);
    }
  }
};

aio::Task<void> pass_typed(std::shared_ptr<Visitor> visitor) {
  std::array<std::uint8_t, 4096> buffer{};
  std::string nothing;
  try {
    co_await visitor->type(std::move(nothing));
    while (const auto count = co_await visitor->in->read_some(buffer, kSilentTypist)) {
      std::string bytes(text_of(ByteView(buffer).first(count)));
      co_await visitor->type(std::move(bytes));
    }
    // Again and again: what is typed while a shell changes its terminal's mode may be lost.
    const auto until = visitor->clock.monotonic() + kAfterInput;
    while (!visitor->over && visitor->clock.monotonic() < until) {
      const auto seen = visitor->changed.count();
      std::string end(kEndOfInput);
      co_await visitor->type(std::move(end));
      co_await visitor->changed.wait(seen, kEndAgain);
    }
  } catch (const std::exception&) {
    // The caller is silent or gone, or the machine is.
  }
  if (!visitor->over) {
    try {
      std::string hang_up;
      co_await visitor->visit.execution().type_in(std::move(hang_up), 0, 0);
    } catch (const std::exception&) {
      // The other direction hears of it.
    }
  }
  visitor->typing = false;
  visitor->changed.notify();
}

/// What the shell writes, until it ends.
aio::Task<void> pass_written(AdminCall& call, std::shared_ptr<Visitor> visitor) {
  Bytes buffer(64 * kKiB);
  for (;;) {
    const auto count = co_await visitor->visit.execution().read_output(buffer);
    if (count == 0) {
      visitor->shell_ended = true;
      co_return;
    }
    co_await call.out->write_all(ByteView(buffer).first(count), kSlowScreen);
  }
}

/// Brings both directions to their end, within a time: a shell that is still there is hung up, so
/// that the next visitor finds the machine free, and a machine that does not answer is closed.
aio::Task<void> leave(std::shared_ptr<Visitor> visitor) {
  // The machine is given back in good order also when the session itself is told to end.
  co_await asio::this_coro::reset_cancellation_state(asio::disable_cancellation());
  visitor->over = true;
  visitor->changed.notify();
  visitor->in->cancel();
  asio::steady_timer patience(co_await asio::this_coro::executor, kFarewell);
  patience.async_wait([visitor](boost::system::error_code error) {
    if (!error && !visitor->left) {
      visitor->visit.execution().cancel();
    }
  });
  try {
    while (visitor->typing) {
      const auto seen = visitor->changed.count();
      if (visitor->typing) {
        co_await visitor->changed.wait(seen);
      }
    }
    if (!visitor->shell_ended) {
      std::string hang_up;
      co_await visitor->visit.execution().type_in(std::move(hang_up), 0, 0);
      Bytes buffer(64 * kKiB);
      while (co_await visitor->visit.execution().read_output(buffer) != 0) {
      }
      visitor->shell_ended = true;
    }
  } catch (const std::exception&) {
    // It stays as it is: not ended.
  }
  visitor->left = true;
  patience.cancel();
  if (!visitor->shell_ended) {
    visitor->visit.close();
  }
}

} // namespace

aio::Task<int> enter_machine(AdminCall& call) {
  auto find = [&call] {
    return build_of_argument(call);
  };
  const auto record = co_await call.parts.pool.run(std::move(find));
  if (call.parts.kept == nullptr) {
    throw Error(Reaction::NotFound, "kept.none", "this server keeps no machines");
  }
  auto visitor = std::make_shared<Visitor>(
      call.parts.kept->visit(call.account, record.id), call.in, call.parts.clock);
  const RawTerminal raw(call.in->native());
  try {
    co_await visitor->visit.execution().open_terminal();
  } catch (const std::exception&) {
    visitor->visit.close();
    throw;
  }
  auto typing = pass_typed(visitor);
  asio::co_spawn(co_await asio::this_coro::executor, std::move(typing), asio::detached);
  std::exception_ptr failure;
  try {
    co_await pass_written(call, visitor);
  } catch (...) {
    failure = std::current_exception();
  }
  co_await leave(visitor);
  if (failure) {
    std::rethrow_exception(failure);
  }
  co_return 0;
}

} // namespace nixbuild::server
