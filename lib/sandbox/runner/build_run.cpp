#include "sandbox/runner/build_run.hpp"

#include <nixbuild/base/error.hpp>

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <utility>

namespace nixbuild::sandbox::runner {

namespace {

constexpr std::size_t kPiece = 64 * kKiB;
/// How far the log may run ahead of the daemon that reads it.
constexpr std::uint64_t kLogAhead = 1 * kMiB;
/// What may wait to be typed before the daemon is heard no more.
constexpr std::size_t kTypedAhead = 256 * kKiB;
constexpr std::chrono::seconds kPlanPatience{60};
constexpr std::chrono::seconds kDownPatience{5};
constexpr std::chrono::seconds kFarewellPatience{30};

/// One read of a socket that does not block; nothing when there is nothing.
std::optional<std::size_t> read_some(const UniqueFd& socket,
                                     std::array<std::uint8_t, kPiece>& buffer) {
  const auto got = ::recv(socket.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
  if (got >= 0) {
    return static_cast<std::size_t>(got);
  }
  if (errno == EAGAIN || errno == EINTR) {
    return std::nullopt;
  }
  return 0;
}

} // namespace

BuildRun::BuildRun(UniqueFd daemon, UniqueFd listener) : listener_(std::move(listener)) {
  client_.emplace(std::move(daemon));
  deadline_ = Clock::now() + kPlanPatience;
}

int BuildRun::run() {
  while (!done_) {
    try {
      turn();
    } catch (const Error& error) {
      fail(error.code(), error.message());
    } catch (const std::exception& error) {
      fail("sandbox.lost", error.what());
    }
  }
  machine_.reset();
  return status_;
}

/// One round: wait for something, move some bytes, tell the daemon.
void BuildRun::turn() {
  Watch watch;
  const auto listener = watch.add(listener_.get(), POLLIN);
  const bool hears = to_guest_.size() < kTypedAhead || !exited_;
  const auto client = watch.add(
      client_ ? client_->fd() : -1,
      static_cast<short>((hears ? POLLIN : 0) | (client_ && client_->has_output() ? POLLOUT : 0)));
  const bool talking = machine_ && !control_ended_ && !failure_;
  const auto control =
      watch.add(talking ? machine_->control.get() : -1,
                static_cast<short>(POLLIN | (talking && !to_guest_.empty() ? POLLOUT : 0)));
  const auto log = watch.add(machine_ && wants_log() ? machine_->log.get() : -1, POLLIN);
  const auto output = watch.add(machine_ && wants_output() ? machine_->output.get() : -1, POLLIN);
  const auto process = watch.add(machine_ ? machine_->process.pidfd() : -1, POLLIN);
  const auto* network = machine_ ? machine_->network() : nullptr;
  const auto passt = watch.add(network != nullptr ? network->passt_end() : -1, POLLIN);
  const auto filter = watch.add(network != nullptr ? network->filter_end() : -1, POLLIN);
  if (store_) {
    store_->watch(watch.entries);
  }
  if (::poll(watch.entries.data(), watch.entries.size(), wait_milliseconds()) < 0 &&
      errno != EINTR) {
    throw_system_error("sandbox.lost", "poll");
  }
  if (watch.ready(listener)) {
    accept_client();
  } else if (watch.ready(client) && client_) {
    serve_client();
  }
  // The log before control: what the guest has written stands before what it says about its end.
  if (watch.ready(log)) {
    read_log();
  }
  if (watch.ready(control)) {
    read_control();
  }
  if (watch.ready(output)) {
    read_output();
  }
  if (store_) {
    serve_store();
  }
  if (guest_ && !failure_) {
    take_guest_events();
  }
  if (watch.ready(process)) {
    process_ended();
  } else if (watch.ready(passt) || watch.ready(filter)) {
    network_ended();
  }
  check_deadlines();
  check_host();
  tell_client();
}

void BuildRun::accept_client() {
  UniqueFd socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!socket) {
    return;
  }
  // One daemon owns the state directory, so a new connection is the one that counts.
  relaying_ = false;
  wanted_output_.reset();
  client_.emplace(std::move(socket));
  if (machine_ && start_->cgroup_release) {
    machine_->limit(); // the daemon before may have left the group without controllers
  }
  alone_until_ = Clock::time_point::max();
}

/// The daemon is gone; another one may come, but not at any time.
void BuildRun::lose_client() {
  client_.reset();
  relaying_ = false;
  if (start_) {
    alone_until_ = Clock::now() + std::chrono::seconds(start_->alone_seconds);
    if (start_->cgroup_release) {
      release_controllers(start_->cgroup_parent);
    }
  }
}

void BuildRun::serve_client() {
  client_->read_more();
  client_->flush();
  try {
    while (client_) {
      auto message = client_->next();
      if (!message) {
        break;
      }
      handle(std::move(*message));
    }
  } catch (const Error& error) {
    if (machine_) {
      // A confused daemon is no reason to lose the build: another one may attach.
      lose_client();
      return;
    }
    throw;
  }
  if (client_ && client_->closed()) {
    lose_client();
    wanted_output_.reset();
    if (!start_ || !machine_ || failure_ || finishing_) {
      done_ = true; // nothing that another daemon could collect
    } else if (exited_) {
      wait_for_daemon();
    }
  }
}

void BuildRun::handle(Message message) {
  if (auto* start = std::get_if<Start>(&message)) {
    take_start(std::move(*start));
  } else if (const auto* extents = std::get_if<Extents>(&message)) {
    take_extents(*extents);
  } else if (const auto* attach = std::get_if<Attach>(&message)) {
    client_->attached = true;
    client_->log_told = attach->log_offset; // the log may not have come that far yet
    if (exited_ && !finishing_ && !failure_) {
      wait_for_daemon();
    }
  } else if (const auto* output = std::get_if<Output>(&message)) {
    wanted_output_ = output->index;
    relaying_ = false;
    request_output();
  } else if (auto* input = std::get_if<Input>(&message)) {
    if (guest_ && machine_ && !control_ended_) {
      guest_->type({std::move(input->bytes), input->rows, input->columns});
      write_control();
    }
  } else if (std::holds_alternative<Finish>(message)) {
    finishing_ = true;
    mark_phase("down");
    if (guest_ && machine_ && !control_ended_) {
      guest_->power_off();
      write_control();
      deadline_ = Clock::now() + kDownPatience;
    } else {
      conclude();
    }
  } else if (std::holds_alternative<Kill>(message)) {
    done_ = true;
  } else {
    throw Error(Reaction::Reject, "sandbox.runner-protocol", "a message of the wrong direction");
  }
}

void BuildRun::take_start(Start start) {
  if (start_ || start.version != kVersion) {
    throw Error(Reaction::Reject,
                "sandbox.runner-protocol",
                fmt::format("a second plan, or version {} instead of {}", start.version, kVersion));
  }
  kernel_ = client_->take_descriptor();
  initramfs_ = client_->take_descriptor();
  extents_left_ = start.extents;
  mapper_.emplace(start.extents, ".");
  start_ = std::move(start);
  mark_phase("compose");
}

void BuildRun::take_extents(const Extents& extents) {
  if (!mapper_ || extents.ranges.size() > extents_left_) {
    throw Error(Reaction::Reject, "sandbox.runner-protocol", "extents that were not announced");
  }
  for (const auto& range : extents.ranges) {
    mapper_->add({client_->take_descriptor(), range.offset, range.length});
    --extents_left_;
  }
  if (extents_left_ == 0) {
    launch();
  }
}

void BuildRun::launch() {
  mark_phase("spawn");
  auto job = decode_guest_job(std::exchange(start_->job, {}));
  if (job.network && job.resolv_conf.empty()) {
    job.resolv_conf = fmt::format("nameserver {}\n", kGuestNameServer);
  }
  guest_.emplace(job);
  if (start_->scratch_bytes != 0 && !start_->disk_maker.empty()) {
    scratch_.emplace(start_->disk_maker, start_->scratch_bytes);
  }
  machine_.emplace(*start_,
                   kernel_,
                   initramfs_,
                   mapper_->finish(),
                   MachineExtras{job.network, job.store_socket, scratch_ ? &*scratch_ : nullptr});
  mapper_.reset();
  kernel_.reset();
  initramfs_.reset();
  mark_phase("boot");
  extend_patience();
  Accepted accepted;
  accepted.runner_pid = static_cast<std::uint32_t>(::getpid());
  accepted.emulator_pid = static_cast<std::uint32_t>(machine_->process.pid());
  accepted.jail_walls = walls_of(machine_->process.report());
  accepted.jail_shortfall = machine_->process.report().shortfall;
  client_->queue(accepted);
  if (machine_->store) {
    store_.emplace(std::move(machine_->store), Channels::Side::Host);
    if (const auto channel = store_->open()) {
      hand_over(*channel);
    }
  }
}

/// Moves what the builder and a store say to each other. A port that is gone, or on which the guest
/// says what it may not, ends all of it; the build goes on.
void BuildRun::serve_store() {
  bool alive = false;
  try {
    alive = store_->move();
    while (const auto channel = store_->next_opened()) {
      hand_over(*channel);
    }
  } catch (const Error& error) {
    const auto line = fmt::format("{}: {}\n", error.code(), error.message());
    [[maybe_unused]] const auto put = ::write(STDERR_FILENO, line.data(), line.size());
    alive = false;
  }
  if (!alive) {
    store_.reset();
  }
}

/// Gives the daemon its end of a stream; without one there is no store to talk to.
void BuildRun::hand_over(unsigned channel) {
  if (!client_ || client_->leaving() >= Channels::kMost) {
    store_->refuse(channel);
    return;
  }
  auto [here, there] = socket_pair();
  store_->join(channel, std::move(here));
  client_->queue(Conversation{channel}, std::move(there));
}

void BuildRun::read_control() {
  write_control();
  std::array<std::uint8_t, kPiece> buffer;
  const auto got = read_some(machine_->control, buffer);
  if (!got) {
    return;
  }
  if (*got == 0) {
    control_ended_ = true;
    return;
  }
  guest_->feed_control(ByteView(buffer).first(*got));
}

void BuildRun::read_log() {
  std::array<std::uint8_t, kPiece> buffer;
  const auto got = read_some(machine_->log, buffer);
  if (!got) {
    return;
  }
  if (*got == 0) {
    log_ended_ = true;
    return;
  }
  if (log_.size() + *got > start_->log_limit_bytes) {
    throw Error(Reaction::Reject,
                "sandbox.log-limit",
                fmt::format("the log exceeds {} bytes", start_->log_limit_bytes));
  }
  guest_->feed_log(*got);
  log_.append(ByteView(buffer).first(*got));
  log_in_line_ = buffer.at(*got - 1) != '\n';
}

/// The builder goes on without a network, and whoever reads its log is told why it fails.
void BuildRun::network_ended() {
  const auto ended = machine_->network()->what_ended();
  if (ended.empty() || exited_ || finishing_ || failure_) {
    return; // nobody needs it any more
  }
  const auto line = fmt::format(
      "{}[nixbuild] the network of this machine is gone: {}\n", log_in_line_ ? "\n" : "", ended);
  log_.append(bytes_of(line));
  log_in_line_ = false;
}

void BuildRun::read_output() {
  std::array<std::uint8_t, kPiece> buffer;
  const auto got = read_some(machine_->output, buffer);
  if (!got || *got == 0) {
    return;
  }
  extend_patience();
  std::string contents;
  StringSink sink(contents);
  guest_->feed_output(ByteView(buffer).first(*got), sink);
  if (relaying_ && !contents.empty()) {
    client_->queue(OutputData{std::move(contents)});
  }
}

/// Writes what the control port takes now.
void BuildRun::write_control() {
  to_guest_ += guest_->take_control();
  while (!to_guest_.empty()) {
    const auto sent = ::send(
        machine_->control.get(), to_guest_.data(), to_guest_.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent <= 0) {
      return; // full, or the machine is gone, which its process tells
    }
    to_guest_.erase(0, static_cast<std::size_t>(sent));
  }
}

void BuildRun::take_guest_events() {
  while (auto event = guest_->next_event()) {
    if (std::holds_alternative<GuestHello>(*event)) {
      mark_phase("mount");
      extend_patience();
    } else if (std::holds_alternative<GuestStarted>(*event)) {
      mark_phase("build");
      builder_began_ = true;
      measured_ = machine_ ? machine_->measure() : Measured{};
      deadline_ = Clock::time_point::max();
    } else if (const auto* exited = std::get_if<GuestExited>(&*event)) {
      guest_exited(exited->exit);
    } else if (const auto* end = std::get_if<GuestOutputEnd>(&*event)) {
      output_ended(*end);
    } else if (const auto* failure = std::get_if<GuestFailure>(&*event)) {
      // Before the builder there is only what every machine does.
      throw Error(Reaction::Internal,
                  builder_began_ ? "sandbox.lost" : "sandbox.host",
                  fmt::format("the guest gave up: {}", failure->text));
    }
  }
  if (machine_) {
    write_control();
  }
}

void BuildRun::guest_exited(const GuestExit& exit) {
  exited_ = true;
  // A guest cannot be believed what it took; a machine that is gone took at least nothing.
  const auto now = machine_ ? machine_->measure() : Measured{};
  measured_.cpu_user_us = now.cpu_user_us - std::min(now.cpu_user_us, measured_.cpu_user_us);
  measured_.cpu_system_us =
      now.cpu_system_us - std::min(now.cpu_system_us, measured_.cpu_system_us);
  exit_ = encode_guest_exit(exit);
  wait_for_daemon();
  mark_phase("outputs");
}

void BuildRun::output_ended(const GuestOutputEnd& end) {
  wait_for_daemon();
  if (std::exchange(relaying_, false)) {
    client_->queue(end.error.empty() ? Message(OutputEnd{}) : Message(OutputFailed{end.error}));
  }
  request_output();
}

/// Asks the guest for the output that the daemon wants, once an earlier one has come to its end.
void BuildRun::request_output() {
  if (!wanted_output_ || !client_ || guest_->receiving_output()) {
    return;
  }
  if (!exited_ || finishing_ || control_ended_) {
    client_->queue(OutputFailed{"the machine gives no outputs now"});
    wanted_output_.reset();
    return;
  }
  guest_->send_output(*std::exchange(wanted_output_, std::nullopt));
  write_control();
  relaying_ = true;
  extend_patience();
}

void BuildRun::process_ended() {
  const auto usage = machine_->process.reap();
  down_ = Down{usage.peak_rss_bytes, usage.cpu_user_us, usage.cpu_system_us};
  // What the guest wrote before its end is still in the sockets.
  while (!log_ended_ && wants_log()) {
    read_log();
  }
  while (!control_ended_ && !failure_ && !finishing_) {
    read_control();
    take_guest_events();
  }
  control_ended_ = true;
  if (finishing_) {
    conclude();
  } else if (!failure_) {
    const auto fate = machine_->fate();
    const auto words = fate.empty() ? Machine::last_words() : fate;
    // One that ends by itself before it runs a builder has met what the next one would meet here.
    const bool by_itself = WIFEXITED(usage.wait_status) && !builder_began_ && !exited_;
    fail(by_itself ? "sandbox.host" : "sandbox.lost",
         fmt::format("the machine went down before {}{}{}",
                     by_itself ? "its builder could run" : "the build was collected",
                     words.empty() ? "" : ": ",
                     words));
  }
  machine_.reset();
}

/// The daemon has what it wanted: last word, and out.
void BuildRun::conclude() {
  if (machine_ && machine_->process.pid() > 0) {
    machine_->process.kill();
    const auto usage = machine_->process.reap();
    down_ = Down{usage.peak_rss_bytes, usage.cpu_user_us, usage.cpu_system_us};
  }
  machine_.reset();
  if (client_) {
    tell_client();
    client_->queue(down_.value_or(Down{}));
    client_->flush();
  }
  done_ = true;
}

void BuildRun::mark_phase(const char* name) {
  const auto since =
      std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - began_).count();
  phases_.push_back({{name, static_cast<std::uint64_t>(since)}, log_.size()});
}

