#pragma once

#include "payload.hpp"

#include <nixbuild/base/descriptor.hpp>
#include <nixbuild/protocol/serve.hpp>

#include <sys/types.h>

#include <filesystem>
#include <string>
#include <vector>

/// Servers of the serve protocol as processes: private stores, sessions over pipes, what they cost.
namespace nixbuild::perf {

enum class ServerKind { Nixbuild, Nix };

struct ServerCommand {
  std::string name; ///< heads its columns
  ServerKind kind = ServerKind::Nixbuild;
  std::string program; ///< `nixbuild-serve` or `nix-store`, found by PATH
};

/// One server's own store below one directory. Both kinds say `/nix/store` to clients.
class ServerStore {
public:
  ServerStore(ServerCommand command, std::filesystem::path directory);
  /// Stops the daemon and removes everything.
  ~ServerStore();
  ServerStore(const ServerStore&) = delete;
  ServerStore& operator=(const ServerStore&) = delete;

  [[nodiscard]] const ServerCommand& command() const noexcept { return command_; }

  [[nodiscard]] std::vector<std::string> words() const;
  [[nodiscard]] std::vector<std::string> environment() const;

  [[nodiscard]] std::string error_file() const { return directory_ / "stderr"; }

  /// The process that listens on the store's socket, 0 where there is none.
  [[nodiscard]] pid_t daemon() const;
  void stop_daemon() const;
  /// Writes out what the store's file system holds back, so that one run does not pay for another.
  void settle() const;

private:
  ServerCommand command_;
  std::filesystem::path directory_;
};

/// What the server's processes have used.
struct Cost {
  double cpu_seconds = 0;
  double peak_mib = 0;
};

/// One client session. Every failure is an Error that carries what the server said.
class Session {
public:
  /// Starts the server and waits for its greeting.
  explicit Session(const ServerStore& store);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  /// Sends; while the server does not take bytes, its replies are gathered, so that sending ahead
  /// never blocks both sides.
  void send(const protocol::serve::Request& request);
  void send(ByteView bytes);
  void send_nar(const Payload& payload);

  [[nodiscard]] model::StorePaths paths();
  [[nodiscard]] std::uint64_t number();
  /// Reads a whole QueryPathInfos reply; gives how many there were.
  [[nodiscard]] std::size_t path_infos();
  /// Takes `size` raw bytes; hashes them where a hasher is given.
  void take_raw(std::uint64_t size, Hasher* hasher = nullptr);

  /// Cpu and peak memory count from here.
  void start_counting();
  /// Cpu of the session's process and of the daemon behind it since `start_counting`, and the
  /// larger peak memory of both.
  [[nodiscard]] Cost cost() const;
  /// Ends the session and waits for the server's process; gives that process's own cpu seconds.
  double close();

private:
  void fill();
  [[noreturn]] void fail(const std::string& what) const;
  template <class Read>
  auto wait(Read read);

  const ServerStore& store_;
  model::StoreDir dir_;
  protocol::serve::ReplyReader reader_;
  protocol::Version version_ = protocol::serve::kServerVersion;
  Bytes buffer_;
  UniqueFd to_;
  UniqueFd from_;
  pid_t child_ = 0;
  pid_t daemon_ = 0;
  double cpu_before_ = 0;
};

/// Cpu seconds of all threads of a process, ended ones included; 0 when it is gone.
[[nodiscard]] double cpu_seconds_of(pid_t pid);

} // namespace nixbuild::perf
