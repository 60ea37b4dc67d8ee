#pragma once

#include <nixbuild/base/descriptor.hpp>
#include <nixbuild/sandbox/channels.hpp>

#include <poll.h>

#include <array>
#include <optional>
#include <vector>

namespace nixbuild::sandbox {

/// Joins the channels of a port with sockets, one each, inside somebody's loop around poll. Never
/// blocks. Who does not read is not read for: memory stays within the channels' windows. The
/// process ignores SIGPIPE.
class ChannelSockets {
public:
  /// `port` does not block.
  ChannelSockets(UniqueFd port, Channels::Side side);

  /// Gives an open channel its socket, which is switched to non-blocking.
  void join(unsigned channel, UniqueFd socket);

  /// Ends a channel that nobody here wants.
  void refuse(unsigned channel) { channels_.end(channel); }

  [[nodiscard]] std::optional<unsigned> open() { return channels_.open(); }

  [[nodiscard]] std::optional<unsigned> next_opened() { return channels_.next_opened(); }

  /// Adds what poll is to wait for.
  void watch(std::vector<pollfd>& entries) const;
  /// Moves what can be moved now. False: the port is gone, and every socket with it. Errors:
  /// `sandbox.channels`.
  [[nodiscard]] bool move();

private:
  [[nodiscard]] bool read_port();
  [[nodiscard]] bool write_port();
  void read_socket(unsigned channel);
  void write_socket(unsigned channel);

  UniqueFd port_;
  Channels channels_;
  std::array<UniqueFd, Channels::kMost> sockets_;
};

/// Two connected sockets, neither of which is inherited. Error `sandbox.spawn`.
[[nodiscard]] std::array<UniqueFd, 2> socket_pair();

} // namespace nixbuild::sandbox