/// Brings the daemon up to date, as far as its queue has room.
void BuildRun::tell_client() {
  if (!client_) {
    return;
  }
  auto& client = *client_;
  while (client.attached && client.has_room()) {
    const bool phase_waits = client.phases_told < phases_.size();
    const auto until = phase_waits ? phases_[client.phases_told].log_offset : log_.size();
    if (client.log_told < until) {
      const auto piece =
          log_.read(client.log_told, std::min<std::uint64_t>(kPiece, until - client.log_told));
      client.queue(LogData{client.log_told, piece});
      client.log_told += piece.size();
    } else if (phase_waits) {
      client.queue(phases_[client.phases_told++].phase);
    } else if (exited_ && !client.exit_told) {
      client.queue(measured_);
      client.queue(Exited{exit_});
      client.exit_told = true;
    } else if (failure_ && !client.failure_told) {
      client.queue(*failure_);
      client.failure_told = true;
    } else {
      break;
    }
  }
  // Before it has attached, it is told only why there is nothing to attach to.
  if (failure_ && !client.attached && !client.failure_told) {
    client.queue(*failure_);
    client.failure_told = true;
  }
  client.flush();
}

void BuildRun::fail(std::string code, std::string message) {
  if (failure_) {
    return;
  }
  failure_ = Failed{std::move(code), message.substr(0, 4096)};
  status_ = 1;
  const auto line = fmt::format("{}: {}\n", failure_->code, failure_->message);
  [[maybe_unused]] const auto put = ::write(STDERR_FILENO, line.data(), line.size());
  if (machine_ && machine_->process.pid() > 0) {
    machine_->process.kill();
  }
  const auto grace = start_ ? std::chrono::seconds(start_->grace_seconds) : kFarewellPatience;
  deadline_ = Clock::now() + (client_ ? std::chrono::seconds(kFarewellPatience) : grace);
}

bool BuildRun::wants_log() const {
  if (log_ended_ || failure_) {
    return false;
  }
  return !client_ || !client_->attached || log_.size() < client_->log_told + kLogAhead;
}

bool BuildRun::wants_output() const {
  if (!guest_ || !guest_->receiving_output() || failure_ || control_ended_) {
    return false;
  }
  return !relaying_ || client_->has_room();
}

} // namespace nixbuild::sandbox::runner
