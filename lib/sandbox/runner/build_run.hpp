#pragma once

#include "sandbox/channel_sockets.hpp"
#include "sandbox/runner/client.hpp"
#include "sandbox/runner/log_spool.hpp"
#include "sandbox/runner/machine.hpp"
#include "sandbox/runner/scratch_disk.hpp"

#include <nixbuild/base/descriptor.hpp>
#include <nixbuild/sandbox/guest_protocol.hpp>
#include <nixbuild/sandbox/runner_protocol.hpp>
#include <nixbuild/sandbox/vmdk.hpp>

#include <poll.h>

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace nixbuild::sandbox::runner {

/// One build from its plan to its end: a loop around poll that moves bytes between the guest, the
/// log file and at most one daemon, and never holds more than a few hundred KiB of them.
class BuildRun {
public:
  BuildRun(UniqueFd daemon, UniqueFd listener);

  /// Until the end. Returns the exit status.
  int run();

private:
  using Clock = std::chrono::steady_clock;

  struct PhaseMark {
    Phase phase;
    std::uint64_t log_offset = 0; ///< how much of the log came before it
  };

  /// What poll is asked about and how it answered, by role.
  struct Watch {
    std::vector<pollfd> entries;

    std::size_t add(int fd, short events) {
      entries.push_back({fd, events, 0});
      return entries.size() - 1;
    }

    [[nodiscard]] bool ready(std::size_t index) const { return entries[index].revents != 0; }
  };

  void turn();
  void accept_client();
  void serve_client();
  void handle(Message message);
  void take_start(Start start);
  void take_extents(const Extents& extents);
  void launch();

  void write_control();
  void read_control();
  void read_log();
  void read_output();
  void serve_store();
  void network_ended();
  void hand_over(unsigned channel);
  void take_guest_events();
  void guest_exited(const GuestExit& exit);
  void output_ended(const GuestOutputEnd& end);
  void process_ended();
  void conclude();

  void mark_phase(const char* name);
  void tell_client();
  void fail(std::string code, std::string message);
  void extend_patience();
  void wait_for_daemon();
  void lose_client();
  void check_deadlines();
  void check_host();
  [[nodiscard]] int wait_milliseconds() const;
  [[nodiscard]] bool wants_log() const;
  [[nodiscard]] bool wants_output() const;
  void request_output();

  Clock::time_point began_ = Clock::now();
  UniqueFd listener_;
  std::optional<Client> client_;

  std::optional<Start> start_;
  UniqueFd kernel_;
  UniqueFd initramfs_;
  std::optional<DiskMapper> mapper_;
  std::uint32_t extents_left_ = 0;

  LogSpool log_{"log"};
  std::vector<PhaseMark> phases_;
  std::optional<ScratchDisk> scratch_;
  std::optional<Machine> machine_;
  std::optional<GuestSession> guest_;
  std::optional<ChannelSockets> store_; ///< of a machine with a store socket
  std::string to_guest_;                ///< control bytes that have not been written yet
  std::optional<Failed> failure_;
  std::optional<Down> down_;
  Measured measured_; ///< at the builder's start; from its end on, what it took

  bool log_in_line_ = false; ///< its last line has no end yet
  bool log_ended_ = false;
  bool control_ended_ = false;
  bool builder_began_ = false;
  bool exited_ = false;
  std::string exit_;
  std::optional<std::uint32_t> wanted_output_;
  bool relaying_ = false; ///< an output is on its way and this client wants it
  bool finishing_ = false;
  bool done_ = false;
  int status_ = 0;
  Clock::time_point deadline_ = Clock::time_point::max();
  Clock::time_point host_checked_{}; ///< for the room that the scratch disk needs
  Clock::time_point alone_until_ = Clock::time_point::max(); ///< set while there is no daemon
};

} // namespace nixbuild::sandbox::runner
