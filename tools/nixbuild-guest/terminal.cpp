#include "terminal.hpp"

#include "builder.hpp"
#include "files.hpp"
#include "frame_sink.hpp"
#include "machine.hpp"

#include <nixbuild/base/error.hpp>

#include <poll.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <string_view>

namespace nixbuild::guest {

namespace {

/// What is typed ahead of a program that does not read; more is dropped, as terminals do.
constexpr std::size_t kTypedAhead = 256 * kKiB;
/// Output is passed on in portions, so that a flood of it does not keep Ctrl-C away.
constexpr int kPiecesAtOnce = 16;
constexpr std::array<std::string_view, 6> kShells{"ash", "bash", "dash", "ksh", "sh", "zsh"};

/// The job as the builder had it, with a shell that reads from its terminal.
sandbox::GuestJob shell_job(const sandbox::GuestJob& job) {
  auto shell = job;
  const auto name = std::string_view(job.builder).substr(job.builder.find_last_of('/') + 1);
  if (std::find(kShells.begin(), kShells.end(), name) == kShells.end()) {
    shell.builder = "/bin/sh";
  }
  shell.arguments.clear();
  const auto has = [&](std::string_view variable) {
    return std::any_of(shell.environment.begin(), shell.environment.end(), [&](const auto& pair) {
      return pair.first == variable;
    });
  };
  if (!has("TERM")) {
    shell.environment.emplace_back("TERM", "xterm");
  }
  return shell;
}

class Typing {
public:
  explicit Typing(int terminal) : terminal_(terminal) {}

  [[nodiscard]] bool waits() const noexcept { return !waiting_.empty(); }

  [[nodiscard]] bool hung_up() const noexcept { return hung_up_; }

  void take(const sandbox::guest::Input& input) {
    hung_up_ = input == sandbox::guest::Input();
    if (input.rows != 0 && input.columns != 0) {
      winsize size{};
      size.ws_row = static_cast<unsigned short>(std::min(input.rows, 0xffffU));
      size.ws_col = static_cast<unsigned short>(std::min(input.columns, 0xffffU));
      ::ioctl(terminal_, TIOCSWINSZ, &size);
    }
    if (waiting_.size() + input.bytes.size() <= kTypedAhead) {
      waiting_ += input.bytes;
    }
    write();
  }

  /// What the terminal takes now.
  void write() {
    while (!waiting_.empty()) {
      const auto put = ::write(terminal_, waiting_.data(), waiting_.size());
      if (put > 0) {
        waiting_.erase(0, static_cast<std::size_t>(put));
      } else if (put < 0 && errno == EINTR) {
        continue;
      } else {
        if (put < 0 && errno != EAGAIN) {
          waiting_.clear(); // nobody reads it any more
        }
        return;
      }
    }
  }

private:
  int terminal_;
  std::string waiting_;
  bool hung_up_ = false;
};

void hear(HostLink& host, Typing& typing) {
  while (const auto message = host.poll()) {
    if (std::holds_alternative<sandbox::guest::PowerOff>(*message)) {
      power_off();
    }
    const auto* input = std::get_if<sandbox::guest::Input>(&*message);
    if (input == nullptr) {
      throw Error(Reaction::Internal, "guest.host", "the host asked for something beside a shell");
    }
    typing.take(*input);
  }
}

/// False when nobody has the terminal open any more.
bool move_output(int terminal, FrameSink& frames) {
  std::array<std::uint8_t, 4096> piece;
  bool open = true;
  for (int pieces = 0; pieces < kPiecesAtOnce; ++pieces) {
    const auto got = ::read(terminal, piece.data(), piece.size());
    if (got > 0) {
      frames.write(ByteView(piece.data(), static_cast<std::size_t>(got)));
    } else if (got == 0 || errno != EINTR) {
      open = got < 0 && errno == EAGAIN;
      break;
    }
  }
  frames.flush();
  return open;
}

void run(const Builder& shell, FrameSink& frames, HostLink& host) {
  const int terminal = shell.terminal.get();
  Typing typing(terminal);
  for (;;) {
    hear(host, typing);
    if (typing.hung_up()) {
      return;
    }
    pollfd entries[] = {{terminal, static_cast<short>(POLLIN | (typing.waits() ? POLLOUT : 0)), 0},
                        {host.fd(), POLLIN, 0}};
    if (::poll(entries, 2, -1) < 0 && errno != EINTR) {
      throw_system_error(kCode, "poll");
    }
    typing.write();
    if ((entries[0].revents & (POLLIN | POLLHUP)) != 0 && !move_output(terminal, frames)) {
      return;
    }
  }
}

} // namespace

void serve_terminal(const sandbox::GuestJob& job,
                    const std::string& root,
                    int initramfs,
                    std::uint32_t index,
                    int port,
                    HostLink& host) {
  FrameSink frames(port);
  sandbox::guest::OutputEnd end;
  end.index = index;
  auto shell = start_builder(shell_job(job), root, initramfs, Input::Terminal);
  if (shell.failure.empty()) {
    run(shell, frames, host);
    ::kill(shell.pid, SIGKILL);
    system_call(kCode, "waiting for the shell", [&] { return ::waitpid(shell.pid, nullptr, 0); });
  } else {
    end.error = shell.failure.substr(0, sandbox::guest::kMaxText);
  }
  frames.finish();
  host.send(end);
}

} // namespace nixbuild::guest
